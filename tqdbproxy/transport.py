"""uvloop's transports under Twisted's protocols: the only module that knows asyncio.

Twisted's own TCP transports ask the reactor for writability on every write. The transports of a uvloop loop try to
send at once and cost about half the CPU (``docs/decisions/transports.rst``). `Wire` is the adapter: asyncio calls it
as a protocol, a Twisted protocol uses it as its transport. The law of this module: bytes and flow control, no meaning.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Coroutine
from contextvars import Context
from math import ceil, isfinite
from typing import Any, TypeVarTuple, cast

import uvloop
from twisted.internet import asyncioreactor, error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from tqdbproxy.addresses import ListenAddress, TcpAddress, UnixAddress
from tqdbproxy.endpoints import open_endpoint
from tqdbproxy.errors import ConfigError, ServerUnreachable, TlsFailed
from tqdbproxy.logs import logger
from tqdbproxy.sockets import BACKLOG, bind_tcp, bind_unix

log = logger(__name__)

Address = TcpAddress | UnixAddress
Arguments = TypeVarTuple("Arguments")

HIGH_WATER = 256 * 1024
"""Bytes queued for a slow reader before its peer's reading is paused."""

SHUTDOWN_TIMEOUT_S = 5.0
"""How long a TLS peer may take to read what is queued and to say goodbye, once we have closed."""

CREDENTIALS = struct.Struct("3i")
"""Linux' ``struct ucred``: process, user, group."""


TIMER_TOLERANCE_MS = 0.001
"""A sum of times is as inexact as floating-point numbers are; that alone is no reason to wait a millisecond longer."""


class Loop(uvloop.Loop):
    """uvloop's event loop, with timers that aren't early.

    uvloop rounds to the nearest millisecond. Woken too early, Twisted's reactor asks to be woken again after the rest,
    which is rounded to nothing: it would do little else until the time has come.
    """

    def call_at(
        self, when: float, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See `asyncio.loop.call_at`."""
        delay_s = when - self.time()
        if isfinite(delay_s):
            delay_s = ceil(delay_s * 1000 - TIMER_TOLERANCE_MS) / 1000
        return self.call_later(delay_s, callback, *args, context=context)


def install_reactor() -> None:
    """Install Twisted's asyncio reactor on a uvloop loop, unless a fitting reactor is installed already.

    Raises `ConfigError` if another kind of reactor was chosen (``twistd --reactor``).
    """
    installed = sys.modules.get("twisted.internet.reactor")
    if installed is None:
        loop = Loop()
        loop.set_exception_handler(_log_loop_error)
        asyncioreactor.install(loop)
        # Twisted's own is the wall clock, which somebody may put back: windows, ttl and timeouts would stand still.
        sys.modules["twisted.internet.reactor"].seconds = time.monotonic  # type: ignore[attr-defined]
    elif not isinstance(installed, asyncioreactor.AsyncioSelectorReactor):
        raise ConfigError(f"the reactor {type(installed).__name__} can't be used: start twistd without --reactor")


def _log_loop_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    problem = context.get("exception")
    if isinstance(problem, Exception):
        log.failure("in a connection's callback: {what}", Failure(problem), what=context.get("message", ""))
    else:
        log.error("event loop: {what}", what=context.get("message", ""))


@implementer(ITransport, IPushProducer, IConsumer)
class Wire(asyncio.Protocol):
    """One connection: an asyncio protocol below, a Twisted transport above.

    ``write`` and ``data_received`` are bound to the other side's methods, so that the hot path has no frame of ours.
    """

    __slots__ = (
        "__weakref__",
        "_descriptor",
        "_inner",
        "_lost",
        "_producer",
        "_tls",
        "data_received",
        "disconnecting",
        "protocol",
        "write",
    )

    write: Callable[[bytes], None]

    def __init__(self, protocol: Protocol) -> None:
        self.disconnecting = False
        self.protocol = protocol
        self.data_received = protocol.dataReceived  # type: ignore[method-assign]
        self._producer: IPushProducer | None = None
        self._inner: asyncio.Transport = cast(asyncio.Transport, None)
        self._tls: ssl.SSLObject | None = None
        self._lost = False
        self._descriptor = -1

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._use(cast(asyncio.Transport, transport))
        sock = transport.get_extra_info("socket")
        self._descriptor = sock.fileno() if sock is not None else -1
        if sock is not None and sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.protocol.makeConnection(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        if self._lost:
            return
        self._lost = True
        self._producer = None
        try:
            self._read_rest()
        finally:
            self.protocol.connectionLost(Failure(error.ConnectionLost(str(exc))) if exc else connectionDone)
            self._let_go()

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`. True: the other direction stays open (a half-closed socket)."""
        half_closed = getattr(self.protocol, "readConnectionLost", None)
        if half_closed is None or not self._inner.can_write_eof():
            return False
        half_closed()
        return True

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        if self._producer is not None:
            self._producer.pauseProducing()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        if self._producer is not None:
            self._producer.resumeProducing()

    # Twisted protocols call these

    def write_now(self, data: bytes) -> None:
        """Write what others wait for most: at once, not when all that this turn of the loop has read is dealt with."""
        inner = self._inner
        if self._tls is None and not inner.is_closing() and not inner.get_write_buffer_size():
            try:
                sent = os.write(self._descriptor, data)
            except OSError:  # whatever it is, the transport will meet it, too
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        self.write(data)

    def writeSequence(self, data: Any) -> None:
        """See `ITransport`."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close when everything written so far is sent."""
        self.disconnecting = True
        self._inner.close()

    def abortConnection(self) -> None:
        """Close now; what is queued is dropped."""
        self.disconnecting = True
        self._inner.abort()

    def loseWriteConnection(self) -> bool:
        """Send an end of file after what is queued, go on reading; False where the transport (TLS) can't."""
        if self._inner.is_closing():
            return True  # it is on its way; to write to it now raises if an end of file was sent before
        if not self._inner.can_write_eof():
            return False
        self._inner.write_eof()
        return True

    def getPeer(self) -> Any:
        """See `ITransport`: the other end's address as the socket module gives it."""
        return self._inner.get_extra_info("peername")

    def getHost(self) -> Any:
        """See `ITransport`: our end's address as the socket module gives it."""
        return self._inner.get_extra_info("sockname")

    def is_local(self) -> bool:
        """Whether the other end is on a Unix socket of this machine."""
        sock = self._inner.get_extra_info("socket")
        return sock is not None and sock.family == socket.AF_UNIX

    def peer_user(self) -> int | None:
        """The system's user at the other end of a Unix socket, as the kernel says; None where it doesn't."""
        sock = self._inner.get_extra_info("socket")
        if not (self.is_local() and hasattr(socket, "SO_PEERCRED")):
            return None
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        user: int = CREDENTIALS.unpack(credentials)[1]
        return user

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Whoever is registered is paused while more than `HIGH_WATER` bytes are queued here."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Read no further."""
        if not self._inner.is_closing():
            self._inner.pause_reading()

    def resumeProducing(self) -> None:
        """Read on."""
        if not self._inner.is_closing():
            self._inner.resume_reading()

    def stopProducing(self) -> None:
        """See `IPushProducer`."""
        self.loseConnection()

    def is_reading(self) -> bool:
        """Whether nobody has paused it."""
        return self._inner.is_reading()

    def queued(self) -> int:
        """Bytes written but not yet taken by the kernel."""
        return self._inner.get_write_buffer_size()

    def rebind(self) -> None:
        """The protocol's ``dataReceived`` is another function now: call that one from here on."""
        self.data_received = self.protocol.dataReceived  # type: ignore[method-assign]
        self._inner.set_protocol(self)

    def start_tls(
        self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str = "", received: bytes = b""
    ) -> Deferred[str]:
        """Wrap this connection in TLS from here on. Until that is done, what is written is dropped.

        :param received: what the peer has sent of its handshake already (direct TLS, where the first byte is read
            before it is known what it begins).
        :return: the ALPN protocol that was agreed on, or an empty text. Fails with `TlsFailed`; the connection is lost
            then.
        """
        # Both at once, not when the task runs: nothing in clear is read or said any more.
        self._inner.pause_reading()
        self.write = _say_nothing
        encrypted = _deferred(self._start_tls(context, server_side, server_hostname))
        # The task's first step asks for the TLS protocol to be connected in the iteration after it, and then for
        # reading. This is called right after these two: before the loop can have read what belongs behind `received`.
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self._give, received)
        return encrypted

    async def _start_tls(self, context: ssl.SSLContext, server_side: bool, server_hostname: str) -> str:
        loop = asyncio.get_running_loop()
        plain = self._inner
        try:
            if plain.is_closing():
                raise ConnectionResetError
            # Awaited here and not in a task of its own: uvloop delivers what it decrypts one call after it returns, and
            # by then the transport that can be paused must be in its place.
            made = await loop.start_tls(
                plain,
                self,
                context,
                server_side=server_side,
                server_hostname=server_hostname or None,
                ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            )
            secure = cast(asyncio.Transport, made)
            self._tls = secure.get_extra_info("ssl_object")
            if self._tls is None:  # closed during the handshake: uvloop says that as if all were well
                raise ConnectionResetError
        except (OSError, ValueError, RuntimeError, asyncio.CancelledError) as problem:
            failed = TlsFailed(_why(problem))
            plain.abort()
            # uvloop tells nobody of a connection that is lost during the handshake.
            loop.call_soon(self.connection_lost, failed)
            raise failed from problem
        self._use(secure)
        return self._tls.selected_alpn_protocol() or ""

    def _use(self, transport: asyncio.Transport) -> None:
        self._inner = transport
        self.write = transport.write
        transport.set_write_buffer_limits(high=HIGH_WATER)

    def _give(self, received: bytes) -> None:
        """Hand ``received`` to the TLS protocol as if it had just been read."""
        tls: Any = self._inner.get_protocol()
        while received and tls not in (self, None):  # else the connection is lost already
            room = tls.get_buffer(len(received))
            taken = min(len(received), len(room))
            room[:taken] = received[:taken]
            tls.buffer_updated(taken)
            received = received[taken:]

    def _read_rest(self) -> None:
        """A TLS peer has closed while we read no further: take what it had said before (uvloop drops it)."""
        if self._tls is None or self.disconnecting or self._inner.is_reading():
            return
        pieces: list[bytes] = []
        with contextlib.suppress(ssl.SSLError):
            while piece := self._tls.read(HIGH_WATER):
                pieces.append(piece)
        if pieces:
            self.data_received(b"".join(pieces))

    def _let_go(self) -> None:
        """Break the circles, so that a lost connection's buffers are freed now and not when the collector comes."""
        self._tls = None
        self._inner = CLOSED
        self.write = _say_nothing
        self.data_received = _say_nothing  # type: ignore[method-assign, assignment]


class _Closed(asyncio.Transport):
    """In the place of a transport that is no more."""

    def close(self) -> None:
        """See `asyncio.BaseTransport`."""

    abort = close

    def is_closing(self) -> bool:
        """See `asyncio.BaseTransport`."""
        return True

    def get_write_buffer_size(self) -> int:
        """See `asyncio.WriteTransport`."""
        return 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See `asyncio.BaseTransport`."""


CLOSED = _Closed()


def _say_nothing(_data: bytes) -> None:
    """There is nobody who could be told: not in clear any more, or not at all."""


def _why(problem: BaseException) -> str:
    """What went wrong in a handshake, without the places in OpenSSL's source."""
    if isinstance(problem, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {problem.verify_message}"
    if isinstance(problem, ssl.SSLError) and problem.reason:
        return problem.reason.lower().replace("_", " ")
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return str(problem) or "connection closed during the TLS handshake"


def _deferred(work: Coroutine[Any, Any, Any]) -> Deferred[Any]:
    """Start ``work`` now; must be called while the loop runs."""
    return Deferred.fromFuture(asyncio.get_running_loop().create_task(work))


def connect(address: Address, protocol: Protocol, timeout_s: float) -> Deferred[Wire]:
    """Connect ``protocol`` to ``address``; fails with `ServerUnreachable`, after ``timeout_s`` at the latest."""
    return _deferred(_connect(address, protocol, timeout_s))


async def _connect(address: Address, protocol: Protocol, timeout_s: float) -> Wire:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            if isinstance(address, UnixAddress):
                made = await loop.create_unix_connection(lambda: Wire(protocol), address.path)
            else:
                made = await loop.create_connection(lambda: Wire(protocol), address.host, address.port)
    except TimeoutError:
        raise ServerUnreachable(f"{address}: no answer within {timeout_s:g} s") from None
    except OSError as problem:
        raise ServerUnreachable(f"{address}: {problem.strerror or problem}") from problem
    return made[1]


class Listener:
    """A listening socket whose connections are accepted when the reactor runs.

    It listens at once, so that an address that can't be had is an error before anything has started.
    """

    def __init__(self, address: ListenAddress | str, make_protocol: Callable[[], Protocol]) -> None:
        """``address`` is TCP, an endpoint's description or the path of a Unix socket; each connection gets a protocol.

        Raises `ConfigError` if nobody can listen there.
        """
        self._make = make_protocol
        self._path: str | None = None
        self._servers: list[asyncio.Server] = []
        self.address = address
        try:
            self._sockets = self._bind(address)
        except Exception as problem:
            raise ConfigError(f"can't listen on {address}: {_why_not(problem)}") from problem
        if isinstance(address, TcpAddress):
            self.address = TcpAddress(address.host, self._sockets[0].getsockname()[1])

    def _bind(self, address: ListenAddress | str) -> list[socket.socket]:
        if isinstance(address, TcpAddress):
            return bind_tcp(address)
        if isinstance(address, str):
            self._path = address
            return bind_unix(address)
        opened = open_endpoint(address.text, self._make)
        self._path = opened.path
        # An endpoint may put a protocol of its own in front of ours (haproxy: does).
        self._make = lambda: cast(Protocol, opened.factory.buildProtocol(None))
        return opened.bound

    def start(self) -> Deferred[None]:
        """Accept connections; the reactor must run."""
        return _deferred(self._start())

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            create: Any = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
            self._servers.append(await create(lambda: Wire(self._make()), sock=sock, backlog=BACKLOG))

    def stop(self) -> None:
        """Accept no more; connections that exist stay."""
        for server in self._servers:
            server.close()
        for sock in self._sockets:
            sock.close()
        if self._path is not None:
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass
            except OSError as problem:  # made by root before twistd --uid: the proxy must drain all the same
                log.warn("can't remove {path}: {reason}", path=self._path, reason=problem.strerror)


def _why_not(problem: Exception) -> str:
    """Why nobody can listen, in words; an endpoint's parser raises whatever comes."""
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    if isinstance(problem, LookupError):
        return f"there is nothing with this name or number ({problem})"
    return str(problem) or type(problem).__name__

"""How a client's connection begins: encryption, cancel requests, the login; then the session takes over.

The law of this module: it does what `Startup` has understood; nothing of a session happens here.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from tqdbproxy.core.overview import ClientView
from tqdbproxy.errors import (
    LoginTimeout,
    NotAdmin,
    ProtocolViolation,
    ProxyError,
    ServerClosed,
    Stopped,
    TlsRequired,
    TooManyClients,
    message_of,
)
from tqdbproxy.logs import logger, printable
from tqdbproxy.postgres.clients import replies
from tqdbproxy.postgres.clients.console_entry import ConsoleEntry, greeting, login_message
from tqdbproxy.postgres.clients.console_session import ConsoleSession
from tqdbproxy.postgres.clients.hub import Hub, LoginView, ServerEnd
from tqdbproxy.postgres.clients.protocol import SessionProtocol
from tqdbproxy.postgres.clients.session import Session
from tqdbproxy.postgres.clients.startup import Begins, Cancels, Event, Startup, WantsGssEncryption, WantsTls
from tqdbproxy.postgres.framing import FramingError
from tqdbproxy.postgres.messages import TERMINATE_FRAME, StartupMessage

log = logger(__name__)

NO = frozenset({b"", b"false", b"off", b"no", b"0", b"f", b"n"})
"""Values of the start-up option ``replication`` with which a session is an ordinary one."""


class ClientProtocol(Protocol):
    """One client's connection, from its first byte."""

    transport: Any

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._startup = Startup()
        self._kept = b""
        self._busy = False
        """TLS is being negotiated or the server being reached: what comes is kept."""
        self._server: ServerEnd | None = None
        self._session: SessionProtocol | None = None
        self._entry: ConsoleEntry | None = None
        """It logs in for the console."""
        self._console: ConsoleSession | None = None
        self._cancel_key = b""
        self._lost = False
        self._leaving = False
        """The client sends no more, or we have sent it away."""
        self._timeout: IDelayedCall | None = None
        self._came = 0.0
        self._application = ""
        self.peer = ""
        self.user = ""
        self.database = ""
        """For the log; empty until known."""

    # The connection begins

    def connectionMade(self) -> None:
        """See `twisted.internet.protocol.Protocol`."""
        self.peer = _shown(self.transport.getPeer())
        self._came = self._hub.clock.seconds()
        self._timeout = self._hub.clock.callLater(self._hub.limits.login_timeout_s, self._too_slow)
        self._hub.opened(self)

    def dataReceived(self, data: bytes) -> None:
        """See `twisted.internet.protocol.Protocol`; until the session has begun."""
        if self._busy:
            self._kept += data
            self.transport.pauseProducing()
        elif self._server is not None:
            self._relay(data)
        else:
            self._start(data)

    def _start(self, data: bytes) -> None:
        again = True
        while again:
            try:
                event = self._startup.feed(data)
            except FramingError as problem:
                self._drop(str(problem))
                return
            except ProtocolViolation as problem:
                self.refuse(problem)
                return
            data = b""
            again = event is not None and self._react(event)

    def _react(self, event: Event) -> bool:
        """Do what the client wants; True if its next packet may follow at once."""
        if isinstance(event, WantsGssEncryption):
            self.transport.write(b"N")
            return True
        if isinstance(event, WantsTls):
            return self._answer_tls(event.received)
        if isinstance(event, Cancels):
            # Closed when the server has heard of it, as a server does it: libpq and asyncpg wait for that.
            self._busy = True
            self._hub.cancel(event.key).addBoth(lambda _result: self.transport.loseConnection())
        else:
            self._begin(event)
        return False

    def _answer_tls(self, received: bytes | None) -> bool:
        context = self._hub.tls_context
        if context is None:
            if received is not None:
                self._drop("a TLS handshake, but tls is off")
                return False
            self.transport.write(b"N")
            return True
        if received is None:
            if self._startup.rest:
                # Injected before the handshake by somebody in between (CVE-2021-23214).
                self._drop("received unencrypted data after SSL request")
                return False
            self.transport.write(b"S")
        self._busy = True
        encrypted = self.transport.start_tls(context, server_side=True, received=received or b"")
        encrypted.addCallbacks(self._encrypted, self._not_encrypted, callbackArgs=(received is not None,))
        encrypted.addErrback(self._broken)
        return False

    def _encrypted(self, alpn: str, direct: bool) -> None:
        self._busy = False
        self._startup.encrypted = True
        if direct and alpn != "postgresql":
            # As PostgreSQL: otherwise another protocol could be passed off as this one.
            self._drop("direct TLS without the ALPN protocol postgresql")
            return
        kept, self._kept = self._kept, b""
        if kept:
            self.transport.resumeProducing()
            self.dataReceived(kept)

    def _broken(self, failure: Failure) -> None:
        """A fault of ours in what came with the handshake: end as uvloop ends a connection whose reader fails."""
        log.failure(f"{self._who}: after the TLS handshake", failure, LogLevel.critical, **self._about)
        self.transport.abortConnection()

    def _not_encrypted(self, failure: Failure) -> None:
        self._drop(f"TLS: {failure.getErrorMessage()}")

    # The login

    def _begin(self, event: Begins) -> None:
        message = event.message
        self.peer = _shown(self.transport.getPeer())  # now known, if a load balancer tells it (haproxy:)
        self.user = message.option(b"user").decode(errors="replace")
        self.database = message.option(b"database").decode(errors="replace") or self.user
        self._application = message.option(b"application_name").decode(errors="replace")
        refusal = TlsRequired() if self._hub.tls_required and self._in_clear() else self._hub.refusal()
        if isinstance(refusal, TooManyClients) and self._is_operator():
            refusal = None  # when nobody else gets in, he has work to do
        if refusal is not None:
            self.refuse(refusal)
            return
        self._kept, self._startup.rest = self._startup.rest, b""
        console = self._hub.console
        if console is not None and console.leads_to(self.database):
            self._begin_console(message, console)
        else:
            self._reach(self._hub.connect(message), message)

    def _is_operator(self) -> bool:
        """It asks for the console, and needs no password for it."""
        console = self._hub.console
        return console is not None and console.leads_to(self.database) and console.trusts(self._local_user())

    def _begin_console(self, message: StartupMessage, entry: ConsoleEntry) -> None:
        if entry.trusts(self._local_user()):
            self.transport.write(greeting(message))
            self._enter(entry, self._kept)
            return
        try:
            entry.check(self.user)
        except NotAdmin as refusal:
            self.refuse(refusal)
            return
        self._entry = entry
        message = login_message(message)
        self._reach(entry.connect(message), message)

    def _enter(self, entry: ConsoleEntry, early: bytes) -> None:
        """The login is over, and the proxy itself is the server from here on."""
        self._stop_timeout()
        self._busy = False
        self._server = None
        self._console = ConsoleSession(entry.commands, self.transport, self.refuse)
        log.info(f"{self._who}: console", **self._about)
        self.dataReceived = self._console.received  # type: ignore[method-assign]
        self._rebind()
        self.transport.resumeProducing()
        if early:
            self.dataReceived(early)

    def _reach(self, connecting: Deferred[ServerEnd], message: StartupMessage) -> None:
        self._busy = True
        connecting.addCallback(self._connected, message).addErrback(self._not_begun, message)

    def _in_clear(self) -> bool:
        """Somebody could listen. Not on a Unix socket: libpq wants no TLS there, whatever its sslmode."""
        return not (self._startup.encrypted or self._is_local())

    def _is_local(self) -> bool:
        """It is on this machine, and not somebody for whom a load balancer on this machine speaks."""
        return self.transport.is_local() and not isinstance(self.transport.getPeer(), IPv4Address | IPv6Address)

    def _local_user(self) -> int | None:
        return self.transport.peer_user() if self._is_local() else None

    def _connected(self, server: ServerEnd, message: StartupMessage) -> Any:
        if self._lost:
            server.transport.loseConnection()
            return None
        self._busy = False
        self._server = server
        self.transport.registerProducer(server.transport, True)
        server.transport.registerProducer(self.transport, True)
        logged_in = server.log_in(message, self._startup.encrypted, self.transport.write)
        logged_in.addCallback(self._logged_in, server, message)
        kept, self._kept = self._kept, b""
        self.transport.resumeProducing()
        if kept:
            self._relay(kept)
        return logged_in

    def _relay(self, data: bytes) -> None:
        """The client's part of the authentication."""
        try:
            if self._server is not None:
                self._server.relay(data)
        except ProxyError as problem:
            self.refuse(problem)

    def _not_begun(self, failure: Failure, message: StartupMessage) -> None:
        server = self._server
        refused = failure.check(ServerClosed) is not None and server is not None and server.said_why
        if refused:  # also if the client was quicker to close
            self._complain(f"the server refused the login: {refused}")
        if self._lost:
            return  # and so is its server connection: nobody has to be told
        error = isinstance(failure.value, ProxyError)
        if error and server is not None and server.elsewhere is not None and not (server.heard or self._leaving):
            # Nothing was said that can't be said to another server.
            self._server = None
            self._kept = server.early
            self._reach(server.elsewhere(), message)
        elif refused:
            self.transport.loseConnection()  # the client has the server's own words
        elif isinstance(failure.value, ProxyError):
            self.refuse(failure.value)
        else:
            log.failure(f"{self._who}: login", failure, LogLevel.critical, **self._about)
            self.refuse(ServerClosed("the server could not be reached"))

    def _logged_in(self, login: LoginView, server: ServerEnd, message: StartupMessage) -> None:
        if self._lost:
            return
        if self._entry is not None:
            server.transport.unregisterProducer()
            server.transport.write(TERMINATE_FRAME)
            server.transport.loseConnection()
            self._enter(self._entry, login.early)
            return
        self._stop_timeout()
        self._cancel_key = login.cancel_key
        session = self._hub.session(message, server, login)
        self._session = running = SessionProtocol(self._hub, self.transport, server, session, self.refuse)
        server.closed.addCallback(lambda _none: self._server_lost(running, session))
        self._hub.began(self, login.cancel_key)
        self.dataReceived = running.received  # type: ignore[method-assign]
        if message.option(b"replication").lower() not in NO:
            server.pipe()
            self.dataReceived = server.transport.write  # type: ignore[method-assign]
        self._rebind()
        if login.early:
            self.dataReceived(login.early)

    def _server_lost(self, running: SessionProtocol, session: Session) -> None:
        if not (self._lost or self._leaving or session.terminated):
            self._complain("the server closed the connection")
        running.server_lost()

    def _rebind(self) -> None:
        """``dataReceived`` is another function now, which the transport has to be told."""
        self.transport.rebind()

    def _too_slow(self) -> None:
        self._timeout = None
        self.refuse(LoginTimeout("canceling authentication due to timeout"))

    def _stop_timeout(self) -> None:
        timeout, self._timeout = self._timeout, None
        if timeout is not None and timeout.active():
            timeout.cancel()

    # What others ask of it

    @property
    def waiting(self) -> bool:
        """Whether a write of this client waits for company or runs in a batch."""
        return self._session is not None and self._session.waiting

    @property
    def in_console(self) -> bool:
        """Whether it talks to the proxy itself."""
        return self._console is not None

    def view(self) -> ClientView:
        """See `Client.view`."""
        state = "console" if self.in_console else "login" if self._session is None else self._session.state
        age = self._hub.clock.seconds() - self._came
        return ClientView(self.peer, self.user, self.database, state, self._application, age, self._startup.encrypted)

    def cancel(self) -> Deferred[None]:
        """Cancel what the session is doing; fires when that has been heard."""
        return self._session.cancel(self._cancel_key) if self._session is not None else succeed(None)

    def drain(self) -> None:
        """The proxy shuts down."""
        if self._session is not None:
            self._session.drain()
        elif self._console is not None:
            self.refuse(Stopped("terminating connection due to administrator command"))
        else:
            self.transport.loseConnection()

    # The connection ends

    def refuse(self, error: ProxyError) -> None:
        """Tell the client why, and end its session."""
        # That everybody hears it when the proxy stops is no news of this client.
        self._complain(message_of(error), worth_a_warning=not isinstance(error, Stopped))
        self._end(replies.fatal(error))

    def _drop(self, why: str) -> None:
        """End the connection without a word, as PostgreSQL does where no message can be understood."""
        self._complain(why)
        self._end(b"")

    def _complain(self, reason: str, *, worth_a_warning: bool = True) -> None:
        """One line for the operator."""
        level = LogLevel.warn if worth_a_warning else LogLevel.info
        log.emit(level, f"{self._who}: {{reason}}", reason=printable(reason), **self._about)

    @property
    def _about(self) -> dict[str, str]:
        """The keys of a log event: what is known of the client."""
        keys = {"peer": self.peer, "user": self.user, "database": self.database}
        return {key: printable(value) for key, value in keys.items() if value}

    @property
    def _who(self) -> str:
        """The beginning of a log event's format, which names these keys."""
        return "client {peer}, user {user}, database {database}" if self.user else "client {peer}"

    def _end(self, last_words: bytes) -> None:
        if self._lost:
            return
        self._leaving = True
        if last_words:
            self.transport.write(last_words)
        self.transport.loseConnection()

    def readConnectionLost(self) -> None:
        """The client sends no more but may still read (a half-closed socket)."""
        self._leaving = True
        if self._session is not None:
            self._session.half_closed()
        else:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See `twisted.internet.protocol.Protocol`."""
        self._lost = True
        self._stop_timeout()
        if self._session is not None:
            self._session.client_lost()
        elif self._server is not None:
            self._server.transport.loseConnection()  # in the middle of its login, which may never end
        self._hub.closed(self, self._cancel_key)


def _shown(peer: object) -> str:
    if isinstance(peer, tuple):
        return f"{peer[0]}:{peer[1]}"
    if isinstance(peer, IPv4Address | IPv6Address):  # as a load balancer has told it
        return f"{peer.host}:{peer.port}"
    return "on the Unix socket" if not peer else str(peer)

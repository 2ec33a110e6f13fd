"""Peers without sockets: transports in memory, a server by script, and the whole proxy between them.

Nothing moves by itself. `World.settle` delivers what was written, in the order and the pieces that the test wants, so
every exchange can be repeated exactly; time is a `task.Clock`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock

from tests.builders import authentication, backend_key, chunks, parameter_status, ready, startup
from tests.tinyserver import TinyServer
from tqdbproxy.core.caching import Cache
from tqdbproxy.core.metrics import Metrics
from tqdbproxy.core.routing import Rulebook, Rules
from tqdbproxy.core.writebatch.manager import Manager
from tqdbproxy.core.writebatch.types import Limits
from tqdbproxy.errors import ProxyError
from tqdbproxy.postgres.clients.hub import ClientLimits, Hub
from tqdbproxy.postgres.clients.opening import ClientProtocol
from tqdbproxy.postgres.clients.reads import Reads
from tqdbproxy.postgres.messages import StartupMessage
from tqdbproxy.postgres.servers.connection import ServerConnection
from tqdbproxy.postgres.servers.counts import Counts
from tqdbproxy.postgres.servers.executor import BatchExecutor
from tqdbproxy.postgres.sql import Purging, Texts


class MemoryTransport:
    """The transport of one of the proxy's protocols; behaves as `tqdbproxy.transport.Wire` on uvloop does.

    ``written`` is what the peer will get, ``incoming`` what is on its way to the protocol.
    """

    disconnecting = False

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.written = b""
        self.incoming: list[bytes] = []
        self.eof_incoming = False
        self.eof_sent = False
        self.paused = False
        self.lost = False
        self.aborted = False
        self.producer: Any = None
        self.user: int | None = None
        """Who is at the other end, if it is a Unix socket."""
        self.tls: list[dict[str, Any]] = []
        self.tls_done: Deferred[str] = Deferred()
        self.rebind()

    # The protocol calls these

    def write(self, data: bytes) -> None:
        if self.lost or self.eof_sent:
            raise RuntimeError("uvloop: the handler is closed")
        if not self.disconnecting:
            self.written += data

    def write_now(self, data: bytes) -> None:
        self.write(data)

    def loseConnection(self) -> None:
        self.disconnecting = True

    def abortConnection(self) -> None:
        self.disconnecting = self.aborted = True

    def loseWriteConnection(self) -> bool:
        if self.disconnecting:
            return False
        self.eof_sent = True
        return True

    def getPeer(self) -> Any:
        return ("192.0.2.1", 1234)

    def is_local(self) -> bool:
        return self.user is not None

    def peer_user(self) -> int | None:
        return self.user

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def is_reading(self) -> bool:
        return not self.paused

    def rebind(self) -> None:
        self.receive = self.protocol.dataReceived

    def start_tls(self, context: object, **how: Any) -> Deferred[str]:
        self.tls.append(how)
        return self.tls_done

    # The test calls these

    def connect(self) -> None:
        self.protocol.makeConnection(self)

    def take(self) -> bytes:
        """What was written since the last time."""
        written, self.written = self.written, b""
        return written

    def deliver(self) -> bool:
        """Let the protocol have the next thing that is there for it; False if there is nothing."""
        if self.lost:
            return False
        if self.disconnecting:
            self.lose()
        elif self.paused:
            return False
        elif self.incoming:
            self.receive(self.incoming.pop(0))
        elif self.eof_incoming:
            self.eof_incoming = False
            half_closed = getattr(self.protocol, "readConnectionLost", self.loseConnection)
            half_closed()
        else:
            return False
        return True

    def lose(self) -> None:
        """The connection is gone."""
        self.lost = self.disconnecting = True
        self.producer = None
        self.protocol.connectionLost(connectionDone)


class Script:
    """A server that says nothing but its greeting by itself: what came is in `hears`, `Client.answers` answers."""

    closing = False

    def __init__(self, greeting: bytes | None = None) -> None:
        self._heard = b""
        self._greeting = login() if greeting is None else greeting

    def receive(self, data: bytes) -> bytes:
        greeting, self._greeting = self._greeting, b""
        self._heard = b"" if greeting else self._heard + data
        return greeting

    def hears(self) -> bytes:
        """What came since the last time; the start-up packet aside."""
        heard, self._heard = self._heard, b""
        return heard


def login(key: bytes = b"\0\0\0\0key") -> bytes:
    """What a server says to a client that it trusts."""
    settings = parameter_status("server_version", "18.1") + parameter_status("TimeZone", "UTC")
    return authentication(0) + settings + backend_key(key) + ready()


class Wall:
    """What `ServerConnection` knows of a server; keeps the cancel requests. ``answer``: they stay on their way."""

    def __init__(self) -> None:
        self.group = "main"
        self.counts = Counts()
        self.cancelled: list[bytes] = []
        self.answer: Deferred[None] | None = None

    def cancel(self, key: bytes) -> Deferred[None]:
        self.cancelled.append(key)
        return self.answer or succeed(None)


class Client:
    """A client's end, with the server that its session was given."""

    def __init__(self, world: World, protocol: ClientProtocol) -> None:
        self._world = world
        self.protocol = protocol
        self.transport = MemoryTransport(protocol)
        self.server: Any = None
        self.wire: MemoryTransport | None = None
        """The proxy's transport to the server."""
        self.connection: ServerConnection | None = None
        self.received = b""
        self.transport.connect()

    def sends(self, *data: bytes) -> None:
        """Put it on the wire, cut as the world wants it."""
        self.transport.incoming += chunks(b"".join(data), self._world.sizes)

    def says(self, *data: bytes) -> bytes:
        """Send, let everything settle, and return what has come back."""
        self.sends(*data)
        self._world.settle()
        return self.hears()

    def hears(self) -> bytes:
        received, self.received = self.received, b""
        return received

    def answers(self, *data: bytes) -> bytes:
        """Let the server of this session say something; what the client got of it."""
        assert self.wire is not None
        self.wire.incoming += chunks(b"".join(data), self._world.sizes)
        self._world.settle()
        return self.hears()

    def closes(self, *, half: bool = False) -> None:
        """Close the connection, or only the way to the proxy."""
        if half:
            self.transport.eof_incoming = True
        else:
            self.transport.incoming.clear()
            self.transport.lose()


class World:
    """The proxy's own objects as `service.py` puts them together, with a server for each session.

    ``sizes``: the pieces in which everything is delivered (none: as it was written).
    """

    def __init__(
        self,
        limits: Limits | None = None,
        rules: Rules | None = None,
        make_server: Callable[[], Any] | None = None,
        sizes: Sequence[int] = (),
    ) -> None:
        self.clock = Clock()
        self.sizes = sizes
        self.wall = Wall()
        self.clients: list[Client] = []
        self.unreachable: ProxyError | None = None
        self.slow: Deferred[Any] | None = None
        """Connections to servers are there when it fires."""
        self._moving: Client | None = None
        self.metrics = Metrics(CollectorRegistry(), clock=self.clock.seconds)
        self.batches = Manager(
            limits or Limits(), BatchExecutor(self.clock.seconds, merge=False), self.metrics, self.clock
        )
        book = Rulebook(rules or Rules())
        self.cache = Cache(self.clock)
        reads = Reads(self.cache, self.clock.seconds, lambda: self.hub.watch(), lambda: 0.5)
        texts = Texts(purging=Purging.ALL)
        self.hub = Hub(self._connect, self.batches, self.metrics, self.clock, ClientLimits(), book, texts, reads)
        self.books: list[bytes] = []
        """What all `TinyServer` have committed."""
        self._make_server = make_server or (lambda: TinyServer(self.books, login(b"key%d" % len(self.clients))))

    def accept(self) -> Client:
        """A new connection that has said nothing yet."""
        client = Client(self, ClientProtocol(self.hub))
        self.clients.append(client)
        return client

    def client(self, **options: str) -> Client:
        """A session that is logged in."""
        client = self.accept()
        client.says(startup(**{"user": "u", "database": "d", **options}))
        assert client.wire is not None
        return client

    def _connect(self, _message: StartupMessage) -> Deferred[Any]:
        if self.unreachable is not None:
            return fail(self.unreachable)
        client = self._moving
        assert client is not None
        client.server = self._make_server()
        client.connection = ServerConnection(self.wall)
        client.wire = MemoryTransport(client.connection)
        client.wire.connect()
        if self.slow is not None:
            return self.slow.addCallback(lambda _none: client.connection)
        return succeed(client.connection)

    def settle(self) -> None:
        """Deliver until nobody has anything to say."""
        moved = True
        while moved:
            moved = max([self._step(client) for client in self.clients], default=False)

    def _step(self, client: Client) -> bool:
        self._moving = client
        moved = client.transport.deliver()
        wire = client.wire
        if wire is not None:
            for piece in chunks(wire.take(), self.sizes):
                wire.incoming += chunks(client.server.receive(piece), self.sizes)
                moved = True
            if (wire.eof_sent or client.server.closing) and not wire.lost and not wire.incoming:
                wire.loseConnection()
            moved = wire.deliver() or moved
        client.received += client.transport.take()
        return moved

    def pass_time(self, seconds: float, step: float = 0.5) -> None:
        """Let time pass in steps, and everything that it sets off."""
        while seconds > 0:
            self.clock.advance(min(step, seconds))
            seconds -= step
            self.settle()

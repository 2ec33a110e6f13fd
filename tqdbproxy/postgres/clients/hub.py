"""What all clients' connections share, and all that is done to them together.

The law of this module: it holds the parts and the list of clients; what one client says is its protocol's matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any, Protocol
from weakref import WeakSet

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IReactorTime

from tqdbproxy.core.metrics import Metrics
from tqdbproxy.core.overview import ClientView
from tqdbproxy.core.routing import Rulebook
from tqdbproxy.core.writebatch.manager import Manager
from tqdbproxy.errors import ProxyError, ShuttingDown, Stopped, TooManyClients
from tqdbproxy.logs import logger
from tqdbproxy.postgres.capture import Capture
from tqdbproxy.postgres.clients.console_entry import ConsoleEntry
from tqdbproxy.postgres.clients.history import History, Identities
from tqdbproxy.postgres.clients.reads import Reads
from tqdbproxy.postgres.clients.session import Session
from tqdbproxy.postgres.clients.tally import Tally
from tqdbproxy.postgres.described import Described
from tqdbproxy.postgres.messages import StartupMessage
from tqdbproxy.postgres.sql import Texts

log = logger(__name__)


CANCEL_TIMEOUT_S = 2.0
"""How long a server may take to hear that it is to cancel what is going on, when the proxy stops."""


class Client(Protocol):
    """A client's connection, as the hub sees it."""

    @property
    def waiting(self) -> bool:
        """Whether a write of it waits for company or runs in a batch."""

    @property
    def in_console(self) -> bool:
        """Whether it talks to the proxy itself."""

    def view(self) -> ClientView:
        """What operators see of it."""

    def cancel(self) -> Deferred[None]:
        """Cancel what its session is doing."""

    def drain(self) -> None:
        """End as soon as nothing is under way."""

    def refuse(self, error: ProxyError) -> None:
        """Tell it why, and end its session."""


class LoginView(Protocol):
    """A finished login, as a client's connection sees it."""

    cancel_key: bytes
    parameters: dict[bytes, bytes]
    status: int

    @property
    def early(self) -> bytes:
        """What the client sent of its session before the login was finished."""


class ServerEnd(Protocol):
    """A session's server connection, as a client's connection sees it."""

    transport: Any
    closed: Deferred[None]
    alive: bool
    group: str
    statements: Any
    said_why: str
    """The error that it has sent the client before it closed; empty: none."""

    heard: bool
    """Something of its login has reached the client."""
    elsewhere: Callable[[], Deferred[Any]] | None
    """Connects to the next best server; None: there is none."""

    @property
    def early(self) -> bytes:
        """What the client said before the login was done, and the server has not got."""

    def log_in(self, message: StartupMessage, client_tls: bool, to_client: Callable[[bytes], None]) -> Deferred[Any]:
        """Relay the login."""

    def relay(self, data: bytes) -> None:
        """Pass on the client's part of the login."""

    def belong_to(self, owner: Session, caught_up: Callable[[], None]) -> None:
        """Begin the session."""

    def capture(self, capture: Capture) -> None:
        """Keep the answer to the unit that is sent next."""

    def end_capture(self) -> None:
        """Keep it no longer."""

    def swallow(self, replies: int) -> None:
        """Keep replies to the proxy's own messages from the client."""

    def pipe(self) -> None:
        """Pass everything on unseen."""

    def client_sends_no_more(self, *, mid_message: bool = False) -> None:
        """The client's end of the connection is closed for sending."""

    def forsake(self) -> None:
        """The client is gone, but what it has said before isn't all sent."""

    def orphan(self, *, mid_message: bool = False) -> None:
        """The client is gone."""

    def cancel(self, key: bytes) -> Deferred[None]:
        """Ask the server to cancel what the session is doing."""

    def describe(self, name: bytes, before: bytes = b"") -> Deferred[Described | None]:
        """Ask what the client's statement takes and returns."""


@dataclass(slots=True)
class ClientLimits:
    """``[limits]``, as they are now."""

    max_clients: int = 10_000
    login_timeout_s: float = 60.0
    shutdown_timeout_s: float = 30.0


class Hub:
    """See the module. ``connect`` opens a server connection for a session that is about to begin."""

    def __init__(
        self,
        connect: Callable[[StartupMessage], Deferred[ServerEnd]],
        batches: Manager,
        metrics: Metrics,
        clock: IReactorTime,
        limits: ClientLimits,
        book: Rulebook,
        texts: Texts,
        reads: Reads,
    ) -> None:
        self.connect = connect
        self.batches = batches
        self.clock = clock
        self.limits = limits
        self.book = book
        self.tls_context: SSLContext | None = None
        self.tls_required = False
        self.console: ConsoleEntry | None = None
        self.clients: set[Client] = set()
        self.reads = reads
        self._texts = texts
        self._tally = Tally(metrics)
        self._identities = Identities()
        self._sessions: dict[bytes, Client] = {}
        self._running: WeakSet[Session] = WeakSet()
        self._closing: Deferred[None] | None = None

    def refusal(self) -> ProxyError | None:
        """Why no further session can begin, if so; the client that asks is counted already."""
        if self._closing is not None:
            return ShuttingDown()
        if len(self.clients) > self.limits.max_clients:
            return TooManyClients()
        return None

    def opened(self, client: Client) -> None:
        """A connection was accepted."""
        self.clients.add(client)

    def session(self, message: StartupMessage, server: ServerEnd, login: LoginView) -> Session:
        """A new session on ``server``."""
        # The address, too: after a failover or a reload there are sessions of one group on different servers.
        history = History(self._identities, server.group, message, server.transport.getPeer())
        for name, value in login.parameters.items():
            history.reported(name, value)
        session = Session(
            history,
            self._texts,
            self._tally,
            self.book,
            self.clock.seconds,
            server.statements.forget,
            server.statements.retire,
            server.swallow,
            self.reads,
        )
        session.status = login.status
        self._running.add(session)
        return session

    def watch(self) -> None:
        """From now on it matters what is changed, by sessions whose clients are gone, too."""
        for session in tuple(self._running):
            session.watched()

    def began(self, client: Client, cancel_key: bytes) -> None:
        """A session runs, and can be cancelled with this key."""
        if cancel_key:
            self._sessions[cancel_key] = client

    def closed(self, client: Client, cancel_key: bytes) -> None:
        """A connection is gone, and with it its session if it had one."""
        self.clients.discard(client)
        if self._sessions.get(cancel_key) is client:
            del self._sessions[cancel_key]
        self._look_whether_all_are_gone()

    def states(self) -> dict[tuple[str, ...], float]:
        """How many clients there are, by state."""
        waiting = sum(client.waiting for client in self.clients)
        consoles = sum(client.in_console for client in self.clients)
        begun = len(self._sessions)
        login = len(self.clients) - begun - consoles
        others = {"waiting": waiting, "session": begun - waiting, "login": login, "console": consoles}
        return {(state,): float(count) for state, count in others.items()}

    def cancel(self, key: bytes) -> Deferred[None]:
        """A client asks to cancel what the session with ``key`` does; fires when that has been heard.

        A key that isn't ours is ignored.
        """
        client = self._sessions.get(key)
        return client.cancel() if client is not None else succeed(None)

    def close(self) -> Deferred[None]:
        """End all sessions: waiting writes are executed and answered, open transactions have some time left.

        Fires when no client is left, and every write that was accepted has been executed, its client's gone or not.
        """
        gone = self._closing = Deferred()
        ended = DeferredList([self.batches.close(), gone])
        timer = self.clock.callLater(self.limits.shutdown_timeout_s, self._end_all)
        for client in list(self.clients):
            client.drain()
        self._look_whether_all_are_gone()
        return ended.addCallback(lambda _: timer.cancel() if timer.active() else None)

    def _look_whether_all_are_gone(self) -> None:
        if self._closing is not None and not self.clients and not self._closing.called:
            self._closing.callback(None)

    def _end_all(self) -> None:
        """What they are doing is cancelled first: it may not go on, and be committed, after they were sent away."""
        if self.clients:
            log.warn("{count} sessions were still busy after shutdown_timeout_s", count=len(self.clients))
        timer = self.clock.callLater(CANCEL_TIMEOUT_S, self._refuse_all)
        heard = DeferredList([client.cancel() for client in self.clients])
        heard.addCallback(lambda _: timer.cancel() if timer.active() else None)
        heard.addCallback(lambda _: self._refuse_all())

    def _refuse_all(self) -> None:
        self.batches.give_up()
        for client in list(self.clients):
            client.refuse(Stopped("terminating connection due to administrator command"))

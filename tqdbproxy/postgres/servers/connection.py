"""One server connection: it carries a session's own bytes, and now and then a batch.

The forward lane's law holds here: one walk over the headers of what the server says, one write of the same bytes to
the client; only ReadyForQuery, ParameterStatus, ErrorResponse and the beginning of a COPY are looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure

from tqdbproxy.core.writebatch.types import Lost, Outcome
from tqdbproxy.errors import ProxyError, ServerClosed, TlsFailed
from tqdbproxy.postgres.capture import Capture
from tqdbproxy.postgres.described import Described
from tqdbproxy.postgres.framing import HEADER_SIZE, MAX_LENGTH, MIN_LENGTH, FramingError, length_at
from tqdbproxy.postgres.messages import (
    CLOSE_COMPLETE,
    COPY_BOTH_RESPONSE,
    COPY_IN_RESPONSE,
    ERROR_RESPONSE,
    PARAMETER_STATUS,
    PARSE_COMPLETE,
    READY_FOR_QUERY,
    SSL_REQUEST_PACKET,
    TERMINATE_FRAME,
    StartupMessage,
    parameter_status,
)
from tqdbproxy.postgres.servers.batches import Exchange
from tqdbproxy.postgres.servers.beginnings import Opening
from tqdbproxy.postgres.servers.counts import Counts
from tqdbproxy.postgres.servers.describing import ClientsStatement
from tqdbproxy.postgres.servers.login import Login
from tqdbproxy.postgres.servers.statements import Statements

WHOLE = frozenset({READY_FOR_QUERY, PARAMETER_STATUS})
"""Frames that are held until they are complete."""

MARKED = frozenset({ERROR_RESPONSE, COPY_IN_RESPONSE, COPY_BOTH_RESPONSE})
"""Frames that matter by their type alone."""

CLOSED = "the server closed the connection unexpectedly"

READY_LENGTH = 5
WITHHELD = 1 << 16
"""Bytes of a login that are kept from the client while another server could still take its place."""
PATIENCE = 1 << 20
"""Bytes that a server may say to a client that is gone, before its connection is given up."""

WATCHED = bytes(kind in WHOLE | MARKED for kind in range(256))
WATCHED_SWALLOWING = bytes(kind in WHOLE | MARKED | {PARSE_COMPLETE, CLOSE_COMPLETE} for kind in range(256))


class Owner(Protocol):
    """The session that a connection belongs to, as the connection sees it."""

    def unit_done(self, status: int, failed: bool) -> None:
        """A ReadyForQuery came: one more unit is over. Called before its bytes go to the client."""

    def parameter_changed(self, name: bytes, value: bytes) -> None:
        """The server reported a setting."""

    def copy_began(self) -> None:
        """The server waits for COPY data."""

    def server_lost(self) -> None:
        """The connection is gone: what was under way may have been done, or not."""


class Server(Protocol):
    """The server that a connection leads to, as the connection sees it."""

    group: str
    counts: Counts

    def cancel(self, key: bytes) -> Deferred[None]:
        """Send a cancel request; fires when the server has taken it, or can't."""


class ServerConnection(TwistedProtocol):
    """A session's connection to its server.

    ``closed`` fires when it is lost. ``cancelling`` counts cancel requests on their way to this server process: while
    there are any, a batch that ran here could be hit by one.
    """

    transport: Any

    def __init__(self, server: Server) -> None:
        self.counts = server.counts
        self.group = server.group
        self.tls = False
        self.said_why = ""
        self._server = server
        self._tls_answer: Deferred[bool] | None = None
        self.statements = Statements()
        self.closed: Deferred[None] = Deferred()
        self.alive = False
        self.cancelling = 0
        self.judge: Callable[[Login, bool], ProxyError | None] = _content
        """Asked when the server has ended a login, well or not: why it isn't the right one. True: the client has heard
        of the login already."""
        self.elsewhere: Callable[[], Deferred[ServerConnection]] | None = None
        """Connects to the next best server; None: there is none."""
        self.heard = False
        """Something of the login has reached the client."""
        self._unsaid = b""
        self._login: Login | None = None
        self._logged_in: Deferred[Login] | None = None
        self._owner: Owner | None = None
        self._caught_up: Callable[[], None] = _nothing
        self._to_client: Callable[[bytes], None] = _drop
        self._through: Callable[[bytes], None] = _drop
        self._capture: Capture | None = None
        self._patience = PATIENCE
        self._exchange: Exchange | Opening | None = None
        self._outcome: Deferred[Outcome] | None = None
        self._held = b""
        self._skip = 0
        self._failed = False
        self._swallow = 0
        self._piped = False
        self._watched = WATCHED

    def connectionMade(self) -> None:
        """See `twisted.internet.protocol.Protocol`."""
        self.alive = True
        self.counts.connections += 1

    def request_tls(self) -> Deferred[bool]:
        """Ask whether the server speaks TLS (manual, "SSL Session Encryption"). Fails with `ServerClosed`."""
        if not self.alive:  # it was lost before anybody could wait for it
            return fail(ServerClosed(CLOSED))
        self._tls_answer = Deferred()
        self.transport.write(SSL_REQUEST_PACKET)
        return self._tls_answer

    def dataReceived(self, data: bytes) -> None:
        """See `twisted.internet.protocol.Protocol`; until the login is done."""
        if self._tls_answer is not None and data in (b"S", b"N"):
            answer, self._tls_answer = self._tls_answer, None
            answer.callback(data == b"S")
        elif self._login is not None and self._logged_in is not None:
            self._login_received(data, self._login)
        else:
            self._uncalled_for(data)

    def _uncalled_for(self, data: bytes) -> None:
        """More than the one byte: somebody in between has injected it (CVE-2021-23222). Or nobody asked."""
        answer, self._tls_answer = self._tls_answer, None
        self.transport.abortConnection()
        if answer is not None:
            injected = data[0] in b"SN"
            why = "unencrypted data after its answer" if injected else f"neither S nor N but {data[:1]!r}"
            answer.errback(TlsFailed(f"to the SSL request the server sent {why}"))

    def _login_received(self, data: bytes, login: Login) -> None:
        try:
            out = login.from_server(data)
        except FramingError:
            self.transport.abortConnection()
            return
        self._unsaid += out
        if not (login.asking or login.done or login.refused) and len(self._unsaid) < WITHHELD:
            return  # nothing that anybody waits for: the client may yet be taken to another server
        objection = self.judge(login, self.heard) if login.done or login.refused else None
        if objection is not None:
            self._give_way(objection)
            return
        self.said_why = self.said_why or login.refused
        unsaid, self._unsaid = self._unsaid, b""
        if unsaid:
            self.heard = True
            self._to_client(unsaid)
        if login.done:
            self.dataReceived = self._forward  # type: ignore[method-assign]
            self.transport.rebind()
            logged_in, self._logged_in = self._logged_in, None
            if logged_in is not None:
                logged_in.callback(login)
            if login.from_server_rest:
                self._forward(login.from_server_rest)

    def _give_way(self, objection: ProxyError) -> None:
        """This isn't the right server: the session ends here before it began."""
        logged_in, self._logged_in = self._logged_in, None
        self.transport.write(TERMINATE_FRAME)
        self.transport.loseConnection()
        if logged_in is not None:
            logged_in.errback(objection)

    def connectionLost(self, reason: Failure = Failure(ServerClosed())) -> None:
        """See `twisted.internet.protocol.Protocol`."""
        self.alive = False
        self.counts.connections -= 1
        for waiting in (self._tls_answer, self._logged_in):
            if waiting is not None:
                waiting.errback(Failure(ServerClosed(CLOSED)))
        self._tls_answer = self._logged_in = None
        if self._outcome is not None:
            self._end_batch(Lost(sent=True))
        self.end_capture()
        if self._owner is not None:
            self._owner.server_lost()
        self.closed.callback(None)

    def log_in(self, message: StartupMessage, client_tls: bool, to_client: Callable[[bytes], None]) -> Deferred[Login]:
        """Send the client's start-up packet and relay until the server is ready; fails with `ServerClosed`."""
        if not self.alive:
            return fail(ServerClosed(CLOSED))
        self._login = Login(tls=client_tls or self.tls, tls_both=client_tls and self.tls)
        self._to_client = to_client
        self._logged_in = Deferred()
        self.transport.write(message.raw)
        return self._logged_in

    @property
    def early(self) -> bytes:
        """What the client said before the login was done, and the server has not got."""
        return self._login.early if self._login is not None else b""

    def relay(self, data: bytes) -> None:
        """Send the client's part of the authentication. Raises what `Login.from_client` raises."""
        if self._login is not None:
            self.transport.write(self._login.from_client(data))

    def belong_to(self, owner: Owner, caught_up: Callable[[], None]) -> None:
        """The login is over: tell ``owner`` what must be known of what comes by.

        ``caught_up`` is called when all bytes of a chunk that ended at least one unit are written to the client.
        """
        self._owner = owner
        self._caught_up = caught_up

    def pipe(self) -> None:
        """Pass everything on unseen from here on: a replication connection."""
        self._piped = True
        self.dataReceived = self._to_client  # type: ignore[method-assign, assignment]
        self.transport.rebind()

    def swallow(self, replies: int) -> None:
        """The next ``replies`` ParseComplete or CloseComplete answer messages of the proxy, not of the client."""
        self._swallow = replies
        self._watched = WATCHED_SWALLOWING if replies else WATCHED

    def client_sends_no_more(self, *, mid_message: bool = False) -> None:
        """The client's end is closed for sending: so is this one, and the server ends when it has done what it has.

        :param mid_message: the last message is cut off, so that another one (over TLS, which knows no half-closed
            connections) would be taken for its rest.
        """
        if not self.alive or self.transport.loseWriteConnection():
            return
        if mid_message or self._piped or self._login is None:
            self.transport.loseConnection()
        else:
            self.transport.write(TERMINATE_FRAME)

    def orphan(self, *, mid_message: bool = False) -> None:
        """The client is gone: let the server finish what it has, and end."""
        self.forsake()
        self.client_sends_no_more(mid_message=mid_message)

    def forsake(self) -> None:
        """The client is gone: what the server says is read and not heard. Something may yet be sent to it."""
        if self._capture is not None:
            self._through = self._unheard
        else:
            self._to_client = self._unheard
        if self.alive:
            if self._piped:
                self.pipe()
            self.transport.unregisterProducer()
            self.transport.resumeProducing()

    def _unheard(self, data: bytes) -> None:
        """Nobody reads it. Directly, too, the server would soon find out that it can't send, and give up."""
        self._patience -= len(data)
        if self._patience < 0:
            self.transport.abortConnection()

    def cancel(self, key: bytes) -> Deferred[None]:
        """Ask the server to cancel what this connection's session does; until it has heard, nothing is lent here.

        Fires when it has heard: a client that is told so earlier could have its next statement cancelled.
        """
        if not self.alive or not (self._exchange is None or isinstance(self._exchange, ClientsStatement)):
            return succeed(None)
        self.cancelling += 1
        if self._capture is not None:
            self._capture.cancelled = True
        return self._server.cancel(key).addBoth(self._cancelled)

    def _cancelled(self, _result: object) -> None:
        self.cancelling -= 1

    # The forward lane

    def _forward(self, data: bytes) -> None:
        if self._exchange is not None:
            self._batch_received(data)
            return
        if self._held:
            data = self._held + data
            self._held = b""
        size = len(data)
        at = self._skip
        watched = self._watched
        units = 0
        while at + HEADER_SIZE <= size:
            kind = data[at]
            length = length_at(data, at + 1)[0]
            end = at + 1 + length
            if length < MIN_LENGTH or length > MAX_LENGTH:
                self._to_client(data[:at])
                self.transport.abortConnection()
                return
            if watched[kind]:
                if end > size and kind in WHOLE:
                    break
                if kind == READY_FOR_QUERY:
                    if length != READY_LENGTH:
                        self.transport.abortConnection()
                        return
                    units += 1
                    self._owner.unit_done(data[at + 5], self._failed)  # type: ignore[union-attr]
                    self._failed = False
                elif self._watch(kind, data, at):
                    data = data[:at] + data[end:]
                    size, end = len(data), at
                watched = self._watched
            at = end
        if at < size:
            self._held, self._skip = data[at:], 0
            data = data[:at]
        else:
            self._skip = at - size
        if data:
            self._to_client(data)
        if units:
            self.counts.units += units
            self._caught_up()

    def _watch(self, kind: int, data: bytes, at: int) -> bool:
        """Note what a frame tells; True if it isn't the client's."""
        if kind == ERROR_RESPONSE:
            self._failed = True
            self.swallow(0)
        elif kind == PARAMETER_STATUS:
            self._owner.parameter_changed(*parameter_status(data, at))  # type: ignore[union-attr]
        elif kind in MARKED:
            self._owner.copy_began()  # type: ignore[union-attr]
        else:
            self.swallow(self._swallow - 1)
            return True
        return False

    # The cache lane

    def capture(self, capture: Capture) -> None:
        """Keep the answer to the unit that is sent next, nothing being outstanding, while it goes to the client."""
        self.end_capture()
        if self._skip:  # half a NotificationResponse, say: its rest could be taken for an answer
            capture.lose()
            return
        self._capture = capture
        self._through = self._to_client
        self._to_client = self._captured

    def _captured(self, data: bytes) -> None:
        self._through(data)
        if self._capture is not None:
            self._capture.take(data)
            if self._capture.over:
                self.end_capture()

    def end_capture(self) -> None:
        """What isn't complete by now won't be waited for."""
        capture, self._capture = self._capture, None
        if capture is not None:
            self._to_client = self._through
            capture.lose()

    # The batch lane

    @property
    def lendable(self) -> bool:
        """Whether a batch may run here now, given that the session waits: nothing half read, nothing half cancelled."""
        busy = self._exchange is not None or self.cancelling or self._held or self._skip
        # A client that doesn't read what it got would keep all members waiting.
        return self.alive and not busy and self.transport.is_reading()

    def begin(self, opening: Opening) -> None:
        """Send the first part of a batch; `run` must follow, with what belongs behind it."""
        self._exchange = opening
        self.transport.write_now(opening.request)

    def run(self, exchange: Exchange) -> Deferred[Outcome]:
        """Execute a batch here; the session that the connection belongs to waits for it. Cancelling gives up."""
        self.counts.batches += 1
        return self._start(exchange)

    def describe(self, name: bytes, before: bytes = b"") -> Deferred[Described | None]:
        """What the client's statement ``name`` takes and returns; None: it can't be told, or not now.

        The session is idle, and waits. ``before``: messages that go in front, whose replies aren't the client's.
        """
        if not self.lendable:
            return succeed(None)
        exchange = ClientsStatement(name, before, self.statements)
        return self._start(exchange).addCallback(lambda _outcome: exchange.described)

    def _start(self, exchange: Exchange) -> Deferred[Outcome]:
        opening, self._exchange = self._exchange, exchange
        if isinstance(opening, Opening):
            exchange.receive(opening.said)
        self._outcome = Deferred(self._give_up)
        self.transport.write_now(exchange.request)
        return self._outcome

    def _give_up(self, _outcome: Deferred[Outcome]) -> None:
        self._end_batch(Lost(sent=True))
        self.transport.abortConnection()

    def _batch_received(self, data: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        try:
            outcome = exchange.receive(data)
        except FramingError:
            self.transport.abortConnection()
            return
        if outcome is not None:
            self._end_batch(outcome)
            if exchange.rest:
                self._forward(exchange.rest)

    def _end_batch(self, outcome: Outcome) -> None:
        exchange, self._exchange = self._exchange, None
        deferred, self._outcome = self._outcome, None
        for raw in exchange.aside if exchange else ():
            self._forward(raw)
        if deferred is not None:
            deferred.callback(outcome)


def _content(_login: Login, _heard: bool) -> None:
    """Any server will do."""


def _drop(_data: bytes) -> None:
    """There is no client any more."""


def _nothing() -> None:
    """Nobody wants to know."""

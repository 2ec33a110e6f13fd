"""The end that clients connect to, once the session runs: lanes, bytes out in order, backpressure.

The law of this module: it does what `Session` has decided, in the order of the units. While a unit is out of the
forward lane, or the client has to be held, what comes is kept and the transport is paused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, succeed

from tqdbproxy.core.caching import Entry, Fetch
from tqdbproxy.core.statement import BatchKey, Reason
from tqdbproxy.core.writebatch.types import NO_COMPANY, Alone, Company, Replied, Result, Unknown, Withdrawn
from tqdbproxy.errors import ProtocolViolation, Stopped
from tqdbproxy.postgres.capture import Capture, Sink
from tqdbproxy.postgres.clients import replies
from tqdbproxy.postgres.clients.hub import Hub, ServerEnd
from tqdbproxy.postgres.clients.session import Session
from tqdbproxy.postgres.clients.steps import Step
from tqdbproxy.postgres.described import Described
from tqdbproxy.postgres.framing import FramingError
from tqdbproxy.postgres.messages import IDLE, ready_for_query
from tqdbproxy.postgres.unit import Unit


class SessionProtocol:
    """One client's running session: its transport, its server connection, and what is under way between them."""

    __slots__ = (
        "_alone",
        "_batches",
        "_cancelled",
        "_client_gone",
        "_congested",
        "_draining",
        "_ending",
        "_fetch",
        "_forward",
        "_half_closed",
        "_held",
        "_hub",
        "_kept",
        "_key",
        "_now",
        "_read",
        "_refuse",
        "_reply",
        "_server",
        "_server_gone",
        "_session",
        "_settling",
        "_transport",
        "_waiting",
        "_write",
    )

    def __init__(self, hub: Hub, transport: Any, server: ServerEnd, session: Session, refuse: Callable[..., None]):
        self._hub = hub
        self._batches = hub.batches
        self._transport = transport
        self._server = server
        self._session = session
        self._refuse = refuse
        self._forward: Callable[[bytes], None] = server.transport.write
        self._read = session.read
        self._write: Callable[[bytes], None] = transport.write
        self._reply: Callable[[bytes], None] = transport.write_now
        self._now = hub.clock.seconds
        self._kept = b""
        self._waiting: Unit | None = None
        self._fetch: Fetch | None = None
        """What ``_waiting`` waits for, if that isn't a batch."""
        self._settling = False
        """``_waiting`` waits for what the server says of its statement."""
        self._cancelled: Deferred[None] | None = None
        """The client doesn't want it any more, and the server is about to hear that."""
        self._key: BatchKey | None = None
        """Of the last write that was meant for a batch."""
        self._alone: list[tuple[int, Callable[[], None]]] = []
        """Units that the session executes for a batch of one: their numbers, and whom to tell when they are over."""
        self._held = False
        self._congested = False
        """The client doesn't read what it is told; nor is its server read from."""
        self._client_gone = False
        self._server_gone = False
        self._half_closed = False
        self._draining = False
        self._ending = False
        """Something of the above has happened: the session ends as soon as nothing is under way."""
        server.belong_to(session, self._caught_up)
        transport.unregisterProducer()  # it was the server's connection until now
        transport.registerProducer(self, True)

    # What the client says

    def received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._waiting is not None or self._held:
            self._keep(data)
            return
        usual = self._session.usual
        if usual is not None and not self._server_gone:
            unit = usual.again(data)
            if unit is not None:  # all that `_submit` does for it was done the last time
                self._waiting = unit
                if not self._batches.submit(unit, in_company=True):
                    self._waiting = self._session.usual = None
                    self._submit(usual.step)
                return
        if self._kept:
            data = self._kept + data
            self._kept = b""
        try:
            step = self._read(data)
        except FramingError as problem:
            self._refuse(problem)
            return
        if step is None:
            self._forward(data)
        else:
            self._do(step)

    def _do(self, step: Step) -> None:
        """What `Session.read` has decided, and then what is behind it: a client may say a thousand things at once."""
        while True:
            if step.fetch is not None:
                self._await(step, step.fetch)
                return
            if step.unit is not None:
                self._submit(step)
                return
            rest = self._take(step)
            if not rest:
                return
            # As in `received`, which doesn't call this for what it only forwards: the hot path has one frame less.
            try:
                following = self._read(rest)
            except FramingError as problem:
                self._refuse(problem)
                return
            if following is None:
                self._forward(rest)
                return
            step = following

    def _take(self, step: Step) -> bytes:
        """A step that waits for nobody; what is to be read next."""
        if step.sink is not None:
            self._capture(step.sink)
        if step.forward:
            self._forward(step.forward)
        if step.local:
            self._write(step.local)
        if step.refuse:
            self._refuse(ProtocolViolation(step.refuse))
        elif step.hold:
            self._held = True
            self._keep(step.rest)
        elif step.rest and (step.forward or step.local):
            return step.rest
        else:
            self._kept = step.rest
            self._end_if_over()
        return b""

    def _keep(self, data: bytes) -> None:
        """What can't be handled yet; reading stops with the first of it."""
        self._kept += data
        self._transport.pauseProducing()

    def _resume(self) -> None:
        """Nothing is in the way any more of what was kept."""
        kept, self._kept = self._kept, b""
        if kept:
            self._transport.resumeProducing()
            self.received(kept)
        self._end_if_over()

    # The batch lane

    def _submit(self, step: Step) -> None:
        unit = step.unit
        if self._server_gone:
            return  # the connection is about to be closed
        assert unit is not None
        if step.key is None:
            self._settle(unit, step)
            return
        self._key = step.key
        if self._congested:  # as much as the server would execute for it now, and no more is kept for it
            self._forward_alone(unit, None, Reason.PIPELINE)
            self._kept = step.rest
            self._resume()
            return
        unit.server = self._server
        unit.writer = self
        unit.key = step.key
        unit.window_s = step.window_s
        finished = self._batches.alone(unit)
        if finished is not None:
            unit.counts.batched += 1
            self._forward(self._session.forward_alone(unit, NO_COMPANY))
            self._alone.append((self._session.sent, finished))
            self._kept = step.rest
            if step.rest:
                self._resume()
            return
        self._waiting = unit
        self._kept = step.rest
        if not self._batches.submit(unit):
            self._waiting = None
            self._forward_alone(unit, None, Reason.NO_CAPACITY)
            self._resume()

    def answered(self, result: Result, unit: Unit) -> None:
        """The write that left the forward lane has its result."""
        self._waiting = None
        if isinstance(result, Replied):
            self._session.batched(unit, result.company, self._now() - unit.arrived)
            self._reply(result.reply)
            if self._kept or self._ending:
                self._resume()
            return
        self._session.usual = None
        if isinstance(result, Alone):
            self._forward_alone(unit, result.company, result.reason)
            self._alone.append((self._session.sent, partial(result.finished.callback, None)))
            if self._server_gone:
                self.server_lost()
            elif self._congested:
                self._let_others_go_on()
        else:
            self._session.given_up(unit)
            if isinstance(result, Unknown):
                self._session.unknown(unit)
            self._write(replies.failure(result) + ready_for_query(self._session.status))
        self._resume()

    def _forward_alone(self, unit: Unit, company: Company | None, reason: Reason | None) -> None:
        """The session's own server executes the unit as if it had carried no hint."""
        self._forward(self._session.forward_alone(unit, company, reason))

    # A statement that the client has prepared, before others may execute it

    def _settle(self, unit: Unit, step: Step) -> None:
        """Ask the server what it takes and returns; see `Session.settled`."""
        self._waiting = unit
        self._settling = True
        self._kept = step.rest
        asked = self._server.describe(step.settle, self._session.prepared.unsent_before(step.settle))
        asked.addCallback(self._described, unit, step.settle)

    def _described(self, described: Described | None, unit: Unit, name: bytes) -> None:
        if self._server.alive and self._cancelled is not None:
            self._cancelled.addCallback(lambda _none: self._withdrawn(unit))
            return
        self._waiting = None
        self._settling = False
        if self._server.alive:  # else the session is about to end
            self._go_on(self._session.settled(unit, name, described))

    def _withdrawn(self, unit: Unit) -> None:
        """The client has cancelled it, and the server has heard that, so that it can't mean the next statement."""
        self._settling = False
        self._cancelled = None
        self.answered(Withdrawn(), unit)

    def _go_on(self, step: Step) -> None:
        """What was waited for takes its way now, and what has been kept comes behind it."""
        step.rest, self._kept = self._kept, b""
        if step.rest and step.fetch is None and step.unit is None:
            self._transport.resumeProducing()
        self._do(step)
        self._end_if_over()

    # The cache lane

    def _capture(self, sink: Sink) -> None:
        """The answer to what is sent next is for others, too."""
        if self._congested or self._server_gone:
            sink.lost()  # it wouldn't come soon, or at all
        else:
            reads = self._hub.reads
            self._server.capture(Capture(sink, reads.cache.bounds.max_entry_bytes, reads.room))

    def _await(self, step: Step, fetch: Fetch) -> None:
        """Another session fetches what this one asks for."""
        assert step.unit is not None
        step.unit.arrived = self._now()
        self._waiting = step.unit
        self._fetch = fetch
        self._kept = step.rest
        fetch.join(self)

    def _leave(self) -> Unit:
        """Wait no longer for another's fetch."""
        unit, fetch = self._waiting, self._fetch
        self._waiting = self._fetch = None
        assert unit is not None
        assert fetch is not None
        fetch.leave(self)
        return unit

    def fetched(self, entry: Entry) -> None:
        """See `core.caching.Waiter`."""
        unit = self._leave()
        self._write(self._session.recalled(unit, entry, self._now() - unit.arrived))
        self._resume()

    def not_fetched(self, *, again: bool) -> None:
        """See `core.caching.Waiter`."""
        unit = self._leave()
        self._go_on(self._session.remember(unit) if again else Step(forward=self._session.ask(unit)))

    @property
    def waiting(self) -> bool:
        """Whether a write waits for company or runs in a batch, a read for another's answer, or one to be settled."""
        return self._waiting is not None

    @property
    def state(self) -> str:
        """For operators: waiting, active, transaction or idle."""
        if self._waiting is not None:
            return "waiting"
        if self._session.sent != self._session.done:
            return "active"
        return "idle" if self._session.status == IDLE else "transaction"

    def cancel(self, key: bytes) -> Deferred[None]:
        """The client wants what it waits for to end. A write that already runs in a batch goes on.

        Fires when the request has been heard, so that it can't hit the client's next statement.
        """
        if self._waiting is None:
            return self._server.cancel(key)
        if self._fetch is not None:
            self.answered(Withdrawn(), self._leave())
        elif self._settling:
            heard = self._server.cancel(key)
            self._cancelled = self._cancelled or heard
            return heard
        else:
            self._batches.withdraw(self._waiting)
        return succeed(None)

    # The client is slow to read, or has caught up: see `twisted.internet.interfaces.IPushProducer`

    def pauseProducing(self) -> None:
        """Too much is queued for the client: what its server says can wait, others can't."""
        self._congested = True
        self._session.hush(True)
        self._server.end_capture()
        self._server.transport.pauseProducing()
        self._let_others_go_on()

    def resumeProducing(self) -> None:
        """The client has read."""
        self._congested = False
        self._session.hush(False)
        self._server.transport.resumeProducing()

    def stopProducing(self) -> None:
        """There is nobody any more to say it to."""
        self._server.transport.stopProducing()

    def _let_others_go_on(self) -> None:
        """Nobody waits any longer for what this session executes for a batch of one."""
        while self._alone:
            self._alone.pop(0)[1]()

    # What the server says

    def _caught_up(self) -> None:
        """A unit is over, and the client has all that was said about it."""
        while self._alone and self._alone[0][0] <= self._session.done:
            self._alone.pop(0)[1]()
        if self._held and self._session.sent == self._session.done:
            self._held = False
            self._resume()
        elif self._draining:
            self._end_if_over()

    # The end

    def half_closed(self) -> None:
        """The client sends no more, and may still read."""
        self._half_closed = self._ending = True
        self._end_if_over()

    def client_lost(self) -> None:
        """The client is gone. What it has sent is executed, as its server would have done."""
        self._client_gone = self._half_closed = self._ending = True
        self._write = self._reply = _drop
        if self._key is not None:
            self._batches.forget(self._key, self)
        self._server.forsake()
        if self._fetch is not None:
            self._leave()
            self._resume()
        else:
            self._end_if_over()

    def server_lost(self) -> None:
        """The server connection is gone: a write that waits elsewhere still gets its answer."""
        self._server_gone = self._ending = True
        self._forward = _drop
        self._let_others_go_on()
        self._end_if_over()

    def drain(self) -> None:
        """The proxy shuts down: end as soon as nothing is under way."""
        self._draining = self._ending = True
        self._end_if_over()

    def _end_if_over(self) -> None:
        if self._waiting is not None:
            return
        if self._server_gone:
            self._transport.loseConnection()
        elif self._held:
            return
        elif self._client_gone:
            self._server.orphan(mid_message=self._session.mid_message)
        elif self._half_closed:
            self._half_closed = False
            self._server.client_sends_no_more(mid_message=self._session.mid_message)
        elif self._draining and self._session.idle:
            self._refuse(Stopped("terminating connection due to administrator command"))


def _drop(_data: bytes) -> None:
    """Nobody is there any more."""

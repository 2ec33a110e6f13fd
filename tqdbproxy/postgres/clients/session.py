"""A session after its login: what may come next, what it means.

`Session.read` takes what the client sent and says what is to be done with it; the protocol does it. Nearly always that
is: pass all of it on, and then it says so without having made an object. The law of this module: no I/O, and only the
frames are looked into that routing needs (Query and Parse for hints and effects, Bind and Close where the session has
statements of interest).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tqdbproxy.core.metrics import CallerCounts
from tqdbproxy.core.routing import Batched, Forward, Route, Rulebook, choose
from tqdbproxy.core.statement import BatchKey, Kind, Reason
from tqdbproxy.core.writebatch.types import Company
from tqdbproxy.postgres.clients import units
from tqdbproxy.postgres.clients.history import History
from tqdbproxy.postgres.clients.local import LocalView
from tqdbproxy.postgres.clients.prepared import Prepared, PreparedStatement
from tqdbproxy.postgres.clients.status import Status
from tqdbproxy.postgres.clients.tally import Tally
from tqdbproxy.postgres.framing import (
    HEADER_SIZE,
    MAX_LENGTH,
    MIN_LENGTH,
    FramingError,
    end_of_frame,
    length_at,
    text_at,
)
from tqdbproxy.postgres.messages import (
    BIND,
    CLOSE,
    COPY_DATA,
    COPY_DONE,
    COPY_FAIL,
    DESCRIBE,
    EXECUTE,
    FAILED_TRANSACTION,
    FLUSH,
    FUNCTION_CALL,
    IDLE,
    PARSE,
    QUERY,
    SYNC,
    TERMINATE,
    Bind,
    Parse,
    close_statement,
)
from tqdbproxy.postgres.sql import PLAIN, Change, Text, Texts
from tqdbproxy.postgres.unit import Unit

CLOSE_UNNAMED = close_statement(b"")
INSPECTED = 1 << 20
"""Longer messages are passed on as they stream, unread: they can't be batched, and what they change isn't known."""

# What to do with a frame, by its type: refuse it, pass it on, wait for all of it and look at it.
REFUSE, PASS, LOOK = range(3)
_ACTIONS = dict.fromkeys((BIND, CLOSE, DESCRIBE, FLUSH, SYNC, COPY_DATA, COPY_DONE, COPY_FAIL, TERMINATE), PASS)
_ACTIONS |= dict.fromkeys((FUNCTION_CALL, EXECUTE, QUERY, PARSE), LOOK)
ACTIONS = bytes(_ACTIONS.get(kind, REFUSE) for kind in range(256))
ACTIONS_INTERESTING = bytes(
    (_ACTIONS | dict.fromkeys((BIND, CLOSE, DESCRIBE), LOOK)).get(kind, REFUSE) for kind in range(256)
)
KINDS = {
    word[:3]: kind
    for kind in (Kind.SELECT, Kind.INSERT, Kind.UPDATE, Kind.DELETE, Kind.MERGE)
    for word in (kind.value.encode(), kind.value.upper().encode(), kind.value.title().encode())
}
"""The kind of a plain text by its first letters: a guess, for the metrics alone."""
OPENING = frozenset({PARSE, BIND, DESCRIBE, EXECUTE, CLOSE})
"""After one of these a Sync is still to come."""
NEUTRAL = frozenset({FLUSH, COPY_DATA, COPY_DONE, COPY_FAIL})


@dataclass(slots=True)
class Step:
    """What to do with bytes of the client, in this order.

    ``forward`` goes to the server, ``local`` to the client. ``unit`` leaves the forward lane for a batch of ``key``.
    ``rest`` is to be given again: with what comes after it, or, if ``hold`` or if there is a unit, when that is
    answered and nothing is outstanding. ``refuse``: the client broke the protocol.
    """

    forward: bytes = b""
    local: bytes = b""
    unit: Unit | None = None
    key: BatchKey | None = None
    window_s: float = 0.0
    rest: bytes = b""
    hold: bool = False
    refuse: str = ""


class Session:
    """See the module. ``forget`` is called when the client throws all prepared statements away; ``retire`` when its
    settings have changed; ``inject`` when the
    proxy adds messages of its own to what is forwarded, with the number of their replies."""

    def __init__(
        self,
        history: History,
        texts: Texts,
        tally: Tally,
        book: Rulebook,
        now: Callable[[], float],
        forget: Callable[[], None],
        retire: Callable[[], None],
        inject: Callable[[int], None],
    ) -> None:
        self.history = history
        self._book = book
        self._texts = texts
        self._tally = tally
        self._now = now
        self._forget = forget
        self._retire = retire
        self._inject = inject
        self.prepared = Prepared()
        self.view = LocalView()
        self.status = IDLE
        self.sent = 0
        self.done = 0
        self.tracked = True
        """False: it can't be known any more how many ReadyForQuery are still to come."""
        self._skip = 0
        self._previous = SYNC
        self._last_query = 0
        self._bound_hinted = False
        self._again = units.Pattern(None, self.prepared)
        self._again_simple = units.SimplePattern()
        """The shapes of the last units that were batched; most sessions say the same thing again and again."""
        self._effects: list[tuple[int, Text]] = []
        self._timed: list[tuple[int, CallerCounts, float]] = []
        self._shard = history.group
        self._forwarded = Status(history.group, "primary")
        self._last: Status | Company = Status(history.group)

    # What the client says

    def read(self, data: bytes) -> Step | None:
        """Take bytes of the client; None: all of them are to be forwarded. Raises `FramingError`."""
        if not self._skip and self._previous not in OPENING:
            step = self._begin_again(data)
            if step is not None:
                return step
            step = self._begin(data)
            if step is not PASS_ON:
                return step
        return self._walk(data)

    def last(self) -> Status:
        """How the last statement was executed."""
        return self._last if isinstance(self._last, Status) else Status.batched(self._shard, self._last)

    @property
    def idle(self) -> bool:
        """Nothing outstanding, no transaction open."""
        return self.sent == self.done and self.status == IDLE and self._previous not in OPENING

    @property
    def mid_message(self) -> bool:
        """The last message that was passed on isn't complete."""
        return self._skip > 0

    def _begin_again(self, data: bytes) -> Step | None:
        """The quickest way of a unit that is like the last one that was batched; None: look closer."""
        if self.sent != self.done or self.status != IDLE or not self.tracked or len(data) <= HEADER_SIZE:
            return None
        again: units.SimplePattern | units.Pattern
        if data[0] == QUERY:
            again = self._again_simple
            unit = again.match(data) if again.ready else None
        else:
            again = self._again
            unit = again.match(data, self.prepared) if again.ready else None
        if unit is None or self._book.rules is not again.rules or self.history.identity is not again.key.identity:
            return None
        unit.counts = again.counts
        unit.counts.queries += 1
        return Step(b"", b"", unit, again.key, again.window_s)

    def _begin(self, data: bytes) -> Step | None:
        """A unit begins with ``data``; `PASS_ON` if it is for the forward lane's walk."""
        kind = data[0]
        if kind == QUERY:
            return self._query(data)
        if self.view.asking or (kind in OPENING and self._is_about_view(data)):
            return self._ask(data)
        if kind not in OPENING:
            # A Sync, a Flush: what follows it may use the unnamed statement.
            return self._repair_first(data) if self.prepared.unsent and kind != TERMINATE else PASS_ON
        return self._extended(data) if self.sent == self.done else PASS_ON

    def _query(self, data: bytes) -> Step | None:
        """A Query at the beginning of ``data``: the quickest way for one that is alone and plain."""
        size = len(data)
        if size < HEADER_SIZE or (end := end_of_frame(data, 0)) > size:
            return PASS_ON
        text = self._texts.look(data[HEADER_SIZE : end - 1])
        if text is PLAIN:
            if end != size:
                return PASS_ON
            self._tally.plain[KINDS.get(data[5:8], Kind.OTHER)].queries += 1
            self._query_sent()
            return None
        if text.view and self.status != FAILED_TRANSACTION:
            return self._ask_simply(data, end)
        if self.sent != self.done or not units.ends_here(data, end):
            return PASS_ON
        return self._consider(units.query(data[:end], text), data[end:])

    def _extended(self, data: bytes) -> Step | None:
        """An extended-protocol unit begins here, with nothing outstanding before it."""
        if data[0] != PARSE and not self.prepared.interesting:
            return PASS_ON
        unit = units.extended(data, self._texts, self.prepared)
        if unit is units.Shape.MORE and len(data) <= INSPECTED:
            return Step(rest=data)
        if isinstance(unit, Unit) and unit.text is not PLAIN:
            self._again = units.Pattern(unit, self.prepared)
            return self._consider(unit, data[len(unit.raw) :])
        if self.prepared.unsent and not (data[0] == PARSE and data[HEADER_SIZE : HEADER_SIZE + 1] == b"\0"):
            return self._repair_first(data)
        return PASS_ON

    def _repair_first(self, data: bytes) -> Step:
        return Step(forward=self._repair(), rest=data)

    def _is_about_view(self, data: bytes) -> bool:
        if data[0] == PARSE or self.view.known:
            head = self._again.head
            return not (head and data.startswith(head)) and self.view.concerns(data, self._is_view)
        return False

    def _is_view(self, text: bytes) -> bool:
        return self._texts.look(text).view

    def _ask(self, data: bytes) -> Step:
        """A unit about the status view, which is answered when all before it is."""
        if self.sent != self.done and self.tracked:
            return Step(rest=data, hold=True)
        local, used = self.view.answer(data, self.last(), self.status)
        if self.view.knows(b""):
            self.prepared.dropped(b"")
        return Step(local=local, rest=data[used:])

    def _ask_simply(self, data: bytes, end: int) -> Step:
        if self.sent != self.done and self.tracked:
            return Step(rest=data, hold=True)
        return Step(local=self.view.simple(self.last(), self.status), rest=data[end:])

    def _consider(self, unit: Unit, rest: bytes) -> Step | None:
        """One statement between two Syncs, nothing outstanding: choose its way."""
        text = unit.text
        counts = unit.counts = self._tally.of(text)
        counts.queries += 1
        route = self._choose(text, unit.size, alone=True)
        if isinstance(route, Batched):
            identity = self.history.identity
            assert identity is not None  # `choose` saw to it
            name = text.hints.key if text.hints else None
            key = BatchKey(identity, ("key", name) if name is not None else unit.template)
            if unit.simple:
                self._again_simple = units.SimplePattern(unit)
            again = self._again_simple if unit.simple else self._again
            again.batched(key, route.window_s, counts, self._book.rules)
            return Step(unit=unit, key=key, window_s=route.window_s, rest=rest)
        raw = self._send(unit)
        self._excluded(route, counts, self.sent)
        return Step(forward=raw, rest=rest) if rest or raw is not unit.raw else None

    def _choose(self, text: Text, size: int, *, alone: bool) -> Route:
        return choose(
            text.hints,
            text.is_write,
            text.reason,
            size,
            self._book.rules,
            in_transaction=self.status != IDLE,
            alone=alone and self.tracked,
            known=self.history.identity is not None,
        )

    def _excluded(self, route: Route, counts: CallerCounts, number: int) -> None:
        """A statement of interest is forwarded in the unit with this number: note why, and when it began."""
        self._timed.append((number, counts, self._now()))
        if isinstance(route, Forward) and route.reason is not None:
            counts.exclude(route.reason)
            self._last = Status(self._shard, "primary", reason=route.reason)

    def forward_alone(self, unit: Unit, company: Company | None, reason: Reason | None = None) -> bytes:
        """A unit that left the forward lane comes back to it: what to send."""
        raw = self._send(unit)
        self._excluded(Forward(reason), unit.counts, self.sent)
        if company is not None:
            self._last = company
        return raw

    def batched(self, unit: Unit, company: Company, seconds: float) -> None:
        """A unit was executed in a batch, and its reply is about to be sent."""
        self._last = company
        counts: CallerCounts = unit.counts
        counts.batched += 1
        counts.latency.observe(seconds)
        if unit.simple:
            self.prepared.kept_back(CLOSE_UNNAMED, None)
        elif unit.parse:
            self.view.forget(b"")
            parse = unit.raw[: end_of_frame(unit.raw, 0)]
            self.prepared.kept_back(parse, PreparedStatement(unit.text, unit.types))

    def _send(self, unit: Unit) -> bytes:
        """Book-keeping for a whole unit that goes to the server; the bytes to send."""
        repair = b""
        if unit.simple:
            self._query_sent()
        else:
            self.sent += 1
            self._last = self._forwarded
            if unit.parse:
                self.view.forget(b"")
                self.prepared.parsed(self.sent, b"", PreparedStatement(unit.text, unit.types))
            else:
                repair = self._repair()
        self._note(unit.text, self.sent, alone=True)
        return repair + unit.raw if repair else unit.raw

    def _repair(self) -> bytes:
        """The unnamed statement that the client believes in, if the server lacks it."""
        if self.prepared.unsent:
            self._inject(1)
        return self.prepared.take_unsent()

    def _query_sent(self) -> None:
        """A Query is on its way; it destroys the unnamed statement."""
        self.sent += 1
        self._last_query = self.sent
        self._previous = QUERY
        self._last = self._forwarded
        self.prepared.dropped(b"")

    def _note(self, text: Text, number: int, *, alone: bool) -> None:
        """A text is on its way to the server: remember what it may change."""
        if text.deallocates is not None:
            self.prepared.dropped(text.deallocates or None)
            if not text.deallocates:
                self._forget()
        if text.effect.change is not Change.NONE:
            idle = alone and number == self.done + 1 and self.status == IDLE and self.tracked
            if self.history.sent(text.effect, alone_and_idle=idle):
                self._effects.append((number, text))

    def _walk(self, data: bytes) -> Step | None:
        """The forward lane: one walk over the headers."""
        size = len(data)
        at = self._skip
        previous = self._previous
        actions = self._actions()
        while at + HEADER_SIZE <= size:
            kind = data[at]
            length = length_at(data, at + 1)[0]
            action = actions[kind]
            if action == REFUSE or length < MIN_LENGTH or length > MAX_LENGTH:
                return Step(forward=data[:at], refuse=_broken(kind, length))
            end = at + 1 + length
            if kind == SYNC:
                self.sent += 1
            elif action != PASS:
                if end <= size:
                    if at and previous not in OPENING and self._begins_view(kind, data, at, end):
                        break
                    self._look(kind, data, at, end, previous)
                    actions = self._actions()
                elif length <= INSPECTED:
                    break
                else:
                    self._unread(kind)
            if kind not in NEUTRAL:
                previous = kind
            at = end
        self._previous = previous
        if at >= size:
            self._skip = at - size
            return None
        self._skip = 0
        return Step(forward=data[:at], rest=data[at:])

    def _begins_view(self, kind: int, data: bytes, at: int, end: int) -> bool:
        """Whether a unit about the status view begins in the middle of what came: the walk has to stop before it."""
        if kind == QUERY:
            return self._is_view(data[at + HEADER_SIZE : end - 1])
        return (kind == PARSE or self.view.known) and self.view.concerns(data[at:end], self._is_view)

    def _actions(self) -> bytes:
        return ACTIONS_INTERESTING if self.prepared.interesting or self.view.known else ACTIONS

    def _look(self, kind: int, data: bytes, at: int, end: int, previous: int) -> None:
        """Note what a frame of the forward lane means."""
        if kind == EXECUTE:
            self._executed()
        elif kind == QUERY:
            self.tracked = self.tracked and previous not in OPENING
            self._look_at_query(self._texts.look(data[at + HEADER_SIZE : end - 1]))
        elif kind == FUNCTION_CALL:
            self.tracked = self.tracked and previous not in OPENING
            self.sent += 1
        try:
            if kind == PARSE:
                self._look_at_parse(Parse.parse(data, at, end))
            elif kind == BIND:
                self._look_at_bind(Bind.parse(data, at, end))
            elif kind == CLOSE and data[at + HEADER_SIZE : end][:1] == b"S":
                self.prepared.dropped(text_at(data, at + HEADER_SIZE + 1, end)[0])
        except FramingError:
            return  # malformed inside: the server has the words for it

    def _executed(self) -> None:
        """An Execute goes by; if it was bound to a statement with hints, it is counted already."""
        if self._bound_hinted:
            self._bound_hinted = False
        else:
            self._tally.plain[Kind.OTHER].queries += 1
            self._last = self._forwarded

    def _look_at_query(self, text: Text) -> None:
        self._query_sent()
        counts = self._tally.plain[text.kind]
        if text.hints is not None:
            counts = self._tally.of(text)
            self._excluded(self._choose(text, 0, alone=False), counts, self.sent)
        counts.queries += 1
        if text.interesting:
            self._note(text, self.sent, alone=True)

    def _look_at_parse(self, parse: Parse) -> None:
        text = self._texts.look(parse.text)
        self.view.forget(parse.name)
        statement = PreparedStatement(text, parse.types) if text is not PLAIN else None
        self.prepared.parsed(self.sent + 1, parse.name, statement)

    def _look_at_bind(self, bind: Bind) -> None:
        """In a unit that can't be batched, since it came here."""
        statement = self.prepared.bound(bind.statement)
        if statement is None:
            return
        text = statement.text
        if text.hints is not None:
            counts = self._tally.of(text)
            counts.queries += 1
            self._excluded(self._choose(text, 0, alone=False), counts, self.sent + 1)
            self._bound_hinted = True
        self._note(text, self.sent + 1, alone=False)

    def _unread(self, kind: int) -> None:
        """A message too long to be looked at goes by."""
        if kind == QUERY:
            self._query_sent()
        if kind in (QUERY, PARSE):
            self.history.known = False
            self.prepared.dropped(None)
            self.view.forget(b"")

    # What the server says

    def unit_done(self, status: int, failed: bool) -> None:
        """See `servers.connection.Owner`."""
        self.status = status
        self.done = number = self.done + 1
        if self.prepared.interesting:
            self.prepared.unit_done(number, failed)
        while self._effects and self._effects[0][0] <= number:
            text = self._effects.pop(0)[1]
            if not failed:
                self.history.took(text.effect)
                self._retire()
        while self._timed and self._timed[0][0] <= number:
            _number, counts, began = self._timed.pop(0)
            counts.latency.observe(self._now() - began)

    def parameter_changed(self, name: bytes, value: bytes) -> None:
        """See `servers.connection.Owner`."""
        self.history.reported(name, value)
        self._retire()

    def copy_began(self) -> None:
        """See `servers.connection.Owner`. In the extended protocol the server swallows Syncs during a COPY."""
        if self.done + 1 != self._last_query:
            self.tracked = False


def _broken(kind: int, length: int) -> str:
    if ACTIONS[kind] == REFUSE:
        return f"invalid frontend message type {kind}"
    return f"invalid message length {length} (message type {kind})"


PASS_ON = Step()
"""Not for any other lane."""

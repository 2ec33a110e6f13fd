"""A session after its login: what may come next, what it means.

`Session.read` takes what the client sent and says what is to be done with it; the protocol does it. Nearly always that
is: pass all of it on, and then it says so without having made an object. The law of this module: no I/O; a unit leaves
the forward lane only as a whole, with nothing outstanding before it.
"""

from __future__ import annotations

from tqdbproxy.core.caching import Entry, Fetch, Found
from tqdbproxy.core.metrics import CallerCounts
from tqdbproxy.core.routing import BECAUSE, Batched, Cached, Forward, Route
from tqdbproxy.core.statement import BatchKey, Identity, Kind, Reason
from tqdbproxy.core.writebatch.types import Company
from tqdbproxy.postgres.clients import units
from tqdbproxy.postgres.clients.prepared import CLOSE_UNNAMED, PreparedStatement
from tqdbproxy.postgres.clients.reads import Comparison, Register, end_of_names, kept_back
from tqdbproxy.postgres.clients.steps import PASS_ON, Step
from tqdbproxy.postgres.clients.underway import OPENING
from tqdbproxy.postgres.clients.walk import INSPECTED, Walk
from tqdbproxy.postgres.described import Described
from tqdbproxy.postgres.framing import HEADER_SIZE, end_of_frame, length_at
from tqdbproxy.postgres.messages import BIND, FAILED_TRANSACTION, IDLE, PARSE, QUERY
from tqdbproxy.postgres.sql import PLAIN
from tqdbproxy.postgres.unit import Unit

RECALLED = Step()
"""Taken at once, so one object serves again and again."""
NOTHING, NOTHING_SIMPLE = units.Pattern(None, None), units.SimplePattern()
KEPT_BYTES = 16384
"""Of a write that was executed no more than this is kept until the next one like it comes."""
KINDS = {
    word[:3]: kind
    for kind in (Kind.SELECT, Kind.INSERT, Kind.UPDATE, Kind.DELETE, Kind.MERGE)
    for word in (kind.value.encode(), kind.value.upper().encode(), kind.value.title().encode())
}
"""The kind of a plain text by its first letters: a guess, for the metrics alone."""


class Session(Walk):
    """One client's session."""

    __slots__ = ("_again", "_again_simple", "_mute", "_register", "_registered", "usual")

    def _start(self) -> None:
        super()._start()
        self._again = NOTHING
        self._again_simple = NOTHING_SIMPLE
        """The shapes of the last units that were batched; most sessions say the same thing again and again."""
        self.usual: units.Decided | None = None
        """The write that was answered last in a batch, or waits for that, if nothing else was said since.

        All that had to be looked at for it is as it was, but for the rules.
        """
        self._register: Register | None = None
        """Reads that this session's like has asked, by their bytes; None: it has asked none, or may not be told."""
        self._registered: Identity | None = None
        self._mute = False

    def read(self, data: bytes) -> Step | None:
        """Take bytes of the client; None: all of them are to be forwarded. Raises `FramingError`."""
        self.usual = None
        if not self._skip and self._previous not in OPENING:
            if self._register is not None:
                step = self._recall(data)
                if step is not None:
                    return step
            step = self._begin_again(data)
            if step is not None:
                return step
            step = self._begin(data)
            if step is not PASS_ON:
                return step
        return self._walk(data)

    def parameter_changed(self, name: bytes, value: bytes) -> None:
        """See `servers.connection.Owner`."""
        self.usual = None
        super().parameter_changed(name, value)

    def _begin_again(self, data: bytes) -> Step | None:
        """The quick way of a unit that is like the last one that was batched; None: look closer."""
        if self.sent != self.done or self.status != IDLE or not self.tracked or len(data) <= HEADER_SIZE:
            return None
        like: units.Decided = self._again_simple if data[0] == QUERY else self._again
        if not like.ready or like.key.identity is not self.history.identity or not like.holds(self.prepared):
            return None
        return like.step if like.again(data) is not None else None

    def _begin(self, data: bytes) -> Step | None:
        """A unit begins with ``data``; `PASS_ON` if it is for the forward lane's walk."""
        kind = data[0]
        if kind == QUERY:
            return self._query(data)
        if self.view.asking or (kind in OPENING and self._is_about_view(data)):
            return self._ask(data)
        if kind in OPENING and self.sent == self.done:
            step = self._extended(data)
            if step is not PASS_ON:
                return step
        return self._without_unnamed(data) if self.prepared.unsent else PASS_ON

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
        if text.stays and end == size:
            self._tally.plain[text.kind].queries += 1
            self._query_sent()
            self._note(text, self.sent, alone=True)
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
        if isinstance(unit, Unit) and not unit.text.stays:
            self._again = units.Pattern(unit, self.prepared)
            return self._consider(unit, data[len(unit.raw) :])
        return PASS_ON

    def _without_unnamed(self, data: bytes) -> Step | None:
        """The server lacks the unnamed statement that the client believes in: it gets it before a unit that uses it.

        Any other unit passes alone. What has become of that statement must not disturb it: its table has gone, say, or
        is locked.
        """
        end, uses = units.use_of_unnamed(data)
        if not (end or uses) and len(data) <= INSPECTED:
            return Step(rest=data)
        if not end:
            end, uses = len(data), True
        if uses and self.sent != self.done and self.tracked:
            return Step(rest=data, hold=True)
        if uses:
            return Step(forward=self._repair(), rest=data)
        step = self._walk(data[:end])
        if end == len(data):
            return step
        if step is None:
            return Step(forward=data[:end], rest=data[end:])
        step.rest += data[end:]
        return step

    def _is_about_view(self, data: bytes) -> bool:
        if data[0] == PARSE or self.view.known:
            head = self._again.head
            return not (head and data.startswith(head)) and self.view.concerns(data, self._is_view)
        return False

    def _ask(self, data: bytes) -> Step:
        """A unit about the status view, which is answered when all before it is."""
        if self.sent != self.done and self.tracked:
            return Step(rest=data, hold=True)
        local, used = self.view.answer(data, self.last(), self.status)
        if not used and len(data) > INSPECTED:
            return Step(refuse="a message about pg_tqdb_status is too long")
        if self.view.knows(b""):
            self.prepared.dropped(b"", 0)  # the server still has what it was
        return Step(local=local, rest=data[used:])

    def _ask_simply(self, data: bytes, end: int) -> Step:
        if self.sent != self.done and self.tracked:
            return Step(rest=data, hold=True)
        return Step(local=self.view.simple(self.last(), self.status), rest=data[end:])

    def _consider(self, unit: Unit, rest: bytes) -> Step | None:
        """One statement between two Syncs, nothing outstanding: choose its way."""
        counts = unit.counts = self._tally.of(unit.text)
        counts.queries += 1
        return self._way(unit, rest)

    def _way(self, unit: Unit, rest: bytes = b"") -> Step | None:
        route = self._choose(unit.text, unit.size, alone=True)
        if isinstance(route, Forward) or unit.parse or unit.simple:
            return self._route(unit, route, rest)
        name = units.statement_of(unit)
        statement = self.prepared.get(name)
        if statement is None or statement.identity != self.history.identity:
            # What its constants mean is what they meant under other settings.
            return self._route(unit, BECAUSE[Reason.SESSION_STATE], rest)
        if statement.columns is None:
            return Step(unit=unit, settle=name, rest=rest)
        return self._route(unit, route, rest)

    def _route(self, unit: Unit, route: Route, rest: bytes) -> Step | None:
        text, counts = unit.text, unit.counts
        if isinstance(route, Batched):
            identity = self.history.identity
            assert identity is not None  # `choose` saw to it
            name = text.hints.key if text.hints else None
            key = BatchKey(identity, ("key", name) if name is not None else unit.template)
            if unit.simple:
                self._again_simple = units.SimplePattern(unit)
            again = self._again_simple if unit.simple else self._again
            again.batched(key, route.window_s, counts, self._book)
            return Step(unit=unit, key=key, window_s=route.window_s, rest=rest)
        if isinstance(route, Cached):
            return self.remember(unit, rest)
        raw = self._send(unit)
        self._excluded(route, counts, self.sent)
        return Step(forward=raw, rest=rest) if rest or raw is not unit.raw else None

    def settled(self, unit: Unit, name: bytes, described: Described | None) -> Step:
        """The server has told what the statement ``name`` is, to which ``unit`` is bound: what is done with that now.

        None: it couldn't, so it gets the unit as it is, and the client what it says to that.
        """
        if described is None:
            route = self._choose(unit.text, unit.size, alone=True)
            return Step(forward=self.ask(unit) if isinstance(route, Cached) else self.forward_alone(unit, None))
        self.prepared.settle(name, described)
        counts = unit.counts
        again = units.extended(unit.raw, self._texts, self.prepared)
        assert isinstance(again, Unit)  # it was one before
        again.counts = counts
        self._again = units.Pattern(again, self.prepared)
        return self._way(again) or Step(forward=again.raw)

    def forward_alone(self, unit: Unit, company: Company | None, reason: Reason | None = None) -> bytes:
        """A unit that left the forward lane comes back to it: what to send."""
        raw = self._send(unit)
        self._excluded(Forward(reason), unit.counts, self.sent)
        if company is not None and reason is None:
            self._last = company
        return raw

    def batched(self, unit: Unit, company: Company, seconds: float) -> None:
        """A unit was executed in a batch, and its reply is about to be sent."""
        self._last = company
        counts: CallerCounts = unit.counts
        counts.batched += 1
        counts.latency.observe(seconds)
        if self._reads.active and unit.text.purges:
            self._scope.purge(unit.text.purges)
        if self.usual is None:  # else it is as it was after the last one
            self._used(unit)
        if unit.size > KEPT_BYTES:
            unit.become(b"", b"")

    def _used(self, unit: Unit) -> None:
        """What a batched unit has done to the unnamed statement; from now on its like is usual."""
        again: units.Decided = self._again_simple if unit.simple else self._again
        if unit.simple:
            self.prepared.kept_back(CLOSE_UNNAMED, None)
        elif unit.parse:
            self._kept_back(*kept_back(unit, unit.key.identity))
        if again.ready and not self._mute and again.key.identity is self.history.identity:
            self.usual = again

    def given_up(self, unit: Unit) -> None:
        """A unit ends with an error of ours, and its own server hasn't seen it.

        Its Parse, or its being a Query, has put an end to the unnamed statement before all the same.
        """
        self._kept_back(*kept_back(unit, self.history.identity))

    def unknown(self, unit: Unit) -> None:
        """It can't be known whether a unit was executed."""
        if unit.text.purges:
            self._scope.purge(unit.text.purges)

    def _kept_back(self, parse: bytes, statement: PreparedStatement | None) -> None:
        """The server hasn't seen a unit that was answered: its unnamed statement isn't what the client believes."""
        if parse:
            if statement is not None:
                self.view.forget(b"")
            self.prepared.kept_back(parse, statement)

    # The cache lane

    def _recall(self, data: bytes) -> Step | None:
        """The quickest way of a read that was asked in the same bytes; None: look closer."""
        assert self._register is not None
        if data[0] != BIND:
            hit = self._register.get(data)
        else:
            end = end_of_names(data)
            statement = self.prepared.get(data[HEADER_SIZE + 1 : end]) if end else None
            if statement is None or statement.identity is not self._registered:
                return None
            hit = self._register.get((statement.text, statement.types, statement.columns, data[end:]))
        if hit is None or hit.fresh_until <= self._now() or self.sent != self.done or self.status != IDLE:
            return None
        if not self.tracked or self.history.identity is not self._registered or self.view.asking:
            return None
        if hit.left != len(data) - length_at(data, 1)[0]:
            return None  # a Bind that lies about its length
        cache = self._reads.cache
        cache.touch(hit.entry)
        cache.counts.served_bytes += len(hit.reply)
        hit.counts.queries += 1
        self._told(hit.counts, 0.0)
        self._kept_back(hit.parse, hit.prepared)
        RECALLED.local = hit.reply
        return RECALLED

    def remember(self, unit: Unit, rest: bytes = b"") -> Step:
        """A read whose answer may come from memory: take it, wait for it, or fetch it."""
        identity = self.history.identity
        if identity is None or self._mute:
            return Step(forward=self.ask(unit), rest=rest)
        self._register = self._reads.register(identity)
        self._registered = identity
        found = self._reads.look(unit, identity)
        if isinstance(found, Fetch):
            return Step(unit=unit, fetch=found, rest=rest)
        if isinstance(found, Found) and not self._reads.to_verify():
            return Step(local=self.recalled(unit, found.entry, 0.0, stale=found.stale), rest=rest)
        sink = Comparison(self._reads, unit, found.entry.answer) if found else None
        lead = sink or self._reads.lead(unit, identity, self._scope)
        return Step(forward=self.ask(unit), sink=lead, rest=rest)

    def recalled(self, unit: Unit, entry: Entry, seconds: float, *, stale: bool = False) -> bytes:
        """A read is answered with what was kept: the reply."""
        self._told(unit.counts, seconds)
        if stale:
            self._last = self._from_memory_stale
        self._kept_back(*kept_back(unit, entry.key.identity))
        return self._reads.reply(unit, entry)

    def _told(self, counts: CallerCounts, seconds: float) -> None:
        counts.cached += 1
        counts.cache_hits += 1
        counts.latency.observe(seconds)
        self._last = self._from_memory

    def ask(self, unit: Unit) -> bytes:
        """A read that waited for another's fetch in vain asks for itself: what to send."""
        unit.counts.cache_misses += 1
        return self.forward_alone(unit, None)

    def hush(self, mute: bool) -> None:
        """The client doesn't read what it is told (or does again): it isn't told more than its server could."""
        self._mute = mute
        self._register = None
        self.usual = None

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
                statement = PreparedStatement(unit.text, unit.types, self.history.identity)
                self.prepared.parsed(self.sent, b"", statement, first=True)
                self.changing.parsed(self.sent, b"", unit.text.purges)
            elif self.prepared.unsent and not units.statement_of(unit):
                repair = self._repair()
        self._note(unit.text, self.sent, alone=True)
        return repair + unit.raw if repair else unit.raw

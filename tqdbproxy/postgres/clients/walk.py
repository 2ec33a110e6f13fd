"""The forward lane: one walk over the headers of what a client says.

The law of this module: all of it is passed on, as it came and in its order. It looks into the frames that routing needs
(Query and Parse for hints and effects, Bind and Close where the session has statements of interest), waits for those to
be complete, and stops only before a unit that must be answered by the proxy itself.
"""

from __future__ import annotations

from tqdbproxy.core.caching import EVERYTHING
from tqdbproxy.core.statement import Kind
from tqdbproxy.postgres.clients.prepared import PreparedStatement
from tqdbproxy.postgres.clients.steps import Step
from tqdbproxy.postgres.clients.underway import OPENING, UnderWay
from tqdbproxy.postgres.framing import HEADER_SIZE, MAX_LENGTH, MIN_LENGTH, FramingError, length_at, text_at
from tqdbproxy.postgres.messages import (
    BIND,
    CLOSE,
    COPY_DATA,
    COPY_DONE,
    COPY_FAIL,
    DESCRIBE,
    EXECUTE,
    FLUSH,
    FUNCTION_CALL,
    PARSE,
    QUERY,
    SYNC,
    TERMINATE,
    Bind,
    Parse,
)
from tqdbproxy.postgres.sql import PLAIN, Text

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
ACTIONS_CLOSING = bytes((_ACTIONS | {CLOSE: LOOK}).get(kind, REFUSE) for kind in range(256))
NEUTRAL = frozenset({FLUSH, COPY_DATA, COPY_DONE, COPY_FAIL})


class Walk(UnderWay):
    """A session's forward lane."""

    __slots__ = ("_bound_hinted", "_executing")

    def _start(self) -> None:
        super()._start()
        self._bound_hinted = False
        """The statement that was bound last has hints: its execution is counted."""
        self._executing = 0
        """The unit to which the last Execute belongs."""

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
                    self._unread(kind, data[at : at + INSPECTED])
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

    def _is_view(self, text: bytes) -> bool:
        return self._texts.look(text).view

    def _actions(self) -> bytes:
        if self.prepared.interesting or self.view.known:
            return ACTIONS_INTERESTING
        if self.changing.known:
            return ACTIONS_INTERESTING if self._reads.active else ACTIONS_CLOSING
        return ACTIONS

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
                self._look_at_parse(Parse.parse(data, at, end), first=previous not in OPENING)
            elif kind == BIND:
                self._look_at_bind(Bind.parse(data, at, end))
            elif kind == CLOSE and data[at + HEADER_SIZE : end][:1] == b"S":
                self._look_at_close(text_at(data, at + HEADER_SIZE + 1, end)[0])
        except FramingError:
            return  # malformed inside: the server has the words for it

    def _executed(self) -> None:
        """An Execute goes by; if it was bound to a statement with hints, it is counted already."""
        if self._changes:
            if self._executing == self.sent + 1:  # a COMMIT, perhaps, and then a BEGIN
                self._committing = self._executing
            self._executing = self.sent + 1
        if self._bound_hinted:
            self._bound_hinted = False
        else:
            self._tally.plain[Kind.OTHER].queries += 1
            self._last = self._forwarded

    def _look_at_query(self, text: Text) -> None:
        self._query_sent()
        counts = self._tally.plain[text.kind]
        if text is not PLAIN:
            counts = self._tally.of(text)
            self._excluded(self._choose(text, 0, alone=False), counts, self.sent)
        counts.queries += 1
        if text.interesting or text.purges:
            self._note(text, self.sent, alone=True)

    def _look_at_parse(self, parse: Parse, *, first: bool) -> None:
        text = self._texts.look_parsed(parse.text)
        self.view.forget(parse.name)
        statement = None
        if not text.stays:
            # Where a SET is on its way before it, it can't be told under which settings it is parsed.
            identity = None if self._effects else self.history.identity
            statement = PreparedStatement(text, parse.types, identity)
        self.prepared.parsed(self.sent + 1, parse.name, statement, first=first)
        self.changing.parsed(self.sent + 1, parse.name, text.purges)

    def _look_at_close(self, name: bytes) -> None:
        self.prepared.dropped(name, self.sent + 1)
        self.changing.closed(self.sent + 1, name)

    def _look_at_bind(self, bind: Bind) -> None:
        """In a unit that can't be batched, since it came here."""
        changed = self.changing.tags(bind.statement)
        if changed:
            self._changed(changed, self.sent + 1)
        if self.prepared.in_doubt(self.sent + 1, bind.statement):
            self.history.unknowable()
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

    def _unread(self, kind: int, data: bytes) -> None:
        """A message too long to be looked at goes by; ``data`` is what there is of it."""
        if kind == QUERY:
            self._query_sent()
        if kind == PARSE:
            self.changing.parsed(self.sent + 1, data[HEADER_SIZE:].partition(b"\0")[0], (EVERYTHING,))
        self._changed((EVERYTHING,), self.sent + (kind != QUERY))
        if kind in (QUERY, PARSE):
            self.history.unknowable()
            self.prepared.lost()
            self.view.forget(b"")


def _broken(kind: int, length: int) -> str:
    if ACTIONS[kind] == REFUSE:
        return f"invalid frontend message type {kind}"
    return f"invalid message length {length} (message type {kind})"

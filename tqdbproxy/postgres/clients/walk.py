"""The forward lane: one walk over the headers of what a client says.

The law of this module: all of it is passed on, as it came and in its order. It looks into the frames that routing needs
(Query and Parse for hints and effects, Bind and Close where the session has statements of interest), waits for those to
be complete, and stops only before a unit that must be answered by the proxy itself.
"""

from __future__ import annotations

from tqdbproxy.core.statement import Kind
from tqdbproxy.postgres.clients.prepared import PreparedStatement
from tqdbproxy.postgres.clients.steps import Step
from tqdbproxy.postgres.clients.underway import OPENING, UnderWay
from tqdbproxy.postgres.framing import HEADER_SIZE, MAX_LENGTH, MIN_LENGTH, FramingError, length_at, text_at
from tqdbproxy.postgres.functions import LARGE_OBJECT_CALLS
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
from tqdbproxy.postgres.sql import EVERYTHING, HIDDEN, PLAIN, Change, Text

INSPECTED = 1 << 20
"""Longer messages are passed on as they stream, unread: they can't be batched, and what they change isn't known.

Only their names are waited for, if these aren't as long.
"""
UNREAD = PreparedStatement(Text(effect=HIDDEN, purges=EVERYTHING))
"""What a Parse prepares that is too long to be read."""
_NAMES = {PARSE: 1, BIND: 2}
"""How many names stand at the beginning of a message; the last of them is a statement's."""
_OID_SIZE = 4

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
                elif length <= INSPECTED or _is_too_short(kind, data, at):
                    break
                else:
                    self._unread(kind, data[at : at + INSPECTED], previous)
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
            self._calls(data[at + HEADER_SIZE : end], previous)
        try:
            if kind == PARSE:
                self._look_at_parse(Parse.parse(data, at, end), previous)
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

    def _look_at_parse(self, parse: Parse, previous: int) -> None:
        text = self._texts.look_parsed(parse.text)
        self.view.forget(parse.name)
        statement = None
        if not text.stays:
            # Where a SET is on its way before it, it can't be told under which settings it is parsed.
            certain = all(effect.change is Change.TOUCH for _number, effect in self._effects)
            identity = self.history.prospect if certain else None
            statement = PreparedStatement(text, parse.types, identity)
        self.prepared.parsed(self.sent + 1, parse.name, statement, previous not in OPENING)
        self.changing.parsed(self.sent + 1, parse.name, text.purges)

    def _look_at_close(self, name: bytes) -> None:
        self.prepared.dropped(name, self.sent + 1)
        self.changing.closed(self.sent + 1, name)

    def _look_at_bind(self, bind: Bind) -> None:
        """In a unit that can't be batched, since it came here."""
        changed = self.changing.tags(bind.statement)
        if changed:
            self._changed(changed, self.sent + 1)
        statement = self._bound(bind.statement)
        if statement is None:
            return
        text = statement.text
        if text.hints is not None:
            counts = self._tally.of(text)
            counts.queries += 1
            self._excluded(self._choose(text, 0, alone=False), counts, self.sent + 1)
            self._bound_hinted = True
        self._note(text, self.sent + 1, alone=False)

    def _bound(self, name: bytes | None) -> PreparedStatement | None:
        """The statement of interest that is bound; what else ``name`` (None: it isn't known) may mean is noted."""
        if self.prepared.in_doubt(self.sent + 1, name):
            self.history.unknowable()
            return None
        return self.prepared.bound(name) if name is not None else None

    def _calls(self, function: bytes, previous: int) -> None:
        """A FunctionCall of the function whose OID stands at the beginning: it may do what a CALL may."""
        self.tracked = self.tracked and previous not in OPENING
        self.sent += 1
        if int.from_bytes(function[:_OID_SIZE], "big") not in LARGE_OBJECT_CALLS:
            self.history.unknowable()
            if self._reads.active:
                self._changed(EVERYTHING, self.sent)

    def _unread(self, kind: int, data: bytes, previous: int) -> None:
        """A message too long to be looked at goes by; ``data`` is what there is of it."""
        if kind == QUERY:
            self.tracked = self.tracked and previous not in OPENING
            self._query_sent()
            self.prepared.lost()
            self.view.forget(b"")
            self.history.unknowable()
        elif kind == FUNCTION_CALL:
            self._calls(data[HEADER_SIZE:], previous)
        elif kind == PARSE:
            self._unread_parse(_statement_name(kind, data), first=previous not in OPENING)
        elif kind == BIND:
            statement = self._bound(_statement_name(kind, data))
            if statement is not None:
                self._note(statement.text, self.sent + 1, alone=False)
        self._changed(EVERYTHING, self.sent + (kind not in (QUERY, FUNCTION_CALL)))

    def _unread_parse(self, name: bytes | None, *, first: bool) -> None:
        self.history.unknowable()
        if name is None:
            self.prepared.lost()
        else:
            self.prepared.parsed(self.sent + 1, name, UNREAD, first=first)
            self.changing.parsed(self.sent + 1, name, EVERYTHING)
            self.view.forget(name)


def _is_too_short(kind: int, data: bytes, at: int) -> bool:
    """Whether the beginning of a long message doesn't show yet what it is about."""
    have = len(data) - at
    if kind == FUNCTION_CALL:
        return have < HEADER_SIZE + _OID_SIZE
    return kind in _NAMES and have < INSPECTED and _statement_name(kind, data[at:]) is None


def _statement_name(kind: int, data: bytes) -> bytes | None:
    """The statement's name in a Parse or Bind of which only the beginning may be there."""
    at = HEADER_SIZE
    name = None
    try:
        for _ in range(_NAMES[kind]):
            name, at = text_at(data, at)
    except FramingError:
        return None
    return name


def _broken(kind: int, length: int) -> str:
    if ACTIONS[kind] == REFUSE:
        return f"invalid frontend message type {kind}"
    return f"invalid message length {length} (message type {kind})"

"""Which bytes are a unit that may leave the forward lane.

That is one Query, or ``[Parse] Bind [Describe] Execute [Close] Sync``.

The law of this module: pure; it looks at shapes and names, and asks for the rest of a unit only while what is there
can still become one.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from functools import lru_cache

from tqdbproxy.core.metrics import CallerCounts
from tqdbproxy.core.routing import Rulebook
from tqdbproxy.core.statement import BatchKey
from tqdbproxy.postgres.clients.prepared import Prepared, PreparedStatement
from tqdbproxy.postgres.clients.steps import Step
from tqdbproxy.postgres.framing import HEADER, HEADER_SIZE, FramingError, end_of_frame, frames, length_at, text_at
from tqdbproxy.postgres.messages import (
    BIND,
    CLOSE,
    DESCRIBE,
    EXECUTE,
    FLUSH,
    PARSE,
    QUERY,
    SYNC,
    TERMINATE,
    Bind,
    Parse,
)
from tqdbproxy.postgres.sql import Text, Texts
from tqdbproxy.postgres.unit import NO_LIMIT, PORTAL, STATEMENT, Unit


class Shape(Enum):
    """What the bytes are, if not a unit."""

    OTHER = "none of our business"
    MORE = "the beginning of a unit; the rest isn't there yet"
    PIPELINE = "a unit, and then another one"


KEPT_FRONTS, LARGEST_FRONT = 64, 128
"""So many sizes of one pattern's units are remembered, if its names are as short as names are."""
KEPT_OUTLINES, LARGEST_OUTLINE = 128, 256
"""So many are shared, if they have no more bytes than this."""

PARAMETER = struct.Struct("!I")
COUNT = struct.Struct("!H")

NEXT = {
    PARSE: (BIND,),
    BIND: (DESCRIBE, EXECUTE),
    DESCRIBE: (EXECUTE,),
    EXECUTE: (CLOSE, SYNC),
    CLOSE: (SYNC,),
}


def query(raw: bytes, text: Text) -> Unit:
    """The unit that is one Query message; its constants become parameters where that changes nothing."""
    lifted = text.lifted
    if lifted is None:
        return Unit(raw, text, simple=True)
    return Unit(raw, text, sql=lifted.template, types=_types(lifted.types), tail=_tail(lifted.values), simple=True)


@lru_cache(maxsize=4096)
def _types(oids: tuple[int, ...]) -> bytes:
    """Declared parameter types, raw."""
    return struct.pack(f"!H{len(oids)}I", len(oids), *oids)


def _tail(values: Sequence[bytes]) -> bytes:
    """A Bind's tail with these parameters in text format, and text results."""
    parameters = b"".join([PARAMETER.pack(len(value)) + value for value in values])
    return b"\0\0%b%b\0\0" % (COUNT.pack(len(values)), parameters)


def ends_here(data: bytes, end: int) -> bool:
    """Whether nothing but a Terminate follows: the client waits for its answer, or leaves without it."""
    return end == len(data) or (data[end] == TERMINATE and end + HEADER_SIZE == len(data))


def extended(data: bytes, texts: Texts, prepared: Prepared) -> Unit | Shape:
    """The extended-protocol unit at the beginning of ``data``. Raises `FramingError` for an impossible length."""
    places: dict[int, tuple[int, int]] = {}
    at = 0
    allowed: tuple[int, ...] = (PARSE, BIND)
    while True:
        if at + HEADER_SIZE > len(data):
            return Shape.MORE
        kind = data[at]
        if kind not in allowed:
            return Shape.OTHER
        end = end_of_frame(data, at)
        if end > len(data):
            return Shape.MORE
        if kind == SYNC:
            break
        places[kind] = (at, end)
        at, allowed = end, NEXT[kind]
    if not ends_here(data, end):
        return Shape.PIPELINE
    try:
        return _unit(data[:end], places, texts, prepared) or Shape.OTHER
    except FramingError:
        return Shape.OTHER  # malformed inside: the server has the words for it


def _unit(raw: bytes, places: dict[int, tuple[int, int]], texts: Texts, prepared: Prepared) -> Unit | None:
    bind = Bind.parse(raw, *places[BIND])
    portal, limit_at = text_at(raw, places[EXECUTE][0] + HEADER_SIZE)
    limit = raw[limit_at : places[EXECUTE][1]]
    if portal or bind.portal or len(limit) != len(NO_LIMIT):
        return None  # a name may be taken: by a cursor WITH HOLD
    describe = _describes(raw, places.get(DESCRIBE), bind)
    if describe is None or (CLOSE in places and raw[slice(*places[CLOSE])][5:] != b"P%b\0" % bind.portal):
        return None
    if PARSE in places:
        parse = Parse.parse(raw, *places[PARSE])
        if parse.name or bind.statement:
            return None
        statement: PreparedStatement | None = PreparedStatement(texts.look_parsed(parse.text), parse.types)
    else:
        statement = prepared.get(bind.statement)
    if statement is None:
        return None
    unit = Unit(
        raw,
        statement.text,
        types=statement.types,
        columns=statement.columns,
        tail=bind.tail,
        limit=limit,
        parse=PARSE in places,
        describe=describe,
        close=CLOSE in places,
    )
    unit.asks()  # raises if the Bind is malformed
    return unit


def statement_of(unit: Unit) -> bytes:
    """What the statement is called to which a unit without a Parse is bound."""
    return Bind.parse(unit.raw, 0, end_of_frame(unit.raw, 0)).statement


def use_of_unnamed(data: bytes) -> tuple[int, bool]:
    """Where the unit that begins ``data`` ends, and whether it uses the unnamed statement that was there before it.

    It ends at 0 if it isn't all there yet; what the rest does has to be feared where the client may wait for answers.
    """
    uses = replaced = flushed = False
    with suppress(FramingError):
        if data[0] not in NEXT:
            return (end_of_frame(data, 0) if len(data) >= HEADER_SIZE else len(data)), False
        for kind, begin, end in frames(data):
            what = data[begin + HEADER_SIZE : end]
            if kind == SYNC:
                return end, uses
            if (kind == PARSE and what[:1] == b"\0") or (kind == CLOSE and what == b"S\0"):
                replaced = True
            elif kind == BIND:
                uses |= not (replaced or Bind.parse(data, begin, end).statement)
            elif kind == DESCRIBE:
                uses |= not replaced and what == b"S\0"
            elif kind == FLUSH:
                flushed = True
            elif kind not in NEXT:
                return 0, True  # whatever that is
        return 0, uses or flushed
    return 0, True


class Decided(ABC):
    """A unit that was decided about, and whatever is like it.

    There is one unit for all of them: it becomes the next one when its session waits for it no more. ``ready``: it was
    batched, with what `batched` has noted.
    """

    __slots__ = ("_book", "_rules", "counts", "key", "ready", "step", "unit")

    unit: Unit

    def __init__(self, unit: Unit | None) -> None:
        """``unit`` None: nothing is like it, and it is never `ready`."""
        if unit is not None:
            self.unit = unit
        self.ready = False

    def batched(self, key: BatchKey, window_s: float, counts: CallerCounts, book: Rulebook) -> None:
        """How the unit was decided about, under these rules; its like, from the same session, is decided the same."""
        self.key, self.counts = key, counts
        self._book, self._rules = book, book.rules
        self.step = Step(unit=self.unit, key=key, window_s=window_s)
        self.ready = True

    @abstractmethod
    def again(self, data: bytes) -> Unit | None:
        """The unit, if ``data`` is like it, nothing follows, and the rules are the same; then it has become that.

        None: look closer.
        """

    def holds(self, _prepared: Prepared) -> bool:
        """Whether the statement that its like are bound to is still the same."""
        return True


class SimplePattern(Decided):
    """A Query whose constants became parameters, to recognize the next one that differs in these only."""

    __slots__ = ("_like",)

    def __init__(self, unit: Unit | None = None) -> None:
        super().__init__(unit)
        self._like = unit.text.like if unit is not None else None

    def batched(self, key: BatchKey, window_s: float, counts: CallerCounts, book: Rulebook) -> None:
        """See `Decided`."""
        super().batched(key, window_s, counts, book)
        self.ready = self._like is not None

    def again(self, data: bytes) -> Unit | None:
        """See `Decided`."""
        end = len(data) - 1
        if self._like is None or end < HEADER_SIZE or data[0] != QUERY:
            return None
        if length_at(data, 1)[0] != end or data[end] or self._book.rules is not self._rules:
            return None
        found = self._like.fullmatch(data, HEADER_SIZE, end)
        if found is None:
            return None
        self.unit.become(data, _tail(found.groups()))
        self.counts.queries += 1
        return self.unit


class Outline:
    """Where a Bind's tail begins and ends in units that differ in it only, and the bytes on both sides.

    Sessions whose clients say the same have one for all of them: what is touched for each write should be little.

    ``bind``: where the Bind begins, behind a Parse or at 0. ``names``: of the portal and the statement, as its Bind has
    them. ``after``: all that follows the Bind. ``fronts``: how the Bind begins, up to its tail, by the unit's size.
    """

    __slots__ = ("after", "begin", "behind", "bind", "fronts", "names")

    def __init__(self, bind: int, names: bytes, after: bytes) -> None:
        self.bind = bind
        self.names = names
        self.after = after
        self.behind = len(after)
        self.begin = bind + HEADER_SIZE + len(names)
        self.fronts: dict[int, bytes] = {}

    def front(self, size: int) -> bytes:
        """How the Bind of a unit of ``size`` bytes begins."""
        if size < self.begin + self.behind:
            return bytes(size + 1)  # nothing of this size begins with that
        front = HEADER.pack(b"B", size - self.behind - self.bind - 1) + self.names
        if len(front) <= LARGEST_FRONT:
            if len(self.fronts) >= KEPT_FRONTS:
                self.fronts.clear()
            self.fronts[size] = front
        return front


def outline(bind: int, names: bytes, after: bytes) -> Outline:
    """The one for all sessions, if its names are as short as names are."""
    return (_outline if len(names) + len(after) <= LARGEST_OUTLINE else Outline)(bind, names, after)


_outline = lru_cache(maxsize=KEPT_OUTLINES)(Outline)


class Pattern(Decided):
    """The shape of a unit, to recognize the next one that differs in its parameters only, in a tenth of the time.

    ``head``: its Parse frame, if it has one.
    """

    __slots__ = ("_apart", "_name", "_outline", "_returning", "_statement", "head")

    def __init__(self, unit: Unit | None, prepared: Prepared | None) -> None:
        super().__init__(unit)
        self.head = b""
        if unit is None or prepared is None:
            return
        begin = end_of_frame(unit.raw, 0) if unit.parse else 0
        end = end_of_frame(unit.raw, begin)
        bind = Bind.parse(unit.raw, begin, end)
        self.head = unit.raw[:begin]
        self._outline = outline(begin, b"%b\0%b\0" % (bind.portal, bind.statement), unit.raw[end:])
        self._apart = self._outline.begin + self._outline.behind - len(unit.sql)
        self._name = bind.statement
        self._returning = unit.text.returning
        self._statement = prepared.get(bind.statement)

    def again(self, data: bytes) -> Unit | None:
        """See `Decided`."""
        outline, unit, size = self._outline, self.unit, len(data)
        front = outline.fronts.get(size) or outline.front(size)
        if not (data.startswith(front, outline.bind) and data.endswith(outline.after)):
            return None
        if (outline.bind and not data.startswith(self.head)) or self._book.rules is not self._rules:
            return None
        unit.raw = data  # what `Unit.become` does, without the call
        unit.tail = data[outline.begin : size - outline.behind]
        unit.size = size - self._apart
        if self._returning and not _is_sound(unit):
            return None
        self.counts.queries += 1
        return unit

    def holds(self, prepared: Prepared) -> bool:
        """See `Decided`."""
        return bool(self.head) or prepared.get(self._name) is self._statement


def _is_sound(unit: Unit) -> bool:
    """Whether it can be asked for the description that it needs: its Bind isn't malformed."""
    try:
        unit.asks()
    except FramingError:
        return False
    return True


def _describes(raw: bytes, place: tuple[int, int] | None, bind: Bind) -> int | None:
    """What the Describe asks about; 0 without one, None if it asks about something else than what was bound."""
    if place is None:
        return 0
    what = raw[place[0] + HEADER_SIZE]
    if what not in (PORTAL, STATEMENT):
        return None
    name = raw[place[0] + HEADER_SIZE + 1 : place[1]]
    return what if name == (bind.portal if what == PORTAL else bind.statement) + b"\0" else None

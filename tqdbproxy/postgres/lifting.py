"""Constants -> parameters: writes that differ in their constants become one template.

The law of this module: a template is judged once, by the parser; a text is only cut and looked up. A constant is
replaced where `liftable` says so, and only if the template, parsed again, has the tree of the text with just these
constants replaced. A template is in the one spelling that `spelling` gives it, if that has the tree of the text, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tqdbproxy.core.statement import Kind
from tqdbproxy.postgres.constants import MARK, TYPES, Constants, cut
from tqdbproxy.postgres.effects import NONE, Node, nodes
from tqdbproxy.postgres.facts import Facts, judge
from tqdbproxy.postgres.liftable import places
from tqdbproxy.postgres.spelling import spelt
from tqdbproxy.postgres.sqltext import pieces

#: More parameters than this are not worth it, and PostgreSQL's limit (65535) is far.
MAX_PARAMETERS = 2000
#: Longer keys are not remembered, so such texts aren't lifted; nor are more than this many kept.
MAX_KEY = 8192

# Literals that an input function reads by the clock. In a prepared statement they would be read once and for all.
_TIMELY = re.compile(rb"now|today|tomorrow|yesterday", re.IGNORECASE)

Parse = Callable[[bytes], tuple[list[Node], str]]


@dataclass(frozen=True, slots=True)
class Lifted:
    """A text as a template with ``$1`` to ``$n``, the OIDs of their types and their values in text format."""

    template: bytes
    types: tuple[int, ...]
    values: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """What all texts with one key have in common, and those that differ from them in meaningless white space.

    ``lifts``: which of the constants become parameters. ``between``: the template's text around the constants.
    ``template``: all of it, if no constant stays. ``timely``: a literal that is no such constant is read by the clock.
    """

    facts: Facts
    lifts: tuple[bool, ...]
    types: tuple[int, ...]
    between: tuple[bytes, ...]
    template: bytes | None
    timely: bool

    def fill(self, constants: Constants) -> Lifted | None:
        """The text with these constants; None: nothing in it is lifted."""
        if self.template is not None:
            return Lifted(self.template, self.types, tuple(constants.values))
        if not self.types:
            return None
        template = _template(self.between, self.lifts, constants.raws)
        values = tuple([value for lifted, value in zip(self.lifts, constants.values, strict=True) if lifted])
        return Lifted(template, self.types, values)

    def whole(self, constants: Constants) -> bytes:
        """The text with these constants in it, in its one spelling."""
        parts = [b""] * (2 * len(self.between) - 1)
        parts[::2] = self.between
        parts[1::2] = constants.raws
        return b"".join(parts)

    def keeps_timely(self, constants: Constants) -> bool:
        """Whether a constant that stays is read by the clock."""
        if self.template is not None:
            return self.timely
        kept = (raw for lifted, raw in zip(self.lifts, constants.raws, strict=True) if not lifted)
        return self.timely or any(_TIMELY.search(raw) for raw in kept)


def is_timely(parts: list[bytes]) -> bool:
    """Whether a literal among the ``pieces`` of a text is read by the clock."""
    return any(atom[:1] in (b"'", b"$") and _TIMELY.search(atom) for atom in parts[1::2])


class Lifter:
    """The shapes seen lately, by key: at most ``limit``; the older half goes when it is full.

    ``parse`` gives the parser's tree and the encoding in which it read the bytes; what it raises is a text that can't
    be parsed.
    """

    __slots__ = ("_limit", "_parse", "_shapes")

    def __init__(self, parse: Parse, limit: int = 1024) -> None:
        self._parse = parse
        self._limit = limit
        self._shapes: dict[bytes, Shape | None] = {}

    def lift(self, text: bytes) -> Lifted | None:
        """Lift the constants of one statement without hints. None: keep the text whole."""
        parts = None if b"\0" in text else pieces(text)
        if parts is None:
            return None
        constants = cut(parts)
        shape = self.shape(constants)
        return shape.fill(constants) if shape is not None else None

    def keep_strings(self, text: bytes) -> None:
        """From now on keep all string constants of texts like this one."""
        constants = cut(pieces(text) or [b""])
        shape = self.shape(constants)
        if shape is not None:
            marks = MARK.findall(constants.key)
            lifts = tuple(lifted and mark != b"s" for lifted, mark in zip(shape.lifts, marks, strict=True))
            kept = _shape(shape.facts, marks, lifts, shape.between, shape.timely)
            for key, other in self._shapes.items():
                if other is not None and other.between == shape.between and MARK.findall(key) == marks:
                    self._shapes[key] = kept

    def shape(self, constants: Constants) -> Shape | None:
        """What is known of a text, if its constants don't matter for that; None: they do."""
        key = constants.key
        if key in self._shapes:
            return self._shapes[key]
        if len(key) > MAX_KEY:
            return None
        # Looked up once more, so that all spellings share one shape, with what is found out about it later.
        common = self._common(key)
        shape = self._shapes[common] if common in self._shapes else self._judged(common)
        self._keep(common, shape)
        self._keep(key, shape)
        return shape

    def spell(self, text: bytes) -> bytes:
        """The one spelling of a text without hints; the text itself, if its white space may mean something."""
        return self._spelt(text) if len(text) <= MAX_KEY else text

    def _spelt(self, text: bytes) -> bytes:
        parts = pieces(text)
        found = text if parts is None else spelt(parts)
        if found == text:
            return text
        try:
            return found if _bare(self._parse(found)[0], {}) == _bare(self._parse(text)[0], {}) else text
        except Exception:
            return text

    def _common(self, key: bytes) -> bytes:
        """The key of the one spelling of the texts with this key."""
        marks, between, samples = _sampled(key)
        text, _ = _joined(between, samples)
        found = self._spelt(text)
        if found == text:
            return key
        common = cut(pieces(found) or [b""]).key
        return common if MARK.findall(common) == marks else key

    def _keep(self, key: bytes, shape: Shape | None) -> None:
        if key not in self._shapes and len(self._shapes) >= self._limit:
            for old in list(self._shapes)[: max(1, self._limit // 2)]:
                del self._shapes[old]
        self._shapes[key] = shape

    def _judged(self, key: bytes) -> Shape | None:
        try:
            return self._judge(key)
        except Exception:
            # A syntax error, or syntax newer than the parser, or a tree that is too deep or unheard of: all one.
            return None

    def _judge(self, key: bytes) -> Shape | None:
        marks, between, samples = _sampled(key)
        text, starts = _joined(between, samples)
        tree, encoding = self._parse(text)
        facts = judge(tree, encoding)
        if facts.several or facts.effect is not NONE or facts.by_literal or facts.kind is Kind.OTHER:
            return None
        lifts = self._lifts(tree, between, samples, _utf8(text, starts, encoding))
        return _shape(facts, marks, lifts, between, is_timely(pieces(key) or []))

    def _lifts(
        self, tree: list[Node], between: tuple[bytes, ...], samples: list[bytes], starts: list[int]
    ) -> tuple[bool, ...]:
        nothing = (False,) * len(samples)
        if len(samples) > MAX_PARAMETERS or any("ParamRef" in node for node in nodes(tree)):
            return nothing
        allowed = frozenset(places(tree[0]["stmt"]))
        lifts = tuple(start in allowed for start in starts)
        lifted = [start for start in starts if start in allowed]
        numbers = {start: number for number, start in enumerate(lifted, 1)}
        try:
            again = self._parse(_template(between, lifts, samples))[0]
        except Exception:
            # "date '2020-01-01'" can't become "date $1".
            return nothing
        return lifts if _bare(again, {}) == _bare(tree, numbers) else nothing


def _shape(
    facts: Facts, marks: list[bytes], lifts: tuple[bool, ...], between: tuple[bytes, ...], timely: bool
) -> Shape:
    types = tuple(TYPES[mark] for mark, lifted in zip(marks, lifts, strict=True) if lifted)
    template = _template(between, lifts, marks) if types and all(lifts) else None
    return Shape(facts, lifts, types, between, template, timely)


def _sampled(key: bytes) -> tuple[list[bytes], tuple[bytes, ...], list[bytes]]:
    """The marks in a key, the text around them, and a constant for each, all different."""
    marks = MARK.findall(key)
    samples = [_sample(mark, number) for number, mark in enumerate(marks, 1001)]
    return marks, tuple(MARK.split(key)[::2]), samples


def _joined(between: tuple[bytes, ...], constants: list[bytes]) -> tuple[bytes, list[int]]:
    """The text, and where its constants begin."""
    text = bytearray(between[0])
    starts = []
    for constant, after in zip(constants, between[1:], strict=True):
        starts.append(len(text))
        text += constant + after
    return bytes(text), starts


def _template(between: tuple[bytes, ...], lifts: tuple[bool, ...], raws: list[bytes]) -> bytes:
    pieces = [between[0]]
    number = 0
    for lifted, raw, after in zip(lifts, raws, between[1:], strict=True):
        if lifted:
            number += 1
            pieces.append(b"$%d" % number)
        else:
            pieces.append(raw)
        pieces.append(after)
    return b"".join(pieces)


def _utf8(text: bytes, starts: list[int], encoding: str) -> list[int]:
    """The same places in the parser's UTF-8."""
    return starts if encoding == "utf-8" else [len(text[:start].decode(encoding).encode()) for start in starts]


def _bare(tree: Any, numbers: dict[int, int]) -> Any:
    """A tree without places; the constants at ``numbers`` as the parameters that are to take their places."""
    if isinstance(tree, list):
        return [_bare(item, numbers) for item in tree]
    if not isinstance(tree, dict):
        return tree
    constant = tree.get("A_Const")
    if constant is not None and constant.get("location", 0) in numbers:
        return {"ParamRef": {"number": numbers[constant.get("location", 0)]}}
    return {key: _bare(value, numbers) for key, value in tree.items() if key not in _PLACES}


_PLACES = frozenset(("location", "stmt_location", "stmt_len"))

_NUMBERS = {b"i": b"%d", b"l": b"%d4294967296", b"n": b"%d.5", b"e": b"%de5"}


def _sample(mark: bytes, number: int) -> bytes:
    """A constant of this kind, as a text would hold it."""
    if mark == b"s":
        return b"'%d'" % number
    return (b"-" if mark.isupper() else b"") + _NUMBERS[mark.lower()] % number

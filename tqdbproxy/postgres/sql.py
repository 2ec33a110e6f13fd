"""What a SQL text is to the proxy: its hints, its kind, what it does to its session.

The law of this module: it alone knows the SQL parser, runs it once per distinct text, and only where nothing cheaper
can tell. Whatever the bytes are, it answers; where it doubts, the answer is the careful one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain

import pgparse  # type: ignore[import-not-found, import-untyped, unused-ignore]

from tqdbproxy.core.hints import Hints, collect, pairs
from tqdbproxy.core.statement import Kind
from tqdbproxy.postgres.constants import UNKNOWN as UNKNOWN_OID
from tqdbproxy.postgres.constants import cut
from tqdbproxy.postgres.effects import HIDDEN, NONE, Change, Effect, Node
from tqdbproxy.postgres.facts import SOME, UNREADABLE, Facts, judge
from tqdbproxy.postgres.kept import Kept
from tqdbproxy.postgres.lifting import Lifted, Lifter, Shape, is_timely
from tqdbproxy.postgres.likeness import likeness
from tqdbproxy.postgres.relations import EVERYTHING, EVERYWHERE, purged_by, unite
from tqdbproxy.postgres.sqltext import BLANKS, doubtful, outer_comments, pieces, statements, uncommented
from tqdbproxy.postgres.suspicion import (
    begins_as_change,
    begins_as_write,
    head,
    is_suspicious,
    is_view,
    may_administer,
    may_change_tables,
    may_hide_a_change,
    may_prepare,
)
from tqdbproxy.postgres.text import PLAIN, UNKNOWABLE, Case, Purging, Text
from tqdbproxy.postgres.verdicts import answer, batch_reason, parsers_place

__all__ = [
    "EVERYTHING",
    "HIDDEN",
    "PLAIN",
    "SOME",
    "UNKNOWN_TYPE",
    "Change",
    "Effect",
    "Lifted",
    "Purging",
    "Text",
    "Texts",
    "parse",
    "purged_by",
]

UNKNOWN_TYPE = UNKNOWN_OID
"""OID with which the parameters for string constants are declared."""
#: Longer texts are not given to the parser: its C code recurses with the depth of an expression, and "1+1+1..." of
#: 200 kB overflows a stack of 8 MB. (Measured: 120 kB do not.)
MAX_PARSED = 32768
#: Longer comments are read each time.
MAX_COMMENTS = 1024

_FIRST_WORD = re.compile(rb"[\s(]*([a-z]+)")
_KINDS = {kind.value.encode(): kind for kind in Kind}


class Texts:
    """The texts of all sessions, by exact bytes: at most ``limit`` of them; the older half goes when it is full.

    ``known`` is for the hot path: a dict lookup there spares the call of ``look``. ``unhinted``: writes without hints
    are judged, too. ``purging``: see `Purging`.
    """

    __slots__ = (
        "_alike",
        "_changes",
        "_comments",
        "_eager",
        "_lifter",
        "_limit",
        "_matters",
        "_max_hint_ms",
        "_parsed",
        "_purging",
        "_unhinted",
        "known",
    )

    def __init__(
        self,
        limit: int = 4096,
        max_hint_ms: float = 1000.0,
        *,
        unhinted: bool = False,
        purging: Purging = Purging.OFF,
    ) -> None:
        self.known = Kept(limit)
        self._parsed = Kept(limit)
        self._limit = limit
        self._lifter = Lifter(parse)
        self._alike: dict[bytes, tuple[Text, Lifted, re.Pattern[bytes] | None, Shape]] = {}
        self._changes: dict[bytes, Text] = {}
        self._comments: dict[tuple[bytes, ...], tuple[Hints | None, tuple[bool, ...]]] = {}
        self._set(max_hint_ms, unhinted, purging)

    def look(self, text: bytes) -> Text:
        """What this text is. A text without comments that can't change its session costs well under a microsecond."""
        found = self.known.get(text)
        if found is not None:
            return found
        if text.find(b"/*") < 0:
            lower = text.lower()
            if not is_suspicious(lower):
                matters = self._matters
                # The second is for speed: it spares most SELECTs a call, 0.2 us.
                if matters is None or (lower.startswith(b"select") and lower.find(b"into") < 0) or not matters(lower):
                    return PLAIN
                if not self._unhinted and (change := self._by_head(text, self.known)) is not None:
                    return change
        return self._study(text, self.known, self._eager)

    def look_parsed(self, text: bytes) -> Text:
        """The same for the text of a Parse message."""
        if self._purging is not Purging.PARSED:
            return self.look(text)
        found = self._parsed.get(text)
        if found is not None:
            return found
        if text.find(b"/*") < 0:
            lower = text.lower()
            if not is_suspicious(lower):
                if not begins_as_change(lower):
                    return PLAIN
                if not self._unhinted and (change := self._by_head(text, self._parsed)) is not None:
                    return change
        return self._study(text, self._parsed, True)

    def judge(self, *, max_hint_ms: float, unhinted: bool, purging: Purging = Purging.OFF) -> None:
        """Judge by these settings from now on."""
        if (max_hint_ms, unhinted, purging) != (self._max_hint_ms, self._unhinted, self._purging):
            self._set(max_hint_ms, unhinted, purging)
            for memory in (self.known, self._parsed, self._comments, self._alike, self._changes):
                memory.clear()

    def keep_strings(self, text: Text) -> None:
        """From now on lift only the numbers of texts like this one.

        For a template of which one parameter that was declared as unknown turned out to be an ``interval``: see
        `tqdbproxy.postgres.liftable`.
        """
        self._lifter.keep_strings(text.stripped)
        self._alike.clear()
        template = text.lifted.template if text.lifted is not None else None
        self.known.forget(template)
        self._parsed.forget(template)

    def _set(self, max_hint_ms: float, unhinted: bool, purging: Purging) -> None:
        self._max_hint_ms = max_hint_ms
        self._unhinted = unhinted
        self._purging = purging
        self._eager = purging is Purging.ALL
        self._matters = begins_as_change if self._eager else begins_as_write if unhinted else None

    def _by_head(self, text: bytes, memory: Kept) -> Text | None:
        """What one statement without hints is that changes nothing but a table; None: its head doesn't tell.

        The rest isn't lexed, and texts without parameters aren't kept: such ones come in endless variety, and are long.
        """
        found = head(text)
        if found is None:
            return None
        change = self._change(*found)
        if len(text) < MAX_COMMENTS and text.find(b"$1") >= 0:
            memory.keep(text, change)
        return change

    def _change(self, beginning: bytes, table: bytes) -> Text:
        """What a change of this table is, as it is spelt here."""
        change = self._changes.get(beginning)
        if change is None:
            change = Text(_guess(beginning.lower()), purges=_facts(b"DELETE FROM " + table).purges)
            if len(self._changes) >= self._limit:
                self._changes.clear()
            if len(beginning) <= MAX_COMMENTS:
                self._changes[beginning] = change
        return change

    def _study(self, text: bytes, memory: Kept, eager: bool) -> Text:
        """Look closely. ``eager``: the tables that it changes matter, even if no hint asks."""
        parts = None if b"\0" in text else pieces(text)
        if parts is None:
            found = _unknowable(text.lower(), eager)
        else:
            found = self._like(parts, text) or self._judged(text, parts, eager)
        memory.keep(text, found)
        return found

    def _like(self, parts: list[bytes], text: bytes) -> Text | None:
        """A text that differs from one seen before in lifted constants only: half of the way can be left out."""
        if b"\\" in text:
            return None
        constants = cut(parts.copy())
        found = self._alike.get(constants.key)
        if found is None:
            return None
        old, as_before, like, shape = found
        lifted = Lifted(as_before.template, as_before.types, tuple(constants.values))
        stripped = shape.whole(constants)
        return Text(
            old.kind, old.hints, NONE, False, True, None, old.returning, stripped, None, lifted, like,
            False, old.read_reason, (), old.purges,
        )  # fmt: skip

    def _judged(self, text: bytes, parts: list[bytes], eager: bool) -> Text:
        hints, places = self._hints(parts)
        asks = hints is not None and hints.asks
        matters = asks
        doubt = b"\\" in text and doubtful(parts)
        if not asks and (self._unhinted or eager):
            bare = uncommented(parts)
            lower = bare.lower()
            asks = self._unhinted and begins_as_write(lower)
            suspicious = is_suspicious(lower)
            matters = asks or (eager and (suspicious or may_change_tables(lower)))
            if matters and not (asks or suspicious or doubt) and (found := head(bare)) is not None:
                change = self._change(*found)
                if hints is None:
                    return change
                return Text(change.kind, hints, stripped=_stripped(_kept(parts, places)), purges=change.purges)
        if matters and not doubt:
            like = self._by_shape(parts, places, hints, asks)
            if like is not None:
                if asks:
                    self._remember(parts, text, like, places)
                return like
        return self._whole(Case(text, parts, places, hints, asks, eager, doubt))

    def _remember(self, parts: list[bytes], text: bytes, found: Text, places: list[int]) -> None:
        """Keep what texts like this one have in common, if all of their constants are lifted and none matters."""
        lifted = found.lifted
        if lifted is None or found.reason is not None or b"\\" in text or len(text) > MAX_COMMENTS:
            return
        marked = parts.copy()
        constants = cut(marked)
        shape = self._lifter.shape(cut(_kept(parts, places)))
        if shape is None or len(constants.values) != len(lifted.values):
            return
        if len(self._alike) >= self._limit:
            self._alike.clear()
        self._alike[constants.key] = (found, lifted, likeness(b"".join(marked)), shape)

    def _by_shape(self, parts: list[bytes], places: list[int], hints: Hints | None, asks: bool) -> Text | None:
        """The text by what is known of its like; None: its constants matter."""
        constants = cut(_kept(parts, places))
        shape = self._lifter.shape(constants)
        if shape is None:
            return None
        facts = shape.facts
        stripped = shape.whole(constants) if facts.is_write else _stripped(_kept(parts, places))
        if facts.kind is Kind.SELECT and is_view(stripped):
            return None
        purges = self._purges(hints, facts.purges)
        if not asks:
            if hints is None:
                return Text(facts.kind, purges=purges) if purges else PLAIN
            return Text(facts.kind, hints, stripped=stripped, purges=purges)
        reason = batch_reason(facts, shape.keeps_timely(constants), 0)
        lifted = shape.fill(constants) if facts.is_write else None
        return Text(
            facts.kind, hints, NONE, False, facts.is_write, reason, facts.returning, stripped, None, lifted, None,
            *answer(facts, hints, False, 0), purges,
        )  # fmt: skip

    def _whole(self, case: Case) -> Text:
        """The text as it is, constants and all."""
        bare = uncommented(case.parts)
        lower = bare.lower()
        # Where a literal ends decides what is a comment, too.
        suspicious = case.doubt and may_hide_a_change(case.text)
        if is_suspicious(lower):
            if is_view(bare):
                return Text(kind=Kind.SELECT, hints=case.hints, view=True, stripped=b"SELECT * FROM pg_tqdb_status")
            suspicious = suspicious or any(is_suspicious(one.lower()) for one in statements(case.parts))
        several = b";" in (case.text if case.doubt else b"".join(case.parts[::2])).rstrip(BLANKS + b";")
        changes = (case.asks or case.eager) and (begins_as_change(lower) or several)
        if case.hints is None and not (case.asks or suspicious or changes):
            return PLAIN
        plain = Text(_guess(lower), case.hints, stripped=_stripped(_kept(case.parts, case.places)))
        if not (case.asks or suspicious or changes):
            return plain
        unread: tuple[str, ...] = _unreadable(lower) if changes else ()
        if changes and not several and (found := head(bare)) is not None:
            unread = self._change(*found).purges
        return self._by_parser(case, plain, suspicious, unread)

    def _by_parser(self, case: Case, plain: Text, suspicious: bool, tables: tuple[str, ...]) -> Text:
        """``tables``: what it may change, if the parser can't tell."""
        text, parts, places, hints, asks, eager, doubt = case
        facts = _facts(text)
        unread = facts is UNREADABLE or doubt
        hinted_at = parsers_place(text, len(b"".join(parts[: places[0]]))) if places else 0
        reason = batch_reason(facts, doubt or is_timely(parts), hinted_at) if asks else None
        is_read, read_reason, tags = answer(facts, hints, doubt, hinted_at)
        purges = self._purges(hints, tables if unread else facts.purges if asks or eager else ())
        if unread:
            effect = HIDDEN if suspicious else NONE
            names = may_prepare(uncommented(parts)) if suspicious else ()
            prepares = self._when_executed(hints, ((name, EVERYTHING) for name in names))
            return replace(
                plain, reason=reason, effect=effect, read_reason=read_reason, purges=purges, prepares=prepares
            )
        if not asks and not suspicious:
            if hints is not None:
                return replace(plain, kind=facts.kind, effect=facts.effect, purges=purges)
            return Text(facts.kind, effect=facts.effect, purges=purges) if purges or facts.effect is not NONE else PLAIN
        stripped = self._lifter.spell(plain.stripped) if facts.is_write and reason is None else plain.stripped
        return Text(
            facts.kind, hints, facts.effect, False, facts.is_write, reason, facts.returning, stripped,
            facts.deallocates, None, None, is_read, read_reason, tags, purges,
            self._when_executed(hints, facts.prepares),
        )  # fmt: skip

    def _when_executed(
        self, hints: Hints | None, prepared: Iterable[tuple[bytes, tuple[str, ...]]]
    ) -> tuple[tuple[bytes, tuple[str, ...]], ...]:
        return tuple((name, self._purges(hints, tables)) for name, tables in prepared)

    def _purges(self, hints: Hints | None, tables: tuple[str, ...]) -> tuple[str, ...]:
        """What a text with these hints purges that changes these tables."""
        if self._purging is Purging.OFF:
            tables = ()
        return unite([tables, *map(purged_by, hints.purge)]) if hints is not None and hints.purge else tables

    def _hints(self, parts: list[bytes]) -> tuple[Hints | None, list[int]]:
        """The hints of a text, and which of its parts are the comments that hold them."""
        places = outer_comments(parts)
        if not places:
            return None, places
        comments = tuple([parts[index] for index in places])
        known = self._comments.get(comments)
        if known is None:
            if len(self._comments) >= self._limit:
                self._comments.clear()
            found = [pairs(comment[2:-2].decode(errors="replace")) for comment in comments]
            known = collect(chain.from_iterable(found), self._max_hint_ms), tuple(map(bool, found))
            if sum(map(len, comments)) <= MAX_COMMENTS:
                self._comments[comments] = known
        return known[0], [index for index, is_hint in zip(places, known[1], strict=True) if is_hint]


def parse(text: bytes) -> tuple[list[Node], str]:
    """The parser's tree, and the encoding in which it read the bytes.

    Bytes that aren't UTF-8 are given to it as Latin-1: to it, all that isn't ASCII is a letter. Raises whatever keeps a
    text from being parsed.
    """
    if len(text) > MAX_PARSED:
        raise ValueError(len(text))
    try:
        decoded, encoding = text.decode(), "utf-8"
    except UnicodeDecodeError:
        decoded, encoding = text.decode("latin-1"), "latin-1"
    return pgparse.parse(decoded), encoding


def normalized(text: bytes) -> str:
    """A text for logs: its constants, which may be nobody's business, are parameters. Empty if it can't be parsed."""
    try:
        return str(pgparse.normalize(text[:MAX_PARSED].decode(errors="replace")))
    except Exception:
        return ""


def _facts(text: bytes) -> Facts:
    try:
        return judge(*parse(text))
    except Exception:
        # A syntax error, or syntax that is newer than the parser, or a tree that is too deep or unheard of: all one.
        return UNREADABLE


def _unknowable(lower: bytes, eager: bool) -> Text:
    """What has a literal without an end: a syntax error, unless standard_conforming_strings is off."""
    changes = eager and may_change_tables(lower)
    if is_suspicious(lower):
        return Text(effect=HIDDEN, purges=_unreadable(lower)) if changes else UNKNOWABLE
    return Text(purges=_unreadable(lower)) if changes else PLAIN


def _unreadable(lower: bytes) -> tuple[str, ...]:
    """What a text in lower case purges of which only that is known that it changes something."""
    return EVERYWHERE if may_administer(lower) else EVERYTHING


def _kept(parts: list[bytes], places: list[int]) -> list[bytes]:
    """A copy without the hints."""
    kept = parts.copy()
    for index in places:
        kept[index] = b" "
    return kept


def _stripped(kept: list[bytes]) -> bytes:
    return b"".join(kept).strip(BLANKS).rstrip(BLANKS + b";")


def _guess(lower: bytes) -> Kind:
    match = _FIRST_WORD.match(lower)
    return _KINDS.get(match[1], Kind.OTHER) if match else Kind.OTHER

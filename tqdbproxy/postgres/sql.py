"""What a SQL text is to the proxy: its hints, its kind, what it does to its session.

The law of this module: it alone knows the SQL parser, runs it once per distinct text, and only where nothing cheaper
can tell. Whatever the bytes are, it answers; where it doubts, the answer is the careful one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import chain

import pgparse  # type: ignore[import-not-found, import-untyped, unused-ignore]

from tqdbproxy.core.hints import Hints, collect, pairs
from tqdbproxy.core.statement import Kind, Reason
from tqdbproxy.postgres.constants import UNKNOWN as UNKNOWN_OID
from tqdbproxy.postgres.constants import cut
from tqdbproxy.postgres.effects import NONE, UNKNOWN, Change, Effect, Node
from tqdbproxy.postgres.facts import UNREADABLE, Facts, judge
from tqdbproxy.postgres.lifting import Lifted, Lifter, is_timely
from tqdbproxy.postgres.likeness import likeness
from tqdbproxy.postgres.sqltext import BLANKS, doubtful, outer_comments, pieces, statements, uncommented
from tqdbproxy.postgres.suspicion import begins_as_write, is_suspicious, is_view, may_hide_a_change

__all__ = ["PLAIN", "UNKNOWN_TYPE", "Change", "Effect", "Lifted", "Text", "Texts", "parse"]

UNKNOWN_TYPE = UNKNOWN_OID
"""OID with which the parameters for string constants are declared."""
#: Longer texts are not given to the parser: its C code recurses with the depth of an expression, and "1+1+1..." of
#: 200 kB overflows a stack of 8 MB. (Measured: 120 kB do not.)
MAX_PARSED = 32768
#: Longer texts are not remembered, and all remembered ones together are not longer than the second.
MAX_KEPT = 65536
MAX_KEPT_TOTAL = 16 << 20
#: Longer comments are read each time.
MAX_COMMENTS = 1024

_FIRST_WORD = re.compile(rb"[\s(]*([a-z]+)")
_KINDS = {kind.value.encode(): kind for kind in Kind}


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """What is known of one SQL text; compared by identity, one object per distinct text (but for ``PLAIN``).

    ``kind``: of the single statement; without a hint that asks for something it is only guessed from the first word.
    ``is_write``, ``reason``, ``returning``: judged only where a hint asks for something. ``reason``: why a batch hint
    can't be followed, as far as the text tells. ``view``: the status view is asked. ``stripped``: the text without its
    hints. ``deallocates``: the SQL-level prepared statement that goes; ``b""``: all of them. ``lifted``: a write as a
    template with its constants as parameters; None: keep ``stripped`` whole. ``like``: matches texts that differ in the
    lifted values only, and gives these as its groups.
    """

    kind: Kind = Kind.OTHER
    hints: Hints | None = None
    effect: Effect = NONE
    view: bool = False
    is_write: bool = False
    reason: Reason | None = None
    returning: bool = False
    stripped: bytes = b""
    deallocates: bytes | None = None
    lifted: Lifted | None = None
    like: re.Pattern[bytes] | None = None

    @property
    def interesting(self) -> bool:
        """Whether a session has to note that it was sent, hints aside."""
        return self.view or self.effect is not NONE or self.deallocates is not None


#: What all uninteresting texts are.
PLAIN = Text()
_UNKNOWABLE = Text(effect=UNKNOWN)


class Texts:
    """The texts of all sessions, by exact bytes: at most ``limit`` of them; the older half goes when it is full.

    ``known`` is for the hot path: a dict lookup there spares the call of ``look``. ``unhinted``: writes without hints
    are judged, too.
    """

    __slots__ = ("_alike", "_comments", "_kept_bytes", "_lifter", "_limit", "_max_hint_ms", "_unhinted", "known")

    def __init__(self, limit: int = 4096, max_hint_ms: float = 1000.0, *, unhinted: bool = False) -> None:
        self.known: dict[bytes, Text] = {}
        self._limit = limit
        self._max_hint_ms = max_hint_ms
        self._kept_bytes = 0
        self._unhinted = unhinted
        self._lifter = Lifter(parse)
        self._alike: dict[bytes, tuple[Text, Lifted, re.Pattern[bytes] | None, list[int]]] = {}
        self._comments: dict[tuple[bytes, ...], tuple[Hints | None, tuple[bool, ...]]] = {}

    def look(self, text: bytes) -> Text:
        """What this text is. A text without comments that can't change its session costs well under a microsecond."""
        found = self.known.get(text)
        if found is not None:
            return found
        if text.find(b"/*") < 0:
            lower = text.lower()
            if not is_suspicious(lower) and not (self._unhinted and begins_as_write(lower)):
                return PLAIN
        found = self._study(text)
        self._keep(text, found)
        return found

    def judge(self, *, max_hint_ms: float, unhinted: bool) -> None:
        """Judge by these settings from now on."""
        if (max_hint_ms, unhinted) != (self._max_hint_ms, self._unhinted):
            self._max_hint_ms, self._unhinted = max_hint_ms, unhinted
            self.known.clear()
            self._comments.clear()
            self._alike.clear()

    def keep_strings(self, text: Text) -> None:
        """From now on lift only the numbers of texts like this one.

        For a template of which one parameter that was declared as unknown turned out to be an ``interval``: see
        `tqdbproxy.postgres.liftable`.
        """
        self._lifter.keep_strings(text.stripped)
        self._alike.clear()
        template = text.lifted.template if text.lifted is not None else None
        for old in [old for old, found in self.known.items() if found.lifted and found.lifted.template == template]:
            del self.known[old]

    def _keep(self, text: bytes, found: Text) -> None:
        if len(text) > MAX_KEPT:
            return
        known = self.known
        if len(known) >= self._limit or self._kept_bytes > MAX_KEPT_TOTAL:
            for old in list(known)[: max(1, len(known) // 2)]:
                del known[old]
            self._kept_bytes = sum(map(len, known))
        known[text] = found
        self._kept_bytes += len(text)

    def _study(self, text: bytes) -> Text:
        parts = None if b"\0" in text else pieces(text)
        if parts is None:
            # A syntax error, unless standard_conforming_strings is off.
            return _UNKNOWABLE if is_suspicious(text.lower()) else PLAIN
        found = self._like(parts, text)
        if found is not None:
            return found
        hints, places = self._hints(parts)
        asks = hints is not None and hints.asks
        if self._unhinted and not asks:
            asks = begins_as_write(uncommented(parts).lower())
        doubt = b"\\" in text and doubtful(parts)
        if asks and not doubt:
            found = self._by_shape(parts, places, hints)
            if found is not None:
                self._remember(parts, text, found, places)
                return found
        return self._whole(text, parts, places, hints, asks, doubt)

    def _like(self, parts: list[bytes], text: bytes) -> Text | None:
        """A text that differs from one seen before in lifted constants only: half of the way can be left out."""
        if b"\\" in text:
            return None
        constants = cut(parts.copy())
        found = self._alike.get(constants.key)
        if found is None:
            return None
        old, as_before, like, places = found
        lifted = Lifted(as_before.template, as_before.types, tuple(constants.values))
        stripped = _stripped(_kept(parts, places))
        return Text(old.kind, old.hints, NONE, False, True, None, old.returning, stripped, None, lifted, like)

    def _remember(self, parts: list[bytes], text: bytes, found: Text, places: list[int]) -> None:
        """Keep what texts like this one have in common, if all of their constants are lifted and none matters."""
        lifted = found.lifted
        if lifted is None or found.reason is not None or b"\\" in text or len(text) > MAX_COMMENTS:
            return
        marked = parts.copy()
        constants = cut(marked)
        if len(constants.values) != len(lifted.values):
            return
        if len(self._alike) >= self._limit:
            self._alike.clear()
        self._alike[constants.key] = (found, lifted, likeness(b"".join(marked)), places)

    def _by_shape(self, parts: list[bytes], places: list[int], hints: Hints | None) -> Text | None:
        """The text by what is known of its like; None: its constants matter."""
        kept = _kept(parts, places)
        stripped = _stripped(kept)
        constants = cut(kept)
        shape = self._lifter.shape(constants)
        if shape is None or (shape.facts.kind is Kind.SELECT and is_view(stripped)):
            return None
        facts = shape.facts
        reason = _reason(facts, shape.keeps_timely(constants), 0)
        lifted = shape.fill(constants) if facts.is_write else None
        return Text(
            facts.kind, hints, NONE, False, facts.is_write, reason, facts.returning, stripped, None, lifted
        )  # fmt: skip

    def _whole(
        self, text: bytes, parts: list[bytes], places: list[int], hints: Hints | None, asks: bool, doubt: bool
    ) -> Text:
        """The text as it is, constants and all."""
        bare = uncommented(parts)
        lower = bare.lower()
        suspicious = doubt and may_hide_a_change(bare)
        if is_suspicious(lower):
            if is_view(bare):
                return Text(kind=Kind.SELECT, hints=hints, view=True, stripped=b"SELECT * FROM pg_tqdb_status")
            suspicious = suspicious or any(is_suspicious(one.lower()) for one in statements(parts))
        if hints is None and not suspicious and not asks:
            return PLAIN
        stripped = _stripped(_kept(parts, places))
        plain = Text(kind=_guess(lower), hints=hints, stripped=stripped)
        if not asks and not suspicious:
            return plain
        facts = _facts(text)
        hinted_at = _parsers_place(text, len(b"".join(parts[: places[0]]))) if places else 0
        reason = _reason(facts, doubt or is_timely(parts), hinted_at) if asks else None
        if facts is UNREADABLE or doubt:
            return replace(plain, reason=reason, effect=UNKNOWN if suspicious else NONE)
        return Text(
            kind=facts.kind,
            hints=hints,
            effect=facts.effect,
            is_write=facts.is_write,
            reason=reason,
            returning=facts.returning,
            stripped=stripped,
            deallocates=facts.deallocates,
        )

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


def _facts(text: bytes) -> Facts:
    try:
        return judge(*parse(text))
    except Exception:
        # A syntax error, or syntax that is newer than the parser, or a tree that is too deep or unheard of: all one.
        return UNREADABLE


def _reason(facts: Facts, unsafe: bool, hinted_at: int) -> Reason | None:
    if facts.several:
        begun = facts.begins is not None and facts.begins < hinted_at
        return Reason.TRANSACTION if begun else Reason.MULTI_STATEMENT
    if facts is UNREADABLE:
        return Reason.UNSAFE
    if not facts.is_write:
        return Reason.NOT_A_WRITE
    return Reason.UNSAFE if unsafe or not facts.safe else None


def _parsers_place(text: bytes, place: int) -> int:
    """Where in the parser's UTF-8 this place of a text is."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return len(text[:place].decode("latin-1").encode())
    return place


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

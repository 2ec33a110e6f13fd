"""What all sessions' reads from memory share: the answers, and the exact bytes that ask for them.

The law of this module: a reply is put together for one unit from the server's own bytes; a session is never looked
into. What is found by exact bytes is checked for nothing but its age, so it is listed under all that it depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from weakref import WeakValueDictionary

from tqdbproxy.core.caching import Cache, Entry, Fetch, Found, Scope
from tqdbproxy.core.metrics import CallerCounts
from tqdbproxy.core.statement import CacheKey, Identity
from tqdbproxy.logs import logger
from tqdbproxy.postgres.capture import Answer, Room
from tqdbproxy.postgres.clients.prepared import CLOSE_UNNAMED, PreparedStatement
from tqdbproxy.postgres.framing import HEADER_SIZE, end_of_frame, length_at
from tqdbproxy.postgres.sql import normalized
from tqdbproxy.postgres.unit import STATEMENT, Unit

log = logger(__name__)

MAX_REMEMBERED = 1 << 14
"""Longer replies are put together anew for each asker, rather than kept a second time."""
QUIET_S = 60.0
"""How long a statement whose answer turned out to be wrong is not logged again."""
MAX_TOLD = 1000
"""Statements of which it is known when they were logged last."""


class Hit:
    """A reply for whoever says the same bytes as ``unit``, until ``fresh_until``."""

    __slots__ = ("counts", "entry", "fresh_until", "left", "parse", "prepared", "reply")

    def __init__(self, entry: Entry, unit: Unit, reply: bytes, fresh_until: float) -> None:
        self.entry = entry
        self.reply = reply
        self.fresh_until = fresh_until
        self.counts: CallerCounts = unit.counts
        self.parse, self.prepared = kept_back(unit, entry.key.identity)
        self.left = len(unit.raw) - length_at(unit.raw, 1)[0]
        """By how much the unit is longer than its first frame says of itself."""


class Register(dict[Hashable, Hit]):
    """Hits by `name_of`, for the sessions of one identity; gone with the last of these, and of the hits."""

    __slots__ = ("__weakref__",)


class Reads:
    """See the module.

    :param begun: called before the first read is kept: from now on it matters what writes change.
    :param chance: gives numbers below 1. ``verified`` is the share of answers that are also asked from the server.
    """

    def __init__(
        self, cache: Cache, now: Callable[[], float], begun: Callable[[], None], chance: Callable[[], float]
    ) -> None:
        self.cache = cache
        self.now = now
        self.room = Room(cache.bounds.max_bytes)
        """For the answers on their way, beside those that are kept."""
        self.verified = 0.0
        self.active = False
        """Reads were asked for, so it has to be known what writes change."""
        self._begun = begun
        self._chance = chance
        self._registers: WeakValueDictionary[Identity, Register] = WeakValueDictionary()
        self._told: dict[str, float] = {}

    def register(self, identity: Identity) -> Register:
        """What is found by exact bytes."""
        return self._registers.setdefault(identity, Register())

    def look(self, unit: Unit, identity: Identity) -> Found | Fetch | None:
        """An answer, or the fetch to wait for; None: `lead` one."""
        key = _key(unit, identity)
        return self.cache.look(key, _ttl_s(unit)) or self.cache.fetch(key)

    def lead(self, unit: Unit, identity: Identity, scope: Scope) -> Fetch:
        """The asker's own server is asked now."""
        if not self.active:
            self.active = True
            self._begun()
        # Its identity, too: answers to sessions that are gone may be all that keeps it.
        size = len(unit.sql) + len(unit.tail) + len(unit.columns or b"") + identity.size
        return self.cache.lead(_key(unit, identity), scope, unit.text.tags, size)

    def reply(self, unit: Unit, entry: Entry) -> bytes:
        """The reply to ``unit``; found by its bytes the next time, if that is any use."""
        answer: Answer = entry.answer
        reply = unit.reply(answer.described, answer.rows, answer.complete)
        self.cache.counts.served_bytes += len(reply)
        name = name_of(unit)
        if name is not None and len(reply) <= MAX_REMEMBERED and not self.verified:
            hit = Hit(entry, unit, reply, entry.began + _ttl_s(unit))
            entry.also(self.register(entry.key.identity), name, hit, len(unit.raw) + len(reply))
        return reply

    def to_verify(self) -> bool:
        """Whether this answer is one of those about which the server is asked, too."""
        return self.verified > 0 and self._chance() < self.verified

    def compare(self, unit: Unit, kept: Answer, asked: Answer) -> None:
        """The server was asked for what is kept, and has said this."""
        result = "same" if kept == asked else "reordered" if kept.in_order() == asked.in_order() else "different"
        self.cache.counts.verified[result] += 1
        template = normalized(unit.text.stripped)
        now = self.now()
        if result == "different" and now - self._told.get(template, -QUIET_S) >= QUIET_S:
            if len(self._told) >= MAX_TOLD:
                self._told.clear()
            self._told[template] = now
            log.warn("an answer from memory was not true any more: {statement}", statement=template)


class Comparison:
    """Compares what the server says with what was kept; see `capture.Sink`."""

    __slots__ = ("_kept", "_reads", "_unit")

    def __init__(self, reads: Reads, unit: Unit, kept: Answer) -> None:
        self._reads = reads
        self._unit = unit
        self._kept = kept

    def answered(self, answer: Answer, _size: int) -> None:
        """See `Sink`."""
        self._reads.compare(self._unit, self._kept, answer)

    def failed(self) -> None:
        """See `Sink`: nothing to compare with."""

    def lost(self) -> None:
        """See `Sink`: nothing to compare with."""


def kept_back(unit: Unit, identity: Identity | None) -> tuple[bytes, PreparedStatement | None]:
    """What its server must hear of a unit that it hasn't seen before the unnamed statement is used; nothing: b"".

    And what that statement is; ``identity``: of the session.
    """
    if unit.simple:
        return CLOSE_UNNAMED, None
    if unit.parse:
        return unit.raw[: end_of_frame(unit.raw, 0)], PreparedStatement(unit.text, unit.types, identity)
    return b"", None


def name_of(unit: Unit) -> Hashable | None:
    """What the next unit with the same bytes is found by; None: by nothing.

    The bytes of a Query or of a unit that begins with Parse say all. Those of a unit that begins with Bind don't: what
    its statement is called is its session's own affair; one that is asked about by its name, too, is looked at.
    """
    if unit.simple or unit.parse:
        return unit.raw
    if unit.describe == STATEMENT:
        return None
    end = end_of_names(unit.raw)
    return (unit.text, unit.types, unit.columns, unit.raw[end:]) if end else None


def end_of_names(data: bytes) -> int:
    """Where a Bind's statement name ends, and its zero begins; 0 if its portal has a name or it is cut off."""
    return max(0, data.find(b"\0", HEADER_SIZE + 1)) if data[HEADER_SIZE : HEADER_SIZE + 1] == b"\0" else 0


def _ttl_s(unit: Unit) -> float:
    hints = unit.text.hints
    return (hints.ttl_s if hints is not None else None) or 0.0


def _key(unit: Unit, identity: Identity) -> CacheKey:
    # The tags, too: who names others must not be given what is purged by these. And the template has the columns: who
    # was told of others, when he prepared his statement, would misread the rows.
    return CacheKey(identity, (unit.template, unit.tail, unit.limit, unit.describe, unit.simple, unit.text.tags))

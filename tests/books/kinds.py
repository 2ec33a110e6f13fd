"""Writes of every kind, each with what must be answered to it.

The law of this module: a write's mark is its own, and whether it must fail is known before it is said.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from random import Random

from tests.books.ledger import Ledger, Write
from tests.books.schema import COUNTERS, PARENTS, SLOTS, STOCK

FEW = 0.03
"""The share of writes that are made to fail, where a kind can."""

UNIQUE_VIOLATION = "23505"
FOUGHT_FOR = frozenset({"40P01"})
"""A write to a row that batches of several groups want may be what their deadlock is broken up with, even if it is
alone: while it waits it holds a lock on the row's version."""

NOBODY = 1_000_000
"""Parents from here on don't exist."""


class Desk:
    """Hands out numbers, unique values and chances; shared by all clients."""

    def __init__(self, ledger: Ledger, chance: Random, users: Sequence[str] = ("postgres",)) -> None:
        self.ledger = ledger
        self.chance = chance
        self._users = users
        self._numbers = itertools.count(1)
        self._pairs = itertools.count(1)
        self._stock = iter(range(1, STOCK + 1))

    def user(self, client: int) -> str:
        """Who the client with this number is."""
        return self._users[client % len(self._users)]

    def number(self) -> int:
        """A mark that nobody else has."""
        return next(self._numbers)

    def pair(self) -> int:
        """A number that is given out twice."""
        return next(self._pairs) // 2

    def from_stock(self) -> int | None:
        """The key of a row that is still to be deleted."""
        return next(self._stock, None)

    def taken(self, page: str) -> int | None:
        """A unique value that is taken already; now and then, and if there is one."""
        held = self.ledger.held.get(page)
        return self.chance.choice(held) if held and self.chance.random() < FEW else None

    def some(self) -> bool:
        """Now and then."""
        return self.chance.random() < FEW


def plain(desk: Desk, client: int) -> Write:
    w = desk.number()
    proof = _text(w) + desk.user(client)
    return Write("plain", w, "INSERT INTO plain (w, v) VALUES ($1, $2)", (w, _text(w)), proof=proof)


def plain_returning(desk: Desk, client: int) -> Write:
    w = desk.number()
    proof = _text(w) + desk.user(client)
    sql = "INSERT INTO plain (w, v) VALUES ($1, $2) RETURNING w, concat(v, who)"
    return Write("plain", w, sql, (w, _text(w)), row=(str(w), proof), proof=proof)


def keyed(desk: Desk, _client: int) -> Write:
    return _unique(desk, "keyed", "INSERT INTO keyed (w, u) VALUES ($1, $2)", returning=False)


def keyed_returning(desk: Desk, _client: int) -> Write:
    return _unique(desk, "keyed", "INSERT INTO keyed (w, u) VALUES ($1, $2) RETURNING w, id", returning=True)


def postponed(desk: Desk, _client: int) -> Write:
    return _unique(desk, "postponed", "INSERT INTO postponed VALUES ($1, $2)", returning=False)


def _unique(desk: Desk, page: str, sql: str, *, returning: bool) -> Write:
    w = desk.number()
    row = (str(w), "") if returning else None
    taken = desk.taken(page)
    if taken is None:
        return Write(page, w, sql, (w, w), row=row, holds=w)
    words = f"(u)=({taken})"
    return Write(page, w, sql, (w, taken), fails=UNIQUE_VIOLATION, words=words, holds=taken)


def paired(desk: Desk, _client: int) -> Write:
    """Two clients want the same value at about the same time: one of them gets it, or they fail for other reasons."""
    w, u = desk.number(), desk.pair()
    may = frozenset({UNIQUE_VIOLATION})
    return Write("paired", w, "INSERT INTO paired VALUES ($1, $2)", (w, u), may_fail=may, words=f"(u)=({u})", holds=u)


def checked(desk: Desk, _client: int) -> Write:
    w, bad = desk.number(), desk.some()
    v = -5 if bad else 5
    fails, words = ("23514", f"({w}, {v})") if bad else ("", "")
    return Write("checked", w, "INSERT INTO checked VALUES ($1, $2)", (w, v), fails=fails, words=words)


def child(desk: Desk, _client: int) -> Write:
    return _with_parent(desk, "child")


def orphan(desk: Desk, _client: int) -> Write:
    return _with_parent(desk, "orphan")


def _with_parent(desk: Desk, page: str) -> Write:
    w, bad = desk.number(), desk.some()
    parent = NOBODY + w if bad else 1 + w % PARENTS
    fails, words = ("23503", f"(parent)=({parent})") if bad else ("", "")
    return Write(page, w, f"INSERT INTO {page} VALUES ($1, $2)", (w, parent), fails=fails, words=words)


def timed(desk: Desk, _client: int) -> Write:
    w = desk.number()
    sql, action = "INSERT INTO timed (w, action) VALUES ($1, $2)", "go"
    if desk.some():
        action = desk.chance.choice(("skip", "notice", "raise", "sleep"))
    if action == "raise":
        return Write("timed", w, sql, (w, action), fails="TQ001", words=f"raised {w}")
    if action == "notice":
        return Write("timed", w, sql, (w, action), notice=True, words=f"timed {w}")
    if action == "skip":
        return Write("timed", w, sql, (w, action), tag="INSERT 0 0", effect=0)
    return Write("timed", w, sql, (w, action))


def noted(desk: Desk, _client: int) -> Write:
    w = desk.number()
    return Write("noted", w, "INSERT INTO noted VALUES ($1, $2)", (w, w))


def ruled(desk: Desk, _client: int) -> Write:
    w = desk.number()
    return Write("ruled", w, "INSERT INTO ruled VALUES ($1)", (w,))


def chained(desk: Desk, _client: int) -> Write:
    w = desk.number()
    first = "INSERT INTO chained VALUES ($1) RETURNING w"
    sql = f"WITH first AS ({first}) INSERT INTO chained_to SELECT w FROM first RETURNING w"
    return Write("chained", w, sql, (w,), row=(str(w),))


def merged(desk: Desk, _client: int) -> Write:
    w = desk.number()
    source = "(VALUES (CAST($1 AS bigint))) s (w)"
    sql = f"MERGE INTO merged USING {source} ON merged.w = s.w WHEN NOT MATCHED THEN INSERT VALUES (s.w)"
    return Write("merged", w, sql, (w,), tag="MERGE 1")


def counted(desk: Desk, _client: int) -> Write:
    w, k = desk.number(), 1 + desk.chance.randrange(COUNTERS)
    sql = "UPDATE counters SET n = n + 1, last = $1 WHERE k = $2 RETURNING last, k"
    return Write("counters", w, sql, (w, k), tag="UPDATE 1", row=(str(w), str(k)), may_fail=FOUGHT_FOR)


def upserted(desk: Desk, _client: int) -> Write:
    w, k = desk.number(), desk.chance.randrange(200)
    update = "UPDATE SET n = upserted.n + 1, last = EXCLUDED.last"
    sql = f"INSERT INTO upserted VALUES ($2, 1, $1) ON CONFLICT (k) DO {update} RETURNING last"
    return Write("upserted", w, sql, (w, k), row=(str(w),), may_fail=FOUGHT_FOR)


def tallied(desk: Desk, client: int) -> Write:
    """A counter of the client's own: what is returned tells how often it was counted."""
    k = client * SLOTS + desk.chance.randrange(SLOTS)
    w = desk.number()
    sql = "UPDATE tallies SET n = n + 1, last = $1 WHERE k = $2 RETURNING last, n"
    return Write("tallies", k, sql, (w, k), tag="UPDATE 1", row=(str(w), ""))


def removed(desk: Desk, client: int) -> Write:
    s = desk.from_stock()
    if s is None:
        return plain(desk, client)
    return Write("stock", s, "DELETE FROM stock WHERE s = $1 RETURNING s", (s,), tag="DELETE 1", row=(str(s),))


def duel(desk: Desk, _client: int) -> Write:
    """Two groups, each with writes to both tables in any order: their batches lock each other out."""
    w, k, side = desk.number(), 1 + desk.chance.randrange(4), desk.chance.choice(("left", "right"))
    sql = f"UPDATE duel_{side} SET n = n + 1, last = $1 WHERE k = $2"
    key = desk.chance.choice(("first", "second"))
    return Write(f"duel_{side}", w, sql, (w, k), tag="UPDATE 1", key=key, may_fail=FOUGHT_FOR)


KINDS: tuple[Callable[[Desk, int], Write], ...] = (
    plain,
    plain_returning,
    keyed,
    keyed_returning,
    postponed,
    paired,
    checked,
    child,
    orphan,
    timed,
    noted,
    ruled,
    chained,
    merged,
    counted,
    upserted,
    tallied,
    removed,
    duel,
)


def _text(w: int) -> str:
    """A value that would show if quoting were wrong."""
    return f"it's \\ {w} ü"

"""The whole ledger against the tables.

The law of this module: it knows nothing of proxies and batches; whatever wrote the tables, the books must balance.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from tests.books.kinds import UNIQUE_VIOLATION
from tests.books.ledger import Entry, Ledger, Outcome
from tests.books.schema import COLLIDING, PAGES

Marks = dict[int, list[Any]]
"""What the tables hold for each mark: one item for each effect."""


def audit(connection: psycopg.Connection[Any], ledger: Ledger) -> list[str]:
    """All that doesn't balance; empty if the books are right."""
    by_page: dict[str, list[Entry]] = defaultdict(list)
    for entry in ledger.entries:
        by_page[entry.write.page].append(entry)
    problems: list[str] = []
    for name, page in PAGES.items():
        found = [_marks(connection.execute(query.encode()).fetchall()) for query in page.queries]
        problems += [f"{name}: {problem}" for problem in compare(by_page[name], found[0])]
        for other in found[1:]:
            problems += [f"{name}: halves of one write: {problem}" for problem in _differ(found[0], other)]
        for law in page.laws:
            problems += [f"{name}: {row}" for row in connection.execute(law.encode()).fetchall()]
    for name in COLLIDING:
        taken = {row[0] for row in connection.execute(f"SELECT u FROM {name}".encode())}
        problems += [f"{name}: {problem}" for problem in collisions(by_page[name], taken)]
    counted = dict(connection.execute("SELECT k, n FROM tallies").fetchall())
    return problems + [f"tallies: {problem}" for problem in tallies(by_page["tallies"], counted)]


def _marks(rows: Sequence[tuple[Any, ...]]) -> Marks:
    marks: Marks = {}
    for row in rows:
        marks.setdefault(row[0], []).append(row[1] if len(row) > 1 else None)
    return marks


def compare(entries: Sequence[Entry], marks: Marks) -> Iterator[str]:
    """Success: exactly once, with what was returned; failure: not at all; unknown: at most once; and nothing else."""
    for entry in entries:
        write = entry.write
        here = marks.get(write.mark, [])
        allowed = {Outcome.SUCCESS: {write.effect}, Outcome.FAILURE: {0}, Outcome.UNKNOWN: {0, write.effect}}
        if len(here) not in allowed[entry.outcome]:
            yield f"{entry.outcome.value}, but {len(here)} times there: {entry}"
        if entry.outcome is Outcome.SUCCESS and len(here) == 1 and not _is_own(entry, here[0]):
            yield f"its row has {here[0]!r}: {entry}"
    for strange in marks.keys() - {entry.write.mark for entry in entries}:
        yield f"nobody wrote {strange}"


def _is_own(entry: Entry, found: object) -> bool:
    returned = entry.returned
    expected = entry.write.proof or (returned[1] if returned is not None and len(returned) > 1 else None)
    return found is None or expected is None or expected == str(found)


def _differ(first: Marks, second: Marks) -> Iterator[str]:
    for mark in first.keys() | second.keys():
        counts = len(first.get(mark, ())), len(second.get(mark, ()))
        if counts[0] != counts[1]:
            yield f"{mark} is there {counts[0]} and {counts[1]} times"


def collisions(entries: Sequence[Entry], taken: set[int]) -> Iterator[str]:
    """Who was refused because a value was taken, or holds it, finds that value."""
    for entry in entries:
        refused = entry.sqlstate == UNIQUE_VIOLATION and entry.outcome is Outcome.FAILURE
        if (refused or entry.outcome is Outcome.SUCCESS) and entry.write.holds not in taken:
            yield f"the value isn't there: {entry}"


def tallies(entries: Sequence[Entry], counted: dict[int, int]) -> Iterator[str]:
    """A counter that only one client writes to is, at any time, between its successes and these and the unknown."""
    sure: Counter[int] = Counter()
    maybe: Counter[int] = Counter()
    for entry in entries:
        k = entry.write.mark
        sure[k] += entry.outcome is Outcome.SUCCESS
        maybe[k] += entry.outcome is Outcome.UNKNOWN
        if entry.outcome is Outcome.SUCCESS:
            told = int((entry.returned or ("", "-1"))[1] or -1)
            if not sure[k] <= told <= sure[k] + maybe[k]:
                yield f"{told} is not between {sure[k]} and {sure[k] + maybe[k]}: {entry}"
    for k, n in counted.items():
        if not sure[k] <= n <= sure[k] + maybe[k]:
            yield f"{k} was counted {n} times, not between {sure[k]} and {sure[k] + maybe[k]}"

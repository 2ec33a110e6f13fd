"""The ledger: every write with its outcome as its client saw it.

The law of this module: success means exactly once, failure not at all, unknown at most once; who enters an outcome
decides in doubt for unknown, never for success.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

Row = tuple[str | None, ...]


class Outcome(Enum):
    """What a client knows of its write."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Write:
    """One statement, and what must be answered to it.

    :param page: the page of the ledger that it belongs to (`schema.PAGES`).
    :param mark: what tells its effect from all others in the tables of the page.
    :param sql: with ``$1``, ``$2`` ... for the ``values``, without a hint.
    :param row: what RETURNING must return; ``""`` stands for any value; None: it returns nothing.
    :param effect: how often its mark is in the tables if it succeeds.
    :param fails: the SQLSTATE that it must fail with; empty: it should succeed.
    :param may_fail: other SQLSTATEs that are no fault.
    :param words: what its error or notice has to tell of it, so that it can't be another's.
    :param proof: what its row has to hold besides the mark; empty: what RETURNING returned, if anything.
    :param holds: a unique value that is taken from now on if it succeeds, or wanted if it doesn't.
    """

    page: str
    mark: int
    sql: str
    values: tuple[int | str, ...]
    tag: str = "INSERT 0 1"
    row: Row | None = None
    effect: int = 1
    fails: str = ""
    may_fail: frozenset[str] = frozenset()
    words: str = ""
    notice: bool = False
    proof: str = ""
    holds: int | None = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger. ``returned``: the row that the client got."""

    write: Write
    outcome: Outcome
    sqlstate: str = ""
    returned: Row | None = None


@dataclass
class Ledger:
    """All entries in the order in which their outcomes came. ``problems`` are the rules that were seen broken."""

    target: int
    entries: list[Entry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    held: dict[str, list[int]] = field(default_factory=dict)
    """By page: unique values that are known to be taken."""

    @property
    def full(self) -> bool:
        """Whether there are as many writes as were wanted."""
        return len(self.entries) >= self.target

    def enter(self, entry: Entry) -> None:
        """Add a line."""
        self.entries.append(entry)
        write = entry.write
        if entry.outcome is Outcome.SUCCESS and write.holds is not None:
            self.held.setdefault(write.page, []).append(write.holds)

    def outcomes(self) -> Counter[Outcome]:
        """How many of each."""
        return Counter(entry.outcome for entry in self.entries)

    def sqlstates(self) -> Counter[str]:
        """How many writes failed with each."""
        return Counter(entry.sqlstate for entry in self.entries if entry.sqlstate)

    def pages(self) -> dict[str, Counter[Outcome]]:
        """How many of each on each page."""
        pages: dict[str, Counter[Outcome]] = {}
        for entry in self.entries:
            pages.setdefault(entry.write.page, Counter())[entry.outcome] += 1
        return dict(sorted(pages.items()))

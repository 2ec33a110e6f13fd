"""What a person wants to see of the counters: totals, and who takes the most time.

The law of this module: it reads what is counted anyway and keeps nothing. It goes through the callers in small steps,
so that whoever sums up while others count (a web page) can let the reactor turn between two.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from heapq import nlargest
from operator import attrgetter
from typing import Final

from tqdbproxy.core.metrics.counts import CallerCounts

STEP: Final = 1000
"""Callers between two steps: less than a millisecond."""

Callers = Generator[None, None, "Summary"]


@dataclass(slots=True)
class Summary:
    """Totals over all callers. ``seconds`` is the time that statements with a hint took, as their clients saw it.

    ``top``: those of which this time is the longest, the longest first.
    """

    statements: int = 0
    batched: int = 0
    cached: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    seconds: float = 0.0
    by_kind: dict[str, int] = field(default_factory=dict)
    excluded: dict[str, int] = field(default_factory=dict)
    top: list[CallerCounts] = field(default_factory=list)

    @property
    def forwarded(self) -> int:
        """Statements that took the forward lane."""
        return self.statements - self.batched - self.cached

    @property
    def hit_ratio(self) -> float | None:
        """The share of cacheable reads that were answered from memory; None if there was no such read."""
        reads = self.cache_hits + self.cache_misses
        return self.cache_hits / reads if reads else None

    def add(self, callers: Iterable[CallerCounts]) -> None:
        """Count these, too."""
        for counts in callers:
            self.statements += counts.queries
            self.batched += counts.batched
            self.cached += counts.cached
            self.cache_hits += counts.cache_hits
            self.cache_misses += counts.cache_misses
            self.seconds += counts.latency.sum
            kind = counts.labels[2]
            self.by_kind[kind] = self.by_kind.get(kind, 0) + counts.queries
            for reason, count in counts.excluded.items():
                self.excluded[reason.value] = self.excluded.get(reason.value, 0) + count


def summarize(callers: list[CallerCounts], top: int) -> Callers:
    """Sum up step by step; the generator returns the `Summary`. ``callers`` may only ever be appended to."""
    summary = Summary()
    for begin in range(0, len(callers), STEP):
        some = callers[begin : begin + STEP]
        summary.add(some)
        summary.top = nlargest(top, (*summary.top, *_seen(some)), key=attrgetter("latency.sum"))
        yield
    return summary


def _seen(callers: Iterable[CallerCounts]) -> Iterable[CallerCounts]:
    return (counts for counts in callers if counts.latency.sum)


def at_once(steps: Callers) -> Summary:
    """The summary, for where nothing else waits."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            summary: Summary = end.value
            return summary

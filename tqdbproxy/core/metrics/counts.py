"""What the lanes count on, at the price of an attribute.

The law of this module: no registry, no text, no look-up by label; whoever counts keeps the object he counts on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Final

from tqdbproxy.core.statement import Kind, Reason

SECONDS: Final = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Bucket bounds of every histogram of seconds: 50 us to 10 s."""

MEMBERS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Bucket bounds of the batch size."""

MINUTE: Final = 60


class Histogram:
    """How often values fell between fixed bounds.

    ``buckets[i]`` counts the values of at most ``bounds[i]`` and above the bound before; the last has no bound.
    """

    __slots__ = ("bounds", "buckets", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.sum: float = 0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.buckets)


class CallerCounts:
    """What statements of one kind from one place in the client's source came to.

    ``queries`` counts them all; ``cached`` those of them that were answered from memory, ``batched`` those that were
    executed in a batch.
    """

    __slots__ = ("batched", "cache_hits", "cache_misses", "cached", "excluded", "labels", "latency", "queries")

    def __init__(self, file: str, line: str, kind: Kind) -> None:
        self.labels = (file, line, kind.value)
        self.queries = 0
        self.cached = 0
        self.batched = 0
        self.cache_hits = 0
        self.cache_misses = 0
        self.latency = Histogram(SECONDS)
        self.excluded: dict[Reason, int] = {}

    def exclude(self, reason: Reason) -> None:
        """Count a hint that was not followed."""
        self.excluded[reason] = self.excluded.get(reason, 0) + 1


class Aggregation:
    """Client writes per server transaction over the last minute, in slots of one second."""

    __slots__ = ("_clock", "_second", "_transactions", "_writes")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._second = int(clock())
        self._writes = [0] * MINUTE
        self._transactions = [0] * MINUTE

    def note(self, writes: int, transactions: int) -> None:
        """So many client writes were just committed in so many server transactions."""
        second = int(self._clock())
        if second != self._second:
            self._turn(second)
        self._writes[second % MINUTE] += writes
        self._transactions[second % MINUTE] += transactions

    def factor(self) -> float | None:
        """The ratio now; None when there was no transaction for a minute."""
        self._turn(int(self._clock()))
        transactions = sum(self._transactions)
        return sum(self._writes) / transactions if transactions else None

    def _turn(self, second: int) -> None:
        """Empty the slots of the seconds in which nothing was noted, up to and with this one."""
        for passed in range(max(self._second + 1, second - MINUTE + 1), second + 1):
            self._writes[passed % MINUTE] = self._transactions[passed % MINUTE] = 0
        self._second = second

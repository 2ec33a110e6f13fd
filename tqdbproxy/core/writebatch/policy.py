"""When a window closes: pure, without timers.

A window closes early when waiting longer can't pay: the group is full, or nothing of its key is running and at least
a quorum of those who wrote lately is waiting already. "Lately" is the last one to two `GENERATION_S`: long enough to
know writers that write a few times a second, short enough that a client left alone isn't made to wait for the ones
that have gone. With a quorum, the rest get `GRACE_S` to come, too, as long as they do (``docs/decisions/windows.rst``
has the measurements).
"""

from __future__ import annotations

from collections.abc import Hashable

GENERATION_S = 0.5

GRACE_S = 0.001
"""The shortest time that the reactor's clock can measure; some batches."""

MOST_IMPATIENT = 64
"""So many batches begin with a quorum, at most, before the rest get another chance."""


class RecentWriters:
    """How many different writers were noted in the last one to two generations.

    ``noted``: those of this generation, which ends at ``turns_at``; to `note` one of them again changes nothing.
    """

    __slots__ = ("_past", "count", "noted", "turns_at")

    def __init__(self, now: float) -> None:
        self.turns_at = now + GENERATION_S
        self.noted: set[Hashable] = set()
        self._past: set[Hashable] = set()
        self.count = 0

    def note(self, writer: Hashable, now: float) -> None:
        """``writer`` wrote at ``now`` (seconds, never decreasing)."""
        if now >= self.turns_at:
            self._turn(now)
        if writer not in self.noted:
            self.noted.add(writer)
            if writer not in self._past:
                self.count += 1

    def forget(self, writer: Hashable) -> None:
        """``writer`` will not write any more."""
        if writer in self.noted or writer in self._past:
            self.noted.discard(writer)
            self._past.discard(writer)
            self.count -= 1

    def _turn(self, now: float) -> None:
        self._past = self.noted if now < self.turns_at + GENERATION_S else set()
        self.noted = set()
        self.turns_at = now + GENERATION_S
        self.count = len(self._past)


class Patience:
    """Whether the rest are worth waiting for when a quorum is there: yes, unless they didn't come the last time.

    Each time that they don't, twice as many batches begin without them; each time that they do, half as many would.
    """

    __slots__ = ("_without", "_without_next")

    def __init__(self) -> None:
        self._without = 0
        self._without_next = 1

    def spent(self) -> bool:
        """Whether the next batch begins without the rest. Each call counts as such a batch."""
        if self._without == 0:
            return False
        self._without -= 1
        return True

    def rewarded(self) -> None:
        """All came."""
        self._without_next = max(1, self._without_next // 2)

    def disappointed(self) -> None:
        """They didn't."""
        self._without = self._without_next
        self._without_next = min(2 * self._without_next, MOST_IMPATIENT)


def beginning_of(expected: int, least: int) -> int | None:
    """With how many writes the server may begin while the rest of ``expected`` ones are waited for; None: with none.

    Half of them or more, and a power of two, so that merging them costs no piece more. ``least`` 0: it may not begin.
    """
    size = 1 << (expected - 1).bit_length() - 1 if expected > 1 else 0
    return size if 0 < least <= size else None


def quorum_reached(waiting: int, recent: int, quorum: float | None) -> bool:
    """Whether ``waiting`` writes are enough company, given how many writers there were lately."""
    return quorum is not None and waiting >= quorum * recent and waiting > 0

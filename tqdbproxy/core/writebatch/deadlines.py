"""Many deadlines on one timer.

A window is opened for every batch and nearly always closes before its time. A delayed call of the reactor costs some
10 us to make and to cancel; here that is a push on a heap, and one delayed call is there for all of them. The law of
this module: a deadline may fire late by no more than the clock does, and never early.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger()


class Deadline:
    """One deadline; ``active`` until it has fired or was cancelled."""

    __slots__ = ("_call", "active", "at")

    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.active = True
        self._call = call

    def cancel(self) -> None:
        """It won't fire."""
        self.active = False

    def fire(self) -> None:
        """It is time. What goes wrong is logged, since others wait behind it."""
        if self.active:
            self.active = False
            try:
                self._call()
            except Exception:
                log.failure("a deadline's call has failed")


class Deadlines:
    """Deadlines on ``clock``, the reactor or a `twisted.internet.task.Clock`."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Deadline]] = []
        self._number = count()
        self._timer: IDelayedCall | None = None
        self._timer_at = 0.0

    def call_at(self, at: float, call: Callable[[], None]) -> Deadline:
        """Call ``call`` at the time ``at`` (the clock's seconds) or as soon after it as the clock allows."""
        deadline = Deadline(at, call)
        heappush(self._heap, (at, next(self._number), deadline))
        if self._timer is None or at < self._timer_at:
            self._arm(at)
        return deadline

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._clock.callLater(max(0.0, at - self._clock.seconds()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        due = []
        while self._heap and (self._heap[0][0] <= now or not self._heap[0][2].active):
            due.append(heappop(self._heap)[2])
        if self._heap:
            self._arm(self._heap[0][0])
        for deadline in due:
            deadline.fire()

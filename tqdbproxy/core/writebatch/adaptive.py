"""One window for all writes without a hint, which follows the load.

Above a threshold of writes per second it grows by a factor, below it shrinks by the same, between its bounds. The law
of this module: `next_delay` decides and is pure; `AdaptiveWindow` measures, applies and counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from tqdbproxy.core.metrics import Metrics

SMALLEST_S = 0.0001
"""A window that shrinks below this is as good as none; one that grows from nothing begins here."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """``[write_batch]`` in adaptive mode; seconds, writes per second."""

    initial_s: float = 0.001
    min_s: float = 0.0
    max_s: float = 0.1
    threshold: float = 1000.0
    step: float = 1.5
    interval_s: float = 1.0


def next_delay(delay_s: float, writes_per_second: float, bounds: Bounds) -> float:
    """The window after an interval with so many writes per second."""
    if writes_per_second > bounds.threshold:
        delay_s = max(delay_s, SMALLEST_S) * bounds.step
    elif writes_per_second < bounds.threshold:
        delay_s = delay_s / bounds.step
        if delay_s < SMALLEST_S:
            delay_s = 0.0
    return min(max(delay_s, bounds.min_s), bounds.max_s)


class AdaptiveWindow:
    """The window, moved every ``interval_s``.

    ``changed`` is told when it has moved; ``written`` says how many writes there have been since the start.
    """

    def __init__(
        self,
        bounds: Bounds,
        clock: IReactorTime,
        metrics: Metrics,
        written: Callable[[], int],
        changed: Callable[[float], None],
    ) -> None:
        self._bounds = bounds
        self._metrics = metrics
        self._written = written
        self._changed = changed
        self._before = written()
        self._delay_s = bounds.initial_s
        self.writes_per_second = 0.0
        self._clock = clock
        self._since = 0.0
        self._loop = LoopingCall(self._adjust)
        self._loop.clock = clock

    @property
    def delay_s(self) -> float:
        """The window now."""
        return self._delay_s

    @delay_s.setter
    def delay_s(self, delay_s: float) -> None:
        self._delay_s = min(max(delay_s, self._bounds.min_s), self._bounds.max_s)
        self._changed(self._delay_s)

    @property
    def bounds(self) -> Bounds:
        """Between what it moves, and how. Others can be set at any time: it goes on from where it is, if it may."""
        return self._bounds

    @bounds.setter
    def bounds(self, bounds: Bounds) -> None:
        restarts = self._loop.running and bounds.interval_s != self._bounds.interval_s
        self._bounds = bounds
        if restarts:
            self.stop()
            self.start()
        self.delay_s = self._delay_s

    def start(self) -> None:
        """Begin to measure."""
        self._before = self._written()
        self._since = self._clock.seconds()
        self._loop.start(self._bounds.interval_s, now=False)

    def stop(self) -> None:
        """Leave the window as it is."""
        if self._loop.running:
            self._loop.stop()

    def _adjust(self) -> None:
        written, now = self._written(), self._clock.seconds()
        # Not the interval: a busy reactor calls late, and then not once for each interval that was missed.
        self.writes_per_second = (written - self._before) / (now - self._since)
        self._before, self._since = written, now
        delay_s = next_delay(self._delay_s, self.writes_per_second, self._bounds)
        if delay_s != self._delay_s:
            self._metrics.delay_adjustments["up" if delay_s > self._delay_s else "down"] += 1
            self.delay_s = delay_s

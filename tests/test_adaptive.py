"""The window of writes without a hint: how it moves, and that it is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from twisted.internet.task import Clock

from tqdbproxy.core.metrics import Metrics
from tqdbproxy.core.writebatch.adaptive import SMALLEST_S, AdaptiveWindow, Bounds, next_delay

BOUNDS = Bounds(initial_s=0.004, min_s=0.001, max_s=0.016, threshold=100, step=2, interval_s=1)


@pytest.mark.parametrize(
    ("before", "rate", "after"),
    [
        (0.004, 101, 0.008),
        (0.008, 101, 0.016),
        (0.016, 101, 0.016),
        (0.012, 1e9, 0.016),
        (0.004, 100, 0.004),
        (0.004, 99, 0.002),
        (0.002, 0, 0.001),
        (0.001, 0, 0.001),
    ],
)
def test_one_step(before: float, rate: float, after: float) -> None:
    assert next_delay(before, rate, BOUNDS) == pytest.approx(after)


def test_a_window_may_vanish_and_come_back() -> None:
    bounds = Bounds(min_s=0, max_s=1, threshold=100, step=2)
    assert next_delay(SMALLEST_S, 0, bounds) == 0
    assert next_delay(0, 0, bounds) == 0
    assert next_delay(0, 101, bounds) == SMALLEST_S * 2


@given(st.floats(0, 1), st.floats(0, 1e6), st.floats(0, 0.05), st.floats(0.05, 1), st.floats(1.01, 10))
def test_it_stays_in_its_bounds_and_moves_the_right_way(
    before: float, rate: float, low: float, high: float, step: float
) -> None:
    bounds = Bounds(min_s=low, max_s=high, threshold=1000, step=step)
    before = min(max(before, low), high)
    after = next_delay(before, rate, bounds)
    assert low <= after <= high
    assert after >= before if rate > 1000 else after <= before or rate == 1000


class Bench:
    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self.clock = Clock()
        self.metrics = Metrics(CollectorRegistry(), clock=self.clock.seconds)
        self.written = 1000
        self.told: list[float] = []
        self.window = AdaptiveWindow(bounds, self.clock, self.metrics, lambda: self.written, self.told.append)

    def second(self, writes: int) -> float:
        """A second with so many writes; the window after it."""
        self.written += writes
        self.clock.advance(1)
        return self.window.delay_s


def test_it_follows_the_writes_of_the_last_interval() -> None:
    bench = Bench()
    assert bench.window.delay_s == 0.004
    assert bench.second(500) == 0.004  # not started
    bench.window.start()
    assert [bench.second(writes) for writes in (101, 102, 500)] == [0.008, 0.016, 0.016]
    assert bench.window.writes_per_second == 500
    assert [bench.second(writes) for writes in (100, 99, 0, 0, 0, 0)] == [0.016, 0.008, 0.004, 0.002, 0.001, 0.001]
    assert bench.window.writes_per_second == 0
    assert bench.told == [0.008, 0.016, 0.008, 0.004, 0.002, 0.001]
    assert bench.metrics.delay_adjustments == {"up": 2, "down": 4}


def test_the_rate_is_per_second_whatever_the_interval() -> None:
    bench = Bench(Bounds(initial_s=0.004, max_s=1, threshold=100, step=2, interval_s=0.25))
    bench.window.start()
    bench.written += 26
    bench.clock.advance(0.25)
    assert (bench.window.writes_per_second, bench.window.delay_s) == (104, 0.008)


def test_the_rate_is_that_of_the_time_that_has_passed() -> None:
    """A reactor that was busy calls once for all the intervals that it has missed."""
    bench = Bench()
    bench.window.start()
    bench.written += 270
    bench.clock.advance(3)
    assert (bench.window.writes_per_second, bench.window.delay_s) == (90, 0.002)


def test_it_can_be_set() -> None:
    bench = Bench()
    bench.window.delay_s = 0.002
    assert bench.window.delay_s == 0.002
    bench.window.delay_s = 5
    assert bench.window.delay_s == BOUNDS.max_s
    bench.window.delay_s = 0
    assert bench.window.delay_s == BOUNDS.min_s
    assert bench.told == [0.002, BOUNDS.max_s, BOUNDS.min_s]
    bench.window.start()
    assert bench.second(101) == 0.002
    assert bench.metrics.delay_adjustments["up"] == 1


def test_stopped_it_leaves_the_window_as_it_is() -> None:
    bench = Bench()
    bench.window.stop()
    bench.window.start()
    bench.second(101)
    bench.window.stop()
    bench.window.stop()
    assert bench.second(1000) == 0.008
    assert bench.clock.getDelayedCalls() == []
    bench.window.start()
    assert bench.second(0) == 0.004


def test_with_other_bounds_it_goes_on_from_where_it_is() -> None:
    bench = Bench()
    bench.window.start()
    assert bench.second(101) == 0.008
    bench.window.bounds = BOUNDS
    assert bench.window.delay_s == 0.008
    bench.window.bounds = replace(BOUNDS, initial_s=0.002, threshold=50)
    assert bench.window.delay_s == 0.008
    assert bench.second(51) == 0.016
    bench.window.bounds = replace(BOUNDS, max_s=0.01)
    assert bench.window.delay_s == 0.01
    bench.window.bounds = replace(BOUNDS, min_s=0.012)
    assert bench.window.delay_s == 0.012
    assert bench.metrics.delay_adjustments == {"up": 2, "down": 0}
    assert bench.told[-2:] == [0.01, 0.012], "whoever waits by it is told, the counters count the load's doing"


def test_the_same_bounds_do_not_begin_the_interval_anew() -> None:
    bench = Bench()
    bench.window.start()
    for _ in range(4):
        bench.written += 30
        bench.clock.advance(0.25)
        bench.window.bounds = BOUNDS
    assert (bench.window.writes_per_second, bench.window.delay_s) == (120, 0.008)


def test_another_interval_holds_at_once() -> None:
    bench = Bench()
    bench.window.start()
    bench.clock.advance(0.5)
    bench.written += 1000
    bench.window.bounds = replace(BOUNDS, interval_s=0.25)
    bench.written += 26
    bench.clock.advance(0.25)
    assert (bench.window.writes_per_second, bench.window.delay_s) == (104, 0.008)
    bench.window.stop()
    bench.window.bounds = replace(BOUNDS, interval_s=5)
    assert bench.clock.getDelayedCalls() == [], "stopped, it stays so"

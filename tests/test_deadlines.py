"""Many deadlines on one timer: never early, in order, and none forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from tqdbproxy.core.writebatch.deadlines import Deadline, Deadlines


class Bench:
    """Deadlines that note when they have fired, in whole seconds so that sums are exact."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.deadlines = Deadlines(self.clock)
        self.fired: list[tuple[float, float]] = []

    def at(self, at: float) -> Deadline:
        return self.deadlines.call_at(at, lambda: self.fired.append((at, self.clock.seconds())))


def test_in_the_order_of_their_times() -> None:
    bench = Bench()
    for at in (5, 3, 8, 3):
        bench.at(at)
    assert len(bench.clock.getDelayedCalls()) == 1
    bench.clock.pump([1] * 10)
    assert bench.fired == [(3, 3), (3, 3), (5, 5), (8, 8)]
    assert bench.clock.getDelayedCalls() == []


def test_what_was_cancelled_does_not_fire() -> None:
    bench = Bench()
    kept, cancelled = bench.at(5), bench.at(3)
    cancelled.cancel()
    assert (kept.active, cancelled.active) == (True, False)
    bench.clock.pump([1] * 6)
    assert bench.fired == [(5, 5)]
    assert not kept.active
    kept.fire()
    assert bench.fired == [(5, 5)]


def test_one_that_is_over_already() -> None:
    bench = Bench()
    bench.clock.advance(10)
    bench.at(5)
    bench.clock.advance(0)
    assert bench.fired == [(5, 10)]


def test_a_deadline_may_set_and_cancel_others() -> None:
    bench = Bench()
    other = bench.at(3)

    def call() -> None:
        other.cancel()
        bench.at(2)
        bench.at(4)

    bench.deadlines.call_at(3, call)
    bench.deadlines.call_at(2, call)
    bench.clock.pump([1] * 5)
    assert bench.fired == [(2, 2), (2, 3), (4, 4), (4, 4)]


def test_cancelled_ones_do_not_pile_up() -> None:
    """Nearly all windows close before their time."""
    bench = Bench()
    for _ in range(1000):
        bench.at(bench.clock.seconds() + 10).cancel()
        bench.clock.advance(1)
    assert len(bench.deadlines._heap) <= 11
    bench.clock.advance(10)
    assert bench.clock.getDelayedCalls() == []


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3), st.booleans()), max_size=30))
def test_never_early_never_forgotten(steps: list[tuple[int, int, bool]]) -> None:
    bench = Bench()
    wanted = []
    for delay, pause, cancel in steps:
        at = bench.clock.seconds() + delay
        deadline = bench.at(at)
        if cancel:
            deadline.cancel()
        else:
            wanted.append(at)
        bench.clock.advance(pause)
    bench.clock.pump([1] * 25)
    assert sorted(at for at, _when in bench.fired) == sorted(wanted)
    assert all(at <= when <= at + 3 for at, when in bench.fired)


def test_a_call_that_fails_keeps_nobody_waiting() -> None:
    bench = Bench()

    def call() -> None:
        raise ZeroDivisionError

    with capturedLogs() as events:
        bench.deadlines.call_at(2, call)
        bench.at(2)
        bench.at(3)
        bench.clock.pump([1] * 5)
    assert [at for at, _when in bench.fired] == [2, 3]
    assert [event["log_failure"].type for event in events] == [ZeroDivisionError]

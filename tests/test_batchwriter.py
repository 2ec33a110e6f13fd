"""BatchWriter: when it flushes, whom it lets in, and that its books are right whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from tqdbproxy.core.writebatch.errors import AddTimedOut, InvalidArgument, TooManyWaiting, WriterStopped
from tqdbproxy.core.writebatch.writer import BatchWriter
from tqdbproxy.errors import ProxyError


class Flushes:
    """A flush function that keeps what it got; each flush ends when the test says so."""

    def __init__(self) -> None:
        self.got: list[list[int]] = []
        self.running: Deferred[None] | None = None

    def __call__(self, records: list[int]) -> Deferred[None]:
        assert self.running is None, "a second flush at the same time"
        self.got.append(records)
        self.running = Deferred()
        return self.running

    def end(self, error: Exception | None = None) -> None:
        """The running flush ends."""
        assert self.running is not None
        running, self.running = self.running, None
        if error is None:
            running.callback(None)
        else:
            running.errback(error)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def flushes() -> Flushes:
    return Flushes()


@pytest.fixture
def writer(clock: Clock, flushes: Flushes) -> BatchWriter[int]:
    """Three records or a second."""
    return BatchWriter(3, 1.0, flushes, clock, max_waiting=4)


def result(deferred: Deferred[None]) -> object:
    """What a Deferred has come to: True, an exception, or None as long as it waits."""
    outcome: list[object] = []
    deferred.addCallbacks(lambda _: outcome.append(True), lambda failure: outcome.append(failure.value))
    return outcome[0] if outcome else None


def fill(writer: BatchWriter[int], *records: int) -> None:
    for record in records:
        assert writer.try_add(record)


# When it flushes.


def test_a_full_buffer_is_flushed_at_once(writer: BatchWriter[int], flushes: Flushes, clock: Clock) -> None:
    fill(writer, 1, 2)
    assert flushes.got == []
    fill(writer, 3)
    assert flushes.got == [[1, 2, 3]]
    assert clock.getDelayedCalls() == []


def test_others_wait_for_the_interval_from_the_first(writer: BatchWriter[int], flushes: Flushes, clock: Clock) -> None:
    clock.advance(10)
    fill(writer, 1)
    clock.advance(0.75)
    fill(writer, 2)
    assert flushes.got == []
    clock.advance(0.25)
    assert flushes.got == [[1, 2]]
    flushes.end()
    clock.advance(10)
    assert flushes.got == [[1, 2]]


def test_one_flush_at_a_time(writer: BatchWriter[int], flushes: Flushes, clock: Clock) -> None:
    fill(writer, 1, 2, 3)
    fill(writer, 4)
    clock.advance(5)
    fill(writer, 5)
    assert flushes.got == [[1, 2, 3]]
    flushes.end()
    assert flushes.got == [[1, 2, 3], [4, 5]]


def test_a_buffer_filled_meanwhile_follows_at_once(writer: BatchWriter[int], flushes: Flushes) -> None:
    fill(writer, 1, 2, 3, 4, 5, 6)
    assert not writer.try_add(7)
    flushes.end()
    assert flushes.got == [[1, 2, 3], [4, 5, 6]]
    assert writer.metrics.dropped == 1


def test_capacity_of_one(clock: Clock) -> None:
    got: list[list[int]] = []
    writer: BatchWriter[int] = BatchWriter(1, 1.0, lambda records: got.append(records), clock)
    fill(writer, 1, 2)
    assert got == [[1], [2]]
    assert clock.getDelayedCalls() == []


def test_flush_now(writer: BatchWriter[int], flushes: Flushes, clock: Clock) -> None:
    assert result(writer.flush_now()) is True
    fill(writer, 1)
    first = writer.flush_now()
    fill(writer, 2)
    second = writer.flush_now()
    fill(writer, 3)
    assert (flushes.got, result(first), result(second)) == ([[1]], None, None)
    flushes.end()
    assert (flushes.got, result(first), result(second)) == ([[1], [2, 3]], True, None)
    third = writer.flush_now()
    flushes.end()
    assert (result(second), result(third)) == (True, True)
    clock.advance(5)
    assert flushes.got == [[1], [2, 3]]


# Whom it lets in.


def test_add_waits_for_room_in_its_turn(writer: BatchWriter[int], flushes: Flushes) -> None:
    assert [result(writer.add(record)) for record in range(6)] == [True] * 6
    waiting = [writer.add(record) for record in range(6, 10)]
    assert [result(each) for each in waiting] == [None] * 4
    flushes.end()
    assert [result(each) for each in waiting] == [True, True, True, None]
    assert not writer.try_add(99)
    flushes.end()
    assert result(waiting[3]) is True
    flushes.end()
    assert flushes.got == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert writer.metrics.in_buffer == 1


def test_what_an_add_let_in_does_can_not_overtake(writer: BatchWriter[int], flushes: Flushes) -> None:
    fill(writer, *range(6))
    seen: list[bool] = []
    writer.add(6).addCallback(lambda _: seen.append(writer.try_add(99)))
    for record in (7, 8, 9):
        writer.add(record)
    flushes.end()
    flushes.end()
    assert flushes.got == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert seen == [False]


def test_the_records_of_those_who_waited_have_a_timer_too(
    writer: BatchWriter[int], flushes: Flushes, clock: Clock
) -> None:
    fill(writer, *range(6))
    writer.add(6)
    flushes.end()
    flushes.end()
    clock.advance(1)
    assert flushes.got == [[0, 1, 2], [3, 4, 5], [6]]


def test_add_with_a_timeout(writer: BatchWriter[int], flushes: Flushes, clock: Clock) -> None:
    assert result(writer.add(0, timeout=0.5)) is True
    fill(writer, 1, 2, 3, 4, 5)
    hurried, patient = writer.add(6, timeout=0.5), writer.add(7, timeout=2)
    clock.advance(0.5)
    error = result(hurried)
    assert isinstance(error, AddTimedOut)
    assert isinstance(error, TimeoutError)
    assert isinstance(error, ProxyError)
    assert str(error) == "the buffer had no room for 0.5 s; the record was not added"
    flushes.end()
    assert result(patient) is True
    clock.advance(5)
    flushes.end()
    assert flushes.got == [[0, 1, 2], [3, 4, 5], [7]]
    assert clock.getDelayedCalls() == []
    assert (writer.metrics.refused, writer.metrics.added) == (1, 7)


def test_add_that_is_cancelled(writer: BatchWriter[int], flushes: Flushes, clock: Clock) -> None:
    fill(writer, *range(6))
    first, second = writer.add(6, timeout=1), writer.add(7)
    first.cancel()
    assert isinstance(result(first), CancelledError)
    flushes.end()
    assert result(second) is True
    assert [call.getTime() for call in clock.getDelayedCalls()] == [clock.seconds() + 1.0]
    assert (writer.metrics.refused, writer.metrics.in_buffer) == (1, 1)


def test_cancelled_between_admission_and_news_of_it(clock: Clock) -> None:
    held: list[Deferred[None]] = []
    first: Deferred[None] = Deferred()
    flushed: list[list[int]] = []

    def flush(records: list[int]) -> Deferred[None]:
        flushed.append(records)
        for each in held:
            each.cancel()
        return first if len(flushed) == 1 else succeed(None)

    writer: BatchWriter[int] = BatchWriter(1, 1.0, flush, clock)
    fill(writer, 1, 2)
    held.append(writer.add(3))
    outcome: list[object] = []
    held[0].addBoth(outcome.append)
    first.callback(None)
    assert flushed == [[1], [2], [3]]
    assert len(outcome) == 1
    assert (writer.metrics.added, writer.metrics.refused) == (3, 0)


def test_not_everybody_may_wait(writer: BatchWriter[int]) -> None:
    fill(writer, *range(6))
    waiting = [writer.add(record) for record in range(4)]
    error = result(writer.add(99))
    assert isinstance(error, TooManyWaiting)
    assert str(error) == "the buffer is full, and 4 adds wait for room (max_waiting)"
    assert [result(each) for each in waiting] == [None] * 4


def test_those_who_wait_for_a_quick_function_need_no_stack(clock: Clock) -> None:
    first: Deferred[None] = Deferred()
    got: list[int] = []

    def flush(records: list[int]) -> Deferred[None] | None:
        got.extend(records)
        return first if len(got) == 1 else None

    writer: BatchWriter[int] = BatchWriter(1, 1.0, flush, clock)
    for record in range(5000):
        writer.add(record)
    first.callback(None)
    assert got == list(range(5000))


def test_a_flush_function_may_add(clock: Clock) -> None:
    got: list[list[int]] = []

    def flush(records: list[int]) -> None:
        got.append(records)
        if len(got) < 3:
            fill(echo, *(record + 10 for record in records))

    echo: BatchWriter[int] = BatchWriter(2, 1.0, flush, clock)
    fill(echo, 1, 2)
    assert got == [[1, 2], [11, 12], [21, 22]]


# Failures.


def test_an_error_is_logged_and_changes_nothing(clock: Clock) -> None:
    async def coroutine(_: list[int]) -> None:
        raise ValueError("third")

    def raises(_: list[int]) -> None:
        raise ValueError("first")

    ways: list[Callable[[list[int]], Any]] = [raises, lambda _: Deferred(), coroutine, lambda _: None]
    pending: list[Deferred[None]] = []

    def flush(records: list[int]) -> Any:
        returned = ways.pop(0)(records)
        if isinstance(returned, Deferred):
            pending.append(returned)
        return returned

    writer: BatchWriter[int] = BatchWriter(2, 1.0, flush, clock)
    with capturedLogs() as events:
        fill(writer, 1, 2, 3, 4)
        done = writer.flush_now()
        pending[0].errback(ValueError("second"))
        assert result(done) is True
        fill(writer, 5, 6, 7, 8)
    assert [str(event["log_failure"].value) for event in events] == ["first", "second", "third"]
    assert [event["count"] for event in events] == [2, 2, 2]
    assert (writer.metrics.failed, writer.metrics.processed, writer.metrics.flushes) == (6, 2, 4)


GOOD: dict[str, Any] = {"capacity": 1, "interval": 1.0, "flush": lambda _: None, "clock": Clock()}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"capacity": 0}, "capacity must be a whole number of at least 1, not 0"),
        ({"capacity": 2.0}, "capacity must be a whole number of at least 1, not 2.0"),
        ({"capacity": True}, "capacity must be a whole number of at least 1, not True"),
        ({"interval": 0}, "interval must be a number of seconds, at least 0.001, not 0"),
        ({"interval": -1.0}, "interval must be a number of seconds, at least 0.001, not -1.0"),
        ({"interval": float("nan")}, "interval must be a number of seconds, at least 0.001, not nan"),
        ({"interval": float("inf")}, "interval must be a number of seconds, at least 0.001, not inf"),
        ({"interval": "1"}, "interval must be a number of seconds, at least 0.001, not '1'"),
        ({"flush": None}, "flush must be a function that takes a list of records, not None"),
        ({"clock": None}, "clock must provide IReactorTime, as reactors do, not None"),
        ({"max_waiting": -1}, "max_waiting must be a whole number of at least 0, not -1"),
    ],
)
def test_arguments_are_checked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        BatchWriter(**{**GOOD, **wrong})
    assert str(caught.value) == message


def test_a_timeout_is_checked(writer: BatchWriter[int]) -> None:
    with pytest.raises(InvalidArgument, match="timeout must be a number of seconds, at least 0, not -1"):
        writer.add(1, timeout=-1)
    assert writer.metrics.added == 0


# The end.


def test_stop_drains(writer: BatchWriter[int], flushes: Flushes, clock: Clock) -> None:
    fill(writer, *range(6))
    waiting = writer.add(6)
    first, second = writer.stop(), writer.stop()
    with pytest.raises(WriterStopped, match="the writer was stopped; it takes no more records"):
        writer.try_add(7)
    assert isinstance(result(writer.add(7)), WriterStopped)
    for _ in range(2):
        flushes.end()
    assert (result(waiting), result(first)) == (True, None)
    flushes.end()
    assert (result(first), result(second), result(writer.stop())) == (True, True, True)
    assert flushes.got == [[0, 1, 2], [3, 4, 5], [6]]
    assert clock.getDelayedCalls() == []
    assert (writer.metrics.dropped, writer.metrics.refused, writer.metrics.processed) == (0, 0, 7)


def test_stop_with_nothing_to_do(writer: BatchWriter[int], clock: Clock) -> None:
    assert result(writer.stop()) is True
    assert clock.getDelayedCalls() == []


def test_stop_does_not_wait_for_the_interval(writer: BatchWriter[int], flushes: Flushes, clock: Clock) -> None:
    fill(writer, 1)
    stopped = writer.stop()
    assert flushes.got == [[1]]
    flushes.end(ValueError("logged"))
    assert result(stopped) is True
    assert clock.getDelayedCalls() == []


# The books.


def test_times(writer: BatchWriter[int], flushes: Flushes, clock: Clock) -> None:
    assert writer.metrics.average_flush_time == 0
    for seconds in (0.5, 0.25):
        fill(writer, 1, 2, 3)
        clock.advance(seconds)
        flushes.end()
    metrics = writer.metrics
    assert (metrics.last_flush_time, metrics.total_flush_time, metrics.average_flush_time) == (0.25, 0.75, 0.375)


class Books(RuleBasedStateMachine):
    """Anything in any order: what went in comes out once, in order, and every number says so."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.flushes = Flushes()
        self.writer: BatchWriter[int] = BatchWriter(3, 1.0, self.flushes, self.clock, max_waiting=4)
        self.next = 0
        self.entered: list[int] = []
        self.waiting: list[tuple[int, Deferred[None]]] = []
        self.dropped = self.refused = self.failed = self.ended = 0
        self.stopped: Deferred[None] | None = None

    @precondition(lambda self: self.stopped is None)
    @rule()
    def try_add(self) -> None:
        self.next += 1
        if self.writer.try_add(self.next):
            self.entered.append(self.next)
        else:
            self.dropped += 1

    @precondition(lambda self: self.stopped is None)
    @rule(timeout=st.none() | st.sampled_from((0, 0.5, 3)))
    def add(self, timeout: float | None) -> None:
        self.next += 1
        record = self.next
        added = self.writer.add(record, timeout)
        self.waiting.append((record, added))
        added.addCallbacks(lambda _: self.entered.append(record), lambda _: self._count_refused())
        added.addBoth(lambda _: self.waiting.remove((record, added)))

    def _count_refused(self) -> None:
        self.refused += 1

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.waiting))[1].cancel()

    @precondition(lambda self: self.flushes.running is not None)
    @rule(well=st.booleans())
    def end(self, well: bool) -> None:
        self.ended += 1
        if not well:
            self.failed += len(self.flushes.got[-1])
        self.flushes.end(None if well else ValueError("a failed flush"))

    @rule(seconds=st.sampled_from((0, 0.25, 0.5, 1)))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def flush_now(self) -> None:
        entered = len(self.entered)
        done = self.writer.flush_now()
        done.addCallback(lambda _: self._check_flushed(entered))
        done.addErrback(self._keep)

    def _check_flushed(self, count: int) -> None:
        flushed = sum(len(records) for records in self.flushes.got)
        assert flushed - (len(self.flushes.got[-1]) if self.flushes.running else 0) >= count

    def _keep(self, failure: Any) -> None:
        self.broken = failure.getTraceback()

    broken: str | None = None

    @precondition(lambda self: len(self.entered) > 6)
    @rule()
    def stop(self) -> None:
        self.stopped = self.writer.stop()

    @invariant()
    def books_are_right(self) -> None:
        metrics = self.writer.metrics
        assert self.broken is None, self.broken
        assert metrics.added == len(self.entered)
        assert metrics.added == metrics.processed + metrics.failed + metrics.in_flush + metrics.in_buffer
        assert (metrics.dropped, metrics.refused, metrics.failed) == (self.dropped, self.refused, self.failed)
        assert (metrics.waiting, metrics.flushes) == (len(self.waiting), self.ended)
        assert metrics.in_flush == (len(self.flushes.got[-1]) if self.flushes.running else 0)

    @invariant()
    def nothing_is_lost_doubled_or_overtaken(self) -> None:
        flushed = [record for records in self.flushes.got for record in records]
        assert flushed == self.entered[: len(flushed)]
        assert len(self.entered) - len(flushed) == self.writer.metrics.in_buffer

    @invariant()
    def nobody_waits_without_reason(self) -> None:
        metrics = self.writer.metrics
        assert not metrics.waiting or metrics.in_buffer == 3
        assert metrics.in_buffer < 3 or metrics.in_flush
        assert not metrics.in_buffer or metrics.in_flush or self.clock.getDelayedCalls()
        if self.stopped is not None:
            assert self.stopped.called == (metrics.in_buffer == metrics.in_flush == 0)


TestBooks = Books.TestCase

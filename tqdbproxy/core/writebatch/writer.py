"""A buffer that hands its records on together: when it is full, when the oldest has waited long enough, or when told.

The law of this module: one flush at a time, in the order of the adds; every record that was accepted is handed to the
flush function once. Two queues, both with an end: the buffer holds ``capacity`` records, and behind it up to
``max_waiting`` adds wait for room, first come, first served. What comes then is turned away.

An invariant keeps the order: adds wait only while the buffer is full. So whoever finds room may take it, and new room
is filled with those who wait before anybody's code runs.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Generic, TypeVar

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tqdbproxy.core.writebatch.errors import AddTimedOut, InvalidArgument, TooManyWaiting, WriterStopped

T = TypeVar("T")

SHORTEST_INTERVAL: Final = 0.001


@dataclass(frozen=True, slots=True)
class WriterMetrics:
    """The books of a writer: ``added == processed + failed + in_flush + in_buffer``, whenever one looks.

    ``dropped`` were refused by ``try_add``; ``refused`` are adds that gave up or were turned away for lack of room.
    ``flushes`` are those that have ended, well or badly. Times are seconds of the writer's clock.
    """

    added: int
    processed: int
    failed: int
    in_flush: int
    in_buffer: int
    waiting: int
    dropped: int
    refused: int
    flushes: int
    last_flush_time: float
    total_flush_time: float

    @property
    def average_flush_time(self) -> float:
        """For one flush; 0 before the first has ended."""
        return self.total_flush_time / self.flushes if self.flushes else 0.0


class BatchWriter(Generic[T]):
    """Gathers records and gives them to ``flush`` as one list, which is then its own.

    ``flush`` is called when ``capacity`` records are there, within the add; else ``interval`` seconds after the
    first of them was added. It may return a Deferred, or be a coroutine function: until that has ended, records gather
    for the next flush. If it fails, the failure is logged, its records are counted as failed, and the writer goes on.

    All methods are for the reactor's thread.
    """

    _log = Logger()

    def __init__(
        self,
        capacity: int,
        interval: float,
        flush: Callable[[list[T]], Deferred[Any] | Coroutine[Deferred[Any], Any, Any] | None],
        clock: IReactorTime,
        max_waiting: int = 100_000,
    ) -> None:
        self._capacity = _whole("capacity", capacity, at_least=1)
        self._interval = _seconds("interval", interval, at_least=SHORTEST_INTERVAL)
        self._max_waiting = _whole("max_waiting", max_waiting, at_least=0)
        if not callable(flush):
            raise InvalidArgument(f"flush must be a function that takes a list of records, not {flush!r}")
        if not IReactorTime.providedBy(clock):
            raise InvalidArgument(f"clock must provide IReactorTime, as reactors do, not {clock!r}")
        self._flush = flush
        self._clock = clock
        self._buffer: list[T] = []
        self._waiting: OrderedDict[Deferred[None], tuple[T, IDelayedCall | None]] = OrderedDict()
        self._timer: IDelayedCall | None = None
        self._due = self._stopping = self._pumping = False
        self._flushed: deque[tuple[int, Deferred[None]]] = deque()
        self._stops: list[Deferred[None]] = []
        self._started = self._flushes = 0
        self._processed = self._failed = self._in_flush = self._dropped = self._refused = 0
        self._last_time = self._total_time = 0.0

    def try_add(self, record: T) -> bool:
        """Add the record if there is room, else drop and count it. Raises WriterStopped after ``stop``."""
        if self._accept(record):
            return True
        self._dropped += 1
        return False

    def add(self, record: T, timeout: float | None = None) -> Deferred[None]:
        """Add the record; the Deferred fires when it is in the buffer, which is at once while there is room.

        It fails with AddTimedOut when there was no room for ``timeout`` seconds, with TooManyWaiting, with
        WriterStopped, and can be cancelled while it waits; in these cases the record is not added.
        """
        if timeout is not None:
            _seconds("timeout", timeout, at_least=0)
        try:
            # A fired Deferred can't be shared: whoever adds a callback changes it. A new one costs 0.13 us.
            return succeed(None) if self._accept(record) else self._wait(record, timeout)
        except WriterStopped:
            return fail()

    def flush_now(self) -> Deferred[None]:
        """Flush what is in the buffer; fires when all that was added until now has been flushed, well or badly."""
        if not self._buffer and not self._in_flush:
            return succeed(None)
        done: Deferred[None] = Deferred()
        self._flushed.append((self._started + bool(self._buffer), done))
        self._due = self._due or bool(self._buffer)
        self._pump()
        return done

    def stop(self) -> Deferred[None]:
        """Take no more records; fires when all that were added, or waited for room, have been flushed."""
        done: Deferred[None] = Deferred()
        self._stops.append(done)
        self._stopping = self._due = True
        self._pump()
        return done

    @property
    def metrics(self) -> WriterMetrics:
        """The books now."""
        return WriterMetrics(
            added=self._processed + self._failed + self._in_flush + len(self._buffer),
            processed=self._processed,
            failed=self._failed,
            in_flush=self._in_flush,
            in_buffer=len(self._buffer),
            waiting=len(self._waiting),
            dropped=self._dropped,
            refused=self._refused,
            flushes=self._flushes,
            last_flush_time=self._last_time,
            total_flush_time=self._total_time,
        )

    def _accept(self, record: T) -> bool:
        """Put the record into the buffer if there is room, and see to it that the buffer will be flushed."""
        if self._stopping:
            raise WriterStopped("the writer was stopped; it takes no more records")
        buffer = self._buffer
        if len(buffer) >= self._capacity:
            return False
        buffer.append(record)
        if len(buffer) == self._capacity:
            self._pump()
        elif self._timer is None:
            self._timer = self._clock.callLater(self._interval, self._ring)
        return True

    def _wait(self, record: T, timeout: float | None) -> Deferred[None]:
        if len(self._waiting) >= self._max_waiting:
            self._refused += 1
            return fail(TooManyWaiting(f"the buffer is full, and {self._max_waiting} adds wait for room (max_waiting)"))
        added: Deferred[None] = Deferred(self._leave)
        call = None if timeout is None else self._clock.callLater(timeout, self._give_up, added, timeout)
        self._waiting[added] = (record, call)
        return added

    def _leave(self, added: Deferred[None]) -> None:
        """Somebody who waits for room was cancelled."""
        if added in self._waiting:
            _, call = self._waiting.pop(added)
            self._refused += 1
            if call is not None:
                call.cancel()

    def _give_up(self, added: Deferred[None], timeout: float) -> None:
        del self._waiting[added]
        self._refused += 1
        added.errback(AddTimedOut(f"the buffer had no room for {timeout} s; the record was not added"))

    def _ring(self) -> None:
        """The first record in the buffer has waited for ``interval``."""
        self._timer = None
        self._due = True
        self._pump()

    def _pump(self) -> None:
        """Flush as often as there is reason to."""
        if self._pumping:
            return
        # A loop, not a recursion: flush functions may end at once, any number of times.
        self._pumping = True
        while self._buffer and not self._in_flush and (self._due or len(self._buffer) >= self._capacity):
            self._start()
        self._pumping = False
        if self._stopping and not self._buffer and not self._in_flush:
            stops, self._stops = self._stops, []
            for stopped in stops:
                stopped.callback(None)

    def _start(self) -> None:
        """Hand the buffer to the flush function, and its room to those who wait for it."""
        records, self._buffer = self._buffer, []
        self._in_flush = len(records)
        self._started += 1
        self._due = self._stopping
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        admitted = self._admit()
        began = self._clock.seconds()
        maybeDeferred(self._flush, records).addBoth(self._finished, len(records), began)
        for added in admitted:
            # The flush function, or one of these, may have cancelled another meanwhile; its record is in all the same.
            if not added.called:
                added.callback(None)

    def _admit(self) -> list[Deferred[None]]:
        """Move the records of those who wait into the buffer; their Deferreds are fired by the caller."""
        admitted = []
        while self._waiting and len(self._buffer) < self._capacity:
            added, (record, call) = self._waiting.popitem(last=False)
            self._buffer.append(record)
            admitted.append(added)
            if call is not None:
                call.cancel()
        if 0 < len(self._buffer) < self._capacity and not self._stopping:
            self._timer = self._clock.callLater(self._interval, self._ring)
        return admitted

    def _finished(self, result: object, count: int, began: float) -> None:
        """A flush has ended."""
        self._last_time = self._clock.seconds() - began
        self._total_time += self._last_time
        self._flushes += 1
        self._in_flush = 0
        if isinstance(result, Failure):
            self._failed += count
            self._log.failure("Flushing {count} records failed; the writer goes on", result, count=count)
        else:
            self._processed += count
        while self._flushed and self._flushed[0][0] <= self._flushes:
            self._flushed.popleft()[1].callback(None)
        self._pump()


def _whole(name: str, value: int, at_least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise InvalidArgument(f"{name} must be a whole number of at least {at_least}, not {value!r}")
    return value


def _seconds(name: str, value: float, at_least: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not at_least <= value < inf:
        raise InvalidArgument(f"{name} must be a number of seconds, at least {at_least}, not {value!r}")
    return value

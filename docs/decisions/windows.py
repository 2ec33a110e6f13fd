"""The figures of windows.rst: the real manager on a clock that is set by hand, with writers and batches that take time.

Run it with ``python docs/decisions/windows.py``; it takes some seconds.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tqdbproxy.core.metrics import Metrics
from tqdbproxy.core.statement import BatchKey, Identity, Strategy
from tqdbproxy.core.writebatch import policy
from tqdbproxy.core.writebatch.manager import Manager
from tqdbproxy.core.writebatch.types import Alone, Done, Limits, Outcome, Result, Write

BATCH_S, MEMBER_S, SINGLE_S, THINK_S = 0.0003, 0.00001, 0.0002, 0.00005
WINDOW_S = 0.01
PATIENT = policy.Patience.spent
KEY = BatchKey(Identity("main", b"d", b"u", ()), "template")
Rates = Sequence[float | None]
# Name, writes per second of each writer (None: one after another), seconds to simulate.
LOADS: tuple[tuple[str, Rates, float], ...] = (
    ("100 writers, one after another", [None] * 100, 0.4),
    ("10 writers, one after another", [None] * 10, 0.4),
    ("the same, and 3 that write seldom", [None] * 10 + [10] * 3, 2),
    ("50 writers, 2,000 writes/s together", [40] * 50, 4),
    ("200 writers, 400 writes/s together", [2] * 200, 10),
    ("20 writers, 100 writes/s together", [5] * 20, 20),
    ("2 writers, 1,000 writes/s together", [500] * 2, 4),
)
# Seconds of a generation, quorum, whether the rest are waited for.
POLICIES = (
    (0.02, 0.5, True),
    (0.5, 0.5, True),
    (5.0, 0.5, True),
    (0.5, 0.5, False),
    (0.5, 1.0, True),
    (0.5, 0.0, True),
    (0.5, None, True),
)


class Server:
    """Executes whatever comes, one row after another."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def begin(self, _writes: Sequence[Write]) -> None:
        """It doesn't."""

    def execute(self, writes: Sequence[Write], _beginning: object = None) -> Deferred[Outcome]:
        done: Deferred[Outcome] = Deferred()
        replies = Done([b""] * len(writes), Strategy.PREPARED)
        self._clock.callLater(BATCH_S + MEMBER_S * len(writes), done.callback, replies)
        return done


class Writer:
    """Writes, waits for the answer, thinks (or is late already), writes again."""

    def __init__(self, clock: Clock, manager: Manager, rate: float | None, until: float, chance: random.Random) -> None:
        self._clock, self._manager, self._rate, self._until, self._chance = clock, manager, rate, until, chance
        self._due = chance.expovariate(rate) if rate else chance.random() * 0.001
        self.waits: list[float] = []
        clock.callLater(self._due, self._write)

    def _write(self) -> None:
        began = self._clock.seconds()
        if began > self._until:
            return
        write = Write(KEY, "template", 50, WINDOW_S, self, None)
        finished = self._manager.alone(write)
        if finished is not None:
            self._clock.callLater(SINGLE_S, self._finish, finished, began)
            return
        write.done.addCallback(self._answered, began)
        self._manager.submit(write)

    def _answered(self, result: Result, began: float) -> None:
        if isinstance(result, Alone):
            self._clock.callLater(SINGLE_S, self._finish, partial(result.finished.callback, None), began)
        else:
            self._next(began)

    def _finish(self, finished: partial[None], began: float) -> None:
        finished()
        self._next(began)

    def _next(self, began: float) -> None:
        now = self._clock.seconds()
        self.waits.append(now - began)
        self._due += self._chance.expovariate(self._rate) if self._rate else 0.0
        self._clock.callLater(max(THINK_S, self._due - now) if self._rate else THINK_S, self._write)


def simulate(rates: Rates, seconds: float, generation_s: float, quorum: float | None, grace: bool) -> str:
    """The mean batch, and the mean time from a write to its answer."""
    policy.GENERATION_S = generation_s
    setattr(policy.Patience, "spent", PATIENT if grace else lambda _self: True)  # noqa: B010
    clock = Clock()
    metrics = Metrics(CollectorRegistry(), clock=clock.seconds)
    manager = Manager(Limits(quorum=quorum), Server(clock), metrics, clock)
    chance = random.Random(1)
    all_writers = [Writer(clock, manager, rate, seconds, chance) for rate in rates]
    while clock.calls and clock.seconds() <= seconds + 1:
        clock.advance(max(0.0, clock.calls[0].getTime() - clock.seconds()) + 1e-9)
    waits = [wait for writer in all_writers for wait in writer.waits]
    mean = metrics.batch_size.sum / metrics.batch_size.count
    return f"{mean:.1f}, {1000 * sum(waits) / len(waits):.1f} ms"


if __name__ == "__main__":
    for name, rates, seconds in LOADS:
        print(name, *(simulate(rates, seconds, *how) for how in POLICIES), sep="  |  ")

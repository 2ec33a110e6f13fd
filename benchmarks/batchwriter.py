"""``python -m benchmarks.batchwriter``: what an add to a BatchWriter costs, its share of flushes and timers included.

The law of this module: nothing is waited for. The flush function does nothing, time stands still, and so what is
measured is the writer alone; the loop around it is part of the figure.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tqdbproxy.core.writebatch.writer import BatchWriter

CAPACITY = 1000
RECORDS = 100_000
ROUNDS = 9


@dataclass(frozen=True, slots=True)
class Case:
    """One way to add, the work of a round, and the most that one record may cost in microseconds."""

    name: str
    work: Callable[[], None]
    goal: float | None = None


def try_add() -> None:
    """There is room, and each thousandth record flushes."""
    writer: BatchWriter[int] = BatchWriter(CAPACITY, 1.0, lambda _: None, Clock())
    for record in range(RECORDS):
        writer.try_add(record)


def try_add_when_full() -> None:
    """A flush doesn't end, and every record is dropped."""
    writer: BatchWriter[int] = BatchWriter(1, 1.0, lambda _: Deferred(), Clock())
    for record in range(RECORDS):
        writer.try_add(record)


def add() -> None:
    """There is room: the Deferred has fired already."""
    writer: BatchWriter[int] = BatchWriter(CAPACITY, 1.0, lambda _: None, Clock())
    for record in range(RECORDS):
        writer.add(record)


def add_with_timeout() -> None:
    """The same; the timeout is checked but needs no timer."""
    writer: BatchWriter[int] = BatchWriter(CAPACITY, 1.0, lambda _: None, Clock())
    for record in range(RECORDS):
        writer.add(record, timeout=1.0)


def add_that_waits() -> None:
    """All wait behind a flush, then all are let in."""
    first: Deferred[None] = Deferred()
    answers = iter((first,))
    writer: BatchWriter[int] = BatchWriter(CAPACITY, 1.0, lambda _: next(answers, None), Clock(), max_waiting=RECORDS)
    for record in range(RECORDS):
        writer.add(record)
    first.callback(None)


CASES = (
    Case("try_add", try_add, goal=0.3),
    Case("try_add, full: dropped", try_add_when_full),
    Case("add, there is room", add, goal=1.0),
    Case("add with a timeout, there is room", add_with_timeout),
    Case("add, waits, is let in", add_that_waits),
)


def measure(case: Case) -> list[float]:
    """Microseconds for one record, round by round, quickest first."""
    rounds = []
    for _ in range(ROUNDS):
        gc.collect()
        began = time.perf_counter()
        case.work()
        rounds.append((time.perf_counter() - began) / RECORDS * 1e6)
    return sorted(rounds)


def main() -> None:
    """Measure all cases and print them."""
    table = Table("operation", "us: median", "quickest", "slowest", "goal", title=f"BatchWriter, capacity {CAPACITY}")
    for case in CASES:
        rounds = measure(case)
        verdict = (
            "" if case.goal is None else f"{'ok' if statistics.median(rounds) < case.goal else 'MISSED'}: < {case.goal}"
        )
        table.add_row(
            case.name, *(f"{figure:.3f}" for figure in (statistics.median(rounds), rounds[0], rounds[-1])), verdict
        )
    Console().print(table)


if __name__ == "__main__":
    main()

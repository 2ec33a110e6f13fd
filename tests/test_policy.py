"""When a window closes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tqdbproxy.core.writebatch.policy import (
    GENERATION_S,
    MOST_IMPATIENT,
    Patience,
    RecentWriters,
    beginning_of,
    quorum_reached,
)


@pytest.mark.parametrize(
    ("waiting", "recent", "quorum", "reached"),
    [
        (1, 1, 0.5, True),
        (1, 2, 0.5, True),
        (1, 3, 0.5, False),
        (2, 3, 0.5, True),
        (49, 100, 0.5, False),
        (50, 100, 0.5, True),
        (1, 100, 0.0, True),
        (99, 100, 1.0, False),
        (100, 100, 1.0, True),
        (1, 0, 0.5, True),
        (0, 0, 0.0, False),
        (100, 1, None, False),
    ],
)
def test_the_quorum(waiting: int, recent: int, quorum: float | None, reached: bool) -> None:
    assert quorum_reached(waiting, recent, quorum) is reached


def test_every_writer_counts_once() -> None:
    writers = RecentWriters(0.0)
    for writer in "abab":
        writers.note(writer, 0.1)
    assert writers.count == 2


def test_a_writer_is_forgotten_after_two_generations_at_the_latest() -> None:
    writers = RecentWriters(0.0)
    writers.note("a", 0.0)
    writers.note("b", GENERATION_S)
    assert writers.count == 2
    writers.note("b", 2 * GENERATION_S)
    assert writers.count == 1


def test_after_a_long_silence_all_are_forgotten() -> None:
    writers = RecentWriters(0.0)
    for writer in range(10):
        writers.note(writer, 0.1)
    writers.note("new", 10.0)
    assert writers.count == 1


def test_a_writer_that_has_gone_is_forgotten_at_once() -> None:
    writers = RecentWriters(0.0)
    writers.note("a", 0.0)
    writers.note("b", 0.0)
    writers.note("b", GENERATION_S)
    for gone, count in (("b", 1), ("b", 1), ("unknown", 1), ("a", 0)):
        writers.forget(gone)
        assert writers.count == count
    writers.note("a", GENERATION_S)
    writers.note("c", 2 * GENERATION_S)
    assert writers.count == 2


def without(patience: Patience) -> int:
    """How many batches begin without the rest before they get another chance."""
    count = 0
    while patience.spent():
        count += 1
    return count


def test_patience_grows_short_and_long() -> None:
    patience = Patience()
    assert without(patience) == 0
    counts = []
    for _ in range(9):
        patience.disappointed()
        counts.append(without(patience))
    assert counts == [1, 2, 4, 8, 16, 32, 64, 64, 64]
    assert counts[-1] == MOST_IMPATIENT
    patience.rewarded()
    assert without(patience) == 0
    patience.disappointed()
    assert without(patience) == 32
    for _ in range(9):
        patience.rewarded()
    patience.disappointed()
    assert without(patience) == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 0.4)), max_size=60))
def test_lately_is_one_to_two_generations(steps: list[tuple[int, float]]) -> None:
    writers = RecentWriters(0.0)
    now = 0.0
    noted: list[tuple[int, float]] = []
    for writer, passed in steps:
        now += passed
        writers.note(writer, now)
        noted.append((writer, now))
        at_least = {who for who, when in noted if now - when < GENERATION_S}
        at_most = {who for who, when in noted if now - when < 2 * GENERATION_S + 0.4}
        assert len(at_least) <= writers.count <= len(at_most)


@pytest.mark.parametrize(
    ("expected", "least", "begins_with"),
    [
        (0, 1, None),
        (1, 1, None),
        (2, 1, 1),
        (2, 2, None),
        (32, 32, None),
        (33, 32, 32),
        (64, 32, 32),
        (65, 32, 64),
        (100, 64, 64),
        (100, 65, None),
        (100, 0, None),
    ],
)
def test_with_how_many_the_server_may_begin(expected: int, least: int, begins_with: int | None) -> None:
    assert beginning_of(expected, least) == begins_with

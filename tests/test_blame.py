"""Whose row it probably was, from the detail of an error."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import builders as m
from tests.test_merging import unit
from tqdbproxy.core.writebatch.types import Failed
from tqdbproxy.postgres.mergeable import mergeable
from tqdbproxy.postgres.servers.batches import MergedExchange
from tqdbproxy.postgres.servers.blame import ALIKE, culprit, texts
from tqdbproxy.postgres.servers.statements import Statements
from tqdbproxy.postgres.sql import parse

BINARY = (1, 0)
ROWS = [unit(b"1", b"x"), unit(b"2", b"y"), unit(b"30", None)]
NUMBERS = [unit(struct.pack("!i", n), b"x", formats=BINARY) for n in (1, -2, 3)]


@pytest.mark.parametrize(
    ("detail", "found"),
    [
        ("Key (k)=(2) already exists.", 1),
        ("Schlüssel »(k)=(30)« existiert bereits.", 2),
        ('Key (k)=(1) is not present in table "other".', 0),
        ("Key (k, v)=(2, y) already exists.", 1),
        ("Failing row contains (30, null).", 2),
        ("Failing row contains (1, x, 2020-01-01).", 0),
        ("Key (k)=(3) already exists.", None),
        ("nothing to be seen here", None),
        ("", None),
    ],
)
def test_of_text_parameters(detail: str, found: int | None) -> None:
    assert culprit(ROWS, detail) == found


def test_of_integers_in_binary_format() -> None:
    assert culprit(NUMBERS, "Key (k)=(-2) already exists.") == 1


@pytest.mark.parametrize(("alike", "found"), [(ALIKE, 0), (ALIKE + 1, None)])
def test_of_rows_that_look_alike(alike: int, found: int | None) -> None:
    assert culprit([unit(b"7", b"x")] * alike + ROWS, "Key (k)=(7) already exists.") == found


@given(
    st.lists(st.one_of(st.none(), st.binary(max_size=9)), min_size=2, max_size=2),
    st.sampled_from([(), (0,), (1,), BINARY]),
)
def test_any_parameters_can_be_shown(values: list[bytes | None], formats: tuple[int, ...]) -> None:
    assert len(texts(unit(*values, formats=formats).tail)) <= sum(value is not None for value in values)


VALUES = st.sampled_from(
    [b"1", b"-1", b"12", b"x", b"", b"\xe9", b"\0\0\0\1", b"\xff\xff", b"99999999999999999999", None]
)


@given(
    st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=8),
    st.sampled_from([(), (0,), (1,), BINARY]),
    st.sampled_from(["1", "-1", "1, x", "x", "12, 1", "\ufffd", "99999999999999999999", "", "65535"]),
)
def test_it_is_whom_a_closer_look_at_all_would_name(
    rows: list[tuple[bytes | None, bytes | None]], formats: tuple[int, ...], values: str
) -> None:
    units = [unit(*row, formats=formats) for row in rows]
    scores = [len(set(values.split(", ")) & texts(one.tail)) for one in units]
    named = scores.index(max(scores)) if max(scores) and scores.count(max(scores)) <= ALIKE else None
    found = culprit(units, f"Key (k)=({values}) already exists.")
    assert found == named or (found is not None and scores[found] > 0)


@pytest.mark.parametrize(
    ("code", "answered", "index"),
    [("23505", 0, 0), ("23505", 2, None), ("40P01", 0, None), ("22003", 0, None)],
    ids=["constraint", "at the commit", "deadlock", "not a constraint"],
)
def test_a_merged_insert_that_fails(code: str, answered: int, index: int | None) -> None:
    """Three rows are two pieces and a guard."""
    found = mergeable(ROWS[0].sql, parse)
    assert found is not None
    exchange = MergedExchange(ROWS, Statements(), found)
    done = [m.BIND_COMPLETE + m.complete("INSERT 0 1")] * answered
    said = m.PARSE_COMPLETE * 3 + b"".join(done) + m.error(code, D="Key (k)=(1) already exists.") + m.ready()
    assert exchange.receive(said) == Failed(index)

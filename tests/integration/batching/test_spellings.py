"""Writes that differ in meaningless white space meet in one batch; each keeps what its white space means."""

from __future__ import annotations

import pytest

from tests.integration.batching.conftest import MakeCrowd, Place
from tests.integration.batching.crowd import COUNT, Reply, extended, simple
from tests.integration.metrics import Growth
from tests.proxies import RunningProxy

SPELLINGS = [
    "INSERT INTO t (a, b) VALUES ({}, {})",
    "INSERT INTO t  (a,b)\tVALUES({},{}) ;",
    "\n    INSERT INTO t (\n        a,\n        b\n    )\n    VALUES (\n        {},\n        {}\n    )\n",
    "INSERT INTO t(a, b) VALUES ( {} , {} )\r\n",
]


@pytest.fixture
def plain(place: Place) -> Place:
    place.make("CREATE TABLE t (a int, b text)")
    return place


@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_spellings_share_a_batch(plain: Place, crowds: MakeCrowd, batching: RunningProxy, protocol: str) -> None:
    crowd = crowds()

    def write(n: int) -> bytes:
        text = SPELLINGS[n % len(SPELLINGS)]
        if protocol == "simple":
            return simple(text.format(n, f"'x  {n}'"))
        return extended(text.format("$1", "$2"), str(n), f"x  {n}")

    growth = Growth(batching)
    assert crowd.send(write) == [Reply(tag="INSERT 0 1")] * COUNT
    assert crowd.together == "merged"
    assert growth("write_batch_size_count") == 1
    rows = tuple((str(n).encode(), f"x  {n}".encode()) for n in range(COUNT))
    assert plain.rows("SELECT a, b FROM t ORDER BY a") == rows


def test_an_error_is_that_of_the_text_as_it_was_said(plain: Place, crowds: MakeCrowd) -> None:
    crowd = crowds()
    said = crowd.send(lambda n: simple(SPELLINGS[n % 4].format("'x'" if n == 5 else n, "'y'")))
    assert said == [Reply(tag="INSERT 0 1") if n != 5 else Reply(sqlstate="22P02") for n in range(COUNT)]


def test_literals_in_two_lines_are_one(plain: Place, crowds: MakeCrowd) -> None:
    crowd = crowds()
    between = ["\n", "\n  ", " \r\n\t", "\n\n"]
    assert crowd.send(lambda n: simple(f"INSERT INTO t VALUES (7, 'a'{between[n % 4]}'b')")) == (
        [Reply(tag="INSERT 0 1")] * COUNT
    )
    assert crowd.together == "prepared"
    assert plain.rows("SELECT DISTINCT b FROM t") == ((b"ab",),)
    assert {one.sqlstate for one in crowd.send(lambda _: simple("INSERT INTO t VALUES (7, 'a'  'b')"))} == {"42601"}

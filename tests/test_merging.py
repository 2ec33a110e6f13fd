"""A many-row INSERT's messages, put together from the members' raw parameters."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import builders as m
from tqdbproxy.postgres.clients.prepared import Prepared
from tqdbproxy.postgres.clients.units import extended
from tqdbproxy.postgres.mergeable import Mergeable
from tqdbproxy.postgres.servers import merging
from tqdbproxy.postgres.sql import Texts
from tqdbproxy.postgres.unit import Unit

TEXTS = Texts()


def unit(*values: bytes | None, formats: Sequence[int] = ()) -> Unit:
    text = "/* batch:5 */ insert into t values ($1, $2)"
    found = extended(m.parse(text) + m.bind(*values, formats=formats) + m.execute() + m.SYNC, TEXTS, Prepared())
    assert isinstance(found, Unit)
    return found


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_pieces(members: int, parameters: int) -> None:
    sizes = merging.pieces(members, parameters)
    assert sum(sizes) == members
    assert sizes == sorted(sizes, reverse=True)
    assert all(size & size - 1 == 0 and size <= merging.LARGEST_PIECE for size in sizes)
    assert all(size * parameters <= merging.MAX_PARAMETERS for size in sizes)


@pytest.mark.parametrize(
    ("members", "parameters", "sizes"),
    [
        (1, 1, [1]),
        (7, 1, [4, 2, 1]),
        (256, 1, [256]),
        (1000, 3, [256, 256, 256, 128, 64, 32, 8]),
        (256, 256, [128, 128]),  # 255 rows would fit
        (256, 255, [256]),
        (3, 32767, [2, 1]),
        (3, 32768, [1, 1, 1]),
        (2, 65535, [1, 1]),
    ],
)
def test_the_sizes_of_pieces(members: int, parameters: int, sizes: list[int]) -> None:
    assert merging.pieces(members, parameters) == sizes


@pytest.mark.parametrize(
    ("declared", "parameters", "types"),
    [
        ((), 2, ()),
        ((0, 0), 2, ()),
        ((23,), 2, (23, 0, 23, 0, 23, 0)),
        ((23, 25), 2, (23, 25, 23, 25, 23, 25)),
        ((23, 25, 20), 2, (23, 25, 23, 25, 23, 25)),  # one that the text doesn't have
    ],
)
def test_declared_types_are_repeated(declared: Sequence[int], parameters: int, types: Sequence[int]) -> None:
    raw = struct.pack(f"!H{len(declared)}I", len(declared), *declared)
    assert merging.piece_types(raw, parameters, 3) == struct.pack(f"!H{len(types)}I", len(types), *types)


@pytest.mark.parametrize(
    ("formats", "repeated"),
    [((), ()), ((0,), (0,)), ((1,), (1,)), ((1, 0), (1, 0, 1, 0, 1, 0))],
)
def test_binds(formats: Sequence[int], repeated: Sequence[int]) -> None:
    members = [unit(b"a%d" % n, None if n == 1 else b"", formats=formats) for n in range(4)]
    found = merging.binds(members, 2, [b"three", b"one"], [3, 1])
    assert found == [
        m.bind(b"a0", b"", b"a1", None, b"a2", b"", statement="three", formats=repeated),
        m.bind(b"a3", b"", statement="one", formats=formats),
    ]


def test_what_does_not_fit_together() -> None:
    text, binary = unit(b"a", b"b"), unit(b"a", b"b", formats=(1,))
    assert merging.binds([text, binary], 2, [b"two"], [2]) is None
    assert merging.binds([text, text], 3, [b"two"], [2]) is None
    assert merging.binds([text, text], 1, [b"two"], [2]) is None


@given(st.integers(0, 40), st.binary(max_size=8))
def test_tails_that_are_cut_or_lie(cut: int, noise: bytes) -> None:
    """Nothing is merged that isn't whole, and nothing raises but what `binds` expects."""
    tail = unit(b"abc", b"\0" * 5).tail
    broken = unit(b"a", b"b")
    broken.become(b"", tail[:cut] + noise)
    found = merging.binds([broken], 2, [b"one"], [1])
    if cut >= len(tail):
        assert found is not None
    elif not noise:
        assert found is None


TABLE = Mergeable(b'"s"."it\'s"', b'insert into s."it\'s" values ', (b"($", b")"), (1,))

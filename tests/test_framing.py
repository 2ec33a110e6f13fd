"""Framing: every message cut at every byte, lengths that lie, bytes that are none of it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import builders as m
from tqdbproxy.errors import ProtocolViolation
from tqdbproxy.postgres.framing import MAX_LENGTH, FramingError, end_of_frame, frame, frames, text_at

MESSAGES = [
    m.query("select 1"),
    m.SYNC,
    m.parse("select $1", "s", [23, 0]),
    m.bind(b"a", None, b"", statement="s", formats=[1], results=[0, 1]),
    m.data_row("x" * 300),
    m.ready("T"),
]


@pytest.mark.parametrize("whole", MESSAGES, ids=m.kinds)
def test_a_message_cut_at_every_byte(whole: bytes) -> None:
    for cut in range(len(whole)):
        assert list(frames(whole[:cut])) == []
    assert list(frames(whole)) == [(whole[0], 0, len(whole))]
    assert list(frames(whole + whole[:-1])) == [(whole[0], 0, len(whole))]


def test_frames_begin_where_they_are_told_to() -> None:
    data = b"".join(MESSAGES)
    found = list(frames(data))
    assert [data[begin:end] for _kind, begin, end in found] == MESSAGES
    assert list(frames(data, found[2][1])) == found[2:]


def test_a_frame_is_made_as_the_manual_says() -> None:
    assert frame(b"X") == b"X\0\0\0\4"
    assert frame(b"Z", b"I") == m.ready()


@pytest.mark.parametrize("length", [0, 3, -1, -(2**31), 2**31 - 1, MAX_LENGTH + 1])
def test_lengths_that_lie(length: int) -> None:
    for rest in (b"", b"body"):
        data = m.SYNC + m.lying(b"Q", length, rest)
        with pytest.raises(FramingError, match=rf"invalid message length {length % 2**32} \(type b'Q'\)"):
            list(frames(data))
        with pytest.raises(FramingError):
            end_of_frame(data, len(m.SYNC))


@pytest.mark.parametrize("length", [4, MAX_LENGTH])
def test_the_lengths_that_are_allowed(length: int) -> None:
    assert end_of_frame(m.lying(b"d", length), 0) == 1 + length


def test_a_framing_error_is_the_peers_fault() -> None:
    assert issubclass(FramingError, ProtocolViolation)


def test_texts_end_inside_their_frame() -> None:
    assert text_at(b"ab\0cd\0", 0) == (b"ab", 3)
    assert text_at(b"ab\0cd\0", 3) == (b"cd", 6)
    for data, limit in ((b"abc", None), (b"ab\0", 2), (b"", None)):
        with pytest.raises(FramingError):
            text_at(data, 0, limit)


@given(st.binary(max_size=200))
def test_random_bytes_are_frames_or_an_error(data: bytes) -> None:
    at = 0
    try:
        for kind, begin, end in frames(data):
            assert (begin, kind) == (at, data[at])
            assert end - begin == 1 + struct.unpack_from("!I", data, begin + 1)[0] >= 5
            at = end
    except FramingError:
        assert not 4 <= struct.unpack_from("!I", data, at + 1)[0] <= MAX_LENGTH
    assert at <= len(data)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=1), st.binary(max_size=40)), max_size=8), st.integers(0, 400))
def test_whole_frames_are_found_in_any_prefix(messages: list[tuple[bytes, bytes]], cut: int) -> None:
    data = b"".join(frame(kind, body) for kind, body in messages)
    found = [data[begin:end] for _kind, begin, end in frames(data[:cut])]
    assert found == m.split(data)[: len(found)]
    rest = data[len(b"".join(found)) : cut]
    assert list(frames(rest)) == []

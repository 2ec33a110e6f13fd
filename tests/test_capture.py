"""The answer to one read, kept while it goes by: the same in any pieces, and nothing but whole plain answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import builders as m
from tests.owners import Session
from tqdbproxy.postgres.capture import Answer, Capture, Room

T, D, C = m.row_description("a"), m.data_row("1") + m.data_row("zwei"), m.complete("SELECT 2")
t = m.parameter_description(23)


class Sink:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def answered(self, answer: Answer, size: int) -> None:
        assert size == answer.size == sum(map(len, answer))
        self.told.append(answer)

    def failed(self) -> None:
        self.told.append("failed")

    def lost(self) -> None:
        self.told.append("lost")


def told(*pieces: bytes, limit: int = 10_000) -> list[object]:
    """What becomes of these."""
    sink = Sink()
    capture = Capture(sink, limit)
    for piece in pieces:
        if not capture.over:
            capture.take(piece)
    return sink.told


KEPT = {
    "simple": (T + D + C, Answer(T, D, C)),
    "no rows": (T + m.complete("SELECT 0"), Answer(T, b"", m.complete("SELECT 0"))),
    "one row": (T + m.data_row("1") + C, Answer(T, m.data_row("1"), C)),
    "extended": (m.PARSE_COMPLETE + m.BIND_COMPLETE + T + D + C, Answer(T, D, C)),
    "not described": (m.PARSE_COMPLETE + m.BIND_COMPLETE + D + C, Answer(b"", D, C)),
    "named": (m.BIND_COMPLETE + D + C, Answer(b"", D, C)),
    "nothing to describe": (m.BIND_COMPLETE + m.NO_DATA + C, Answer(b"", b"", C)),
    "statement described": (m.BIND_COMPLETE + t + T + D + C, Answer(t + T, D, C)),
    "closed": (m.BIND_COMPLETE + T + D + C + m.CLOSE_COMPLETE, Answer(T, D, C)),
    "suspended": (m.BIND_COMPLETE + D + m.SUSPENDED, Answer(b"", D, m.SUSPENDED)),
    "repaired": (m.PARSE_COMPLETE + m.BIND_COMPLETE + D + C, Answer(b"", D, C)),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_cut_at_every_byte(name: str) -> None:
    raw, answer = KEPT[name]
    raw += m.ready()
    for cut in range(len(raw) + 1):
        assert told(raw[:cut], raw[cut:]) == [answer]
    assert told(*(raw[at : at + 1] for at in range(len(raw)))) == [answer]


def test_all_that_are_on_their_way_share_their_room() -> None:
    room = Room(len(T + D) * 2)
    sinks = [Sink() for _ in range(3)]
    first, second, third = (Capture(sink, 10_000, room) for sink in sinks)
    for capture in (first, second):
        capture.take(T + D)
    third.take(T)
    assert ([sink.told for sink in sinks], room.held) == ([[], [], ["failed"]], room.most)
    second.take(C)
    first.lose()
    assert ([sink.told for sink in sinks], room.held) == ([["lost"], ["failed"], ["failed"]], 0)
    again = Capture(sinks[0], 10_000, room)
    again.take(T + D + C)
    again.take(m.ready())
    assert (sinks[0].told[1:], room.held) == ([Answer(T, D, C)], 0)


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize(
    "strange",
    [
        m.notice("n"), m.error("22012"), m.notification("c", "p"), m.parameter_status("TimeZone", "CET"), m.EMPTY_QUERY,
        m.copy_response(b"H"), m.copy_response(b"G"), m.copy_data(b"x"), m.message(b"?"), m.message(b"V", b"\0\0\0\0"),
    ],
)  # fmt: skip
def test_what_spoils_an_answer_wherever_it_comes(name: str, strange: bytes) -> None:
    frames = m.split(KEPT[name][0])
    for place in range(len(frames) + 1):
        raw = b"".join([*frames[:place], strange, *frames[place:], m.ready()])
        for cut in range(len(raw)):
            assert told(raw[:cut], raw[cut:]) == ["failed"]


@pytest.mark.parametrize("severity", ["FATAL", "PANIC"])
def test_an_error_that_ends_the_session_is_nobody_elses(severity: str) -> None:
    error = m.message(b"E", b"SFATAL\0V%b\0C57P01\0Mgone\0\0" % severity.encode())
    for cut in range(len(T + error)):
        assert told((T + error)[:cut], (T + error)[cut:]) == ["lost"]
    assert told(m.error("42601", "VFATAL")) == ["failed"]


@pytest.mark.parametrize("status", ["T", "E"])
def test_in_a_transaction_nothing_is_kept(status: str) -> None:
    assert told(T + D + C + m.ready(status)) == ["failed"]


def test_an_answer_without_its_end() -> None:
    assert told(T + D + m.ready()) == ["failed"]
    assert told(m.ready()) == ["failed"]
    assert told(T + D + C) == []


def test_what_comes_after_the_end_is_another_ones() -> None:
    assert told(T + D + C + m.ready() + m.error("22012") + m.ready()) == [Answer(T, D, C)]
    assert told(T + D + C + m.ready("E") + T + D + C + m.ready()) == ["failed"]


def test_the_limit_is_exact() -> None:
    raw = T + D + C + m.ready()
    for cut in range(len(raw)):
        assert told(raw[:cut], raw[cut:], limit=len(raw)) == [Answer(T, D, C)]
    assert told(raw[:-6], raw[-6:], limit=len(raw) - 7) == ["failed"]


def test_a_row_that_never_ends_takes_no_memory() -> None:
    sink = Sink()
    capture = Capture(sink, 100)
    capture.take(T + m.lying(b"D", 1 << 30) + b"x" * 100)
    assert sink.told == ["failed"]
    assert not capture._raw
    capture.lose()
    assert sink.told == ["failed"], "only once"


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.sampled_from(sorted(KEPT)))
def test_any_pieces(sizes: list[int], name: str) -> None:
    raw, answer = KEPT[name]
    assert told(*m.chunks(raw + m.ready(), sizes)) == [answer]


def test_rows_in_another_order_are_the_same_rows() -> None:
    one, two = m.data_row("1"), m.data_row("2", "3")
    assert Answer(T, one + two, C).in_order() == Answer(T, two + one, C).in_order()
    assert Answer(T, one + one, C).in_order() != Answer(T, one + two, C).in_order()


# On a connection


def test_the_client_gets_the_same_bytes_while_they_are_kept() -> None:
    raw = T + D + C + m.ready()
    for cut in range(len(raw)):
        it, sink = Session(), Sink()
        it.connection.capture(Capture(sink, 1000))
        it.server_says(raw[:cut], raw[cut:], T + m.ready())
        assert (it.client_got(), sink.told) == (raw + T + m.ready(), [Answer(T, D, C)])


def test_what_the_server_was_in_the_middle_of_is_no_answer() -> None:
    """The rest of a notification that looks like an answer to the statement that is sent now."""
    rest = T + D + C + m.ready()
    it, sink = Session(), Sink()
    it.server_says(m.lying(b"A", 4 + 30 + len(rest)) + b"y" * 30)
    it.connection.capture(Capture(sink, 1000))
    it.server_says(rest)
    assert sink.told == ["lost"]
    assert it.noted() == []


def test_half_a_header_before_it() -> None:
    it, sink = Session(), Sink()
    note = m.notification("c", "p")
    it.server_says(note[:3])
    it.connection.capture(Capture(sink, 1000))
    it.server_says(note[3:] + T + D + C + m.ready())
    assert sink.told == ["failed"]


def test_a_lost_connection_and_a_client_that_is_gone() -> None:
    it, sink = Session(), Sink()
    it.connection.capture(Capture(sink, 1000))
    it.server_says(T)
    it.connection.orphan()
    it.server_says(D + C + m.ready())
    assert sink.told == [Answer(T, D, C)]
    it, sink = Session(), Sink()
    it.connection.capture(Capture(sink, 1000))
    it.server_says(T)
    it.wire.lose()
    assert sink.told == ["lost"]

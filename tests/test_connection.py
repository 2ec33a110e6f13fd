"""One server connection: the forward lane byte for byte, and batches in between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from tests import builders as m
from tests.owners import HELLO, Session, results
from tests.peers import login
from tests.test_batches import member, unit
from tqdbproxy.core.writebatch.types import Done, Failed, Lost
from tqdbproxy.postgres.servers import pool as servers_pool
from tqdbproxy.postgres.servers.batches import PreparedExchange
from tqdbproxy.postgres.servers.pool import Pool
from tqdbproxy.postgres.unit import NO_KEY, Unit

KEY, OTHER_KEY = NO_KEY, NO_KEY._replace(template="another")

# The forward lane

TALK = b"".join(
    [
        m.row_description("a"),
        m.data_row("x" * 200),
        m.complete("SELECT 1"),
        m.ready(),
        m.parameter_status("TimeZone", "CET"),
        m.ready("T"),
        m.error("42601"),
        m.ready("E"),
        m.notification("c"),
        m.copy_response(b"G"),
        m.complete("COPY 1"),
        m.ready(),
        m.copy_response(b"H") + m.copy_data(b"x" * 70),
        m.copy_response(b"W"),
        m.PARSE_COMPLETE + m.CLOSE_COMPLETE,
        m.notice("n"),
    ]
)
NOTED = [
    ("done", "I", False),
    (b"TimeZone", b"CET"),
    ("done", "T", False),
    ("done", "E", True),
    "copy",
    ("done", "I", False),
    "copy",
]


def test_what_is_noted_of_what_the_server_says_cut_at_every_byte() -> None:
    for cut in range(len(TALK)):
        it = Session()
        it.server_says(TALK[:cut], TALK[cut:])
        assert it.client_got() == TALK
        assert it.noted() == NOTED


@given(st.lists(st.integers(1, 90), min_size=1, max_size=8))
def test_the_client_gets_the_same_bytes_in_any_pieces(sizes: list[int]) -> None:
    it = Session()
    it.server_says(*m.chunks(TALK, sizes))
    assert (it.client_got(), it.noted()) == (TALK, NOTED)
    assert it.connection.counts.units == 4


def test_the_owner_knows_before_the_client_and_hears_when_the_client_has_it_all() -> None:
    it = Session()
    it.server_says(m.complete("a") + m.ready() + m.complete("b") + m.ready("T"))
    assert it.said == [
        ("done", "I", False),
        ("done", "T", False),
        m.complete("a") + m.ready() + m.complete("b") + m.ready("T"),
        "caught up",
    ]


def test_a_large_message_streams() -> None:
    it = Session()
    header = m.lying(b"D", 1 << 29)
    it.server_says(header + b"x" * 10)
    assert it.client_got() == header + b"x" * 10
    it.server_says(b"Z\0\0\0\5I")
    assert it.noted() == []
    assert it.client_got() == header + b"x" * 10 + b"Z\0\0\0\5I"


def test_what_comes_with_the_end_of_the_login_is_the_sessions() -> None:
    it = Session(logged_in=False)
    it.connection.log_in(HELLO, False, it.to_client).addCallback(it._begins)
    it.server_says(login() + m.notification("c") + m.parameter_status("a", "b"))
    assert it.client_got() == login() + m.notification("c") + m.parameter_status("a", "b")
    assert it.noted() == [(b"a", b"b")]


@pytest.mark.parametrize("length", [0, 3, -1, -(2**31), 2**31 - 1])
@pytest.mark.parametrize("kind", [b"D", b"Z", b"S", b"E"])
def test_lengths_that_lie_end_the_connection(kind: bytes, length: int) -> None:
    data = m.data_row("good") + m.lying(kind, length) + m.data_row("never")
    for sizes in ([], [1], [7]):
        it = Session()
        for piece in m.chunks(data, sizes):
            if not it.wire.aborted:
                it.server_says(piece)
        assert it.wire.aborted
        assert it.client_got() == m.data_row("good")


@given(st.binary(min_size=1, max_size=100))
def test_random_bytes_are_passed_on_or_end_the_connection(data: bytes) -> None:
    it = Session()
    try:
        it.server_says(data)
    except Exception:
        it.wire.aborted = True  # as the event loop does it
    assert data.startswith(it.client_got())


# Replies to the proxy's own messages


@pytest.mark.parametrize("own", [m.PARSE_COMPLETE, m.CLOSE_COMPLETE])
def test_the_reply_to_an_own_message_is_swallowed(own: bytes) -> None:
    rest = m.PARSE_COMPLETE + m.BIND_COMPLETE + m.CLOSE_COMPLETE + m.ready()
    for before in (b"", m.notification("c"), m.parameter_status("a", "b")):
        for cut in range(len(before + own + rest)):
            it = Session()
            it.connection.swallow(1)
            it.server_says((before + own + rest)[:cut], (before + own + rest)[cut:])
            assert it.client_got() == before + rest


def test_after_an_error_nothing_is_swallowed() -> None:
    it = Session()
    it.connection.swallow(1)
    it.server_says(m.error("42601") + m.ready() + m.PARSE_COMPLETE)
    assert it.client_got() == m.error("42601") + m.ready() + m.PARSE_COMPLETE


# Batches

ANSWER = m.PARSE_COMPLETE + member() * 2 + m.ready()


def exchange(it: Session) -> PreparedExchange:
    return PreparedExchange([unit(b"1"), unit(b"2")], it.connection.statements)


@given(st.lists(st.integers(1, 40), max_size=6))
def test_a_batch_is_not_the_sessions(sizes: list[int]) -> None:
    it = Session()
    batch = exchange(it)
    outcome = results(it.connection.run(batch))
    assert it.wire.take() == batch.request
    it.server_says(*m.chunks(ANSWER, sizes))
    assert isinstance(outcome[0], Done)
    assert it.said == []
    it.server_says(m.ready())
    assert it.said == [("done", "I", False), m.ready(), "caught up"]


def test_what_concerns_the_session_reaches_it_during_a_batch() -> None:
    it = Session()
    outcome = results(it.connection.run(exchange(it)))
    aside = m.notification("c") + m.parameter_status("TimeZone", "CET")
    it.server_says(m.PARSE_COMPLETE + aside + member() * 2 + m.ready())
    assert isinstance(outcome[0], Done)
    assert (it.client_got(), it.noted()) == (aside, [(b"TimeZone", b"CET")])


@pytest.mark.parametrize("sizes", [[], [1], [len(ANSWER) + 3]])
def test_what_comes_behind_a_batch_reaches_the_session(sizes: list[int]) -> None:
    it = Session()
    outcome = results(it.connection.run(exchange(it)))
    it.server_says(*m.chunks(ANSWER + m.notification("c"), sizes))
    assert isinstance(outcome[0], Done)
    assert it.client_got() == m.notification("c")
    assert it.connection.lendable


def test_a_batch_that_failed_leaves_the_connection_idle() -> None:
    it = Session()
    outcome = results(it.connection.run(exchange(it)))
    it.server_says(m.PARSE_COMPLETE + m.BIND_COMPLETE + m.error("23505") + m.ready())
    assert outcome == [Failed(0)]
    assert (it.said, it.connection.lendable) == ([], True)


def test_a_connection_lost_during_a_batch() -> None:
    it = Session()
    closed: list[None] = []
    it.connection.closed.addCallback(closed.append)
    outcome = results(it.connection.run(exchange(it)))
    it.server_says(m.PARSE_COMPLETE + m.error("57P01", severity="FATAL"))
    assert outcome == []
    it.wire.lose()
    assert (outcome, closed) == ([Lost(sent=True)], [None])
    assert not it.connection.lendable


def test_a_batch_that_is_given_up() -> None:
    it = Session()
    running = it.connection.run(exchange(it))
    outcome = results(running)
    running.cancel()
    assert (outcome, it.wire.aborted) == ([Lost(sent=True)], True)
    it.wire.lose()
    assert outcome == [Lost(sent=True)]


def test_a_lie_during_a_batch() -> None:
    it = Session()
    outcome = results(it.connection.run(exchange(it)))
    it.server_says(m.PARSE_COMPLETE + m.lying(b"2", 3) + m.ready())
    assert it.wire.aborted
    it.wire.lose()
    assert outcome == [Lost(sent=True)]


# Who can be lent


def test_what_is_lent_is_idle() -> None:
    it = Session()
    assert it.connection.lendable
    for half in (m.ready()[:3], m.lying(b"D", 100)):
        busy = Session()
        busy.server_says(half)
        assert not busy.connection.lendable
    it.connection.run(exchange(it))
    assert not it.connection.lendable


def test_a_connection_is_not_lent_while_a_cancel_request_is_on_its_way() -> None:
    it = Session()
    heard: Deferred[None] = Deferred()
    it.wall.answer = heard
    it.connection.cancel(b"key")
    assert (it.connection.lendable, it.wall.cancelled) == (False, [b"key"])
    heard.callback(None)
    assert it.connection.lendable


def test_a_batch_is_not_cancelled() -> None:
    it = Session()
    it.connection.run(exchange(it))
    heard: list[None] = []
    it.connection.cancel(b"key").addCallback(heard.append)
    assert (it.wall.cancelled, heard) == ([], [None])


def test_a_connection_whose_client_does_not_read_is_not_lent() -> None:
    it = Session()
    it.wire.pauseProducing()
    assert not it.connection.lendable
    it.wire.resumeProducing()
    assert it.connection.lendable


def lent(size: int = 3) -> tuple[list[Session], list[Unit]]:
    """Sessions, and a write of each."""
    sessions = [Session() for _ in range(size)]
    units = [unit(b"1") for _ in sessions]
    for one, it in zip(units, sessions, strict=True):
        one.server = it.connection
    return sessions, units


def test_the_connection_that_has_most_statements_is_lent() -> None:
    sessions, units = lent()
    assert Pool().lend(KEY, units) is sessions[0].connection
    sessions[1].connection.statements.add("x", b"_tqdb_1")
    assert Pool().lend(KEY, units) is sessions[1].connection
    sessions[1].wire.lose()
    assert Pool().lend(KEY, units) is sessions[0].connection
    for it in sessions[::2]:
        it.wire.lose()
    assert Pool().lend(KEY, units) is None


def test_the_connection_that_was_lent_last_is_lent_again_if_it_can_be() -> None:
    sessions, units = lent()
    pool = Pool()
    assert pool.lend(KEY, units[1:]) is sessions[1].connection
    sessions[0].connection.statements.add("x", b"_tqdb_1")
    assert pool.lend(KEY, units) is sessions[1].connection
    assert pool.lend(OTHER_KEY, units) is sessions[0].connection
    assert pool.find(KEY, units[2:]) is sessions[2].connection
    assert pool.lend(KEY, units) is sessions[1].connection
    assert pool.lend(KEY, units[2:]) is sessions[2].connection
    assert pool.find(KEY, units) is sessions[2].connection
    sessions[2].wire.pauseProducing()
    assert pool.lend(KEY, units) is sessions[0].connection
    for it in sessions:
        it.wire.lose()
    assert pool.lend(KEY, units) is None


def test_what_was_lent_is_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers_pool, "KEPT_KEYS", 3)
    sessions, units = lent()
    pool = Pool()
    for number in range(20):
        assert pool.lend(KEY._replace(template=number), units) is sessions[0].connection
    assert len(pool._last) <= 3

"""How a server connection begins and ends."""

from __future__ import annotations

import pytest

from tests import builders as m
from tests.owners import HELLO, Session
from tqdbproxy.errors import ServerClosed, TlsFailed

# Ends


def test_a_half_closed_client() -> None:
    it = Session()
    it.connection.client_sends_no_more()
    assert (it.wire.eof_sent, it.wire.take()) == (True, b"")
    it.server_says(m.complete("late") + m.ready())
    assert it.client_got() == m.complete("late") + m.ready()


@pytest.mark.parametrize("mid_message", [False, True])
def test_over_tls_there_are_no_half_closed_connections(monkeypatch: pytest.MonkeyPatch, mid_message: bool) -> None:
    it = Session()
    monkeypatch.setattr(it.wire, "loseWriteConnection", lambda: False)
    it.connection.client_sends_no_more(mid_message=mid_message)
    assert (it.wire.take(), it.wire.disconnecting) == (b"" if mid_message else m.TERMINATE, mid_message)


def test_an_orphan_finishes_what_it_has() -> None:
    it = Session()
    it.wire.pauseProducing()
    it.connection.orphan()
    assert (it.wire.eof_sent, it.wire.paused) == (True, False)
    it.server_says(m.complete("late") + m.ready())
    assert it.said == [("done", "I", False), "caught up"]


def test_an_orphan_that_says_too_much_is_left() -> None:
    it = Session()
    it.connection.orphan()
    for _ in range(200):
        if not it.wire.aborted:
            it.server_says(m.lying(b"d", 4 + (1 << 20), bytes(1 << 20)))
    assert it.wire.aborted


def test_a_replication_connection_is_a_pipe() -> None:
    it = Session()
    it.connection.pipe()
    it.server_says(m.lying(b"?", 0, b"anything"))
    assert it.said == [m.lying(b"?", 0, b"anything")]


# Before the login


@pytest.mark.parametrize(("answer", "offered"), [(b"S", True), (b"N", False)])
def test_asking_for_tls(answer: bytes, offered: bool) -> None:
    it = Session(logged_in=False)
    found: list[bool] = []
    it.connection.request_tls().addCallback(found.append)
    assert it.wire.take() == m.SSL_REQUEST
    it.server_says(answer)
    assert found == [offered]


@pytest.mark.parametrize("answer", [b"S\x16", b"NR", b"E\0\0\0\x04", b"x"])
def test_more_than_one_byte_in_clear_ends_the_connection(answer: bytes) -> None:
    it = Session(logged_in=False)
    failures: list[object] = []
    it.connection.request_tls().addErrback(lambda failure: failures.append(failure.type))
    it.server_says(answer)
    assert (it.wire.aborted, failures) == (True, [TlsFailed])


def test_nobody_asked() -> None:
    it = Session(logged_in=False)
    it.server_says(m.ready())
    assert it.wire.aborted


def test_a_connection_that_is_lost_during_the_login() -> None:
    it = Session(logged_in=False)
    failures: list[object] = []
    it.connection.log_in(HELLO, False, it.to_client).addErrback(lambda failure: failures.append(failure.type))
    it.server_says(m.error("28000", severity="FATAL"))
    it.wire.lose()
    assert (failures, it.connection.said_why[:5]) == ([ServerClosed], "28000")
    assert it.connection.counts.connections == 0

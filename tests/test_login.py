"""Start-up and authentication, relayed: every byte as it came but for one mechanism, whatever the pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import builders as m
from tqdbproxy.errors import ChannelBindingImpossible, ProxyError
from tqdbproxy.postgres.framing import FramingError
from tqdbproxy.postgres.servers.login import MAX_EARLY, MAX_FRAME, Login

SCRAM = "SCRAM-SHA-256"
PLUS = "SCRAM-SHA-256-PLUS"
KEY = b"\0\0\0\7" + bytes(range(256))
GREETING = b"".join(
    [
        m.authentication(0),
        m.message(b"v", b"\0\3\0\2\0\0\0\0"),
        m.notice("hello"),
        m.parameter_status("server_version", "18.1"),
        m.parameter_status("TimeZone", "UTC"),
        m.parameter_status("TimeZone", "CET"),
        m.backend_key(KEY),
        m.ready(),
    ]
)


def login(*, tls: bool = False, tls_both: bool = False) -> Login:
    return Login(tls=tls, tls_both=tls_both)


def test_what_is_remembered_of_a_login_cut_at_every_byte() -> None:
    for cut in range(len(GREETING) + 1):
        it = login()
        out = it.from_server(GREETING[:cut]) + it.from_server(GREETING[cut:])
        assert out == GREETING
        assert (it.done, it.status, it.refused, it.cancel_key) == (True, b"I"[0], "", KEY)
        assert it.parameters == {b"server_version": b"18.1", b"TimeZone": b"CET"}


@given(st.lists(st.integers(1, 50), max_size=6))
def test_the_relay_is_transparent_in_any_pieces(sizes: list[int]) -> None:
    from_server = m.sasl_offer(PLUS, SCRAM) + m.authentication(11, b"r=1") + m.authentication(12, b"v=2") + GREETING
    from_client = m.sasl_initial(SCRAM, b"n,,n=,r=x") + m.message(b"p", b"c=biws,r=1,p=x")
    it = login()
    assert b"".join(map(it.from_client, m.chunks(from_client, sizes))) == from_client
    assert b"".join(map(it.from_server, m.chunks(from_server, sizes))) == from_server
    assert it.done


def test_what_comes_after_ready_is_the_sessions() -> None:
    it = login()
    assert it.from_server(GREETING + m.notification("c") + b"N") == GREETING
    assert it.from_server_rest == m.notification("c") + b"N"


def test_a_refusal() -> None:
    it = login()
    refusal = m.error("28P01", "password authentication failed", severity="FATAL")
    assert it.from_server(m.authentication(3) + refusal) == m.authentication(3) + refusal
    assert (it.refused, it.done) == ("28P01 password authentication failed", False)


@pytest.mark.parametrize(
    ("tls", "offered", "relayed"),
    [
        (False, [PLUS, SCRAM], [PLUS, SCRAM]),
        (True, [PLUS, SCRAM], [SCRAM]),
        (True, [SCRAM, PLUS, "OAUTHBEARER"], [SCRAM, "OAUTHBEARER"]),
        (True, [SCRAM], [SCRAM]),
    ],
)
def test_a_channel_that_ends_here_is_not_offered(tls: bool, offered: list[str], relayed: list[str]) -> None:
    assert login(tls=tls).from_server(m.sasl_offer(*offered)) == m.sasl_offer(*relayed)


@pytest.mark.parametrize("data", [b"y,,n=,r=x", b"n,,n=,r=x"])
@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("plus", [True, False])
def test_a_client_that_would_have_bound_the_channel(data: bytes, both: bool, plus: bool) -> None:
    it = login(tls=True, tls_both=both)
    it.from_server(m.sasl_offer(*([PLUS] if plus else []), SCRAM))
    first = m.sasl_initial(SCRAM, data)
    if data.startswith(b"y") and both and plus:
        with pytest.raises(ChannelBindingImpossible):
            it.from_client(first)
    else:
        assert it.from_client(first) == first


def test_a_request_must_be_answered() -> None:
    it = login()
    it.from_server(m.authentication(3))
    with pytest.raises(FramingError, match="expected a password response"):
        it.from_client(m.query("select 1"))


def test_what_comes_too_early_is_kept_for_the_session() -> None:
    it = login()
    said = m.query("select 1") + m.query("select 2")
    assert b"".join(map(it.from_client, m.chunks(said, [7]))) == b""
    assert it.from_server(GREETING) == GREETING
    assert it.early == said


def test_after_the_last_answer_the_session_may_begin_early() -> None:
    it = login()
    it.from_server(m.authentication(3))
    assert it.from_client(m.password("x") + m.query("select 1")) == m.password("x")
    it.from_server(GREETING)
    assert it.early == m.query("select 1")


def test_a_request_can_not_be_answered_by_what_came_too_early() -> None:
    it = login()
    assert it.from_client(m.query("select 1")) == b""
    with pytest.raises(FramingError, match="expected a password response"):
        it.from_server(m.authentication(3))


def test_what_comes_too_early_has_an_end() -> None:
    it = login()
    it.from_client(m.lying(b"Q", MAX_EARLY))
    with pytest.raises(FramingError):
        it.from_client(bytes(MAX_EARLY))


@pytest.mark.parametrize("length", [0, 3, -1, 2**31 - 1, MAX_FRAME])
def test_lengths_that_lie(length: int) -> None:
    with pytest.raises(FramingError):
        login().from_client(m.lying(b"p", length))
    with pytest.raises(FramingError):
        login().from_server(m.lying(b"R", length))


@given(st.binary(max_size=120), st.booleans())
def test_random_bytes(data: bytes, tls: bool) -> None:
    for begin in (b"", m.sasl_offer(PLUS, SCRAM), b"Z\0\0\0\4", b"S\0\0\0\7", b"R\0\0\0\10\0\0\0\12"):
        it = login(tls=tls, tls_both=tls)
        try:
            it.from_server(begin + data)
            it.from_client(data)
        except ProxyError:
            pass

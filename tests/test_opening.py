"""How a client comes in: encryption, the login, and who is turned away."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from tests import builders as m
from tests.exchanges import session
from tests.peers import Script, World, login
from tqdbproxy.errors import ServerUnreachable

# The beginning


def test_the_login_is_relayed() -> None:
    world = World(make_server=lambda: Script(m.authentication(3)))
    client = world.accept()
    hello = m.startup(user="u", database="d", **{"_pq_.x": "1"})
    assert client.says(hello) == m.authentication(3)
    client.says(m.password("secret"))
    assert client.server.hears() == m.password("secret")
    assert client.answers(login()) == login()
    client.says(m.query("select 1"))
    assert client.server.hears() == m.query("select 1")


def test_a_password_that_is_wrong() -> None:
    world = World(make_server=lambda: Script(m.authentication(3)))
    client = world.accept()
    client.says(m.startup(user="u"))
    client.says(m.password("wrong"))
    refusal = m.error("28P01", severity="FATAL")
    assert client.answers(refusal) == refusal
    assert client.wire is not None
    client.wire.lose()
    assert (client.says(), client.transport.lost) == (b"", True)


def test_a_server_that_can_not_be_reached() -> None:
    world = World()
    world.unreachable = ServerUnreachable("192.0.2.2:5432: no answer within 10 s")
    client = world.accept()
    reply = client.says(m.startup(user="u"))
    told = "the proxy can't connect to a server: 192.0.2.2:5432: no answer within 10 s"
    assert (m.error_of(reply)["C"], m.error_of(reply)["M"]) == ("08001", told)
    assert client.transport.lost


def test_a_client_that_leaves_while_its_server_is_being_reached() -> None:
    world = World()
    world.slow = Deferred()
    client = world.accept()
    client.says(m.startup(user="u"))
    client.closes()
    world.slow.callback(None)
    world.settle()
    assert client.wire is not None
    assert client.wire.lost


def test_a_login_that_takes_too_long() -> None:
    world = World(make_server=lambda: Script(m.authentication(3)))
    for hello in (b"", m.startup(user="u"), m.startup(user="u")[:5]):
        client = world.accept()
        client.says(hello)
        world.pass_time(world.hub.limits.login_timeout_s + 1, 5)
        assert m.error_of(client.hears())["C"] == "57014"
        assert client.transport.lost
    assert world.clock.getDelayedCalls() == []


def test_too_many_clients() -> None:
    world = World()
    world.hub.limits.max_clients = 1
    session(world)
    late = world.accept()
    assert m.error_of(late.says(m.startup(user="u")))["C"] == "53300"


@pytest.mark.parametrize(
    "first", [b"\0\0\0\3....", b"GET / HTTP/1.1\r\n", b"\x7f\xff\xff\xff\0\3\0\0", b"\x16\3\1\2\0"]
)
def test_what_is_no_start_up_packet_is_dropped_without_a_word(first: bytes) -> None:
    client = World().accept()
    assert (client.says(first), client.transport.lost) == (b"", True)


def test_encryption_that_is_not_to_be_had() -> None:
    client = World().accept()
    assert client.says(m.GSSENC_REQUEST) == b"N"
    assert client.says(m.SSL_REQUEST) == b"N"
    assert client.says(m.startup(user="u"))[:1] == b"R"


def test_bytes_in_clear_behind_the_request_for_tls_end_the_connection() -> None:
    world = World()
    world.hub.tls_context = object()  # type: ignore[assignment]
    client = world.accept()
    assert (client.says(m.SSL_REQUEST + m.startup(user="u")), client.transport.lost) == (b"", True)
    assert client.wire is None


def test_tls_is_answered_and_what_it_brings_is_read() -> None:
    world = World()
    world.hub.tls_context = object()  # type: ignore[assignment]
    world.hub.tls_required = True
    client = world.accept()
    assert client.says(m.SSL_REQUEST) == b"S"
    client.transport.tls_done.callback("")
    assert client.says(m.startup(user="u"))[:1] == b"R"
    plain = world.accept()
    assert m.error_of(plain.says(m.startup(user="u")))["C"] == "28000"


def test_direct_tls_needs_its_alpn() -> None:
    for alpn, well in (("postgresql", True), ("", False), ("h2", False)):
        world = World()
        world.hub.tls_context = object()  # type: ignore[assignment]
        client = world.accept()
        assert client.says(b"\x16\3\1") == b""
        assert client.transport.tls == [{"server_side": True, "received": b"\x16\3\1"}]
        client.sends(m.startup(user="u"))
        world.settle()
        client.transport.tls_done.callback(alpn)
        client.transport.paused = False
        world.settle()
        assert (client.hears()[:1] == b"R", client.transport.lost, client.wire is None) == (well, not well, not well)

"""Cancel requests, and the ways in which a session ends."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from tests import builders as m
from tests.exchanges import ANSWER, BATCH, KEPT, REPLY, VIEW, WRITE, scripted, session, two, write
from tests.peers import Client, Script, World, login
from tqdbproxy.core.writebatch.types import Limits

# Cancel


def cancel(world: World, key: bytes) -> Client:
    client = world.accept()
    client.says(m.cancel_request(key))
    return client


def test_a_write_that_waits_is_taken_out() -> None:
    world = scripted()
    client = session(world)
    client.says(write("1"))
    assert cancel(world, b"\0\0\0\0key").transport.lost
    reply = client.hears()
    assert (m.kinds(reply), m.error_of(reply)["C"]) == ("EZ", "57014")
    world.pass_time(0.1)
    assert (client.server.hears(), world.wall.cancelled) == (b"", [])
    client.says(m.query("select 1"))
    assert client.server.hears() == m.query("select 1")


READ = "/* ttl:60 */ select 1"


@pytest.mark.parametrize(
    ("waits", "before"),
    [
        (write("1"), m.parse(WRITE)),
        (m.query("/* batch:20 */ insert into t values (1)"), m.close_statement()),
        (m.unit(READ), m.parse(READ)),
        (m.query(READ), m.close_statement()),
    ],
    ids=["write", "simple write", "read", "simple read"],
)
def test_the_unnamed_statement_of_what_was_taken_out(waits: bytes, before: bytes) -> None:
    """It isn't the one from before any more, though the server has seen nothing of that."""
    keys = [b"\0\0\0\1yours", b"\0\0\0\0mine"]
    world = World(KEPT, make_server=lambda: Script(login(keys.pop())))
    client, other = session(world), session(world)
    client.says(m.parse("delete from t"), m.SYNC)
    assert client.answers(m.PARSE_COMPLETE + m.ready()) == m.PARSE_COMPLETE + m.ready()
    if b"ttl" in waits:
        other.says(waits)  # the one who asks the server
    client.server.hears()
    client.says(waits)
    cancel(world, b"\0\0\0\0mine")
    assert m.error_of(client.hears())["C"] == "57014"
    use = [m.bind(), m.execute(), m.FLUSH]
    client.says(*use)
    assert m.split(client.server.hears()) == [before, *use]


def test_a_batch_is_not_cancelled() -> None:
    world = scripted()
    one, other = two(world)
    assert cancel(world, b"\0\0\0\0key").transport.lost
    assert world.wall.cancelled == []
    assert one.answers(ANSWER) == REPLY
    assert other.hears() == REPLY


def test_the_forward_lane_is_cancelled_with_the_servers_own_key() -> None:
    world = scripted()
    heard: Deferred[None] = Deferred()
    world.wall.answer = heard
    client = session(world)
    client.says(m.query("select 1"))
    asks = cancel(world, b"\0\0\0\0key")
    assert (world.wall.cancelled, asks.transport.lost) == ([b"\0\0\0\0key"], False)
    heard.callback(None)
    world.settle()
    assert asks.transport.lost


def test_nothing_comes_behind_a_cancel_request() -> None:
    world = scripted()
    world.wall.answer = Deferred()
    client = session(world)
    client.says(m.query("select 1"))
    asks = cancel(world, b"\0\0\0\0key")
    assert asks.says(m.startup(user="u")) == b""
    assert asks.connection is None


def test_a_key_that_is_not_ours() -> None:
    world = scripted()
    session(world)
    assert cancel(world, b"other").transport.lost
    assert world.wall.cancelled == []


# Ends


def test_terminate_behind_a_write() -> None:
    world = World(KEPT)
    client = session(world)
    client.sends(write("1"), m.TERMINATE)
    world.settle()
    assert world.books == []
    world.pass_time(0.05)
    assert world.books == [b"insert into t values (1)"]
    assert client.transport.lost
    assert world.hub.clients == set()


def test_a_client_that_vanishes_while_it_waits() -> None:
    world = World(KEPT)
    one, other = session(world), session(world)
    one.says(write("1"))
    other.says(write("2"))
    one.closes()
    world.pass_time(0.05)
    assert sorted(world.books) == [b"insert into t values (1)", b"insert into t values (2)"]
    assert (other.hears(), one.hears()) == (REPLY, b"")
    assert one.wire is not None
    assert one.wire.lost


def test_a_client_that_half_closes_while_it_waits() -> None:
    world = World(KEPT)
    client = session(world)
    client.sends(write("1"))
    client.closes(half=True)
    world.settle()
    assert not client.transport.lost
    world.pass_time(0.05)
    assert client.hears() == REPLY
    assert client.transport.lost


def test_a_client_that_has_left_is_not_waited_for() -> None:
    world = World(Limits(quorum=1.0))
    one, other = world.client(), world.client()
    for client in (one, other):
        client.says(write("1"))
        world.pass_time(0.05)
    assert len(world.books) == 2
    one.says(write("2"))
    assert len(world.books) == 2
    other.closes()
    world.settle()
    assert len(world.books) == 3


@pytest.mark.parametrize("behind", [b"", m.TERMINATE], ids=m.kinds)
def test_a_client_that_half_closes_while_it_waits_for_anothers_answer(behind: bytes) -> None:
    world = scripted()
    one, other = session(world), session(world)
    read = m.query("/* ttl:60 */ select 1")
    one.says(read)
    other.says(read + behind)
    other.closes(half=True)
    world.settle()
    failed = m.error("22012") + m.ready()
    assert one.answers(failed) == failed
    assert other.server.hears() == read + behind
    assert other.transport.lost


def test_a_client_that_half_closes_while_its_question_is_held() -> None:
    client = session(scripted())
    client.sends(m.query("select 1"))
    client.sends(VIEW)
    client.closes(half=True)
    client.says()
    assert client.wire is not None
    client.transport.resumeProducing()  # as backpressure does it
    client.says()
    assert not client.wire.eof_sent
    reply = client.answers(m.complete("SELECT 1"), m.ready())
    assert m.kinds(reply) == "CZTDDDDDDCZ"
    assert client.wire.lost


def test_a_server_that_is_lost_while_its_session_waits() -> None:
    world = World(KEPT)
    one, other = session(world), session(world)
    one.sends(write("1"))
    other.sends(write("2"))
    world.settle()
    assert one.wire is not None
    one.wire.lose()
    world.settle()
    assert not one.transport.lost
    world.pass_time(0.05)
    assert (one.hears(), other.hears()) == (REPLY, REPLY)
    assert (one.transport.lost, other.transport.lost) == (True, False)


@pytest.mark.parametrize("behind", [b"", m.TERMINATE, m.query("select 1"), write("2")], ids=m.kinds)
def test_a_server_that_is_lost_while_its_session_waits_alone(behind: bytes) -> None:
    world = World(KEPT)
    client = session(world)
    client.says(write("1"))
    client.says(behind)
    assert client.wire is not None
    client.wire.lose()
    world.pass_time(0.1)
    assert (client.transport.lost, world.batches.pending, world.books) == (True, 0, [])
    other = session(world)
    other.says(write("3"))
    world.pass_time(0.1)
    assert other.hears() == REPLY


def test_a_server_that_dies_in_mid_query() -> None:
    client = session(scripted())
    client.says(m.query("select 1"))
    last_words = m.error("57P01", severity="FATAL")
    assert client.answers(last_words) == last_words
    assert client.wire is not None
    client.wire.lose()
    client.says()
    assert client.transport.lost


def test_a_client_that_vanishes_in_mid_query() -> None:
    world = scripted()
    client = session(world)
    client.says(m.query("select 1"))
    client.closes()
    assert client.wire is not None
    assert client.wire.eof_sent
    assert client.answers(m.complete("SELECT 1"), m.ready()) == b""
    assert world.hub.clients == set()


@pytest.mark.parametrize("congested", [False, True])
@pytest.mark.parametrize("behind", [b"", m.query("insert into t values (1)"), m.TERMINATE], ids=m.kinds)
def test_a_client_that_vanishes_while_its_question_is_held(behind: bytes, congested: bool) -> None:
    """What it had said before goes to its server as it would have directly, and then the end."""
    world = scripted()
    client = session(world)
    client.says(m.query("select 1"), VIEW, behind)
    assert client.server.hears() == m.query("select 1")
    if congested:
        client.transport.producer.pauseProducing()
    client.closes()
    wire = client.wire
    assert wire is not None
    assert (wire.eof_sent, client.answers(m.complete("SELECT 1"), m.ready())) == (False, b"")
    world.pass_time(0.1)
    assert (wire.eof_sent, client.server.hears()) == (True, behind)
    assert world.hub.clients == set()


def test_a_client_that_vanishes_and_a_write_of_it_that_is_held() -> None:
    world = scripted()
    client, other = session(world), session(world)
    client.says(m.query("select 1"), VIEW, write("1"))
    client.closes()
    client.answers(m.complete("SELECT 1"), m.ready())
    other.says(write("2"))
    world.pass_time(0.05)
    assert client.wire is not None
    heard = m.kinds(client.server.hears()) + m.kinds(other.server.hears())
    assert heard == m.kinds(m.query("select 1")) + BATCH


def test_a_client_that_vanishes_while_it_waits_and_a_question_behind_that_is_held() -> None:
    world = scripted()
    leader, client = session(world), session(world)
    read, other = m.query("/* ttl:60 */ select 1"), m.query("select 2")
    leader.says(read)
    client.says(read)
    client.says(m.query("select 1"), VIEW, other)
    client.closes()
    leader.answers(m.row_description("x"), m.complete("SELECT 0"), m.ready())
    assert client.wire is not None
    assert (client.server.hears(), client.wire.eof_sent) == (m.query("select 1"), False)
    client.answers(m.complete("SELECT 1"), m.ready())
    assert (client.server.hears(), client.wire.eof_sent) == (other, True)


@pytest.mark.parametrize(
    "bad", [m.lying(b"Q", 3), m.lying(b"Q", 0), m.lying(b"S", 2**31 - 1), m.message(b"p"), b"\x16\3\1\2\0"]
)
def test_who_breaks_the_protocol_is_told_so_and_the_others_hear_nothing(bad: bytes) -> None:
    world = scripted()
    client, other = session(world), session(world)
    with capturedLogs() as logs:
        reply = client.says(m.query("select 1"), bad, m.query("never"))
    assert m.error_of(reply)["C"] == "08P01"
    assert m.error_of(reply)["S"] == "FATAL"
    assert (client.transport.lost, client.server.hears()) == (True, m.query("select 1"))
    assert len(logs) == 1
    assert other.says(m.query("select 1")) == b""
    assert other.server.hears() == m.query("select 1")


def test_draining() -> None:
    world = World(KEPT)
    idle, waits, opened = session(world), session(world), session(world)
    waits.says(write("1"))
    opened.says(m.query("begin"))
    ended: list[None] = []
    world.hub.close().addCallback(ended.append)
    world.settle()
    assert m.error_of(idle.hears())["C"] == "57P01"
    reply = waits.hears()
    assert (m.kinds(reply), m.error_of(reply)["C"]) == ("12CZE", "57P01")
    assert world.books == [b"insert into t values (1)"]
    assert (idle.transport.lost, waits.transport.lost, opened.transport.lost) == (True, True, False)
    reply = opened.says(write("2"), m.query("commit"))
    assert m.error_of(reply)["C"] == "57P01"
    assert (ended, world.hub.clients) == ([None], set())
    assert b"insert into t values (2)" in world.books


@pytest.mark.parametrize("beside", [False, True])
def test_draining_waits_for_the_writes_of_those_who_have_left(beside: bool) -> None:
    world = World(KEPT, make_server=Script)
    one, other = session(world), session(world)
    if beside:
        session(world)
    for client in (one, other):
        client.sends(write("1"), m.TERMINATE)
    world.settle()
    for client in (one, other):
        client.closes()
    ended: list[object] = []
    world.hub.close().addCallback(ended.append)
    world.settle()
    assert m.kinds(one.server.hears()) == BATCH
    assert (ended, world.batches.pending) == ([], 2)
    one.answers(ANSWER)
    assert (len(ended), world.batches.pending) == (1, 0)


def test_draining_has_an_end() -> None:
    world = World()
    client = session(world)
    client.says(m.query("begin"))
    ended: list[None] = []
    world.hub.close().addCallback(ended.append)
    world.pass_time(world.hub.limits.shutdown_timeout_s + 1)
    assert (ended, m.error_of(client.hears())["C"]) == ([None], "57P01")


def test_draining_has_an_end_for_writes_whose_clients_have_left() -> None:
    world = World(KEPT, make_server=Script)
    world.batches.start()
    clients = [session(world) for _ in range(4)]
    for pair in (clients[:2], clients[2:]):  # the second one waits behind the first, which its server never ends
        for client in pair:
            client.sends(write("1"))
        world.settle()
        world.pass_time(0.05)
    for client in clients:
        client.closes()
    world.settle()
    ended: list[object] = []
    world.hub.close().addCallback(ended.append)
    world.pass_time(world.hub.limits.shutdown_timeout_s - 0.1)
    assert (ended, world.batches.pending) == ([], 4)
    world.pass_time(0.2)
    assert (len(ended), world.batches.pending) == (1, 0)


def test_while_it_drains_nobody_comes_in() -> None:
    world = World()
    busy = session(world)
    busy.says(m.query("begin"))
    world.hub.close()
    late = world.accept()
    assert m.error_of(late.says(m.startup(user="u")))["C"] == "57P03"
    assert late.transport.lost

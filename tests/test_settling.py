"""A statement that a client has prepared is described to the proxy before others execute it: whole exchanges."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.defer import Deferred

from tests import builders as m
from tests.exchanges import DONE, KEPT, TAG, VIEW, WRITE, scripted, session
from tests.peers import Client, Script, World
from tests.test_ends import cancel
from tqdbproxy.core.statement import Kind

READ = "/* ttl:60 */ select a from t where a = $1"
RETURNS = m.row_description("a")
KEY = b"\0\0\0\0key"
ASKS = m.describe_statement("s") + m.SYNC
TOLD = m.parameter_description(23) + m.NO_DATA + m.ready()
CHANGED = m.error("0A000", "cached plan must not change result type")


def bound(value: str = "1", name: str = "s") -> bytes:
    return m.bind(value.encode(), statement=name) + m.execute() + m.SYNC


def prepared(world: World, sql: str = WRITE, name: str = "s") -> Client:
    """A session that has prepared a statement."""
    client = session(world)
    client.says(m.parse(sql, name), m.SYNC)
    client.answers(m.PARSE_COMPLETE, m.ready())
    assert client.server.hears() == m.parse(sql, name) + m.SYNC
    return client


def asking(world: World, sql: str = WRITE) -> Client:
    """A session whose server has just been asked about its statement."""
    client = prepared(world, sql)
    assert client.says(bound()) == b""
    assert client.server.hears() == ASKS
    return client


def queries(world: World, kind: Kind = Kind.INSERT) -> int:
    return world.metrics.caller("", "", kind).queries


def test_it_is_asked_once_and_then_batched_with_the_types_that_it_was_resolved_to() -> None:
    world = scripted()
    one, other = asking(world), asking(world)
    for client in (one, other):
        assert client.answers(TOLD) == b""
        assert (client.server.hears(), client.protocol.view().state) == (b"", "waiting")
    own = m.parse("insert into t values ($1)", "_tqdb_1", [23])
    member = m.bind(b"1", statement="_tqdb_1") + m.execute()
    world.pass_time(0.05)
    assert one.server.hears() == own + member * 2 + m.SYNC
    reply = m.BIND_COMPLETE + DONE
    assert one.answers(m.PARSE_COMPLETE + (m.BIND_COMPLETE + TAG) * 2 + m.ready()) == reply
    assert (other.hears(), other.server.hears()) == (reply, b"")
    for client in (one, other):
        client.says(bound())
    world.pass_time(0.05)
    assert one.server.hears() == member * 2 + m.SYNC
    assert queries(world) == 4
    assert world.wall.counts.batches == 2


def test_who_were_told_of_other_types_or_columns_do_not_meet() -> None:
    world = scripted()
    clients = [asking(world) for _ in range(3)]
    for client, types in zip(clients, (23, 25, 23), strict=True):
        client.answers(m.parameter_description(types), m.NO_DATA, m.ready())
    world.pass_time(0.05)
    kinds = [m.kinds(client.server.hears()) for client in clients]
    assert kinds == ["PBEBES", "BES", ""]


@pytest.mark.parametrize("failure", [CHANGED, m.parameter_description(23) + CHANGED])
def test_a_statement_that_can_not_be_described_is_its_servers_matter(failure: bytes) -> None:
    world = scripted()
    client = asking(world)
    for number in (1, 2):
        assert client.answers(failure, m.ready()) == b""
        assert client.server.hears() == bound()
        own = m.BIND_COMPLETE + CHANGED + m.ready()
        assert client.answers(own) == own
        assert queries(world) == number
        client.says(bound())
        assert client.server.hears() == ASKS
    client.answers(TOLD)
    world.pass_time(0.05)
    assert client.server.hears() == bound()
    assert queries(world) == 3


@pytest.mark.parametrize("sizes", [[1], [7], []])
def test_in_any_pieces(sizes: list[int]) -> None:
    world = World(KEPT, sizes=sizes)
    for name in ("s", ""):
        client = session(world)
        client.says(m.parse(WRITE, name), m.describe_statement(name), m.SYNC)
        for value in ("1", "2"):
            assert client.says(bound(value, name)) == b""
            world.pass_time(0.05)
            assert client.hears() == m.BIND_COMPLETE + DONE
    assert world.books == [b"insert into t values (%d)" % value for value in (1, 2, 1, 2)]


# Meanwhile


def test_what_the_client_says_meanwhile_comes_behind() -> None:
    world = scripted()
    client = asking(world)
    client.says(bound("2"))
    client.says(m.query("select 1"))
    assert (client.transport.paused, client.transport.incoming) == (True, [m.query("select 1")])
    assert client.server.hears() == b""
    client.answers(TOLD)
    assert client.server.hears() == b""
    world.pass_time(0.05)
    assert client.server.hears() == bound() + bound("2") + m.query("select 1")
    assert not client.transport.paused
    assert queries(world) == 2


def test_what_comes_behind_one_that_can_not_be_described() -> None:
    world = scripted()
    client = asking(world)
    client.says(m.query("select 1"))
    client.says(VIEW)
    client.answers(CHANGED, m.ready())
    assert client.server.hears() == bound() + m.query("select 1")
    reply = client.answers(m.BIND_COMPLETE, CHANGED, m.ready(), m.complete("ONE"), m.ready())
    assert m.kinds(reply) == "2EZCZTDDDDDDCZ"
    assert not client.transport.paused


@pytest.mark.parametrize("behind", [b"", m.TERMINATE], ids=m.kinds)
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("told", [TOLD, CHANGED + m.ready()], ids=m.kinds)
def test_a_client_that_leaves_meanwhile_gets_its_write_executed(behind: bytes, half: bool, told: bytes) -> None:
    world = scripted()
    client = prepared(world)
    client.says(bound() + behind)
    assert client.server.hears() == ASKS
    client.closes(half=half)
    world.settle()
    assert client.wire is not None
    assert not client.wire.eof_sent
    client.answers(told)
    world.pass_time(0.05)
    assert client.server.hears() == bound() + behind
    client.answers(m.BIND_COMPLETE, DONE)
    assert client.wire.lost
    assert world.hub.clients == set()


@pytest.mark.parametrize("half", [True, False])
def test_a_lone_writer_that_leaves_meanwhile(half: bool) -> None:
    """Its write needs no company, so nothing is waited for that could end the session later."""
    world = World(make_server=Script)
    client = asking(world)
    client.closes(half=half)
    client.answers(TOLD)
    assert client.server.hears() == bound()
    client.answers(m.BIND_COMPLETE, DONE)
    assert client.wire is not None
    assert client.wire.lost
    assert world.hub.clients == set()


def test_what_was_sent_before_a_client_left_is_executed_too() -> None:
    world = scripted()
    client = asking(world)
    client.says(m.query("insert into u values (1)"))
    client.closes()
    client.answers(TOLD)
    world.pass_time(0.05)
    assert client.server.hears() == bound() + m.query("insert into u values (1)")


def test_a_server_that_dies_meanwhile() -> None:
    world = scripted()
    last_words = m.error("57P01", severity="FATAL")
    for words in (b"", last_words, last_words[:9]):
        client = asking(world)
        client.says(bound("2"))
        assert client.answers(words) == b""
        assert client.wire is not None
        client.wire.lose()
        world.settle()
        assert client.hears() == (words if words == last_words else b"")
        assert client.transport.lost
    assert (world.hub.clients, world.batches.pending) == (set(), 0)


def test_what_concerns_the_session_reaches_it() -> None:
    client = asking(scripted())
    aside = [m.notification("c"), m.parameter_status("TimeZone", "CET"), m.notice("n")]
    late = m.notification("d")
    assert client.answers(aside[0], m.parameter_description(23), aside[1], m.NO_DATA, aside[2], m.ready(), late) == (
        b"".join(aside) + late
    )


def test_draining_waits() -> None:
    world = scripted()
    client = asking(world)
    ended: list[None] = []
    world.hub.close().addCallback(ended.append)
    world.settle()
    assert (ended, client.hears()) == ([], b"")
    client.answers(TOLD)
    assert client.server.hears() == bound()
    reply = client.answers(m.BIND_COMPLETE, DONE)
    assert m.kinds(reply) == "2CZE"
    assert (ended, world.hub.clients) == ([None], set())


# Cancel


@pytest.mark.parametrize("told", [m.error("57014") + m.ready(), TOLD], ids=m.kinds)
@pytest.mark.parametrize("heard_first", [True, False])
def test_a_client_that_cancels_meanwhile_is_told_so_once_the_server_can_not_mean_anything_else(
    told: bytes, heard_first: bool
) -> None:
    world = scripted()
    client = asking(world)
    client.says(m.query("select 1"))
    heard: Deferred[None] = Deferred()
    world.wall.answer = heard
    cancel(world, KEY)
    assert world.wall.cancelled == [KEY]
    assert client.wire is not None
    wire = client.wire
    steps: list[Callable[[], None]] = [lambda: heard.callback(None), lambda: wire.incoming.append(told)]
    for step in steps if heard_first else reversed(steps):
        assert (client.hears(), client.server.hears()) == (b"", b"")
        step()
        world.settle()
    reply = client.hears()
    assert (m.kinds(reply), m.error_of(reply)["C"]) == ("EZ", "57014")
    assert client.server.hears() == m.query("select 1")
    assert queries(world) == 1
    world.pass_time(0.1)
    assert client.server.hears() == b""


def test_a_server_that_dies_while_it_is_told_to_cancel() -> None:
    world = scripted()
    for heard_first in (True, False):
        client = asking(world)
        client.says(m.query("select 1"))
        heard: Deferred[None] = Deferred()
        world.wall.answer = heard
        cancel(world, KEY)
        assert client.wire is not None
        if heard_first:
            heard.callback(None)
            client.wire.lose()
        else:
            client.wire.lose()
            heard.callback(None)
        world.settle()
        assert client.transport.lost


# Where it can't be asked


def test_a_connection_that_can_not_be_lent_is_not_asked() -> None:
    world = scripted()
    client = prepared(world)
    half = m.notification("c")[:7]
    client.answers(half)
    client.says(bound())
    assert client.server.hears() == bound()
    client.answers(m.notification("c")[7:], m.BIND_COMPLETE, DONE)
    client.says(bound())
    assert client.server.hears() == ASKS


@pytest.mark.parametrize(("sql", "kind"), [(WRITE, Kind.INSERT), (READ, Kind.SELECT)])
def test_a_client_that_does_not_read_is_not_waited_for(sql: str, kind: Kind) -> None:
    world = scripted()
    client = prepared(world, sql)
    client.transport.producer.pauseProducing()
    client.says(bound())
    assert client.server.hears() == bound()
    client.transport.producer.resumeProducing()
    client.answers(m.BIND_COMPLETE, DONE)
    client.says(bound())
    assert client.server.hears() == ASKS
    assert queries(world, kind) == 2


def test_a_client_that_stops_reading_meanwhile() -> None:
    world = scripted()
    client = asking(world)
    client.transport.producer.pauseProducing()
    client.answers(TOLD)
    assert client.server.hears() == b""
    client.transport.producer.resumeProducing()
    world.settle()
    world.pass_time(0.05)
    assert client.server.hears() == bound()


# The unnamed statement


def test_the_unnamed_statement_that_its_server_has() -> None:
    world = scripted()
    client = prepared(world, name="")
    client.says(bound(name=""))
    assert client.server.hears() == m.describe_statement() + m.SYNC
    assert client.answers(TOLD) == b""
    world.pass_time(0.05)
    assert client.server.hears() == bound(name="")


@pytest.mark.parametrize("told", [TOLD, CHANGED + m.ready()], ids=m.kinds)
def test_the_unnamed_statement_that_its_server_has_not(told: bytes) -> None:
    """Its Parse was batched, so the server gets it now."""
    world = scripted()
    one, other = session(world), session(world)
    for client in (one, other):
        client.sends(m.unit(WRITE, b"1"))
    world.settle()
    world.pass_time(0.05)
    sent = m.kinds(one.server.hears())
    guards = (m.BIND_COMPLETE + m.data_row(b"f", None) + m.complete("SELECT 1")) * (sent.count("B") - 2)
    members = (m.BIND_COMPLETE + TAG) * 2
    assert one.answers(m.PARSE_COMPLETE * sent.count("P") + guards + members + m.ready()) != b""
    other.hears()
    one.says(bound(name=""))
    assert one.server.hears() == m.parse(WRITE) + m.describe_statement() + m.SYNC
    assert one.answers(m.PARSE_COMPLETE + told) == b""
    world.pass_time(0.05)
    if told == TOLD:
        assert one.server.hears() == bound(name="")
        assert one.answers(m.BIND_COMPLETE, DONE) == m.BIND_COMPLETE + DONE
    else:
        assert one.server.hears() == m.parse(WRITE) + bound(name="")
        assert one.answers(m.PARSE_COMPLETE, m.BIND_COMPLETE, DONE) == m.BIND_COMPLETE + DONE


def test_a_named_statement_is_described_without_the_unnamed_one() -> None:
    world = World(KEPT)
    client = session(world)
    client.says(m.parse(WRITE, "s"), m.SYNC)
    for data in (m.unit(WRITE, b"1"), bound("2"), bound("3", name="")):
        client.says(data)
        world.pass_time(0.05)
        assert client.hears().endswith(m.BIND_COMPLETE + DONE)
    assert world.books == [b"insert into t values (%d)" % value for value in (1, 2, 3)]


# The proxy's own statement for it


def test_a_server_that_dies_before_anything_is_executed() -> None:
    """It was only asked what the statement returns: nobody need fear that his write was executed."""
    world = scripted()
    clients = [asking(world, f"{WRITE} returning a") for _ in range(3)]
    for client in clients:
        client.answers(m.parameter_description(23), RETURNS, m.ready())
    world.pass_time(0.05)
    lender, *others = clients
    assert [m.kinds(client.server.hears()) for client in clients] == ["PDS", "", ""]
    assert lender.wire is not None
    lender.wire.lose()
    world.settle()
    assert [(client.hears(), client.server.hears()) for client in others] == [(b"", bound())] * 2
    assert (lender.hears(), lender.transport.lost) == (b"", True)


def test_a_server_that_does_not_tell_the_parameters() -> None:
    """No PostgreSQL."""
    world = scripted()
    client = asking(world)
    client.answers(m.NO_DATA, m.ready())
    assert client.server.hears() == bound()


# Reads


def test_reads_share_an_answer_if_they_were_told_of_the_same_columns() -> None:
    world = scripted()
    one, alike, other = (asking(world, READ) for _ in range(3))
    for client, columns in ((one, RETURNS), (alike, RETURNS), (other, m.row_description("a", "b"))):
        assert client.answers(m.parameter_description(23), columns, m.ready()) == b""
    assert [client.server.hears() for client in (one, alike, other)] == [bound(), b"", bound()]
    reply = m.BIND_COMPLETE + m.data_row("1") + m.complete("SELECT 1") + m.ready()
    assert one.answers(reply) == reply
    assert (alike.hears(), other.hears()) == (reply, b"")
    assert [client.says(bound()) for client in (one, alike)] == [reply, reply]
    wide = m.BIND_COMPLETE + m.data_row("1", "2") + m.complete("SELECT 1") + m.ready()
    assert (other.answers(wide), other.says(bound()), other.says(bound())) == (wide, wide, wide)
    assert [client.server.hears() for client in (one, alike, other)] == [b"", b"", b""]


def test_a_read_that_can_not_be_described_is_asked() -> None:
    world = scripted()
    client = asking(world, READ)
    client.answers(CHANGED, m.ready())
    assert client.server.hears() == bound()
    assert client.answers(m.BIND_COMPLETE, CHANGED, m.ready()) == m.BIND_COMPLETE + CHANGED + m.ready()
    client.says(bound())
    assert client.server.hears() == ASKS

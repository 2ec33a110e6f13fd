"""Whole exchanges between clients, the proxy and their servers: what is sent and what comes back."""

from __future__ import annotations

import pytest

from tests import builders as m
from tests.exchanges import ANSWER, BATCH, KEPT, REPLY, TAG, VIEW, WRITE, scripted, session, two, write
from tests.peers import Script, World
from tqdbproxy.core.writebatch.types import Limits
from tqdbproxy.postgres.clients.walk import INSPECTED

# The forward lane


def test_the_forward_lane_carries_the_same_bytes_both_ways() -> None:
    client = session(scripted())
    assert client.says(m.query("select 1")) == b""
    assert client.server.hears() == m.query("select 1")
    assert client.answers(m.row_description("a"), m.data_row("1"), m.complete("SELECT 1"), m.ready()) == (
        m.row_description("a") + m.data_row("1") + m.complete("SELECT 1") + m.ready()
    )


def test_flush_without_sync() -> None:
    client = session(scripted())
    client.says(m.parse("select 1"), m.describe_statement(), m.FLUSH)
    assert m.kinds(client.server.hears()) == "PDH"
    assert client.answers(m.PARSE_COMPLETE, m.parameter_description(), m.NO_DATA) != b""
    client.says(m.bind(), m.execute(), m.FLUSH)
    assert m.kinds(client.server.hears()) == "BEH"
    client.says(m.SYNC)
    assert client.server.hears() == m.SYNC


def test_a_hinted_write_with_flush_before_its_end_is_forwarded() -> None:
    client = session(scripted())
    client.says(m.parse(WRITE), m.bind(b"1"), m.FLUSH)
    assert m.kinds(client.server.hears()) == "PBH"
    client.says(m.execute(), m.SYNC)
    assert m.kinds(client.server.hears()) == "ES"


def test_a_pipeline_with_an_error_in_it() -> None:
    world = World()
    client = session(world)
    reply = client.says(
        m.unit("select 1"), m.unit("oops"), write("1"), m.parse("oops") + m.unit("select 2"), write("2")
    )
    assert m.kinds(reply) == "12DCZ" + "EZ" + "12CZ" + "EZ" + "12CZ"
    assert world.books == [b"insert into t values (1)", b"insert into t values (2)"]


# Batches


def test_a_batch_runs_on_the_connection_of_a_member() -> None:
    world = scripted()
    one, other = two(world)
    assert one.answers(ANSWER) == REPLY
    assert other.hears() == REPLY
    assert world.batches.pending == 0


def test_a_session_that_waits_reads_no_further() -> None:
    one, other = two(scripted())
    other.says(m.query("select 1"))
    assert (other.transport.paused, one.transport.paused) == (True, False)
    other.says(m.query("select 2"))
    assert other.transport.incoming == [m.query("select 2")]
    assert other.server.hears() == b""
    one.answers(ANSWER)
    assert other.hears() == REPLY
    assert other.server.hears() == m.query("select 1") + m.query("select 2")
    assert not other.transport.paused


def test_behind_a_write_that_runs_alone_the_pipeline_goes_on() -> None:
    world = scripted()
    client = session(world)
    client.says(write("1"))
    client.says(m.query("select 1"))
    assert client.server.hears() == b""
    world.pass_time(0.05)
    assert client.server.hears() == write("1") + m.query("select 1")
    assert not client.transport.paused


def test_one_that_fails_gets_its_own_error_and_the_others_their_replies() -> None:
    world = World(KEPT)
    clients = [session(world) for _ in range(5)]
    for number, client in enumerate(clients):
        client.sends(write(f"{number} bad" if number == 3 else str(number)))
    world.settle()
    world.pass_time(0.05)
    replies = [client.hears() for client in clients]
    assert [m.kinds(reply) for reply in replies] == ["12CZ", "12CZ", "12CZ", "12EZ", "12CZ"]
    assert m.error_of(replies[3])["C"] == "23505"
    assert m.error_of(replies[3])["D"] == "of insert into t values (3 bad)"
    assert sorted(world.books) == [b"insert into t values (%d)" % number for number in (0, 1, 2, 4)]


def test_a_statement_that_the_server_lost_is_parsed_again() -> None:
    world = World(KEPT)
    clients = [session(world), session(world)]
    for value in ("1", "2"):
        for client in clients:
            client.sends(write(value))
        world.settle()
        world.pass_time(0.05)
        assert [client.hears() for client in clients] == [REPLY, REPLY]
        for client in clients:
            client.server.statements.clear()
    assert len(world.books) == 4


def test_a_connection_lost_during_a_batch_leaves_all_in_the_dark() -> None:
    world = scripted()
    one, other = two(world)
    assert one.wire is not None
    one.wire.lose()
    world.settle()
    for client in (one, other):
        reply = client.hears()
        assert (m.kinds(reply), m.error_of(reply)["C"]) == ("EZ", "08007")
    assert (one.transport.lost, other.transport.lost) == (True, False)
    world.pass_time(60)
    assert other.server.hears() == b""


def test_a_write_that_ran_too_long_is_given_up() -> None:
    world = World(Limits(quorum=None, timeout_s=2.0), make_server=Script)
    world.batches.start()
    one, other = two(world)
    world.pass_time(4)
    assert [m.error_of(client.hears())["C"] for client in (one, other)] == ["08007", "08007"]


def test_a_write_that_waited_too_long_was_not_executed() -> None:
    world = World(Limits(quorum=None, timeout_s=2.0, max_batch_size=2), make_server=Script)
    world.batches.start()
    two(world)
    third = session(world)
    third.says(write("3"))
    world.pass_time(1.5)
    world.batches._running.clear()
    world.pass_time(2)
    reply = third.hears()
    assert (m.kinds(reply), m.error_of(reply)["C"]) == ("EZ", "57014")
    assert third.server.hears() == b""


def test_without_room_a_write_is_forwarded() -> None:
    world = World(Limits(quorum=None, max_pending=1))
    one, other = session(world), session(world)
    one.sends(write("1"))
    world.settle()
    assert other.says(write("2")) == REPLY
    assert b"no_capacity" in other.says(VIEW)


def test_what_a_batch_brings_for_its_carrier_reaches_it() -> None:
    world = scripted()
    one, other = two(world)
    notification, late = m.notification("c"), m.notification("d")
    assert one.answers(notification + ANSWER + late) == notification + REPLY + late
    assert other.hears() == REPLY


# The unnamed statement


def test_the_unnamed_statement_that_was_batched_can_be_used_again() -> None:
    world = scripted()
    one, _other = two(world)
    one.answers(ANSWER)
    use = [m.bind(b"3"), m.execute(), m.bind(b"4"), m.execute(), m.SYNC]
    one.says(m.SYNC, *use)
    assert one.server.hears() == m.SYNC
    assert one.answers(m.ready()) == m.ready()
    assert m.split(one.server.hears()) == [m.parse(WRITE), *use]
    reply = (m.BIND_COMPLETE + TAG) * 2 + m.ready()
    assert one.answers(m.PARSE_COMPLETE + reply) == reply


def test_a_repair_that_fails_is_the_clients_error() -> None:
    world = scripted()
    one, _other = two(world)
    one.answers(ANSWER)
    one.says(m.bind(b"3"), m.describe_portal(), m.FLUSH)
    failed = m.error("42P01")
    assert one.answers(failed) == failed
    one.says(m.SYNC)
    assert one.answers(m.ready()) == m.ready()
    one.says(m.parse("select 1"), m.FLUSH)
    assert one.answers(m.PARSE_COMPLETE) == m.PARSE_COMPLETE


def test_what_is_prepared_behind_a_setting_of_a_transaction_is_batched_later() -> None:
    world = scripted()
    client = session(world)
    sets = m.parse("select set_config('app.t', $1, true)") + m.bind(b"1") + m.execute()
    prepares = m.parse(WRITE, "p") + m.bind(b"1", statement="p") + m.execute()
    client.says(m.parse("begin"), m.bind(), m.execute(), sets, prepares, m.SYNC)
    client.server.hears()
    client.answers(m.ready("T"))
    client.says(m.query("commit"))
    client.server.hears()
    client.answers(m.complete("COMMIT"), m.ready())
    client.says(m.bind(b"2", statement="p"), m.execute(), m.SYNC)
    assert client.server.hears() == m.message(b"D", b"Sp\0") + m.SYNC, "it asks what the statement takes, for a batch"


# The status view


@pytest.mark.parametrize("asks", [VIEW, m.unit("select * from pg_tqdb_status")], ids=m.kinds)
@pytest.mark.parametrize("together", [True, False])
def test_the_view_in_a_pipeline_keeps_its_place(asks: bytes, together: bool) -> None:
    world = scripted()
    client = session(world)
    said = [m.query("select 1"), asks, m.query("select 2"), asks]
    for each in [b"".join(said)] if together else said:
        client.sends(each)
    world.settle()
    assert (client.server.hears(), client.transport.paused) == (m.query("select 1"), True)
    first = client.answers(m.complete("ONE"), m.ready())
    assert first.startswith(m.complete("ONE") + m.ready())
    assert m.kinds(first)[2:].strip("12T") == "DDDDDDCZ"
    assert client.server.hears() == m.query("select 2")
    assert client.answers(m.complete("TWO"), m.ready()).startswith(m.complete("TWO") + m.ready())
    assert not client.transport.paused


@pytest.mark.parametrize("asks", [VIEW, m.unit("select * from pg_tqdb_status")], ids=m.kinds)
def test_more_questions_at_once_than_python_has_frames(asks: bytes) -> None:
    client = session(World())
    assert m.kinds(client.says(asks * 2000)).count("Z") == 2000


def test_many_units_behind_one_that_the_server_has_not_seen() -> None:
    """What is prepared no more is repaired in front of the first that uses it; the others pass one by one."""
    world = scripted()
    one, _other = two(world)
    one.answers(ANSWER)
    units = (m.bind(b"1", statement="s") + m.execute() + m.SYNC) * 2000
    one.says(units)
    assert one.server.hears() == units


def test_a_message_about_the_view_has_a_longest_size() -> None:
    client = session(World())
    client.says(m.parse("select * from pg_tqdb_status"))
    announced = b"B" + (1 << 29).to_bytes(4, "big")
    assert client.says(announced + bytes(INSPECTED - 5)) == b""
    assert m.error_of(client.says(b"\0"))["C"] == "08P01"
    assert client.transport.lost


def test_the_view_after_a_batch() -> None:
    world = scripted()
    one, _other = two(world)
    one.sends(VIEW)
    reply = one.answers(ANSWER)
    assert reply.startswith(REPLY + m.row_description("variable_name", "value"))
    assert m.data_row("LastBatchSize", "2") in reply
    assert m.data_row("LastStrategy", "prepared") in reply


# Backpressure


def test_each_side_pauses_the_other() -> None:
    client = session(World())
    assert client.wire is not None
    paused = []
    for say in (client.transport.producer.pauseProducing, client.transport.producer.resumeProducing):
        say()
        paused.append(client.wire.paused)
    assert paused == [True, False]
    assert client.wire.producer is client.transport
    client.closes()
    assert client.wire.producer is None


def test_an_orphan_is_read_to_its_end() -> None:
    client = session(scripted())
    assert client.wire is not None
    client.says(m.query("select 1"))
    client.wire.pauseProducing()
    client.closes()
    assert not client.wire.paused


def test_a_batch_does_not_run_where_nobody_reads() -> None:
    world = scripted()
    one, other = session(world), session(world)
    assert one.wire is not None
    one.wire.pauseProducing()
    one.sends(write("1"))
    other.sends(write("2"))
    world.settle()
    world.pass_time(0.05)
    assert (one.server.hears(), m.kinds(other.server.hears())) == (b"", BATCH)
    assert other.answers(ANSWER) == REPLY
    assert one.hears() == REPLY


def test_a_replication_session_is_a_pipe() -> None:
    world = scripted()
    client = world.client(replication="database")
    client.hears()
    client.server.hears()
    client.says(m.lying(b"?", 0, b"anything"))
    assert client.server.hears() == m.lying(b"?", 0, b"anything")
    assert client.answers(m.copy_response(b"W"), b"whatever") == m.copy_response(b"W") + b"whatever"

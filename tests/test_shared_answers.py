"""Answers from memory between whole sessions: who gets one, who waits for whom, and which writes are heard of."""

from __future__ import annotations

from tests import builders as m
from tests.exchanges import scripted, session
from tests.peers import Client, World
from tqdbproxy.postgres.clients import underway

READ = m.query("/* ttl:60 */ select x from t")
ONE, TWO = (m.row_description("x") + m.data_row(value) + m.complete("SELECT 1") + m.ready() for value in "12")


def asks(client: Client, answer: bytes = ONE, read: bytes = READ) -> bool:
    """Whether a read reached this client's server; it has its answer now."""
    said = client.says(read)
    asked: bytes = client.server.hears()
    assert (asked, said) in ((read, b""), (b"", answer))
    if asked:
        assert client.answers(answer) == answer
    return bool(asked)


def does(client: Client, *said: bytes, answer: bytes = m.complete("X") + m.ready()) -> None:
    """Something else is said, and answered."""
    client.says(*said)
    assert client.server.hears() == b"".join(said)
    client.answers(answer)


def readers(world: World, *databases: str) -> list[Client]:
    """A session in each of these databases."""
    clients = [world.client(database=database) for database in databases]
    for client in clients:
        client.hears()
        client.server.hears()
    return clients


# What all databases of a server share


def test_a_role_is_changed_in_another_database() -> None:
    one, other = readers(scripted(), "d", "e")
    assert (asks(one), asks(one)) == (True, False)
    does(other, m.query("insert into t values (1)"))
    assert not asks(one)
    does(other, m.query("revoke grp from u"))
    assert asks(one)


def test_it_is_not_forgotten_among_very_many_changes() -> None:
    one, other = readers(scripted(), "d", "e")
    does(other, m.query("begin"), answer=m.complete("BEGIN") + m.ready("T"))
    does(other, m.query("create role x"), answer=m.complete("CREATE ROLE") + m.ready("T"))
    asks(one)
    for number in range(underway.MAX_CHANGES + 1):
        does(other, m.query(f"delete from t{number}"), answer=m.complete("DELETE 0") + m.ready("T"))
    does(other, m.query("commit"))
    assert asks(one)


# What was prepared in SQL, and is executed by the protocol


def prepares(world: World, *said: bytes) -> Client:
    (client,) = readers(world, "d")
    for one in said:
        does(client, one)
    return client


EXECUTED = m.bind(statement="p") + m.execute() + m.SYNC


def test_a_statement_prepared_in_sql_changes_something_by_the_protocol() -> None:
    world = scripted()
    writer = prepares(world, m.query("prepare p as insert into t values (1)"))
    (reader,) = readers(world, "d")
    assert (asks(reader), asks(reader)) == (True, False)
    does(writer, EXECUTED)
    assert asks(reader)
    does(writer, m.unit("deallocate p"))
    does(writer, EXECUTED, answer=m.error("26000") + m.ready())
    assert not asks(reader)


def test_a_text_of_which_nobody_knows_what_it_deallocates() -> None:
    world = scripted()
    (reader,) = readers(world, "d")
    asks(reader)
    writer = prepares(world, m.query("prepare p as delete from t"), m.query("select 1; deallocate q"))
    does(writer, EXECUTED)
    assert asks(reader)


# Who fetches an answer for others is cancelled


CANCELLED = m.error("57014") + m.ready()


def crowd(world: World, size: int = 3) -> list[Client]:
    """The first one's server is asked, the others wait."""
    clients = [world.client() for _ in range(size)]
    for client in clients:
        client.hears()
        client.server.hears()
        client.says(READ)
    assert [client.server.hears() for client in clients] == [READ] + [b""] * (size - 1)
    return clients


def test_the_next_one_asks_when_the_first_has_cancelled() -> None:
    leader, second, third = crowd(scripted())
    assert leader.connection is not None
    leader.connection.cancel(b"")
    assert leader.answers(CANCELLED) == CANCELLED
    assert (second.server.hears(), third.server.hears()) == (READ, b"")
    assert (second.answers(ONE), third.hears(), leader.says(READ)) == (ONE, ONE, ONE)


def test_everybody_asks_for_himself_when_the_first_runs_out_of_time() -> None:
    leader, *others = crowd(scripted())
    assert leader.answers(CANCELLED) == CANCELLED
    assert [other.server.hears() for other in others] == [READ] * 2


def test_a_cancel_request_that_is_too_late() -> None:
    leader, other, _ = crowd(scripted())
    assert leader.connection is not None
    leader.connection.cancel(b"")
    assert leader.answers(ONE) == other.hears() == ONE
    does(leader, m.query("select 1"), answer=CANCELLED)
    leader.says(m.query("/* ttl:60 */ select y"))
    other.says(m.query("/* ttl:60 */ select y"))
    leader.answers(m.error("22012") + m.ready())
    assert other.server.hears()


# Who fetches an answer for others hangs


def test_a_session_that_hangs_does_not_keep_others() -> None:
    world = scripted()
    hung, second, third = crowd(world)
    world.pass_time(4.5)
    assert (second.server.hears(), third.server.hears()) == (b"", b"")
    world.pass_time(0.5)
    assert (second.server.hears(), third.server.hears()) == (READ, b"")
    late = session(world)
    assert late.says(READ) == b""
    assert (second.answers(ONE), third.hears(), late.hears()) == (ONE, ONE, ONE)
    assert hung.answers(TWO) == TWO
    assert not asks(late)


def test_if_they_all_hang_each_asks_for_himself() -> None:
    world = scripted()
    _, second, third = crowd(world)
    world.pass_time(5)
    assert (second.server.hears(), third.server.hears()) == (READ, b"")
    world.pass_time(5)
    assert third.server.hears() == READ


# Answers on their way


def test_an_answer_for_which_there_is_no_room() -> None:
    world = scripted()
    leader, other = crowd(world, 2)
    world.hub.reads.room.most = len(ONE) - len(m.ready()) - 1
    assert leader.answers(ONE[:-1]) == ONE[:-6]
    assert other.server.hears() == READ
    assert (leader.answers(ONE[-1:]), other.answers(ONE)) == (ONE[-6:], ONE)
    assert (world.hub.reads.room.held, len(world.cache)) == (0, 0)


# What the server skips


def test_a_query_that_is_skipped_leaves_the_unnamed_statement() -> None:
    world = scripted()
    writer = prepares(world, m.parse("update t set x = 2") + m.SYNC)
    (reader,) = readers(world, "d")
    asks(reader)
    does(writer, m.bind(statement="missing"), m.query("select 1"), m.SYNC, answer=m.error("26000") + m.ready())
    assert not asks(reader)
    does(writer, m.bind(), m.execute(), m.SYNC)
    assert asks(reader)

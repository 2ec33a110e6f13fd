"""What a session says again and again, and all that may come between one time and the next."""

from __future__ import annotations

import pytest

from tests import builders as m
from tests.exchanges import ANSWER, KEPT, REPLY, VIEW, scripted, session, two, write
from tests.peers import Client, World
from tqdbproxy.core.routing import Rules
from tqdbproxy.core.statement import Kind
from tqdbproxy.core.writebatch.types import Limits

WINDOW_S = 0.05
"""Longer than any window here."""


def crowd(world: World, size: int = 3) -> list[Client]:
    """Sessions each of which has had a write of its own answered in a batch."""
    clients = [session(world) for _ in range(size)]
    assert together(world, clients, "first") == [REPLY] * size
    assert batched(world) == size
    return clients


def all_write(world: World, clients: list[Client], value: str) -> None:
    """At once, and nobody is answered yet."""
    for number, client in enumerate(clients):
        client.sends(write(f"{value} {number}"))
    world.settle()


def together(world: World, clients: list[Client], value: str) -> list[bytes]:
    """All write at once; what each of them hears."""
    all_write(world, clients, value)
    world.pass_time(WINDOW_S)
    return [client.hears() for client in clients]


def batched(world: World) -> int:
    """How many writes were executed in company, ever."""
    return sum(counts.batched for counts in world.metrics._callers)


def written(value: str, numbers: range) -> list[bytes]:
    return [b"insert into t values (%b %d)" % (value.encode(), number) for number in numbers]


def test_again_and_again() -> None:
    world = World(KEPT)
    clients = crowd(world)
    for value in ("second", "third", "fourth " + "x" * 70000, "4"):
        assert together(world, clients, value) == [REPLY] * 3
        assert world.books[-3:] == written(value, range(3))
    counts = world.metrics.caller("", "", Kind.INSERT)
    assert (counts.queries, counts.batched, counts.latency.count) == (15, 15, 15)
    assert world.batches.pending == 0


def test_one_that_fails_and_then_does_not() -> None:
    world = World(KEPT)
    clients = crowd(world)
    clients[1].sends(write("bad"))
    replies = together(world, [clients[0], clients[2]], "second")
    assert replies == [REPLY] * 2
    assert m.error_of(clients[1].hears())["C"] == "23505"
    assert together(world, clients, "third") == [REPLY] * 3
    assert world.books[-5:] == written("second", range(2)) + written("third", range(3))


def test_something_else_in_between() -> None:
    world = World(KEPT)
    clients = crowd(world)
    before = batched(world)
    assert m.kinds(clients[0].says(m.query("begin"))) == "CZ"
    clients[0].sends(write("in a transaction"))
    assert together(world, clients[1:], "second") == [REPLY] * 2
    assert batched(world) == before + 2
    assert m.kinds(clients[0].hears()) == "12CZ"
    assert m.kinds(clients[0].says(m.query("commit"))) == "CZ"
    assert together(world, clients, "third") == [REPLY] * 3
    assert batched(world) == before + 5


def test_a_setting_that_the_server_changes_by_itself() -> None:
    world = World(KEPT)
    clients = crowd(world)
    clients[0].answers(m.parameter_status("TimeZone", "CET"))
    assert together(world, clients, "second") == [REPLY] * 3
    assert len({group.key.identity for group in world.batches.groups()}) == 2


def test_a_setting_that_changes_while_a_write_waits() -> None:
    world = World(KEPT)
    clients = [session(world) for _ in range(3)]
    all_write(world, clients, "first")
    clients[0].answers(m.parameter_status("TimeZone", "CET"))
    world.pass_time(WINDOW_S)
    assert [client.hears() for client in clients] == [REPLY] * 3
    assert together(world, clients, "second") == [REPLY] * 3
    assert len({group.key.identity for group in world.batches.groups()}) == 2


def test_a_setting_that_changes_with_the_batch() -> None:
    world = scripted()
    one, other = two(world)
    one.answers(m.parameter_status("TimeZone", "CET"), ANSWER)
    one.says(write("3"))
    other.says(write("4"))
    assert len({group.key.identity for group in world.batches.groups() if group.waiting}) == 2


def test_rules_that_change() -> None:
    world = World(KEPT)
    clients = crowd(world)
    before = batched(world)
    world.hub.book.rules = Rules(batching=False)
    assert together(world, clients, "second") == [REPLY] * 3
    assert batched(world) == before


def test_who_reads_no_further_is_not_waited_for_and_keeps_nobody_waiting() -> None:
    world = World(KEPT)
    clients = crowd(world)
    before = batched(world)
    slow = clients[1].transport.producer
    slow.pauseProducing()
    assert clients[0].says(write("second 0")) == b""
    assert clients[1].says(write("slow")) == b""
    assert together(world, clients[2:], "third") == [REPLY]
    assert clients[0].hears() == REPLY
    assert batched(world) == before + 2
    slow.resumeProducing()
    world.settle()
    assert clients[1].hears() == REPLY
    assert together(world, clients, "fourth") == [REPLY] * 3
    assert batched(world) == before + 5


def test_who_stops_reading_while_it_waits() -> None:
    world = World(KEPT)
    clients = crowd(world)
    before = batched(world)
    all_write(world, clients, "second")
    slow = clients[1].transport.producer
    slow.pauseProducing()
    world.pass_time(WINDOW_S)
    assert [client.hears() for client in clients] == [REPLY] * 3
    assert clients[0].says(write("third 0")) == b""
    assert clients[1].says(write("slow")) == b""
    assert together(world, clients[2:], "third") == [REPLY]
    assert clients[0].hears() == REPLY
    assert batched(world) == before + 5
    slow.resumeProducing()
    world.settle()
    assert clients[1].hears() == REPLY


def test_a_server_that_is_lost_while_its_session_waits() -> None:
    world = World(Limits(quorum=None, max_batch_size=3))
    clients = crowd(world)
    late = session(world)
    all_write(world, clients[:2], "second")
    clients[1].sends(write("never"))
    world.settle()
    assert clients[1].wire is not None
    clients[1].wire.lose()
    clients[2].sends(write("second 2"))
    late.sends(write("late"))
    world.settle()
    world.pass_time(WINDOW_S)
    assert [client.hears() for client in (*clients, late)] == [REPLY] * 4
    assert clients[1].transport.lost
    assert world.books[-4:] == [*written("second", range(3)), b"insert into t values (late)"]


def test_a_write_that_is_taken_back_and_the_next_one() -> None:
    world = World(KEPT)
    clients = crowd(world)
    all_write(world, clients, "second")
    (group,) = world.batches.groups()
    world.batches.withdraw(group.waiting[1])
    world.pass_time(WINDOW_S)
    first, cancelled, third = [client.hears() for client in clients]
    assert (first, m.error_of(cancelled)["C"], third) == (REPLY, "57014", REPLY)
    assert together(world, clients, "third") == [REPLY] * 3
    assert batched(world) == 8


@pytest.mark.parametrize("pending", [1, 2])
def test_no_room_for_the_next_time(pending: int) -> None:
    world = World(KEPT)
    clients = crowd(world)
    world.batches.limits = Limits(quorum=None, max_pending=pending)
    assert together(world, clients, "second") == [REPLY] * 3
    assert sorted(world.books[-3:]) == written("second", range(3))
    assert b"no_capacity" in clients[2].says(VIEW)
    world.batches.limits = KEPT
    assert together(world, clients, "third") == [REPLY] * 3
    assert world.books[-3:] == written("third", range(3))


def test_nobody_else_is_there_the_next_time() -> None:
    world = World(Limits(quorum=0.5))
    clients = [session(world) for _ in range(3)]
    for value in ("first", "second"):
        assert together(world, clients, value) == [REPLY] * 3
    for client in clients[1:]:
        client.closes()
    world.settle()
    before = batched(world)
    assert clients[0].says(write("alone")) == REPLY
    assert clients[0].says(write("alone again")) == REPLY
    assert batched(world) == before + 2
    assert world.metrics.batch_methods["single"] >= 2


# While something is outstanding


def test_behind_a_write_that_was_left_to_its_session() -> None:
    world = scripted()
    one, other = two(world)
    one.answers(ANSWER)
    other.says(write("taken back"))
    one.says(write("3"))
    (group,) = world.batches.groups()
    world.batches.withdraw(group.waiting[0])
    world.pass_time(WINDOW_S)
    assert one.server.hears() == write("3")
    other.says(write("4"))
    one.says(write("5"))
    assert one.server.hears() == write("5")


def test_behind_a_write_for_which_there_was_no_room() -> None:
    world = scripted()
    one, other = two(world)
    one.answers(ANSWER)
    world.batches.limits = Limits(quorum=None, max_pending=1)
    other.says(write("4"))
    one.says(write("5"))
    world.batches.limits = KEPT
    one.says(write("6"))
    assert one.server.hears() == write("5") + write("6")

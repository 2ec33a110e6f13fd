"""Which server a new session gets, and what its client hears when the first choice was wrong."""

from __future__ import annotations

from typing import Any

import pytest

from tests import builders as m
from tests.exchanges import BATCH
from tests.peers import Client
from tests.shards import NOT_NOW, ShardedWorld, login, settled
from tqdbproxy.addresses import TcpAddress
from tqdbproxy.core.overview import ServerView
from tqdbproxy.errors import ServerUnreachable
from tqdbproxy.postgres.clients.replies import NO_SERVER
from tqdbproxy.postgres.servers.connection import ServerConnection
from tqdbproxy.postgres.servers.group import DENIAL_S
from tqdbproxy.postgres.servers.groups import GroupPlan
from tqdbproxy.postgres.servers.ping import Ping

INSERT = "/* batch:50 */ insert into t values ($1)"


def at(*hosts: str) -> tuple[TcpAddress, ...]:
    return tuple(TcpAddress(host, 5432) for host in hosts)


def plan(name: str, hosts: str, databases: tuple[str, ...] = (), **more: Any) -> GroupPlan:
    """A group at hosts of one letter each, which nobody asks how they are."""
    return GroupPlan(name, at(*hosts), databases, **{"probe_interval_s": 0.0, **more})


def pair(sizes: tuple[int, ...] = (), **more: Any) -> ShardedWorld:
    """One group with a primary at a and a standby at b."""
    world = ShardedWorld(plan("main", "ab", **more), sizes=sizes)
    world.machine("a", login())
    world.machine("b", login(standby=True))
    world.groups.start()
    return world


def refused(reply: bytes) -> tuple[str, str]:
    fields = m.error_of(reply)
    assert fields["S"] == "FATAL"
    return fields["C"], fields["M"]


def where(client: Client) -> str:
    """The machine that a session's server is on."""
    assert client.connection is not None
    host: str = client.connection.transport.getPeer()[0]
    return host


# Databases


def test_a_session_s_database_chooses_its_group() -> None:
    world = ShardedWorld(plan("main", "a"), plan("sales", "b", ("orders", "u")))
    world.machine("a", login())
    world.machine("b", login())
    groups = []
    for database in ("orders", "other", ""):
        client = world.enters(database)
        assert client.connection is not None
        groups.append((client.connection.group, where(client)))
    # Without a name the database is the one named like the user, as with a server.
    assert groups == [("sales", "b"), ("main", "a"), ("sales", "b")]


def test_a_database_that_nobody_serves() -> None:
    world = ShardedWorld(plan("sales", "b", ("orders",)), default=None)
    client = world.enters("accounts")
    assert refused(client.hears()) == ("3D000", 'no server group serves database "accounts"')
    assert client.transport.lost
    told = refused(world.enters("a\nb\x1b").hears())[1]
    assert told == 'no server group serves database "a\\nb\\x1b"'


def test_batches_never_cross_groups_or_servers() -> None:
    world = ShardedWorld(plan("main", "a"), plan("sales", "b", ("orders",)))
    for name in "abc":
        world.machine(name, login())
    clients = [world.enters(name) for name in ("d", "d", "orders")]
    world.groups.replace([plan("main", "c"), plan("sales", "b", ("orders",))], "main")
    clients += [world.enters(name) for name in ("d", "d", "orders")]
    for client in clients:
        client.hears()
        client.server.hears()
        client.sends(m.unit(INSERT, b"1"))
    world.settle()
    world.pass_time(0.1, 0.01)
    # Two sessions on the old a, two on the new c, two on b, which is what it was.
    batches = {"a": "", "b": "", "c": ""}
    for client in clients:
        batches[where(client)] += m.kinds(client.server.hears())
    assert batches == dict.fromkeys("abc", BATCH)


# Several servers


def test_the_first_server_is_the_first_choice_until_it_is_known_who_takes_writes() -> None:
    world = pair()
    assert world.enters().hears() == login()
    assert world.groups.writable() == {("main", "a:5432"): 1.0}
    assert world.machines["b"].dialled == []


@pytest.mark.parametrize("sizes", [(), (1,), (7, 3)])
def test_a_client_without_a_password_is_taken_to_the_primary(sizes: tuple[int, ...]) -> None:
    world = pair(sizes)
    world.groups.replace([plan("main", "ba")], "main")
    client = world.enters()
    assert client.hears() == login()
    client.server.hears()
    assert client.says(m.query("select 1")) == b""
    assert client.server.hears() == m.query("select 1")
    assert world.groups.writable() == {("main", "b:5432"): 0.0, ("main", "a:5432"): 1.0}
    assert world.enters().hears() == login()
    assert len(world.machines["b"].dialled) == 1
    assert world.groups.connections() == 2


def test_what_the_client_said_in_advance_goes_along() -> None:
    world = pair()
    world.groups.replace([plan("main", "ba")], "main")
    client = world.accept()
    assert client.says(m.startup(user="u", database="d"), m.query("select 1")) == login()
    assert client.server.hears() == m.query("select 1")


def test_a_client_that_has_shown_its_password_has_to_come_again() -> None:
    world = pair()
    world.groups.replace([plan("main", "ba")], "main")
    world.machines["b"].greeting = m.authentication(3)
    client = world.enters()
    assert client.hears() == m.authentication(3)
    client.says(m.password("secret"))
    reply = client.answers(m.authentication(0), settled(standby=True))
    assert refused(reply) == ("57P03", "b:5432 is a standby: no primary of group main was found")
    assert client.transport.lost
    assert world.enters().hears() == login()


def test_a_single_server_is_taken_as_it_is() -> None:
    world = ShardedWorld(plan("main", "b"))
    world.machine("b", login(standby=True))
    assert world.enters().hears() == login(standby=True)
    world.machines["b"].greeting = NOT_NOW
    assert world.enters().hears() == NOT_NOW


def test_only_standbys() -> None:
    world = pair()
    world.machines["a"].greeting = login(standby=True)
    told = "a:5432 is a standby; b:5432 is a standby: no primary of group main was found"
    assert refused(world.enters().hears()) == ("57P03", told)
    world.machines["b"].greeting = login()
    assert world.enters().hears() == login()


def test_a_server_that_begins_no_sessions_now_is_passed_by() -> None:
    world = pair()
    world.machines["a"].greeting = NOT_NOW
    world.machines["b"].greeting = login()
    assert world.enters().hears() == login()
    world.machines["b"].greeting = NOT_NOW
    # Nobody is left: the last one's own words.
    assert world.enters().hears() == NOT_NOW


def test_other_refusals_are_the_server_s_last_word() -> None:
    world = pair()
    refusal = world.machines["a"].greeting = m.error("28000", "no entry in pg_hba.conf", severity="FATAL")
    assert world.enters().hears() == refusal
    assert world.machines["b"].dialled == []


def test_a_server_that_is_gone_is_passed_by_at_once() -> None:
    world = pair()
    world.machines["a"].greeting = None
    world.machines["b"].greeting = login()
    assert world.enters().hears() == login()
    assert world.groups.up() == {("main", "a:5432"): 0.0, ("main", "b:5432"): 1.0}
    assert world.enters().hears() == login()
    assert len(world.machines["a"].dialled) == 1


def test_nobody_is_there() -> None:
    world = pair()
    world.machines["a"].greeting = world.machines["b"].greeting = None
    told = "a:5432: Connection refused; b:5432: Connection refused"
    assert refused(world.enters().hears()) == ("08001", f"{NO_SERVER}: {told}")
    # To be refused takes no time, so they are tried again: they are there as soon as they are.
    world.machines["a"].greeting = login()
    assert world.enters().hears() == login()


def test_servers_out_of_reach_share_the_timeout_and_cost_it_once() -> None:
    world = pair(connect_timeout_s=3.0)
    for machine in world.machines.values():
        machine.unreachable = True
    first = world.enters()
    world.pass_time(2.5)
    assert first.hears() == b""
    world.pass_time(0.5)
    told = "a:5432: no answer within 1.5 s; b:5432: no answer within 1.5 s"
    assert refused(first.hears()) == ("08001", f"{NO_SERVER}: {told}")
    assert refused(world.enters().hears()) == ("08001", f"{NO_SERVER}: {told}")
    assert {name: len(machine.dialled) for name, machine in world.machines.items()} == {"a": 1, "b": 1}


def test_a_server_that_closes_without_a_word_is_passed_by() -> None:
    world = pair()
    world.machines["a"].greeting = b""
    world.machines["b"].greeting = login()
    client = world.enters()
    assert client.wire is not None
    client.wire.lose()
    world.settle()
    assert client.hears() == login()


def test_a_client_that_leaves_takes_nobody_along() -> None:
    world = pair()
    world.machines["a"].unreachable = True
    client = world.enters()
    client.closes()
    world.pass_time(20)
    assert world.groups.connections() == 0
    assert world.clock.getDelayedCalls() == []


# Questions


def asked(world: ShardedWorld) -> dict[str, int]:
    """How often somebody has said hello to each machine."""
    return {name: machine.dialled.count(Ping) for name, machine in world.machines.items()}


def test_servers_are_asked_now_and_then() -> None:
    world = pair(probe_interval_s=2.0)
    world.settle()
    assert asked(world) == {"a": 1, "b": 1}
    world.pass_time(2)
    assert asked(world) == {"a": 2, "b": 2}
    # A session tells more than an answer: no need to ask.
    world.pass_time(1.5)
    world.enters()
    world.pass_time(1.5)
    assert asked(world) == {"a": 2, "b": 3}
    world.groups.stop_watching()
    world.pass_time(10)
    assert asked(world) == {"a": 2, "b": 3}
    assert world.clock.getDelayedCalls() == []


def test_a_server_that_keeps_silent_fails_new_sessions_at_once() -> None:
    world = ShardedWorld(plan("main", "a", probe_interval_s=2.0, connect_timeout_s=3.0))
    world.machine("a", b"")
    world.groups.start()
    waiting = world.enters()
    world.pass_time(3)
    assert waiting.hears() == b""  # it was let in by the kernel, and waits as it would directly
    dialled = len(world.machines["a"].dialled)
    assert refused(world.enters().hears()) == ("08001", f"{NO_SERVER}: a:5432: no answer within 3 s")
    assert len(world.machines["a"].dialled) == dialled
    world.machines["a"].greeting = login()
    # As long as sessions are refused, one question follows the other.
    world.pass_time(0.3, 0.1)
    assert world.enters().hears() == login()


def test_a_connection_that_fails_is_a_reason_to_ask() -> None:
    world = pair(probe_interval_s=100.0)
    world.pass_time(10)
    world.machines["a"].greeting = None
    for _ in range(50):
        world.enters()
    world.pass_time(1)
    # At once, and once more because some of them failed after that.
    assert asked(world) == {"a": 3, "b": 1}


def test_with_credentials_the_primary_is_known_before_the_first_session() -> None:
    world = pair(probe_interval_s=2.0, probe="user=me")
    world.answer = lambda host: host == "b"
    world.groups.replace([plan("main", "ab", probe_interval_s=2.0, probe="user=me")], "main")
    world.settle()
    assert world.groups.writable() == {("main", "a:5432"): 0.0, ("main", "b:5432"): 1.0}
    world.machines["b"].greeting = login()
    assert world.enters().hears() == login()
    assert world.machines["a"].dialled == []
    world.answer = lambda host: host == "a"
    world.pass_time(2)
    assert world.groups.writable() == {("main", "a:5432"): 1.0, ("main", "b:5432"): 0.0}


def test_credentials_that_are_wrong_do_not_make_a_server_dead() -> None:
    world = ShardedWorld(plan("main", "a", probe_interval_s=2.0, probe="user=me"))
    world.machine("a", login())

    def nobody(_host: str) -> bool:
        raise ServerUnreachable("a:5432: probe: password authentication failed")

    world.answer = nobody
    world.groups.start()
    world.settle()
    assert world.groups.up() == {("main", "a:5432"): 1.0}
    (view,) = world.groups.views()
    assert view.problem == "a:5432: probe: password authentication failed"
    world.machines["a"].greeting = None
    world.pass_time(2)
    assert world.groups.up() == {("main", "a:5432"): 0.0}


# Other groups while the proxy runs


def test_sessions_stay_where_they_are_and_new_ones_go_where_they_are_to_go() -> None:
    world = ShardedWorld(plan("main", "a"), plan("sales", "b", ("orders",)))
    for name in "abc":
        world.machine(name, login())
    world.groups.start()
    old = [world.enters("d"), world.enters("orders")]
    world.groups.replace([plan("main", "c", ("orders",))], "main")
    new = [world.enters("d"), world.enters("orders")]
    assert [where(client) for client in (*old, *new)] == ["a", "b", "c", "c"]
    for client in old:
        client.hears()
        client.server.hears()
        client.says(m.query("select 1"))
        assert client.server.hears() == m.query("select 1")
    assert world.groups.connections() == 4
    assert world.groups.up() == {("main", "c:5432"): 1.0}


def test_a_reload_forgets_nothing_of_the_servers_that_stay() -> None:
    world = pair()
    client = world.enters()
    client.says(m.query("select 1"))
    client.answers(m.complete("SELECT 1"), m.ready())
    assert world.groups.statements() == {("main/primary",): 1.0}
    world.groups.replace([plan("main", "ba")], "main")
    assert world.groups.writable() == {("main", "a:5432"): 1.0}
    assert world.enters().hears() == login()
    assert world.machines["b"].dialled == []
    client.says(m.query("select 1"))
    client.answers(m.complete("SELECT 1"), m.ready())
    assert world.groups.statements() == {("main/primary",): 2.0}
    world.groups.replace([plan("main", "b")], "main")
    assert world.groups.statements() == {("main/primary",): 2.0}


def test_who_is_no_member_any_more_is_not_asked_any_more() -> None:
    world = pair(probe_interval_s=2.0)
    world.groups.replace([plan("main", "b", probe_interval_s=2.0)], "main")
    before = asked(world)
    world.pass_time(10)
    assert asked(world) == {"a": before["a"], "b": before["b"] + 5}


# What operators see


def ready(world: ShardedWorld) -> object:
    told: list[object] = []
    world.groups.ready().addCallback(told.append)
    world.settle()
    return told.pop()


@pytest.mark.parametrize("interval_s", [0.0, 2.0])
def test_standbys_without_a_primary_are_not_ready(interval_s: float) -> None:
    world = pair(probe_interval_s=interval_s)
    world.groups.replace([plan("main", "ba", probe_interval_s=interval_s)], "main")
    world.machines["a"].greeting = None
    assert ready(world) is True  # nobody has seen yet what b is
    assert refused(world.enters().hears())[0] == "08001"
    assert ready(world) == "b:5432 takes no writes; a:5432: Connection refused"
    world.pass_time(DENIAL_S - 1)
    assert ready(world) == "b:5432 takes no writes; a:5432: Connection refused"
    # Promoted: nobody but a session can see it, so one must be let in.
    world.machines["b"].greeting = login()
    world.pass_time(1)
    assert ready(world) is True
    assert world.enters().hears() == login()


def test_with_credentials_a_standby_stays_one() -> None:
    world = pair()
    world.answer = lambda _host: False
    world.groups.replace([plan("main", "ab", probe_interval_s=100.0, probe="user=me")], "main")
    for _ in range(2):
        assert ready(world) == "a:5432 takes no writes; b:5432 takes no writes"
        world.pass_time(DENIAL_S + 1, 1.0)
    world.answer = lambda host: host == "b"
    assert ready(world) is True


def test_many_who_want_to_know_are_one_question() -> None:
    world = pair()
    for machine in world.machines.values():
        machine.unreachable = True
    told: list[object] = []
    for _ in range(10):
        world.groups.ready().addCallback(told.append)
    world.pass_time(10)
    assert asked(world) == {"a": 1, "b": 1}
    assert told == ["a:5432: no answer within 5 s; b:5432: no answer within 5 s"] * 10


def test_a_single_standby_is_ready_and_one_group_of_several_is_enough() -> None:
    world = ShardedWorld(plan("main", "a"), plan("sales", "b", ("orders",)))
    world.machine("a", None)
    world.machine("b", login(standby=True))
    world.enters("orders")
    assert ready(world) is True
    world.machines["b"].greeting = NOT_NOW
    world.groups.replace([plan("main", "a", probe_interval_s=2.0), plan("sales", "b", probe_interval_s=2.0)], "main")
    world.groups.start()
    world.settle()
    assert ready(world) == "a:5432: Connection refused; b:5432: the database system is starting up"


def test_views_and_readiness() -> None:
    world = pair()
    world.enters()
    assert ready(world) is True
    world.machines["a"].greeting = world.machines["b"].greeting = None
    world.enters()  # goes to a, which is gone
    assert ready(world) == "a:5432: Connection refused; b:5432: Connection refused"
    assert world.groups.views() == [
        ServerView("main", "main/primary", "a:5432", False, "a:5432: Connection refused", 1, 0, 0),
        ServerView("main", "main/primary", "b:5432", False, "b:5432: Connection refused", 0, 0, 0),
    ]
    assert ServerConnection in world.machines["b"].dialled

"""What is known of servers, and what follows from it for a new session."""

from __future__ import annotations

import pytest

from tqdbproxy.core.health import QUICK_S, Finding, Health, Reach, State
from tqdbproxy.core.topology import Topology, claimed_twice, in_order

UP, PRIMARY, STANDBY = Finding(Reach.UP), Finding(Reach.UP, True), Finding(Reach.UP, False)
REFUSED, REJECTING = Finding(Reach.DOWN, problem="refused"), Finding(Reach.REJECTING, problem="starting up")


def learnt(*findings: Finding) -> Health:
    """After attempts that took no time, a second apart."""
    health = Health()
    for second, finding in enumerate(findings):
        health.learn(finding, second, second)
    return health


# findings -> what is known: reach, whether it takes writes; and whether the last one is news
HISTORIES = {
    "the first answer": ([UP], (Reach.UP, None), True),
    "the same again": ([UP, UP], (Reach.UP, None), False),
    "who it is": ([UP, PRIMARY], (Reach.UP, True), True),
    "an answer that says nothing of it": ([PRIMARY, UP], (Reach.UP, True), False),
    "a standby stays one": ([STANDBY, UP], (Reach.UP, False), False),
    "promoted": ([STANDBY, PRIMARY], (Reach.UP, True), True),
    "gone": ([PRIMARY, REFUSED], (Reach.DOWN, None), True),
    "still gone, in other words": ([REFUSED, Finding(Reach.DOWN, problem="no route")], (Reach.DOWN, None), False),
    "back, and nobody knows as what": ([PRIMARY, REFUSED, UP], (Reach.UP, None), True),
    "restarting": ([PRIMARY, REJECTING], (Reach.REJECTING, None), True),
    "not even that": ([REJECTING, REFUSED], (Reach.DOWN, None), True),
    "up, but": ([UP, Finding(Reach.UP, problem="probe: no password")], (Reach.UP, None), True),
    "up without but": ([Finding(Reach.UP, problem="probe: no password"), UP], (Reach.UP, None), True),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_what_is_known_of_a_server(name: str) -> None:
    findings, known, news = HISTORIES[name]
    health = learnt(*findings[:-1])
    before = health.state
    change = health.learn(findings[-1], 10, 10)
    assert (health.state.reach, health.state.writable) == known
    assert (change is not None) is news
    if change is not None:
        assert (change.before, change.after) == (before, health.state)


def test_an_attempt_that_failed_is_out_of_date_when_a_later_one_succeeded() -> None:
    health = learnt(PRIMARY)
    health.learn(UP, 5, 6)
    assert health.learn(REFUSED, 5.5, 9) is None
    assert health.state.reach is Reach.UP
    assert health.learn(REFUSED, 6, 9) is not None


@pytest.mark.parametrize(("took_s", "hopeless"), [(0, False), (QUICK_S, False), (QUICK_S + 0.01, True), (10, True)])
def test_who_kept_us_waiting_is_not_tried_again(took_s: float, hopeless: bool) -> None:
    health = Health()
    health.learn(REFUSED, 100, 100 + took_s)
    assert health.state.hopeless is hopeless
    health.learn(UP, 200, 200 + took_s)
    assert not health.state.hopeless


def test_since_when_a_server_takes_writes() -> None:
    assert learnt(UP, PRIMARY, UP).state.since == 0
    assert learnt(STANDBY, PRIMARY, UP, PRIMARY).state.since == 1
    assert learnt(PRIMARY, REFUSED, UP, PRIMARY, UP).state.since == 3
    assert learnt(PRIMARY, REJECTING, PRIMARY).state.since == 2


STATES = {
    "p": State(Reach.UP, True),
    "q": State(Reach.UP, True, since=5),
    "Q": State(Reach.UP, True, since=9),
    "s": State(Reach.UP, False),
    "u": State(Reach.UP),
    "n": State(),
    "r": State(Reach.REJECTING),
    "d": State(Reach.DOWN),
    "x": State(Reach.DOWN, slow=True),
}


@pytest.mark.parametrize(
    ("known", "tried"),
    [
        ("n", "n"),
        ("nn", "nn"),
        ("x", ""),
        ("xx", ""),
        ("d", "d"),
        ("s", "s"),
        ("sp", "ps"),
        ("up", "pu"),
        ("nup", "pnu"),
        ("un", "un"),
        ("dn", "nd"),
        ("ds", "ds"),
        ("sd", "ds"),
        ("srduxnp", "punrds"),
        ("pp", "pp"),
        ("uQqp", "pqQu"),
    ],
)
def test_in_which_order_servers_are_tried(known: str, tried: str) -> None:
    assert "".join(known[position] for position in in_order([STATES[name] for name in known])) == tried


def test_which_group_serves_a_database() -> None:
    topology = Topology({"main": [], "sales": ["orders", "customers"], "other": ["main"]}, "main")
    asked = {name: topology.group_of(name) for name in ("orders", "customers", "main", "sales", "x", "")}
    assert asked == {"orders": "sales", "customers": "sales", "main": "other", "sales": "main", "x": "main", "": "main"}
    alone = Topology({"sales": ["orders"]}, None)
    assert [alone.group_of(name) for name in ("orders", "sales", "Orders")] == ["sales", None, None]


def test_a_database_belongs_to_one_group() -> None:
    assert list(claimed_twice({"a": ["x", "y", "x"], "b": ["z"]})) == []
    assert list(claimed_twice({"a": ["x", "y"], "b": ["z", "y"], "c": ["y"]})) == [("y", "a", "b"), ("y", "a", "c")]

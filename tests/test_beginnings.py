"""The server begins with a batch while some of its members are waited for; the server is a script of answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import builders as m
from tests.owners import Session, results
from tests.test_batches import unit
from tests.test_executor import GUARDED, LEARNED, SAME, Bench, Connection, done, guarded, parsed, strategy
from tqdbproxy.core.statement import Strategy
from tqdbproxy.core.writebatch.types import Done, Failed, Lost
from tqdbproxy.postgres.mergeable import Mergeable, mergeable
from tqdbproxy.postgres.servers import guards, merging
from tqdbproxy.postgres.servers.batches import GUARD, STALE, MergedExchange
from tqdbproxy.postgres.servers.beginnings import Abandoned, Opening
from tqdbproxy.postgres.servers.executor import APART_S, Begun
from tqdbproxy.postgres.sql import parse
from tqdbproxy.postgres.unit import Unit

SIX = done(1, "INSERT 0 4") + done(1, "INSERT 0 2") + GUARDED
"""In one go."""
LOOKED_UP = m.BIND_COMPLETE + m.data_row("1") + m.complete("SELECT 1")
FIRST_4 = done(1, "INSERT 0 4") + LOOKED_UP
REST_2 = parsed(1) + done(1, "INSERT 0 2") + GUARDED
"""In two parts: behind the first the guard, behind the rest the count, which is parsed for the first time."""
TAKEN_BACK = m.error("26000") + m.ready()
INSERTED = m.PARSE_COMPLETE + done(1) + m.ready()


def begun(bench: Bench, members: Sequence[Unit], count: int = 4) -> Begun:
    """What is needed is prepared, and the server has begun with so many of the members of the next batch."""
    bench.run(bench.units(6), parsed(3) + SIX)
    found = bench.executor.begin(bench.group(members)[:count])
    assert found is not None
    assert found.count == 4
    assert bench.connection.said == ["PPPBEBEBES", "BEBE"]
    return found


def test_the_rest_follows() -> None:
    bench = Bench()
    members = bench.units(6)
    assert bench.run(members, FIRST_4 + REST_2, begun=begun(bench, members)) == Done([INSERTED] * 6, Strategy.MERGED)
    assert bench.connection.said == ["PBEBES"]


def test_the_guards_are_parsed_once() -> None:
    bench = Bench()
    members = bench.units(6)
    bench.run(members, FIRST_4 + REST_2, begun=begun(bench, members))
    again = bench.executor.begin(bench.group(members)[:4])
    assert strategy(bench.run(members, done(1, "INSERT 0 4") + LOOKED_UP + REST_2[5:], begun=again)) is Strategy.MERGED
    assert bench.connection.said == ["PBEBES", "BEBE", "BEBES"]
    assert strategy(bench.run(members, SIX)) is Strategy.MERGED
    assert bench.connection.said == ["BEBEBES"]


@pytest.mark.parametrize("where", ["behind the first part", "behind the rest"])
def test_a_guard_that_refuses(where: str) -> None:
    bench = Bench()
    members = bench.units(6)
    refused = m.BIND_COMPLETE + m.error(guards.NOT_MERGEABLE) + m.ready()
    first = done(1, "INSERT 0 4")
    answer = first + (refused if where == "behind the first part" else LOOKED_UP + REST_2[: -len(GUARDED)] + refused)
    outcome = bench.run(members, answer, parsed(1) + done(6) + m.ready(), begun=begun(bench, members))
    assert strategy(outcome) is Strategy.PREPARED
    assert bench.connection.said == ["PBEBES", "P" + "BE" * 6 + "S"]
    assert strategy(bench.run(members, done(6) + m.ready())) is Strategy.PREPARED


def test_no_rest() -> None:
    bench = Bench()
    members = bench.units(4)
    only = FIRST_4 + parsed(1) + GUARDED
    assert bench.run(members, only, begun=begun(bench, members)) == Done([INSERTED] * 4, Strategy.MERGED)
    assert bench.connection.said == ["PBES"]


def test_it_begins_with_one_piece() -> None:
    bench = Bench()
    members = bench.units(7)
    rest = done(1, "INSERT 0 2") + done(1) + GUARDED
    outcome = bench.run(members, FIRST_4 + parsed(2) + rest, begun=begun(bench, members, 5))
    assert outcome == Done([INSERTED] * 7, Strategy.MERGED)
    assert bench.connection.said == ["PPBEBEBES"]


NOT_BEGUN: dict[str, Callable[[Bench], object]] = {
    "not prepared": lambda bench: bench.units(8),
    "too few to merge": lambda bench: bench.units(3),
    "an update": lambda bench: bench.units(4, "update t set a = $1"),
    "with rows": lambda bench: bench.units(4, "insert into t values ($1) returning a"),
    "merge:off": lambda bench: [*bench.units(3), bench.unit("9", hint="batch:5 merge:off")],
    "several templates": lambda bench: [*bench.units(3), bench.unit("9", "insert into u values ($1)")],
    "strings whose type is not known": lambda bench: bench.simple(*["insert into t values ('x')"] * 4),
    "tables that may have changed": lambda bench: guarded(bench, 4),
    "a malformed Bind": lambda bench: [*bench.units(3), _cut(bench)],
}


def _cut(bench: Bench) -> object:
    one = bench.unit("1")
    one.tail = one.tail[:-3]
    return one


@pytest.mark.parametrize("name", NOT_BEGUN)
def test_what_is_not_begun(name: str) -> None:
    bench = Bench()
    bench.run(bench.units(6), parsed(3) + SIX)
    bench.connection.requests.clear()
    key = ("key", "one") if name == "several templates" else None
    assert bench.executor.begin(bench.group(NOT_BEGUN[name](bench), key=key)) is None  # type: ignore[arg-type]
    assert bench.connection.requests == []


def test_without_a_connection_nothing_is_begun() -> None:
    bench = Bench()
    bench.run(bench.units(6), parsed(3) + SIX)
    bench.connection.lendable = False
    assert bench.executor.begin(bench.group(bench.units(4))) is None


def test_statements_that_are_too_old_are_not_used() -> None:
    bench = Bench()
    bench.run(bench.units(6), parsed(3) + SIX)
    bench.now = 100.0
    assert bench.executor.begin(bench.group(bench.units(4))) is None


@pytest.mark.parametrize("hint", ["batch:5 merge:off", "batch:5"])
def test_a_rest_that_does_not_fit(hint: str) -> None:
    """All is taken back, and then executed in another way."""
    bench = Bench()
    odd = bench.unit("9", hint=hint)
    if hint == "batch:5":
        odd.tail = odd.tail[:-3]
    members = [*bench.units(5), odd]
    outcome = bench.run(members, FIRST_4 + TAKEN_BACK, parsed(1) + done(6) + m.ready(), begun=begun(bench, members))
    assert strategy(outcome) is Strategy.PREPARED
    assert bench.connection.said == ["BS", "P" + "BE" * 6 + "S"]


def test_another_batch_than_the_one_that_was_begun() -> None:
    bench = Bench()
    beginning = begun(bench, bench.units(4))
    others = [bench.unit("7"), *bench.units(5)]
    assert strategy(bench.run(others, FIRST_4 + TAKEN_BACK, SIX, begun=beginning)) is Strategy.MERGED
    assert bench.connection.said == ["BS", "BEBEBES"]


def test_settings_that_have_changed_meanwhile() -> None:
    bench = Bench()
    members = bench.units(6)
    beginning = begun(bench, members)
    bench.connection.statements.retire()
    assert strategy(bench.run(members, TAKEN_BACK, parsed(3) + SIX, begun=beginning)) is Strategy.MERGED
    assert bench.connection.said == ["BS", "CCCPPPBEBEBES"]


def test_a_fingerprint_that_has_been_given_up_meanwhile() -> None:
    bench = Bench()
    merged = done(1, "INSERT 0 4") + m.BIND_COMPLETE + m.data_row("1") + m.complete("SELECT 1")
    anew = LEARNED + parsed(2) + merged + m.ready()
    bench.run(guarded(bench, 4), parsed(1) + anew)
    rest = parsed(1) + LOOKED_UP + SAME + m.ready()
    for forget, answers in ((False, [FIRST_4 + rest]), (True, [FIRST_4 + TAKEN_BACK, anew])):
        members = guarded(bench, 4)
        beginning = bench.executor.begin(bench.group(members))
        assert beginning is not None
        if forget:
            bench.connection.statements._fingerprints.clear()
        bench.connection.requests.clear()
        assert strategy(bench.run(members, *answers, begun=beginning)) is Strategy.MERGED
    assert m.kinds(bench.connection.requests[0]) == "BS"


def test_a_connection_that_has_gone_meanwhile() -> None:
    """It took with it what was begun: all begins anew elsewhere."""
    bench = Bench()
    members = bench.units(6)
    beginning = begun(bench, members)
    bench.connection.alive = bench.connection.lendable = False
    assert bench.run(members, begun=beginning) == Lost(sent=False)
    assert bench.connection.requests == []


def test_a_connection_that_goes_while_all_is_taken_back() -> None:
    bench = Bench()
    members = bench.units(6)
    beginning = begun(bench, members)
    bench.connection.statements.retire()
    bench.connection.lendable = False
    assert bench.run(members, TAKEN_BACK, begun=beginning) == Lost(sent=False)


def test_a_client_whose_statement_has_our_name() -> None:
    """What was begun wasn't taken back, then, and nothing may be executed again."""
    bench = Bench()
    members = bench.units(6)
    beginning = begun(bench, members)
    bench.connection.statements.retire()
    assert bench.run(members, m.BIND_COMPLETE + m.ready(), begun=beginning) == Lost(sent=True)


def test_who_does_not_fit_together_is_not_begun_again_soon() -> None:
    bench = Bench()
    members = bench.units(6)
    beginning = begun(bench, members)
    bench.connection.statements.retire()
    bench.run(members, TAKEN_BACK, parsed(3) + SIX, begun=beginning)
    assert bench.executor.begin(bench.group(bench.units(4))) is None
    bench.now += APART_S
    assert bench.executor.begin(bench.group(bench.units(4))) is not None


@pytest.mark.parametrize("code", sorted(STALE))
def test_a_statement_that_went_stale(code: str) -> None:
    bench = Bench()
    members = bench.units(6)
    stale = m.error(code) + m.ready()
    outcome = bench.run(members, stale, m.CLOSE_COMPLETE * 3 + parsed(3) + SIX, begun=begun(bench, members))
    assert strategy(outcome) is Strategy.MERGED
    assert bench.connection.said == ["PBEBES", "CCCPPPBEBEBES"]


def test_what_is_too_much_is_closed_where_no_error_is_in_front() -> None:
    bench = Bench()
    members = bench.units(6)
    beginning = begun(bench, members)
    bench.connection.statements.later([b"old"])
    bench.run(members, FIRST_4 + REST_2, begun=beginning)
    bench.run(bench.units(6), m.CLOSE_COMPLETE + SIX)
    assert bench.connection.said == ["PBEBES", "CBEBEBES"]


def test_the_connection_is_one_of_those_that_can_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that has most statements belongs to a write that the server hasn't begun with."""
    monkeypatch.setattr(merging, "LARGEST_PIECE", 4)
    bench = Bench()
    members = bench.units(8)
    beginning = begun(bench, members[:4])
    owner = bench.connection
    bench.run(members, FIRST_4 + parsed(1) + done(1, "INSERT 0 4") + GUARDED, begun=beginning)
    others = [Connection() for _ in range(4)]
    for member, other in zip(bench.group(members), others, strict=False):
        member.server = other
    owner.requests.clear()
    assert bench.executor.begin(members) is None
    assert owner.requests == []


@pytest.mark.parametrize(("where", "value"), [(0, 2), (1, 5)])
def test_a_row_that_fails(where: int, value: int) -> None:
    """Among the first or in the rest: who it was is found, as ever."""
    bench = Bench()
    error = m.error("23505", D=f"Key (a)=({value}) already exists.")
    failing = m.BIND_COMPLETE + error + m.ready()
    if where:
        failing = FIRST_4 + parsed(1) + m.BIND_COMPLETE + error + m.ready()
    members = bench.units(6)
    assert bench.run(members, failing, begun=begun(bench, members)) == Failed(value)


def test_a_fault_lets_nothing_be_committed_by_what_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    members = bench.units(6)
    beginning = begun(bench, members)
    monkeypatch.setattr(bench.executor, "_merges", lambda _units, _identity: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench.executor.execute(bench.group(members), beginning)
    assert bench.connection.aborted


# The connection


def opened(it: Session) -> Opening:
    found = mergeable(b"insert into t values ($1)", parse)
    assert found is not None
    members = [unit(b"%d" % n) for n in range(4)]
    it.connection.statements.add((members[0].template, 4), b"four")
    it.connection.statements.add((members[0].template, GUARD), b"guard")
    it.connection.statements.learn((b'"t"',), b"print")
    opening = Opening(members, it.connection.statements, found, ())
    assert opening.possible
    it.connection.begin(opening)
    assert it.wire.take() == opening.request
    return opening


def merged(it: Session, begun: Opening) -> MergedExchange:
    found = mergeable(b"insert into t values ($1)", parse)
    assert isinstance(found, Mergeable)
    return MergedExchange([unit(b"%d" % n) for n in range(4)], it.connection.statements, found, begun=begun)


ANSWER = FIRST_4 + parsed(1) + GUARDED


@given(st.integers(0, len(FIRST_4)), st.lists(st.integers(1, 40), max_size=6))
def test_what_was_answered_already_counts(early: int, sizes: list[int]) -> None:
    it = Session()
    opening = opened(it)
    if early:
        it.server_says(ANSWER[:early])
    assert (it.said, it.connection.lendable) == ([], False)
    outcome = results(it.connection.run(merged(it, opening)))
    it.server_says(*m.chunks(ANSWER[early:], sizes))
    assert isinstance(outcome[0], Done)
    assert (it.said, it.connection.lendable) == ([], True)


def test_a_beginning_is_not_cancelled() -> None:
    it = Session()
    opened(it)
    heard: list[None] = []
    it.connection.cancel(b"key").addCallback(heard.append)
    assert heard == [None]
    assert it.connection.cancelling == 0


def test_a_connection_lost_behind_a_beginning() -> None:
    it = Session()
    opened(it)
    it.server_says(m.error("57P01", severity="FATAL"))
    it.wire.lose()
    assert not it.connection.alive
    assert not it.connection.lendable


def test_what_is_taken_back() -> None:
    it = Session()
    opened(it)
    it.server_says(m.error("23505"))
    outcome = results(it.connection.run(Abandoned((), it.connection.statements)))
    assert m.kinds(it.wire.take()) == "BS"
    it.server_says(m.ready())
    assert (outcome, it.said, it.connection.lendable) == ([Failed(None)], [], True)

"""The proxy's own prepared statements on a connection: how many, how old."""

from __future__ import annotations

import pytest

from tqdbproxy.postgres.servers.statements import (
    KEPT_STATEMENTS,
    LIFETIME_S,
    MOST_GRANTED,
    MOST_WISHED,
    OFTEN,
    PREFIX,
    Statements,
)


def full(count: int) -> Statements:
    statements = Statements()
    for number in range(count):
        statements.add(number, statements.new_name())
    return statements


def test_the_least_recently_used_go_first() -> None:
    statements = full(KEPT_STATEMENTS + 2)
    assert statements.use(0) == PREFIX + b"1"
    assert statements.surplus() == [PREFIX + b"2", PREFIX + b"3"]
    assert statements.surplus() == []
    assert (0 in statements, 1 in statements, len(statements)) == (True, False, KEPT_STATEMENTS)


def test_none_is_used_for_longer_than_its_lifetime() -> None:
    statements = full(0)
    statements.expire(1000.0)
    statements.add("a", statements.new_name())
    statements.expire(1000.0 + LIFETIME_S - 0.5)
    assert statements.use("a") == PREFIX + b"1"
    assert statements.surplus() == []
    statements.expire(1000.0 + LIFETIME_S)
    assert statements.use("a") is None
    assert statements.surplus() == [PREFIX + b"1"], "closed, not leaked"
    statements.add("a", statements.new_name())
    statements.expire(1000.0 + LIFETIME_S + 1)
    assert statements.use("a") == PREFIX + b"2"


def test_what_a_client_threw_away_is_not_closed_again() -> None:
    statements = full(3)
    statements.retire(1)
    statements.forget()
    assert (statements.surplus(), len(statements)) == ([], 0)


TABLES = (b'"t"',)


def test_a_statement_is_kept_only_as_long_as_its_tables_are_what_they_were() -> None:
    statements = full(1)
    statements.learn(TABLES, b"old")
    statements.add("insert", b"one", TABLES)
    statements.add("update", b"two", TABLES)
    statements.add("other", b"three", (b'"u"',))
    assert (statements.use("insert"), statements.use("other")) == (b"one", None), "nothing is known of the table u"
    assert statements.surplus() == [b"three"]
    statements.changed(TABLES)
    assert statements.fingerprint(TABLES) is None
    assert (sorted(statements.surplus()), len(statements)) == ([b"one", b"two"], 1)
    statements.learn(TABLES, None)
    assert statements.fingerprint(TABLES) is None


def test_what_is_said_of_a_statement_goes_with_it() -> None:
    statements = full(2)
    statements.judge(0, True)
    statements.judge(7, True)
    assert [statements.fit(number) for number in (0, 1, 7)] == [True, None, None]
    statements.retire(0)
    statements.add(0, statements.new_name())
    assert statements.fit(0) is None


def test_fingerprints_stay_few() -> None:
    statements = Statements()
    for number in range(10 * KEPT_STATEMENTS):
        tables = (b"t%d" % number,)
        statements.learn(tables, b"f")
        statements.add(number, statements.new_name(), tables)
        statements.surplus()
    kept = [number for number in range(10 * KEPT_STATEMENTS) if statements.fingerprint((b"t%d" % number,))]
    assert kept == [*range(9 * KEPT_STATEMENTS, 10 * KEPT_STATEMENTS)]


def test_without_fingerprints() -> None:
    statements = full(1)
    statements.expire(0.0)
    statements.learn(TABLES, b"old")
    statements.give_up_fingerprints()
    statements.add("insert", b"one", TABLES)
    assert (statements.blind, len(statements)) == (True, 0)
    statements.expire(LIFETIME_S)
    assert not statements.blind, "perhaps it was something else"


def test_what_one_could_do_without_is_granted_when_it_was_wished_for_often() -> None:
    statements = Statements()
    assert [statements.grants("a") for _ in range(OFTEN + 1)] == [False] * (OFTEN - 1) + [True] * 2
    statements.add("b", b"_tqdb_1")
    assert statements.grants("b")


def test_no_more_is_granted_than_there_is_room_for() -> None:
    statements = Statements()
    granted = [number for number in range(MOST_GRANTED + 5) if [statements.grants(number) for _ in range(OFTEN)][-1]]
    assert granted == list(range(MOST_GRANTED))
    assert [statements.grants(number) for number in (0, MOST_GRANTED)] == [True, False]


@pytest.mark.parametrize("end", ["retire", "forget"])
def test_what_lives_anew_grants_anew(end: str) -> None:
    statements = Statements()
    for number in range(MOST_GRANTED):
        assert [statements.grants(number) for _ in range(OFTEN)][-1]
    getattr(statements, end)()
    assert not statements.grants(0)
    assert [statements.grants(MOST_GRANTED) for _ in range(OFTEN)][-1]


def test_wishes_are_few() -> None:
    statements = Statements()
    for number in range(3 * MOST_WISHED):
        assert not statements.grants(number)
        assert len(statements._wishes) <= MOST_WISHED

"""A batch as one exchange: what is sent, what each member is told, and whose fault an error was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import builders as m
from tqdbproxy.core.statement import Strategy
from tqdbproxy.core.writebatch.types import Done, Failed, Outcome
from tqdbproxy.postgres.clients.prepared import Prepared
from tqdbproxy.postgres.clients.units import extended, query
from tqdbproxy.postgres.framing import FramingError
from tqdbproxy.postgres.servers.batches import Exchange, PreparedExchange
from tqdbproxy.postgres.servers.statements import KEPT_STATEMENTS, Statements
from tqdbproxy.postgres.sql import Texts
from tqdbproxy.postgres.unit import Unit

TEXTS = Texts()
INSERT = "insert into t values ($1)"
RETURNING = INSERT + " returning a"
NAME = "_tqdb_1"


def unit(value: bytes, sql: str = INSERT, **how: object) -> Unit:
    """A unit of the extended protocol: ``describe``: portal or statement, ``results``, ``limit``, ``close``."""
    describe = {"portal": m.describe_portal(), "statement": m.describe_statement()}.get(str(how.get("describe")), b"")
    data = b"".join(
        [
            m.parse(f"/* batch:5 */ {sql}"),
            m.bind(value, results=how.get("results", ())),  # type: ignore[arg-type]
            describe,
            m.execute(limit=how.get("limit", 0)),  # type: ignore[arg-type]
            m.close_portal() if how.get("close") else b"",
            m.SYNC,
        ]
    )
    found = extended(data, TEXTS, Prepared())
    assert isinstance(found, Unit)
    return found


def simple(sql: str) -> Unit:
    text = f"/* batch:5 */ {sql}"
    return query(m.query(text), TEXTS.look(text.encode()))


def knowing(*units: Unit) -> Statements:
    """The statements of a connection that has executed these units before."""
    statements = Statements()
    for one in units:
        statements.add(one.template, statements.new_name())
    return statements


def ends(exchange: Exchange, *answer: bytes) -> Outcome:
    outcome = exchange.receive(b"".join(answer))
    assert outcome is not None
    return outcome


def member(*rows: bytes, tag: str = "INSERT 0 1") -> bytes:
    return b"".join([m.BIND_COMPLETE, *rows, m.complete(tag)])


# What is sent


def test_one_template_is_parsed_once() -> None:
    exchange = PreparedExchange([unit(b"1"), unit(b"2"), unit(b"3", close=True)], Statements())
    assert m.split(exchange.request) == [
        m.parse(INSERT, NAME),
        *(raw for value in (b"1", b"2", b"3") for raw in (m.bind(value, statement=NAME), m.execute())),
        m.SYNC,
    ]


def test_a_statement_that_is_there_is_not_parsed_again() -> None:
    one = unit(b"1")
    assert m.kinds(PreparedExchange([one, unit(b"2")], knowing(one)).request) == "BEBES"


def test_different_templates_make_a_transaction() -> None:
    units = [unit(b"1"), unit(b"2", "update t set a = $1"), unit(b"3")]
    exchange = PreparedExchange(units, Statements())
    assert m.split(exchange.request) == [
        m.parse(INSERT, "_tqdb_1"),
        m.bind(b"1", statement="_tqdb_1"),
        m.execute(),
        m.parse("update t set a = $1", "_tqdb_2"),
        m.bind(b"2", statement="_tqdb_2"),
        m.execute(),
        m.bind(b"3", statement="_tqdb_1"),
        m.execute(),
        m.SYNC,
    ]


def test_what_several_members_want_described_is_described_once() -> None:
    units = [
        unit(b"1", RETURNING),
        unit(b"2", RETURNING, describe="portal"),
        unit(b"3", RETURNING, describe="portal"),
        unit(b"4", RETURNING, describe="portal", results=[1]),
        unit(b"5", RETURNING, describe="statement"),
        unit(b"6", RETURNING, describe="statement"),
    ]
    request = PreparedExchange(units, Statements()).request
    assert m.kinds(request) == "PBEBDEBEBDEBDEBES"
    assert [raw for raw in m.split(request) if raw[:1] == b"D"] == [
        m.describe_portal(),
        m.describe_portal(),
        m.describe_statement(NAME),
    ]


def test_nothing_is_described_for_a_write_that_returns_nothing() -> None:
    assert m.kinds(PreparedExchange([unit(b"1", describe="portal"), unit(b"2")], Statements()).request) == "PBEBES"


def test_row_limits_go_along() -> None:
    request = PreparedExchange([unit(b"1", RETURNING, limit=7), unit(b"2", RETURNING)], Statements()).request
    assert [raw for raw in m.split(request) if raw[:1] == b"E"] == [m.execute(limit=7), m.execute()]


def test_surplus_statements_are_closed_first() -> None:
    statements = Statements()
    for number in range(KEPT_STATEMENTS + 2):
        statements.add(number, statements.new_name())
    request = PreparedExchange([unit(b"1")], statements).request
    assert m.split(request)[:2] == [m.close_statement("_tqdb_1"), m.close_statement("_tqdb_2")]
    assert m.kinds(request) == "CCPBES"
    assert m.kinds(PreparedExchange([unit(b"1")], statements).request) == "PBES"


def test_constants_of_a_query_became_parameters() -> None:
    units = [simple("insert into t values ('one')"), simple("insert into t values ('two')")]
    assert units[0].template == units[1].template
    request = PreparedExchange(units, Statements()).request
    assert [raw for raw in m.split(request) if raw[:1] == b"B"] == [
        m.bind(b"one", statement=NAME),
        m.bind(b"two", statement=NAME),
    ]


# What each member is told


def test_each_gets_its_own_reply() -> None:
    row = [m.data_row(str(number)) for number in range(5)]
    described = m.row_description("a")
    binary = m.row_description("a", formats=[1])
    units = [
        simple("insert into t values ('0') returning a"),
        unit(b"1", RETURNING),
        unit(b"2", RETURNING, describe="portal", results=[1], close=True),
        unit(b"3", RETURNING, describe="statement"),
        unit(b"4", RETURNING, limit=1),
        unit(b"5", describe="portal"),
    ]
    exchange = PreparedExchange(units, Statements())
    asked = m.parameter_description(25) + described
    outcome = ends(
        exchange,
        m.PARSE_COMPLETE + m.BIND_COMPLETE + described + row[0] + m.complete("INSERT 0 1"),
        m.PARSE_COMPLETE + member(row[1]),
        m.BIND_COMPLETE + binary + row[2] + m.complete("INSERT 0 1"),
        m.BIND_COMPLETE + asked + row[3] + m.complete("INSERT 0 1"),
        m.BIND_COMPLETE + row[4] + m.SUSPENDED,
        m.PARSE_COMPLETE + member(),
        m.ready(),
    )
    tag, ready = m.complete("INSERT 0 1"), m.ready()
    begun = m.PARSE_COMPLETE + m.BIND_COMPLETE
    assert outcome == Done(
        [
            described + row[0] + tag + ready,
            begun + row[1] + tag + ready,
            begun + binary + row[2] + tag + m.CLOSE_COMPLETE + ready,
            begun + asked + row[3] + tag + ready,
            begun + row[4] + m.SUSPENDED + ready,
            begun + m.NO_DATA + tag + ready,
        ],
        Strategy.TRANSACTION,
    )


def test_a_description_serves_all_that_asked_for_it() -> None:
    units = [unit(str(number).encode(), RETURNING, describe="portal") for number in range(3)]
    described = m.row_description("a")
    rows = [m.data_row(str(number)) for number in range(3)]
    first = m.PARSE_COMPLETE + m.BIND_COMPLETE + described + rows[0] + m.complete("INSERT 0 1")
    outcome = ends(PreparedExchange(units, Statements()), first, *map(member, rows[1:]), m.ready())
    begun = m.PARSE_COMPLETE + m.BIND_COMPLETE + described
    assert outcome == Done([begun + row + m.complete("INSERT 0 1") + m.ready() for row in rows], Strategy.PREPARED)


def test_different_tags_are_kept_apart() -> None:
    units = [unit(b"1"), unit(b"2"), unit(b"3")]
    tags = ["INSERT 0 1", "INSERT 0 0", "INSERT 0 1"]
    outcome = ends(PreparedExchange(units, knowing(units[0])), *(member(tag=tag) for tag in tags), m.ready())
    begun = m.PARSE_COMPLETE + m.BIND_COMPLETE
    assert outcome == Done([begun + m.complete(tag) + m.ready() for tag in tags], Strategy.PREPARED)


def test_a_notice_belongs_to_the_member_whose_statement_raised_it() -> None:
    units = [unit(b"1"), unit(b"2")]
    outcome = ends(PreparedExchange(units, knowing(units[0])), member(m.notice("one")), member(), m.ready())
    assert isinstance(outcome, Done)
    assert [m.kinds(reply) for reply in outcome.replies] == ["12NCZ", "12CZ"]


def test_what_concerns_the_connection_is_put_aside() -> None:
    units = [unit(b"1"), unit(b"2")]
    exchange = PreparedExchange(units, knowing(units[0]))
    status, notification, late = m.parameter_status("a", "b"), m.notification("c"), m.notice("at the commit")
    outcome = ends(exchange, notification, member(status), member(), late, status, m.ready())
    assert isinstance(outcome, Done)
    assert [m.kinds(reply) for reply in outcome.replies] == ["12CZ", "12CZ"]
    assert sorted(exchange.aside) == sorted([notification, status, status, late])


# When it has ended

ANSWER = m.PARSE_COMPLETE + member(m.notice("n")) + member() + m.ready()


@given(st.lists(st.integers(1, 40), max_size=6))
def test_the_answer_comes_in_any_pieces(sizes: list[int]) -> None:
    exchange = PreparedExchange([unit(b"1"), unit(b"2")], Statements())
    *first, last = m.chunks(ANSWER, sizes)
    assert [exchange.receive(piece) for piece in first] == [None] * len(first)
    outcome = exchange.receive(last)
    assert isinstance(outcome, Done)
    assert [m.kinds(reply) for reply in outcome.replies] == ["12NCZ", "12CZ"]


def test_what_comes_after_the_end_is_not_the_batchs() -> None:
    for rest in (m.notification("c"), m.notification("c")[:3], m.error("57P01", severity="FATAL")):
        exchange = PreparedExchange([unit(b"1"), unit(b"2")], Statements())
        assert isinstance(exchange.receive(ANSWER + rest), Done)
        assert exchange.rest == rest


def test_a_row_may_look_like_the_end() -> None:
    units = [unit(b"1", RETURNING), unit(b"2", RETURNING)]
    row = m.data_row(m.ready())
    answer = m.PARSE_COMPLETE + member(row) + member(row) + m.ready()
    for cut in range(1, len(answer)):
        exchange = PreparedExchange(units, Statements())
        assert exchange.receive(answer[:cut]) is None
        outcome = exchange.receive(answer[cut:])
        assert isinstance(outcome, Done)
        assert [reply.count(row) for reply in outcome.replies] == [1, 1]


@pytest.mark.parametrize("length", [0, 3, -1, 2**31 - 1])
def test_lengths_that_lie(length: int) -> None:
    exchange = PreparedExchange([unit(b"1"), unit(b"2")], Statements())
    with pytest.raises(FramingError):
        exchange.receive(m.PARSE_COMPLETE + m.lying(b"2", length) + m.ready())


# Errors


@pytest.mark.parametrize("completed", [0, 1, 2])
def test_the_position_of_an_error_tells_whose_it_was(completed: int) -> None:
    units = [unit(b"1"), unit(b"2"), unit(b"3")]
    exchange = PreparedExchange(units, Statements())
    answer = m.PARSE_COMPLETE + member() * completed + m.BIND_COMPLETE + m.error("23505") + m.ready()
    assert exchange.receive(answer) == Failed(completed)
    assert not exchange.stale


def test_an_error_after_all_members_is_the_commits() -> None:
    units = [unit(b"1"), unit(b"2")]
    assert ends(PreparedExchange(units, knowing(units[0])), member() * 2, m.error("23503"), m.ready()) == Failed(None)


def test_a_text_that_can_not_be_parsed_is_the_fault_of_all_that_share_it() -> None:
    other = "update nowhere set a = $1"
    shared = PreparedExchange([unit(b"1"), unit(b"2", other), unit(b"3", other)], Statements())
    assert ends(shared, m.PARSE_COMPLETE, member(), m.error("42P01"), m.ready()) == Failed(None)
    single = PreparedExchange([unit(b"1"), unit(b"2", other), unit(b"3")], Statements())
    assert ends(single, m.PARSE_COMPLETE, member(), m.error("42P01"), m.ready()) == Failed(1)
    assert ends(PreparedExchange([unit(b"1"), unit(b"2")], Statements()), m.error("42P01"), m.ready()) == Failed(None)


def test_only_what_the_server_has_confirmed_is_there_afterwards() -> None:
    other = "update t set a = $1"
    units = [unit(b"1"), unit(b"2", other)]
    statements = Statements()
    ends(PreparedExchange(units, statements), m.PARSE_COMPLETE, member(), m.error("42P01"), m.ready())
    assert units[0].template in statements
    assert units[1].template not in statements
    ends(PreparedExchange(units, statements), member(), m.PARSE_COMPLETE, m.BIND_COMPLETE, m.error("23505"), m.ready())
    assert units[1].template in statements


@pytest.mark.parametrize("code", ["26000", "0A000", "42804"])
def test_a_stale_statement_is_forgotten_and_trying_again_helps(code: str) -> None:
    units = [unit(b"1"), unit(b"2")]
    statements = knowing(units[0])
    exchange = PreparedExchange(units, statements)
    assert ends(exchange, m.error(code), m.ready()) == Failed(None)
    assert exchange.stale
    again = PreparedExchange(units, statements)
    # The server may still have it (0A000).
    assert m.split(again.request)[:2] == [m.close_statement("_tqdb_1"), m.parse(INSERT, "_tqdb_2")]
    assert ends(again, m.CLOSE_COMPLETE, m.PARSE_COMPLETE, m.error(code), m.ready()) == Failed(0)
    assert not again.stale

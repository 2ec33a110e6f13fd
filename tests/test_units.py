"""Which bytes are a unit that may leave the forward lane, and what its own reply looks like."""

from __future__ import annotations

import pytest

from tests import builders as m
from tqdbproxy.postgres.clients.prepared import Prepared, PreparedStatement
from tqdbproxy.postgres.clients.units import Shape, ends_here, extended, query
from tqdbproxy.postgres.framing import FramingError
from tqdbproxy.postgres.sql import Texts
from tqdbproxy.postgres.unit import PORTAL, STATEMENT, Asked, Unit

SQL = "/* batch:5 */ insert into t values ($1)"
RETURNING = SQL + " returning a"
TEXTS = Texts()
LOOK = TEXTS.look


def read(data: bytes, prepared: Prepared | None = None) -> Unit | Shape:
    return extended(data, TEXTS, prepared or Prepared())


def unit_of(data: bytes, prepared: Prepared | None = None) -> Unit:
    unit = read(data, prepared)
    assert isinstance(unit, Unit)
    return unit


def with_statement(name: bytes, sql: str = SQL, types: bytes = b"\0\0") -> Prepared:
    prepared = Prepared()
    prepared.parsed(1, name, PreparedStatement(LOOK(sql.encode()), types))
    prepared.unit_done(1, failed=False)
    return prepared


def series(*parts: bytes) -> bytes:
    return b"".join([*parts, m.SYNC])


WHOLE = series(
    m.parse(SQL, types=[23]),
    m.bind(b"1", results=[1]),
    m.describe_portal(),
    m.execute(limit=3),
    m.close_portal(),
)


def test_what_is_read_of_a_unit() -> None:
    unit = unit_of(WHOLE)
    assert unit.raw == WHOLE
    assert unit.text is LOOK(SQL.encode())
    assert unit.types == b"\0\1\0\0\0\x17"
    assert unit.tail == b"\0\0\0\1\0\0\0\1" + b"1" + b"\0\1\0\1"
    assert (unit.parse, unit.describe, unit.close, unit.simple) == (True, PORTAL, True, False)
    assert unit.limit == b"\0\0\0\3"


def test_a_unit_cut_at_every_byte_needs_more() -> None:
    for cut in range(len(WHOLE)):
        assert read(WHOLE[:cut]) is Shape.MORE


SHAPES = [
    [m.parse(SQL), m.bind(b"1"), m.execute()],
    [m.parse(SQL), m.bind(b"1"), m.describe_portal(), m.execute(), m.close_portal()],
    [m.parse(SQL), m.bind(b"1"), m.describe_statement(), m.execute()],
    [m.parse(SQL), m.bind(None), m.execute(limit=1), m.close_portal()],
]


@pytest.mark.parametrize("parts", SHAPES, ids=lambda parts: m.kinds(b"".join(parts)))
def test_the_shapes_of_a_unit(parts: list[bytes]) -> None:
    data = series(*parts)
    assert unit_of(data).raw == data
    assert unit_of(data + m.TERMINATE).raw == data
    assert read(data + m.SYNC) is Shape.PIPELINE
    assert read(data + data) is Shape.PIPELINE
    assert read(data + m.TERMINATE[:3]) is Shape.PIPELINE


BIND, EXECUTE = m.bind(b"1"), m.execute()


@pytest.mark.parametrize(
    "parts",
    [
        [m.parse(SQL)],
        [m.parse(SQL, "named"), m.bind(b"1", statement="named"), EXECUTE],
        [m.parse(SQL), m.bind(b"1", statement="other"), EXECUTE],
        [m.parse(SQL), m.describe_statement()],
        [m.parse(SQL), m.describe_statement(), BIND, EXECUTE],
        [m.parse(SQL), BIND],
        [m.parse(SQL), BIND, BIND, EXECUTE],
        [m.parse(SQL), BIND, EXECUTE, EXECUTE],
        [m.parse(SQL), BIND, m.execute("other")],
        [m.parse(SQL), m.bind(b"1", portal="p"), m.describe_portal("p"), m.execute("p"), m.close_portal("p")],
        [m.parse(SQL), BIND, m.describe_portal("other"), EXECUTE],
        [m.parse(SQL), BIND, m.describe_statement("other"), EXECUTE],
        [m.parse(SQL), BIND, m.message(b"D", b"X\0"), EXECUTE],
        [m.parse(SQL), BIND, m.message(b"D"), EXECUTE],
        [m.parse(SQL), BIND, EXECUTE, m.close_statement()],
        [m.parse(SQL), BIND, EXECUTE, m.close_portal("other")],
        [m.parse(SQL), BIND, m.FLUSH, EXECUTE],
        [m.parse(SQL), BIND, m.message(b"E", b"\0\0\0")],
        [m.parse(RETURNING), m.message(b"B", b"\0\0\0\0\0\2"), m.describe_portal(), EXECUTE],
        [m.message(b"P", b"\0text without an end"), BIND, EXECUTE],
        [BIND, EXECUTE],
        [m.bind(b"1", statement="unknown"), EXECUTE],
        [EXECUTE],
        [],
    ],
    ids=lambda parts: m.kinds(b"".join(parts)),
)
def test_what_is_no_unit(parts: list[bytes]) -> None:
    assert read(series(*parts)) is Shape.OTHER


@pytest.mark.parametrize("length", [0, 3, -1, 2**31 - 1])
def test_lengths_that_lie(length: int) -> None:
    for before in (b"", m.parse(SQL), m.parse(SQL) + BIND):
        data = before + m.lying({0: b"P", 1: b"B"}.get(len(m.split(before)), b"E"), length)
        with pytest.raises(FramingError):
            read(data)


@pytest.mark.parametrize("name", ["", "s"])
def test_a_statement_that_was_prepared_before(name: str) -> None:
    prepared = with_statement(name.encode(), RETURNING, b"\0\1\0\0\0\x17")
    data = series(m.bind(b"1", statement=name), m.describe_statement(name), m.execute())
    unit = unit_of(data, prepared)
    assert (unit.text, unit.types) == (LOOK(RETURNING.encode()), b"\0\1\0\0\0\x17")
    assert (unit.parse, unit.describe) == (False, STATEMENT)


def test_a_unit_that_prepares_does_not_look_at_what_was_there() -> None:
    assert unit_of(series(m.parse(SQL), BIND, EXECUTE), with_statement(b"", RETURNING)).text is LOOK(SQL.encode())


def test_units_with_one_template_may_be_executed_together() -> None:
    spelled = unit_of(series(m.parse(SQL.replace("batch:5", "batch=7 file:x")), BIND, EXECUTE))
    assert spelled.template == unit_of(series(m.parse(SQL), m.bind(b"2"), EXECUTE)).template
    typed = unit_of(series(m.parse(SQL, types=[20]), BIND, EXECUTE))
    assert typed.template != spelled.template


def test_what_follows_a_query() -> None:
    raw = m.query(SQL)
    assert ends_here(raw, len(raw))
    assert ends_here(raw + m.TERMINATE, len(raw))
    assert not ends_here(raw + m.SYNC, len(raw))
    assert not ends_here(raw + m.TERMINATE + raw, len(raw))


# What has to be described, and the reply.


def simple(sql: str) -> Unit:
    return query(m.query(sql), LOOK(sql.encode()))


def test_what_has_to_be_described() -> None:
    assert simple("/* batch:5 */ insert into t values ('1')").asks() is None
    returning = simple("/* batch:5 */ insert into t values ('1') returning a")
    assert returning.asks() == Asked(PORTAL, returning.template, b"\0\0")
    assert unit_of(series(m.parse(RETURNING), BIND, EXECUTE)).asks() is None
    assert unit_of(series(m.parse(SQL), BIND, m.describe_portal(), EXECUTE)).asks() is None
    binary = unit_of(series(m.parse(RETURNING), m.bind(b"1", results=[1]), m.describe_portal(), EXECUTE))
    assert binary.asks() == Asked(PORTAL, binary.template, b"\0\1\0\1")
    statement = unit_of(series(m.parse(SQL), BIND, m.describe_statement(), EXECUTE))
    assert statement.asks() == Asked(STATEMENT, statement.template)


ROWS, TAG = m.notice("n") + m.data_row("1"), m.complete("INSERT 0 1")
DESCRIBED = m.row_description("a")


def test_the_reply_to_a_query() -> None:
    assert simple(SQL).reply(DESCRIBED, ROWS, TAG) == DESCRIBED + ROWS + TAG + m.ready()


@pytest.mark.parametrize(
    ("data", "described", "reply"),
    [
        (series(m.parse(SQL), BIND, EXECUTE), b"", "12NDCZ"),
        (series(m.parse(SQL), BIND, m.describe_portal(), EXECUTE), b"", "12nNDCZ"),
        (series(m.parse(RETURNING), BIND, m.describe_portal(), EXECUTE, m.close_portal()), DESCRIBED, "12TNDC3Z"),
        (series(BIND, EXECUTE, m.close_portal()), b"", "2NDC3Z"),
    ],
)
def test_the_reply_to_a_series(data: bytes, described: bytes, reply: str) -> None:
    found = unit_of(data, with_statement(b"")).reply(described, ROWS, TAG)
    assert m.kinds(found) == reply
    assert found.count(ROWS + TAG) == 1
    assert described in found

"""Generated writes, to be executed in two ways whose outcomes must be equal.

``schema`` makes the same tables under any name; ``writes`` gives statements that name them without it (set the
search_path), always the same ones for a seed; ``Outcome`` is what a client sees of one; ``contents`` is what all have
left behind. Half of the statements fail: how is part of the comparison.

The law of this module: it knows nothing of the proxy.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from psycopg import pq
from psycopg.pq.abc import PGresult

# Column type -> literals that it takes. All types are tried with the literals of all others, too.
LITERALS = {
    "int2": ["7", "-7", "32767", "-32768", "32768", "'7'", "' 8 '", "'32768'", "007"],
    "int4": ["70000", "-70000", "2147483647", "-2147483648", "2147483648", "'12'", "'1_000'", "- 5", "+5", "0x1F"],
    "int8": ["3000000000", "-3000000000", "9223372036854775807", "-9223372036854775808", "9223372036854775808"],
    "numeric": ["1.5", "-1.5", ".5", "5.", "1e5", "1e-05", "-1E3", "123456789012345678901234567890", "'NaN'", "1_000"],
    "numeric(5,2)": ["123.456", "1234.5", "-0.005", "'1.005'", "'1234.5'"],
    "float4": ["1.1", "1e39", "'1e39'", "'-Infinity'", "0.1", "16777217"],
    "float8": ["1.1", "1e308", "1e400", "1e-400", "'Infinity'", "'0.1'", "12345678901234567890"],
    "text": [
        "'x'",
        "''",
        "'it''s'",
        "E'a\\tb\\n\\\\'",
        "E'it\\'s'",
        "'é€😀'",
        "$$dollar 'x' $1$$",
        "$q$a$$b$q$",
        "'a\\b'",
    ],
    "varchar(3)": ["'abc'", "'abcd'", "'abc   '", "'é€😀'", "U&'\\0061b'", "E'\\x41'", "E'\\u00e9'", "12", "1234"],
    "char(4)": ["'ab'", "'ab  '", "'abcd  '", "'abcde'", "N'ab'"],
    "bool": ["true", "FALSE", "'t'", "'yes'", "'maybe'", "1", "'1'"],
    "date": ["'2020-02-29'", "'2021-02-29'", "'epoch'", "date '2020-01-01'", "'2020-01-01'::date", "'infinity'"],
    "timestamptz": ["'2020-01-01 00:00'", "'2020-01-01 00:00+02'", "timestamptz '2020-01-01'", "'yesterday'::date"],
    "timestamp(0)": ["'2020-01-01 00:00:00.6'", "'2020-01-01 00:00:00.4'::timestamp", "'10:00'"],
    "interval": ["'1 day'", "interval '1 day'", "'1'", "'PT1H'", "'1 day 2:03'::interval", "interval '1' year"],
    "interval(0)": ["'1.6'", "'00:00:01.4'"],
    "json": ["'{\"a\": 1}'", "'{\"a\": 1,}'", "'null'", "'[1]'::json", "'\"x\"'"],
    "jsonb": ['\'{"b": 1, "a": [true]}\'', "'{'", "'5'", '\'{"a": "é"}\'::jsonb'],
    "bytea": ["'\\x00ff'", "'\\xzz'", "E'\\\\x00ff'", "'\\000'", "'abc'"],
    "int4[]": ["'{1,2}'", "ARRAY[1,2]", "ARRAY[1, 2.5]", "'{1,x}'", "ARRAY['1','2']", "'{}'::int[]", "ARRAY[]::int[]"],
    "text[]": ["'{a,\"b c\"}'", "ARRAY['a','it''s']", "ARRAY[1,2]", "ARRAY['a', NULL]", "'{a'"],
    "uuid": ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "'a0eebc999c0b4ef8bb6d6bb9bd380a11'::uuid", "'a0'"],
    "mood": ["'sad'", "'happy'", "'glad'", "'sad'::mood"],
    "small": ["5", "10", "'5'", "'10'", "5::small", "'5'::small"],
    "short": ["'ab'", "'abcde'", "'x'", "'ab  '"],
    "bit(3)": ["B'101'", "'101'", "'10'", "X'5'"],
    "inet": ["'127.0.0.1'", "'127.0.0.1/8'::inet", "'300.0.0.1'"],
}
ANYWHERE = ["NULL", "DEFAULT", "1", "'1'", "'x'", "2.5", "NULL::text"]
EXPRESSIONS = [
    "1 + 1", "2 * 3.5", "-(5)", "7 / 0", "1 - -1", "'a' || 'b'", "length('abc')", "round(2.567, 2)", "repeat('x', 3)",
    "(SELECT 5)", "(5)", "CAST('5' AS int)", "CAST(5 AS text)", "5::int8", "-5::int2", "'5'::varchar(2)", "1 = 1",
    "CASE WHEN true THEN 1 ELSE 2 END", "coalesce(NULL, 'x')", "'a'\n'b'", "to_char(1234, '9G999')", "abs(-3)",
    "lower('ABC')", "'2020-01-01'::date + 5", "interval '1 day' * 2", "ROW(1, 'x')", "'x' COLLATE \"C\"",
    "array_length(ARRAY[1,2], 1)",
]  # fmt: skip
#: A table has this many rows to meet.
IDS = 12


class Outcome(NamedTuple):
    """What a client sees of one statement: its rows (sorted: their order is not defined), its tag, its SQLSTATE."""

    rows: tuple[tuple[bytes | None, ...], ...]
    tag: bytes
    sqlstate: bytes | None


def outcome(result: PGresult) -> Outcome:
    """The outcome of a libpq call."""
    if result.status == pq.ExecStatus.FATAL_ERROR:
        return Outcome((), b"", result.error_field(pq.DiagnosticField.SQLSTATE))
    rows = [tuple(result.get_value(r, c) for c in range(result.nfields)) for r in range(result.ntuples)]
    return Outcome(tuple(sorted(rows, key=repr)), result.command_status or b"", None)


def schema(name: str) -> list[str]:
    """The statements that make the types and tables under this name, and set the search_path to it."""
    tables = [
        f"CREATE TABLE {_table(number)} (id int PRIMARY KEY, v {kind}, w text DEFAULT 'w', CHECK (w <> 'bad'))"
        for number, kind in enumerate(LITERALS)
    ]
    return [
        f"CREATE SCHEMA {name}",
        f"SET search_path = {name}",
        "CREATE TYPE mood AS ENUM ('sad', 'happy')",
        "CREATE DOMAIN small AS int CHECK (value < 10)",
        "CREATE DOMAIN short AS varchar(4) CHECK (length(value) > 1)",
        *tables,
    ]


def contents() -> str:
    """A query for all rows of all tables in the search_path."""
    tables = (f"SELECT {number}, id, v::text, w FROM {_table(number)}" for number in range(len(LITERALS)))
    return " UNION ALL ".join(tables) + " ORDER BY 1, 2"


def writes(seed: int, count: int) -> Iterator[str]:
    """``count`` statements without hints, each of which is one write."""
    chance = random.Random(seed)
    types = list(LITERALS)
    everything = sorted({literal for literals in LITERALS.values() for literal in literals} | set(ANYWHERE))
    for _ in range(count):
        number = chance.randrange(len(types))
        pool = [LITERALS[types[number]]] * 6 + [everything, ANYWHERE, EXPRESSIONS]
        yield _write(chance, _table(number), [chance.choice(chance.choice(pool)) for _ in range(3)])


def _write(chance: random.Random, table: str, literals: list[str]) -> str:
    a, b, c = literals
    conflict = "ON CONFLICT (id) DO UPDATE SET"
    i, j = chance.randrange(IDS), chance.randrange(IDS)
    w = chance.choice(["'x'", "'it''s'", "'bad'", "DEFAULT", "NULL", "lower('X')", "5", "E'\\n'"])
    x = "'x'" if w == "DEFAULT" else w
    return chance.choice(
        [
            f"INSERT INTO {table} (id, v) VALUES ({i}, {a})",
            f"INSERT INTO {table} (id, v) VALUES ({i}, {a})",
            f"INSERT INTO {table} (id, v, w) VALUES ({i}, {a}, {w}) RETURNING id, v, w",
            f"insert into {table} values({i},{a},{w})",
            f"INSERT INTO {table} VALUES ({i}, {a})",
            f"INSERT INTO {table} (id, v) VALUES ({i}, {a}), ({j}, {b})",
            f"INSERT INTO {table} (id, v) VALUES ({i}, {a}) {conflict} v = {b}, w = {w}",
            f"INSERT INTO {table} (id, v) VALUES ({i}, {a}) ON CONFLICT DO NOTHING RETURNING v, 'literal', {j}",
            f"INSERT INTO {table} AS t VALUES ({i}, {a}) {conflict} v = excluded.v WHERE t.id > {j}",
            f"INSERT INTO {table} (id, v, w) SELECT {i}, {a}, {x}",
            f"INSERT INTO {table} (id, v) VALUES ({i}, {a}) ORDER BY 1 LIMIT 1",
            f"UPDATE {table} SET v = {a} WHERE id = {i}",
            f"UPDATE {table} SET v = {a}, w = {w} WHERE id = {i} RETURNING *",
            f"UPDATE {table} SET w = {w} WHERE v = {b}",
            f"UPDATE {table} SET w = {w} WHERE v IN ({a}, {b}, {c}) AND id <> {j}",
            f"UPDATE {table} SET v = v + {a} WHERE id = {i}",
            f"UPDATE {table} SET v = {a} - v WHERE {j} <= id AND NOT id > {i}",
            f"UPDATE {table} AS t SET (v, w) = ({a}, {x}) WHERE t.id = {i}",
            f"UPDATE {table} SET v = {a} WHERE id BETWEEN {i} AND {j} OR w LIKE 'x%'",
            f"UPDATE {table} SET v[1] = {a} WHERE id={i}",
            f"DELETE FROM {table} WHERE id = {i}",
            f"DELETE FROM {table} WHERE v = {a} OR w = {x} RETURNING id, v",
            f"DELETE FROM {table} WHERE v > {a} AND id in ({i},{j})",
            f"DELETE FROM {table} WHERE id = ANY('{{{i},{j}}}') AND v IS DISTINCT FROM {a}",
            f"WITH n AS (SELECT {i} AS id, {a} AS v) UPDATE {table} AS t SET w = 'm' FROM n WHERE t.id = n.id",
            f"MERGE INTO {table} AS t USING (VALUES ({i})) n(id) ON t.id = n.id WHEN MATCHED THEN UPDATE SET v = {a}",
        ]
    )


def _table(number: int) -> str:
    return f"t{number}"

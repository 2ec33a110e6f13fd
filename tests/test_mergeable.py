"""Which inserts can be taken apart, and what many rows of them look like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tqdbproxy.postgres.mergeable import Mergeable, mergeable
from tqdbproxy.postgres.sql import parse


def apart(text: str | bytes) -> Mergeable | None:
    return mergeable(text if isinstance(text, bytes) else text.encode(), parse)


# An insert, its table, and the same with two rows.
PLAIN = [
    ("INSERT INTO t VALUES ($1)", '"t"', "INSERT INTO t VALUES ($1), ($2)"),
    ("insert into t values($1,$2)", '"t"', "insert into t values($1,$2), ($3,$4)"),
    ("INSERT INTO T (b, a) VALUES ($2, $1)", '"t"', "INSERT INTO T (b, a) VALUES ($2, $1), ($4, $3)"),
    ('INSERT INTO "T ""x" VALUES ($1)', '"T ""x"', 'INSERT INTO "T ""x" VALUES ($1), ($2)'),
    ("INSERT INTO s.t AS x VALUES ($1)", '"s"."t"', "INSERT INTO s.t AS x VALUES ($1), ($2)"),
    ("INSERT INTO é VALUES ($1)", '"é"', "INSERT INTO é VALUES ($1), ($2)"),
    ("INSERT INTO t VALUES ($1, $1, $2)", '"t"', "INSERT INTO t VALUES ($1, $1, $2), ($3, $3, $4)"),
    ("INSERT INTO t VALUES ($1, DEFAULT, NULL, 5, 'x')", '"t"',
     "INSERT INTO t VALUES ($1, DEFAULT, NULL, 5, 'x'), ($2, DEFAULT, NULL, 5, 'x')"),
    ("INSERT INTO t VALUES ($1::int, CAST($2 AS text))", '"t"',
     "INSERT INTO t VALUES ($1::int, CAST($2 AS text)), ($3::int, CAST($4 AS text))"),
    ("INSERT INTO t VALUES (now(), pg_catalog.lower($1), ARRAY[$2, 'x'])", '"t"',
     "INSERT INTO t VALUES (now(), pg_catalog.lower($1), ARRAY[$2, 'x']), "
     "(now(), pg_catalog.lower($2), ARRAY[$3, 'x'])"),
    ("INSERT INTO t (\"values (\") VALUES ($1, 'values ($1)')", None, None),
    ("INSERT INTO t (\"values (\") /* values ( */ VALUES ($1)", '"t"',
     "INSERT INTO t (\"values (\") /* values ( */ VALUES ($1), ($2)"),
    ("INSERT INTO t VALUES\n  (\n $1 )  ", '"t"', "INSERT INTO t VALUES\n  (\n $1 )  , (\n $2 )  "),
]  # fmt: skip


@pytest.mark.parametrize(("text", "table", "two"), PLAIN)
def test_many_rows(text: str, table: str | None, two: str | None) -> None:
    found = apart(text)
    if table is None or two is None:
        assert found is None
        return
    assert found is not None
    assert found.table == table.encode()
    assert found.rows(1) == text.encode()
    if "ARRAY" not in text:
        assert found.rows(2) == two.encode()


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO t VALUES (1)",
        "INSERT INTO t DEFAULT VALUES",
        "INSERT INTO t VALUES ($1), ($2)",
        "INSERT INTO t VALUES ($2)",
        "INSERT INTO t VALUES ($1) RETURNING a",
        "INSERT INTO t VALUES ($1) ON CONFLICT DO NOTHING",
        "INSERT INTO t OVERRIDING SYSTEM VALUE VALUES ($1)",
        "WITH x AS (SELECT 1) INSERT INTO t VALUES ($1)",
        "INSERT INTO t SELECT $1::int",
        "INSERT INTO t VALUES ($1) UNION VALUES ($2)",
        "INSERT INTO t VALUES ($1) ORDER BY 1",
        "INSERT INTO t VALUES ($1) LIMIT 1",
        "INSERT INTO t VALUES ((SELECT $1::int))",
        "INSERT INTO t VALUES ($1 + 1)",
        "INSERT INTO t VALUES (mine($1))",
        "INSERT INTO t VALUES (my.now(), $1)",
        "INSERT INTO t VALUES (currval('s'), $1)",
        "INSERT INTO t VALUES (CASE WHEN $1 THEN 1 END)",
        "INSERT INTO t VALUES ($1) -- a comment",
        "INSERT INTO t VALUES ($1);",
        "INSERT INTO t VALUES ($1); INSERT INTO t VALUES ($2)",
        "INSERT INTO d.s.t VALUES ($1)",
        'INSERT INTO "a\\b" VALUES ($1)',
        "UPDATE t SET a = $1",
        "SELECT $1",
        "INSERT INTO t VALUES ($1",
        "values (",
        "",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    assert apart(text) is None


def test_names_are_in_the_encoding_of_the_text() -> None:
    """In LATIN1 the name of the table in the guard has the client's bytes, too."""
    found = apart("INSERT INTO é VALUES ($1)".encode("latin-1"))
    assert found is not None
    assert found.table == '"é"'.encode("latin-1")
    assert found.rows(2) == "INSERT INTO é VALUES ($1), ($2)".encode("latin-1")


VALUES = st.sampled_from(["$1", "$2", "$3", "5", "'x'", "'values ($1)'", "NULL", "DEFAULT", "$1::text", "lower($2)"])


@given(st.lists(VALUES, min_size=1, max_size=6), st.integers(1, 5))
def test_rows_are_numbered_on(values: list[str], count: int) -> None:
    text = f"INSERT INTO t VALUES ({', '.join(values)})"
    found = apart(text)
    if found is None:
        return
    tree = parse(found.rows(count))[0]
    rows = tree[0]["stmt"]["InsertStmt"]["selectStmt"]["SelectStmt"]["valuesLists"]
    single = parse(text.encode())[0][0]["stmt"]["InsertStmt"]["selectStmt"]["SelectStmt"]["valuesLists"][0]
    assert len(rows) == count
    for number, row in enumerate(rows):
        assert numbers(row) == [n + number * found.parameters for n in numbers(single)]


def numbers(tree: object) -> list[int]:
    """The numbers of the parameters in a tree."""
    if isinstance(tree, list):
        return [number for item in tree for number in numbers(item)]
    if not isinstance(tree, dict):
        return []
    return [tree["ParamRef"].get("number", 0)] if "ParamRef" in tree else numbers(list(tree.values()))


@given(st.text(max_size=60))
def test_nothing_raises(noise: str) -> None:
    apart("INSERT INTO t VALUES (" + noise)
    apart(noise)

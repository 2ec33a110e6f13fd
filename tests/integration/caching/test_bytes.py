"""Every byte that a client gets is the server's, whether the answer was fetched, kept, or found by its exact bytes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from tests.integration.caching.places import Place, backend, cached
from tests.integration.wire import FLUSH, SYNC, Frame, Wire, bind, close, describe, execute, kinds, parse, query

Unit = Sequence[bytes]
"""Messages that are sent at once. They end with a Query or a Sync."""

TABLE = (
    "CREATE TABLE t (k int PRIMARY KEY, n int, x text, f float8, b bytea, d timestamptz, a int[], j jsonb, m numeric)",
    "INSERT INTO t SELECT i, nullif(i, 3), repeat(chr(8360 + i), i), i / 7.0, decode(repeat('00ff', i), 'hex'),"
    " '2026-11-20 10:00+00'::timestamptz + i * '1 day'::interval, ARRAY[i, NULL, i], jsonb_build_object('é', i),"
    " i / 3.0 FROM generate_series(1, 9) i",
)
ALL = "SELECT * FROM t ORDER BY k"
INT, TEXT, FLOAT = 23, 25, 701


def extended(
    text: str, *values: str | bytes | None, describes: str = "P", types: Sequence[int] = (), **more: Any
) -> Unit:
    asks = [] if not describes else [describe(what=describes)]
    return [parse(text, types=types), bind(*values, **more), *asks, execute(), SYNC]


def named(*values: str | bytes | None, describes: str = "", limit: int = 0, name: str = "s", **more: Any) -> Unit:
    asks = [] if not describes else [describe(name if describes == "S" else "", describes)]
    return [bind(*values, name=name, **more), *asks, execute(limit=limit), SYNC]


def prepare(text: str, name: str = "s", types: Sequence[int] = ()) -> Unit:
    return [parse(text, name, types), describe(name, "S"), SYNC]


def simple(text: str) -> Unit:
    return [query(text)]


WIDE = "SELECT " + ", ".join(f"{number} AS c{number}" for number in range(1000))
HIT, FORWARDED = "cache", "primary"

# What is asked, after what; and where the last answer comes from when the same is asked again.
CASES: dict[str, tuple[str, list[Unit]]] = {
    "simple": (HIT, [simple(cached(ALL))]),
    "simple, semicolon": (HIT, [simple(cached(ALL) + " ; ")]),
    "no rows": (HIT, [simple(cached("SELECT k FROM t WHERE k > 100"))]),
    "no columns": (HIT, [simple(cached("SELECT FROM t"))]),
    "no columns, extended": (HIT, [extended(cached("SELECT FROM t"))]),
    "values": (HIT, [simple(cached("VALUES (1, 'a'), (2, NULL)"))]),
    "table": (HIT, [simple(cached("TABLE t"))]),
    "1000 columns": (HIT, [simple(cached(WIDE))]),
    "1000 columns, binary": (HIT, [extended(cached(WIDE), results=[1])]),
    "wide": (HIT, [simple(cached("SELECT repeat('x', 200000), repeat('é', 100000) FROM generate_series(1, 2)"))]),
    "many rows": (HIT, [simple(cached("SELECT i, i::text FROM generate_series(1, 20000) i"))]),
    "no nulls but nulls": (HIT, [simple(cached("SELECT NULL, NULL::int, '' FROM t"))]),
    "unicode": (HIT, [simple(cached("SELECT 'naïve 😀', x AS \"Größe\" FROM t ORDER BY k"))]),
    "hint at the end": (HIT, [simple("SELECT 1 AS one FROM t /* ttl:600 */")]),
    "with": (
        HIT,
        [simple(cached("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 9) TABLE r"))],
    ),
    "extended": (HIT, [extended(cached(ALL))]),
    "extended, not described": (HIT, [extended(cached(ALL), describes="")]),
    "extended, unnamed described": (HIT, [prepare(cached(ALL), ""), named(name="", describes="S")]),
    "extended, parameters": (HIT, [extended(cached("SELECT * FROM t WHERE k = $1 OR x = $2"), "3", None)]),
    "extended, declared": (HIT, [extended(cached("SELECT $1 + 1, $2"), "3", "x", types=[INT, TEXT])]),
    "extended, binary": (
        HIT,
        [extended(cached("SELECT * FROM t WHERE k = $1"), b"\0\0\0\4", types=[INT], formats=[1], results=[1])],
    ),
    "extended, mixed": (
        HIT,
        [
            extended(
                cached("SELECT k, k, x FROM t WHERE k > $1 AND x > $2"),
                b"\0\0\0\4",
                "a",
                types=[INT, TEXT],
                formats=[1, 0],
                results=[0, 1, 0],
            )
        ],
    ),
    "extended, binary everything": (HIT, [extended(cached(ALL), results=[1])]),
    "closed": (HIT, [[*extended(cached(ALL))[:-1], close("", "P"), SYNC]]),
    "row limit": (HIT, [[parse(cached(ALL)), bind(), describe(), execute(limit=3), SYNC]]),
    "row limit of all": (HIT, [[parse(cached(ALL)), bind(), execute(limit=9), SYNC]]),
    "row limit of one more": (HIT, [[parse(cached(ALL)), bind(), execute(limit=10), SYNC]]),
    "named": (HIT, [prepare(cached("SELECT * FROM t WHERE k = $1")), named("3"), named("3")]),
    "named, described": (
        HIT,
        [prepare(cached("SELECT * FROM t WHERE k = $1")), named("3", describes="P", results=[1])],
    ),
    "named, statement described": (HIT, [prepare(cached("SELECT * FROM t WHERE k = $1")), named("3", describes="S")]),
    "named, row limit": (HIT, [prepare(cached(ALL)), named(limit=2), named(limit=2), named()]),
    "named, two": (
        HIT,
        [prepare(cached("SELECT 1 AS a")), prepare(cached("SELECT 2 AS b"), "s2"), named(), named(name="s2"), named()],
    ),
    "named, another described": (
        FORWARDED,
        [
            prepare(cached("SELECT 1 AS a")),
            prepare(cached("SELECT 2 AS b"), "s2"),
            named(),
            named(describes="S"),
            [bind(name="s2"), describe("s", "S"), execute(), SYNC],
        ],
    ),
    "named by another name": (
        HIT,
        [prepare(cached("SELECT 1 AS a"), "long name"), named(name="long name"), named(name="long name")],
    ),
    "named, described wrongly": (
        FORWARDED,
        [prepare(cached("SELECT 1 AS a")), named(), [bind(name="s"), describe("none", "P"), execute(), SYNC]],
    ),
    "named portal": (FORWARDED, [[parse(cached(ALL)), bind(portal="p"), describe("p"), execute("p"), SYNC]]),
    "named portal, taken": (
        FORWARDED,
        [simple("DECLARE p CURSOR WITH HOLD FOR SELECT 1"), [parse(cached(ALL)), bind(portal="p"), execute("p"), SYNC]],
    ),
    "named, of another portal": (
        FORWARDED,
        [
            prepare(cached("SELECT 1 AS a")),
            [bind(name="s", portal="p"), describe("p"), execute("p"), SYNC],
            [bind(name="s", portal="p"), describe("p"), execute(), SYNC],
        ],
    ),
    "unnamed again": (HIT, [extended(cached(ALL)), named(name=""), named(name="", limit=4)]),
    "unnamed is a query's victim": (FORWARDED, [extended(cached(ALL)), simple(cached(ALL)), named(name="")]),
    "unnamed described after": (HIT, [extended(cached(ALL)), [describe(what="S"), SYNC], [describe(), SYNC]]),
    "unnamed closed after": (FORWARDED, [extended(cached(ALL)), [close(""), SYNC], named(name="")]),
    "unnamed replaced": (FORWARDED, [extended(cached(ALL)), extended("SELECT 5"), named(name="")]),
    "unnamed, then a hit, then the old one": (HIT, [extended("SELECT 5"), extended(cached(ALL)), named(name="")]),
    "error": (FORWARDED, [simple(cached("SELECT 1 / (k - k) FROM t"))]),
    "error in the last row": (FORWARDED, [simple(cached("SELECT 1 / (9 - k) FROM t ORDER BY k"))]),
    "syntax error": (FORWARDED, [simple(cached("SELECT FROM FROM t"))]),
    "no such table": (FORWARDED, [simple(cached("SELECT * FROM nowhere")), extended(cached("SELECT * FROM nowhere"))]),
    "wrong parameters": (
        FORWARDED,
        [extended(cached("SELECT $1::int"), "x"), extended(cached("SELECT $1::int"), "1", "2")],
    ),
    "no statement": (FORWARDED, [named(name="none")]),
    "in a transaction": (FORWARDED, [simple(cached(ALL)), simple("BEGIN"), simple(cached(ALL)), extended(cached(ALL))]),
    "in a failed transaction": (
        FORWARDED,
        [simple(cached(ALL)), simple("BEGIN"), simple("SELECT 1/0"), simple(cached(ALL))],
    ),
    "two statements": (FORWARDED, [simple(cached(ALL) + "; SELECT 1")]),
    "nothing": (FORWARDED, [simple("/* ttl:600 */"), simple("/* ttl:600 */ ;")]),
    "explain": (FORWARDED, [simple(cached("EXPLAIN (COSTS off) SELECT 1"))]),
    "a notice": (FORWARDED, [simple(cached("SELECT tell(k) FROM t"))]),
    "a warning of the parser": (
        FORWARDED,
        [
            simple("SET escape_string_warning = on"),
            simple("SET standard_conforming_strings = off"),
            simple(cached("SELECT 'a\\\\b'")),
        ],
    ),
    "pipeline": (FORWARDED, [[*extended(cached(ALL)), *extended(cached("SELECT 2"))]]),
    "pipeline of queries": (FORWARDED, [[*simple(cached(ALL)), *simple(cached("SELECT 2"))]]),
    "flushed": (FORWARDED, [[parse(cached(ALL)), FLUSH, bind(), FLUSH, describe(), execute(), FLUSH, SYNC]]),
    "two executes": (FORWARDED, [[parse(cached(ALL)), bind(), execute(limit=2), execute(), SYNC]]),
    "two binds": (FORWARDED, [[parse(cached(ALL)), bind(), execute(), bind(), execute(), SYNC]]),
    "described first": (FORWARDED, [[parse(cached(ALL)), describe(what="S"), bind(), execute(), SYNC]]),
    "date style": (
        HIT,
        [simple(cached("SELECT d FROM t")), simple("SET DateStyle = 'German'"), simple(cached("SELECT d FROM t"))],
    ),
    "time zone": (
        HIT,
        [simple(cached("SELECT d FROM t")), simple("SET TimeZone = 'Asia/Tokyo'"), simple(cached("SELECT d FROM t"))],
    ),
    "float digits": (
        HIT,
        [
            simple(cached("SELECT f FROM t")),
            simple("SET extra_float_digits = -3"),
            simple(cached("SELECT f FROM t")),
            simple("RESET extra_float_digits"),
            simple(cached("SELECT f FROM t")),
        ],
    ),
    "bytea output": (
        HIT,
        [simple(cached("SELECT b FROM t")), simple("SET bytea_output = 'escape'"), simple(cached("SELECT b FROM t"))],
    ),
    "client encoding": (
        FORWARDED,
        [
            simple("SET client_encoding = 'UTF8'"),
            simple(cached("SELECT x FROM t")),
            simple("SET client_encoding = 'LATIN1'"),
            simple(cached("SELECT x FROM t")),
        ],
    ),
    "latin 1": (HIT, [simple("SET client_encoding = 'LATIN1'"), simple(cached("SELECT chr(233), 'a'"))]),
}


def talk(wire: Wire, units: Sequence[Unit]) -> list[list[Frame]]:
    """What is said to each unit, up to the last ReadyForQuery; statements are forgotten and settings reset then."""
    told = []
    for unit in units:
        wire.send(*unit)
        told.append(wire.until(count=sum(one[:1] in (b"S", b"Q") for one in unit)))
    return told


def tidy(wire: Wire) -> None:
    wire.ask(query("ROLLBACK"))
    wire.ask(query("DEALLOCATE ALL"))
    wire.ask(query("RESET ALL"))


@pytest.fixture
def place(place: Place) -> Place:
    """With what is asked for."""
    place.do(
        *TABLE,
        "CREATE FUNCTION tell(k int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'k %', k; RETURN k; END $$",
    )
    return place


@pytest.mark.parametrize("name", CASES)
def test_said_once_directly_and_three_times_through_the_proxy(place: Place, name: str) -> None:
    lane, units = CASES[name]
    direct = place.direct()
    truth = [talk(direct, units)]
    tidy(direct)
    truth.append(talk(direct, units))
    first, second = place.session(), place.session()
    said = [talk(first, units), talk(second, units)]
    assert said == [truth[0], truth[0]]
    tidy(second)
    assert talk(second, units) == truth[1]
    if truth[1][-1][-1].body == b"I":
        assert backend(second) == lane
    tidy(second)
    assert talk(second, units) == truth[1], "by exact bytes"


TEXTS = [
    cached(ALL), cached("SELECT k, x FROM t WHERE k > 7"), cached("SELECT 1 / (k - 3) FROM t"),
    cached("SELECT d FROM t"),
    "SELECT 1", "BEGIN", "COMMIT", "ROLLBACK", "SET DateStyle = 'German'", "RESET ALL", "SELECT 1/0", "DEALLOCATE ALL",
    cached("SELECT count(*) FROM t", "tags:a"), cached("SELECT count(*) FROM t"), "SET LOCAL TimeZone = 'CET'", "",
    "DISCARD ALL", "DISCARD ALL", "SET TimeZone = 'CET'", "COMMIT", "ROLLBACK",
]  # fmt: skip
PARSED = [
    cached("SELECT * FROM t WHERE k = $1"), cached("SELECT $1::int + 1"), "SELECT $1::int", cached("SELECT x, $1::int"),
    cached("SELECT 1 / ($1 - 3)"), cached("SELECT d, $1::int FROM t"), "SELECT * FROM t WHERE k < $1",
]  # fmt: skip


def random_unit(chance: random.Random) -> Unit:
    """Something that a client could say; much of it asks for what is kept."""
    name = chance.choice(["", "", "s1", "s2"])
    value = str(chance.randrange(1, 4))
    result = [chance.randrange(2)]
    limit = chance.choice([0, 0, 0, 2])
    pieces: list[Unit] = [
        [query(chance.choice(TEXTS))],
        [query(chance.choice(TEXTS[:4]))],
        [
            parse(chance.choice(PARSED), types=[INT]),
            bind(value, results=result),
            describe(),
            execute(limit=limit),
            SYNC,
        ],
        [parse(chance.choice(PARSED), types=[INT]), bind(value), execute(), SYNC],
        [parse(chance.choice(PARSED), name, [INT]), describe(name, "S"), SYNC],
        [close(name), parse(chance.choice(PARSED), name, [INT]), SYNC],
        [bind(value, name=name, results=result), execute(limit=limit), SYNC],
        [bind(value, name=name), describe(), execute(), SYNC],
        [bind(value, name=name), describe(chance.choice(["", "s1", "s2"]), "S"), execute(), SYNC],
        [bind(value, name=name), bind(value, name=name, portal="p"), execute(limit=1), execute("p"), SYNC],
        [bind(value, name=name), execute(), close("", "P"), SYNC],
        [close(name), SYNC],
        [describe(name, "S"), SYNC],
        [SYNC],
        [bind("x", name=name), execute(), SYNC],
    ]
    unit = chance.choice(pieces)
    return [*unit, *random_unit(chance)] if chance.random() < 0.1 else unit


def send_in_pieces(wire: Wire, data: bytes, chance: random.Random) -> None:
    """As the network may cut it."""
    if chance.random() < 0.1:
        wire.dribble(data)
    else:
        cut = chance.randrange(len(data))
        wire.send(data[:cut])
        wire.send(data[cut:])


def conversation(place: Place, seed: int) -> int:
    """One, directly and through the proxy, where another one says much of it, too; how many answers were kept ones."""
    chance = random.Random(seed)
    direct, proxied, other = place.direct(), place.session(), place.session()
    hits = 0
    for number in range(60):
        unit = random_unit(chance)
        ends = sum(one[:1] in (b"S", b"Q") for one in unit)
        direct.send(*unit)
        truth = direct.until(count=ends)
        send_in_pieces(proxied, b"".join(unit), chance)
        assert proxied.until(count=ends) == truth, (seed, number, unit)
        if chance.random() < 0.3:
            other.send(*unit)
            other.until(count=ends)
        if truth[-1].body == b"I" and kinds(truth) != "Z":
            hits += backend(proxied).startswith("cache")
    return hits


@pytest.mark.parametrize("number", range(5))
def test_whatever_is_said(place: Place, number: int) -> None:
    hits = sum(conversation(place, 10 * number + seed) for seed in range(10))
    assert hits > 30


def test_a_bind_that_lies_about_its_length(place: Place) -> None:
    """Its other bytes are those of a question whose answer is kept; the server's words come all the same."""
    wire = place.session()
    talk(wire, [prepare(cached("SELECT 1 AS a")), named(), named()])
    assert backend(wire) == "cache"
    right = b"".join(named())
    length = int.from_bytes(right[1:5], "big")
    wire.send(right[:1], (length + 5).to_bytes(4, "big"), right[5:])
    assert wire.receive().kind == "E"


def test_a_bind_with_a_describe_of_another_statement(place: Place) -> None:
    """Elsewhere the same bytes mean a Bind with a Describe of its own statement."""
    one, two, direct = place.session(), place.session(), place.direct()
    first, second = cached("SELECT 1 AS a"), cached("SELECT 2 AS b")
    asked = [bind(name="s"), describe("s", "S"), execute(), SYNC]
    talk(one, [simple(cached("SELECT 0")), prepare(second), asked, asked])
    assert backend(one) == "cache"
    both = [prepare(first), prepare(second, "s2"), named(), [bind(name="s2"), describe("s", "S"), execute(), SYNC]]
    assert talk(two, both) == talk(direct, both)


def test_a_table_altered_since_the_statement_was_described(place: Place) -> None:
    """The server refuses a plan whose columns have changed; what another one got, who prepared it anew, is kept."""
    old, new, direct = place.session(), place.session(), place.direct()
    text = cached("SELECT * FROM t WHERE k = 1")
    for wire in (old, direct):
        talk(wire, [prepare(text), named()])
    talk(new, [simple("ALTER TABLE t ADD z text DEFAULT 'new'"), prepare(text), named()])
    assert talk(old, [named()]) == talk(direct, [named()])

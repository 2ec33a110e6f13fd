"""What texts purge that the parser isn't asked for, that it can't read, or that aren't what they seem."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tqdbproxy.core.caching import EVERY_TAG
from tqdbproxy.core.statement import Kind, Reason
from tqdbproxy.postgres.effects import Change
from tqdbproxy.postgres.relations import EVERYTHING, EVERYWHERE, changed_by, depended_on, purged_by
from tqdbproxy.postgres.sql import PLAIN, Purging, Text, Texts, parse

OF_B = ("table:b",)
CATALOGUE = "table:?pg"
ROWS = "(1, 'with; what')," * 3000 + "(1, 'x')"


def look(text: str | bytes, purging: Purging = Purging.ALL) -> Text:
    return Texts(purging=purging).look(text if isinstance(text, bytes) else text.encode())


def test_everything_is_what_every_answer_carries() -> None:
    assert EVERYTHING == (EVERY_TAG,)


@pytest.mark.parametrize(
    ("text", "purges"),
    [
        # spellings of a name
        ('INSERT INTO "a.B" VALUES (1)', ("table:a.B",)),
        ('INSERT INTO s . "a.B" VALUES (1)', ("table:s.a.B", "table:?.a.B")),
        ('DELETE FROM "say ""b"""', ('table:say "b"',)),
        ("UPDATE db.s.b SET x = 1", ("table:s.b", "table:?.b")),
        ('INSERT INTO U&"\\0062" VALUES (1)', OF_B),
        ('DELETE FROM U&"b"', OF_B),
        ("DELETE FROM " + "b" * 70, ("table:" + "b" * 63,)),
        ("INSERT INTO größe VALUES (1)", ("table:größe", "table:?")),
        ("INSERT INTO größe VALUES (1)".encode("latin-1"), ("table:größe", "table:?")),
        ("INSERT INTO s.表 VALUES (1)", ("table:s.表", "table:?.表", "table:?")),
        ("UPDATE ONLY b SET x = 1", OF_B),
        ("UPDATE ONLY (b) SET x = 1", OF_B),
        ("UPDATE b* SET x = 1", OF_B),
        ("UPDATE b SET x = 1", OF_B),
        ("DELETE FROM b*", OF_B),
        ("DELETE FROM b;", OF_B),
        ("DELETE\n\tFROM\f\vb", OF_B),
        ('UPDATE b"alias" SET x = 1', OF_B),
        # comments between words and within a name
        ("INSERT -- a\n INTO /* b */ b /* c */ VALUES (1)", OF_B),
        ("UPDATE a -- x\n . b SET x = 1", ("table:a.b", "table:?.b")),
        ("DELETE FROM a . -- x\n b", ("table:a.b", "table:?.b")),
        ("-- DELETE FROM a\nDELETE FROM b", OF_B),
        ("/* DELETE FROM a; */ DELETE FROM b", OF_B),
        # what follows a name
        ("INSERT INTO b AS x VALUES (1)", OF_B),
        ('INSERT INTO b ("a) values", "b""") VALUES (1, 2)', OF_B),
        ("INSERT INTO b DEFAULT VALUES", OF_B),
        ("INSERT INTO b OVERRIDING SYSTEM VALUE VALUES (1)", OF_B),
        ("INSERT INTO b (SELECT 1)", OF_B),
        ("INSERT INTO b TABLE c", OF_B),
        ("INSERT INTO b (x) WITH w AS (SELECT 1) SELECT * FROM w", OF_B),
        ("INSERT INTO b (x) WITH w AS (DELETE FROM c RETURNING *) SELECT * FROM w", ("table:b", "table:c")),
        (
            'INSERT INTO b ("a) values", x) WITH w AS (DELETE FROM c RETURNING *) SELECT * FROM w',
            ("table:b", "table:c"),
        ),
        (
            "INSERT INTO b (a -- ) values\n, x) WITH w AS (DELETE FROM c RETURNING *) SELECT * FROM w",
            ("table:b", "table:c"),
        ),
        # where literals hold what looks like statements
        ("INSERT INTO b VALUES ('; DELETE FROM c')", OF_B),
        ("INSERT INTO b VALUES (E'\\'; DELETE FROM c --')", OF_B),
        ("INSERT INTO b VALUES ($$'; DELETE FROM c$$)", OF_B),
        ("INSERT INTO b VALUES ('--'); DELETE FROM c", ("table:b", "table:c")),
        ("INSERT INTO b VALUES ($x$ $$ $x$); DELETE FROM c -- ;", ("table:b", "table:c")),
        ("SELECT 'into'", ()),
        ("SELECT 'a;b'", ()),
        # too long for the parser
        (f"INSERT INTO s.b (x, y) VALUES {ROWS}", ("table:s.b", "table:?.b")),
        (f"/* file:a.py */ INSERT INTO b VALUES {ROWS}", OF_B),
        (f"/* batch:5 */ INSERT INTO b VALUES {ROWS}", OF_B),
        (f"INSERT INTO b VALUES {ROWS}; DELETE FROM c", EVERYTHING),
        (f"WITH w AS (DELETE FROM c) INSERT INTO b VALUES {ROWS}", EVERYTHING),
        (f"COPY b FROM STDIN; SELECT {ROWS}", EVERYTHING),
        # newer than the parser
        ("INSERT INTO b VALUES (1) RETURNING WITH (OLD AS o) o.x", OF_B),
        ("UPDATE b SET x = 1 RETURNING WITH (OLD AS o) o.x, x", OF_B),
        ("MERGE INTO b USING c ON true WHEN MATCHED THEN DELETE RETURNING WITH (OLD AS o) o.x", EVERYTHING),
        ("CREATE TABLE b (x int GENERATED ALWAYS AS (1) VIRTUAL)", EVERYTHING),
        ("FROBNICATE b", EVERYTHING),
        # rights, and what only looks harmless
        ("ALTER TABLE b OWNER TO someone", EVERYTHING),
        ("DROP POLICY p ON b", EVERYTHING),
        # what all databases of a server share
        ("CREATE DATABASE d TEMPLATE t", EVERYWHERE),
        ("DROP DATABASE d WITH (FORCE)", EVERYWHERE),
        ("ALTER DATABASE d RENAME TO e", EVERYWHERE),
        ("ALTER DATABASE d OWNER TO x", EVERYWHERE),
        ("ALTER DATABASE d SET work_mem = 1", EVERYWHERE),
        ("ALTER DATABASE d SET TABLESPACE s", EVERYWHERE),
        ("GRANT CONNECT ON DATABASE d TO x", EVERYWHERE),
        ("CREATE ROLE x", EVERYWHERE),
        ("CREATE USER x PASSWORD 'y' IN ROLE z", EVERYWHERE),
        ("ALTER ROLE x SET work_mem = 1", EVERYWHERE),
        ("ALTER USER x RENAME TO y", EVERYWHERE),
        ("ALTER GROUP x ADD USER y", EVERYWHERE),
        ("DROP USER x", EVERYWHERE),
        ("GRANT x TO y", EVERYWHERE),
        ("REVOKE ADMIN OPTION FOR x FROM y", EVERYWHERE),
        ("REASSIGN OWNED BY a TO b", EVERYWHERE),
        ("DROP OWNED BY a CASCADE", EVERYWHERE),
        ("ALTER SYSTEM SET work_mem = 1", EVERYWHERE),
        ("CREATE TABLESPACE s LOCATION '/s'", EVERYWHERE),
        ("ALTER TABLESPACE s RENAME TO t", EVERYWHERE),
        ("DROP SUBSCRIPTION s", EVERYWHERE),
        ("SECURITY LABEL ON ROLE x IS 'y'", EVERYWHERE),
        ("UPDATE pg_database SET datallowconn = false", EVERYWHERE),
        ("INSERT INTO b VALUES (1); GRANT x TO y", EVERYWHERE),
        ("BEGIN; GRANT x TO y; COMMIT; BEGIN", EVERYWHERE),
        ("DO $$ BEGIN CREATE\n ROLE x; END $$", EVERYWHERE),
        ("DO $$ BEGIN INSERT INTO roles VALUES ('grants'); END $$", EVERYTHING),
        (f"REVOKE {'x, ' * 20_000} y FROM z", EVERYWHERE),
        ("DROP ROLE x FROBNICATE", EVERYWHERE),
        ("DROP ROLE 'x", EVERYWHERE),
        ("COMMENT ON DATABASE d IS 'x'", (CATALOGUE,)),
        ("GRANT SELECT ON b TO x", EVERYTHING),
        ("COMMIT -- x\n PREPARED 'y'", EVERYTHING),
        ("PREPARE p AS DELETE FROM b; EXECUTE p", EVERYTHING),
        ("CREATE TABLE x AS EXECUTE p", EVERYTHING),
        ("EXPLAIN (ANALYZE) CREATE TABLE b AS SELECT * FROM c", (*OF_B, CATALOGUE)),
        ("ALTER TABLE s.b SET SCHEMA t", ("table:s.b", "table:?.b", CATALOGUE)),
        ("ALTER TABLE s.a RENAME TO b", ("table:s.a", "table:?.a", "table:s.b", "table:?.b", CATALOGUE)),
        ("ALTER TABLE a ATTACH PARTITION b DEFAULT", ("table:a", "table:b", CATALOGUE)),
        ("CREATE TABLE b PARTITION OF a DEFAULT", ("table:a", "table:b", CATALOGUE)),
        ("(WITH w AS (DELETE FROM b RETURNING *) SELECT * FROM w)", OF_B),
        ("\n  SELECT 1\nINTO b", (*OF_B, CATALOGUE)),
        ("", ()),
    ],
)
def test_what_is_purged(text: str | bytes, purges: tuple[str, ...]) -> None:
    assert look(text).purges == purges
    assert (
        Texts(purging=Purging.PARSED).look_parsed(text if isinstance(text, bytes) else text.encode()).purges == purges
    )
    assert look(b"/* purge:x */" if text == "" else text, Purging.OFF).purges == (("x",) if text == "" else ())


@pytest.mark.parametrize(
    ("text", "purges"),
    [
        ("INSERT INTO b VALUES ('a\\')", OF_B),
        ("INSERT INTO b VALUES ('a\\'), (';')", EVERYTHING),
        ("DELETE FROM b WHERE x = '\\' /*'; DELETE FROM c; --*/", EVERYTHING),
        ("SELECT '\\' /*'; DELETE FROM c; --*/", EVERYTHING),
        ("SELECT '\\' --'; DELETE FROM c", EVERYTHING),
        ("SELECT '\\'; DELETE FROM c", EVERYTHING),
        ("SELECT '\\'", ()),
    ],
)
def test_where_a_setting_decides_about_the_end_of_a_literal(text: str, purges: tuple[str, ...]) -> None:
    assert look(text).purges == purges


@pytest.mark.parametrize("text", ["SELECT '\\' /*'; SET x = 1; --*/", "SELECT '\\' --'; SET x = 1"])
def test_a_comment_may_be_none(text: str) -> None:
    assert look(text, Purging.OFF).effect.change is Change.UNKNOWN


NAMES = st.sampled_from(["b", "s.b", 's."B"', '"b;"', '"b(x) values"', "s . b", "only", 'U&"b"', "é", "values", "b$1"])
GAPS = st.sampled_from([" ", "\n", "/**/ ", "-- values (\n", " -- ;\n", "  "])
HEADS = st.sampled_from(
    ["INSERT{0}INTO", "insert{0}into", "UPDATE", "UPDATE{0}ONLY", "DELETE{0}FROM", "DELETE{0}FROM{0}ONLY"]
)
COLUMNS = st.sampled_from(["", "(x)", '("x) values (")', "(x, -- ) values\n y)", "(/* ) values */ x)"])
RESTS = st.sampled_from(
    [
        "VALUES (1)",
        "SELECT 1",
        "AS v VALUES (2)",
        "WITH w AS (DELETE FROM c RETURNING 1) SELECT * FROM w",
        "(WITH w AS (DELETE FROM c RETURNING 1) SELECT * FROM w)",
        "(WITH w AS (DELETE FROM c RETURNING 1) VALUES (1))",
        "SET x = 1",
        "SET x = 1 WHERE y = ';'",
        "AS v SET x = 1",
        "WHERE x IN (SELECT 1)",
        "USING c",
        "",
        "VALUES (1); DELETE FROM c",
        "SET x = 1; UPDATE c SET x = 1",
    ]
)


@given(HEADS, GAPS, NAMES, GAPS, COLUMNS, GAPS, RESTS, st.sampled_from(["", "/* file:x */ ", "/* batch:1 */ "]))
@example("UPDATE", " ", "a", "-- x\n", "", " ", ".b SET x = 1", "")
def test_no_shortcut_misses_what_the_parser_sees(
    head: str, gap: str, name: str, after: str, columns: str, behind: str, rest: str, hint: str
) -> None:
    text = (hint + head.format(gap) + gap + name + after + columns + behind + rest).encode()
    found = look(text).purges
    try:
        tree, _ = parse(text)
    except Exception:
        return
    assert found == EVERYTHING or set(found) == set(changed_by([raw["stmt"] for raw in tree]))


@pytest.mark.parametrize(
    ("text", "prepares"),
    [
        ("PREPARE p AS SELECT * FROM b", [(b"p", ())]),
        ("PREPARE P (int) AS INSERT INTO b VALUES ($1)", [(b"p", OF_B)]),
        ('PREPARE "P x" AS SELECT 1; prepare größe as DELETE FROM b', [(b"P x", ()), ("größe".encode(), OF_B)]),
        ("/* purge:x */ PREPARE p AS DELETE FROM b", [(b"p", (*OF_B, "x"))]),
        # newer than the parser, or too long
        ("/* a */ PREPARE P AS MERGE INTO b RETURNING WITH (OLD AS o) o.x", [(b"p", EVERYTHING)]),
        ('SELECT 1; PREPARE -- x\n "a""b" AS FROBNICATE b', [(b'a"b', EVERYTHING)]),
        (f"PREPARE p AS INSERT INTO b VALUES {ROWS}", [(b"p", EVERYTHING)]),
        ("EXECUTE p", []),
    ],
)
@pytest.mark.parametrize("purging", [Purging.PARSED, Purging.ALL])
def test_what_is_prepared_in_sql(purging: Purging, text: str, prepares: list[tuple[bytes, tuple[str, ...]]]) -> None:
    for found in (look(text, purging), Texts(purging=purging).look_parsed(text.encode())):
        assert list(found.prepares) == prepares
        assert found.effect.change is Change.UNKNOWN, "else nobody asks"


def test_unhinted_changes_are_told_by_their_head_and_not_kept() -> None:
    texts = Texts(purging=Purging.ALL)
    found = [texts.look(b"INSERT INTO b (x) VALUES (%d, '%d')" % (number, number)) for number in range(100)]
    assert not texts.known
    assert len(set(map(id, found))) == 1
    assert (found[0].kind, found[0].hints, found[0].is_write, found[0].interesting) == (Kind.INSERT, None, False, False)
    prepared = b"INSERT INTO b (x) VALUES ($1)"
    assert texts.look(prepared) is texts.known[prepared]


def test_a_change_is_looked_for_only_where_it_matters() -> None:
    texts = Texts(purging=Purging.PARSED)
    text = b"INSERT INTO b VALUES ($1)"
    assert texts.look(text) is PLAIN
    assert texts.look_parsed(text).purges == OF_B
    assert texts.look(text) is PLAIN
    texts.judge(max_hint_ms=1000, unhinted=False, purging=Purging.ALL)
    assert texts.look(text).purges == OF_B
    texts.judge(max_hint_ms=1000, unhinted=False)
    assert texts.look(text) is texts.look_parsed(text) is PLAIN


@pytest.mark.parametrize("purging", Purging)
def test_writes_without_hints_are_writes_in_adaptive_mode(purging: Purging) -> None:
    texts = Texts(unhinted=True, purging=purging)
    for number in (1, 2):
        found = texts.look(b"INSERT INTO b VALUES (%d)" % number)
        assert (found.is_write, found.reason) == (True, None)
        assert found.lifted is not None
        assert found.purges == (() if purging is Purging.OFF else OF_B)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("SELECT FROM b WHERE x = '\\'", Reason.UNSAFE),
        ("SELECT * FROM b; BEGIN", Reason.MULTI_STATEMENT),
        ("SELECT * FROM b WHERE CURRENT OF c", Reason.UNSAFE),
        ("SELECT (SELECT dblink_exec('x') FROM b)", Reason.UNSAFE),
        ("SELECT pg_catalog.pg_try_advisory_xact_lock_shared(1)", Reason.UNSAFE),
        ("SELECT * FROM ROWS FROM (nextval('s'), f(1))", Reason.UNSAFE),
        ("SELECT U&\"next\\0076al\"('s')", Reason.UNSAFE),
        ("SELECT * FROM information_schema.x JOIN pg_temp_3.y USING (z)", Reason.UNSAFE),
        ("EXPLAIN ANALYZE SELECT * FROM b", Reason.NOT_A_READ),
        ("DECLARE c CURSOR FOR SELECT * FROM b", Reason.NOT_A_READ),
        ("CREATE TABLE x AS SELECT * FROM b", Reason.NOT_A_READ),
        ("", Reason.NOT_A_READ),
        ("SELECT pg_read_file('x'), lo_get(1), pg_sleep_for('1 s')", None),
        ('SELECT "nextval" FROM b', None),
        ("SELECT now() - interval '1 day' > 'now'", None),
    ],
)
def test_why_a_read_is_none(text: str, reason: Reason | None) -> None:
    found = look(f"/* ttl:1 */ {text}", Purging.OFF)
    assert (found.is_read, found.read_reason) == (reason is None, reason)


def test_a_transaction_before_a_read() -> None:
    found = look("BEGIN; /* ttl:1 */ SELECT 1")
    assert (found.is_read, found.read_reason) == (False, Reason.TRANSACTION)


def test_constants_of_a_read_are_part_of_it() -> None:
    texts = Texts()
    assert [texts.look(b"/* ttl:1 */ SELECT %d FROM b" % n).stripped for n in (1, 2)] == [
        b"SELECT 1 FROM b",
        b"SELECT 2 FROM b",
    ]


@pytest.mark.parametrize("say", [purged_by, depended_on])
def test_a_long_tag_costs_no_more_than_its_length(say: object) -> None:
    assert callable(say)
    assert sum(map(len, say("table:" + "." * 50_000))) < 50_000 * 1000

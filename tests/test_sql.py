"""What a SQL text is to the proxy."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tqdbproxy.core.statement import Kind, Reason
from tqdbproxy.postgres.kept import MAX_KEPT, MAX_KEPT_TOTAL
from tqdbproxy.postgres.sql import PLAIN, Text, Texts
from tqdbproxy.postgres.sqltext import pieces

INSERT = "INSERT INTO t VALUES (1)"


def look(text: str | bytes) -> Text:
    return Texts().look(text if isinstance(text, bytes) else text.encode())


def batch_ms(text: str | bytes) -> float | None:
    hints = look(text).hints
    return hints.batch_ms if hints else None


HINTED = [
    "/* batch:10 */ INSERT INTO t VALUES (1)",
    "/* batch:10 */INSERT INTO t VALUES (1)",
    "INSERT INTO t VALUES (1) /* batch:10 */",
    "INSERT INTO t VALUES (1); /* batch:10 */",
    "INSERT INTO t VALUES (1) /* batch:10 */;",
    "INSERT INTO t VALUES (1);;  /* batch:10 */ ; \n",
    "-- a comment\n/* batch:10 */ INSERT INTO t VALUES (1)",
    "/* hello */ /* batch:10 */ INSERT INTO t VALUES (1)",
    "/* batch:10 */ -- a comment\nINSERT INTO t VALUES (1)",
    "/* batch:10 */ INSERT INTO t VALUES (1) -- a comment",
    "INSERT INTO t VALUES (1) /* batch:10 */ -- a comment",
    "INSERT INTO t VALUES (1) -- a comment\n/* batch:10 */",
    "/* outer /* inner */ batch:10 */ INSERT INTO t VALUES (1)",
    "/* batch:10 /* inner */ */ INSERT INTO t VALUES (1)",
    "\n\t/* batch:10 */\n\nINSERT INTO t VALUES (1)",
    "/*batch='10'*/ INSERT INTO t VALUES (1)",
    "INSERT INTO t VALUES (1) /*route='%2Fx',batch='10'*/",
    "INSERT INTO t VALUES ('\\x27') /* batch:10 */",
    "INSERT INTO t VALUES ($$ ' $$) /* batch:10 */",
    "INSERT INTO t VALUES ($a$ $$ $a$) /* batch:10 */",
    "INSERT INTO t VALUES ($1, $2) /* batch:10 */",
    'INSERT INTO "a""b" VALUES (\'/*\') /* batch:10 */',
    "INSERT INTO t VALUES ('--') /* batch:10 */",
    "INSERT INTO t VALUES (E'\\'') /* batch:10 */",
    "INSERT INTO t VALUES (E'\\\\') /* batch:10 */",
    "INSERT INTO t VALUES (E'a'\n  '\\'') /* batch:10 */",
    "INSERT INTO t$$ VALUES (1) /* batch:10 */",
]


@pytest.mark.parametrize("text", HINTED)
def test_a_hint_before_or_after_the_statement(text: str) -> None:
    assert batch_ms(text) == 10


@pytest.mark.parametrize(
    "text",
    [
        INSERT,
        "INSERT /* batch:10 */ INTO t VALUES (1)",
        "INSERT INTO t VALUES ('/* batch:10 */')",
        "INSERT INTO t VALUES (E'\\'/* batch:10 */')",
        "INSERT INTO t VALUES ('a''/* batch:10 */')",
        "INSERT INTO t VALUES ($$/* batch:10 */$$)",
        "INSERT INTO t VALUES ($x$ $$ /* batch:10 */ $x$)",
        'INSERT INTO t VALUES (1) RETURNING 1 AS "/* batch:10 */"',
        "INSERT INTO t VALUES (1) -- /* batch:10 */",
        "-- /* batch:10 */\nINSERT INTO t VALUES (1)",
        "/*+ batch:10 */ INSERT INTO t VALUES (1)",
        "/* hello */ INSERT INTO t VALUES (1)",
        "/* batch:10 INSERT INTO t VALUES (1)",
        "/* /* batch:10 */ INSERT INTO t VALUES (1)",
        "INSERT INTO t VALUES ('/* batch:10 */",
        "INSERT INTO t VALUES (1) /* batch:10 */ RETURNING 1",
        "/*",
        "/* batch:10 */\0",
    ],
)
def test_what_is_no_hint(text: str) -> None:
    assert batch_ms(text) is None


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("/* batch:10 */ INSERT INTO t VALUES (1) ; ", INSERT),
        (" /* batch:10 */ -- x\n" + INSERT, "-- x\n" + INSERT),
        (INSERT + " /* file:x */ ; /* batch:10 */", INSERT),
        ("/* batch:10 */ /*+ SeqScan(t) */ " + INSERT, "/*+ SeqScan(t) */ " + INSERT),
        ("/* hello */ " + INSERT + "/* batch:1 */", "/* hello */ " + INSERT),
        ("/* batch:1 */" + INSERT + " -- x", INSERT + " -- x"),
        ("/* batch:1 */ INSERT INTO t VALUES (' /* batch:1 */ ;')", "INSERT INTO t VALUES (' /* batch:1 */ ;')"),
    ],
)
def test_what_is_left_without_the_hints(text: str, stripped: str) -> None:
    assert look(text).stripped == stripped.encode()


@pytest.mark.parametrize(
    ("text", "kind", "reason", "returning"),
    [
        (INSERT, Kind.INSERT, None, False),
        ("INSERT INTO t VALUES (1) RETURNING *", Kind.INSERT, None, True),
        ("update t set a = 1", Kind.UPDATE, None, False),
        ("DELETE FROM t WHERE a = $1 RETURNING a", Kind.DELETE, None, True),
        ("MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE", Kind.MERGE, None, False),
        ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", Kind.INSERT, None, False),
        ("WITH x AS (INSERT INTO t VALUES (1) RETURNING *) UPDATE t SET a = 1", Kind.UPDATE, None, False),
        ("WITH x AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM x", Kind.SELECT, Reason.NOT_A_WRITE, False),
        ("SELECT 1", Kind.SELECT, Reason.NOT_A_WRITE, False),
        ("", Kind.OTHER, Reason.NOT_A_WRITE, False),
        ("EXPLAIN ANALYZE INSERT INTO t VALUES (1)", Kind.OTHER, Reason.NOT_A_WRITE, False),
        ("COPY t FROM STDIN", Kind.OTHER, Reason.NOT_A_WRITE, False),
        ("BEGIN", Kind.OTHER, Reason.NOT_A_WRITE, False),
        ("INSERT INTO t VALUES (1);;", Kind.INSERT, None, False),
        ("INSERT INTO t VALUES (';')", Kind.INSERT, None, False),
        ("INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)", Kind.OTHER, Reason.MULTI_STATEMENT, False),
        ("INSERT INTO t VALUES (now(), nextval('s'), pg_notify('a', 'b'))", Kind.INSERT, None, False),
        ("INSERT INTO t VALUES (current_setting('my.tenant'))", Kind.INSERT, None, False),
        ("INSERT INTO t VALUES (current_setting('Application_Name'))", Kind.INSERT, Reason.UNSAFE, False),
        ("INSERT INTO t VALUES (current_setting(name))", Kind.INSERT, Reason.UNSAFE, False),
        ("INSERT INTO t VALUES (lastval())", Kind.INSERT, Reason.UNSAFE, False),
        ("INSERT INTO t VALUES (pg_catalog.\"currval\"('s'))", Kind.INSERT, Reason.UNSAFE, False),
        ("INSERT INTO t SELECT pg_backend_pid()", Kind.INSERT, Reason.UNSAFE, False),
        ("INSERT INTO t VALUES (system_user)", Kind.INSERT, Reason.UNSAFE, False),
        ("INSERT INTO t VALUES (set_config('a.b', 'c', true))", Kind.INSERT, Reason.UNSAFE, False),
        ("UPDATE t SET a = 1 WHERE pg_try_advisory_lock(1)", Kind.UPDATE, Reason.UNSAFE, False),
        ("UPDATE t SET a = 1 WHERE pg_try_advisory_xact_lock(1)", Kind.UPDATE, None, False),
        ("DELETE FROM t WHERE CURRENT OF c", Kind.DELETE, Reason.UNSAFE, False),
        ("INSERT INTO pg_temp.t VALUES (1)", Kind.INSERT, Reason.UNSAFE, False),
        ("INSERT INTO t SELECT * FROM pg_temp_3.t", Kind.INSERT, Reason.UNSAFE, False),
        ("UPDATE pg_settings SET setting = 'on' WHERE name = 'x'", Kind.UPDATE, Reason.UNSAFE, False),
        ("INSERT INTO t VALUES (1) RETURNING WITH (OLD AS o) o.a", Kind.INSERT, Reason.UNSAFE, False),
        ("INSERT INTO", Kind.INSERT, Reason.UNSAFE, False),
        ("INSERT INTO t VALUES ('a\\', 'b')", Kind.INSERT, Reason.UNSAFE, False),
        ("INSERT INTO t VALUES ('a\\\\')", Kind.INSERT, None, False),
    ],
)
def test_what_can_be_batched(text: str, kind: Kind, reason: Reason | None, returning: bool) -> None:
    found = look(f"/* batch:10 */ {text}")
    assert (found.kind, found.reason) == (kind, reason)
    assert reason is not None or (found.is_write, found.returning) == (True, returning)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("BEGIN; /* batch:10 */ INSERT INTO t VALUES (1); COMMIT", Reason.TRANSACTION),
        ("start transaction;INSERT INTO t VALUES ('é') /* batch:10 */;COMMIT", Reason.TRANSACTION),
        ("/* batch:5 */ INSERT INTO t VALUES (1); INSERT INTO t VALUES (1)", Reason.MULTI_STATEMENT),
        ("/* batch:5 */ INSERT INTO t VALUES (1); BEGIN", Reason.MULTI_STATEMENT),
        ("/* batch:5 */ BEGIN; INSERT INTO t VALUES (1)", Reason.MULTI_STATEMENT),
        ("/* batch:5 */ BEGIN; SELECT FROM WHERE", Reason.UNSAFE),
    ],
)
def test_a_hint_among_several_statements(text: str, reason: Reason) -> None:
    found = look(text)
    assert found.hints is not None
    assert (found.reason, found.is_write) == (reason, False)


def test_a_hint_that_asks_for_nothing_is_not_judged() -> None:
    found = look("/* file:x */ INSERT INTO t VALUES (1)")
    assert found.hints is not None
    assert (found.kind, found.is_write, found.reason) == (Kind.INSERT, False, None)


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("SELECT * FROM pg_tqdb_status", True),
        ("select*from\n\tPG_TQDB_status ;; ", True),
        ('SELECT * FROM "pg_tqdb_status"', True),
        ('SELECT * FROM"pg_tqdb_status"', True),
        ("/* file:x */ SELECT /* all */ * FROM pg_tqdb_status -- now", True),
        ('SELECT * FROM "PG_TQDB_STATUS"', False),
        ("SELECT * FROM pg_tqdb_status WHERE true", False),
        ("SELECT * FROM pg_tqdb_statuses", False),
        ("SELECT * FROMpg_tqdb_status", False),
        ("SELECT * FROM pg_tqdb_status; SELECT 1", False),
        ("SELECT 'SELECT * FROM pg_tqdb_status'", False),
    ],
)
def test_the_status_view(text: str, view: bool) -> None:
    assert look(text).view == view


def test_uninteresting_texts_are_one_object_and_are_not_kept() -> None:
    texts = Texts()
    for number in range(100):
        assert texts.look(b"UPDATE a SET b = b + %d WHERE c = 'd';" % number) is PLAIN
    assert not texts.known


def test_a_text_is_judged_once() -> None:
    texts = Texts()
    text = b"/* batch:10 */ INSERT INTO t VALUES ($1)"
    found = texts.look(text)
    assert texts.look(bytes(bytearray(text))) is found
    assert texts.known[text] is found


def test_the_older_half_goes() -> None:
    texts = Texts(limit=10)
    for number in range(11):
        texts.look(b"SET x = %d" % number)
    assert list(texts.known) == [b"SET x = %d" % number for number in range(5, 11)]


def test_memory_is_bounded() -> None:
    texts = Texts()
    for number in range(600):
        texts.look(b"SET x = '%060000d'" % number)
    assert sum(map(len, texts.known)) <= MAX_KEPT_TOTAL + MAX_KEPT
    texts.look(b"SET y = '%070000d'" % 1)
    assert not any(b"y" in text for text in texts.known)


def test_windows_are_cut() -> None:
    hints = Texts(max_hint_ms=5).look(b"/* batch:10 */ INSERT INTO t VALUES (1)").hints
    assert hints is not None
    assert hints.batch_ms == 5


@pytest.mark.parametrize("kind", ["+1", "::a", " isnull", "[1]"])
def test_deep_expressions_do_not_reach_the_parser(kind: str) -> None:
    text = "/* batch:10 */ INSERT INTO t SELECT 1" + kind * 100_000
    assert look(text).reason is Reason.UNSAFE
    assert look(text[:8000] + " from a").reason is Reason.UNSAFE


def test_other_encodings() -> None:
    assert look("/* batch:10 */ INSERT INTO t VALUES ('é')".encode("latin-1")).reason is None
    # The second byte of this character looks like a backslash.
    assert look("/* batch:10 */ INSERT INTO t VALUES ('ソ')".encode("sjis")).reason is Reason.UNSAFE
    assert look("/* batch:10 */ INSERT INTO t VALUES ('ソa')".encode("sjis")).reason is None
    assert look("/* batch:10 */ INSERT INTO t VALUES (E'ソa')".encode("sjis")).reason is Reason.UNSAFE
    assert look("/* batch:10 */ INSERT INTO t VALUES (E'ソ')".encode("sjis")).hints is None


literals = st.one_of(
    st.text(alphabet="a '\"/*-$;\\E\n", max_size=20).map(lambda s: "'" + s.replace("'", "''").replace("\\", "") + "'"),
    st.text(alphabet="a '\"/*-$;\\E\n", max_size=20).map(
        lambda s: "E'" + s.replace("\\", "\\\\").replace("'", "\\'") + "'"
    ),
    st.text(alphabet="a '\"/*-;\\E\n", max_size=20).map(lambda s: f"$q${s}$q$"),
    st.integers(-5, 10**20).map(str),
)


@given(st.lists(literals, min_size=1, max_size=5), st.booleans())
def test_hints_are_found_beside_literals_and_never_in_them(values: list[str], hinted: bool) -> None:
    inner = [value[:-1] + "/* batch:99 */" + value[-1:] if value[0] == "'" else value for value in values]
    text = f"INSERT INTO t VALUES ({', '.join(inner)})" + (" /* batch:10 */" if hinted else "")
    assert batch_ms(text) == (10 if hinted else None)


PIECES = (
    b"/*| */| batch:10 |'|\"|$$|$a$|E'|\\|--|\n|;|1|.5e-|\xe9|INSERT INTO t VALUES (|)|SET x = | |set_config(|\0".split(
        b"|"
    )
)


@settings(max_examples=500)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(
            st.sampled_from(PIECES),
            max_size=12,
        ).map(b"".join),
    )
)
def test_nothing_raises_and_nothing_is_lost(text: bytes) -> None:
    texts = Texts()
    assert texts.look(text) is texts.look(text)
    parts = pieces(text)
    assert parts is None or b"".join(parts) == text


@pytest.mark.parametrize(
    "text",
    [
        b"; " * 200_000,
        b";" * 400_000,
        b"SELECT INTO" + b"--" * 200_000 + b"x temp",
        b"SELECT 1 /* " * 40_000,
        b"/*" * 200_000,
        b"/* a='" * 60_000,
        b"/* " + b"file: " * 60_000 + b"*/ SELECT 1",
        b"/* " + b"a " * 100_000 + b"a" * 100_000 + b" " * 100_000 + b"*/ SELECT 1",
        b"/* batch:1 */ INSERT INTO t VALUES (" + b"'\\" * 100_000,
        b"/* batch:1 */ INSERT INTO t VALUES (" + b"E'\\" * 100_000 + b"'",
        b"/* batch:1 */ INSERT INTO t VALUES ('" + b"\\" * 200_000 + b"')",
        b"/* batch:1 */ INSERT INTO t VALUES (" + b"$a" * 100_000 + b"$b$",
        b"/* batch:1 */ INSERT INTO t VALUES (" + b" $a$b" * 50_000,
        b"/* batch:1 */ INSERT INTO t VALUES (" + b"1," * 100_000 + b"1)",
        b"/* batch:1 */ INSERT INTO t VALUES (" + b"1" * 300_000 + b")",
        b"/* batch:1 */ INSERT INTO t VALUES (" + b"1" * 300_000 + b".)",
        b"/* batch:1 */ INSERT INTO t VALUES ('" + b"now" * 100_000 + b"')",
    ],
)
def test_no_text_costs_more_than_its_length(text: bytes) -> None:
    # Not measured here: what is quadratic takes minutes, and pytest-timeout ends it.
    Texts().look(text)

"""What a SQL text does to its session."""

from __future__ import annotations

import pytest

from tqdbproxy.postgres.sql import SOME, Change, Effect, Purging, Text, Texts


def look(text: str | bytes) -> Text:
    return Texts().look(text if isinstance(text, bytes) else text.encode())


SET = Change.SET
RESET = Change.RESET
UNKNOWN = Effect(Change.UNKNOWN)
HIDDEN = Effect(Change.UNKNOWN, b"?.")
NONE = Effect(Change.NONE)


SAID = Effect(Change.SET, b"a.b", b"set_config 'c, d'")
"""What set_config says; SET search_path TO 'a, b' means another list than set_config('search_path', 'a, b', false)."""


@pytest.mark.parametrize(
    ("text", "effect"),
    [
        ("SET search_path = a, \"B\", 'c d'", Effect(SET, b"search_path", b"'a', 'B', 'c d'")),
        ("set Search_Path to a", Effect(SET, b"search_path", b"'a'")),
        ("SET SESSION search_path TO 'a'", Effect(SET, b"search_path", b"'a'")),
        ("-- x\nSET/**/search_path = a", Effect(SET, b"search_path", b"'a'")),
        (";set search_path = a;", Effect(SET, b"search_path", b"'a'")),
        ('SET "Search_path" = a', Effect(SET, b"search_path", b"'a'")),
        ("SET SCHEMA 'a'", Effect(SET, b"search_path", b"'a'")),
        ("SET extra_float_digits = 3", Effect(SET, b"extra_float_digits", b"3")),
        ("SET extra_float_digits = -0", Effect(SET, b"extra_float_digits", b"0")),
        ("SET x.y = 1.50", Effect(SET, b"x.y", b"1.50")),
        ("SET x.y = 'it''s'", Effect(SET, b"x.y", b"'it''s'")),
        ("SET x.y = E'\\u00e9'", Effect(SET, b"x.y", "'é'".encode())),
        (b"SET x.y = '\xe9'", Effect(SET, b"x.y", b"'\xe9'")),
        ("SET TIME ZONE 'UTC'", Effect(SET, b"timezone", b"'UTC'")),
        ("SET TIME ZONE LOCAL", Effect(RESET, b"timezone")),
        ("SET NAMES 'latin1'", Effect(SET, b"client_encoding", b"'latin1'")),
        ("SET XML OPTION DOCUMENT", Effect(SET, b"xmloption", b"'DOCUMENT'")),
        ("SET x TO DEFAULT", Effect(RESET, b"x")),
        ("RESET x", Effect(RESET, b"x")),
        ("SET x FROM CURRENT", UNKNOWN),
        ("RESET ALL", Effect(Change.RESET_ALL)),
        ("DISCARD ALL", Effect(Change.DISCARD_ALL)),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            Effect(SET, b"default_transaction_isolation", b"'serializable'"),
        ),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, DEFERRABLE", UNKNOWN),
        ("SET LOCAL search_path = a", NONE),
        ("SET TRANSACTION READ ONLY", NONE),
        ("SET transaction_isolation = serializable", NONE),
        ("SET CONSTRAINTS ALL DEFERRED", NONE),
        ("DISCARD TEMP", NONE),
        ("DISCARD PLANS", NONE),
        ("DISCARD SEQUENCES", NONE),
        ("SET search_path = pg_temp, a", UNKNOWN),
        ("SET ROLE a", UNKNOWN),
        ("SET role = a", UNKNOWN),
        ("RESET ROLE", UNKNOWN),
        ("SET SESSION AUTHORIZATION a", UNKNOWN),
        ("RESET SESSION AUTHORIZATION", UNKNOWN),
        ("SET SEED TO 0.5", UNKNOWN),
        ("SELECT setseed(0.5)", UNKNOWN),
        ("SELECT set_config('a.B', 'c, d', false)", SAID),
        ("SELECT pg_catalog.set_config('a.b', 'c, d', false);", SAID),
        ("SELECT set_config('a.b', 'c', false), 1", Effect(Change.UNKNOWN, b"a.b")),
        ("SELECT set_config('a.b', 'c', false) FROM t", Effect(Change.UNKNOWN, b"a.b", perhaps=True)),
        ("SELECT set_config('a.b', c, false) FROM t", Effect(Change.UNKNOWN, b"a.b", perhaps=True)),
        ("SELECT set_config('role', 'c', false)", UNKNOWN),
        ("SELECT set_config('search_path', 'a, pg_temp', false)", UNKNOWN),
        ("SELECT set_config('transaction_isolation', 'serializable', false)", UNKNOWN),
        ("SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;", Effect(Change.RESET_ALL)),
        ("BEGIN; RESET ALL; COMMIT", UNKNOWN),
        ("RESET ALL; SET a.b TO c", Effect(Change.UNKNOWN, b"a.b")),
        ("SELECT set_config('a.b', 'c', $1)", Effect(Change.UNKNOWN, b"a.b")),
        ("SELECT pg_catalog.SET_CONFIG ('a.B', 'c', true)", Effect(Change.TOUCH, b"a.b")),
        ("SELECT set_config('d.e', $1, true), set_config('a.b', 'c', true)", Effect(Change.TOUCH, b"a.b d.e")),
        (
            "SELECT set_config('d.e', $1, true), set_config('a.b', 'c', true) FROM t",
            Effect(Change.TOUCH, b"a.b d.e", perhaps=True),
        ),
        ("SELECT set_config('a.b', 'c', true)::text, CAST(1 AS int8)", Effect(Change.TOUCH, b"a.b")),
        ("SELECT set_config('a.b', 'c', true) WHERE false", Effect(Change.TOUCH, b"a.b", perhaps=True)),
        ("SELECT coalesce(1, set_config('a.b', 'c', true)::int)", Effect(Change.TOUCH, b"a.b", perhaps=True)),
        ("EXPLAIN SELECT set_config('a.b', 'c', true)", Effect(Change.TOUCH, b"a.b", perhaps=True)),
        ("PREPARE a AS SELECT set_config('a.b', 'c', true)", Effect(Change.UNKNOWN, b"a.b", perhaps=True)),
        ("SELECT set_config($1, $2, true)", Effect(Change.TOUCH, b"?.")),
        ("SELECT set_config('work_mem', $2, true)", NONE),
        ("SELECT set_config('a.b', 'c', true), set_config('a.b', 'c', false)", Effect(Change.UNKNOWN, b"a.b")),
        ("SET LOCAL a.B = 1", Effect(Change.TOUCH, b"a.b")),
        ("BEGIN; SET LOCAL a.b = 1; SELECT 1; SET LOCAL c.d = 1; COMMIT", Effect(Change.TOUCH, b"a.b c.d")),
        ("SET LOCAL a.b = 1; SET a.b = 1", Effect(Change.UNKNOWN, b"a.b")),
        ('SET app."\u212a" = 9', HIDDEN),
        ('SET LOCAL app."\u212a" = 9', Effect(Change.TOUCH, b"?.")),
        ("SELECT set_config('app.\u212a', '9', false)", HIDDEN),
        ('RESET app."\u212a"', HIDDEN),
        ("SELECT 1; SET a.b = 1; RESET c.d; SET work_mem = 1", Effect(Change.UNKNOWN, b"a.b c.d")),
        ("SET a.b FROM CURRENT", Effect(Change.UNKNOWN, b"a.b")),
        ("SELECT U&\"s\\0065t_config\"('a.b', 'c, d', false)", SAID),
        ("SELECT 'set_config'", NONE),
        ("UPDATE pg_settings SET setting = 'a'", HIDDEN),
        ("SELECT * FROM pg_settings", NONE),
        ("CREATE TABLE a (b int)", NONE),
        ("CREATE TEMP TABLE a (b int)", UNKNOWN),
        ("create local temporary table a (b int)", UNKNOWN),
        ("CREATE TABLE pg_temp.a (b int)", UNKNOWN),
        ("CREATE TEMP VIEW a AS SELECT 1", UNKNOWN),
        ("CREATE TEMP SEQUENCE a", UNKNOWN),
        ("CREATE TEMP TABLE a AS SELECT 1", UNKNOWN),
        ("CREATE TABLE a AS EXECUTE b", HIDDEN),
        ("CREATE TEMP TABLE a (b int GENERATED ALWAYS AS (1) VIRTUAL)", HIDDEN),
        ("CREATE FUNCTION pg_temp.a() RETURNS int LANGUAGE sql RETURN 1", UNKNOWN),
        ("CREATE FUNCTION a() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END", NONE),
        ("SELECT 1 INTO TEMP a", UNKNOWN),
        ("SELECT 1 INTO\n-- x\n TEMP a", UNKNOWN),
        ("SELECT 1 INTO template", NONE),
        ("SELECT 1 INTO TABLE a", NONE),
        ("SELECT pg_advisory_lock(1)", UNKNOWN),
        ("SELECT pg_try_advisory_lock_shared(1)", UNKNOWN),
        ("SELECT pg_advisory_xact_lock(1)", NONE),
        ("PREPARE a AS SELECT 1", UNKNOWN),
        ("EXECUTE a", HIDDEN),
        ("EXPLAIN ANALYZE EXECUTE a", HIDDEN),
        ("EXPLAIN SELECT 1", NONE),
        ("PREPARE TRANSACTION 'a'", NONE),
        ("DEALLOCATE a", NONE),
        ("DO $$ BEGIN END $$", HIDDEN),
        ("CALL a()", HIDDEN),
        ("LOAD 'a'", HIDDEN),
        ("LISTEN a", NONE),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", NONE),
        ("COPY a FROM STDIN", NONE),
        ("BEGIN", NONE),
        ("SELECT 'SET search_path = a'", NONE),
        ("SELECT '; SET search_path = a'", NONE),
        ("SELECT 1; SELECT 2", NONE),
        ("SELECT 1; SET search_path = a", UNKNOWN),
        ("BEGIN; SET LOCAL search_path = a; COMMIT", NONE),
        ("SELECT 1 /* ; SET search_path = a */", NONE),
        ("SET search_path = a;;", Effect(SET, b"search_path", b"'a'")),
        ("SET what is this", HIDDEN),
        ("SELECT what is this", NONE),
        ("SET x.y = 'it\\'s'", HIDDEN),
        ("SELECT 'a\\'; SET search_path = b; --'", HIDDEN),
        ("settle", NONE),
        ("SET\0 x = 1", HIDDEN),
        ("", NONE),
        ("/* batch:1 */ SELECT 1; SET search_path = a", UNKNOWN),
        ("/* file:x */ SET x = 1", Effect(SET, b"x", b"1")),
    ],
)
def test_what_a_text_does_to_its_session(text: str | bytes, effect: Effect) -> None:
    assert look(text).effect == effect


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("DEALLOCATE a", b"a"),
        ('DEALLOCATE PREPARE "A b"', b"A b"),
        ("deallocate all", b""),
        ("DISCARD ALL", b""),
        ("DISCARD PLANS", None),
        ("DEALLOCATE a; DEALLOCATE b", SOME),
        ("SELECT 1; DEALLOCATE ALL", SOME),
        ("SELECT 1", None),
    ],
)
def test_what_is_deallocated(text: str, name: bytes | None) -> None:
    assert look(text).deallocates == name


@pytest.mark.parametrize("purging", Purging)
@pytest.mark.parametrize("hint", ["", "/* ttl:5 */ ", "/* batch:5 */ "])
def test_the_same_however_closely_a_text_is_looked_at(purging: Purging, hint: str) -> None:
    texts = Texts(purging=purging)
    for name, effect in (
        ("work_mem", NONE),
        ("a.b", Effect(Change.TOUCH, b"a.b")),
        ("c.d", Effect(Change.TOUCH, b"c.d")),
    ):
        said = f"{hint}SELECT set_config('{name}', 'c', true)".encode()
        assert (texts.look(said).effect, texts.look_parsed(said).effect) == (effect, effect)

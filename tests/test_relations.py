"""Which reads may be kept, what they depend on, and what a statement purges."""

from __future__ import annotations

import random

import pytest

from tqdbproxy.core.statement import Reason
from tqdbproxy.postgres.relations import EVERYTHING, EVERYWHERE, depended_on, purged_by, unite
from tqdbproxy.postgres.sql import Purging, Texts

ALL = Texts(purging=Purging.ALL)
CATALOGUE = {"table:?pg"}

# a read, and the tables that it depends on, as they are spelt
READS = [
    ("select 1", ""),
    ("select * from b", "b"),
    ("SELECT * FROM B", "b"),
    ('select * from "B"', "B"),
    ("select * from s.b", "s.b"),
    ("select * from other.s.b", "s.b"),
    ("table b", "b"),
    ("values (1), (2)", ""),
    ("(select 1)", ""),
    ("select * from only b", "b"),
    ("select * from a, b", "a b"),
    ("select * from a join b using (id) left join s.c on true", "a b s.c"),
    ("select (select max(x) from b) from a", "a b"),
    ("select * from a where exists (select from b) and x in (select y from c)", "a b c"),
    ("select * from a, lateral (select * from b where b.id = a.id) x", "a b"),
    ("select * from a union all select * from b intersect table c", "a b c"),
    ("with w as (select * from b) select * from w", "b"),
    ("with w as (select * from b) select * from w, s.w", "b s.w"),
    ("with b as (select * from b) select * from b", "b"),
    ("with recursive t(n) as (values (1) union all select n + 1 from t) select n from t", ""),
    ("with x as (select 1), y as (select * from x, a) select * from y", "a"),
    ("select * from f(1), b", "b"),
    ("select count(*) from b where note = 'for update; drop table c'", "b"),
    ("select $$ select * from c $$ from b", "b"),
    ("select now(), random(), pg_sleep(0) from b", "b"),
    ("select * from b tablesample bernoulli (1)", "b"),
    ("select * from b limit 5 offset 2", "b"),
    ("select /* not a hint */ * -- from c\nfrom b", "b"),
    ("select * from b where at > timestamptz 'today'", "b"),
    ("select current_setting('work_mem') from b", "b"),
    ("select * from b where id = 1 order by 1 desc nulls last", "b"),
    ("select rank() over (partition by x order by y) from b", "b"),
    ("select json_agg(t) from (select * from b) t", "b"),
    ("select * from unnest(array[1, 2]) with ordinality", ""),
    ("select 'it''s', E'a\\\\b' from b", "b"),
]

# not to be kept, and why
NO_READS = [
    ("select * from b for update", "not_a_read"),
    ("select * from b for no key update", "not_a_read"),
    ("select * from b for share skip locked", "not_a_read"),
    ("select * from b for key share of b", "not_a_read"),
    ("select * from (select * from b for update) x", "not_a_read"),
    ("with w as (select * from b for update) select * from w", "not_a_read"),
    ("with w as (delete from b returning *) select * from w", "not_a_read"),
    ("with w as (insert into b values (1) returning *) select 1", "not_a_read"),
    ("select * into c from b", "not_a_read"),
    ("select nextval('s')", "unsafe"),
    ("select pg_catalog.nextval('s')", "unsafe"),
    ("select setval('s', 1)", "unsafe"),
    ("select currval('s')", "unsafe"),
    ("select lastval()", "unsafe"),
    ("select pg_notify('a', 'b')", "unsafe"),
    ("select pg_advisory_lock(1)", "unsafe"),
    ("select pg_advisory_xact_lock(1)", "unsafe"),
    ("select pg_try_advisory_lock(1) from b", "unsafe"),
    ("select set_config('a.b', 'c', false)", "unsafe"),
    ("select setseed(0.5)", "unsafe"),
    ("select pg_backend_pid()", "unsafe"),
    ("select system_user", "unsafe"),
    ("select ssl_client_serial()", "unsafe"),
    ("select pg_get_loaded_modules()", "unsafe"),
    ("select pg_stat_get_xact_numscans(1)", "unsafe"),
    ("select * from pg_stat_xact_user_tables", "unsafe"),
    ("select * from pg_catalog.pg_backend_memory_contexts", "unsafe"),
    ("select cursor_to_xml('c', 1, false, false, '')", "unsafe"),
    ("select inet_client_addr()", "unsafe"),
    ("select current_setting('application_name')", "unsafe"),
    ("select * from pg_settings", "unsafe"),
    ("select * from pg_prepared_statements", "unsafe"),
    ("select * from pg_temp.b", "unsafe"),
    ("select lo_create(0)", "unsafe"),
    ("select lo_unlink(1)", "unsafe"),
    ("select dblink('x', 'y')", "unsafe"),
    ("select pg_terminate_backend(1)", "unsafe"),
    ("select pg_reload_conf()", "unsafe"),
    ("select pg_create_physical_replication_slot('x')", "unsafe"),
    ("select from where", "unsafe"),
    ("insert into b values (1)", "not_a_read"),
    ("update b set x = 1", "not_a_read"),
    ("delete from b", "not_a_read"),
    ("explain select * from b", "not_a_read"),
    ("show work_mem", "not_a_read"),
    ("copy b to stdout", "not_a_read"),
    ("select 1; select 2", "multi_statement"),
    ("begin; select 2", "multi_statement"),
]

# a statement, and the tables that it purges, as they are spelt; *: everything
CHANGES = [
    ("select * from b", ""),
    ("select * from b for update", ""),
    ("insert into b values (1)", "b"),
    ("INSERT INTO B (x) VALUES (1) ON CONFLICT DO NOTHING", "b"),
    ('insert into "B" values (1)', "B"),
    ("insert into s.b select * from c", "s.b"),
    ("insert into b select * from c join d using (id)", "b"),
    ("insert into b values ('; delete from c')", "b"),
    ("update b set x = (select 1 from c) where y", "b"),
    ("update only s.b set x = 1 from c", "s.b"),
    ("delete from b using c where b.id = c.id returning *", "b"),
    ("merge into b using c on b.id = c.id when matched then delete", "b"),
    ("with w as (insert into a values (1) returning *) insert into b select * from w", "a b"),
    ("with w as (delete from a returning *) select * from w, c", "a"),
    ("with w as (select * from a) update b set x = 1 from w", "b"),
    ("-- a comment\ninsert into b values (1)", "b"),
    ("/* another */ delete from b", "b"),
    ("truncate a, s.b", "a s.b"),
    ("truncate table only b restart identity", "b"),
    ("truncate b cascade", "*"),
    ("copy b from stdin", "b"),
    ("copy s.b (x, y) from '/a/file' with (format csv)", "s.b"),
    ("copy b to stdout", ""),
    ("copy (delete from b returning *) to stdout", "b"),
    ("alter table b add column x int", "b"),
    ("alter table b rename to c", "b c"),
    ("alter table b enable row level security", "*"),
    ("drop table a, s.b", "a s.b"),
    ("drop table b cascade", "*"),
    ("drop schema s", "*"),
    ("create table b (x int)", "b"),
    ("create table b as select * from c", "b"),
    ("select * into b from c", "b"),
    ("create or replace view v as select * from c", "v"),
    ("drop view v", "v"),
    ("refresh materialized view concurrently m", "m"),
    ("create policy p on b using (true)", "*"),
    ("grant select on b to someone", "*"),
    ("revoke all on b from someone", "*"),
    ("create function f() returns int language sql as 'select 1'", "*"),
    ("do $$ begin delete from b; end $$", "*"),
    ("call p(1)", "*"),
    ("execute s(1)", "*"),
    ("explain analyze execute s(1)", "*"),
    ("explain analyze insert into b values (1)", "b"),
    ("explain (analyze, costs off) delete from b", "b"),
    ("explain insert into b values (1)", ""),
    ("commit prepared 'x'", "*"),
    ("commit", ""),
    ("commit and chain", "*"),
    ("commit; begin", "*"),
    ("insert into b values (1); commit; begin; insert into c values (1)", "*"),
    ("begin; insert into b values (1); commit", "b"),
    ("rollback", ""),
    ("begin", ""),
    ("set work_mem = '1MB'", ""),
    ("listen x", ""),
    ("notify x, 'y'", ""),
    ("vacuum b", ""),
    ("prepare s as delete from b", ""),
    ("insert into a values (1); delete from b", "a b"),
    ("select 1; update b set x = 1", "b"),
    ("", ""),
    (";", ""),
    ("insert into b values (", "b"),
]


def read(*names: str) -> set[str]:
    """The tags that an answer from these tables carries: its own name, and what it may be to others."""
    others = {name: name.partition(".")[2] or f"?.{name}" for name in names}
    return {f"table:{tag}" for pair in others.items() for tag in pair}


def purged(*names: str) -> set[str]:
    """What a write to these tables purges: its own name, and what it may be to others."""
    others = {f"?.{name.partition('.')[2]}" for name in names if "." in name}
    return {f"table:{tag}" for tag in {*names, *others}}


@pytest.mark.parametrize(("sql", "tables"), READS)
def test_reads(sql: str, tables: str) -> None:
    found = ALL.look(f"/* ttl:5 */ {sql}".encode())
    assert (found.is_read, found.read_reason) == (True, None)
    assert set(found.tags) == read(*tables.split())
    assert not found.purges


@pytest.mark.parametrize(("sql", "reason"), NO_READS)
def test_what_is_not_kept(sql: str, reason: str) -> None:
    found = ALL.look(f"/* ttl:5 */ {sql}".encode())
    assert (found.is_read, found.read_reason) == (False, Reason(reason))


@pytest.mark.parametrize("hint", ["", "/* batch:5 */ ", "/* file:a.py */ "])
@pytest.mark.parametrize(("sql", "tables"), CHANGES)
def test_changes(sql: str, tables: str, hint: str) -> None:
    expected = set(EVERYTHING) if tables == "*" else purged(*tables.split())
    found = set(ALL.look((hint + sql).encode()).purges) - CATALOGUE
    assert found == expected or (not sql.strip(";") and not expected)


@pytest.mark.parametrize(("sql", "tables"), CHANGES)
def test_changes_of_prepared_statements(sql: str, tables: str) -> None:
    expected = set(EVERYTHING) if tables == "*" else purged(*tables.split())
    assert set(Texts(purging=Purging.PARSED).look_parsed(sql.encode()).purges) - CATALOGUE == expected


@pytest.mark.parametrize(
    ("sql", "looks_up"),
    [
        ("select count(*) from pg_class", True),
        ("select * from pg_catalog.pg_tables t join b on b.name = t.tablename", True),
        ("select * from information_schema.columns", True),
        ("select 'b'::regclass::oid", True),
        ("select cast($1 as pg_catalog.regprocedure)", True),
        ("select to_regclass('b')::text", True),
        ("select has_table_privilege('b', 'select')", True),
        ("select pg_catalog.pg_relation_size('b')", True),
        ("select obj_description(1)", True),
        ("select regclass(x) from b", True),
        ("select regexp_replace(a, 'b', 'c'), regr_slope(x, y), register from b", False),
        ("select max(pg_class) from b", False),
        ("select pg_sleep(0) from b where name = 'pg_class'", False),
    ],
)
def test_who_reads_the_catalogue(sql: str, looks_up: bool) -> None:
    found = ALL.look(f"/* ttl:5 */ {sql}".encode())
    assert found.is_read
    assert CATALOGUE.issubset(found.tags) == looks_up


@pytest.mark.parametrize(
    ("sql", "changes"),
    [
        ("create table b (x int)", True),
        ("create temp table b (x int)", True),
        ("create table b as select 1", True),
        ("explain analyze create table b as select 1", True),
        ("select 1 into b", True),
        ("alter table b add column x int", True),
        ("alter index i rename to j", True),
        ("drop table b", True),
        ("create view v as select * from b", True),
        ("create index on b (x)", True),
        ("comment on table b is 'x'", True),
        ("create sequence s", True),
        ("update pg_class set reltuples = 1", True),
        ("insert into b values (1)", False),
        ("truncate b", False),
        ("vacuum b", False),
        ("copy b from stdin", False),
        ("select * from pg_class", False),
    ],
)
def test_who_changes_the_catalogue(sql: str, changes: bool) -> None:
    for found in (ALL.look(sql.encode()), Texts(purging=Purging.PARSED).look_parsed(sql.encode())):
        assert CATALOGUE.issubset(found.purges) == changes


def test_hints_name_tags() -> None:
    assert set(ALL.look(b"/* ttl:5 tags:x+y */ select * from b").tags) == {"x", "y"}
    assert set(ALL.look(b"/* purge:x */ insert into b values (1)").purges) == {"x"} | purged("b")
    assert set(ALL.look(b"/* purge:x+table:s.b */ select f()").purges) == {"x"} | purged("s.b")
    assert Texts().look(b"/* batch:5 purge:x */ insert into b values (1)").purges == ("x",)


@pytest.mark.parametrize(
    ("reader", "writer", "meet"),
    [
        ("b", "b", True),
        ("b", "s.b", True),
        ("s.b", "b", True),
        ("s.b", "s.b", True),
        ("s.b", "other.b", False),
        ("b", "c", False),
        ("s.b", "s.c", False),
        ("a.b.c", "a.b.c", True),
    ],
)
def test_whom_a_write_meets(reader: str, writer: str, meet: bool) -> None:
    depends, changes = depended_on(f"table:{reader}"), purged_by(f"table:{writer}")
    assert bool(set(depends) & set(changes)) == meet


def test_everything_is_more_than_anything_else() -> None:
    assert unite([("a",), EVERYTHING, ("b",)]) == EVERYTHING
    assert unite([("a",), EVERYWHERE, EVERYTHING]) == EVERYWHERE
    assert unite([("a", "b"), ("b", "c")]) == ("a", "b", "c")


@pytest.mark.parametrize("purging", Purging)
def test_what_is_remembered_changes_no_answer(purging: Purging) -> None:
    """A memory of a few texts, asked in any order, says what an empty one says."""
    sqls = [sql for sql, _ in (*READS, *NO_READS, *CHANGES)]
    varied = [sql.replace("1", str(number)) for number in (1, 7, 88) for sql in sqls]
    said = [hint + sql for hint in ("", "/* ttl:5 */ ", "/* batch:5 purge:z */ ") for sql in varied]
    chosen = random.choices(said, k=3000)
    texts = Texts(limit=50, purging=purging)
    for sql in chosen:
        for look, anew in (
            (texts.look, Texts(purging=purging).look),
            (texts.look_parsed, Texts(purging=purging).look_parsed),
        ):
            found, fresh = look(sql.encode()), anew(sql.encode())
            assert (found.is_read, found.read_reason, found.tags, found.purges, found.is_write, found.effect) == (
                fresh.is_read, fresh.read_reason, fresh.tags, fresh.purges, fresh.is_write, fresh.effect,
            ), sql  # fmt: skip

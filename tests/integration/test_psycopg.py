"""What psycopg's users do: the same results, errors and notices directly and through the proxy."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.integration.compare import Connection, Ends, fields, seen

EVERY_TYPE = """
    SELECT 1::int2, 2::int4, 3::int8, 1.5::numeric, 'NaN'::float8, '-Infinity'::float4, true, 'x'::char(3), 'y'::text,
        '2020-02-29'::date, '12:00:00.5'::time, '2020-01-01 00:00+02'::timestamptz, 'infinity'::timestamp,
        '1 year 2 days 3.5 s'::interval, '\\x00ff'::bytea, '{"a": [1, null]}'::jsonb, '[1]'::json, '{1,NULL}'::int[],
        '{{a,b},{c,d}}'::text[], '[1,5)'::int4range, '{[1,2],[4,5]}'::int8multirange,
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, '10.0.0.1/8'::inet, '(1,2)'::point, B'101', ROW(1, 'x'), NULL,
        '<a/>'::text, 'pg_class'::regclass, '1 MB'::text COLLATE "C", '$5'::money, 'a & b'::tsquery
"""
FAILURES = {
    "23505": "INSERT INTO book VALUES (1, 'again', 1)",
    "23502": "INSERT INTO book VALUES (2, NULL, 1)",
    "23503": "INSERT INTO book VALUES (2, 'x', 99)",
    "23514": "INSERT INTO book VALUES (2, 'x', 1, -5)",
    "22001": "INSERT INTO book VALUES (2, repeat('x', 50), 1)",
    "22P02": "INSERT INTO book VALUES ('x', 'x', 1)",
    "22012": "SELECT divided(0)",
    "42601": "SELECT 'é', FROM book",
    "42703": "SELECT nowhere FROM book",
    "42P01": "SELECT * FROM nowhere",
    "P0001": "DO $$BEGIN RAISE 'mine' USING DETAIL = 'd', HINT = 'h', TABLE = 't', DATATYPE = 'y'; END$$",
    "57014": "SET statement_timeout = 20; SELECT pg_sleep(5)",
    "25006": "BEGIN READ ONLY; DELETE FROM book",
}
SCHEMA = (
    "CREATE TABLE author (id int PRIMARY KEY)",
    "CREATE TABLE book (id int PRIMARY KEY, title varchar(20) NOT NULL, author int REFERENCES author,"
    " price int CHECK (price > 0))",
    "CREATE FUNCTION divided(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1 / n; END'",
    "INSERT INTO author VALUES (1)",
    "INSERT INTO book VALUES (1, 'one', 1)",
)


@pytest.mark.parametrize("binary", [False, True])
def test_every_type(ends: Ends, binary: bool) -> None:
    def talk(connection: Connection) -> Any:
        cursor = connection.execute(EVERY_TYPE.encode(), binary=False)
        assert cursor.pgresult is not None
        as_text = seen(cursor.pgresult)
        supported = "SELECT 1::int2, 2::int8, 1.5::numeric, 'x'::text, '\\x00ff'::bytea, '{1,NULL}'::int[], %s, %s"
        cursor = connection.execute(supported, (Jsonb({"a": 1}), [1.5, None]), binary=binary, prepare=True)
        assert cursor.pgresult is not None
        return as_text, seen(cursor.pgresult), cursor.fetchall()

    as_text, prepared, rows = ends.same(talk)
    assert as_text.status == prepared.status == "TUPLES_OK"
    assert rows[0][4] == b"\x00\xff"


@pytest.mark.parametrize("sqlstate", FAILURES)
def test_every_field_of_an_error(ends: Ends, sqlstate: str) -> None:
    ends.prepare(*SCHEMA)

    def talk(connection: Connection) -> Any:
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(FAILURES[sqlstate].encode())
        return fields(caught.value.diag), connection.info.transaction_status

    said, _status = ends.same(talk)
    assert said["SQLSTATE"] == sqlstate


def test_notices(ends: Ends) -> None:
    def talk(connection: Connection) -> Any:
        notices: list[dict[str, str]] = []
        connection.add_notice_handler(lambda diagnosis: notices.append(fields(diagnosis)))
        connection.execute("DROP TABLE IF EXISTS nowhere")
        connection.execute("DO $$BEGIN RAISE INFO 'ä'; RAISE WARNING 'w' USING HINT = 'h'; END$$")
        return notices

    assert [notice["SEVERITY"] for notice in ends.same(talk)] == ["NOTICE", "INFO", "WARNING"]


def test_pipelines(ends: Ends) -> None:
    ends.prepare(*SCHEMA)

    def talk(connection: Connection) -> Any:
        heard: list[Any] = []
        for statement in ("SELECT %s::int", "SELECT 1 / %s::int"):
            try:
                with connection.pipeline() as pipeline:
                    before = connection.execute("SELECT title FROM book WHERE id = %s", (1,))
                    cursors = [connection.execute(statement, (n,)) for n in (2, 1, 0)]
                    connection.execute("INSERT INTO author VALUES (%s)", (7,))
                    heard.append(before.fetchall())
                    pipeline.sync()
                    heard += [cursor.fetchall() for cursor in cursors]
            except psycopg.Error as error:
                heard.append(fields(error.diag))
        with connection.pipeline(), connection.transaction(force_rollback=True):
            connection.execute("INSERT INTO author VALUES (%s)", (8,))
            heard.append(connection.execute("SELECT id FROM author ORDER BY id").fetchall())
        heard.append(connection.execute("DELETE FROM author WHERE id > 1 RETURNING id").fetchall())
        return heard

    heard = ends.same(talk)
    assert heard[-1] == [(7,)]
    assert any("22012" in said.values() for said in heard if isinstance(said, dict))


def test_an_error_ends_the_pipeline_up_to_its_sync(ends: Ends) -> None:
    """By libpq: when psycopg hears of the error, in the third ``execute`` or after it, depends on the machine."""

    def talk(connection: Connection) -> Any:
        asked = connection.pgconn
        asked.enter_pipeline_mode()
        for number in (1, 0, 1):
            asked.send_query_params(b"SELECT 1 / %d" % number, None)
        asked.pipeline_sync()
        asked.send_query_params(b"SELECT 'after'", None)
        asked.pipeline_sync()
        heard, syncs = [], 0
        while syncs < 2:
            if (result := asked.get_result()) is not None:  # else: all of one statement was told
                heard.append(seen(result))
                syncs += heard[-1].status == "PIPELINE_SYNC"
        asked.exit_pipeline_mode()
        return heard

    heard = ends.same(talk)
    ok, failed, aborted = "TUPLES_OK", "FATAL_ERROR", "PIPELINE_ABORTED"
    assert [one.status for one in heard] == [ok, failed, aborted, "PIPELINE_SYNC", ok, "PIPELINE_SYNC"]
    assert ("SQLSTATE", b"22012") in heard[1].error
    assert heard[4].rows == ((b"after",),)


def test_copy_in_every_way(ends: Ends) -> None:
    ends.prepare("CREATE TABLE t (a int, b text)")

    def talk(connection: Connection) -> Any:
        heard: list[Any] = [connection.execute("TRUNCATE t").statusmessage]
        cursor = connection.cursor()
        with cursor.copy("COPY t FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            for n in range(2000):
                copy.write_row((n, "x" * (n % 100)))
        heard.append(cursor.statusmessage)
        with pytest.raises(ZeroDivisionError), cursor.copy("COPY t FROM STDIN") as copy:
            copy.write_row((1 // 0, "never sent"))
        with pytest.raises(psycopg.errors.BadCopyFileFormat) as caught, cursor.copy("COPY t FROM STDIN") as copy:
            copy.write("1\tx\ttoo many\n")
        heard.append(fields(caught.value.diag))
        with cursor.copy("COPY (SELECT * FROM t ORDER BY a) TO STDOUT") as copy:
            heard += list(copy.rows())
        heard.append(cursor.execute("SELECT count(*), sum(length(b)) FROM t").fetchall())
        return heard

    assert ends.same(talk)[-1] == [(2000, 99000)]


def test_cursors_on_the_server(ends: Ends) -> None:
    def talk(connection: Connection) -> Any:
        heard: list[Any] = []
        with connection.transaction(), connection.cursor("c", scrollable=True) as cursor:
            cursor.execute("SELECT generate_series(1, 100), 'x'")
            heard += [cursor.fetchmany(3), cursor.fetchone()]
            cursor.scroll(-2)
            heard += [cursor.fetchone(), list(cursor)[-1]]
        held = connection.cursor("held", withhold=True)
        with held:
            held.execute("SELECT generate_series(1, 5)")
            heard.append(held.fetchall())
        heard.append(list(connection.cursor().stream("SELECT generate_series(1, 500)"))[-1])
        return heard

    assert ends.same(talk)[-1] == (500,)


def test_large_objects(ends: Ends) -> None:
    def talk(connection: Connection) -> Any:
        data = bytes(range(256)) * 4000
        with connection.transaction():
            ((oid,),) = connection.execute("SELECT lo_from_bytea(0, %s)", (data,)).fetchall()
            ((handle,),) = connection.execute("SELECT lo_open(%s, 393216)", (oid,)).fetchall()
            connection.execute("SELECT lo_lseek(%s, 100, 0)", (handle,))
            written = connection.execute("SELECT lowrite(%s, %s)", (handle, b"new")).fetchone()
            whole = connection.execute("SELECT lo_get(%s)", (oid,)).fetchone()
        connection.execute("SELECT lo_unlink(%s)", (oid,))
        return written, whole

    written, whole = ends.same(talk)
    assert written == (3,)
    assert whole[0][98:105] == bytes((98, 99)) + b"new" + bytes((103, 104))


def test_notifications_name_the_real_process(ends: Ends) -> None:
    with (
        psycopg.connect(ends.proxied, autocommit=True) as listener,
        psycopg.connect(ends.proxied, autocommit=True) as speaker,
    ):
        listener.execute("LISTEN here")
        speaker.execute("SELECT pg_notify('here', 'news')")
        speaker.execute("/* batch:5 */ CREATE TABLE t (a int)")
        (heard,) = listener.notifies(timeout=60, stop_after=1)
        assert (heard.channel, heard.payload, heard.pid) == ("here", "news", speaker.info.backend_pid)
        assert speaker.execute("SELECT pg_backend_pid()").fetchone() == (speaker.info.backend_pid,)


def test_settings_are_reported(ends: Ends) -> None:
    def talk(connection: Connection) -> Any:
        names = ("server_version", "TimeZone", "DateStyle", "client_encoding", "is_superuser", "in_hot_standby")
        heard: list[Any] = [connection.info.parameter_status(name) for name in names]
        connection.execute("SET TimeZone = 'Asia/Tokyo'; SET application_name = 'app'")
        connection.execute("SET SESSION AUTHORIZATION pg_monitor")
        heard += [connection.info.parameter_status(name) for name in (*names, "application_name")]
        connection.execute("SELECT set_config('client_encoding', 'LATIN1', false)")
        return [*heard, connection.info.encoding, connection.execute("SELECT 'ä'").fetchall()]

    assert "Asia/Tokyo" in ends.same(talk)


def test_prepared_statements(ends: Ends) -> None:
    def talk(connection: Connection) -> Any:
        connection.prepare_threshold = 0
        connection.prepared_max = 3
        texts = [b"SELECT %%s::int + %d" % (n % 5) for n in range(10)]
        heard = [connection.execute(text, (5,)).fetchone() for text in texts]
        connection.execute("DEALLOCATE ALL")
        return [*heard, connection.execute("SELECT %s::int + 1", (1,)).fetchone()]

    assert ends.same(talk)[-1] == (2,)


def test_prepared_transactions_and_savepoints(ends: Ends) -> None:
    ends.prepare("CREATE TABLE t (a int PRIMARY KEY)")

    def talk(connection: Connection) -> Any:
        connection.execute("TRUNCATE t")
        with connection.transaction():
            connection.execute("INSERT INTO t VALUES (1)")
            with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
                connection.execute("INSERT INTO t VALUES (1)")
            connection.execute("INSERT INTO t VALUES (2)")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught, connection.transaction():
            connection.execute("PREPARE TRANSACTION 'x'")
        return fields(caught.value.diag), connection.execute("SELECT a FROM t ORDER BY a").fetchall()

    assert ends.same(talk)[1] == [(1,), (2,)]

"""What drivers and ORMs send when they connect and around their writes: that they batch, or why not.

How a hint gets into a statement is part of these examples; the documentation points here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa

from tests.integration.batching.conftest import MakeCrowd, Place
from tests.integration.batching.crowd import COUNT, Reply, Status, extended, reply, status
from tests.integration.compare import Connection
from tests.integration.wire import SYNC, bind, describe, execute, parse, query

PATIENT_MS = 20_000
"""What drivers send can't be held back. They fill a group, so that nobody waits for so long."""
HINT = f"/* batch:{PATIENT_MS} */"
INSERT = f"{HINT} INSERT INTO t (a, b) VALUES (%s, %s)"
INSERTED = [Reply(tag="INSERT 0 1")] * COUNT


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """The results of these, each called in a thread of its own."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(30) for future in [pool.submit(call) for call in calls]]


def seen(rows: list[tuple[Any, ...]]) -> Status:
    found = dict(row[:2] for row in rows)
    return Status(found["LastStrategy"], found["LastBatchSize"], found["Reason"])


@pytest.fixture
def plain(place: Place) -> Place:
    place.make("CREATE TABLE t (a int, b text)")
    return place


# psycopg


@contextmanager
def psycopgs(place: Place, **options: Any) -> Iterator[list[Connection]]:
    """As many connections as make a full batch."""
    options = {"autocommit": True, "options": f"-c search_path={place.here}", **options}
    with ExitStack() as stack:
        yield [stack.enter_context(psycopg.connect(place.proxied, **options)) for _ in range(COUNT)]


def looked(connection: Connection) -> Status:
    return seen(connection.execute("SELECT * FROM pg_tqdb_status").fetchall())


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "encoding": {"client_encoding": "latin1", "application_name": "psycopg's"},
    "always prepared": {"prepare_threshold": 0},
    "never prepared": {"prepare_threshold": None},
    "literals": {"cursor_factory": psycopg.ClientCursor},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_psycopg(plain: Place, name: str) -> None:
    with psycopgs(plain, **OPTIONS[name]) as connections:
        for _ in range(2):
            at_once(*(lambda c=c, n=n: c.execute(INSERT, (n, "é")) for n, c in enumerate(connections)))
            assert {looked(connection) for connection in connections} == {("merged", str(COUNT), "")}
    assert plain.rows("SELECT count(*), sum(a), min(b) FROM t") == ((b"16", b"56", "é".encode()),)


def test_psycopg_with_other_options_does_not_meet(plain: Place) -> None:
    path = f"-c search_path={plain.here}"
    with psycopgs(plain) as some, psycopgs(plain, options=f"{path} -c work_mem=5MB") as others:
        both = some[:4] + others[:4]
        insert = INSERT.replace(HINT, "/* batch:2000 */")  # neither half is a full group
        at_once(*(lambda c=c: c.execute(insert, (1, "x")) for c in both))
        assert {looked(connection) for connection in both} == {("merged", "4", "")}


def test_psycopg_without_autocommit_is_in_a_transaction(plain: Place) -> None:
    with psycopgs(plain, autocommit=False) as connections:
        for connection in connections:
            connection.execute(INSERT, (1, "x"))
            assert looked(connection) == ("", "", "transaction")
            connection.commit()
            connection.autocommit = True  # what was said in between doesn't matter
        at_once(*(lambda c=c: c.execute(INSERT, (1, "x")) for c in connections))
        assert {looked(connection) for connection in connections} == {("merged", str(COUNT), "")}


def test_psycopg_with_rows_of_their_own(plain: Place) -> None:
    with psycopgs(plain) as connections:
        calls = (lambda c=c, n=n: c.execute(f"{INSERT} RETURNING a", (n, "x")) for n, c in enumerate(connections))
        assert [cursor.fetchall() for cursor in at_once(*calls)] == [[(n,)] for n in range(COUNT)]
        assert {looked(connection) for connection in connections} == {("prepared", str(COUNT), "")}


# asyncpg


async def asyncpgs(place: Place, work: Callable[[Any], Any], **settings: str) -> None:
    settings = {"search_path": place.here, "application_name": "asyncpg's", **settings}
    pool = asyncpg.create_pool(
        host="127.0.0.1",
        port=place.proxied_port,
        user="postgres",
        database=place.database,
        server_settings=settings,
        min_size=COUNT,
        max_size=COUNT,
    )
    async with pool:
        await work(pool)


def test_asyncpg(plain: Place) -> None:
    """With a pool, which says ``RESET ALL`` and more whenever a connection is given back.

    asyncpg waits for the description of a statement before it executes it for the first time, in the same unit; that
    time it isn't batched. So without its cache of statements (``statement_cache_size=0``) nothing is.
    """
    insert = f"{HINT} INSERT INTO t (a, b) VALUES ($1, $2)"

    async def write(pool: Any, number: int, at_the_same_time: asyncio.Barrier) -> Status:
        async with pool.acquire() as connection:
            async with connection.transaction():
                await connection.execute("SET LOCAL work_mem = '5MB'")
            await connection.execute("SET timezone = 'Asia/Tokyo'")
            await at_the_same_time.wait()
            await connection.execute(insert, number, "x")
            return seen(await connection.fetch("SELECT * FROM pg_tqdb_status"))

    async def work(pool: Any) -> None:
        for expected in (("", "", "pipeline"), ("merged", str(COUNT), ""), ("merged", str(COUNT), "")):
            barrier = asyncio.Barrier(COUNT)
            found = await asyncio.gather(*(write(pool, n, barrier) for n in range(COUNT)))
            assert set(found) == {expected}

    asyncio.run(asyncpgs(plain, work, DateStyle="ISO, DMY"))
    assert plain.rows("SELECT count(*), sum(a) FROM t") == ((b"24", b"84"),)


# JDBC, as pgjdbc has done it: settings in the start-up packet, or SETs in the extended protocol


def jdbc_set(text: str) -> bytes:
    return parse(text) + bind() + describe() + execute(limit=1) + SYNC


@pytest.mark.parametrize("at_start", [True, False])
def test_jdbc(plain: Place, crowds: MakeCrowd, at_start: bool) -> None:
    options = {"client_encoding": "UTF8", "DateStyle": "ISO", "TimeZone": "Europe/Berlin"}
    if at_start:
        options |= {"extra_float_digits": "2", "application_name": "PostgreSQL JDBC Driver"}
    crowd = crowds(**options)
    for number, wire in enumerate(crowd.wires):
        if not at_start:
            for text in ("SET extra_float_digits = 3", f"SET application_name = 'PostgreSQL JDBC Driver {number}'"):
                assert reply(wire.ask(jdbc_set(text))).tag == "SET"
    text = f"INSERT INTO t (a, b) VALUES ($1, $2) {HINT}"  # setString, setInt: declared types, a row limit of 0
    said = crowd.send(
        lambda n: parse(text, types=(23, 1043)) + bind(n.to_bytes(4, "big"), "x", formats=(1, 0))
        + describe() + execute() + SYNC
    )  # fmt: skip
    assert said == INSERTED
    assert crowd.together == "merged"
    strange = crowd.wires[0]
    strange.ask(jdbc_set("SET extra_float_digits = 0"))
    assert crowd.send(lambda n: extended("INSERT INTO t VALUES ($1, $2)", str(n), "x")) == INSERTED
    assert status(strange).size == "1"


# Django


BERLIN = "Europe/Berlin"
BY_SET = f"SET TIME ZONE '{BERLIN}'"
BY_FUNCTION = f"SELECT set_config('TimeZone', '{BERLIN}', false)"


@pytest.mark.parametrize("text", [BY_SET, BY_FUNCTION])
def test_django(plain: Place, crowds: MakeCrowd, text: str) -> None:
    """Until 4.1, and from 4.2 on (by default it puts values into the text itself)."""
    crowd = crowds()
    crowd.all(text)
    assert crowd.send(lambda n: extended("INSERT INTO t VALUES ($1, $2)", str(n), "x")) == INSERTED
    assert crowd.together == "merged"


def test_django_with_server_side_binding(plain: Place, crowds: MakeCrowd) -> None:
    """A setting in a parameter isn't looked at: such sessions are alone.

    Django leaves it out where the session has the time zone already, as reported: give it to the role or database.
    """
    crowd = crowds()
    for wire in crowd.wires:
        wire.ask(parse("SELECT set_config('TimeZone', $1, false)") + bind(BERLIN) + execute() + SYNC)
    assert crowd.send(lambda n: extended("INSERT INTO t VALUES ($1, $2)", str(n), "x")) == INSERTED
    assert set(crowd.statuses()) == {("", "", "session_state")}

    alike = crowds(TimeZone=BERLIN)  # stands for ALTER ROLE ... SET timezone
    assert alike.send(lambda n: extended("INSERT INTO t VALUES ($1, $2)", str(n), "x")) == INSERTED
    assert alike.together == "merged"


# PostgREST


def test_postgrest_writes_in_transactions_and_leaves_nothing_behind(plain: Place, crowds: MakeCrowd) -> None:
    crowd = crowds()
    claims = "SELECT set_config('role', 'pg_monitor', true), set_config('request.jwt.claims', $1, true)"
    for wire in crowd.wires:
        wire.ask(query("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"))
        wire.ask(parse(claims) + bind('{"role": "web"}') + execute() + SYNC)
        wire.ask(query("SET LOCAL ROLE NONE"))
        assert reply(wire.ask(extended("INSERT INTO t VALUES ($1, $2)", "1", "x"))).tag == "INSERT 0 1"
        assert status(wire) == ("", "", "transaction")
        wire.ask(query("COMMIT"))
    assert crowd.send(lambda n: extended("INSERT INTO t VALUES ($1, $2)", str(n), "x")) == INSERTED
    assert crowd.together == "merged"


def test_set_role_for_the_session_can_not_be_known(plain: Place, crowds: MakeCrowd) -> None:
    plain.directly(plain.here, f"GRANT ALL ON t TO pg_monitor; GRANT USAGE ON SCHEMA {plain.here} TO pg_monitor")
    crowd = crowds()
    crowd.all("SET ROLE pg_monitor")
    assert crowd.send(lambda n: extended("INSERT INTO t VALUES ($1, $2)", str(n), "x")) == INSERTED
    assert set(crowd.statuses()) == {("", "", "session_state")}
    crowd.all("DISCARD ALL")
    assert crowd.send(lambda n: extended("INSERT INTO t VALUES ($1, $2)", str(n), "x")) == INSERTED
    assert crowd.together == "merged"


# SQLAlchemy

TABLE = sa.Table("t", sa.MetaData(), sa.Column("a", sa.Integer), sa.Column("b", sa.Text))


@pytest.fixture
def engine(plain: Place) -> Iterator[sa.Engine]:
    """In autocommit mode; a statement's execution option ``batch`` becomes a hint before it."""
    made = sa.create_engine(
        f"postgresql+psycopg://postgres@127.0.0.1:{plain.proxied_port}/{plain.database}",
        isolation_level="AUTOCOMMIT",
        connect_args={"options": f"-c search_path={plain.here}", "application_name": "SQLAlchemy's"},
        pool_size=COUNT,
    )

    @sa.event.listens_for(made, "before_cursor_execute", retval=True)
    def add_hint(_c: Any, _cursor: Any, text: str, values: Any, context: Any, _many: bool) -> tuple[str, Any]:
        batch = context.execution_options.get("batch") if context is not None else None
        return (f"/* batch:{batch} */ {text}" if batch is not None else text), values

    yield made
    made.dispose()


@contextmanager
def connections(engine: sa.Engine) -> Iterator[list[sa.Connection]]:
    with ExitStack() as stack:
        yield [stack.enter_context(engine.connect()) for _ in range(COUNT)]


def look(connection: sa.Connection) -> Status:
    return seen([tuple(row) for row in connection.exec_driver_sql("SELECT * FROM pg_tqdb_status")])


def test_sqlalchemy_with_an_execution_option(plain: Place, engine: sa.Engine) -> None:
    insert = sa.insert(TABLE).execution_options(batch=PATIENT_MS)
    with connections(engine) as opened:
        for _ in range(2):
            at_once(*(lambda c=c, n=n: c.execute(insert, {"a": n, "b": "x"}) for n, c in enumerate(opened)))
            assert {look(connection) for connection in opened} == {("merged", str(COUNT), "")}
        update = (
            sa.update(TABLE).where(TABLE.c.a == sa.bindparam("n")).values(b="y").execution_options(batch=PATIENT_MS)
        )
        found = at_once(*(lambda c=c, n=n: c.execute(update, {"n": n}).rowcount for n, c in enumerate(opened)))
        assert found == [2] * COUNT
        assert {look(connection) for connection in opened} == {("prepared", str(COUNT), "")}
    assert plain.rows("SELECT count(*), sum(a), min(b) FROM t") == ((b"16", b"56", b"y"),)


def test_sqlalchemy_with_a_hint_in_the_text(engine: sa.Engine) -> None:
    insert = sa.text(f"{HINT} INSERT INTO t (a, b) VALUES (:a, :b) RETURNING a")
    with connections(engine) as opened:
        calls = (lambda c=c, n=n: c.execute(insert, {"a": n, "b": "x"}).scalar_one() for n, c in enumerate(opened))
        assert at_once(*calls) == list(range(COUNT))
        assert {look(connection) for connection in opened} == {("prepared", str(COUNT), "")}


def test_sqlalchemys_prefix_stands_in_the_wrong_place(engine: sa.Engine) -> None:
    """``INSERT /* batch:20000 */ INTO``: a hint stands before the first keyword or after the last token."""
    with engine.connect() as connection:
        connection.execute(sa.insert(TABLE).prefix_with(HINT), {"a": 1, "b": "x"})
        assert look(connection) == ("", "", "")


def test_sqlalchemy_in_a_transaction(engine: sa.Engine) -> None:
    insert = sa.insert(TABLE).execution_options(batch=PATIENT_MS)
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
        connection.execute(insert, {"a": 1, "b": "x"})
        assert look(connection) == ("", "", "transaction")
        connection.commit()

"""What asyncpg's users do, which speaks the binary formats and the extended protocol in its own way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from tests.integration.compare import Ends

Talk = Callable[[Any], Awaitable[Any]]


def same(ends: Ends, talk: Talk) -> Any:
    """What ``talk`` returns for a connection, the same directly and through the proxy."""

    async def hold(port: int) -> Any:
        connection = await asyncpg.connect(host="127.0.0.1", port=port, user="postgres", database=ends.database)
        try:
            return await talk(connection)
        finally:
            await connection.close()

    direct = asyncio.run(hold(ends.direct_port))
    proxied = asyncio.run(hold(ends.proxied_port))
    assert proxied == direct
    return proxied


def test_types_and_prepared_statements(ends: Ends) -> None:
    async def talk(connection: Any) -> Any:
        types = "SELECT $1::int8, $2::text[], $3::numeric, $4::timestamptz, '1 day'::interval, '{\"a\": 1}'::jsonb"
        row = await connection.fetchrow(types, 5, ["a", None], 1, None)
        statement = await connection.prepare("SELECT generate_series(1, $1::int) AS n")
        attributes = [(a.name, a.type.name) for a in statement.get_attributes()]
        many = [tuple(record) for record in await statement.fetch(20)]
        return tuple(row), attributes, many, statement.get_statusmsg()

    assert same(ends, talk)[3] == "SELECT 20"


def test_cursors_in_a_transaction(ends: Ends) -> None:
    async def talk(connection: Any) -> Any:
        async with connection.transaction():
            cursor = await connection.cursor("SELECT generate_series(1, 1000)")
            first = [record[0] for record in await cursor.fetch(7)]
            await cursor.forward(90)
            return first, (await cursor.fetchrow())[0], [r[0] async for r in connection.cursor("SELECT 5", prefetch=1)]

    assert same(ends, talk) == ([1, 2, 3, 4, 5, 6, 7], 98, [5])


def test_copy(ends: Ends) -> None:
    async def talk(connection: Any) -> Any:
        await connection.execute("DROP TABLE IF EXISTS t; CREATE TABLE t (a int, b text)")
        records = [(n, "x" * n) for n in range(500)]
        copied = await connection.copy_records_to_table("t", records=records)
        with pytest.raises(asyncpg.BadCopyFileFormatError):
            await connection.copy_to_table("t", source=_source(b"1\t2\t3\n"))
        out: list[bytes] = []

        async def keep(data: bytes) -> None:
            out.append(data)

        await connection.copy_from_query("SELECT * FROM t ORDER BY a", output=keep)
        return copied, b"".join(out), await connection.fetchval("SELECT sum(length(b)) FROM t")

    assert same(ends, talk)[2] == 124750


async def _source(data: bytes) -> Any:
    yield data


def test_executemany_is_one_pipeline(ends: Ends) -> None:
    async def talk(connection: Any) -> Any:
        await connection.execute("DROP TABLE IF EXISTS t; CREATE TABLE t (a int PRIMARY KEY)")
        insert = "/* batch:5 */ INSERT INTO t VALUES ($1)"
        await connection.executemany(insert, [(n,) for n in range(300)])
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.executemany(insert, [(n,) for n in (301, 302, 5, 303)])
        return await connection.fetchval("SELECT count(*) FROM t")

    assert same(ends, talk) == 300


def test_a_timeout_cancels_the_query_and_the_connection_lives_on(ends: Ends) -> None:
    async def talk(connection: Any) -> Any:
        with pytest.raises(asyncio.TimeoutError):
            await connection.fetchval("SELECT pg_sleep(60)", timeout=0.2)
        return await connection.fetchval("SELECT 5")

    assert same(ends, talk) == 5


def test_listening(ends: Ends) -> None:
    async def talk(connection: Any) -> Any:
        heard: asyncio.Queue[tuple[bool, str]] = asyncio.Queue()
        process = connection.get_server_pid()
        await connection.add_listener("here", lambda _c, pid, _channel, said: heard.put_nowait((pid == process, said)))
        await connection.execute("NOTIFY here, 'news'")
        return await asyncio.wait_for(heard.get(), 60)

    assert same(ends, talk) == (True, "news")


def test_hinted_writes_of_many_connections(ends: Ends) -> None:
    ends.prepare("CREATE TABLE t (id serial PRIMARY KEY, who int, n int)")

    async def write(who: int) -> list[int]:
        connection = await asyncpg.connect(
            host="127.0.0.1", port=ends.proxied_port, user="postgres", database=ends.database
        )
        insert = "/* batch:5 */ INSERT INTO t (who, n) VALUES ($1, $2) RETURNING id"
        try:
            return [await connection.fetchval(insert, who, n) for n in range(50)]
        finally:
            await connection.close()

    async def write_all() -> list[list[int]]:
        return await asyncio.gather(*(write(who) for who in range(20)))

    for who, ids in enumerate(asyncio.run(write_all())):
        assert ends.ask(f"SELECT id, n FROM t WHERE who = {who} ORDER BY n") == list(zip(ids, range(50), strict=True))

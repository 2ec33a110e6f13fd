"""Drivers as they are used: the same rows and types from memory as from the server."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import psycopg
import pytest

from tests.integration.caching.places import Place, cached

QUESTION = "SELECT i, i / 3.0 AS n, 'é' || i AS x, now() - now() AS d, ARRAY[i] AS a FROM generate_series(1, 3) i"


def backend_of(connection: psycopg.Connection[Any]) -> str:
    return str(dict(connection.execute("SELECT * FROM pg_tqdb_status").fetchall())["Backend"])


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("prepare", [False, True, None])
def test_psycopg(place: Place, prepare: bool | None, binary: bool) -> None:
    options = f"-csearch_path={place.schema}"
    dsns = (
        place.proxy.dsn(place.database, options=options),
        f"host=127.0.0.1 port={place.direct_port} user=postgres dbname={place.database}",
    )
    with psycopg.connect(dsns[0], autocommit=True) as proxied, psycopg.connect(dsns[1], autocommit=True) as direct:
        truth = direct.execute(QUESTION + " WHERE i > %s", (1,), prepare=prepare, binary=binary).fetchall()
        for _ in range(8):
            said = proxied.execute(cached(QUESTION) + " WHERE i > %s", (1,), prepare=prepare, binary=binary).fetchall()
            assert said == truth
        assert backend_of(proxied) == "cache"
        with proxied.transaction():
            assert proxied.execute(cached(QUESTION)).fetchall() == direct.execute(QUESTION).fetchall()
        cursor = psycopg.ClientCursor(proxied)
        for _ in range(2):
            assert cursor.execute(cached("SELECT %s, 1"), ("x",)).fetchall() == [("x", 1)]


def test_asyncpg(place: Place) -> None:
    async def talk() -> None:
        settings = {"search_path": place.schema}
        one, two = [
            await asyncpg.connect(
                host="127.0.0.1",
                port=place.proxy.port,
                user="postgres",
                database=place.database,
                server_settings=settings,
            )
            for _ in range(2)
        ]
        direct = await asyncpg.connect(
            host="127.0.0.1", port=place.direct_port, user="postgres", database=place.database
        )
        try:
            # Not an array: to learn its type asyncpg sets "jit" in a larger SELECT.
            question = QUESTION.replace("ARRAY[i]", "i::float8") + " WHERE i > $1"
            truth = await direct.fetch(question, 1)
            for connection in (one, two, one, two):
                assert await connection.fetch(cached(question), 1) == truth
            assert dict(await two.fetch("SELECT * FROM pg_tqdb_status"))["Backend"] == "cache"
        finally:
            for connection in (one, two, direct):
                await connection.close()

    asyncio.run(talk())

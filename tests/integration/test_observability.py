"""What the proxy says about itself: the status view, the metrics, the log."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from urllib.error import HTTPError
from urllib.request import urlopen

import asyncpg
import psycopg
import pytest

from tests.integration.compare import Connection, Ends
from tests.integration.metrics import Growth, scrape
from tests.integration.test_batches import HINT, TOGETHER, extended, simple, together
from tests.integration.test_limits import StartWith, Wires
from tests.integration.wire import SYNC, Wire, bind, describe, execute, kinds, parse, query
from tests.proxies import HOST, RunningProxy
from tqdbproxy.embedded import EmbeddedServer

VIEW = "SELECT * FROM pg_tqdb_status"
NAMES = ["Shard", "Backend", "LastBatchSize", "LastBatchWaitMs", "LastStrategy", "Reason"]


def status(connection: Connection) -> dict[str, str]:
    """The view's rows."""
    return dict(connection.execute(VIEW).fetchall())


def raw_status(wire: Wire) -> dict[str, str]:
    """The same, asked by hand."""
    rows = [frame.body for frame in wire.ask(query(VIEW)) if frame.kind == "D"]
    pairs = ((body[6 : 6 + body[5]], body[10 + body[5] :]) for body in rows)
    return {name.decode(): value.decode() for name, value in pairs}


# The view


def test_after_a_forwarded_statement(ends: Ends) -> None:
    with psycopg.connect(ends.proxied, autocommit=True) as connection:
        assert status(connection) == dict.fromkeys(NAMES, "") | {"Shard": "main", "Backend": "none"}
        connection.execute("SELECT 1")
        assert status(connection) == dict.fromkeys(NAMES, "") | {"Shard": "main", "Backend": "primary"}
        assert status(connection)["Backend"] == "primary"


def test_after_a_hint_that_was_not_followed(ends: Ends) -> None:
    ends.prepare("CREATE TABLE t (a int)")
    with psycopg.connect(ends.proxied) as connection:
        connection.execute("/* batch:5 */ INSERT INTO t VALUES (1)")
        assert (status(connection)["Backend"], status(connection)["Reason"]) == ("primary", "transaction")
        connection.commit()


@pytest.mark.parametrize("ask", [simple, extended])
def test_after_a_batch(start_with: StartWith, wires: Wires, ask: Callable[..., bytes]) -> None:
    proxy, ends = start_with(TOGETHER.format(6))
    ends.prepare("CREATE TABLE t (a int PRIMARY KEY)")
    six = wires(6, proxy.port, ends.database)
    together(six, [ask(f"{HINT} INSERT INTO t VALUES ($1) RETURNING a", n) for n in range(6)])
    for wire in six:
        said = raw_status(wire)
        assert float(said.pop("LastBatchWaitMs")) >= 0
        assert said == {
            "Shard": "main",
            "Backend": "write-batch",
            "LastBatchSize": "6",
            "LastStrategy": "prepared",
            "Reason": "",
        }
    together(six, [ask(f"{HINT} INSERT INTO t VALUES ($1)", n + 10) for n in range(6)])
    assert raw_status(six[0])["LastStrategy"] in ("prepared", "merged")
    together(six, [ask("/* batch:20000 key:k */ " + f"DELETE FROM t WHERE a = $1 AND {n} = {n}", n) for n in range(6)])
    assert raw_status(six[5])["LastStrategy"] in ("transaction", "prepared")


def test_every_way_to_ask(postgres: EmbeddedServer, ends: Ends) -> None:
    with psycopg.connect(ends.proxied, autocommit=True) as connection:
        for text in (VIEW, "  select *\n\tfrom PG_TQDB_STATUS ; ", "/* who */ SELECT * FROM pg_tqdb_status -- x\n"):
            assert [name for name, _value in connection.execute(text.encode()).fetchall()] == NAMES
        for binary in (False, True):
            cursor = connection.execute(VIEW, prepare=True, binary=binary)
            assert [column.name for column in cursor.description or ()] == ["variable_name", "value"]
            assert len(cursor.fetchall()) == len(NAMES)
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT value FROM pg_tqdb_status")
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT 'SELECT * FROM pg_tqdb_status' FROM pg_tqdb_status")

    async def ask() -> list[str]:
        connection = await asyncpg.connect(host=HOST, port=ends.proxied_port, user="postgres", database=ends.database)
        try:
            return [row["variable_name"] for row in await connection.fetch(VIEW)]
        finally:
            await connection.close()

    assert asyncio.run(ask()) == NAMES
    psql = [postgres.tool("psql"), ends.proxied, "-XAt", "-c", VIEW]
    assert "Backend|none" in subprocess.run(psql, capture_output=True, text=True, check=True).stdout


def test_in_a_pipeline_and_in_transactions(ends: Ends) -> None:
    with Wire(ends.proxied_port).start(ends.database) as wire:
        wire.send(query("SELECT 1"), query(VIEW), parse(VIEW), bind(), describe(), execute(), SYNC, query("SELECT 2"))
        assert kinds(wire.until("Z", 4)) == "TDCZ" + "T" + "D" * 6 + "CZ" + "12T" + "D" * 6 + "CZ" + "TDCZ"
        wire.ask(query("BEGIN"))
        assert wire.ask(query(VIEW))[-1].body == b"T"
        wire.ask(query("SELECT 1/0"))
        assert wire.ask(query(VIEW))[0].fields()["C"] == "25P02"
        assert wire.ask(query("ROLLBACK"))[-1].body == b"I"


# Metrics


def test_statements_by_caller(proxy: RunningProxy, ends: Ends) -> None:
    ends.prepare("CREATE TABLE t (a int)")
    grown = Growth(proxy)
    with psycopg.connect(ends.proxied, autocommit=True) as connection:
        for _ in range(3):
            connection.execute("/* batch:5 file:app.py line:7 */ INSERT INTO t VALUES (1)")
        connection.execute("UPDATE t SET a = 2 /*batch='5',file='my%20app.py',line='8'*/")
        connection.execute("/* controller:orders,action:index,batch:0 */ DELETE FROM t")
        connection.execute("SELECT 1")
        connection.execute("/* batch:soon file:app.py line:9 */ INSERT INTO t VALUES (1)")
    here = {"file": "app.py", "line": "7", "query_type": "insert"}
    assert grown("query_total", **here) == 3
    assert grown("query_latency_seconds_count", **here) == 3
    assert grown("query_total", file="my app.py", line="8", query_type="update") == 1
    assert grown("query_total", query_type="delete") == 1
    assert grown("query_total", query_type="select") >= 1
    assert grown("query_total", file="app.py", line="9") == 1
    assert grown("hint_errors_total", key="batch") == 1
    assert grown("database_queries_total", replica="main/primary") == 7


def test_batches(start_with: StartWith, wires: Wires) -> None:
    proxy, ends = start_with(TOGETHER.format(6))
    ends.prepare("CREATE TABLE t (a int PRIMARY KEY)")
    six = wires(6, proxy.port, ends.database)
    insert = "/* batch:20000 file:app.py line:7 */ INSERT INTO t VALUES ($1) RETURNING a"
    together(six, [extended(insert, n) for n in range(6)])
    page = scrape(proxy)
    assert page.total("write_batched_total", file="app.py", line="7", query_type="insert") == 6
    assert page.total("write_batch_size_bucket", le="5.0") == 0
    assert page.total("write_batch_size_bucket", le="10.0") == page.total("write_batch_size_count") == 1
    assert page.total("write_batch_delay_seconds_count") == page.total("write_batch_latency_seconds_count") == 1
    assert page.total("write_batch_method_total", method="prepared") == 1
    assert page.total("write_batch_closed_total", reason="full") == 1
    assert page.total("write_aggregation_factor") == 6
    assert page.total("clients") == page.total("clients", state="session") == 6
    assert page.total("server_connections", state="open") == 6
    together(six, [extended(insert, 10 - n) for n in range(6)])  # the last one is there already
    page = scrape(proxy)
    assert page.total("write_batch_retries_total", way="forward") == 1
    assert page.total("write_batch_retries_total", way="batch") == 5
    assert page.total("write_batched_total") == 11


def test_the_page_and_nothing_else(proxy: RunningProxy) -> None:
    with urlopen(f"http://{HOST}:{proxy.metrics_port}/metrics", timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
    with pytest.raises(HTTPError, match="404") as caught:
        urlopen(f"http://{HOST}:{proxy.metrics_port}/other", timeout=60)
    caught.value.close()


def test_callers_are_bounded(start_with: StartWith) -> None:
    proxy, ends = start_with("[metrics]\nmax_callers = 3\n")
    ends.prepare("CREATE TABLE t (a int)")
    with psycopg.connect(ends.proxied, autocommit=True) as connection:
        for line in range(10):
            connection.execute(f"/* batch:5 file:app.py line:{line} */ INSERT INTO t VALUES (1)".encode())
    page = scrape(proxy)
    assert page.total("query_total", file="app.py") == 3
    assert page.total("query_total", file="other") == 7


def test_the_log_has_no_texts_and_one_line_for_each_problem(start_with: StartWith) -> None:
    proxy, ends = start_with("")
    with Wire(proxy.port).start(ends.database) as wire:
        wire.ask(query("SELECT 'secret' FROM nowhere"))
        wire.send(b"?\0\0\0\4")
        wire.to_end()
    lines = [line for line in proxy.log.splitlines() if "#info" not in line]
    assert len(lines) == 1
    assert f"user postgres, database {ends.database}" in lines[0]
    assert "secret" not in proxy.log

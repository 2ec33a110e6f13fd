"""Several groups of servers: whose database is where, what a reload moves, and servers that are out of reach."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest

from tests.integration.metrics import scrape
from tests.integration.test_observability import status
from tests.integration.test_signals import reload
from tests.integration.waiting import wait_for
from tests.integration.wire import PROTOCOL_3_0, Wire, cancel_request, kinds, query, request
from tests.proxies import HOST, Ports, RunningProxy
from tqdbproxy.embedded import EmbeddedServer

Start = Callable[..., RunningProxy]
RELOADED = "configuration reloaded"


@pytest.fixture(scope="module")
def other() -> Iterator[EmbeddedServer]:
    """A second server, with the database ``orders``."""
    with EmbeddedServer() as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE orders")
        yield server


def sales(server: EmbeddedServer | int, databases: str = "orders", more: str = "") -> str:
    """A group's section."""
    port = server if isinstance(server, int) else server.port
    return f"[postgres.sales]\nprimary = {HOST}:{port}\ndatabases = {databases}\n{more}\n"


def begin(postgres: EmbeddedServer, start: Start, text: str) -> RunningProxy:
    return start(f"{postgres.host}:{postgres.port}", text)


def port_of(connection: psycopg.Connection) -> int:
    """Of the server behind it."""
    (port,) = connection.execute("SELECT inet_server_port()").fetchone() or (0,)
    return int(port)


def test_a_database_s_group_serves_it(postgres: EmbeddedServer, other: EmbeddedServer, start: Start) -> None:
    proxy = begin(postgres, start, sales(other, "orders, customers"))
    with (
        psycopg.connect(proxy.dsn("orders"), autocommit=True) as there,
        psycopg.connect(proxy.dsn(), autocommit=True) as here,
    ):
        assert (port_of(there), port_of(here)) == (other.port, postgres.port)
        assert (status(there)["Shard"], status(here)["Shard"]) == ("sales", "main")
        page = scrape(proxy)
        queries = [page.total("database_queries_total", replica=f"{group}/primary") for group in ("sales", "main")]
        assert queries == [1, 1]
        assert page.total("server_up", group="sales", address=f"{HOST}:{other.port}") == 1
        assert page.total("server_writable") == 2
        assert page.total("server_connections") == 2
    with pytest.raises(psycopg.OperationalError, match='database "customers" does not exist'):
        psycopg.connect(proxy.dsn("customers"))
    serves = f"group sales is at {HOST}:{other.port}, serves orders, customers"
    assert serves in proxy.log


def test_a_database_that_no_group_serves(postgres: EmbeddedServer, other: EmbeddedServer, start: Start) -> None:
    proxy = begin(
        postgres, start, "[postgres]\ndefault = none\n[postgres.main]\ndatabases = elsewhere\n" + sales(other)
    )
    with psycopg.connect(proxy.dsn("orders")) as connection:
        assert port_of(connection) == other.port
    with pytest.raises(psycopg.OperationalError, match='FATAL:  no server group serves database "postgres"'):
        psycopg.connect(proxy.dsn())
    with Wire(proxy.port) as wire:
        wire.send(request(PROTOCOL_3_0, b"user\0nowhere\0\0"))  # without a database: it is named like the user
        (only,) = wire.to_end()
    assert (only.fields()["S"], only.fields()["C"]) == ("FATAL", "3D000")


def test_a_cancel_request_goes_where_its_session_is(
    postgres: EmbeddedServer, other: EmbeddedServer, start: Start
) -> None:
    proxy = begin(postgres, start, sales(other))
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"

    def sleepers(server: EmbeddedServer) -> int:
        with psycopg.connect(server.dsn()) as connection:
            (count,) = connection.execute(asleep).fetchone() or (0,)
            return int(count)

    with Wire(proxy.port).start("postgres") as here, Wire(proxy.port).start("orders") as there:
        for wire in (here, there):
            wire.send(query("SELECT pg_sleep(60)"))
        wait_for(lambda: sleepers(postgres) == sleepers(other) == 1)
        for wire, left in ((there, (1, 0)), (here, (0, 0))):
            with Wire(proxy.port) as canceller:
                canceller.send(cancel_request(wire.key))
                assert canceller.to_end() == []
            answer = wire.until()
            assert (kinds(answer), answer[1].fields()["C"]) == ("TEZ", "57014")
            assert (sleepers(postgres), sleepers(other)) == left


def test_a_reload_adds_moves_and_removes(postgres: EmbeddedServer, other: EmbeddedServer, start: Start) -> None:
    with psycopg.connect(postgres.dsn(), autocommit=True) as direct:
        direct.execute("DROP DATABASE IF EXISTS orders WITH (FORCE)")
        direct.execute("CREATE DATABASE orders")
    proxy = begin(postgres, start, "")
    with psycopg.connect(proxy.dsn("orders"), autocommit=True) as old:
        assert port_of(old) == postgres.port
        reload(proxy, sales(other), RELOADED)
        with psycopg.connect(proxy.dsn("orders"), autocommit=True) as new:
            assert (port_of(old), port_of(new)) == (postgres.port, other.port)
            reload(proxy, sales(other, "elsewhere"), RELOADED)
            with psycopg.connect(proxy.dsn("orders"), autocommit=True) as back:
                assert (port_of(old), port_of(new), port_of(back)) == (postgres.port, other.port, postgres.port)
            reload(proxy, "", RELOADED)
            assert (port_of(old), port_of(new)) == (postgres.port, other.port)
            assert scrape(proxy).total("database_queries_total", replica="sales/primary") == 3
            assert scrape(proxy).total("server_connections") == 2
            assert scrape(proxy).total("server_up") == 1
    assert "group sales takes no new sessions any more" in proxy.log
    assert "restart" not in proxy.log


def test_sessions_from_before_and_after_a_reload_share_no_batch(
    postgres: EmbeddedServer, other: EmbeddedServer, start: Start
) -> None:
    batching = "[write_batch]\nmax_hint_ms = 60000\nearly_quorum = off\nmax_batch_size = 2\n"
    with psycopg.connect(postgres.dsn(), autocommit=True) as direct:
        direct.execute("DROP DATABASE IF EXISTS orders WITH (FORCE)")
        direct.execute("CREATE DATABASE orders")
    for server in (postgres, other):
        with psycopg.connect(server.dsn("orders"), autocommit=True) as direct:
            direct.execute("DROP TABLE IF EXISTS t")
            direct.execute("CREATE TABLE t (a int, port int DEFAULT inet_server_port())")
    proxy = begin(postgres, start, sales(postgres) + batching)
    old = [Wire(proxy.port).start("orders") for _ in range(2)]
    reload(proxy, sales(other) + batching, RELOADED)
    new = [Wire(proxy.port).start("orders") for _ in range(2)]
    # An old one first, then a new one: together they would be two, and so a batch.
    for number, wire in enumerate([old[0], new[0], old[1], new[1]]):
        wire.send(query(f"/* batch:60000 key:k */ INSERT INTO t VALUES ({number})"))
    for wire in (*old, *new):
        assert kinds(wire.until()) == "CZ"
        wire.socket.close()
    for server, numbers in ((postgres, [0, 2]), (other, [1, 3])):
        with psycopg.connect(server.dsn("orders")) as direct:
            rows = direct.execute("SELECT a, port FROM t ORDER BY a").fetchall()
            assert rows == [(number, server.port) for number in numbers]
    assert scrape(proxy).total("write_batch_size_sum") == 4
    assert scrape(proxy).total("write_batch_size_count") == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (sales(1) + "[postgres.two]\nprimary = x\ndatabases = orders\n", "orders is claimed by"),
        ("[postgres]\ndefault = nowhere\n", "there is no section"),
        (sales(1, more="sslmode = verify-full"), "sslrootcert"),
        (sales(1, more="probe = host=x"), "host must not be given"),
    ],
)
def test_what_is_wrong_changes_nothing(
    postgres: EmbeddedServer, other: EmbeddedServer, start: Start, text: str, complaint: str
) -> None:
    proxy = begin(postgres, start, sales(other))
    reload(proxy, text, "configuration not reloaded")
    assert complaint in proxy.log
    with psycopg.connect(proxy.dsn("orders")) as connection:
        assert port_of(connection) == other.port


# Servers that are out of reach


@contextmanager
def black_hole() -> Iterator[int]:
    """A port where connections are neither accepted nor refused: its queue is full."""
    with socket.create_server((HOST, 0), backlog=0) as full:
        port = full.getsockname()[1]
        queued = []
        try:
            while True:
                waiting = socket.socket()
                queued.append(waiting)
                waiting.settimeout(0.5)
                waiting.connect((HOST, port))
        except TimeoutError:
            yield port
        finally:
            for one in queued:
                one.close()


def refusal_after(dsn: str) -> tuple[str, float]:
    """What a new session is told, and after how many seconds."""
    began = time.monotonic()
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(dsn)
    return str(caught.value), time.monotonic() - began


def test_a_server_out_of_reach_costs_the_timeout_once(postgres: EmbeddedServer, start: Start) -> None:
    with black_hole() as port:
        proxy = begin(postgres, start, sales(port, more="connect_timeout_s = 4\nprobe_interval_s = 0"))
        told, first = refusal_after(proxy.dsn("orders"))
        assert f"{HOST}:{port}: no answer within 4 s" in told
        assert first > 3.9
        told, second = refusal_after(proxy.dsn("orders"))
        assert f"{HOST}:{port}: no answer within 4 s" in told
        assert second < 3
        with psycopg.connect(proxy.dsn()) as connection:
            assert port_of(connection) == postgres.port


def test_a_server_out_of_reach_is_known_before_anybody_waits_for_it(postgres: EmbeddedServer, start: Start) -> None:
    with black_hole() as port:
        proxy = begin(postgres, start, sales(port, more="connect_timeout_s = 4\nprobe_interval_s = 0.2"))
        wait_for(lambda: "is down: no answer within 4 s" in proxy.log)
        assert refusal_after(proxy.dsn("orders"))[1] < 3
        beside = [("sales", 0.0), ("main", 1.0)]
        assert [(group, scrape(proxy).total("server_up", group=group)) for group, _up in beside] == beside
        # Meanwhile the reactor has not stood still.
        with psycopg.connect(proxy.dsn(), autocommit=True) as connection:
            for _ in range(50):
                began = time.monotonic()
                connection.execute("SELECT 1")
                assert time.monotonic() - began < 3


def test_the_next_server_is_tried_at_once(
    postgres: EmbeddedServer, other: EmbeddedServer, start: Start, ports: Ports
) -> None:
    (nobody,) = ports(1)
    with black_hole() as port:
        group = f"primary = {HOST}:{nobody}, {HOST}:{port}, {HOST}:{other.port}"
        more = f"{group}\ndatabases = orders\nconnect_timeout_s = 12\nprobe_interval_s = 0\n"
        proxy = begin(postgres, start, f"[postgres.sales]\n{more}")
        for least, most in ((3.9, 11.0), (0.0, 3.0)):
            began = time.monotonic()
            with psycopg.connect(proxy.dsn("orders")) as connection:
                assert port_of(connection) == other.port
            assert least < time.monotonic() - began < most


def test_a_server_that_stops_and_starts_is_shown(start: Start) -> None:
    with EmbeddedServer() as server:
        proxy = start(f"{server.host}:{server.port}", "[postgres.main]\nprobe_interval_s = 0.1\n")
        for _ in range(2):
            wait_for(lambda: scrape(proxy).total("server_up") == 1)
            server.stop("immediate")
            wait_for(lambda: not scrape(proxy).total("server_up"))
            server.start()
            # At once, without waiting for the next look: to be refused had cost nothing.
            psycopg.connect(proxy.dsn()).close()
        wait_for(lambda: scrape(proxy).total("server_up") == 1)
        assert proxy.log.count(f"{HOST}:{server.port} is down: ") == 2
        assert "#critical" not in proxy.log


def test_a_silent_server_does_not_keep_the_proxy_from_stopping(postgres: EmbeddedServer, start: Start) -> None:
    with closing(socket.create_server((HOST, 0))) as silent:
        port = silent.getsockname()[1]
        proxy = begin(postgres, start, sales(port, more="probe = user=x dbname=y\nconnect_timeout_s = 600"))
        wait_for(lambda: "clients connect to" in proxy.log)
        assert proxy.stop() == -signal.SIGTERM

"""Two servers by streaming replication: new sessions find the one that takes writes, also when it is another one."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.integration.metrics import scrape
from tests.integration.waiting import wait_for
from tests.proxies import RunningProxy
from tests.standbys import promote, standby_of, wait_for_commits_of
from tqdbproxy.embedded import EmbeddedServer

CONNECT_TIMEOUT_S = 30
GROUP = f"[postgres.main]\nconnect_timeout_s = {CONNECT_TIMEOUT_S}\nprobe_interval_s = 0.2\n"
PROBE = "probe = user=postgres dbname=postgres\n"
HBA = "host all salted 127.0.0.1/32 scram-sha-256"
SECRET = {"user": "salted", "password": "secret"}

Start = Callable[..., RunningProxy]


@pytest.fixture(scope="module")
def primary() -> Iterator[EmbeddedServer]:
    """A server that trusts everybody but ``salted``, who has to show a password."""
    with EmbeddedServer(hba=[HBA]) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("CREATE ROLE salted LOGIN PASSWORD 'secret'")
        yield server


@pytest.fixture(scope="module")
def standby(primary: EmbeddedServer) -> Iterator[EmbeddedServer]:
    with standby_of(primary, HBA) as server:
        yield server


def both(*servers: EmbeddedServer) -> str:
    return ",".join(f"{server.host}:{server.port}" for server in servers)


def port_behind(dsn: str) -> int:
    """The port of the server that a new session gets."""
    with psycopg.connect(dsn) as connection:
        (port,) = connection.execute("SELECT inet_server_port()").fetchone() or (0,)
        return int(port)


def writable(proxy: RunningProxy, server: EmbeddedServer) -> float | None:
    """What the proxy shows of a server; None: nothing."""
    label = {"group": "main", "address": f"{server.host}:{server.port}"}
    found = [v for name, labels, v in scrape(proxy).samples if name == "tqdbproxy_server_writable" and labels == label]
    return found[0] if found else None


def test_the_standby_comes_first_and_is_passed_by(
    primary: EmbeddedServer, standby: EmbeddedServer, start: Start
) -> None:
    proxy = start(both(standby, primary), GROUP)
    assert port_behind(proxy.dsn()) == primary.port
    assert (writable(proxy, standby), writable(proxy, primary)) == (0, 1)
    assert port_behind(proxy.dsn(**SECRET)) == primary.port
    assert f"127.0.0.1:{standby.port} is up, takes no writes" in proxy.log
    assert f"127.0.0.1:{primary.port} is up, takes writes" in proxy.log


def test_a_password_can_be_shown_to_one_server_only(
    primary: EmbeddedServer, standby: EmbeddedServer, start: Start
) -> None:
    proxy = start(both(standby, primary), GROUP)
    with pytest.raises(psycopg.OperationalError, match="is a standby: no primary of group main was found"):
        psycopg.connect(proxy.dsn(**SECRET))
    assert port_behind(proxy.dsn(**SECRET)) == primary.port


def test_with_a_probe_nobody_meets_the_standby(primary: EmbeddedServer, standby: EmbeddedServer, start: Start) -> None:
    proxy = start(both(standby, primary), GROUP + PROBE)
    wait_for(lambda: (writable(proxy, standby), writable(proxy, primary)) == (0, 1))
    assert port_behind(proxy.dsn(**SECRET)) == primary.port


def test_a_probe_with_a_wrong_password_says_so(primary: EmbeddedServer, start: Start) -> None:
    proxy = start(both(primary), GROUP + "probe = user=salted password=wrong dbname=postgres\n")
    wait_for(lambda: "password authentication failed" in proxy.log)
    assert port_behind(proxy.dsn()) == primary.port
    assert scrape(proxy).total("server_up") == 1


class Load:
    """Clients that connect, write one row and leave, again and again. ``kept``: the rows that were acknowledged."""

    def __init__(self, dsn: str, clients: int) -> None:
        self.kept: set[int] = set()
        self.worked_at = 0.0
        self._dsn = dsn
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._go_on = True
        self._threads = [threading.Thread(target=self._work) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._go_on = False
        for thread in self._threads:
            thread.join(60)

    def _work(self) -> None:
        while self._go_on:
            try:
                with psycopg.connect(self._dsn, autocommit=True, connect_timeout=60) as connection:
                    for _ in range(5):
                        self._write(connection)
            except psycopg.Error:
                time.sleep(0.02)  # a client that comes again

    def _write(self, connection: psycopg.Connection) -> None:
        with self._lock:
            number = next(self._numbers)
        connection.execute("/* batch:5 */ INSERT INTO t VALUES (%s)", (number,))
        with self._lock:
            self.kept.add(number)
            self.worked_at = time.monotonic()


@pytest.mark.parametrize("probe", ["", PROBE], ids=["by sessions", "by a probe"])
def test_failover(start: Start, probe: str) -> None:
    with EmbeddedServer() as first, standby_of(first) as second:
        wait_for_commits_of(first)
        proxy = start(both(first, second), GROUP + probe)
        with psycopg.connect(first.dsn(), autocommit=True) as connection:
            connection.execute("CREATE TABLE t (a int PRIMARY KEY)")
        with Load(proxy.dsn(), 5) as load:
            wait_for(lambda: len(load.kept) > 200)
            assert port_behind(proxy.dsn()) == first.port
            first.kill9()
            promote(second)
            promoted = time.monotonic()
            wait_for(lambda: load.worked_at > promoted, CONNECT_TIMEOUT_S)
            assert port_behind(proxy.dsn()) == second.port
            before = len(load.kept)
            wait_for(lambda: len(load.kept) > before + 200)
        with psycopg.connect(second.dsn()) as connection:
            rows = {row for (row,) in connection.execute("SELECT a FROM t").fetchall()}
        assert load.kept <= rows
        assert scrape(proxy).total("server_up", address=f"127.0.0.1:{first.port}") == 0
        assert (writable(proxy, first), writable(proxy, second)) == (None, 1)
        assert f"127.0.0.1:{first.port} is down: " in proxy.log
        assert proxy.log.count(f"127.0.0.1:{first.port} is down: ") == 1
        _comes_back(first, proxy, second)


def _comes_back(first: EmbeddedServer, proxy: RunningProxy, second: EmbeddedServer) -> None:
    """The old primary, started by mistake, gets no sessions as long as the new one lives."""
    first.start()
    wait_for(lambda: scrape(proxy).total("server_up", address=f"127.0.0.1:{first.port}") == 1)
    assert {port_behind(proxy.dsn()) for _ in range(5)} == {second.port}

"""SIGTERM: what was accepted is finished, then everyone hears 57P01. SIGHUP: what can be re-read is."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection

import psutil
import psycopg
import pytest

from tests.integration.metrics import scrape
from tests.integration.test_limits import StartWith, Wires, refusal
from tests.integration.waiting import wait_for
from tests.integration.wire import SYNC, Wire, bind, execute, kinds, parse, query
from tests.proxies import STOP_TIMEOUT_S, RunningProxy
from tqdbproxy.embedded import EmbeddedServer

PATIENT = "[write_batch]\nmax_hint_ms = 60000\nearly_quorum = off\n"
INSERT = "/* batch:60000 */ INSERT INTO t VALUES"


def last_words(wire: Wire) -> list[tuple[str, str]]:
    """Severity and SQLSTATE of what comes until the connection is closed."""
    return [(frame.fields()["V"], frame.fields()["C"]) for frame in wire.to_end()]


STOPPED = [("FATAL", "57P01")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_draining(start_with: StartWith, wires: Wires, number: int) -> None:
    proxy, ends = start_with(f"[limits]\nshutdown_timeout_s = 60\n{PATIENT}")
    ends.prepare("CREATE TABLE t (a int)")
    idle, busy, open_one, *waiting = wires(8, proxy.port, ends.database)
    for n, wire in enumerate(waiting):
        said = query(f"{INSERT} ({n})"), parse(f"{INSERT} ($1)") + bind(str(n)) + execute() + SYNC
        wire.send(said[n % 2])
    open_one.ask(query("BEGIN; INSERT INTO t VALUES (100)"))
    busy.send(query("SELECT pg_sleep(0.6); INSERT INTO t VALUES (200)"))
    wait_for(lambda: scrape(proxy).total("clients", state="waiting") == 5)

    assert ask_ready(proxy) == (200, "ok\n")
    process = psutil.Process(proxy.process.pid)
    process.send_signal(number)
    assert last_words(idle) == STOPPED
    assert ask_ready(proxy) == (503, "the proxy is shutting down\n")
    for n, wire in enumerate(waiting):
        assert kinds(wire.until()) == ("12CZ" if n % 2 else "CZ")
        assert last_words(wire) == STOPPED
    assert kinds(busy.until()) == "TDCCZ"
    assert last_words(busy) == STOPPED
    with pytest.raises(ConnectionRefusedError):
        Wire(proxy.port)
    assert process.is_running()
    assert kinds(open_one.ask(query("INSERT INTO t VALUES (101)"))) == "CZ"
    assert kinds(open_one.ask(query("COMMIT"))) == "CZ"
    assert last_words(open_one) == STOPPED
    _ended(proxy, number)
    assert ends.ask("SELECT array_agg(a ORDER BY a) FROM t") == [([0, 1, 2, 3, 4, 100, 101, 200],)]
    wait_for(lambda: ends.ask("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") == [(1,)])


def ask_ready(proxy: RunningProxy) -> tuple[int, str]:
    """What a load balancer hears."""
    connection = HTTPConnection(proxy.host, proxy.metrics_port, timeout=10)
    with closing(connection):
        connection.request("GET", "/readyz")
        reply = connection.getresponse()
        return reply.status, reply.read().decode()


def _ended(proxy: RunningProxy, number: int) -> None:
    """The process has ended by itself: status 0, or the signal that twistd raises again when all is done."""
    assert proxy.process.wait(STOP_TIMEOUT_S) in (0, -number)
    with pytest.raises(psutil.NoSuchProcess):
        psutil.Process(proxy.process.pid)
    assert "Server Shut Down" in proxy.log


def test_a_transaction_gets_its_time_and_no_more(start_with: StartWith) -> None:
    proxy, ends = start_with("[limits]\nshutdown_timeout_s = 0.5\n")
    ends.prepare("CREATE TABLE t (a int)")
    with Wire(proxy.port).start(ends.database) as wire, Wire(proxy.port).start(ends.database) as busy:
        wire.ask(query("BEGIN; INSERT INTO t VALUES (1)"))
        busy.send(query("SELECT pg_sleep(60)"))
        wait_for(lambda: ends.ask("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
        begun = time.monotonic()
        proxy.process.send_signal(signal.SIGTERM)
        assert last_words(wire) == STOPPED
        assert 0.4 < time.monotonic() - begun < 30
        # What it was doing is cancelled, and not left to itself: it may hear that first.
        assert [code for frame in busy.to_end() if frame.kind == "E" and (code := frame.fields()["C"]) != "57014"] == [
            "57P01"
        ]
    _ended(proxy, signal.SIGTERM)
    assert ends.ask("SELECT count(*) FROM t") == [(0,)]
    wait_for(lambda: ends.ask("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") == [(1,)])


def test_a_second_signal_changes_nothing(postgres: EmbeddedServer, start: Callable[..., RunningProxy]) -> None:
    proxy = start(f"{postgres.host}:{postgres.port}")
    with Wire(proxy.port).start("postgres") as wire:
        wire.ask(query("BEGIN"))
        for count, number in enumerate((signal.SIGTERM, signal.SIGTERM, signal.SIGINT), 1):
            proxy.process.send_signal(number)
            wait_for(lambda: proxy.log.count("Received SIG") == count)  # noqa: B023
        assert kinds(wire.ask(query("COMMIT"))) == "CZ"
        assert last_words(wire) == STOPPED
    _ended(proxy, signal.SIGTERM)
    assert "Traceback" not in proxy.log


def test_a_signal_after_shutdown_on_the_console(postgres: EmbeddedServer, start: Callable[..., RunningProxy]) -> None:
    proxy = start(f"{postgres.host}:{postgres.port}", "[admin]\nusers = postgres\n")
    with Wire(proxy.port).start("postgres") as wire:
        wire.ask(query("BEGIN"))
        with Wire(proxy.port).start("tqdb") as console:
            assert kinds(console.ask(query("SHUTDOWN; SHUTDOWN"))) == "CCZ"
        wait_for(lambda: "draining" in proxy.log)
        proxy.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "Received SIGTERM: draining already" in proxy.log)
        assert kinds(wire.ask(query("COMMIT"))) == "CZ"
        assert last_words(wire) == STOPPED
    assert proxy.process.wait(10) == 0
    assert "Traceback" not in proxy.log


def test_nobody_there(start_with: StartWith) -> None:
    proxy, _ends = start_with("[limits]\nshutdown_timeout_s = 600\n")
    proxy.process.send_signal(signal.SIGTERM)
    _ended(proxy, signal.SIGTERM)


def reload(proxy: RunningProxy, text: str, logged: str) -> None:
    """Write the configuration, send SIGHUP, wait for the next line of the log that says this."""
    before = proxy.log.count(logged)
    proxy.config_path.write_text(text)
    proxy.process.send_signal(signal.SIGHUP)
    wait_for(lambda: proxy.log.count(logged) > before)


def test_reloading(start_with: StartWith) -> None:
    proxy, ends = start_with("[limits]\nmax_clients = 1\n")
    ends.prepare("CREATE TABLE t (a int)")
    with psycopg.connect(ends.proxied, autocommit=True) as connection:
        assert refusal(proxy.port, ends.database) == ("FATAL", "53300")
        assert scrape(proxy).total("max_clients") == 1
        reload(proxy, "[limits]\nmax_clients = 5\n[write_batch]\nenabled = false\n", "configuration reloaded")
        assert scrape(proxy).total("max_clients") == 5
        assert refusal(proxy.port, ends.database) == ("", "")
        with psycopg.connect(ends.proxied, autocommit=True) as later:
            later.execute("/* batch:5 */ INSERT INTO t VALUES (1)")
        assert scrape(proxy).total("write_excluded_total", reason="disabled") == 1
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(
    "text",
    [
        "[limits]\nmax_clients = many\n",
        "[limits]\nmaximum = 5\n",
        "[limits\n",
        "[postgres]\ntls = allow\ntls_cert = x\n",
    ],
)
def test_a_bad_configuration_is_not_taken(start_with: StartWith, text: str) -> None:
    proxy, ends = start_with("[limits]\nmax_clients = 1\n")
    with psycopg.connect(ends.proxied) as connection:
        reload(proxy, text, "configuration not reloaded")
        assert refusal(proxy.port, ends.database) == ("FATAL", "53300")
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert scrape(proxy).total("config_reload_success") == 0
        proxy.config_path.unlink()
        proxy.process.send_signal(signal.SIGHUP)
        wait_for(lambda: proxy.log.count("configuration not reloaded") == 2)
        assert refusal(proxy.port, ends.database) == ("FATAL", "53300")
        reload(proxy, "[limits]\nmax_clients = 1\n", "configuration reloaded")
        assert scrape(proxy).total("config_reload_success") == 1


def test_what_takes_a_restart_is_said(start_with: StartWith) -> None:
    proxy, ends = start_with("")
    reload(proxy, "[metrics]\nmax_callers = 3\n", "configuration reloaded")
    assert "[metrics] has changed, which takes a restart" in proxy.log
    with psycopg.connect(ends.proxied) as connection:
        connection.execute("SELECT 1")

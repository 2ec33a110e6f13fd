"""The embedded PostgreSQL: it works, and nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import psutil
import psycopg
import pytest

from tqdbproxy import embedded
from tqdbproxy.embedded import EmbeddedError, EmbeddedServer

HOLDER = """
import sys, time
from tqdbproxy.embedded import EmbeddedServer
with EmbeddedServer() as server:
    print(server.pid, server.directory, flush=True)
    time.sleep(60)
"""


def test_it_answers_on_both_sockets_and_is_gone_afterwards() -> None:
    with EmbeddedServer(max_connections=310, conf=["work_mem = '5MB'"]) as server:
        process, directory = psutil.Process(server.pid), server.directory
        question = "SELECT current_setting('max_connections'), current_setting('work_mem'), current_setting('fsync')"
        for host in (server.host, str(server.socket_dir)):
            with psycopg.connect(server.dsn(host=host)) as connection:
                assert connection.execute(question).fetchone() == ("310", "5MB", "off")
        version = subprocess.run([server.tool("pgbench"), "--version"], capture_output=True, text=True, check=True)
        assert version.stdout.startswith("pgbench (PostgreSQL) 18.")
    assert not process.is_running()
    assert not directory.exists()


def test_data_outlive_stops_and_crashes_on_the_same_port() -> None:
    with EmbeddedServer() as server:
        port = server.port
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS a")
        for end in (server.stop, server.kill9, lambda: server.stop("immediate")):
            end()
            assert not server.running
            server.start()
            with psycopg.connect(server.dsn()) as connection:
                assert connection.execute("SELECT a FROM kept").fetchone() == (7,)
        assert server.port == port


def test_kill9_ends_every_process() -> None:
    with EmbeddedServer() as server, psycopg.connect(server.dsn()) as connection:
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        assert connection.info.backend_pid in {process.pid for process in family}
        server.kill9()
        assert [process for process in family if process.is_running()] == []
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_lines_of_pg_hba_come_first() -> None:
    with EmbeddedServer(hba=["host all locked 127.0.0.1/32 reject"]) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("CREATE ROLE locked LOGIN")
        with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf rejects"):
            psycopg.connect(server.dsn(user="locked"))


def test_a_setting_that_postgresql_refuses_is_shown() -> None:
    server = EmbeddedServer(conf=["shared_buffers = 'lots'"])
    with (
        pytest.raises(EmbeddedError, match=r'did not start: (.|\n)*invalid value for parameter "shared_buffers"'),
        server,
    ):
        pass
    with pytest.raises(EmbeddedError, match="has not been started yet"):
        _ = server.directory


def test_a_port_that_was_taken_meanwhile_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    reserved = embedded.reserved_ports
    with EmbeddedServer() as first:
        taken = iter([first.port])

        def meanwhile_taken(count: int) -> AbstractContextManager[list[int]]:
            port = next(taken, None)
            return reserved(count) if port is None else nullcontext([port])

        monkeypatch.setattr(embedded, "reserved_ports", meanwhile_taken)
        with EmbeddedServer() as second:
            assert second.port != first.port


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder that the server's user may not enter")
def test_programs_that_the_server_may_not_reach_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = embedded.installed_bin_dir().parent.parent
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    hidden.joinpath(package.name).symlink_to(package)
    hidden.joinpath(f"{package.name}.libs").symlink_to(package.with_name(f"{package.name}.libs"))
    monkeypatch.setattr(embedded, "installed_bin_dir", lambda: hidden / package.name / "pginstall18" / "bin")
    with EmbeddedServer() as server:
        assert server.bin_dir.is_relative_to(server.directory)
        with psycopg.connect(server.dsn()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_behind_when_its_process_is_ended(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as holder:
        assert holder.stdout is not None
        pid, directory = holder.stdout.readline().decode().split()
        family = [psutil.Process(int(pid)), *psutil.Process(holder.pid).children(recursive=True)]
        holder.send_signal(number)
        holder.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    end = time.monotonic() + 60
    while Path(directory).exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(directory).exists()

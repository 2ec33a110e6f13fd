"""The console with psql and psycopg, on a proxy that has something to tell."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.integration.waiting import wait_for
from tests.operators.load import prepare
from tests.proxies import STOP_TIMEOUT_S, RunningProxy
from tqdbproxy.embedded import EmbeddedServer

ADMIN = "[admin]\nusers = postgres, somebody\n"
TABLES = ("STATS", "CLIENTS", "SERVERS", "BATCHES", "CACHE", "CALLERS", "CONFIG", "VERSION", "HELP")
Start = Callable[..., RunningProxy]


@pytest.fixture
def proxy(postgres: EmbeddedServer, start: Start) -> RunningProxy:
    """A proxy with a console."""
    return start(f"{postgres.host}:{postgres.port}", ADMIN)


def psql(postgres: EmbeddedServer, dsn: str, *commands: str, options: str = "-XAt") -> subprocess.CompletedProcess[str]:
    """What psql says to these commands."""
    said = [part for command in commands for part in ("-c", command)]
    return subprocess.run([postgres.tool("psql"), dsn, options, *said], capture_output=True, text=True, timeout=60)


def rows(dsn: str, command: str) -> list[tuple[str, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(command.encode()).fetchall()


def test_psql_likes_the_answers(postgres: EmbeddedServer, proxy: RunningProxy) -> None:
    dsn = proxy.dsn("tqdb")
    shown = psql(postgres, dsn, *(f"SHOW {table}" for table in TABLES), options="-X")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.search(r"^ +section +\| +key +\| +value", shown.stdout, re.MULTILINE)
    assert "tqdbproxy 0" in shown.stdout
    assert "rows)" in shown.stdout
    assert psql(postgres, dsn, "show version; FLUSH;").stdout.startswith("tqdbproxy ")
    assert psql(postgres, dsn, "flush").stdout == "FLUSH\n"
    wrong = psql(postgres, dsn, "\\set VERBOSITY verbose", "SELECT 1")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert 'ERROR:  42601: unknown command "SELECT 1"' in wrong.stderr
    assert "HELP" not in wrong.stdout


def test_psycopg_likes_them_too(proxy: RunningProxy) -> None:
    with psycopg.connect(proxy.dsn("tqdb"), autocommit=True) as connection:
        assert connection.info.server_version >= 90000
        for table in TABLES:
            text = connection.execute(f"SHOW {table}".encode())
            names = [column.name for column in text.description or ()]
            binary = connection.execute(f"SHOW {table}".encode(), prepare=True, binary=True)
            assert [column.name for column in binary.description or ()] == names
            assert len(text.fetchall()) == len(binary.fetchall())
        with pytest.raises(psycopg.errors.SyntaxError, match="unknown command"):
            connection.execute("SHOW NONSENSE")
        with pytest.raises(psycopg.errors.SyntaxError):
            connection.execute("SHOW NONSENSE", prepare=True)
        assert connection.execute("SHOW VERSION").fetchone() is not None
        with connection.pipeline():
            cursors = [connection.execute(f"SHOW {table}".encode()) for table in TABLES]
        assert all(cursor.description for cursor in cursors)


def test_what_it_tells(postgres: EmbeddedServer, proxy: RunningProxy, database: str) -> None:
    prepare(postgres, database)
    where = {"application_name": "the_test"}
    with psycopg.connect(proxy.dsn(database, **where), autocommit=True) as connection:
        connection.execute("/* batch:5 file:app.py line:7 */ INSERT INTO visits (page) VALUES (1)")
        connection.execute("BEGIN")
        connection.execute("/* batch:5 file:app.py line:8 */ INSERT INTO visits (page) VALUES (1)")
        admin = proxy.dsn("tqdb")
        stats = {row[0]: row[1] for row in rows(admin, "SHOW STATS")}
        assert (stats["batched"], stats["batches"], stats["excluded_transaction"]) == ("1", "1", "1")
        assert int(stats["forwarded"]) == int(stats["statements"]) - 1
        clients = {row[3]: row for row in rows(admin, "SHOW CLIENTS")}
        assert clients["transaction"][1:5] == ("postgres", database, "transaction", "the_test")
        assert clients["console"][1:3] == ("postgres", "tqdb")
        ((group, name, address, health, count, *_),) = rows(admin, "SHOW SERVERS")
        assert (group, name, health) == ("main", "main/primary", "up")
        assert address == f"{postgres.host}:{postgres.port}"
        assert int(count) >= 1
        assert {row[:5] for row in rows(admin, "SHOW CALLERS")} == {
            ("app.py", "7", "insert", "1", "1"),
            ("app.py", "8", "insert", "1", "0"),
        }
        connection.execute("ROLLBACK")
    config = {row[:2]: row[2] for row in rows(admin, "SHOW CONFIG")}
    assert config["postgres", "listen"] == f"{proxy.host}:{proxy.port}"
    assert config["admin", "users"] == "postgres, somebody"
    assert config["write_batch", "early_quorum"] == "0.5"
    assert config["cache", "max_bytes"] == "268435456"


def test_flush(postgres: EmbeddedServer, start: Start, database: str) -> None:
    patient = "[write_batch]\nearly_quorum = off\nmax_hint_ms = 60000\n"
    proxy = start(f"{postgres.host}:{postgres.port}", ADMIN + patient)
    prepare(postgres, database)
    insert = "/* batch:60000 */ INSERT INTO visits (page) VALUES (1)"
    command = [postgres.tool("psql"), proxy.dsn(database), "-X", "-c", insert]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waits:
        (group,) = wait_for(lambda: rows(proxy.dsn("tqdb"), "SHOW BATCHES"))
        assert group[:4] == ("main", database, "postgres", "1")
        assert group[-1].startswith("INSERT INTO visits")
        assert waits.poll() is None
        rows_of_clients = {row[3] for row in rows(proxy.dsn("tqdb"), "SHOW CLIENTS")}
        assert rows_of_clients == {"waiting", "console"}
        with psycopg.connect(proxy.dsn("tqdb"), autocommit=True) as admin:
            admin.execute("FLUSH")
        assert waits.communicate(timeout=60)[0] == "INSERT 0 1\n"


def one_row(dsn: str, command: str) -> dict[str, str]:
    """By column."""
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        (row,) = connection.execute(command.encode()).fetchall()
    return row


def purge(postgres: EmbeddedServer, proxy: RunningProxy, tags: str) -> str:
    """What psql says."""
    said = psql(postgres, proxy.dsn("tqdb"), f"PURGE {tags}")
    return said.stdout + said.stderr


def test_the_cache(postgres: EmbeddedServer, proxy: RunningProxy, database: str) -> None:
    prepare(postgres, database)
    admin = proxy.dsn("tqdb")
    before = one_row(admin, "SHOW CACHE")
    assert (before["entries"], before["hits"], before["hit_ratio"], before["max_bytes"]) == ("0", "0", "", "268435456")
    with psycopg.connect(proxy.dsn(database), autocommit=True) as connection:
        for _ in range(4):
            sum_of = connection.execute("/* ttl:60 file:app.py line:1 */ SELECT sum(price) FROM menu").fetchone()
        after = one_row(admin, "SHOW CACHE")
        assert {name for name in after if after[name] == before[name]} == {
            *("max_bytes", "stale", "refreshes", "fetching", "evictions", "purges"),
            *("verified_same", "verified_reordered", "verified_different"),
        }
        assert (after["entries"], after["hits"], after["misses"], after["hit_ratio"]) == ("1", "3", "1", "0.750")
        assert 1500 < int(after["bytes"]) < 5000
        assert int(after["served_bytes"]) > 30
        assert rows(admin, "SHOW CALLERS")[0][-1] == "3"
        assert purge(postgres, proxy, "table:pages") == "PURGE 0\n"
        with psycopg.connect(postgres.dsn(database), autocommit=True) as past:
            past.execute("UPDATE menu SET price = price + 1")
        again = connection.execute("/* ttl:60 file:app.py line:1 */ SELECT sum(price) FROM menu").fetchone()
        assert again == sum_of
        assert purge(postgres, proxy, "table:public.menu") == "PURGE 1\n"
        again = connection.execute("/* ttl:60 file:app.py line:1 */ SELECT sum(price) FROM menu").fetchone()
        assert again != sum_of
        counts = one_row(admin, "SHOW CACHE")
        assert (counts["purges"], counts["misses"], counts["entries"]) == ("1", "2", "1")


def test_purge(postgres: EmbeddedServer, proxy: RunningProxy, database: str) -> None:
    tagged = ("a", "a+b", "c", "'with%20blank'", "'a%3Bb'", "A")

    def fill() -> None:
        with psycopg.connect(proxy.dsn(database), autocommit=True) as connection:
            for number, tags in enumerate(tagged):
                connection.execute(f"/* ttl:60 tags:{tags} */ SELECT {number}".replace("tags:'", "tags='").encode())

    fill()
    for tags, count in (("b", 1), ("a,c", 2), ("'with blank'", 1), ("'a;b', nothing", 1), ("*", 1), ("*", 0)):
        assert purge(postgres, proxy, tags) == f"PURGE {count}\n", tags
    fill()
    assert purge(postgres, proxy, "*") == f"PURGE {len(tagged)}\n"
    assert one_row(proxy.dsn("tqdb"), "SHOW CACHE")["entries"] == "0"
    assert "PURGE takes a tag, or several" in purge(postgres, proxy, "a b")
    with psycopg.connect(proxy.dsn("tqdb"), autocommit=True) as admin:
        assert admin.execute("PURGE a").statusmessage == "PURGE 0"
        assert admin.execute("PURGE a", prepare=True).statusmessage == "PURGE 0"


def test_reload(proxy: RunningProxy) -> None:
    with psycopg.connect(proxy.dsn("tqdb"), autocommit=True) as admin:
        proxy.config_path.write_text(f"{ADMIN}[write_batch]\nmax_batch_size = 7\n")
        admin.execute("RELOAD")
        assert ("write_batch", "max_batch_size", "7") in admin.execute("SHOW CONFIG").fetchall()
        proxy.config_path.write_text("[write_batch]\nmax_batch_size = many\n")
        with pytest.raises(psycopg.errors.ConfigFileError, match=r"line 2: \[write_batch\] max_batch_size"):
            admin.execute("RELOAD")
        assert ("write_batch", "max_batch_size", "7") in admin.execute("SHOW CONFIG").fetchall()
        proxy.config_path.write_text("[admin]\nusers = somebody\n")
        admin.execute("RELOAD")
        with pytest.raises(psycopg.OperationalError, match="may not use"):
            psycopg.connect(proxy.dsn("tqdb"))


def test_what_takes_a_restart_stays_as_it_was(proxy: RunningProxy) -> None:
    def shown(admin: psycopg.Connection) -> dict[tuple[str, ...], str]:
        config = admin.execute("SHOW CONFIG").fetchall()
        return {row[:2]: row[2] for row in config if row[:2] in {("metrics", "max_callers"), ("log", "format")}}

    with psycopg.connect(proxy.dsn("tqdb"), autocommit=True) as admin:
        told: list[str | None] = []
        admin.add_notice_handler(lambda notice: told.append(notice.message_primary))
        before = shown(admin)
        proxy.config_path.write_text(f"{ADMIN}[metrics]\nmax_callers = 7\n[log]\nformat = json\n")
        warnings = [f"{name} has changed, which takes a restart" for name in ("[metrics]", "[log] format")]
        for count in (1, 2):
            admin.execute("RELOAD")
            assert told == warnings * count
            assert shown(admin) == before
        proxy.config_path.write_text(ADMIN)
        admin.execute("RELOAD")
        assert told == warnings * 2
    assert proxy.log.count("[metrics] has changed, which takes a restart") == 2


def test_shutdown(proxy: RunningProxy) -> None:
    with psycopg.connect(proxy.dsn("tqdb"), autocommit=True) as admin:
        admin.execute("SHUTDOWN")
        assert proxy.process.wait(STOP_TIMEOUT_S) in (0, -signal.SIGTERM)
        with pytest.raises(psycopg.OperationalError):
            admin.execute("SHOW VERSION")
    assert "Traceback" not in proxy.log


def test_who_gets_in(postgres: EmbeddedServer, start: Start, tmp_path: Path) -> None:
    proxy = start(f"{postgres.host}:{postgres.port}", f"[postgres]\nsocket = {tmp_path}\n[admin]\nusers = somebody\n")
    with pytest.raises(psycopg.OperationalError, match="may not use the proxy's console"):
        psycopg.connect(proxy.dsn("tqdb"))
    with pytest.raises(psycopg.OperationalError, match='role "somebody" does not exist'):
        psycopg.connect(proxy.dsn("tqdb", user="somebody"))
    # We and the proxy are one user to the system.
    local = proxy.dsn("tqdb", user="anyone", host=str(tmp_path))
    assert rows(local, "SHOW VERSION")
    assert psql(postgres, local, "SHOW VERSION", options="-XAtw").returncode == 0
    with pytest.raises(psycopg.OperationalError, match="tqdb"):
        psycopg.connect(postgres.dsn("tqdb"))

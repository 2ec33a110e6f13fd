"""PostgreSQL's own programs: psql, pgbench, pg_dump, pg_basebackup say and do the same through the proxy."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.integration.compare import Ends
from tqdbproxy.embedded import EmbeddedServer

SCRIPT = r"""
\timing off
CREATE TABLE t (id serial PRIMARY KEY, a int UNIQUE, b text);
/* batch:5 */ INSERT INTO t (a, b) VALUES (1, 'x') RETURNING *;
INSERT INTO t (a, b) VALUES ($1, $2) /* batch:5 */ RETURNING id \bind 2 y \g
/* batch:5 */ INSERT INTO t (a) VALUES (1);
/* batch:5 */ INSERT INTO t (a, b) VALUES ($1, $2) \parse s
\bind_named s 3 z \g
\bind_named s 3 z \g
\close_prepared s
\d t
SELECT 1 AS one \gdesc
\copy t (a, b) from pstdin
\copy (SELECT * FROM t ORDER BY 1) to pstdout
SELECT * FROM nowhere;
\errverbose
\set FETCH_COUNT 2
SELECT generate_series(1, 5);
BEGIN;
SELECT 1/0;
SELECT 1;
ROLLBACK;
DO $$BEGIN RAISE NOTICE 'n'; END$$;
\startpipeline
SELECT 1 \bind \sendpipeline
SELECT 1/0 \bind \sendpipeline
\endpipeline
SELECT count(*) FROM t \watch c=2 i=0.01
"""
ROWS = "7\tseven\n8\t\\N\n\\.\n"


def run(program: str, *arguments: str, port: int, database: str, said: str = "") -> subprocess.CompletedProcess[str]:
    """Run one of PostgreSQL's programs as the superuser."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environ |= {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres", "PGDATABASE": database}
    return subprocess.run(
        [program, *arguments],
        env={**environ, "LC_ALL": "C", "PSQL_PAGER": "cat"},
        input=said,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_psql(postgres: EmbeddedServer, ends: Ends, tmp_path: Path) -> None:
    script = tmp_path / "script.sql"
    script.write_text(SCRIPT)
    heard = []
    for port in (ends.direct_port, ends.proxied_port):
        ends.prepare("DROP TABLE IF EXISTS t")
        done = run(postgres.tool("psql"), "-X", "-f", str(script), port=port, database=ends.database, said=ROWS)
        heard.append((done.returncode, [line for line in done.stdout.splitlines() if "every" not in line], done.stderr))
    assert heard[1] == heard[0]
    assert heard[1][0] == 0
    assert "duplicate key" in heard[1][2]


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_pgbench(postgres: EmbeddedServer, ends: Ends, protocol: str) -> None:
    bench = postgres.tool("pgbench")
    assert run(bench, "-i", "-q", port=ends.proxied_port, database=ends.database).returncode == 0
    options = ["-n", "-c", "10", "-t", "40", "-M", protocol]
    done = run(bench, *options, port=ends.proxied_port, database=ends.database)
    assert (done.returncode, "failed transactions: 0 (0.000%)" in done.stdout) == (0, True), done.stderr
    assert ends.ask("SELECT count(*), sum(delta) FROM pgbench_history") == ends.ask(
        "SELECT 400::bigint, sum(abalance) FROM pgbench_accounts"
    )


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_pgbench_with_hinted_writes(postgres: EmbeddedServer, ends: Ends, tmp_path: Path, protocol: str) -> None:
    ends.prepare("CREATE TABLE t (client int, n int)")
    script = tmp_path / "insert.sql"
    script.write_text("\\set n random(1, 1000)\n/* batch:5 */ INSERT INTO t VALUES (:client_id, :n);\n")
    options = ["-n", "-c", "20", "-t", "50", "-M", protocol, "-f", str(script)]
    done = run(postgres.tool("pgbench"), *options, port=ends.proxied_port, database=ends.database)
    assert done.returncode == 0, done.stderr
    assert ends.ask("SELECT client, count(*) FROM t GROUP BY 1 ORDER BY 1") == [(n, 50) for n in range(20)]


def test_pg_dump(postgres: EmbeddedServer, ends: Ends) -> None:
    ends.prepare(
        "CREATE TABLE t (a int, b text)", "INSERT INTO t SELECT n, repeat('x', n) FROM generate_series(1, 500) n"
    )
    dump = ["--no-comments", "--restrict-key=x"]
    direct, proxied = (
        run(postgres.tool("pg_dump"), *dump, port=port, database=ends.database)
        for port in (ends.direct_port, ends.proxied_port)
    )
    assert (proxied.returncode, proxied.stdout, proxied.stderr) == (0, direct.stdout, direct.stderr)
    assert "COPY public.t" in proxied.stdout


def test_a_replication_connection(postgres: EmbeddedServer, ends: Ends) -> None:
    commands = ["-X", "-At", "-c", "IDENTIFY_SYSTEM", "-c", "SHOW wal_level", "-c", "SELECT 1/0"]
    direct, proxied = (
        run(postgres.tool("psql"), *commands, f"dbname={ends.database} replication=database", port=port, database="x")
        for port in (ends.direct_port, ends.proxied_port)
    )
    system = proxied.stdout.partition("|")[0]
    assert system == direct.stdout.partition("|")[0]
    assert system.isdigit()
    assert (proxied.stdout.splitlines()[1:], proxied.stderr) == (direct.stdout.splitlines()[1:], direct.stderr)


def test_a_base_backup(postgres: EmbeddedServer, ends: Ends, tmp_path: Path) -> None:
    """COPY out of all files, and COPY in both directions at once for the log."""
    backup = tmp_path / "backup"
    options = ["-D", str(backup), "-c", "fast", "-X", "stream", "--no-sync", "--manifest-checksums=SHA256"]
    done = run(postgres.tool("pg_basebackup"), *options, port=ends.proxied_port, database="x")
    assert done.returncode == 0, done.stderr
    files = json.loads((backup / "backup_manifest").read_text())["Files"]
    assert len(files) > 500
    for file in files:
        assert hashlib.sha256((backup / file["Path"]).read_bytes()).hexdigest() == file["Checksum"]
    assert len(list((backup / "pg_wal").glob("0000*"))) == 1

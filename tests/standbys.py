"""A second server that follows a first one by streaming replication, and can take its place."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tqdbproxy.embedded import UNPRIVILEGED, EmbeddedServer


@contextmanager
def standby_of(primary: EmbeddedServer, *hba: str) -> Iterator[EmbeddedServer]:
    """A hot standby, made by pg_basebackup, with these lines in pg_hba.conf."""
    folder = Path(tempfile.mkdtemp(prefix="tqdb-pg-"))
    try:
        backup = [primary.tool("pg_basebackup"), "-h", primary.host, "-p", str(primary.port), "-U", primary.user]
        backup += ["-D", str(folder / "data"), "-c", "fast", "--no-sync", "--write-recovery-conf"]
        subprocess.run(backup, check=True, capture_output=True, timeout=60)
        if os.geteuid() == 0:
            owner = pwd.getpwnam(UNPRIVILEGED)
            for path in (folder, *folder.rglob("*")):
                os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
        with EmbeddedServer(folder, hba=hba) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_commits_of(primary: EmbeddedServer) -> None:
    """From now on, what ``primary`` says is committed has reached its standby."""
    with psycopg.connect(primary.dsn(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        connection.execute("SELECT pg_reload_conf()")


def promote(standby: EmbeddedServer) -> None:
    """Make it a primary; returns when it is one."""
    with psycopg.connect(standby.dsn(), autocommit=True) as connection:
        assert connection.execute("SELECT pg_promote(true, 30)").fetchone() == (True,)

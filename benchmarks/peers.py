"""Starts what is compared: the server, PgBouncer before it if there is one, the proxy before it.

The law of this module: what it started is gone when the ``with`` block ends.
"""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from tqdbproxy.bench import LOOPBACK, Address, BenchError, child, find_pgbench, proxy_for
from tqdbproxy.embedded import EmbeddedServer, installed_bin_dir, reserved_ports

#: More than any benchmark opens through all peers together; PgBouncer keeps its server connections for a while.
SERVER_CONNECTIONS = 2600
PGBOUNCER_POOL = 400
# The server keeps its habits (fsync on); only a checkpoint shouldn't fall into one run and not into another.
SERVER_SETTINGS = ("max_wal_size = 8GB", "checkpoint_timeout = 30min", "autovacuum = off")


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to the server. ``pid`` is the process between, if it is ours to look at."""

    name: str
    address: Address
    pid: int | None = None

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection in autocommit mode; what is not said here (a password) comes from libpq's environment."""
        to = self.address
        return psycopg.connect(
            host=to.host, port=to.port, dbname=to.database, user=to.user, sslmode=to.sslmode, autocommit=True
        )


@dataclass(frozen=True, slots=True)
class Ground:
    """All that a benchmark needs to know: the peers, the programs, and how much to do."""

    direct: Peer
    pgbouncer: Peer | None
    proxy: Peer | None
    metrics: str
    pgbench: str
    psql: str
    seconds: int
    idle_sessions: int
    megabytes: int
    notes: tuple[str, ...] = ()

    @property
    def peers(self) -> list[Peer]:
        """The ones that are there, in the order in which they take their turns."""
        return [peer for peer in (self.direct, self.pgbouncer, self.proxy) if peer is not None]


def local(server: Peer) -> Peer:
    """The same server through its Unix socket; BenchError if it has none here."""
    with server.connect() as connection:
        ((folders,),) = connection.execute("SHOW unix_socket_directories").fetchall()
    folder = str(folders).split(",")[0].strip()
    if not (Path(folder) / f".s.PGSQL.{server.address.port}").exists():
        raise BenchError("the server has no Unix socket here")
    return replace(server, address=replace(server.address, host=folder))


@contextmanager
def prepared_ground(args: argparse.Namespace) -> Iterator[Ground]:
    """Server, PgBouncer and proxy as the arguments ask for; without PgBouncer there is a note."""
    notes: list[str] = []
    with ExitStack() as stack:
        server = _server(args, stack)
        direct = Peer("direct", server)
        pgbouncer = None if args.no_pgbouncer else _try(stack, _pgbouncer(server), notes)
        proxy, metrics = None, ""
        if not args.no_proxy:
            started = stack.enter_context(proxy_for(server))
            proxy = Peer("proxy", replace(server, host=LOOPBACK, port=started.port), started.pid)
            metrics = started.metrics
        psql = shutil.which("psql") or str(installed_bin_dir() / "psql")
        amounts = (args.seconds, args.idle_sessions, args.megabytes)
        yield Ground(direct, pgbouncer, proxy, metrics, find_pgbench(args.pgbench), psql, *amounts, tuple(notes))


def _server(args: argparse.Namespace, stack: ExitStack) -> Address:
    """The server that was named, else an embedded one."""
    if args.server:
        host, _, port = args.server.rpartition(":")
        return Address(host, int(port), args.database, args.user)
    settings = list(SERVER_SETTINGS)
    server = stack.enter_context(EmbeddedServer(fsync=True, max_connections=SERVER_CONNECTIONS, conf=settings))
    return Address(server.host, server.port, "postgres", server.user)


def _try(stack: ExitStack, peer: AbstractContextManager[Peer], notes: list[str]) -> Peer | None:
    try:
        return stack.enter_context(peer)
    except BenchError as error:
        notes.append(f"no PgBouncer: {error}")
        return None


@contextmanager
def _pgbouncer(server: Address) -> Iterator[Peer]:
    """PgBouncer in session pooling, which is what a transparent proxy has to be compared with."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise BenchError("not installed")
    with reserved_ports(1) as (port,), tempfile.TemporaryDirectory(prefix="tqdb-pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PgBouncer reads its file as another user when we are root
        (folder / "pgbouncer.ini").write_text(_pgbouncer_config(server, port))
        command = [program, "-q", *_another_user(), str(folder / "pgbouncer.ini")]
        with child("pgbouncer", command, port, folder) as process:
            yield Peer("pgbouncer", replace(server, host=LOOPBACK, port=port), process.pid)


@contextmanager
def bare_loop(server: Address, clients: int) -> Iterator[Peer]:
    """See `bare`; for so many clients."""
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with reserved_ports(1) as (port,), tempfile.TemporaryDirectory(prefix="tqdb-bare-") as name:
        command = [sys.executable, "-m", "benchmarks.bare", str(port), server.host, str(server.port), str(clients)]
        command += [server.user, server.database]
        with child("bare", command, port, Path(name), PYTHONPATH=path) as process:
            yield Peer("bare", replace(server, host=LOOPBACK, port=port), process.pid)


def _pgbouncer_config(server: Address, port: int) -> str:
    return (
        f"[databases]\n{server.database} = host={server.host} port={server.port} user={server.user}\n"
        f"[pgbouncer]\nlisten_addr = {LOOPBACK}\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = any\npool_mode = session\nmax_client_conn = 1000\ndefault_pool_size = {PGBOUNCER_POOL}\n"
        "log_connections = 0\nlog_disconnections = 0\nlog_stats = 0\n"
    )


def _another_user() -> list[str]:
    """PgBouncer refuses to run as root."""
    if os.geteuid() != 0:
        return []
    users = {entry.pw_name for entry in pwd.getpwall()}
    return ["-u", "postgres" if "postgres" in users else "nobody"]

"""The tables that the benchmarks write to and read from, and the pgbench scripts.

The law of this module: a script's text is all that differs between two runs that are compared.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.cpu import cpu_seconds
from benchmarks.peers import Ground, Peer
from tqdbproxy.bench import Load, run_pgbench, writes

PLAIN = "bench_plain"
KEYED = "bench_keyed"
UNIQUE = "bench_unique"
READ = "bench_read"
COPIED = "bench_copied"
LARGE = "bench_large"
READ_ROWS = 1000

SELECT_ONE = "SELECT 1;\n"
CACHED_READ = f"\\set k random(1, {READ_ROWS})\n/* ttl:60 */ SELECT v FROM {READ} WHERE k = :k;\n"
DIRECT_READ = CACHED_READ.replace("/* ttl:60 */ ", "")

TABLES = (
    f"CREATE TABLE {PLAIN} (k integer, v text)",
    f"CREATE TABLE {KEYED} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, k integer, v text)",
    f"CREATE TABLE {UNIQUE} (k integer PRIMARY KEY, v text)",
    f"CREATE TABLE {READ} (k integer PRIMARY KEY, v text)",
    f"INSERT INTO {READ} SELECT n, 'the value of ' || n FROM generate_series(1, {READ_ROWS}) AS n",
    # Unlogged: the copies measure the way through the proxy, not the disk.
    f"CREATE UNLOGGED TABLE {LARGE} (k integer, v text)",
    f"CREATE UNLOGGED TABLE {COPIED} (k integer, v text)",
)
NAMES = (PLAIN, KEYED, UNIQUE, READ, LARGE, COPIED)


@dataclass(frozen=True, slots=True)
class Timed:
    """One run: transactions per second, mean latency in ms, CPU of the peer's process in us per transaction."""

    tps: float
    latency_ms: float
    cpu_us: float | None


def make_tables(ground: Ground) -> None:
    """Make the tables; those of an earlier run that was killed are dropped."""
    drop_tables(ground)
    with ground.direct.connect() as connection:
        for statement in TABLES:
            connection.execute(statement.encode())


def drop_tables(ground: Ground) -> None:
    with ground.direct.connect() as connection:
        connection.execute(f"DROP TABLE IF EXISTS {', '.join(NAMES)}".encode())


def empty(ground: Ground, table: str) -> None:
    """Every run starts from the same table."""
    with ground.direct.connect() as connection:
        connection.execute(f"TRUNCATE {table}".encode())


def timed(ground: Ground, peer: Peer, load: Load) -> Timed:
    """Run the load through the peer. The CPU time holds what its clients cost when they connected."""
    before = cpu_seconds(peer.pid) if peer.pid else 0.0
    result = run_pgbench(ground.pgbench, peer.address, load)
    spent = cpu_seconds(peer.pid) - before if peer.pid else None
    cpu_us = None if spent is None or not result.transactions else spent * 1e6 / result.transactions
    return Timed(result.tps, result.latency_ms, cpu_us)


def insert(table: str, hint: bool) -> str:
    """The script of one INSERT."""
    return writes(10 if hint else None, table)


def facts_of(peer: Peer, run: Timed, label: str = "") -> dict[str, float]:
    """What a run says by itself, named for people."""
    name = f"{label} {peer.name}".strip()
    cpu = {} if run.cpu_us is None else {f"{name} CPU us": run.cpu_us}
    return {f"{name} tps": run.tps, **cpu}

"""P6 to P9: the forward lane, beside PgBouncer and the server itself.

The law of this module: nothing that it sends carries a hint.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace

from benchmarks import loads
from benchmarks.cpu import peak_bytes, reset_peak, resident_bytes
from benchmarks.goals import Benchmark, Goal, Sample
from benchmarks.loads import Timed
from benchmarks.peers import Ground, Peer
from tqdbproxy.bench import BenchError, Load, proxy_for

MODES = ("simple", "prepared")
CLIENTS = 50
MIB = 1024.0 * 1024.0
COPY_OUT = f"\\copy {loads.LARGE} to '/dev/null'"
SETTLE_S = 0.5
TEXT_BYTES = 990
LINE = b"1\t" + b"x" * TEXT_BYTES + b"\n"


def _select_one(ground: Ground, mode: str, clients: int) -> dict[str, Timed]:
    load = Load(loads.SELECT_ONE, mode, clients, ground.seconds)
    return {peer.name: loads.timed(ground, peer, load) for peer in ground.peers}


def _facts(ground: Ground, runs: dict[str, Timed], mode: str) -> dict[str, float]:
    facts: dict[str, float] = {}
    for peer in ground.peers:
        facts |= loads.facts_of(peer, runs[peer.name], mode)
    return facts


def _measure_throughput(ground: Ground) -> Sample:
    figures: dict[str, float] = {}
    facts: dict[str, float] = {}
    for mode in MODES:
        runs = _select_one(ground, mode, CLIENTS)
        facts |= _facts(ground, runs, mode)
        if ground.proxy and ground.pgbouncer:
            ours, theirs = runs["proxy"], runs["pgbouncer"]
            figures[f"{mode} tps"] = ours.tps / theirs.tps
            if ours.cpu_us and theirs.cpu_us:
                figures[f"{mode} cpu"] = ours.cpu_us / theirs.cpu_us
    return Sample(figures, facts)


def _measure_latency(ground: Ground) -> Sample:
    """What a proxy adds to the latency that one client sees."""
    figures: dict[str, float] = {}
    facts: dict[str, float] = {}
    for mode in MODES:
        latency = {name: 1e6 / run.tps for name, run in _select_one(ground, mode, 1).items()}
        facts[f"{mode} direct us"] = latency["direct"]
        added = {name: value - latency["direct"] for name, value in latency.items() if name != "direct"}
        facts |= {f"{mode} {name} adds us": value for name, value in added.items()}
        if added.get("pgbouncer", 0.0) > 0 and "proxy" in added:  # on a busy machine noise is larger than what is added
            figures[mode] = max(0.0, added["proxy"]) / added["pgbouncer"]
    return Sample(figures, facts)


def _measure_copy(ground: Ground) -> Sample:
    """COPY out and in through one psql; psql's own time, so that its start doesn't count."""
    fresh = _fill(ground)
    seconds: dict[str, dict[str, float]] = {}
    figures: dict[str, float] = {}
    with tempfile.NamedTemporaryFile(prefix="tqdb-copy-") as file:
        file.write(LINE * _rows(ground))
        file.flush()
        commands = {"out": COPY_OUT, "in": f"\\copy {loads.COPIED} from '{file.name}'"}
        # Once without counting: the first to come would pay for cold caches and new files.
        for peer in [*([ground.direct] if fresh else []), *ground.peers]:
            loads.empty(ground, loads.COPIED)
            copied = {way: _copy(ground, peer, command) for way, command in commands.items()}
            seconds[peer.name] = {way: copied[way][0] for way in copied}
            if peer.name == "proxy":
                figures |= {f"{way} memory": copied[way][1] for way in copied}
    facts = {f"{name} {way} MB/s": ground.megabytes / spent[way] for name, spent in seconds.items() for way in spent}
    if ground.proxy:
        figures |= {way: seconds["direct"][way] / seconds["proxy"][way] for way in ("out", "in")}
    return Sample(figures, facts)


def _fill(ground: Ground) -> bool:
    """Fill the large table, if it isn't yet; whether that was needed."""
    rows = _rows(ground)
    text = f"repeat('x', {TEXT_BYTES})"
    with ground.direct.connect() as connection:
        found = connection.execute(f"SELECT count(*) FROM {loads.LARGE}".encode()).fetchone()
        missing = found is None or found[0] != rows
        if missing:
            connection.execute(f"TRUNCATE {loads.LARGE}".encode())
            fill = f"INSERT INTO {loads.LARGE} SELECT n, {text} FROM generate_series(1, {rows}) AS n"
            connection.execute(fill.encode())
    return missing


def _copy(ground: Ground, peer: Peer, command: str) -> tuple[float, float]:
    """Seconds that psql's command took, and MiB that the peer's process grew by meanwhile."""
    if peer.pid:
        reset_peak(peer.pid)
    before = resident_bytes(peer.pid) if peer.pid else 0
    arguments = [ground.psql, "-X", "-v", "ON_ERROR_STOP=1", "-c", "\\timing on", "-c", command]
    done = subprocess.run(arguments, env=peer.address.environment(), capture_output=True, check=False)
    time_ms = re.search(rb"Time: ([\d.]+) ms", done.stdout)
    if done.returncode != 0 or time_ms is None:
        raise BenchError(f"psql through {peer.name}: {done.stderr.decode(errors='replace').strip()}")
    growth = (peak_bytes(peer.pid) - before) / MIB if peer.pid else 0.0
    return float(time_ms[1]) / 1000.0, growth


def _rows(ground: Ground) -> int:
    return ground.megabytes * 1_000_000 // len(LINE)


def _measure_idle(ground: Ground) -> Sample:
    """Memory of idle sessions, and what they do to one that works; in a new proxy, which has no freed memory to use."""
    if ground.proxy is None:
        return Sample({}, {})
    load = Load(loads.SELECT_ONE, "simple", 1, ground.seconds)
    with proxy_for(ground.direct.address) as fresh:
        proxy = replace(ground.proxy, address=replace(ground.proxy.address, port=fresh.port), pid=fresh.pid)
        first = loads.timed(ground, proxy, load).tps
        before = resident_bytes(fresh.pid)
        with ExitStack() as crowd:
            for _ in range(ground.idle_sessions):
                crowd.enter_context(proxy.connect())
            time.sleep(SETTLE_S)
            each = (resident_bytes(fresh.pid) - before) / ground.idle_sessions / 1024.0
            crowded = loads.timed(ground, proxy, load).tps
        time.sleep(SETTLE_S)
        last = loads.timed(ground, proxy, load).tps
    alone = (first + last) / 2  # before and after, so that what else the machine does cancels out
    facts = {"sessions": float(ground.idle_sessions), "alone tps": alone, "crowded tps": crowded}
    return Sample({"memory": each, "slower": crowded / alone}, facts)


BENCHMARKS = (
    Benchmark(
        "P6",
        f"forward lane, SELECT 1, {CLIENTS} clients",
        (
            Goal("simple tps", "simple: throughput", "x PgBouncer", at_least=0.7, later=1.0),
            Goal("simple cpu", "simple: CPU", "x PgBouncer", at_most=2.0, later=1.2),
            Goal("prepared tps", "prepared: throughput", "x PgBouncer", at_least=0.7, later=1.0),
            Goal("prepared cpu", "prepared: CPU", "x PgBouncer", at_most=2.0, later=1.2),
        ),
        _measure_throughput,
    ),
    Benchmark(
        "P7",
        "latency that is added for one client, SELECT 1",
        (
            Goal("simple", "simple: added latency", "x PgBouncer", at_most=1.0),
            Goal("prepared", "prepared: added latency", "x PgBouncer", at_most=1.0),
        ),
        _measure_latency,
    ),
    Benchmark(
        "P8",
        "large COPY, one client",
        (
            Goal("out", "COPY out: throughput", "x direct", at_least=0.7),
            Goal("in", "COPY in: throughput", "x direct", at_least=0.7),
            Goal("out memory", "COPY out: memory grows by", "MiB", at_most=16),
            Goal("in memory", "COPY in: memory grows by", "MiB", at_most=16),
        ),
        _measure_copy,
    ),
    Benchmark(
        "P9",
        "idle sessions",
        (
            Goal("memory", "memory of one", "KiB", at_most=40),
            Goal("slower", "throughput of an active one among them", "x alone", at_least=0.9),
        ),
        _measure_idle,
    ),
)

"""P0 to P4, C, E: writes that carry a batch hint, beside the same writes sent directly.

The law of this module: only writes through the proxy carry the hint; all else is alike.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks import loads
from benchmarks.goals import Benchmark, Goal, Sample
from benchmarks.loads import Timed
from benchmarks.peers import Ground, Peer, bare_loop, local
from benchmarks.violations import Violations, run_violations
from tqdbproxy.bench import BenchError, Load, mean_batch, proxy_for, read_metrics

RATE = 2000
RATED_WRITERS = 50
CLIENTS_MANY, CLIENTS_SOME, CLIENTS_OF_SELECT = 100, 10, 50


def _side_by_side(ground: Ground, mode: str, clients: int, table: str) -> tuple[dict[str, Timed], dict[str, float]]:
    """The INSERT through every peer in turn; the runs, and the facts with the proxy's mean batch."""
    runs: dict[str, Timed] = {}
    facts: dict[str, float] = {}
    before = read_metrics(ground.metrics) if ground.proxy else {}
    for peer in ground.peers:
        loads.empty(ground, table)
        script = loads.insert(table, hint=peer.name == "proxy")
        runs[peer.name] = loads.timed(ground, peer, Load(script, mode, clients, ground.seconds))
        facts |= loads.facts_of(peer, runs[peer.name])
    if ground.proxy:
        facts["proxy ms"] = runs["proxy"].latency_ms
        facts["mean batch"] = mean_batch(before, read_metrics(ground.metrics))
    return runs, facts


def _against_direct(ground: Ground, mode: str, clients: int, table: str, key: str) -> Sample:
    runs, facts = _side_by_side(ground, mode, clients, table)
    return Sample({key: runs["proxy"].tps / runs["direct"].tps} if "proxy" in runs else {}, facts)


def _measure_p1(ground: Ground) -> Sample:
    return _against_direct(ground, "prepared", CLIENTS_MANY, loads.PLAIN, "ratio")


def _measure_p1_keyed(ground: Ground) -> Sample:
    return _against_direct(ground, "prepared", CLIENTS_MANY, loads.KEYED, "ratio")


def _measure_p1_unix(ground: Ground) -> Sample:
    """All of it through Unix sockets: both ways of the clients, and the proxy's to the server."""
    direct = local(ground.direct)
    with proxy_for(direct.address, with_socket=True) as started:
        proxy = Peer("proxy", replace(direct.address, host=started.folder, port=started.port), started.pid)
        here = replace(ground, direct=direct, pgbouncer=None, proxy=proxy, metrics=started.metrics)
        return _measure_p1(here)


def _measure_p2_ten(ground: Ground) -> Sample:
    return _against_direct(ground, "prepared", CLIENTS_SOME, loads.PLAIN, "ratio")


def _measure_p2_one(ground: Ground) -> Sample:
    return _against_direct(ground, "prepared", 1, loads.PLAIN, "ratio")


def _measure_p3(ground: Ground) -> Sample:
    return _against_direct(ground, "simple", CLIENTS_MANY, loads.PLAIN, "ratio")


def _measure_bare(ground: Ground) -> Sample:
    """What batching brings here at most: a loop that knows the statement by heart, in the proxy's place."""
    figures: dict[str, float] = {}
    facts: dict[str, float] = {}
    for clients in (CLIENTS_MANY, CLIENTS_SOME, 1):
        with bare_loop(ground.direct.address, clients) as loop:
            load = Load(loads.insert(loads.PLAIN, hint=False), "prepared", clients, ground.seconds)
            for peer in (ground.direct, loop):
                loads.empty(ground, loads.PLAIN)
                facts |= loads.facts_of(peer, loads.timed(ground, peer, load), f"{clients}")
        figures[str(clients)] = facts[f"{clients} {loop.name} tps"] / facts[f"{clients} direct tps"]
    return Sample(figures, facts)


def _measure_p4(ground: Ground) -> Sample:
    """Writers that write seldom: is a window that pays kept?"""
    if ground.proxy is None:
        return Sample({}, {})
    loads.empty(ground, loads.PLAIN)
    load = Load(loads.insert(loads.PLAIN, hint=True), "prepared", RATED_WRITERS, ground.seconds, RATE)
    before = read_metrics(ground.metrics)
    run = loads.timed(ground, ground.proxy, load)
    size = mean_batch(before, read_metrics(ground.metrics))
    return Sample({"mean": size}, {**loads.facts_of(ground.proxy, run), "proxy ms": run.latency_ms})


def _measure_cpu(ground: Ground) -> Sample:
    """CPU of the proxy for a batched write, by PgBouncer's for a forwarded SELECT 1 (simple protocol)."""
    if ground.proxy is None:
        return Sample({}, {})
    facts: dict[str, float] = {}
    for mode in ("prepared", "simple"):
        loads.empty(ground, loads.PLAIN)
        load = Load(loads.insert(loads.PLAIN, hint=True), mode, CLIENTS_MANY, ground.seconds)
        facts[mode] = loads.timed(ground, ground.proxy, load).cpu_us or 0.0
    figures: dict[str, float] = {}
    if ground.pgbouncer:
        load = Load(loads.SELECT_ONE, "simple", CLIENTS_OF_SELECT, ground.seconds)
        unit = loads.timed(ground, ground.pgbouncer, load).cpu_us or 0.0
        figures = {mode: facts[mode] / unit for mode in facts}
        facts["pgbouncer SELECT 1"] = unit
    return Sample(figures, {f"{name} CPU us": value for name, value in facts.items()})


def _measure_violations(ground: Ground) -> Sample:
    """One write in a hundred violates a unique constraint; the books are kept and compared with the table."""
    runs: dict[str, Violations] = {}
    before = read_metrics(ground.metrics) if ground.proxy else {}
    for peer in (ground.direct, ground.proxy):
        if peer is not None:
            runs[peer.name] = run_violations(ground, peer, CLIENTS_MANY, hint=peer.name == "proxy")
    facts = {f"{name} tps": run.tps for name, run in runs.items()}
    if "proxy" not in runs:
        return Sample({}, facts)
    facts["mean batch"] = mean_batch(before, read_metrics(ground.metrics))
    facts["violations"] = float(runs["proxy"].violations)
    if unexpected := [run.unexpected for run in runs.values() if run.unexpected]:
        raise BenchError(f"a write failed with something else: {unexpected[0]}")
    wrong = runs["proxy"].rows - runs["proxy"].succeeded
    return Sample({"ratio": runs["proxy"].tps / runs["direct"].tps, "wrong": float(abs(wrong))}, facts)


def _ratio(what: str, at_least: float | None) -> tuple[Goal, ...]:
    return (Goal("ratio", what, "x direct", at_least=at_least),)


BENCHMARKS = (
    Benchmark("P1", "prepared INSERT, batch:10, 100 clients", _ratio("throughput", 4.0), _measure_p1),
    Benchmark("P1k", "the same into a table with a primary key", _ratio("throughput", None), _measure_p1_keyed),
    Benchmark("P1u", "P1, all through Unix sockets", _ratio("throughput", None), _measure_p1_unix),
    Benchmark("P2", "prepared INSERT, batch:10, 10 clients", _ratio("throughput", 2.0), _measure_p2_ten),
    Benchmark("P2one", "prepared INSERT, batch:10, 1 client", _ratio("throughput", 0.9), _measure_p2_one),
    Benchmark(
        "P0",
        "P1 and P2 by a loop that knows the statement by heart",
        tuple(Goal(str(clients), f"clients: {clients}", "x direct") for clients in (CLIENTS_MANY, CLIENTS_SOME, 1)),
        _measure_bare,
    ),
    Benchmark("P3", "simple INSERT with constants, batch:10, 100 clients", _ratio("throughput", 3.5), _measure_p3),
    Benchmark(
        "P4",
        f"{RATED_WRITERS} writers, {RATE:,} writes/s in total, batch:10",
        (Goal("mean", "mean batch", "writes", at_least=15),),
        _measure_p4,
    ),
    Benchmark(
        "C",
        "CPU of a batched write, by PgBouncer's CPU of a forwarded SELECT 1",
        (
            Goal("prepared", "prepared INSERT", "x PgBouncer", at_most=1.3),
            Goal("simple", "simple INSERT", "x PgBouncer", at_most=1.9),
        ),
        _measure_cpu,
    ),
    Benchmark(
        "E",
        "one write in a hundred violates a constraint, 100 clients",
        (
            Goal("ratio", "throughput", "x direct", at_least=2.0),
            Goal("wrong", "rows that don't match the replies", "rows", at_most=0),
        ),
        _measure_violations,
    ),
)

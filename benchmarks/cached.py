"""P5: a read that carries a ttl hint, beside the same read sent directly.

The law of this module: a proxy that didn't answer from memory has no figure here.
"""

from __future__ import annotations

from benchmarks import loads
from benchmarks.goals import Benchmark, Goal, Sample
from benchmarks.peers import Ground
from tqdbproxy.bench import BenchError, Load, read_metrics

CLIENTS = 50
HITS = "tqdbproxy_cache_hits_total"


def _measure(ground: Ground) -> Sample:
    figures: dict[str, float] = {}
    facts: dict[str, float] = {}
    for mode in ("simple", "prepared"):
        direct = loads.timed(ground, ground.direct, Load(loads.DIRECT_READ, mode, CLIENTS, ground.seconds))
        facts |= loads.facts_of(ground.direct, direct, mode)
        if ground.proxy:
            before = read_metrics(ground.metrics).get(HITS, 0.0)
            hits = loads.timed(ground, ground.proxy, Load(loads.CACHED_READ, mode, CLIENTS, ground.seconds))
            if read_metrics(ground.metrics).get(HITS, 0.0) == before:
                raise BenchError("this proxy answers nothing from memory yet")
            facts |= loads.facts_of(ground.proxy, hits, mode)
            figures[mode] = hits.tps / direct.tps
    return Sample(figures, facts)


BENCHMARKS = (
    Benchmark(
        "P5",
        f"cache hit, SELECT of one row, {CLIENTS} clients",
        (
            Goal("simple", "simple: throughput", "x direct", at_least=2.0),
            Goal("prepared", "prepared: throughput", "x direct", at_least=2.0),
        ),
        _measure,
    ),
)

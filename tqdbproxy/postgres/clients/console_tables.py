"""What the console shows: records of the proxy's parts -> rows of text.

The law of this module: it formats and sorts; where the numbers come from it doesn't know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tqdbproxy.core.metrics import Histogram, at_once
from tqdbproxy.core.overview import ClientView, GroupView, Sources
from tqdbproxy.postgres.clients.console_commands import Action, Commands, ListAction, Row, Table

CALLERS = 100
CACHE = (
    *("entries", "bytes", "max_bytes", "hits", "misses", "hit_ratio", "stale", "refreshes", "fetching"),
    *("evictions", "purges", "served_bytes", "verified_same", "verified_reordered", "verified_different"),
)
LONGEST = 200
"""Characters of a template."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What the console can ask and do.

    ``settings``: section, key, value. ``purge`` drops the answers with these tags and counts them. ``reload`` raises
    `ConfigError`, and returns what takes a restart.
    """

    sources: Sources
    sessions: Callable[[], Iterable[ClientView]]
    groups: Callable[[], Iterable[GroupView]]
    settings: Callable[[], Iterable[tuple[str, str, str]]]
    flush: Callable[[], None]
    purge: Callable[[tuple[str, ...]], int]
    reload: Callable[[], Sequence[str]]
    shutdown: Callable[[], None]


def commands(desk: Desk) -> Commands:
    """The console of a proxy with this desk."""
    return Commands(_tables(desk), _actions(desk))


def _tables(desk: Desk) -> dict[str, Table]:
    client = ("peer", "user", "database", "state", "application_name", "connected_s", "tls")
    server = ("group", "name", "address", "health", "connections", "statements", "batches", "problem")
    batch = ("group", "database", "user", "waiting", "bytes", "waited_ms", "running", "writers", "template")
    caller = ("file", "line", "query_type", "statements", "batched", "seconds", "mean_ms", "cached")
    return {
        "STATS": Table(("name", "value"), lambda: _stats(desk.sources), "what was counted since the start"),
        "CLIENTS": Table(client, lambda: map(_client, desk.sessions()), "every connection of a client"),
        "SERVERS": Table(server, lambda: _servers(desk.sources), "every server and how it is"),
        "BATCHES": Table(batch, lambda: map(_group, desk.groups()), "groups of writes that wait or run"),
        "CACHE": Table(CACHE, lambda: [_cache(desk.sources)], "what is kept of reads' answers"),
        "CALLERS": Table(caller, lambda: _callers(desk.sources), "callers by time, of statements with a hint"),
        "CONFIG": Table(("section", "key", "value"), desk.settings, "the configuration in force"),
        "VERSION": Table(("version",), lambda: [(f"tqdbproxy {desk.sources.version}",)], "the proxy's version"),
    }


def _actions(desk: Desk) -> dict[str, Action | ListAction]:
    return {
        "FLUSH": Action(desk.flush, "execute all waiting writes now"),
        "PURGE": ListAction(desk.purge, "tag", "drop the answers that depend on it; *: all"),
        "RELOAD": Action(desk.reload, "read the configuration again"),
        "SHUTDOWN": Action(desk.shutdown, "drain and stop, as on SIGTERM"),
    }


def _stats(sources: Sources) -> Iterator[Row]:
    metrics = sources.metrics
    summary = at_once(metrics.summarize(0))
    batches = metrics.batch_size.count
    yield "statements", str(summary.statements)
    yield "forwarded", str(summary.forwarded)
    yield "batched", str(summary.batched)
    yield "cached", str(summary.cached)
    yield "batches", str(batches)
    yield "batch_size_mean", _mean(metrics.batch_size, 1)
    yield "batch_wait_ms_mean", _mean(metrics.batch_delay, 1000)
    yield "batch_run_ms_mean", _mean(metrics.batch_latency, 1000)
    factor = metrics.aggregation.factor()
    yield "aggregation_factor", "" if factor is None else f"{factor:.3f}"
    yield "pending_writes", str(sources.pending())
    window = sources.window_ms()
    yield "adaptive_window_ms", "" if window is None else f"{window:.3f}"
    for name, counts in (
        ("excluded", summary.excluded),
        ("strategy", metrics.batch_methods),
        ("closed", metrics.batch_closed),
        ("retries", metrics.batch_retries),
        ("clients", sources.clients()),
    ):
        for label, count in counts.items():
            yield f"{name}_{label}", str(count)


def _mean(histogram: Histogram, factor: float) -> str:
    count = histogram.count
    return f"{histogram.sum * factor / count:.3f}" if count else ""


def _client(view: ClientView) -> Row:
    tls = "yes" if view.tls else "no"
    return view.peer, view.user, view.database, view.state, view.application, f"{view.connected_s:.1f}", tls


def _servers(sources: Sources) -> Iterator[Row]:
    for it in sources.servers():
        health = {True: "up", False: "down", None: "unknown"}[it.healthy]
        counts = map(str, (it.connections, it.statements, it.batches))
        yield it.group, it.name, it.address, health, *counts, it.problem


def _group(view: GroupView) -> Row:
    waiting = (str(view.waiting), str(view.size), f"{view.waited_s * 1000:.1f}", "yes" if view.running else "no")
    template = view.template if len(view.template) <= LONGEST else f"{view.template[:LONGEST]}..."
    return view.group, view.database, view.user, *waiting, str(view.writers), template


def _cache(sources: Sources) -> Row:
    view = sources.cache()
    summary = at_once(sources.metrics.summarize(0))
    ratio = "" if summary.hit_ratio is None else f"{summary.hit_ratio:.3f}"
    size = (view.entries, view.bytes, view.max_bytes, summary.cache_hits, summary.cache_misses)
    changes = (view.stale, view.refreshes, view.fetching, view.evictions, view.purges, view.served_bytes)
    verified = (view.verified.get(result, 0) for result in ("same", "reordered", "different"))
    return *map(str, size), ratio, *map(str, changes), *map(str, verified)


def _callers(sources: Sources) -> Iterator[Row]:
    for counts in at_once(sources.metrics.summarize(CALLERS)).top:
        seconds, timed = counts.latency.sum, counts.latency.count
        numbers = (str(counts.queries), str(counts.batched), f"{seconds:.3f}", f"{seconds * 1000 / timed:.3f}")
        yield *counts.labels, *numbers, str(counts.cached)

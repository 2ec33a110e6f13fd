"""What operators ask of the proxy's parts, in the records and metrics that they are shown.

The law of this module: it looks and translates; it changes nothing. Secrets are not shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from tqdbproxy.core.caching import Cache
from tqdbproxy.core.metrics import Metrics
from tqdbproxy.core.overview import CacheView, ClientView, GroupView
from tqdbproxy.core.writebatch.manager import Manager
from tqdbproxy.postgres.clients.hub import Hub
from tqdbproxy.settings import GroupSettings, Settings

SECRET = frozenset({"probe", "purge_listen"})
"""Connection strings, which may hold a password."""


def client_views(hub: Hub) -> list[ClientView]:
    """Every client, the oldest connection first."""
    return sorted((client.view() for client in hub.clients), key=lambda view: -view.connected_s)


def group_views(batches: Manager, now: float) -> Iterator[GroupView]:
    """Groups of writes that are in use; those that wait longest first."""
    busy = [group for group in batches.groups() if group.waiting or group.running]
    for group in sorted(busy, key=lambda group: group.waiting[0].arrived if group.waiting else now):
        identity = group.key.identity
        waited_s = now - group.waiting[0].arrived if group.waiting else 0.0
        yield GroupView(
            identity.group,
            _text(identity.database),
            _text(identity.user),
            _text(group.key.template),
            len(group.waiting),
            group.size,
            group.running,
            group.recent.count,
            waited_s,
        )


def cache_view(cache: Cache) -> CacheView:
    """The cache as it is now."""
    counts = cache.counts
    return CacheView(
        entries=len(cache),
        bytes=cache.bytes,
        max_bytes=cache.bounds.max_bytes,
        fetching=cache.fetching,
        evictions=counts.evictions,
        purges=counts.purges,
        stale=counts.stale,
        refreshes=counts.refreshes,
        served_bytes=counts.served_bytes,
        verified=dict(counts.verified),
    )


def show_cache(metrics: Metrics, cache: Cache) -> None:
    """Let the metrics read what there is to know of the cache; hits and misses are counted by caller."""
    counts = cache.counts
    metrics.gauge("tqdbproxy_cache_bytes", "Bytes of all kept answers, overhead included", lambda: cache.bytes)
    metrics.gauge("tqdbproxy_cache_max_bytes", "Bytes that they may take", lambda: cache.bounds.max_bytes)
    metrics.gauge("tqdbproxy_cache_entries", "Answers that are kept", lambda: len(cache))
    metrics.counter(
        "tqdbproxy_cache_evictions_total", "Answers dropped to make room for others", lambda: counts.evictions
    )
    metrics.counter(
        "tqdbproxy_cache_purges_total", "Answers dropped because something has changed", lambda: counts.purges
    )
    metrics.counter(
        "tqdbproxy_cache_stale_total", "Reads given an old answer while it was refreshed", lambda: counts.stale
    )
    metrics.counter(
        "tqdbproxy_cache_refreshes_total", "Fetches of answers that were still kept", lambda: counts.refreshes
    )
    metrics.counter("tqdbproxy_cache_served_bytes_total", "Bytes sent from memory", lambda: counts.served_bytes)
    metrics.counter(
        "tqdbproxy_cache_verified_total",
        "Kept answers compared with the server's, by result",
        lambda: {(result,): count for result, count in counts.verified.items()},
        ("result",),
    )


def setting_rows(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Section, key and value of every setting."""
    for section in fields(settings):
        record = getattr(settings, section.name)
        if isinstance(record, Mapping):
            for name, group in record.items():
                yield from _rows(f"postgres.{name}", group)
        else:
            yield from _rows(section.name, record)


def _rows(section: str, record: Any) -> Iterator[tuple[str, str, str]]:
    for key in fields(record):
        value = getattr(record, key.name)
        if not (key.name == "name" and isinstance(record, GroupSettings)):
            yield section, key.name, "(not shown)" if value and key.name in SECRET else _written(value)


def _written(value: object) -> str:
    """As in the file."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _text(value: object) -> str:
    """A name or a template as a person reads it; a template may be a text with what its constants are."""
    if isinstance(value, tuple) and value:
        value = value[0]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

"""What operators see of the cache: its metrics by the interface's names, and one record that says the same."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.task import Clock

from tqdbproxy.core.caching import Bounds, Cache
from tqdbproxy.core.metrics import Metrics
from tqdbproxy.core.overview import CacheView
from tqdbproxy.core.statement import CacheKey, Identity
from tqdbproxy.desk import cache_view, show_cache

IDENTITY = Identity("main", b"db", b"u", ())


class World:
    """A cache; with `live`, a little has happened to it, each thing another number of times."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.cache = Cache(self.clock, Bounds(max_bytes=5000, max_entry_bytes=4000))
        self.registry = CollectorRegistry()
        show_cache(Metrics(self.registry), self.cache)

    def answer(self, name: str, size: int) -> None:
        """Something was asked for, and answered."""
        self.lead(name).answered(name, size)

    def lead(self, name: str) -> Any:
        scope = self.cache.scope("main", b"db")
        return self.cache.lead(CacheKey(IDENTITY, name), scope, (name,))

    def live(self) -> None:
        for _ in range(3):
            self.answer("a", 100)
            assert self.cache.purge(("a",)) == 1
        self.answer("b", 2000)
        for name in "cdefgc":
            self.answer(name, 2000)  # there is no room for two
        self.clock.advance(1.5)
        self.lead("c")
        for _ in range(2):
            assert self.cache.look(CacheKey(IDENTITY, "c"), 1) is not None
        self.cache.counts.served_bytes += 77
        self.cache.counts.verified["different"] += 4

    def shown(self) -> dict[tuple[str, ...], float]:
        """Every value by its name and its labels' values."""
        samples = (sample for family in self.registry.collect() for sample in family.samples)
        return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


def test_before_anything_has_happened() -> None:
    world = World()
    assert world.shown() == {
        ("tqdbproxy_cache_bytes",): 0,
        ("tqdbproxy_cache_max_bytes",): 5000,
        ("tqdbproxy_cache_entries",): 0,
    }
    nothing = {"same": 0, "reordered": 0, "different": 0}
    assert cache_view(world.cache) == CacheView(max_bytes=5000, verified=nothing)


def test_what_has_happened() -> None:
    world = World()
    world.live()
    assert world.shown() == {
        ("tqdbproxy_cache_bytes",): world.cache.bytes,
        ("tqdbproxy_cache_max_bytes",): 5000,
        ("tqdbproxy_cache_entries",): 1,
        ("tqdbproxy_cache_evictions_total",): 6,
        ("tqdbproxy_cache_purges_total",): 3,
        ("tqdbproxy_cache_stale_total",): 2,
        ("tqdbproxy_cache_refreshes_total",): 1,
        ("tqdbproxy_cache_served_bytes_total",): 77,
        ("tqdbproxy_cache_verified_total", "different"): 4,
    }
    assert world.cache.bytes > 2000
    assert cache_view(world.cache) == CacheView(
        entries=1,
        bytes=world.cache.bytes,
        max_bytes=5000,
        fetching=1,
        evictions=6,
        purges=3,
        stale=2,
        refreshes=1,
        served_bytes=77,
        verified={"same": 0, "reordered": 0, "different": 4},
    )


def test_a_record_stays_as_it_was() -> None:
    world = World()
    view = cache_view(world.cache)
    world.live()
    assert view.verified["different"] == 0


def test_a_reload_changes_the_limit() -> None:
    world = World()
    world.cache.bounds = Bounds(max_bytes=9000)
    assert world.shown()["tqdbproxy_cache_max_bytes",] == 9000

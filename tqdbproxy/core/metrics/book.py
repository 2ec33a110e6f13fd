"""Which metrics there are: the names and labels that dashboards and alerts rely on (docs/metrics.rst).

The law of this module: it says what is shown and where it is read; it counts nothing itself. What belongs to one part
alone (the cache's size, the sessions' states) stays in that part: it calls ``gauge`` or ``counter`` once, and is asked
whenever somebody scrapes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry

from tqdbproxy.core.metrics.counts import MEMBERS, SECONDS, Aggregation, CallerCounts, Histogram
from tqdbproxy.core.metrics.families import Counters, Family, Gauges, Histograms, Labels
from tqdbproxy.core.metrics.summary import Callers, summarize
from tqdbproxy.core.statement import Kind

Reading = float | Mapping[Labels, float]

CALLER: Final = ("file", "line")
KIND: Final = (*CALLER, "query_type")
SELECT: Final = Kind.SELECT.value
LONGEST_LABEL: Final = 200
"""A hint's file and line are cut to so many characters: ``max_callers`` alone bounds no bytes."""


class Metrics:
    """All that is counted, on the registry that is passed in.

    Whoever counts keeps the object he counts on: ``caller()`` is asked once for each text, not for each statement.
    """

    def __init__(
        self, registry: CollectorRegistry, max_callers: int = 1000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._max_callers = max_callers
        self._places: set[tuple[str, str]] = set()
        self._by_place: dict[tuple[str, str, Kind], CallerCounts] = {}
        self.plain = {kind: CallerCounts("", "", kind) for kind in Kind}
        # Only ever appended to, so a scrape may go through it in pieces while callers are added.
        self._callers = list(self.plain.values())
        self.batch_size = Histogram(MEMBERS)
        self.batch_delay = Histogram(SECONDS)
        self.batch_latency = Histogram(SECONDS)
        self.batch_methods = dict.fromkeys(("single", "prepared", "merged", "transaction"), 0)
        self.batch_closed = dict.fromkeys(("full", "quorum", "timer", "flush", "shutdown"), 0)
        self.batch_retries = dict.fromkeys(("batch", "forward"), 0)
        self.delay_adjustments = dict.fromkeys(("up", "down"), 0)
        self.hint_errors: dict[str, int] = defaultdict(int)
        self.aggregation = Aggregation(clock)
        for family in (*self._caller_families(), *self._batch_families()):
            registry.register(family)

    def caller(self, file: str, line: str, kind: Kind) -> CallerCounts:
        """The counts of one kind of statement from one place; beyond ``max_callers`` places, from ``other``."""
        if not file and not line:
            return self.plain[kind]
        place = (_label(file), _label(line))
        if place not in self._places:
            if len(self._places) >= self._max_callers:
                place = ("other", "")
            else:
                self._places.add(place)
        counts = self._by_place.get((*place, kind))
        if counts is None:
            counts = self._by_place[(*place, kind)] = CallerCounts(*place, kind)
            self._callers.append(counts)
        return counts

    def summarize(self, top: int) -> Callers:
        """The totals over all callers, and the ``top`` of them that took most time, step by step."""
        return summarize(self._callers, top)

    def gauge(self, name: str, documentation: str, read: Callable[[], Reading], labels: tuple[str, ...] = ()) -> None:
        """Show what ``read`` says at scrape time: a number, or one for each label set."""
        self._registry.register(Gauges(name, documentation, labels, lambda: _readings(read())))

    def counter(self, name: str, documentation: str, read: Callable[[], Reading], labels: tuple[str, ...] = ()) -> None:
        """The same for numbers that only grow; ``name`` ends with ``_total``."""
        self._registry.register(Counters(name, documentation, labels, lambda: _readings(read())))

    def _caller_families(self) -> Iterator[Family]:
        yield Counters(
            "tqdbproxy_query_total", "Statements, by caller (hints file and line)", (*KIND, "cached"), self._queries
        )
        yield Histograms(
            "tqdbproxy_query_latency_seconds", "From a statement's arrival to its reply", KIND, SECONDS, self._latencies
        )
        yield Counters("tqdbproxy_write_batched_total", "Writes executed in a batch", KIND, self._batched)
        yield Counters(
            "tqdbproxy_write_excluded_total",
            "Statements whose hint was not followed",
            (*KIND, "reason"),
            self._excluded,
        )
        yield Counters("tqdbproxy_cache_hits_total", "Reads answered from memory", CALLER, self._hits)
        yield Counters("tqdbproxy_cache_misses_total", "Hinted reads asked from a server", CALLER, self._misses)

    def _batch_families(self) -> Iterator[Family]:
        for name, documentation, bounds, histogram in (
            ("size", "Members of a batch", MEMBERS, self.batch_size),
            ("delay_seconds", "From the arrival of a batch's first write to execution", SECONDS, self.batch_delay),
            ("latency_seconds", "Execution of a batch", SECONDS, self.batch_latency),
        ):
            yield Histograms(f"tqdbproxy_write_batch_{name}", documentation, (), bounds, partial(_alone, histogram))
        for name, documentation, label, counts in (
            (
                "write_batch_method",
                "Batches, and writes executed alone, by the way of execution",
                "method",
                self.batch_methods,
            ),
            ("write_batch_closed", "Batches, by what closed their window", "reason", self.batch_closed),
            ("write_batch_retries", "Members executed again, in a batch or alone", "way", self.batch_retries),
            ("write_delay_adjustments", "Moves of the adaptive window", "direction", self.delay_adjustments),
            ("hint_errors", "Hints with a value that can't be read", "key", self.hint_errors),
        ):
            yield Counters(f"tqdbproxy_{name}_total", documentation, (label,), partial(_by_label, counts))
        yield Gauges(
            "tqdbproxy_write_aggregation_factor",
            "Client writes per server transaction over the last minute",
            (),
            self._aggregation,
        )

    def _queries(self) -> Iterator[tuple[Labels, int]]:
        for counts in self._callers:
            yield (*counts.labels, "false"), counts.queries - counts.cached
            yield (*counts.labels, "true"), counts.cached

    def _latencies(self) -> Iterator[tuple[Labels, Histogram]]:
        return ((counts.labels, counts.latency) for counts in self._callers)

    def _batched(self) -> Iterator[tuple[Labels, int]]:
        return ((counts.labels, counts.batched) for counts in self._callers)

    def _excluded(self) -> Iterator[tuple[Labels, int]]:
        for counts in self._callers:
            for reason, count in tuple(counts.excluded.items()):
                yield (*counts.labels, reason.value), count

    def _hits(self) -> Iterator[tuple[Labels, int]]:
        # Only a SELECT is ever cached, so its counts are those of its place.
        return ((counts.labels[:2], counts.cache_hits) for counts in self._callers if counts.labels[2] == SELECT)

    def _misses(self) -> Iterator[tuple[Labels, int]]:
        return ((counts.labels[:2], counts.cache_misses) for counts in self._callers if counts.labels[2] == SELECT)

    def _aggregation(self) -> Iterator[tuple[Labels, float]]:
        factor = self.aggregation.factor()
        return iter(()) if factor is None else iter((((), factor),))


def _alone(histogram: Histogram) -> tuple[tuple[Labels, Histogram]]:
    return (((), histogram),)


def _by_label(counts: Mapping[str, int]) -> Iterator[tuple[Labels, int]]:
    return (((value,), count) for value, count in tuple(counts.items()))


def _readings(reading: Reading) -> Iterable[tuple[Labels, float]]:
    return tuple(reading.items()) if isinstance(reading, Mapping) else (((), reading),)


def _label(text: str) -> str:
    """What a client wrote, in a length and an encoding that Prometheus takes."""
    return text[:LONGEST_LABEL].encode(errors="replace").decode()

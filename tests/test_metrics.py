"""The metrics: names and labels as the interface promises them, and text that says what prometheus-client would say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.task import Clock

from tqdbproxy.core.metrics import Aggregation, Histogram, Metrics, exposition, render
from tqdbproxy.core.metrics.exposition import PIECE
from tqdbproxy.core.statement import Kind, Reason

PROMISED = {
    "tqdbproxy_query_total": {"file", "line", "query_type", "cached"},
    "tqdbproxy_query_latency_seconds": {"file", "line", "query_type"},
    "tqdbproxy_write_batched_total": {"file", "line", "query_type"},
    "tqdbproxy_write_excluded_total": {"file", "line", "query_type", "reason"},
    "tqdbproxy_write_batch_size": set(),
    "tqdbproxy_write_batch_delay_seconds": set(),
    "tqdbproxy_write_batch_latency_seconds": set(),
    "tqdbproxy_write_batch_method_total": {"method"},
    "tqdbproxy_write_batch_closed_total": {"reason"},
    "tqdbproxy_write_batch_retries_total": {"way"},
    "tqdbproxy_write_aggregation_factor": set(),
    "tqdbproxy_write_delay_adjustments_total": {"direction"},
    "tqdbproxy_cache_hits_total": {"file", "line"},
    "tqdbproxy_cache_misses_total": {"file", "line"},
    "tqdbproxy_hint_errors_total": {"key"},
}
"""Names that stay as they are, of what ``Metrics`` shows by itself; those of other parts come through ``gauge``."""

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(text: bytes) -> Series:
    """Every value of a page by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def lines(registry: CollectorRegistry, name: str) -> list[str]:
    """The values of one metric as they stand on the page."""
    return [line for line in exposition(registry).decode().splitlines() if line.startswith(name)]


def comments(text: bytes) -> Iterator[bytes]:
    """The lines that describe."""
    return (line for line in text.splitlines() if line.startswith(b"#"))


def used(registry: CollectorRegistry) -> Metrics:
    """Metrics of which every one has counted something."""
    metrics = Metrics(registry)
    for place in (("app/orders.py", "12"), ('C:\\new "one"\n', "1"), ("", "")):
        counts = metrics.caller(*place, Kind.SELECT)
        counts.queries, counts.cached, counts.batched, counts.cache_hits, counts.cache_misses = 5, 2, 3, 2, 1
        counts.latency.observe(0.0004)
        counts.latency.observe(20)
        counts.exclude(Reason.TRANSACTION)
    for histogram in (metrics.batch_size, metrics.batch_delay, metrics.batch_latency):
        histogram.observe(1)
    for closed_set in (
        metrics.batch_methods,
        metrics.batch_closed,
        metrics.batch_retries,
        metrics.delay_adjustments,
    ):
        for key in closed_set:
            closed_set[key] += 7
    metrics.hint_errors["batch"] += 1
    metrics.aggregation.note(writes=30, transactions=4)
    return metrics


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry, max_callers=2)


# What dashboards and alerts rely on.


def test_names_and_labels_are_those_of_the_interface(registry: CollectorRegistry) -> None:
    used(registry)
    shown: dict[str, set[str]] = {}
    for family in registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        shown[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    assert shown == PROMISED


def test_nothing_counted_nothing_shown(registry: CollectorRegistry) -> None:
    Metrics(registry)
    assert series(exposition(registry)) == {}
    assert exposition(registry).count(b"# TYPE") == len(PROMISED)


def test_a_reason_that_never_occurred_is_not_shown(registry: CollectorRegistry) -> None:
    counts = Metrics(registry).caller("a.py", "1", Kind.UPDATE)
    counts.exclude(Reason.PIPELINE)
    counts.exclude(Reason.PIPELINE)
    assert lines(registry, "tqdbproxy_write") == [
        'tqdbproxy_write_excluded_total{file="a.py",line="1",query_type="update",reason="pipeline"} 2'
    ]


def test_cached_ones_are_among_the_queries(registry: CollectorRegistry) -> None:
    counts = Metrics(registry).plain[Kind.SELECT]
    counts.queries, counts.cached = 10, 4
    assert lines(registry, "tqdbproxy_query_total") == [
        'tqdbproxy_query_total{file="",line="",query_type="select",cached="false"} 6',
        'tqdbproxy_query_total{file="",line="",query_type="select",cached="true"} 4',
    ]


def test_the_batch_size_has_the_promised_buckets(registry: CollectorRegistry) -> None:
    metrics = Metrics(registry)
    for size in (1, 1, 20, 21, 5000):
        metrics.batch_size.observe(size)
    name = "tqdbproxy_write_batch_size"
    bounds = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
    counts = (2, 2, 2, 2, 3, 4, 4, 4, 4, 4)
    assert lines(registry, name) == [
        *(f'{name}_bucket{{le="{bound}.0"}} {count}' for bound, count in zip(bounds, counts, strict=True)),
        f'{name}_bucket{{le="+Inf"}} 5',
        f"{name}_sum 5043",
        f"{name}_count 5",
    ]


# Labels come from clients, so they are bounded.


def test_one_place_and_kind_has_one_object(metrics: Metrics) -> None:
    counts = metrics.caller("a.py", "1", Kind.INSERT)
    assert metrics.caller("a.py", "1", Kind.INSERT) is counts
    assert metrics.caller("a.py", "1", Kind.UPDATE) is not counts
    assert counts.labels == ("a.py", "1", "insert")


def test_unhinted_statements_are_no_caller(metrics: Metrics) -> None:
    assert metrics.caller("", "", Kind.MERGE) is metrics.plain[Kind.MERGE]


def test_places_beyond_the_limit_are_other(metrics: Metrics) -> None:
    first, second, third = (metrics.caller("a.py", line, Kind.INSERT) for line in "123")
    assert [each.labels[:2] for each in (first, second, third)] == [("a.py", "1"), ("a.py", "2"), ("other", "")]
    assert metrics.caller("b.py", "4", Kind.INSERT) is third
    assert metrics.caller("a.py", "2", Kind.INSERT) is second
    assert metrics.caller("a.py", "2", Kind.DELETE).labels == ("a.py", "2", "delete")


def test_what_a_client_wrote_is_cut_and_made_text(metrics: Metrics) -> None:
    assert metrics.caller("x" * 1000, "\udcff", Kind.OTHER).labels == ("x" * 200, "?", "other")


# Gauges and counters that other parts bring.


def test_a_gauge_is_read_when_somebody_scrapes(registry: CollectorRegistry, metrics: Metrics) -> None:
    clients: dict[tuple[str, ...], float] = {("active",): 3.0, ("idle",): 0.0}
    metrics.gauge("tqdbproxy_clients", "Clients", lambda: clients, ("state",))
    clients["idle",] = 4
    assert lines(registry, "tqdbproxy_clients") == [
        'tqdbproxy_clients{state="active"} 3.0',
        'tqdbproxy_clients{state="idle"} 4',
    ]


def test_a_gauge_may_be_one_number(registry: CollectorRegistry, metrics: Metrics) -> None:
    values = iter((0, 2.5, float("nan"), float("inf"), float("-inf")))
    metrics.gauge("tqdbproxy_write_ops_per_second", "Writes", lambda: next(values))
    shown = [lines(registry, "tqdbproxy_write_ops_per_second")[0].split()[1] for _ in range(5)]
    assert shown == ["0", "2.5", "NaN", "+Inf", "-Inf"]


def test_a_counter_is_shown_once_it_has_counted(registry: CollectorRegistry, metrics: Metrics) -> None:
    evictions = [0]
    metrics.counter("tqdbproxy_cache_evictions_total", "Evictions", lambda: evictions[0])
    assert lines(registry, "tqdbproxy_cache_evictions") == []
    evictions[0] += 1
    assert lines(registry, "tqdbproxy_cache_evictions") == ["tqdbproxy_cache_evictions_total 1"]


def test_a_name_can_be_taken_once(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.gauge("tqdbproxy_cache_bytes", "Bytes", lambda: 0)
    with pytest.raises(ValueError, match="Duplicated"):
        metrics.gauge("tqdbproxy_cache_bytes", "Bytes", lambda: 0)
    with pytest.raises(ValueError, match="Duplicated"):
        Counter("tqdbproxy_query", "Somebody else's", registry=registry)


# The page is prometheus-client's, only cheaper and in pieces.


def test_same_as_generate_latest(registry: CollectorRegistry) -> None:
    metrics = used(registry)
    metrics.gauge("tqdbproxy_clients", "A \\ and\na new line", lambda: {("idle",): 1.5e-7}, ("state",))
    Counter("somebody_elses_total", "Counter", ["label"], registry=registry).labels('"').inc()
    ours, theirs = exposition(registry), generate_latest(registry)
    assert series(ours) == series(theirs)
    assert sorted(comments(ours)) == sorted(comments(theirs))


def test_pieces_are_small_and_whole_lines(registry: CollectorRegistry) -> None:
    metrics = Metrics(registry)
    for line in range(300):
        counts = metrics.caller("app/orders.py", str(line), Kind.INSERT)
        counts.queries += 1
        counts.latency.observe(0.001)
    pieces = list(render(registry))
    assert max(map(len, pieces)) < PIECE + 4096
    assert {piece[-1:] for piece in pieces} == {b"\n"}
    assert b"".join(pieces) == exposition(registry)


def test_counting_goes_on_between_the_pieces(registry: CollectorRegistry) -> None:
    metrics = Metrics(registry)
    for line in range(1000):
        metrics.caller("a.py", str(line), Kind.INSERT).latency.observe(1)
    for number, _ in enumerate(render(registry)):
        for each in (metrics.plain[Kind.SELECT], metrics.caller("new.py", str(number), Kind.INSERT)):
            each.queries += 1
            each.latency.observe(0.1)
            each.exclude(Reason.UNSAFE)
        metrics.hint_errors[str(number)] += 1
    text = series(exposition(registry))
    assert text["tqdbproxy_hint_errors_total", frozenset({("key", "0")})] == 1


# Counting by other means comes to the same.


@given(st.lists(st.sampled_from((0, 0.5, 1, 1.5, 2, 5, 5.25, 1e9))))
def test_histogram(values: list[float]) -> None:
    histogram = Histogram((1, 2, 5))
    for value in values:
        histogram.observe(value)
    below = [sum(value <= bound for value in values) for bound in (1, 2, 5, float("inf"))]
    assert [sum(histogram.buckets[: n + 1]) for n in range(4)] == below
    assert (histogram.count, histogram.sum) == (len(values), sum(values))


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 9), st.integers(1, 3))))
def test_aggregation_is_that_of_the_last_minute(notes: list[tuple[int, int, int]]) -> None:
    clock = Clock()
    aggregation = Aggregation(clock.seconds)
    kept: list[tuple[float, int, int]] = []
    for pause, writes, transactions in notes:
        clock.advance(pause)
        aggregation.note(writes, transactions)
        kept.append((clock.seconds(), writes, transactions))
        recent = [note for note in kept if note[0] > clock.seconds() - 60]
        ratio = sum(note[1] for note in recent) / sum(note[2] for note in recent)
        assert aggregation.factor() == ratio
    clock.advance(60)
    assert aggregation.factor() is None

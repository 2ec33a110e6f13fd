"""``/status.json``: the numbers of the status page, as they stand now.

Counters, not rates: whoever reads them twice divides by the time between (``monotonic_s``), so that any number of
readers may each look as often as they like. The law of this module: it reads what is counted anyway, in small steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.web.server import NOT_DONE_YET, Request

from tqdbproxy.core.metrics import CallerCounts, Histogram, Metrics, Summary
from tqdbproxy.core.overview import Sources
from tqdbproxy.web.page import Page
from tqdbproxy.web.pieces import Pieces

TOP = 20
"""Callers on the page."""


class StatusNumbers(Page):
    """See the module."""

    def __init__(self, sources: Sources, clock: IReactorTime) -> None:
        super().__init__()
        self._sources = sources
        self._clock = clock

    def render_GET(self, request: Request) -> int:
        """See `twisted.web.resource.IResource`."""
        request.setHeader(b"content-type", b"application/json")
        request.setHeader(b"cache-control", b"no-store")
        Pieces(request, numbers(self._sources), self._clock)
        return NOT_DONE_YET


def numbers(sources: Sources) -> Iterator[bytes]:
    """The document as its last piece; those before are empty, a step of the work each."""
    steps = sources.metrics.summarize(TOP)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            yield json.dumps(_document(sources, end.value)).encode()
            return
        yield b""


def _document(sources: Sources, summary: Summary) -> dict[str, Any]:
    return {
        "version": sources.version,
        "time": time.time(),
        "monotonic_s": sources.now(),
        "uptime_s": max(0.0, time.time() - sources.started),
        "lanes": {"forwarded": summary.forwarded, "batched": summary.batched, "cached": summary.cached},
        "statements": summary.by_kind,
        "excluded": summary.excluded,
        "batches": _batches(sources.metrics),
        "pending": sources.pending(),
        "window_ms": sources.window_ms(),
        "cache": {"hits": summary.cache_hits, "misses": summary.cache_misses, **asdict(sources.cache())},
        "clients": dict(sources.clients()),
        "servers": [asdict(server) for server in sources.servers()],
        "hinted_s": summary.seconds,
        "callers": [_caller(counts) for counts in summary.top],
    }


def _batches(metrics: Metrics) -> dict[str, Any]:
    return {
        "size": _histogram(metrics.batch_size),
        "wait_s": _histogram(metrics.batch_delay),
        "run_s": _histogram(metrics.batch_latency),
        "strategies": metrics.batch_methods,
        "closed": metrics.batch_closed,
        "retries": metrics.batch_retries,
        "aggregation": metrics.aggregation.factor(),
    }


def _histogram(histogram: Histogram) -> dict[str, Any]:
    """``counts`` has one more entry than ``bounds``: what is above the last of them."""
    return {"bounds": histogram.bounds, "counts": histogram.buckets, "sum": histogram.sum}


def _caller(counts: CallerCounts) -> dict[str, Any]:
    file, line, kind = counts.labels
    return {
        "file": file,
        "line": line,
        "query_type": kind,
        "statements": counts.queries,
        "batched": counts.batched,
        "cached": counts.cached,
        "timed": counts.latency.count,
        "seconds": counts.latency.sum,
    }

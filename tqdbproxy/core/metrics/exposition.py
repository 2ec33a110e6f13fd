"""Registry -> Prometheus text, in pieces that don't keep the reactor.

The law of this module: between two pieces anything may be counted; within one the reactor stands still, so pieces are
small. A histogram is never cut, so its buckets always add up to its count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Metric, generate_latest

from tqdbproxy.core.metrics.families import Family, FamilyMetric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

PIECE: Final = 32768
"""A piece ends at so many characters."""


def render(registry: CollectorRegistry) -> Iterator[bytes]:
    """The page for ``/metrics``, made while it is asked for: write a piece, let the reactor turn, take the next."""
    for metric in registry.collect():
        if isinstance(metric, FamilyMetric):
            yield from _pieces(metric.family)
        else:
            yield generate_latest(_Alone(metric))


def exposition(registry: CollectorRegistry) -> bytes:
    """The whole page at once, for where nothing else waits."""
    return b"".join(render(registry))


def _pieces(family: Family) -> Iterator[bytes]:
    blocks = [family.header()]
    size = 0
    for block in family.blocks():
        blocks.append(block)
        size += len(block)
        if size >= PIECE:
            yield "".join(blocks).encode()
            blocks, size = [], 0
    yield "".join(blocks).encode()


@dataclass(frozen=True, slots=True)
class _Alone:
    """Somebody else's metric as a collector, which is what ``generate_latest`` takes."""

    metric: Metric

    def collect(self) -> Iterable[Metric]:
        return (self.metric,)

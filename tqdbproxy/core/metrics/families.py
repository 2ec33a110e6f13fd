"""A metric: its name, its labels, and where its values are read when somebody asks.

The law of this module: a family holds no values. It is written in two ways that say the same: as prometheus-client's
samples, for whatever else reads a registry, and as text, which costs a small part of ``generate_latest``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from math import isfinite, isnan
from typing import ClassVar

from prometheus_client import Metric
from prometheus_client.samples import Sample

from tqdbproxy.core.metrics.counts import Histogram

Labels = tuple[str, ...]


class Family(ABC):
    """One metric with all its label sets: a collector for the registry."""

    type: ClassVar[str]

    def __init__(self, name: str, documentation: str, labels: Labels) -> None:
        self.name = name
        self.documentation = documentation
        self.labels = labels

    def describe(self) -> Iterator[Metric]:
        """What the registry compares, to refuse a second metric of the same name."""
        yield Metric(self.name.removesuffix("_total"), self.documentation, self.type)

    def collect(self) -> Iterator[Metric]:
        """Ourselves; no sample is made before somebody asks for one."""
        yield FamilyMetric(self)

    def header(self) -> str:
        """The lines before the values in Prometheus' text format."""
        text = self.documentation.replace("\\", r"\\").replace("\n", r"\n")
        return f"# HELP {self.name} {text}\n# TYPE {self.name} {self.type}\n"

    @abstractmethod
    def blocks(self) -> Iterator[str]:
        """The lines of one label set after another; label sets that were never used are left out."""

    @abstractmethod
    def samples(self) -> Iterator[Sample]:
        """The same as samples."""

    def named(self, values: Labels) -> dict[str, str]:
        """A label set as prometheus-client wants it."""
        return dict(zip(self.labels, values, strict=True))

    def written(self, values: Labels) -> str:
        """A label set as text, without its braces."""
        return ",".join([f'{name}="{escaped(value)}"' for name, value in zip(self.labels, values, strict=True)])


class Gauges(Family):
    """Values that go up and down: one for each label set, shown whatever it is."""

    type = "gauge"

    def __init__(
        self, name: str, documentation: str, labels: Labels, read: Callable[[], Iterable[tuple[Labels, float]]]
    ) -> None:
        super().__init__(name, documentation, labels)
        self._read = read

    def shown(self) -> Iterable[tuple[Labels, float]]:
        """The label sets and their values."""
        return self._read()

    def blocks(self) -> Iterator[str]:
        """A line each."""
        for values, value in self.shown():
            braced = f"{{{self.written(values)}}}" if values else ""
            yield f"{self.name}{braced} {number(value)}\n"

    def samples(self) -> Iterator[Sample]:
        """A sample each."""
        for values, value in self.shown():
            yield Sample(self.name, self.named(values), value)


class Counters(Gauges):
    """Values that only grow: shown once they have."""

    type = "counter"

    def shown(self) -> Iterable[tuple[Labels, float]]:
        """Those that have counted something."""
        return ((values, value) for values, value in self._read() if value)


class Histograms(Family):
    """Histograms with the same bounds: shown once they have seen a value."""

    type = "histogram"

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Labels,
        bounds: tuple[float, ...],
        read: Callable[[], Iterable[tuple[Labels, Histogram]]],
    ) -> None:
        super().__init__(name, documentation, labels)
        self._limits = (*(number(float(bound)) for bound in bounds), "+Inf")
        self._read = read

    def blocks(self) -> Iterator[str]:
        """A line for each bucket, counting all below it too, then the sum and the count."""
        name, limits = self.name, self._limits
        for values, histogram in self._read():
            counts = list(accumulate(histogram.buckets))
            if not counts[-1]:
                continue
            inside = self.written(values)
            start = f'{name}_bucket{{{inside}{"," if inside else ""}le="'
            lines = [f'{start}{limit}"}} {count}\n' for limit, count in zip(limits, counts, strict=True)]
            braced = f"{{{inside}}}" if inside else ""
            lines.append(f"{name}_sum{braced} {number(histogram.sum)}\n{name}_count{braced} {counts[-1]}\n")
            yield "".join(lines)

    def samples(self) -> Iterator[Sample]:
        """A sample for each of these lines."""
        for values, histogram in self._read():
            counts = list(accumulate(histogram.buckets))
            if not counts[-1]:
                continue
            labels = self.named(values)
            for limit, count in zip(self._limits, counts, strict=True):
                yield Sample(f"{self.name}_bucket", {**labels, "le": limit}, count)
            yield Sample(f"{self.name}_sum", labels, histogram.sum)
            yield Sample(f"{self.name}_count", labels, counts[-1])


class FamilyMetric(Metric):
    """A family in the shape that prometheus-client's functions take; ``render`` looks through it."""

    def __init__(self, family: Family) -> None:
        super().__init__(family.name.removesuffix("_total"), family.documentation, family.type)
        self.family = family

    @property
    def samples(self) -> list[Sample]:
        """All samples, made anew."""
        return list(self.family.samples())

    @samples.setter
    def samples(self, _: list[Sample]) -> None:
        """``Metric`` starts with an empty list, which is of no use here."""


def escaped(value: str) -> str:
    """A label's value between its quotes."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def number(value: float) -> str:
    """A value: Python's spelling of a number is Go's, but for these three."""
    if isfinite(value):
        return repr(value)
    return "NaN" if isnan(value) else "+Inf" if value > 0 else "-Inf"

"""The records of the benchmarks: what is to be reached, what is measured, what came out.

The law of this module: nothing here runs anything.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.peers import Ground


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure with its bound, if it has one. ``later`` is what it is meant to reach in the end."""

    key: str
    what: str
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    later: float | None = None

    def met(self, value: float) -> bool:
        above = self.at_least is None or value >= self.at_least
        return above and (self.at_most is None or value <= self.at_most)

    @property
    def bound(self) -> str:
        """For people: ``>= 0.7 (later 1.0)``."""
        sign, number = (">=", self.at_least) if self.at_most is None else ("<=", self.at_most)
        later = "" if self.later is None else f" (later {self.later:g})"
        return "" if number is None else f"{sign} {number:g}{later}"


@dataclass(frozen=True, slots=True)
class Sample:
    """What one round gave: the figures by their goals' keys (without those that lack a peer), and absolute facts."""

    figures: Mapping[str, float]
    facts: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Something that is measured in rounds; ``measure`` runs one round with all peers in turn."""

    name: str
    title: str
    goals: tuple[Goal, ...]
    measure: Callable[[Ground], Sample]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A benchmark's rounds; ``error`` instead of them if it couldn't be run."""

    benchmark: Benchmark
    samples: Sequence[Sample]
    error: str = ""

    def values(self, goal: Goal) -> list[float]:
        """The goal's figure in each round that has it."""
        return [sample.figures[goal.key] for sample in self.samples if goal.key in sample.figures]

    def facts(self) -> dict[str, float]:
        """The median of each fact."""
        names = dict.fromkeys(name for sample in self.samples for name in sample.facts)
        return {name: statistics.median(s.facts[name] for s in self.samples if name in s.facts) for name in names}

    def missed(self) -> list[Goal]:
        """The goals whose median misses its bound."""
        measured = [(goal, self.values(goal)) for goal in self.benchmark.goals]
        return [goal for goal, values in measured if values and not goal.met(statistics.median(values))]

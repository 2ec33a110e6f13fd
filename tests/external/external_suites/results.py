"""Outcomes by test name, kept as JSON, compared.

A test is lost when it passes directly and doesn't pass the other way; a test that never ran didn't pass.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True, slots=True)
class Results:
    """What one run of a suite brought: the outcome of each test, and how long all of them took in seconds."""

    suite: str
    way: str
    outcomes: dict[str, str]
    seconds: float

    def names(self, outcome: str) -> list[str]:
        """The tests with this outcome, in order."""
        return sorted(name for name, was in self.outcomes.items() if was == outcome)

    def lost(self, baseline: "Results") -> list[str]:
        """The tests that pass in the baseline and didn't here."""
        return [name for name in baseline.names(PASSED) if self.outcomes.get(name) != PASSED]

    def summary(self) -> str:
        """One line: counts and time."""
        counts = Counter(self.outcomes.values())
        figures = ", ".join(f"{counts[outcome]} {outcome}" for outcome in (PASSED, FAILED, SKIPPED))
        return f"{self.suite} through {self.way}: {len(self.outcomes)} tests, {figures}, {self.seconds:.0f} s"


def save(results: Results, folder: Path) -> None:
    """Keep the results beside those of the other ways."""
    _path(folder, results.suite, results.way).write_text(json.dumps(asdict(results), indent=1))


def load(folder: Path, suite: str, way: str) -> Results | None:
    """The results of an earlier run, if there was one."""
    path = _path(folder, suite, way)
    return Results(**json.loads(path.read_text())) if path.is_file() else None


def _path(folder: Path, suite: str, way: str) -> Path:
    return folder / f"{suite}-{way}.json"

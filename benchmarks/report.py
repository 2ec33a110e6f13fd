"""The outcomes as a table for people and as JSON for programs, each with what they were measured on.

The law of this module: medians with their spread, never a single figure.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.goals import Goal, Outcome
from benchmarks.peers import Ground


def circumstances(ground: Ground) -> dict[str, object]:
    """What the figures were measured on and with."""
    with ground.direct.connect() as connection:
        row = connection.execute(
            "SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')"
        ).fetchone()
    version, fsync, commit = row or ("", "", "")
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} x {_processor()}",
        "busy with others before": f"load average {os.getloadavg()[0]:.1f}",
        "system": platform.platform(),
        "python": platform.python_version(),
        "server": f"PostgreSQL {version}, fsync {fsync}, synchronous_commit {commit}",
        "pgbench": _first_line([ground.pgbench, "--version"]),
        "peers": [peer.name for peer in ground.peers],
        "seconds": ground.seconds,
    }


def _processor() -> str:
    place = Path("/proc/cpuinfo")
    lines = place.read_text().splitlines() if place.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _first_line(command: list[str]) -> str:
    return (subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines() or [""])[0]


def as_json(outcomes: Sequence[Outcome], measured_on: dict[str, object]) -> dict[str, object]:
    """All that was measured."""
    return {"measured_on": measured_on, "benchmarks": [_outcome_json(outcome) for outcome in outcomes]}


def _outcome_json(outcome: Outcome) -> dict[str, object]:
    figures = [_figure_json(goal, outcome.values(goal)) for goal in outcome.benchmark.goals if outcome.values(goal)]
    named = {"name": outcome.benchmark.name, "title": outcome.benchmark.title, "error": outcome.error}
    return {**named, "figures": figures, "facts": outcome.facts()}


def _figure_json(goal: Goal, values: list[float]) -> dict[str, object]:
    median = statistics.median(values)
    named = {"key": goal.key, "what": goal.what, "unit": goal.unit, "target": goal.bound}
    measured = {"median": median, "min": min(values), "max": max(values), "rounds": values}
    return {**named, **measured, "met": goal.met(median) if goal.bound else None}


def as_table(outcomes: Sequence[Outcome], measured_on: dict[str, object]) -> RenderableType:
    """The figures with their targets; then what was measured absolutely, and on what."""
    table = Table(title="tqdbproxy benchmarks", title_justify="left", pad_edge=False)
    for head in ("", "work", "median", "min - max", "target", ""):
        table.add_column(head, justify="right" if head in ("median", "min - max") else "left")
    for outcome in outcomes:
        _add_rows(table, outcome)
    absolute = Table.grid(padding=(0, 2))
    for outcome in outcomes:
        facts = " | ".join(f"{name} {_number(value)}" for name, value in outcome.facts().items())
        absolute.add_row(outcome.benchmark.name, Text(facts))
    place = "; ".join(f"{key}: {value}" for key, value in measured_on.items() if key != "peers")
    return Group(table, "", Text("absolute, medians:"), absolute, "", Text(place, style="dim"))


def _add_rows(table: Table, outcome: Outcome) -> None:
    bench = outcome.benchmark
    measured = [(goal, outcome.values(goal)) for goal in bench.goals]
    rows = [(goal.what, *_cells(goal, values)) for goal, values in measured if values]
    if len(bench.goals) == 1 and rows and not outcome.error:
        table.add_row(bench.name, bench.title, *rows[0][1:], end_section=True)
        return
    table.add_row(bench.name, bench.title, *([] if rows or outcome.error else ["not measured"]))
    for row in rows:
        table.add_row("", *row)
    if outcome.error:
        table.add_row("", Text(outcome.error, style="red"))
    table.add_section()


def _cells(goal: Goal, values: list[float]) -> tuple[str, str, str, str]:
    median = statistics.median(values)
    mark = "" if not goal.bound else "[green]ok[/]" if goal.met(median) else "[bold red]MISSED[/]"
    spread = f"{_number(min(values))} - {_number(max(values))}"
    return f"{_number(median)} {goal.unit}", spread, goal.bound, mark


def _number(value: float) -> str:
    """As many digits as say something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"

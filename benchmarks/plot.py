"""The outcomes as a picture: one bar for each figure, as a share of what is to be reached.

The law of this module: plain SVG text, nothing to install and nothing to fetch.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.goals import Goal, Outcome

WIDTH, LEFT, RIGHT, ROW, TOP = 1000, 470, 150, 26, 70
FULL = 2.0  # the axis ends at twice the target
GOOD, BAD, NEUTRAL = "#2a8f5b", "#c2452d", "#7a869a"


def draw(outcomes: Sequence[Outcome], title: str) -> str:
    """An SVG document. A bar that reaches the line has reached its target; the whisker is the spread of the rounds."""
    rows = [(outcome, goal) for outcome in outcomes for goal in outcome.benchmark.goals if outcome.values(goal)]
    height = TOP + ROW * len(rows) + 20
    line = _x(1.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="16" y="26" font-size="17" font-weight="bold">{escape(title)}</text>',
        '<text x="16" y="46" fill="#555">median of the rounds as a share of the target '
        "(for upper bounds: target by figure, so that longer is better); whiskers: smallest and largest</text>",
    ]
    for number, (outcome, goal) in enumerate(rows):
        parts += _row(TOP + ROW * number, outcome, goal)
    target = f'<line x1="{line}" y1="{TOP - 8}" x2="{line}" y2="{height - 14}" stroke="#222" stroke-dasharray="4 3"/>'
    return "\n".join([*parts, target, "</svg>", ""])


def _row(top: int, outcome: Outcome, goal: Goal) -> Iterator[str]:
    values = outcome.values(goal)
    median = statistics.median(values)
    low, middle, high = sorted(_share(goal, value) for value in (min(values), median, max(values)))
    colour = NEUTRAL if not goal.bound else GOOD if goal.met(median) else BAD
    name = f"{outcome.benchmark.name}  {outcome.benchmark.title}"
    name = name if len(outcome.benchmark.goals) == 1 else f"{outcome.benchmark.name}  {goal.what}"
    base = top + 17
    yield f'<text x="{LEFT - 8}" y="{base}" text-anchor="end">{escape(name)}</text>'
    yield f'<rect x="{LEFT}" y="{top + 4}" width="{_x(middle) - LEFT:.1f}" height="{ROW - 8}" fill="{colour}"/>'
    yield f'<line x1="{_x(low):.1f}" x2="{_x(high):.1f}" y1="{top + 13}" y2="{top + 13}" stroke="#222"/>'
    yield f'<text x="{WIDTH - RIGHT + 8}" y="{base}">{median:.2f} {escape(goal.unit)}</text>'


def _share(goal: Goal, value: float) -> float:
    """1.0 where the target is met exactly; without a target the figure itself."""
    if goal.at_most is not None:
        return FULL if value <= 0 else goal.at_most / value
    return value / (goal.at_least or 1.0)


def _x(share: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * max(0.0, min(share, FULL)) / FULL

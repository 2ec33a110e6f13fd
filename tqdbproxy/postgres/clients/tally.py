"""Counts a session's statements by caller.

The law of this module: one dict look-up and one addition a statement; what is kept is bounded.
"""

from __future__ import annotations

from tqdbproxy.core.hints import Hints
from tqdbproxy.core.metrics import CallerCounts, Metrics
from tqdbproxy.core.statement import Kind
from tqdbproxy.postgres.sql import Text

KEPT = 16384


class Tally:
    """Shared by all sessions: the counts that belong to each caller."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._by_hints: dict[tuple[int, Kind], tuple[Hints, CallerCounts]] = {}
        self.plain = metrics.plain

    def of(self, text: Text) -> CallerCounts:
        """What to count a statement with this text on; also counts the hints in it that can't be read."""
        hints = text.hints
        if hints is None:
            return self.plain[text.kind]
        for key in hints.errors:
            self._metrics.hint_errors[key] += 1
        # Equal comments share one object, whose number is quicker to look up than its many fields.
        place = (id(hints), text.kind)
        found = self._by_hints.get(place)
        if found is not None and found[0] is hints:
            return found[1]
        if len(self._by_hints) >= KEPT:
            self._by_hints.clear()
        counts = self._metrics.caller(hints.file, hints.line, text.kind)
        self._by_hints[place] = (hints, counts)
        return counts

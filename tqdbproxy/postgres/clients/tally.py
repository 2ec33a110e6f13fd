"""Counts a session's statements by caller.

The law of this module: one dict look-up and one addition a statement; what is kept is bounded.
"""

from __future__ import annotations

from tqdbproxy.core.metrics import CallerCounts, Metrics
from tqdbproxy.postgres.sql import Text

KEPT = 16384


class Tally:
    """Shared by all sessions: the counts that belong to each text."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._by_text: dict[Text, CallerCounts] = {}
        self.plain = metrics.plain

    def of(self, text: Text) -> CallerCounts:
        """What to count a statement with this text on; also counts the hints in it that can't be read."""
        hints = text.hints
        if hints is not None:
            for key in hints.errors:
                self._metrics.hint_errors[key] += 1
        counts = self._by_text.get(text)
        if counts is None:
            if len(self._by_text) >= KEPT:
                self._by_text.clear()
            file, line = (hints.file, hints.line) if hints is not None else ("", "")
            counts = self._by_text[text] = self._metrics.caller(file, line, text.kind)
        return counts

"""Which writes are said at one time, and how: a few kinds for a while, so that they find company, and some of all.

The law of this module: chances come from the desk alone, so that a seed says what was asked for (not when).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.books.kinds import KINDS, Desk, counted, duel, keyed, plain
from tests.books.ledger import Write
from tests.books.phrasing import Way

PHASE = 800
"""Writes after which other kinds have their turn."""

KINDS_AT_ONCE = 3
DUELS = 5
"""One phase of so many is about batches that lock each other out."""

Kind = Callable[[Desk, int], Write]


@dataclass(frozen=True, slots=True)
class Manner:
    """How a kind of write is said: see `phrasing.phrase`."""

    way: Way
    hint: str
    binary: bool
    behind: bool


class Program:
    """Chooses for all clients. ``stray``: the share of writes that are of another kind, or said in another way."""

    stray = 0.06

    def __init__(self, desk: Desk, hint: str = "batch") -> None:
        """``hint`` empty: nothing is hinted at, as where the proxy batches of its own accord."""
        self._desk = desk
        self._hint = hint
        self._phase = -1
        self._now: list[tuple[Kind, Manner]] = []

    def next(self, client: int) -> tuple[Write, Manner]:
        """What ``client`` says next."""
        desk = self._desk
        phase = len(desk.ledger.entries) // PHASE
        if phase != self._phase:
            self._phase = phase
            self._now = self._turn()
        if desk.chance.random() < self.stray:
            kind, manner = desk.chance.choice(KINDS), self._manner("")
        else:
            kind, manner = desk.chance.choice(self._now)
        write = kind(desk, client)
        if write.key and self._hint:  # a kind that is about groups
            manner = Manner(manner.way, self._text(5, write.key), manner.binary, manner.behind)
        return write, manner

    def _turn(self) -> list[tuple[Kind, Manner]]:
        """What is said from now on."""
        chance = self._desk.chance
        key = "misc" if chance.random() < 0.2 else ""
        kinds = (duel, counted) if self._phase % DUELS == 1 else chance.sample(KINDS, KINDS_AT_ONCE)
        return [(kind, self._manner(key)) for kind in kinds]

    def _manner(self, key: str) -> Manner:
        chance = self._desk.chance
        hint = self._text(chance.randint(1, 8), key) if chance.random() >= self.stray else ""
        return Manner(chance.choice(list(Way)), hint, chance.random() < 0.5, chance.random() < 0.5)

    def _text(self, window_ms: int, key: str) -> str:
        if not self._hint:
            return ""
        merge = " merge:off" if self._desk.chance.random() < 0.1 else ""
        return f"/* {self._hint}:{window_ms}{f' key:{key}' if key else ''}{merge} */"


class InStep(Program):
    """All clients say the same in the same way, so that all fit into one batch, and what they say can be merged."""

    stray = 0.0

    def _turn(self) -> list[tuple[Kind, Manner]]:
        manner = replace(self._manner(""), binary=False, hint=self._text(8, ""))
        return [(self._desk.chance.choice((plain, plain, plain, keyed)), manner)]

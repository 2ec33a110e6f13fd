"""A manager of write batches with a clock and a server that the test commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tqdbproxy.core.metrics import Metrics
from tqdbproxy.core.statement import BatchKey, Identity, Strategy
from tqdbproxy.core.writebatch.manager import Manager
from tqdbproxy.core.writebatch.types import (
    Alone,
    Done,
    Limits,
    Lost,
    Outcome,
    Result,
    Write,
)

IDENTITY = Identity("main", b"d", b"u", ())
KEPT = Limits(quorum=None)
"""Windows are kept to their end."""


@dataclass
class Beginnings:
    """So many were begun early."""

    count: int


class Server:
    """An executor: ``running`` has the batches that haven't ended, by the first letter of their key."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.begun: list[str] = []
        self.running: dict[str, Deferred[Outcome]] = {}
        self._names: dict[str, list[str]] = {}

    def begin(self, writes: Sequence[Write]) -> Beginnings | None:
        """Only a group whose key is "e" is begun early."""
        names = [write.unit for write in writes]
        self.begun.append(" ".join(names))
        return Beginnings(len(names)) if names[0][0] == "e" else None

    def execute(self, writes: Sequence[Write], beginning: Beginnings | None = None) -> Deferred[Outcome]:
        names = [write.unit for write in writes]
        if beginning is not None:
            assert " ".join(names[: beginning.count]) == self.begun[-1]
        key = names[0][0]
        assert key not in self.running, "two batches of one key at the same time"
        assert {name[0] for name in names} == {key}, "two keys in one batch"
        self.got.append(" ".join(names))
        self.running[key] = Deferred(lambda attempt: self._end(key, Lost(sent=True)))
        self._names[key] = names
        return self.running[key]

    def _end(self, key: str, outcome: Outcome) -> None:
        self.running.pop(key).callback(outcome)

    def ends(self, key: str = "a", outcome: Outcome | None = None) -> None:
        """The running batch of this key ends, well if nothing else is said."""
        self._end(key, outcome or Done([f"r{name}" for name in self._names[key]], Strategy.PREPARED))


class Rig:
    def __init__(self, limits: Limits) -> None:
        self.clock = Clock()
        self.server = Server()
        self.metrics = Metrics(CollectorRegistry(), clock=self.clock.seconds)
        self.manager = Manager(limits, self.server, self.metrics, self.clock)
        self.manager.start()
        self.writes: dict[str, Write] = {}
        self.results: dict[str, Result] = {}

    def write(self, *names: str, ms: float = 100, size: int = 1, writer: object = None) -> bool:
        """Writes whose key is the first letter of their name; False if the last one is refused."""
        for name in names:
            write = Write(BatchKey(IDENTITY, name[0]), name[0], size, ms / 1000, writer or name, name)
            self.writes[name] = write
            write.done.addCallback(partial(self.results.__setitem__, name))
            accepted = self.manager.submit(write)
        return accepted

    def everything_ends(self) -> None:
        """What runs has ended well, be it a batch or a write that was left to its session."""
        for key in list(self.server.running):
            self.server.ends(key)
        for result in list(self.results.values()):
            if isinstance(result, Alone) and not result.finished.called:
                result.finished.callback(None)

    def alone(self, writer: str, key: str = "a") -> Callable[[], None] | None:
        """What the manager says to a write that may not need company."""
        return self.manager.alone(Write(BatchKey(IDENTITY, key), key, 1, 0.1, writer, f"{key}0"))

    @property
    def closed(self) -> dict[str, int]:
        return {why: count for why, count in self.metrics.batch_closed.items() if count}

    def kinds(self) -> dict[str, type]:
        return {name: type(result) for name, result in self.results.items()}

    def lone(self, name: str) -> Alone:
        result = self.results[name]
        assert isinstance(result, Alone)
        return result


def rig(**limits: Any) -> Rig:
    return Rig(Limits(**{"quorum": None, **limits}))

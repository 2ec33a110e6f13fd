"""One session without its proxy: what it does with what its client says, and what it asks of others."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.task import Clock

from tests import builders as m
from tqdbproxy.core.caching import Cache
from tqdbproxy.core.metrics import Metrics
from tqdbproxy.core.routing import Rulebook, Rules
from tqdbproxy.core.statement import Strategy
from tqdbproxy.core.writebatch.types import Company
from tqdbproxy.postgres.clients.history import History, Identities
from tqdbproxy.postgres.clients.reads import Reads
from tqdbproxy.postgres.clients.session import Session
from tqdbproxy.postgres.clients.steps import Step
from tqdbproxy.postgres.clients.tally import Tally
from tqdbproxy.postgres.described import Described
from tqdbproxy.postgres.messages import StartupMessage
from tqdbproxy.postgres.sql import Texts

WRITE = "/* batch:10 file:a.py */ insert into t values ($1)"
SIMPLE = "/* batch:10 file:a.py */ insert into t values ('x')"
VIEW = "select * from pg_tqdb_status"
STARTUP = StartupMessage.parse(m.startup(user="u"))
IDLE, OPEN, BROKEN = b"ITE"
COMPANY = Company(2, 0.0, Strategy.PREPARED)
DESCRIBED = Described(b"\0\1\0\0\0\x17", m.NO_DATA)
"""One int4, no columns."""


class Talk:
    """A session and what it asks of others."""

    def __init__(self, rules: Rules | None = None, *, status: int = IDLE) -> None:
        self.metrics = Metrics(CollectorRegistry(), clock=lambda: 0.0)
        self.asked: list[Any] = []
        self.session = Session(
            History(Identities(), "main", STARTUP),
            Texts(),
            Tally(self.metrics),
            Rulebook(rules or Rules()),
            lambda: 0.0,
            lambda: self.asked.append("forget"),
            lambda: self.asked.append("retire"),
            lambda replies: self.asked.append(replies),
            Reads(Cache(Clock()), lambda: 0.0, lambda: self.session.watched(), lambda: 0.5),
        )
        self.session.status = status

    def read(self, *data: bytes) -> Step | None:
        """As its protocol does."""
        said = b"".join(data)
        usual = self.session.usual
        return usual.step if usual and usual.again(said) else self.session.read(said)

    def forwards(self, *data: bytes) -> None:
        """All of it is forwarded as it came."""
        sent = b""
        rest = b"".join(data)
        while rest:
            step = self.read(rest)
            if step is None:
                sent, rest = sent + rest, b""
            else:
                assert step.forward
                assert (step.local, step.unit, step.hold, step.refuse) == (b"", None, False, "")
                sent, rest = sent + step.forward, step.rest
        assert sent == b"".join(data)

    def done(self, units: int = 1, *, status: int = IDLE, failed: bool = False) -> None:
        """The server's ReadyForQuery."""
        for _ in range(units):
            self.session.unit_done(status, failed)

    def batches(self, *data: bytes) -> Step:
        """It leaves the forward lane, and was executed in company."""
        step = self.read(*data)
        assert step is not None
        assert step.unit is not None
        assert (step.forward, step.local) == (b"", b"")
        if step.key is None:
            step = self.settles(step)
        assert step.unit is not None
        assert step.key is not None
        step.unit.key = step.key
        self.session.batched(step.unit, COMPANY, 0.0)
        return step

    def settles(self, step: Step, described: Described | None = DESCRIBED) -> Step:
        """The statement of this unit isn't known well enough; now the server has told what it is."""
        assert step.unit is not None
        assert (step.key, step.fetch) == (None, None)
        return self.session.settled(step.unit, step.settle, described)

    def excluded(self) -> dict[str, int]:
        """Reasons why hints were not followed, by all callers."""
        found: dict[str, int] = {}
        for counts in self.metrics._callers:
            for reason, count in counts.excluded.items():
                found[reason.value] = found.get(reason.value, 0) + count
        return found

    def view(self) -> dict[str, str]:
        return dict(self.session.last().rows())


def bound(name: str = "s") -> bytes:
    return m.bind(b"1", statement=name) + m.execute() + m.SYNC

"""Executes the groups of the core on PostgreSQL: lends a connection, chooses the strategy, runs one exchange or two.

The law of this module: what failed has changed nothing, so another strategy may try; what was lost is not tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, succeed

from tqdbproxy.core.writebatch.types import Done, Failed, Lost, Outcome, Write
from tqdbproxy.postgres.mergeable import Mergeable, mergeable
from tqdbproxy.postgres.servers.batches import DescribeExchange, Exchange, MergedExchange, PreparedExchange
from tqdbproxy.postgres.servers.connection import ServerConnection
from tqdbproxy.postgres.servers.pool import lend
from tqdbproxy.postgres.servers.statements import LIFETIME_S, Statements
from tqdbproxy.postgres.sql import UNKNOWN_TYPE, Text, parse
from tqdbproxy.postgres.unit import STATEMENT, Unit

INTERVAL = 1186
"""OID of the type whose column may have fields (``interval year``), which change what a constant means."""

REFUSED_S = 60.0
"""After a table has turned out not to be mergeable, its inserts are left alone for so long."""
KEPT_TEMPLATES = 4096
MAX_STALE = 4
"""Attempts after which statements that go stale again and again are let be."""
SMALLEST_MERGE = 4
"""Fewer rows than this aren't worth a guard, which costs the server as much as three of them."""


@dataclass(frozen=True, slots=True)
class Job:
    """A group on the connection that it was lent. What is learned of a template holds for its ``identity`` only."""

    units: Sequence[Unit]
    identity: Hashable
    connection: ServerConnection

    def templates(self, one: bool) -> list[Unit]:
        """A unit for each template; ``one``: there is only one."""
        return list(self.units[:1] if one else {unit.template: unit for unit in self.units}.values())


class BatchExecutor:
    """See `tqdbproxy.core.writebatch.executor.Executor`. ``merge``: whether inserts may be merged at all."""

    def __init__(
        self, now: Callable[[], float], keep_strings: Callable[[Text], None] = lambda _text: None, *, merge: bool = True
    ) -> None:
        """``keep_strings`` is told of a text whose string constants must not become parameters."""
        self._keep_strings = keep_strings
        self.merge = merge
        self._now = now
        self._mergeable: dict[Hashable, Mergeable | None] = {}
        self._refused: dict[Hashable, float] = {}
        self._described_templates: dict[Hashable, bool] = {}
        self._learned = now()

    def execute(self, writes: Sequence[Write]) -> Deferred[Outcome]:
        """Run ``writes`` on the connection of one of them; `Lost`, nothing sent, if none of them has one any more."""
        units: list[Unit] = [write.unit for write in writes]
        connection = lend(units)
        if connection is None:
            return succeed(Lost(sent=False))
        self._learn_anew(connection.statements)
        key = writes[0].key
        job = Job(units, key.identity, connection)
        return self._begin(job, job.templates(one=key.template == units[0].template))

    def _learn_anew(self, statements: Statements) -> None:
        """What was parsed or described long ago may not be true any more."""
        now = self._now()
        statements.expire(now)
        if now - self._learned >= LIFETIME_S:
            self._described_templates.clear()
            self._learned = now

    def _begin(self, job: Job, templates: list[Unit]) -> Deferred[Outcome]:
        """Describe the first of ``templates`` of which it isn't known what the server takes its strings for."""
        for number, unit in enumerate(templates):
            if self._is_doubtful(job, unit):
                describe = DescribeExchange([unit], job.connection.statements)
                return job.connection.run(describe).addCallback(self._described, describe, job, templates[number:])
        return self._run(job, self._exchange(job))

    def _is_doubtful(self, job: Job, unit: Unit) -> bool:
        lifted = unit.text.lifted
        return (
            lifted is not None
            and UNKNOWN_TYPE in lifted.types
            and (job.identity, unit.template) not in self._described_templates
        )

    def _described(
        self, outcome: Outcome, describe: DescribeExchange, job: Job, templates: list[Unit]
    ) -> Outcome | Deferred[Outcome]:
        """A string for an interval column with fields means something else as a parameter: keep it a constant."""
        if not isinstance(outcome, Done) or not job.connection.lendable:
            return outcome
        if INTERVAL in describe.types:
            self._keep_strings(templates[0].text)
            return Failed(None)
        self._remember(self._described_templates, (job.identity, templates[0].template), True)
        return self._begin(job, templates[1:])

    def _run(self, job: Job, exchange: Exchange, again: int = 0) -> Deferred[Outcome]:
        return job.connection.run(exchange).addCallback(self._ended, job, exchange, again)

    def _ended(self, outcome: Outcome, job: Job, exchange: Exchange, again: int) -> Outcome | Deferred[Outcome]:
        """Once more if a statement was stale (what was stale is parsed again), or if merging failed."""
        if not isinstance(outcome, Failed) or not job.connection.lendable:
            return outcome
        if exchange.stale and again < MAX_STALE:
            return self._run(job, self._exchange(job), again + 1)
        if isinstance(exchange, MergedExchange) and outcome.index is None:
            if exchange.refused:
                self._remember(self._refused, (job.identity, job.units[0].template), self._now() + REFUSED_S)
            return self._run(job, PreparedExchange(job.units, job.connection.statements), again)
        return outcome

    def _exchange(self, job: Job) -> Exchange:
        statements = job.connection.statements
        found = self._merges(job)
        if found is not None:
            merged = MergedExchange(job.units, statements, found)
            if merged.possible:
                return merged
            merged.discard()
        return PreparedExchange(job.units, statements)

    def _merges(self, job: Job) -> Mergeable | None:
        """How to merge these units, if their text, the configuration and their hints allow it."""
        units = job.units
        template = units[0].template
        if len(units) < SMALLEST_MERGE or not self.merge or units[0].text.returning:
            return None
        if template not in self._mergeable:
            self._remember(self._mergeable, template, mergeable(units[0].sql, parse))
        found = self._mergeable[template]
        if found is None or self._refused.get((job.identity, template), 0.0) > self._now():
            return None
        return found if all(_may_be_merged(unit, template) for unit in units) else None

    def _remember(self, where: dict[Hashable, Any], what: Hashable, value: object) -> None:
        if len(where) >= KEPT_TEMPLATES:
            where.clear()
        where[what] = value


def _may_be_merged(unit: Unit, template: Hashable) -> bool:
    hints = unit.text.hints
    return unit.template == template and unit.describe != STATEMENT and (hints is None or hints.merge)

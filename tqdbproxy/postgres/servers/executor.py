"""Executes the groups of the core on PostgreSQL: lends a connection, chooses the strategy, runs one exchange or two.

The law of this module: what failed has changed nothing, so another strategy may try; what was lost is not tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed

from tqdbproxy.core.writebatch.types import Done, Failed, Lost, Outcome, Write
from tqdbproxy.postgres.mergeable import Mergeable, mergeable
from tqdbproxy.postgres.servers.batches import (
    NO_TABLES,
    DescribeExchange,
    Exchange,
    MergedExchange,
    PreparedExchange,
    TablesByTemplate,
)
from tqdbproxy.postgres.servers.beginnings import Abandoned, Opening
from tqdbproxy.postgres.servers.connection import ServerConnection
from tqdbproxy.postgres.servers.merging import pieces
from tqdbproxy.postgres.servers.pool import Pool
from tqdbproxy.postgres.servers.statements import Statements
from tqdbproxy.postgres.sql import UNKNOWN_TYPE, Text, parse
from tqdbproxy.postgres.tables import tables
from tqdbproxy.postgres.unit import Unit

INTERVAL = 1186
"""OID of the type whose column may have fields (``interval year``), which change what a constant means."""

REFUSED_S = 60.0
"""After a table has turned out not to be mergeable, its inserts are left alone for so long."""
APART_S = 1.0
"""After a beginning had to be taken back, the next one of its group comes so much later."""
KEPT_TEMPLATES = 4096
MAX_STALE = 4
"""Attempts after which statements that go stale again and again are let be."""
MERGEABLE = attrgetter("mergeable")
SMALLEST_MERGE = 4
"""Fewer rows than this aren't worth a guard, which costs the server as much as three of them."""


@dataclass(frozen=True, slots=True)
class Job:
    """A group on the connection that it was lent.

    ``tables``: of the templates whose statements must mean what they would if they were parsed now; a statement that a
    client has prepared means what it meant then. What is learned of a template holds for its ``identity`` only.
    """

    units: Sequence[Unit]
    templates: Sequence[Unit]
    """A unit for each."""
    tables: TablesByTemplate
    identity: Hashable
    connection: ServerConnection

    @property
    def statements(self) -> Statements:
        """What the connection has prepared."""
        return self.connection.statements


@dataclass(frozen=True, slots=True)
class Begun:
    """See `core.writebatch.executor.Beginning`: what was sent, and where."""

    opening: Opening
    connection: ServerConnection

    @property
    def count(self) -> int:
        """How many writes it has."""
        return self.opening.count


class BatchExecutor:
    """See `tqdbproxy.core.writebatch.executor.Executor`. ``merge``: whether inserts may be merged at all."""

    def __init__(
        self, now: Callable[[], float], keep_strings: Callable[[Text], None] = lambda _text: None, *, merge: bool = True
    ) -> None:
        """``keep_strings`` is told of a text whose string constants must not become parameters."""
        self._keep_strings = keep_strings
        self.merge = merge
        self._now = now
        self._pool = Pool()
        self._mergeable: dict[Hashable, Mergeable | None] = {}
        self._refused: dict[Hashable, float] = {}
        self._tables: dict[Hashable, TablesByTemplate] = {}
        self._apart: dict[Hashable, float] = {}
        """Until when groups aren't begun whose members don't fit together."""

    def begin(self, writes: Sequence[Write]) -> Begun | None:
        """See `Executor`: only what is merged, with statements that are prepared, so that nothing has to be asked."""
        unit, key = cast(Unit, writes[0]), writes[0].key
        if key.template != unit.template or self._apart.get(key, 0.0) > self._now():
            return None
        found = self._merges(cast(Sequence[Unit], writes), key.identity)
        if found is None:
            return None
        # The connection must be one of these units' own: the others may still be withdrawn, and say something else.
        first = writes[: pieces(len(writes), found.parameters)[0]]
        job = self._job(first, self._pool.find(key, cast(Sequence[Unit], first)))
        if job is None or (_is_doubtful(unit) and not job.statements.fit(unit.template)):
            return None
        opening = Opening(job.units, job.statements, found, job.tables.values())
        if not opening.possible:
            return None
        try:
            job.connection.begin(opening)
        except Exception:
            job.connection.transport.abortConnection()
            raise
        return Begun(opening, job.connection)

    def execute(self, writes: Sequence[Write], beginning: Begun | None = None) -> Deferred[Outcome]:
        """Run ``writes`` on the connection of one of them; `Lost`, nothing sent, if none of them has one any more."""
        if beginning is not None and beginning.connection.alive:
            return self._go_on(writes, beginning)
        job = self._job(writes, self._pool.lend(writes[0].key, cast(Sequence[Unit], writes)))
        return succeed(Lost(sent=False)) if job is None else self._begin(job)

    def _go_on(self, writes: Sequence[Write], begun: Begun) -> Deferred[Outcome]:
        """Let the rest follow what was begun; if that can't be, take it back and begin anew."""
        connection = begun.connection
        try:
            job = self._job_on(connection, writes)
            found = self._merges(job.units, job.identity) if begun.opening.holds(job.units) else None
            if found is not None:
                merged = MergedExchange(job.units, job.statements, found, job.tables, begun.opening)
                if merged.possible:
                    return self._run(job, merged, 0)
                merged.discard()
            taken_back = connection.run(Abandoned((), job.statements))
        except Exception:
            connection.transport.abortConnection()  # nothing of it may be committed by what comes next
            raise
        self._remember(self._apart, writes[0].key, self._now() + APART_S)
        return taken_back.addCallback(self._taken_back, writes, connection)

    def _taken_back(
        self, outcome: Outcome, writes: Sequence[Write], connection: ServerConnection
    ) -> Outcome | Deferred[Outcome]:
        if isinstance(outcome, Lost):
            # Without the end of the transaction there is no doubt; with it, and no error, nobody knows.
            return outcome if connection.lendable else Lost(sent=False)
        return self.execute(writes)

    def _job(self, writes: Sequence[Write], connection: ServerConnection | None) -> Job | None:
        """On the connection of one of the members; None: none of them has one that can be used."""
        if connection is None:
            return None
        connection.statements.expire(self._now())
        return self._job_on(connection, writes)

    def _job_on(self, connection: ServerConnection, writes: Sequence[Write]) -> Job:
        units = list(cast(Sequence[Unit], writes))
        first, key = units[0], writes[0].key
        if key.template == first.template:
            return Job(units, (first,), self._tables_of(first), key.identity, connection)
        templates = list({unit.template: unit for unit in units}.values())
        tables = {name: found for unit in templates for name, found in self._tables_of(unit).items()}
        return Job(units, templates, tables, key.identity, connection)

    def _tables_of(self, unit: Unit) -> TablesByTemplate:
        """The tables of the unit's template, if its client would have parsed it now."""
        found = self._tables.get(unit.template)
        if found is None:
            found = {unit.template: tables(unit.sql, parse)} if unit.columns is None else NO_TABLES
            self._remember(self._tables, unit.template, found)
        return found

    def _begin(self, job: Job, again: int = 0, seen: int = 0) -> Deferred[Outcome]:
        """Look first at statements of which it isn't known whether they fit; ``seen``: of so many templates it is."""
        for number, unit in enumerate(job.templates[seen:], seen):
            if _is_doubtful(unit):
                fit = job.statements.fit(unit.template)
                if fit is None:
                    return self._describe(job, number, again)
                if not fit:
                    return succeed(_unfit(job, unit))
        return self._run(job, self._exchange(job), again)

    def _describe(self, job: Job, number: int, again: int) -> Deferred[Outcome]:
        describe = DescribeExchange([job.templates[number]], job.statements, job.tables)
        return job.connection.run(describe).addCallback(self._described, describe, job, number, again)

    def _described(
        self, outcome: Outcome, describe: DescribeExchange, job: Job, number: int, again: int
    ) -> Outcome | Deferred[Outcome]:
        """Do the members' statements mean what the proxy's own does?

        A string for an interval column with fields means something else as a parameter: keep it a constant. Columns
        that a client wasn't told of when it prepared its statement are an error that its own connection knows.
        """
        if isinstance(outcome, Lost) and not job.connection.alive:
            return Lost(sent=False)  # nothing was executed
        if not job.connection.lendable:
            return Failed(None) if isinstance(outcome, Done) else outcome
        if describe.stale and again < MAX_STALE:
            return self._begin(job, again + 1)
        if not isinstance(outcome, Done):
            return outcome
        unit = job.templates[number]
        interval = unit.text.lifted is not None and INTERVAL in describe.types
        if interval:
            self._keep_strings(unit.text)
        fit = not interval and unit.columns in (None, describe.columns)
        job.statements.judge(unit.template, fit)
        return self._begin(job, again, number + 1) if fit else _unfit(job, unit)

    def _run(self, job: Job, exchange: Exchange, again: int) -> Deferred[Outcome]:
        return job.connection.run(exchange).addCallback(self._ended, job, exchange, again)

    def _ended(self, outcome: Outcome, job: Job, exchange: Exchange, again: int) -> Outcome | Deferred[Outcome]:
        """Once more if a statement was stale (what was stale is parsed again), or if merging failed."""
        if not isinstance(outcome, Failed) or not job.connection.lendable:
            return outcome
        if exchange.stale and again < MAX_STALE:
            return self._begin(job, again + 1)
        if isinstance(exchange, MergedExchange) and outcome.index is None:
            if exchange.refused:
                self._remember(self._refused, (job.identity, job.units[0].template), self._now() + REFUSED_S)
            return self._run(job, PreparedExchange(job.units, job.statements, job.tables), again)
        return outcome

    def _exchange(self, job: Job) -> Exchange:
        found = self._merges(job.units, job.identity)
        if found is not None:
            merged = MergedExchange(job.units, job.statements, found, job.tables)
            if merged.possible:
                return merged
            merged.discard()
        return PreparedExchange(job.units, job.statements, job.tables)

    def _merges(self, units: Sequence[Unit], identity: Hashable) -> Mergeable | None:
        """How to merge these units, if their text, the configuration and their hints allow it."""
        template = units[0].template
        if len(units) < SMALLEST_MERGE or not self.merge or units[0].text.returning:
            return None
        if template not in self._mergeable:
            self._remember(self._mergeable, template, mergeable(units[0].sql, parse))
        found = self._mergeable[template]
        if found is None or self._refused.get((identity, template), 0.0) > self._now():
            return None
        alike = units[0].key.template == template or all(unit.template == template for unit in units)
        return found if alike and all(map(MERGEABLE, units)) else None

    def _remember(self, where: dict[Hashable, Any], what: Hashable, value: object) -> None:
        if len(where) >= KEPT_TEMPLATES:
            where.clear()
        where[what] = value


def _is_doubtful(unit: Unit) -> bool:
    """Whether its template has to be described before it is executed: the server's opinion of its strings matters, or
    the client was told which columns it returns."""
    lifted = unit.text.lifted
    if lifted is not None:
        return UNKNOWN_TYPE in lifted.types
    return unit.columns is not None and unit.text.returning


def _unfit(job: Job, unit: Unit) -> Failed:
    """The members with the template of ``unit`` can't be executed here: all of them, or one after another."""
    if len(job.templates) == 1:
        return Failed(None)
    return Failed(next(number for number, member in enumerate(job.units) if member.template == unit.template))

"""Executes the groups of the core on PostgreSQL: lends a connection, runs one exchange on it."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed

from tqdbproxy.core.writebatch.types import Lost, Outcome, Write
from tqdbproxy.postgres.servers.batches import Exchange
from tqdbproxy.postgres.servers.connection import ServerConnection
from tqdbproxy.postgres.servers.pool import lend
from tqdbproxy.postgres.unit import Unit


class BatchExecutor:
    """See `tqdbproxy.core.writebatch.executor.Executor`."""

    def execute(self, writes: Sequence[Write]) -> Deferred[Outcome]:
        """Run ``writes`` on the connection of one of them; `Lost`, nothing sent, if none of them has one any more."""
        units: list[Unit] = [write.unit for write in writes]
        connection = lend(units)
        if connection is None:
            return succeed(Lost(sent=False))
        return self._run(units, connection)

    def _run(self, units: Sequence[Unit], connection: ServerConnection) -> Deferred[Outcome]:
        exchange = Exchange(units, connection.statements)
        return connection.run(exchange).addCallback(self._ended, units, connection, exchange)

    def _ended(
        self, outcome: Outcome, units: Sequence[Unit], connection: ServerConnection, exchange: Exchange
    ) -> Outcome | Deferred[Outcome]:
        """Once more if a prepared statement was stale; what was stale is forgotten, so this ends."""
        if exchange.stale and connection.lendable:
            return self._run(units, connection)
        return outcome

"""Lends server connections to batches.

With pass-through authentication there is one connection for each session, on which the client authenticated itself.
A batch runs on the connection of one of its members: all members wait for this very batch, so these are idle, and they
all have the batch's identity. The law of this module: whatever is lent was idle, and is idle again when given back.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from weakref import WeakValueDictionary

from tqdbproxy.core.statement import BatchKey
from tqdbproxy.postgres.servers.connection import ServerConnection
from tqdbproxy.postgres.unit import Unit

KEPT_KEYS = 4096
SERVER = attrgetter("server")


class Pool:
    """The connections of the sessions that wait."""

    def __init__(self) -> None:
        self._last: WeakValueDictionary[BatchKey, ServerConnection] = WeakValueDictionary()

    def lend(self, key: BatchKey, units: Sequence[Unit]) -> ServerConnection | None:
        """The connection of one of the members, for a batch of ``key``; the next one runs there, too, if it can."""
        best = self.find(key, units)
        if best is not None and self._last.get(key) is not best:
            if len(self._last) >= KEPT_KEYS:
                self._last.clear()
            self._last[key] = best
        return best

    def find(self, key: BatchKey, units: Sequence[Unit]) -> ServerConnection | None:
        """The one that has most of our statements already, so that few have many.

        That is the one that was lent last, as a rule, which is found without a look at all of them.
        """
        last = self._last.get(key)
        return last if last is not None and last.lendable and last in map(SERVER, units) else _best(units)


def _best(units: Sequence[Unit]) -> ServerConnection | None:
    best: ServerConnection | None = None
    most = -1
    for unit in units:
        connection: ServerConnection = unit.server
        count = len(connection.statements.known)
        if count > most and connection.lendable:
            best, most = connection, count
    return best

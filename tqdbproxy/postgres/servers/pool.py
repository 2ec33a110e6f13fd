"""Lends server connections to batches.

With pass-through authentication there is one connection for each session, on which the client authenticated itself.
A batch runs on the connection of one of its members: all members wait for this very batch, so these are idle, and they
all have the batch's identity. The law of this module: whatever is lent was idle, and is idle again when given back.
"""

from __future__ import annotations

from collections.abc import Sequence

from tqdbproxy.postgres.servers.connection import ServerConnection
from tqdbproxy.postgres.unit import Unit


def lend(units: Sequence[Unit]) -> ServerConnection | None:
    """The connection of one of the members: the one that has most of our statements already, so that few have many."""
    best: ServerConnection | None = None
    most = -1
    for unit in units:
        connection: ServerConnection = unit.server
        count = len(connection.statements.known)
        if count > most and connection.lendable:
            best, most = connection, count
    return best

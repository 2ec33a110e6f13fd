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
    """The connection of one of the members, one that has the first member's statement already if there is any."""
    template = units[0].template
    fallback: ServerConnection | None = None
    for unit in units:
        connection: ServerConnection = unit.server
        if connection.lendable:
            if template in connection.statements:
                return connection
            fallback = fallback or connection
    return fallback

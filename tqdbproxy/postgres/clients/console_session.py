"""A client in the console: the console's bytes on a transport.

The law of this module: who sends faster than he reads is not read from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tqdbproxy.errors import ProtocolViolation
from tqdbproxy.postgres.clients.console import Console
from tqdbproxy.postgres.clients.console_commands import Commands


class ConsoleSession:
    """``refuse`` tells the client why, and ends the connection."""

    def __init__(self, commands: Commands, transport: Any, refuse: Callable[[ProtocolViolation], None]) -> None:
        self._console = Console(commands)
        self._transport = transport
        self._refuse = refuse
        transport.unregisterProducer()
        transport.registerProducer(transport, True)

    def received(self, data: bytes) -> None:
        """Bytes of the client."""
        try:
            answer = self._console.receive(data)
        except ProtocolViolation as problem:
            self._refuse(problem)
            return
        if answer:
            self._transport.write(answer)
        if self._console.over:
            self._transport.loseConnection()

"""A server connection whose owner writes down what it is told."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from tests import builders as m
from tests.peers import MemoryTransport, Wall, login
from tqdbproxy.core.writebatch.types import Outcome
from tqdbproxy.postgres.messages import StartupMessage
from tqdbproxy.postgres.servers.connection import ServerConnection

HELLO = StartupMessage.parse(m.startup(user="u"))


class Session:
    """A connection that is logged in, and its owner: ``said`` has what the client gets and what is noted, in order."""

    def __init__(self, *, logged_in: bool = True) -> None:
        self.said: list[object] = []
        self.lost = False
        self.wall = Wall()
        self.connection = ServerConnection(self.wall)
        self.wire = MemoryTransport(self.connection)
        self.wire.connect()
        if logged_in:
            self.connection.log_in(HELLO, False, self.to_client).addCallback(self._begins)
            self.server_says(login())
            self.said.clear()
            self.wire.take()

    def _begins(self, _login: object) -> None:
        self.connection.belong_to(self, lambda: self.said.append("caught up"))

    def to_client(self, data: bytes) -> None:
        self.said.append(data)

    def unit_done(self, status: int, failed: bool) -> None:
        self.said.append(("done", chr(status), failed))

    def parameter_changed(self, name: bytes, value: bytes) -> None:
        self.said.append((name, value))

    def copy_began(self) -> None:
        self.said.append("copy")

    def server_lost(self) -> None:
        self.lost = True

    def server_says(self, *data: bytes) -> None:
        for piece in data:
            self.wire.receive(piece)

    def client_got(self) -> bytes:
        return b"".join(data for data in self.said if isinstance(data, bytes))

    def noted(self) -> list[object]:
        return [note for note in self.said if not isinstance(note, bytes) and note != "caught up"]


def results(deferred: Deferred[Outcome]) -> list[Outcome]:
    found: list[Outcome] = []
    deferred.addCallback(found.append)
    return found

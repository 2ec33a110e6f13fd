"""Asks what a statement takes and returns that a client has prepared on this connection.

The law of this module: no I/O; nothing is executed, and what the client has prepared stays as it is.
"""

from __future__ import annotations

from tqdbproxy.core.statement import Strategy
from tqdbproxy.core.writebatch.types import Done, Failed, Outcome
from tqdbproxy.postgres.described import Described
from tqdbproxy.postgres.framing import HEADER_SIZE, frame, frames
from tqdbproxy.postgres.messages import (
    ERROR_RESPONSE,
    NO_DATA,
    NOTICE_RESPONSE,
    NOTIFICATION_RESPONSE,
    PARAMETER_DESCRIPTION,
    PARAMETER_STATUS,
    ROW_DESCRIPTION,
)
from tqdbproxy.postgres.servers.batches import Exchange
from tqdbproxy.postgres.servers.statements import Statements

ASIDE = frozenset({NOTICE_RESPONSE, NOTIFICATION_RESPONSE, PARAMETER_STATUS})


class ClientsStatement(Exchange):
    """Describe of the client's statement ``name``, behind the messages ``before``, whose replies nobody waits for.

    ``described`` is None until the server has told, and if it can't. An error is nobody's: who goes on as if he hadn't
    asked gets his own.
    """

    described: Described | None = None

    def __init__(self, name: bytes, before: bytes, statements: Statements) -> None:
        self._name = name
        self._before = before
        super().__init__((), statements)

    def _compose(self) -> None:
        self._parts.append(self._before)
        self._parts.append(frame(b"D", b"S%b\0" % self._name))

    def receive(self, data: bytes) -> Outcome | None:
        """See `Exchange`. An error after which there is no ReadyForQuery is the session's last word: its client's."""
        outcome = super().receive(data)
        if outcome is None:
            said = b"".join(self._chunks)
            self.aside = [said[begin:end] for kind, begin, end in frames(said) if kind == ERROR_RESPONSE]
        return outcome

    def _end(self, data: bytes) -> Outcome:
        types = columns = b""
        self.aside = []
        for kind, begin, end in frames(data):
            if kind == PARAMETER_DESCRIPTION:
                types = data[begin + HEADER_SIZE : end]
            elif kind in (ROW_DESCRIPTION, NO_DATA):
                columns = data[begin:end]
            elif kind in ASIDE:
                self.aside.append(data[begin:end])
        if not (types and columns):
            return Failed(None)
        self.described = Described(types, columns)
        return Done((), Strategy.SINGLE)

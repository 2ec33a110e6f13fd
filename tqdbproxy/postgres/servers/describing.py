"""Asks what a statement takes and returns that a client has prepared on this connection.

The law of this module: no I/O; nothing is executed, and what the client has prepared stays as it is.
"""

from __future__ import annotations

from tqdbproxy.core.statement import Strategy
from tqdbproxy.core.writebatch.types import Done, Failed, Outcome
from tqdbproxy.postgres.described import Described, described
from tqdbproxy.postgres.framing import frame, frames
from tqdbproxy.postgres.messages import (
    ERROR_RESPONSE,
    NOTICE_RESPONSE,
    NOTIFICATION_RESPONSE,
    PARAMETER_STATUS,
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
        self.aside = [data[begin:end] for kind, begin, end in frames(data) if kind in ASIDE]
        self.described = described(data)
        return Done((), Strategy.SINGLE) if self.described else Failed(None)

"""A batch of which the first members are sent while the others are still waited for.

The server executes what it has, in the transaction that the Sync behind the others will commit. So while members come
in, it works instead of waiting for them. The law of this module: no I/O; behind an `Opening` comes the rest of its
batch, or `Abandoned`, or the end of the connection, and nothing else.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from tqdbproxy.core.writebatch.types import Failed, Lost, Outcome
from tqdbproxy.postgres.framing import frame
from tqdbproxy.postgres.mergeable import Mergeable
from tqdbproxy.postgres.messages import EXECUTE_ALL_FRAME
from tqdbproxy.postgres.servers import guards, merging
from tqdbproxy.postgres.servers.answers import Cutter
from tqdbproxy.postgres.servers.batches import GUARD, Exchange
from tqdbproxy.postgres.servers.statements import Statements
from tqdbproxy.postgres.tables import Tables
from tqdbproxy.postgres.unit import Unit


class Opening:
    """A many-row INSERT of the first members, sent while the others of the batch are still waited for.

    Behind it runs the guard: the server has the time now, and later the rows of all need only be counted. Without the
    Sync behind the others, nothing is committed. ``possible``: there is something to send; ``said`` is what the server
    has answered already; for the others see `batches.Begun`.
    """

    def __init__(self, units: Sequence[Unit], statements: Statements, mergeable: Mergeable, tables: Iterable[Tables]):
        """``units``: as many as make one piece. ``tables``: those whose fingerprint the statement depends on.

        It must be prepared, as the guard must be: nothing is parsed here.
        """
        self.count = len(units)
        self.said = b""
        self.aside: list[bytes] = []
        self.rest = b""
        self.names: dict[Hashable, bytes] = {}
        self._units = list(units)
        self._statements = statements
        self._tables = [one for one in tables if one]
        template = units[0].template
        piece, guard = statements.use((template, self.count)), statements.use((template, GUARD))
        binds = None
        if piece is not None and guard is not None and self._is_known():
            self.names = {(template, self.count): piece, (template, GUARD): guard}
            binds = merging.binds(self._units, mergeable.parameters, [piece], [self.count])
        self.possible = binds is not None
        if binds is not None and guard is not None:
            self.request = b"".join((*binds, EXECUTE_ALL_FRAME, guards.merging_execution(guard, self.count)))

    def _is_known(self) -> bool:
        return all(self._statements.fingerprint(one) is not None for one in self._tables)

    def holds(self, units: Sequence[Unit]) -> bool:
        """Whether the batch of ``units`` may follow: they begin with these, and the statements are what they were."""
        same = self._units == units[: self.count] and self._is_known()
        return same and all(self._statements.use(template) == name for template, name in self.names.items())

    def receive(self, data: bytes) -> None:
        """See `Exchange`. There is no end yet."""
        self.said += data


class Abandoned(Exchange):
    """Takes back what an `Opening` has done: an error, and then the Sync.

    The error is a Bind to a statement that isn't there, unless a client has made one with a name of ours; then the
    outcome is that of a connection that was lost: nobody knows what became of it.
    """

    closes = False

    def _compose(self) -> None:
        self._parts.append(frame(b"B", b"\0%b\0" % self._statements.new_name() + bytes(6)))

    def _end(self, data: bytes) -> Outcome:
        answer = Cutter((), ()).cut_tags(data)
        self._confirm(answer)
        return Failed(None) if answer.sqlstate else Lost(sent=True)

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
from tqdbproxy.postgres.messages import EXECUTE_ALL_FRAME, Parse
from tqdbproxy.postgres.servers import guards, merging
from tqdbproxy.postgres.servers.answers import Cutter
from tqdbproxy.postgres.servers.batches import FACTS, Exchange, Parsed
from tqdbproxy.postgres.servers.statements import Statements
from tqdbproxy.postgres.tables import Tables
from tqdbproxy.postgres.unit import NO_TYPES, Unit


class Opening:
    """A many-row INSERT of the first members, sent while the others of the batch are still waited for.

    Behind it the server looks up whether its table is such that merging can't be noticed (`guards.FACTS`): it has the
    time now. Without the Sync behind the others, it commits nothing. ``said`` is what the server has answered already;
    for the others see `batches.Begun`.
    """

    def __init__(self, units: Sequence[Unit], statements: Statements, mergeable: Mergeable, tables: Iterable[Tables]):
        """``units``: as many as make one piece. ``tables``: those whose fingerprint the statement depends on.

        It must be prepared: but for the guard, nothing is parsed here.
        """
        self.count = len(units)
        self.said = b""
        self.aside: list[bytes] = []
        self.rest = b""
        self.parsed: list[Parsed] = []
        self.names: dict[Hashable, bytes] = {}
        self.request = b""
        self._units = list(units)
        self._statements = statements
        self._tables = [one for one in tables if one]
        template = units[0].template
        piece = statements.use((template, self.count))
        if piece is None or not self._is_known():
            return
        binds = merging.binds(self._units, mergeable.parameters, [piece], [self.count])
        if binds is not None:
            guard = self._guard((template, FACTS), mergeable.table)
            self.names = {(template, self.count): piece, (template, FACTS): guard}
            self.request += b"".join((*binds, EXECUTE_ALL_FRAME, guards.facts_execution(guard)))

    @property
    def possible(self) -> bool:
        """Whether there is something to send."""
        return bool(self.request)

    def _guard(self, template: Hashable, table: bytes) -> bytes:
        name = self._statements.use(template)
        if name is None:
            name = self._statements.new_name()
            self.parsed.append((template, name))
            self.request = Parse(name, guards.facts_query(table), NO_TYPES).encode()
        return name

    def _is_known(self) -> bool:
        return all(self._statements.fingerprint(one) is not None for one in self._tables)

    def holds(self, units: Sequence[Unit]) -> bool:
        """Whether the batch of ``units`` may follow: they begin with these, and the statements are what they were."""
        old = self.names.items() - set(self.parsed)
        same = self._units == units[: self.count] and self._is_known()
        return same and all(self._statements.use(template) == name for template, name in old)

    def receive(self, data: bytes) -> None:
        """See `Exchange`. There is no end yet."""
        self.said += data


class Abandoned(Exchange):
    """Takes back what an `Opening` has done: an error, and then the Sync.

    The error is a Bind to a statement that isn't there, unless a client has made one with a name of ours; then the
    outcome is that of a connection that was lost: nobody knows what became of it.
    """

    closes = False

    def __init__(self, opening: Opening, statements: Statements) -> None:
        super().__init__((), statements, parsed=opening.parsed)

    def _compose(self) -> None:
        self._parts.append(frame(b"B", b"\0%b\0" % self._statements.new_name() + bytes(6)))

    def _end(self, data: bytes) -> Outcome:
        answer = Cutter((), ()).cut_tags(data)
        self._confirm(answer)
        return Failed(None) if answer.sqlstate else Lost(sent=True)

"""A batch as one exchange with the server: the bytes that are sent, and how it ended.

The law of this module: no I/O. One round trip, one Sync: the server runs all of it in one implicit transaction (manual,
"Extended Query Overview", "Pipelining").
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from tqdbproxy.core.statement import Strategy
from tqdbproxy.core.writebatch.types import Done, Failed, Outcome
from tqdbproxy.postgres.framing import HEADER, frame
from tqdbproxy.postgres.messages import DESCRIBE_PORTAL_FRAME, EXECUTE_ALL_FRAME, SYNC_FRAME, Parse, close_statement
from tqdbproxy.postgres.servers.answers import Cutter
from tqdbproxy.postgres.servers.statements import Statements
from tqdbproxy.postgres.unit import PORTAL, Asked, Unit

STALE = frozenset({"26000", "0A000"})
"""invalid_sql_statement_name; feature_not_supported ("cached plan must not change result type"): parse again."""


class Exchange:
    """One attempt to execute ``units`` on the connection that has ``statements``.

    ``request`` is what to send. ``stale`` is set if it failed because of a prepared statement that the server had lost
    or could no longer use: trying again helps. ``aside`` holds messages for the connection's own session.
    """

    def __init__(self, units: Sequence[Unit], statements: Statements) -> None:
        self.stale = False
        self.aside: list[bytes] = []
        self._units = units
        self._statements = statements
        self._names: dict[Hashable, bytes] = {}
        self._parsed: list[tuple[Hashable, bytes]] = []
        self._asked: dict[Asked, None] = {}
        self._chunks: list[bytes] = []
        self.request = self._compose()

    def _compose(self) -> bytes:
        parts = [close_statement(name) for name in self._statements.surplus()]
        for unit in self._units:
            template = unit.template
            name = self._names.get(template) or self._prepare(unit, template, parts)
            parts.append(HEADER.pack(b"B", len(name) + len(unit.tail) + 6))
            parts.append(b"\0%b\0%b" % (name, unit.tail))
            self._describe(unit, name, parts)
            parts.append(EXECUTE_ALL_FRAME)
        parts.append(SYNC_FRAME)
        return b"".join(parts)

    def _prepare(self, unit: Unit, template: Hashable, parts: list[bytes]) -> bytes:
        """The name of the prepared statement for ``template``, which is parsed now if the server hasn't it yet."""
        name = self._statements.use(template)
        if name is None:
            name = self._statements.new_name()
            self._parsed.append((template, name))
            parts.append(Parse(name, unit.text.stripped, unit.types).encode())
        self._names[template] = name
        return name

    def _describe(self, unit: Unit, name: bytes, parts: list[bytes]) -> None:
        """Ask for a description that a member needs, once for all members that need the same."""
        asked = unit.asks()
        if asked is not None and asked not in self._asked:
            self._asked[asked] = None
            parts.append(DESCRIBE_PORTAL_FRAME if asked.what == PORTAL else frame(b"D", b"S%b\0" % name))

    def receive(self, data: bytes) -> Outcome | None:
        """Take what the server says; the outcome once its ReadyForQuery is there."""
        self._chunks.append(data)
        if len(data) < 6:
            data = b"".join(self._chunks)
        if data[-6:] != b"Z\0\0\0\5I":
            return None
        return self._end(b"".join(self._chunks))

    def _end(self, data: bytes) -> Outcome:
        answer = Cutter(self._units, tuple(self._asked)).cut(data)
        for template, name in self._parsed[: answer.parsed]:
            self._statements.add(template, name)
        self.aside = answer.aside
        if not answer.sqlstate:
            strategy = Strategy.PREPARED if len(self._names) == 1 else Strategy.TRANSACTION
            return Done(answer.replies, strategy)
        if answer.sqlstate in STALE and self._forget_old():
            self.stale = True
            return Failed(None)
        return self._failed(len(answer.replies), answer.parsed)

    def _failed(self, completed: int, parsed: int) -> Failed:
        """Whose statement it was. If a text can't be parsed, it is the fault of all that share it."""
        if completed == len(self._units):
            return Failed(None)
        if parsed < len(self._parsed) and self._units[completed].template == self._parsed[parsed][0]:
            alone = sum(unit.template == self._parsed[parsed][0] for unit in self._units) == 1
            return Failed(completed if alone else None)
        return Failed(completed)

    def _forget_old(self) -> bool:
        """Forget the statements that were there before; False if there were none, so that the error is real."""
        fresh = {template for template, _name in self._parsed}
        old = [template for template in self._names if template not in fresh]
        for template in old:
            self._statements.forget(template)
        return bool(old)

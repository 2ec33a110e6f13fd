"""A batch as one exchange with the server: the bytes that are sent, and how it ended.

The law of this module: no I/O. One round trip, one Sync: the server runs all of it in one implicit transaction (manual,
"Extended Query Overview", "Pipelining").
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from operator import attrgetter
from typing import Protocol

from tqdbproxy.core.statement import Kind, Strategy
from tqdbproxy.core.writebatch.types import Done, Failed, Outcome
from tqdbproxy.postgres.described import described
from tqdbproxy.postgres.framing import HEADER, frame, frames
from tqdbproxy.postgres.mergeable import Mergeable
from tqdbproxy.postgres.messages import (
    DESCRIBE_PORTAL_FRAME,
    EXECUTE_ALL_FRAME,
    READY_FOR_QUERY,
    READY_IDLE_FRAME,
    SYNC_FRAME,
    Parse,
    close_statement,
)
from tqdbproxy.postgres.servers import blame, guards, merging
from tqdbproxy.postgres.servers.answers import Answer, Cutter, SameReplies
from tqdbproxy.postgres.servers.statements import Statements
from tqdbproxy.postgres.tables import Tables
from tqdbproxy.postgres.unit import NO_LIMIT, PORTAL, Asked, Unit

STALE = frozenset({"26000", "0A000", "42804"})
"""invalid_sql_statement_name; feature_not_supported ("cached plan must not change result type"); datatype_mismatch (a
column has another type now, a parameter has not): parse again."""


ROLLBACK = "40"
"""Class of the errors that hit the transaction as a whole (deadlock, serialization failure): in the same company, the
members would fight the same fight again."""

CONSTRAINT = "23"
"""Class of the errors of a row that violates a constraint; their detail names its values."""

DATA = "22"
"""Class of the errors of a value that is none of its type."""

FINGERPRINT = "fingerprint"
GUARD, COUNT = "guard", "count"
"""Templates of the proxy's own queries begin or end with one of these."""

TablesByTemplate = Mapping[Hashable, Tables]
NO_TABLES: TablesByTemplate = {}

SYNTAX_OR_ACCESS = "42"
"""Class of the errors that are found before any row is touched."""

NO_PRIVILEGE = "42501"
"""insufficient_privilege: a text names a schema that its user may not look into."""


class Begun(Protocol):
    """The first part of a batch, which was sent already."""

    @property
    def count(self) -> int:
        """How many members it has."""

    @property
    def names(self) -> Mapping[Hashable, bytes]:
        """What it executes, in this order, by template."""


class Exchange(ABC):
    """One attempt to execute ``units`` on the connection that has ``statements``.

    ``tables`` has those that the units' templates depend on, for each template whose statement must mean what it would
    mean if it were parsed now; see `guards`.

    ``request`` is what to send. ``stale`` is set if it failed because of a prepared statement that the server had lost
    or could no longer use, or that meant something else by now: trying again helps. ``aside`` holds messages for the
    connection's own session, ``rest`` what came after the end.
    """

    closes = True
    """Statements that are too many are closed with it. Behind an error, a Close would be skipped."""

    def __init__(self, units: Sequence[Unit], statements: Statements, tables: TablesByTemplate = NO_TABLES) -> None:
        self.stale = False
        self.aside: list[bytes] = []
        self._units = units
        self._statements = statements
        self._tables = tables
        self._names: dict[Hashable, bytes] = {}
        self._parsed: list[tuple[Hashable, bytes]] = []
        self._order: list[Hashable] = []
        """The templates of what is executed, in its order."""
        self._chunks: list[bytes] = []
        self._last = b""
        self._walked = 0
        self.rest = b""
        self._closing = statements.surplus() if self.closes else []
        self._parts = [close_statement(name) for name in self._closing]
        guarded = dict.fromkeys(tables.values()) if tables and not statements.blind else ()
        self._learning = [one for one in guarded if one and statements.fingerprint(one) is None]
        for one in self._learning:
            self._compare(one)
        self._compose()
        self._checks_at = len(self._order)
        if len(self._order) > len(self._learning):
            for one in guarded:
                if one and one not in self._learning:
                    self._compare(one)
        self._parts.append(SYNC_FRAME)
        self.request = b"".join(self._parts)

    def discard(self) -> None:
        """It is not going to be sent: what it would have closed is closed by another one."""
        self._statements.later(self._closing)

    @abstractmethod
    def _compose(self) -> None:
        """Add the messages before the Sync."""

    @abstractmethod
    def _end(self, data: bytes) -> Outcome:
        """Say how it ended; ``data`` is the server's whole answer."""

    def receive(self, data: bytes) -> Outcome | None:
        """Take what the server says; the outcome once its ReadyForQuery is there. Raises `FramingError`."""
        self._chunks.append(data)
        last = self._last + data
        self._last = last[1 - len(READY_IDLE_FRAME) :]
        return self._walk() if READY_IDLE_FRAME in last else None

    def _walk(self) -> Outcome | None:
        """There are the bytes of a ReadyForQuery; they may as well be in a row."""
        answer = b"".join(self._chunks)
        self._chunks = [answer]
        for kind, _begin, end in frames(answer, self._walked):
            self._walked = end
            if kind == READY_FOR_QUERY:
                self.rest = answer[end:]
                return self._end(answer[:end])
        return None

    def _prepare(self, template: Hashable, sql: bytes, types: bytes) -> bytes:
        """The name of the prepared statement for ``template``, which is parsed now if the server hasn't it yet."""
        name = self._names.get(template)
        if name is not None:
            return name
        name = self._statements.use(template)
        if name is None:
            name = self._statements.new_name()
            self._parsed.append((template, name))
            self._parts.append(Parse(name, sql, types).encode())
        self._names[template] = name
        return name

    def _compare(self, tables: Tables) -> None:
        """Ask for the fingerprint of ``tables``, and whether it is the known one."""
        template = (FINGERPRINT, tables)
        name = self._prepare(template, guards.fingerprint_query(tables), guards.FINGERPRINT_TYPES)
        self._parts.append(guards.fingerprint_execution(name, self._statements.fingerprint(tables)))
        self._order.append(template)

    def _confirm(self, answer: Answer) -> None:
        """Note what the server has now, and what it turned out not to have any more, or not to be any more."""
        for tables, fingerprint in zip(self._learning, answer.learned, strict=False):
            self._statements.learn(tables, fingerprint)
        for template, name in self._parsed[: answer.parsed]:
            self._statements.add(template, name, self._tables_of(template))
        self.aside = answer.aside
        if answer.sqlstate:
            self._confirm_failure(answer)

    def _confirm_failure(self, answer: Answer) -> None:
        failed = answer.completed
        if answer.sqlstate in STALE and failed < len(self._order):
            self.stale = self._retire_old(self._order[failed])
        access = answer.sqlstate.startswith(SYNTAX_OR_ACCESS) and answer.sqlstate != NO_PRIVILEGE
        if failed < len(self._learning) and access:
            self._statements.give_up_fingerprints()
            self.stale = True
        elif self._checks_at <= failed < len(self._order) and answer.sqlstate == guards.CHANGED:
            self._changed()
            self.stale = True
        elif answer.sqlstate.startswith(DATA):
            self._changed()  # perhaps the value is fine, and the column isn't any more what it was

    def _changed(self) -> None:
        for tables in self._tables.values():
            self._statements.changed(tables)

    def _retire_old(self, failed: Hashable) -> bool:
        """Do without the statements that were there before; False if ``failed`` wasn't, so that the error is real."""
        fresh = {template for template, _name in self._parsed}
        if failed in fresh or failed not in self._names:
            return False
        for template in self._names.keys() - fresh:
            self._statements.retire(template)
        return True

    def _tables_of(self, template: Hashable) -> Tables | None:
        """What the statement for ``template`` depends on."""
        return self._tables.get(template)


class PreparedExchange(Exchange):
    """Parse once for each template, Bind and Execute for each member."""

    def _compose(self) -> None:
        self._asked: dict[Asked, None] = {}
        parts = self._parts
        for unit in self._units:
            self._order.append(unit.template)
            name = self._prepare(unit.template, unit.sql, unit.types)
            parts.append(HEADER.pack(b"B", len(name) + len(unit.tail) + 6))
            parts.append(b"\0%b\0%b" % (name, unit.tail))
            self._describe(unit, name)
            parts.append(EXECUTE_ALL_FRAME if unit.limit == NO_LIMIT else frame(b"E", b"\0" + unit.limit))

    def _describe(self, unit: Unit, name: bytes) -> None:
        """Ask for a description that a member needs, once for all members that need the same."""
        asked = unit.asks()
        if asked is not None and asked not in self._asked:
            self._asked[asked] = None
            self._parts.append(DESCRIBE_PORTAL_FRAME if asked.what == PORTAL else frame(b"D", b"S%b\0" % name))

    def _end(self, data: bytes) -> Outcome:
        answer = Cutter(self._units, tuple(self._asked), len(self._learning)).cut(data)
        self._confirm(answer)
        if not answer.sqlstate:
            return Done(self._trusted(answer), Strategy.PREPARED if self._is_uniform() else Strategy.TRANSACTION)
        executed = len(self._learning) <= answer.completed < self._checks_at
        if self.stale or answer.sqlstate.startswith(ROLLBACK) or not executed:
            return Failed(None)
        return self._failed(len(answer.replies), answer.parsed)

    def _trusted(self, answer: Answer) -> list[bytes | None]:
        """The replies, without those of updates that found no row and whose constants became parameters.

        A constant that doesn't fit its column is an error even if there is no row to be changed; a parameter in a
        generic plan isn't.
        """
        if all(unit.text.lifted is None or unit.text.kind is not Kind.UPDATE for unit in self._units):
            return list(answer.replies)
        pairs = zip(self._units, answer.replies, strict=True)
        return [None if unit.text.lifted is not None and UPDATED_NONE in reply else reply for unit, reply in pairs]

    def _is_uniform(self) -> bool:
        """Whether all members have one template."""
        template = self._units[0].template
        return all(unit.template == template for unit in self._units)

    def _failed(self, completed: int, parsed: int) -> Failed:
        """Whose statement it was. If a text can't be parsed, it is the fault of all that share it."""
        template = self._units[completed].template
        if parsed < len(self._parsed) and template == self._parsed[parsed][0]:
            alone = sum(unit.template == template for unit in self._units) == 1
            return Failed(completed if alone else None)
        return Failed(completed)


class DescribeExchange(Exchange):
    """Parses a template and asks what it takes and returns; executes nothing.

    ``types``: the OIDs of its parameters as the server has resolved them, once it has ended; ``columns``: the raw
    RowDescription or NoData frame.
    """

    types: tuple[int, ...] = ()
    columns = b""

    def _compose(self) -> None:
        unit = self._units[0]
        name = self._prepare(unit.template, unit.sql, unit.types)
        self._parts.append(frame(b"D", b"S%b\0" % name))

    def _end(self, data: bytes) -> Outcome:
        answer = Cutter((), (), len(self._learning)).cut_tags(data)
        self._confirm(answer)
        found = described(data)
        if answer.sqlstate or found is None:
            return Failed(None)
        (count,) = struct.unpack_from("!H", found.types)
        self.types = struct.unpack_from(f"!{count}I", found.types, 2)
        self.columns = found.columns
        return Done((), Strategy.PREPARED)


class MergedExchange(Exchange):
    """Many-row INSERTs and their guard. If it fails and nobody is to blame, a `PreparedExchange` tells who it was.

    ``possible``: the members' parameters fit together; else there is nothing to send. ``refused``: the guard failed, or
    the server doesn't like the text of it or of the many rows.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        statements: Statements,
        mergeable: Mergeable,
        tables: TablesByTemplate = NO_TABLES,
        begun: Begun | None = None,
    ) -> None:
        """``begun``: what of it was sent already."""
        self._mergeable = mergeable
        self._begun = begun
        self.closes = begun is None
        self.possible = True
        self.refused = False
        super().__init__(units, statements, tables)

    def _compose(self) -> None:
        unit, mergeable, begun = self._units[0], self._mergeable, self._begun
        rest = self._units
        if begun is not None:
            rest = rest[begun.count :]
            self._names.update(begun.names)  # so an error of theirs is one of an old statement
            self._order.extend(begun.names)
        sizes = self._cut(unit, len(rest))
        names = [self._prepare_piece(unit, size) for size in sizes]
        binds = merging.binds(rest, mergeable.parameters, names, sizes) if rest else []
        guard = (unit.template, GUARD if begun is None else COUNT)
        query = guards.merging_query if begun is None else guards.count_query
        name = self._prepare(guard, query(mergeable.table), guards.MERGING_TYPES)
        if binds is None:
            self.possible = False
            return
        for bind in binds:
            self._parts.append(bind)
            self._parts.append(EXECUTE_ALL_FRAME)
        self._order.extend(unit.template if size == 1 else (unit.template, size) for size in sizes)
        self._parts.append(guards.merging_execution(name, len(self._units)))
        self._order.append(guard)

    def _tables_of(self, template: Hashable) -> Tables | None:
        """All that isn't a fingerprint's depends on the same tables."""
        is_ours = isinstance(template, tuple) and template[0] is FINGERPRINT
        return None if is_ours else self._tables.get(self._units[0].template)

    def _cut(self, unit: Unit, members: int) -> list[int]:
        """The sizes of the pieces: a statement of their own for members that come so many again and again."""
        sizes = merging.pieces(members, self._mergeable.parameters)
        whole = members <= merging.largest(self._mergeable.parameters)
        return [members] if len(sizes) > 1 and whole and self._statements.grants((unit.template, members)) else sizes

    def _prepare_piece(self, unit: Unit, rows: int) -> bytes:
        if rows == 1:
            return self._prepare(unit.template, unit.sql, unit.types)
        piece = (unit.template, rows)
        name = self._names.get(piece) or self._statements.use(piece)
        if name is not None:  # the text of many rows is long: don't make it in vain
            self._names[piece] = name
            return name
        types = merging.piece_types(unit.types, self._mergeable.parameters, rows)
        return self._prepare(piece, self._mergeable.rows(rows), types)

    def _end(self, data: bytes) -> Outcome:
        answer = Cutter((), (), len(self._learning)).cut_tags(data)
        self._confirm(answer)
        if answer.sqlstate:
            failed = self._order[answer.completed] if answer.completed < len(self._order) else None
            by_guard = isinstance(failed, tuple) and failed[1] in (GUARD, COUNT)
            guarded = by_guard and answer.sqlstate == guards.NOT_MERGEABLE
            self.refused = guarded or (answer.sqlstate.startswith(SYNTAX_OR_ACCESS) and not self.stale)
            constraint = answer.sqlstate.startswith(CONSTRAINT) and failed is not None and not by_guard
            return Failed(blame.culprit(self._units, answer.detail) if constraint else None)
        if len(set(map(SHAPE, self._units))) == 1:
            return Done([self._units[0].reply(b"", b"", INSERTED_ONE)] * len(self._units), Strategy.MERGED)
        same = SameReplies()
        return Done([same.of(unit, INSERTED_ONE) for unit in self._units], Strategy.MERGED)


SHAPE = attrgetter("shape")
UPDATED_NONE = frame(b"C", b"UPDATE 0\0")
INSERTED_ONE = frame(b"C", b"INSERT 0 1\0")

"""A unit: what a client sends before it waits, when it is one statement that the proxy understands.

The law of this module: what the client sent stays as raw bytes; a reply is put together from the server's raw bytes.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

from tqdbproxy.core.statement import BatchKey, Identity
from tqdbproxy.core.writebatch.types import Result, Write
from tqdbproxy.postgres.messages import (
    BIND_COMPLETE_FRAME,
    CLOSE_COMPLETE_FRAME,
    NO_DATA_FRAME,
    PARSE_COMPLETE_FRAME,
    READY_IDLE_FRAME,
    result_formats,
)
from tqdbproxy.postgres.sql import Text

NO_PARAMETERS = bytes(6)
"""The tail of a Bind without parameters and with text results: three counts of zero."""

NO_TYPES = bytes(2)

NO_LIMIT = bytes(4)

PORTAL, STATEMENT = b"PS"
"""What a Describe may ask about."""


class Asked(NamedTuple):
    """What is described: a `STATEMENT`, or a `PORTAL` with these raw result formats."""

    what: int
    template: Hashable
    formats: bytes = b""


NO_KEY = BatchKey(Identity("", b"", b"", ()), None)
"""Of a unit that isn't meant for a batch."""


class Unit(Write):
    """One statement between two Syncs, or one Query; when it leaves the forward lane, a `Write` that waits.

    ``key``, ``window_s``, ``writer`` and ``server`` are set when it does. (One object for both roles: a batched write
    makes as few objects as it can.)

    :param raw: the unit as the client sent it; what the forward lane sends if it comes to that.
    :param sql: what to Parse in a batch; ``text.stripped`` if it isn't given.
    :param types: count and OIDs of the parameters that its Parse declared, raw.
    :param columns: what its client was told, or could have been, that the statement it prepared returns, raw; None: it
        is parsed each time.
    :param tail: its Bind after the two names, raw.
    :param limit: the row limit of its Execute, raw.
    :param describe: `PORTAL`, `STATEMENT` or 0: what its Describe asked about.
    :param simple: it is a Query message.
    """

    __slots__ = (
        "close",
        "columns",
        "counts",
        "describe",
        "limit",
        "mergeable",
        "parse",
        "raw",
        "server",
        "shape",
        "simple",
        "sql",
        "tail",
        "text",
        "types",
    )

    def __init__(
        self,
        raw: bytes,
        text: Text,
        *,
        sql: bytes | None = None,
        types: bytes = NO_TYPES,
        columns: bytes | None = None,
        tail: bytes = NO_PARAMETERS,
        limit: bytes = NO_LIMIT,
        parse: bool = False,
        describe: int = 0,
        close: bool = False,
        simple: bool = False,
    ) -> None:
        self.raw = raw
        self.text = text
        self.sql = text.stripped if sql is None else sql
        template = (self.sql, types) if columns is None else (self.sql, types, columns)
        super().__init__(NO_KEY, template, len(tail) + len(self.sql), 0.0, None)
        self.types = types
        self.columns = columns
        self.tail = tail
        self.limit = limit
        self.parse = parse
        self.describe = describe
        self.close = close
        self.simple = simple
        self.shape = simple | parse << 1 | close << 2 | describe << 3
        """What its reply is made of, but for descriptions and rows: units of one shape get the same bytes."""
        self.mergeable = describe != STATEMENT and (text.hints is None or text.hints.merge)
        """Neither its hint nor what it asks keeps it out of a many-row statement."""
        self.counts: Any = None
        """What its caller is counted on."""
        self.server: Any = None
        """The server connection of the session that sent it; set when the unit leaves the forward lane."""

    def become(self, raw: bytes, tail: bytes) -> None:
        """The same with other parameters: most units are like the last one of their session.

        Its session may do that with a unit that it isn't waiting for any more; to make another one costs ten times as
        much.
        """
        self.raw = raw
        self.tail = tail
        self.size = len(tail) + len(self.sql)

    @property
    def unit(self) -> Unit:
        """Itself: the wire executes units."""
        return self

    def answered(self, result: Result) -> None:
        """See `Write.answered`: its session's protocol, the ``writer``, takes the result."""
        self.writer.answered(result, self)  # type: ignore[attr-defined]

    def asks(self) -> Asked | None:
        """What the server has to describe for its reply; a statement that returns nothing needs no question."""
        if self.describe == STATEMENT:
            return Asked(STATEMENT, self.template)
        if (self.simple or self.describe) and self.text.returning:
            return Asked(PORTAL, self.template, result_formats(self.tail))
        return None

    def reply(self, described: bytes, rows: bytes, complete: bytes) -> bytes:
        """What the server would have sent to this client alone: its answer, up to and including ReadyForQuery.

        :param described: RowDescription (after ParameterDescription, for a statement) or nothing.
        :param rows: DataRow and NoticeResponse frames; ``complete``: the CommandComplete or PortalSuspended
            frame.
        """
        if self.simple:
            return b"".join((described, rows, complete, READY_IDLE_FRAME))
        return b"".join(
            (
                PARSE_COMPLETE_FRAME if self.parse else b"",
                BIND_COMPLETE_FRAME,
                (described or NO_DATA_FRAME) if self.describe else b"",
                rows,
                complete,
                CLOSE_COMPLETE_FRAME if self.close else b"",
                READY_IDLE_FRAME,
            )
        )

"""Units that the proxy answers by itself: questions to ``pg_tqdb_status``.

The answer is put together message by message, so that every driver's way of asking works: a Query, an unnamed or a
named statement, Describe of either kind, text or binary results, a Flush in between. The law of this module: a unit is
answered as a whole here or not at all.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from tqdbproxy.postgres.clients.status import COLUMNS, Status
from tqdbproxy.postgres.framing import HEADER_SIZE, FramingError, frame, frames, text_at
from tqdbproxy.postgres.messages import (
    BIND,
    BIND_COMPLETE_FRAME,
    CLOSE,
    CLOSE_COMPLETE_FRAME,
    DESCRIBE,
    EXECUTE,
    FLUSH,
    PARSE,
    PARSE_COMPLETE_FRAME,
    SYNC,
    Bind,
    Parse,
    command_complete,
    data_row,
    error_response,
    ready_for_query,
    result_formats,
    row_description,
)

NO_PARAMETERS_FRAME = frame(b"t", b"\0\0")
TEXT_FORMATS = (0, 0)


class LocalView:
    """One session's statements and portals on the view. ``asking`` is true in the middle of a unit about it."""

    __slots__ = ("_portals", "_skipping", "_statements", "asking")

    def __init__(self) -> None:
        self._statements: set[bytes] = set()
        self._portals: dict[bytes, tuple[int, ...]] = {}
        self._skipping = False
        self.asking = False

    def simple(self, status: Status, transaction: int) -> bytes:
        """The answer to a Query."""
        return row_description(COLUMNS, TEXT_FORMATS) + _rows(status) + ready_for_query(transaction)

    @property
    def known(self) -> bool:
        """Whether the session has prepared a statement on the view."""
        return bool(self._statements)

    def knows(self, name: bytes) -> bool:
        """Whether the statement ``name`` is on the view."""
        return name in self._statements

    def concerns(self, data: bytes, is_view: Callable[[bytes], bool]) -> bool:
        """Whether a unit about the view begins with the first frame of ``data``. Raises `FramingError`."""
        for kind, begin, end in frames(data):
            try:
                if kind == PARSE:
                    self.asking = is_view(Parse.parse(data, begin, end).text)
                elif kind == BIND:
                    self.asking = Bind.parse(data, begin, end).statement in self._statements
                elif kind in (DESCRIBE, CLOSE) and data[begin + HEADER_SIZE : end][:1] == b"S":
                    self.asking = text_at(data, begin + HEADER_SIZE + 1, end)[0] in self._statements
            except FramingError:
                self.asking = False  # malformed inside: the server has the words for it
            break
        return self.asking

    def answer(self, data: bytes, status: Status, transaction: int) -> tuple[bytes, int]:
        """Answer the frames in ``data`` up to a Sync: the reply, and how many bytes of ``data`` were understood."""
        out: list[bytes] = []
        used = 0
        for kind, begin, end in frames(data):
            used = end
            if kind == SYNC:
                out.append(ready_for_query(transaction))
                self.asking = self._skipping = False
                self._portals.clear()
                break
            if not self._skipping:
                out.append(self._message(kind, data, begin, end, status))
        return b"".join(out), used

    def forget(self, name: bytes) -> None:
        """The statement ``name`` is another one now."""
        self._statements.discard(name)

    def _message(self, kind: int, data: bytes, begin: int, end: int, status: Status) -> bytes:
        if kind == PARSE:
            self._statements.add(Parse.parse(data, begin, end).name)
            return PARSE_COMPLETE_FRAME
        if kind == BIND:
            bind = Bind.parse(data, begin, end)
            self._portals[bind.portal] = _formats(bind)
            return BIND_COMPLETE_FRAME
        if kind == FLUSH:
            return b""
        what, at = (data[begin + HEADER_SIZE : begin + HEADER_SIZE + 1], begin + HEADER_SIZE + 1)
        if kind == EXECUTE and text_at(data, begin + HEADER_SIZE)[0] in self._portals:
            return _rows(status)
        name = text_at(data, at)[0]
        if kind == CLOSE:
            (self._statements.discard if what == b"S" else lambda _: None)(name)
            return CLOSE_COMPLETE_FRAME
        if kind == DESCRIBE and what == b"S" and name in self._statements:
            return NO_PARAMETERS_FRAME + row_description(COLUMNS, TEXT_FORMATS)
        if kind == DESCRIBE and what == b"P" and name in self._portals:
            return row_description(COLUMNS, self._portals[name])
        self._skipping = True
        return error_response("ERROR", "0A000", "pg_tqdb_status must be the only statement between two Syncs")


def _formats(bind: Bind) -> tuple[int, ...]:
    """The result format of each column: a Bind names none, one for all, or one for each."""
    raw = result_formats(bind.tail)
    (count,) = struct.unpack_from("!H", raw)
    codes = struct.unpack_from(f"!{count}H", raw, 2)
    if count not in (0, 1, len(COLUMNS)):
        raise FramingError(f"bind message has {count} result formats but query has {len(COLUMNS)} columns")
    return codes if count == len(COLUMNS) else (codes or (0,)) * len(COLUMNS)


def _rows(status: Status) -> bytes:
    rows = status.rows()
    return b"".join(map(data_row, rows)) + command_complete(f"SELECT {len(rows)}")

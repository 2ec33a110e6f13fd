"""The answer to one read, kept while it goes by.

The law of this module: what the client gets is not its matter; only a complete answer is kept, one without errors,
notices and anything else that isn't the statement's own, of a session that ended it outside of transactions.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from tqdbproxy.postgres.framing import HEADER_SIZE, frames, length_at
from tqdbproxy.postgres.messages import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    COMMAND_COMPLETE,
    DATA_ROW,
    ERROR_RESPONSE,
    IDLE,
    NO_DATA,
    PARAMETER_DESCRIPTION,
    PARSE_COMPLETE,
    PORTAL_SUSPENDED,
    READY_FOR_QUERY,
    ROW_DESCRIPTION,
)


class Answer(NamedTuple):
    """What `Unit.reply` needs: RowDescription (after ParameterDescription) or nothing, DataRows, the end."""

    described: bytes
    rows: bytes
    complete: bytes

    @property
    def size(self) -> int:
        """Bytes of the server's frames."""
        return len(self.described) + len(self.rows) + len(self.complete)

    def in_order(self) -> tuple[bytes, list[bytes], bytes]:
        """The same with its rows in an order of their own: two answers with the same rows are equal then."""
        rows = sorted(self.rows[begin:end] for _kind, begin, end in frames(self.rows))
        return self.described, rows, self.complete


class Sink(Protocol):
    """Who wants the answer."""

    def answered(self, answer: Answer, size: int) -> object:
        """It is complete."""

    def failed(self) -> None:
        """There is none that could be kept."""

    def lost(self) -> None:
        """Nobody will ever know: the connection is gone, or its client doesn't read, or has cancelled it."""


# In an answer the frames come in this order, and each kind belongs to one part of it.
_ACKNOWLEDGED, _DESCRIBED, _ROWS, _COMPLETE = range(4)
_PARTS = {
    PARSE_COMPLETE: _ACKNOWLEDGED,
    BIND_COMPLETE: _ACKNOWLEDGED,
    NO_DATA: _ACKNOWLEDGED,
    PARAMETER_DESCRIPTION: _DESCRIBED,
    ROW_DESCRIPTION: _DESCRIBED,
    DATA_ROW: _ROWS,
    COMMAND_COMPLETE: _COMPLETE,
    PORTAL_SUSPENDED: _COMPLETE,
}


class Room:
    """The bytes that all answers on their way may have together, ``most``, and those that they have, ``held``."""

    __slots__ = ("held", "most")

    def __init__(self, most: int) -> None:
        self.held = 0
        self.most = most


class Capture:
    """Keeps up to ``limit`` bytes of an answer for ``sink``, as long as there is ``room`` (None: for itself alone).

    Where there is none, it is given up like one that is too large: who waits for it asks for himself.
    """

    __slots__ = ("_at", "_begins", "_ends", "_limit", "_raw", "_room", "_sink", "cancelled", "over")

    def __init__(self, sink: Sink, limit: int, room: Room | None = None) -> None:
        self._sink = sink
        self._limit = limit
        self._room = room or Room(limit)
        self._raw = bytearray()
        self._at = 0
        self._begins = [0, 0, 0, 0]
        self._ends = [0, 0, 0, 0]
        self.cancelled = False
        """The client has asked for that; the server may not have heard it in time."""
        self.over = False

    def take(self, data: bytes) -> None:
        """More of what the server says; all that comes after the answer's end is ignored."""
        raw = self._raw
        raw += data
        self._room.held += len(data)
        while self._at + HEADER_SIZE <= len(raw) and not self.over:
            kind = raw[self._at]
            end = self._at + 1 + length_at(raw, self._at + 1)[0]
            if end > len(raw):
                break
            if kind == READY_FOR_QUERY:
                self._finish(raw[end - 1])
            elif kind in _PARTS:
                self._note(_PARTS[kind], end)
            elif kind == ERROR_RESPONSE and self._says_nothing(raw[self._at : end]):
                self.lose()
            elif kind != CLOSE_COMPLETE:
                self.fail()
            self._at = end
        if len(raw) > self._limit or self._room.held > self._room.most:
            self.fail()

    def fail(self) -> None:
        """There is something in it that can't be kept."""
        self._end(self._sink.failed)

    def lose(self) -> None:
        """It will never be complete."""
        self._end(self._sink.lost)

    def _says_nothing(self, error: bytearray) -> bool:
        """Whether this error is its session's own, and says nothing of what the statement is to others.

        It is if the server ends the session with it, or did what the client itself has asked for. A statement_timeout
        has the same SQLSTATE, but whoever asks has the same setting: they would run into it one after another.
        """
        ends = b"\0VFATAL\0" in error or b"\0VPANIC\0" in error
        return ends or (self.cancelled and b"\0C57014\0" in error)

    def _note(self, part: int, end: int) -> None:
        if self._begins[part] == self._ends[part]:
            self._begins[part] = self._at
        self._ends[part] = end

    def _finish(self, status: int) -> None:
        described, rows, complete = (
            bytes(self._raw[self._begins[part] : self._ends[part]]) for part in (_DESCRIBED, _ROWS, _COMPLETE)
        )
        if status != IDLE or not complete:
            self.fail()
            return
        answer = Answer(described, rows, complete)
        self._end(lambda: self._sink.answered(answer, answer.size))

    def _end(self, tell: object) -> None:
        if not self.over:
            self.over = True
            self._room.held -= len(self._raw)
            self._raw = bytearray()
            tell()  # type: ignore[operator]

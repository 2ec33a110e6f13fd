"""The console's wire: a session that is answered by the proxy itself, in the simple and in the extended protocol.

The law of this module: bytes in, bytes out, no I/O. Nothing is ever half done: a message is answered as a whole, and a
session has no transaction.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from tqdbproxy.errors import ProtocolViolation, ProxyError, UnknownCommand
from tqdbproxy.postgres.clients import replies
from tqdbproxy.postgres.clients.console_commands import Command, Commands
from tqdbproxy.postgres.framing import HEADER_SIZE, end_of_frame, frame, text_at
from tqdbproxy.postgres.messages import (
    BIND,
    BIND_COMPLETE_FRAME,
    CLOSE,
    CLOSE_COMPLETE_FRAME,
    COPY_DATA,
    COPY_DONE,
    COPY_FAIL,
    DESCRIBE,
    EXECUTE,
    FLUSH,
    FUNCTION_CALL,
    NO_DATA_FRAME,
    PARSE,
    PARSE_COMPLETE_FRAME,
    QUERY,
    READY_IDLE_FRAME,
    SYNC,
    TERMINATE,
    Bind,
    Parse,
    command_complete,
    data_row,
    result_formats,
    row_description,
)

EMPTY_QUERY_FRAME = frame(b"I")
NO_PARAMETERS_FRAME = frame(b"t", b"\0\0")
IGNORED = frozenset({FLUSH, COPY_DATA, COPY_DONE, COPY_FAIL})
KEPT = 1000
"""Prepared statements and portals of one session; the next one is an error."""
LONGEST = 65536
"""Bytes of a message; a longer one ends the session."""

Portal = tuple[Command | None, tuple[int, ...]]


class Console:
    """One session. ``over``: the client has said goodbye."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._statements: dict[bytes, Command | None] = {}
        """None: an empty text."""
        self._portals: dict[bytes, Portal] = {}
        self._skipping = False
        self._held = b""
        self.over = False

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the client, return what it gets. Raises `ProtocolViolation`."""
        data = self._held + data
        out: list[bytes] = []
        at = 0
        while len(data) - at >= HEADER_SIZE and not self.over:
            end = end_of_frame(data, at)
            if end - at > LONGEST:
                raise ProtocolViolation(f"a message of {end - at} bytes for the console")
            if end > len(data):
                break
            out.append(self._message(data[at:end]))
            at = end
        self._held = data[at:]
        return b"".join(out)

    def _message(self, raw: bytes) -> bytes:
        kind = raw[0]
        if kind == SYNC:
            self._skipping = False
            self._portals.clear()
            return READY_IDLE_FRAME
        if kind == TERMINATE:
            self.over = True
            return b""
        if kind in IGNORED or (self._skipping and kind not in (QUERY, FUNCTION_CALL)):
            return b""
        try:
            if kind == QUERY:
                return self._query(raw)
            return self._extended(kind, raw)
        except ProtocolViolation:
            raise
        except ProxyError as problem:
            if kind == FUNCTION_CALL:
                return replies.error(problem) + READY_IDLE_FRAME
            self._skipping = True
            return replies.error(problem)

    # The simple protocol

    def _query(self, raw: bytes) -> bytes:
        out: list[bytes] = []
        try:
            commands = self._commands.read(text_at(raw, HEADER_SIZE)[0].decode(errors="replace"))
            for command in commands:
                if command.columns is not None:
                    out.append(row_description(command.columns, (0,) * len(command.columns)))
                out.append(_run(command))
            if not commands:
                out.append(EMPTY_QUERY_FRAME)
        except ProtocolViolation:
            raise
        except ProxyError as problem:
            out.append(replies.error(problem))
        return b"".join(out) + READY_IDLE_FRAME

    # The extended protocol

    def _extended(self, kind: int, raw: bytes) -> bytes:
        if kind == PARSE:
            return self._parse(Parse.parse(raw, 0, len(raw)))
        if kind == BIND:
            return self._bind(Bind.parse(raw, 0, len(raw)))
        if kind == EXECUTE:
            command, _formats = self._portal(text_at(raw, HEADER_SIZE)[0])
            return EMPTY_QUERY_FRAME if command is None else _run(command)
        if kind in (DESCRIBE, CLOSE):
            what, name = raw[HEADER_SIZE : HEADER_SIZE + 1], text_at(raw, HEADER_SIZE + 1)[0]
            return self._describe(what, name) if kind == DESCRIBE else self._close(what, name)
        if kind == FUNCTION_CALL:
            raise UnknownCommand("the console has no functions")
        raise ProtocolViolation(f"invalid frontend message type {kind}")

    def _parse(self, parse: Parse) -> bytes:
        commands = self._commands.read(parse.text.decode(errors="replace"))
        if len(commands) > 1:
            raise UnknownCommand("cannot insert multiple commands into a prepared statement")
        _check_room(self._statements, parse.name)
        self._statements[parse.name] = commands[0] if commands else None
        return PARSE_COMPLETE_FRAME

    def _bind(self, bind: Bind) -> bytes:
        command = self._statement(bind.statement)
        _check_room(self._portals, bind.portal)
        self._portals[bind.portal] = (command, _formats(bind, command))
        return BIND_COMPLETE_FRAME

    def _describe(self, what: bytes, name: bytes) -> bytes:
        if what == b"S":
            command = self._statement(name)
            columns = command.columns if command is not None else None
            return NO_PARAMETERS_FRAME + _columns(columns, (0,) * len(columns or ()))
        command, formats = self._portal(name)
        return _columns(command.columns if command is not None else None, formats)

    def _close(self, what: bytes, name: bytes) -> bytes:
        if what == b"S":
            self._statements.pop(name, None)
        else:
            self._portals.pop(name, None)
        return CLOSE_COMPLETE_FRAME

    def _statement(self, name: bytes) -> Command | None:
        if name not in self._statements:
            raise UnknownCommand(f'prepared statement "{name.decode(errors="replace")}" does not exist')
        return self._statements[name]

    def _portal(self, name: bytes) -> Portal:
        if name not in self._portals:
            raise UnknownCommand(f'portal "{name.decode(errors="replace")}" does not exist')
        return self._portals[name]


def _run(command: Command) -> bytes:
    outcome = command.run()
    told = b"".join(map(replies.warning, outcome.notices))
    return told + b"".join(map(data_row, outcome.rows)) + command_complete(outcome.tag)


def _columns(columns: tuple[str, ...] | None, formats: tuple[int, ...]) -> bytes:
    return NO_DATA_FRAME if columns is None else row_description(columns, formats)


def _formats(bind: Bind, command: Command | None) -> tuple[int, ...]:
    """The result format of each column: a Bind names none, one for all, or one for each."""
    count = len(command.columns or ()) if command is not None else 0
    raw = result_formats(bind.tail)
    codes: tuple[int, ...] = struct.unpack(f"!{len(raw) // 2 - 1}H", raw[2:])
    if len(codes) not in (0, 1, count):
        raise UnknownCommand(f"bind message has {len(codes)} result formats but query has {count} columns")
    return codes if len(codes) == count else (codes or (0,)) * count


def _check_room(where: Mapping[bytes, object], name: bytes) -> None:
    if len(where) >= KEPT and name not in where:
        raise UnknownCommand(f"more than {KEPT} prepared statements or portals")

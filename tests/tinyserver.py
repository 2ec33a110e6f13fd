"""A PostgreSQL server small enough to read: the protocol's rules, and a handful of statements.

It is the model that sessions through the proxy are compared with, so it keeps what matters there: implicit transactions
up to Sync, skipping after an error, named and unnamed statements, portals with row limits, COPY, settings. What it does
is told by words in the text:

=========================  ==========================================================================================
``insert ...``             a write; the books get it when it commits; ``returning``: one row
``select ...``             a row with the text and the parameters; ``select many``: three rows
``bad``                    fails when executed (23505); ``oops``: when parsed (42601); ``note``: raises a notice
``copy .. from``/``to``    COPY in both directions
=========================  ==========================================================================================
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests import builders as m

_COMMENT = re.compile(rb"/\*.*?\*/", re.DOTALL)
_PARAMETER = re.compile(rb"\$([0-9]+)")


class Refused(Exception):
    """An error of a statement."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(code, words)
        self.raw = m.error(code, words, D="of " + words, F="tiny.c", L="7", R="refuse")


@dataclass
class Portal:
    sql: bytes
    parameters: list[bytes]
    formats: tuple[int, ...]
    rows: list[bytes] | None = None
    """What is left to be sent; None: not executed yet."""
    tag: str = ""


@dataclass
class TinyServer:
    """``books``: what was committed, in its order; may be shared by several servers."""

    books: list[bytes] = field(default_factory=list)
    greeting: bytes = b""
    closing: bool = False
    status: str = "I"

    def __post_init__(self) -> None:
        self._buffer = b""
        self._started = False
        self._skipping = False
        self._copying = ""
        self._pending: list[bytes] = []
        self.statements: dict[bytes, bytes] = {}
        self._portals: dict[bytes, Portal] = {}
        self._does: dict[str, Callable[[bytes], Iterator[bytes]]] = {
            "P": self._parse,
            "B": self._bind,
            "D": self._describe,
            "E": self._execute,
            "C": self._close,
        }

    def receive(self, data: bytes) -> bytes:
        """What it answers to these bytes of a client."""
        self._buffer += data
        out = []
        while (frame := self._next()) and not self.closing:
            if not self._started:
                self._started = True
                out.append(self.greeting)
            else:
                out.append(self._message(chr(frame[0]), frame[5:]))
        return b"".join(out)

    def _next(self) -> bytes:
        """The next whole message; the start-up packet has no type."""
        at = 1 if self._started else 0
        if len(self._buffer) < at + 4:
            return b""
        size = at + int(struct.unpack_from("!I", self._buffer, at)[0])
        if len(self._buffer) < size:
            return b""
        frame, self._buffer = self._buffer[:size], self._buffer[size:]
        return frame

    def _message(self, kind: str, body: bytes) -> bytes:
        if self._copying:
            return self._copied(kind)
        if kind == "X":
            self.closing = True
        if kind == "S":
            return self._sync()
        if kind == "Q":
            out = self._query(body[:-1])
            return out if self._copying else out + self._ready()
        if kind == "F":
            return m.message(b"V", b"\xff\xff\xff\xff") + self._ready()
        if self._skipping or kind not in self._does:
            return b""
        return self._extended(kind, body)

    def _extended(self, kind: str, body: bytes) -> bytes:
        out: list[bytes] = []
        try:
            out.extend(self._does[kind](body))
        except Refused as refused:
            self._skipping = True
            return self._failed(out, refused)
        return b"".join(out)

    def _failed(self, out: list[bytes], refused: Refused) -> bytes:
        self._pending.clear()
        self._portals.clear()
        if self.status != "I":
            self.status = "E"
        return b"".join([*out, refused.raw])

    def _sync(self) -> bytes:
        self._skipping = False
        return self._ready()

    def _ready(self) -> bytes:
        if self.status == "I":
            self.books += self._pending
            self._pending.clear()
            self._portals.clear()
        return m.ready(self.status)

    # Simple

    def _query(self, sql: bytes) -> bytes:
        self.statements.pop(b"", None)
        texts = [text for text in _bare(sql).split(b";") if text.strip()]
        out: list[bytes] = [] if texts else [m.EMPTY_QUERY]
        try:
            for text in texts:
                _analyse(text)
            for text in texts:
                portal = Portal(text.strip(), [], ())
                out.append(_description(portal))
                out += self._run(portal, "simple")
                if not self._copying:
                    out += [*(portal.rows or ()), m.complete(portal.tag)]
        except Refused as refused:
            return self._failed(out, refused)
        return b"".join(out)

    # Extended

    def _parse(self, body: bytes) -> Iterator[bytes]:
        name, sql, _types = body.split(b"\0", 2)
        if name and name in self.statements:
            raise Refused("42P05", "prepared statement already exists")
        self.statements.pop(name, None)
        _analyse(_bare(sql))
        self.statements[name] = _bare(sql)
        yield m.PARSE_COMPLETE

    def _bind(self, body: bytes) -> Iterator[bytes]:
        name, statement, rest = body.split(b"\0", 2)
        sql = self._statement(statement)
        at = 2 + 2 * int(struct.unpack_from("!H", rest)[0])
        (count,) = struct.unpack_from("!H", rest, at)
        at += 2
        parameters = []
        for _ in range(count):
            (size,) = struct.unpack_from("!i", rest, at)
            at += 4 + max(size, 0)
            parameters.append(rest[at - size : at] if size >= 0 else b"NULL")
        if count != len(set(_PARAMETER.findall(sql))):
            raise Refused("08P01", f"bind message supplies {count} parameters")
        codes = struct.unpack_from(f"!{(len(rest) - at - 2) // 2}H", rest, at + 2)
        self._portals[name] = Portal(sql, parameters, codes)
        yield m.BIND_COMPLETE

    def _statement(self, name: bytes) -> bytes:
        if name not in self.statements:
            raise Refused("26000", "prepared statement does not exist")
        return self.statements[name]

    def _portal(self, name: bytes) -> Portal:
        if name not in self._portals:
            raise Refused("34000", "portal does not exist")
        return self._portals[name]

    def _describe(self, body: bytes) -> Iterator[bytes]:
        name = body[1:-1]
        if body[:1] == b"P":
            yield _description(self._portal(name)) or m.NO_DATA
            return
        sql = self._statement(name)
        parameters = [b""] * len(set(_PARAMETER.findall(sql)))
        yield m.parameter_description(*[25 for _ in parameters])
        yield _description(Portal(sql, parameters, ())) or m.NO_DATA

    def _execute(self, body: bytes) -> Iterator[bytes]:
        name, limit = body[:-5], struct.unpack("!I", body[-4:])[0]
        portal = self._portal(name)
        if portal.rows is None:
            yield from self._run(portal, "extended")
            if self._copying:
                return
        rows = portal.rows or []
        now = rows[:limit] if limit else rows
        portal.rows = rows[len(now) :]
        yield from now
        yield m.SUSPENDED if portal.rows or (limit and len(now) == limit) else m.complete(portal.tag)

    def _close(self, body: bytes) -> Iterator[bytes]:
        (self.statements if body[:1] == b"S" else self._portals).pop(body[1:-1], None)
        yield m.CLOSE_COMPLETE

    # Both

    def _run(self, portal: Portal, how: str) -> list[bytes]:
        """Execute: messages that come first; rows and tag are left in the portal."""
        sql = _filled(portal.sql, portal.parameters)
        word = (sql.lower().split() or [b""])[0].decode()
        if self.status == "E" and word not in ("commit", "rollback"):
            raise Refused("25P02", "current transaction is aborted")
        if b"bad" in sql:
            raise Refused("23505", sql.decode())
        first = [m.notice(sql.decode())] if b"note" in sql else []
        portal.rows, portal.tag = [], word.upper()
        if word == "insert":
            self._pending.append(sql)
            portal.tag = "INSERT 0 1"
        if b"many" in sql:
            portal.rows = [m.data_row(str(number), *portal.parameters) for number in range(3)]
        elif _columns(portal.sql, portal.parameters):
            portal.rows = [m.data_row(sql, *(portal.parameters if word == "select" else ()))]
        return first + self._special(word, sql, how)

    def _special(self, word: str, sql: bytes, how: str) -> list[bytes]:
        """The statements that change the session."""
        words = sql.lower().split()
        if word == "begin":
            self.status = "T"
        elif word in ("commit", "rollback"):
            if word == "rollback" or self.status == "E":
                self._pending.clear()
            self.status = "I"
        elif word == "set" and words[1] == b"timezone":
            return [m.parameter_status("TimeZone", words[-1].decode())]
        elif word == "deallocate" and words[1] != b"all":
            self.statements.pop(words[1], None)
        elif word in ("deallocate", "discard"):
            self.statements.clear()
        elif word == "copy" and words[2] == b"from":
            self._copying = how
            return [m.copy_response(b"G")]
        elif word == "copy":
            return [m.copy_response(b"H"), m.copy_data(b"1\n"), m.copy_data(b"2\n"), m.COPY_DONE]
        return []

    def _copied(self, kind: str) -> bytes:
        """A message during COPY FROM; Flush and Sync are ignored (manual, "COPY Operations")."""
        if kind in "dHS":
            return b""
        how, self._copying = self._copying, ""
        out = m.complete("COPY 1") if kind == "c" else self._failed([], Refused("57014", "COPY failed"))
        self._skipping = how == "extended" and kind != "c"
        return out if how == "extended" else out + self._ready()


def _bare(sql: bytes) -> bytes:
    return _COMMENT.sub(b"", sql).strip()


def _analyse(sql: bytes) -> None:
    if b"oops" in sql:
        raise Refused("42601", "syntax error at or near oops")


def _filled(sql: bytes, parameters: list[bytes]) -> bytes:
    """The text with its parameters in their places, and without quotes: the same however it was sent."""
    if len(set(_PARAMETER.findall(sql))) > len(parameters):
        raise Refused("42P02", "there is no parameter")
    return _PARAMETER.sub(lambda match: parameters[int(match[1]) - 1], sql).replace(b"'", b"")


def _columns(sql: bytes, parameters: list[bytes]) -> list[str]:
    """A write returns one column however many of its constants became parameters."""
    lower = sql.lower()
    if lower.startswith(b"select"):
        return ["text", *(f"p{number}" for number in range(len(parameters)))]
    return ["text"] if b"returning" in lower else []


def _description(portal: Portal) -> bytes:
    columns = _columns(portal.sql, portal.parameters)
    codes = portal.formats
    formats = codes if len(codes) == len(columns) else (codes or (0,)) * len(columns)
    return m.row_description(*columns, formats=formats) if columns else b""

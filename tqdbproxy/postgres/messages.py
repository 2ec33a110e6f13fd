"""Frames <-> records, named as in the PostgreSQL manual ("Message Formats").

The law of this module: what a message says, never what it is for. Hot paths walk frames instead (`framing`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tqdbproxy.postgres.framing import HEADER_SIZE, FramingError, frame, length_at, text_at

PROTOCOL_3_0 = 0x00030000
SSL_REQUEST = 80877103
GSSENC_REQUEST = 80877104
CANCEL_REQUEST = 80877102
MAX_STARTUP_LENGTH = 10000
"""PostgreSQL's ``MAX_STARTUP_PACKET_LENGTH``."""

SSL_REQUEST_PACKET = struct.pack("!II", 8, SSL_REQUEST)

# Types of the messages that clients send.
BIND, CLOSE, COPY_DATA, COPY_DONE, COPY_FAIL, DESCRIBE, EXECUTE, FLUSH = b"BCdcfDEH"
FUNCTION_CALL, PARSE, PASSWORD, QUERY, SYNC, TERMINATE = b"FPpQSX"

# Types of the messages that servers send.
AUTHENTICATION = b"R"[0]
BACKEND_KEY_DATA = b"K"[0]
BIND_COMPLETE = b"2"[0]
CLOSE_COMPLETE = b"3"[0]
COMMAND_COMPLETE = b"C"[0]
COPY_BOTH_RESPONSE = b"W"[0]
COPY_IN_RESPONSE = b"G"[0]
DATA_ROW = b"D"[0]
EMPTY_QUERY_RESPONSE = b"I"[0]
ERROR_RESPONSE = b"E"[0]
NO_DATA = b"n"[0]
NOTICE_RESPONSE = b"N"[0]
NOTIFICATION_RESPONSE = b"A"[0]
PARAMETER_DESCRIPTION = b"t"[0]
PARAMETER_STATUS = b"S"[0]
PARSE_COMPLETE = b"1"[0]
PORTAL_SUSPENDED = b"s"[0]
READY_FOR_QUERY = b"Z"[0]
ROW_DESCRIPTION = b"T"[0]

# Transaction status in ReadyForQuery.
IDLE, IN_TRANSACTION, FAILED_TRANSACTION = b"ITE"

PARSE_COMPLETE_FRAME = frame(b"1")
BIND_COMPLETE_FRAME = frame(b"2")
CLOSE_COMPLETE_FRAME = frame(b"3")
NO_DATA_FRAME = frame(b"n")
READY_IDLE_FRAME = frame(b"Z", b"I")
SYNC_FRAME = frame(b"S")
TERMINATE_FRAME = frame(b"X")
EXECUTE_ALL_FRAME = frame(b"E", b"\0" + bytes(4))
"""Execute of the unnamed portal, without a row limit."""
DESCRIBE_PORTAL_FRAME = frame(b"D", b"P\0")

TEXT_OID = 25


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """How a session begins: ``version`` as one number, ``options`` in the order of the packet, ``raw`` the packet."""

    version: int
    options: tuple[tuple[bytes, bytes], ...]
    raw: bytes

    def option(self, name: bytes, default: bytes = b"") -> bytes:
        """The last value that the packet gives for ``name``."""
        return dict(self.options).get(name, default)

    @classmethod
    def parse(cls, raw: bytes) -> StartupMessage:
        """Read a whole packet, length included. Raises `FramingError`."""
        version: int = struct.unpack_from("!I", raw, 4)[0]
        texts = raw[8:].split(b"\0")
        # name\0value\0 ... \0: the last two pieces are empty.
        if len(texts) < 2 or texts[-1] or texts[-2] or len(texts) % 2:
            raise FramingError("invalid startup packet layout: expected terminator as last byte")
        pairs = texts[:-2]
        return cls(version, tuple(zip(pairs[::2], pairs[1::2], strict=True)), raw)


@dataclass(frozen=True, slots=True)
class Parse:
    """A prepared statement's text; ``types`` is the raw tail: a count and the OIDs of the declared parameters."""

    name: bytes
    text: bytes
    types: bytes = b"\0\0"

    @classmethod
    def parse(cls, data: bytes, position: int, end: int) -> Parse:
        """Read the frame at ``position``. Raises `FramingError`."""
        name, at = text_at(data, position + HEADER_SIZE, end)
        text, at = text_at(data, at, end)
        return cls(name, text, data[at:end])

    def encode(self) -> bytes:
        """The frame."""
        return frame(b"P", b"%b\0%b\0%b" % (self.name, self.text, self.types))


@dataclass(frozen=True, slots=True)
class Bind:
    """A portal's parameters; ``tail`` is the raw rest: parameter formats, parameters, result formats."""

    portal: bytes
    statement: bytes
    tail: bytes

    @classmethod
    def parse(cls, data: bytes, position: int, end: int) -> Bind:
        """Read the frame at ``position``. Raises `FramingError`."""
        portal, at = text_at(data, position + HEADER_SIZE, end)
        statement, at = text_at(data, at, end)
        return cls(portal, statement, data[at:end])

    def encode(self) -> bytes:
        """The frame."""
        return frame(b"B", b"%b\0%b\0%b" % (self.portal, self.statement, self.tail))


def error_response(severity: str, sqlstate: str, message: str, *, detail: str = "", hint: str = "") -> bytes:
    """An ErrorResponse with the fields that PostgreSQL always sends (manual, "Error and Notice Message Fields")."""
    return frame(b"E", _fields(severity, sqlstate, message, detail, hint))


def notice_response(severity: str, sqlstate: str, message: str) -> bytes:
    """A NoticeResponse, which has the fields of an ErrorResponse."""
    return frame(b"N", _fields(severity, sqlstate, message))


def _fields(severity: str, sqlstate: str, message: str, detail: str = "", hint: str = "") -> bytes:
    fields = [("S", severity), ("V", severity), ("C", sqlstate), ("M", message), ("D", detail), ("H", hint)]
    return b"".join(f"{kind}{text}\0".encode() for kind, text in fields if text) + b"\0"


def error_fields(data: bytes, position: int, end: int) -> dict[str, str]:
    """The fields of an ErrorResponse or NoticeResponse by their type letter."""
    pieces = data[position + HEADER_SIZE : end].split(b"\0")
    return {piece[:1].decode("ascii", "replace"): piece[1:].decode("utf-8", "replace") for piece in pieces if piece}


def parameter_status(data: bytes, position: int) -> tuple[bytes, bytes]:
    """Name and value of the ParameterStatus at ``position``."""
    name, at = text_at(data, position + HEADER_SIZE)
    return name, text_at(data, at)[0]


def row_description(columns: tuple[str, ...], formats: tuple[int, ...]) -> bytes:
    """A RowDescription of text columns that belong to no table; ``formats`` has one entry per column."""
    body = [struct.pack("!H", len(columns))]
    for name, result_format in zip(columns, formats, strict=True):
        body.append(name.encode() + b"\0" + struct.pack("!IHIhiH", 0, 0, TEXT_OID, -1, -1, result_format))
    return frame(b"T", b"".join(body))


def data_row(values: tuple[str, ...]) -> bytes:
    """A DataRow; the text and the binary format of a text value are the same bytes."""
    encoded = [value.encode() for value in values]
    body = b"".join(struct.pack("!I", len(value)) + value for value in encoded)
    return frame(b"D", struct.pack("!H", len(values)) + body)


def command_complete(tag: str) -> bytes:
    """A CommandComplete with ``tag``."""
    return frame(b"C", tag.encode() + b"\0")


def ready_for_query(status: int) -> bytes:
    """A ReadyForQuery with the transaction status as a byte's number."""
    return frame(b"Z", bytes((status,)))


def close_statement(name: bytes) -> bytes:
    """A Close of the prepared statement ``name``."""
    return frame(b"C", b"S%b\0" % name)


def result_formats(bind_tail: bytes) -> bytes:
    """The raw result formats at the end of a Bind's tail: a count and the codes. Raises `FramingError`."""
    try:
        at = 2 + 2 * struct.unpack_from("!H", bind_tail, 0)[0]
        (count,) = struct.unpack_from("!H", bind_tail, at)
        at += 2
        for _ in range(count):
            size = length_at(bind_tail, at)[0]
            at += 4 + (0 if size == 0xFFFFFFFF else size)
        (codes,) = struct.unpack_from("!H", bind_tail, at)
    except struct.error:
        raise FramingError("a Bind message that ends too early") from None
    tail = bind_tail[at:]
    if len(tail) != 2 + 2 * codes:
        raise FramingError("a Bind message with more bytes than it announces")
    return tail

"""Messages as bytes, the way a client and a server write them (PostgreSQL manual, "Message Formats").

Written from the manual and not with the package's own encoders, so that a wrong encoder can't agree with itself.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def text(value: str | bytes) -> bytes:
    return (value.encode() if isinstance(value, str) else value) + b"\0"


def lying(kind: bytes, length: int, body: bytes = b"") -> bytes:
    """A header that announces ``length``, whatever follows."""
    return kind + struct.pack("!I", length & 0xFFFFFFFF) + body


# What clients send.


def startup(protocol: int = 0x00030000, /, **options: str) -> bytes:
    body = struct.pack("!I", protocol) + b"".join(text(k) + text(v) for k, v in options.items()) + b"\0"
    return struct.pack("!I", len(body) + 4) + body


def request(code: int, body: bytes = b"") -> bytes:
    return struct.pack("!II", 8 + len(body), code) + body


SSL_REQUEST = request(80877103)
GSSENC_REQUEST = request(80877104)


def cancel_request(key: bytes) -> bytes:
    return request(80877102, key)


def query(sql: str | bytes) -> bytes:
    return message(b"Q", text(sql))


def parse(sql: str | bytes, name: str = "", types: Sequence[int] = ()) -> bytes:
    return message(b"P", text(name) + text(sql) + struct.pack(f"!H{len(types)}I", len(types), *types))


def bind(
    *parameters: bytes | None,
    statement: str = "",
    portal: str = "",
    formats: Sequence[int] = (),
    results: Sequence[int] = (),
) -> bytes:
    body = text(portal) + text(statement) + struct.pack(f"!H{len(formats)}H", len(formats), *formats)
    body += struct.pack("!H", len(parameters))
    for parameter in parameters:
        body += struct.pack("!i", -1) if parameter is None else struct.pack("!i", len(parameter)) + parameter
    return message(b"B", body + struct.pack(f"!H{len(results)}H", len(results), *results))


def describe_portal(name: str = "") -> bytes:
    return message(b"D", b"P" + text(name))


def describe_statement(name: str = "") -> bytes:
    return message(b"D", b"S" + text(name))


def execute(portal: str = "", limit: int = 0) -> bytes:
    return message(b"E", text(portal) + struct.pack("!I", limit))


def close_portal(name: str = "") -> bytes:
    return message(b"C", b"P" + text(name))


def close_statement(name: str = "") -> bytes:
    return message(b"C", b"S" + text(name))


def copy_data(data: bytes) -> bytes:
    return message(b"d", data)


def copy_fail(why: str) -> bytes:
    return message(b"f", text(why))


def function_call(oid: int, *arguments: bytes) -> bytes:
    given = b"".join(struct.pack("!I", len(argument)) + argument for argument in arguments)
    return message(b"F", struct.pack("!IHH", oid, 0, len(arguments)) + given + struct.pack("!H", 0))


def password(value: str | bytes) -> bytes:
    return message(b"p", text(value))


def sasl_initial(mechanism: str, data: bytes) -> bytes:
    return message(b"p", text(mechanism) + struct.pack("!i", len(data)) + data)


SYNC = message(b"S")
FLUSH = message(b"H")
TERMINATE = message(b"X")
COPY_DONE = message(b"c")


def unit(sql: str | bytes, *parameters: bytes | None, describe: bool = False, results: Sequence[int] = ()) -> bytes:
    """Parse, Bind, [Describe,] Execute, Sync of the unnamed statement."""
    parts = [parse(sql), bind(*parameters, results=results)]
    return b"".join([*parts, *([describe_portal()] if describe else []), execute(), SYNC])


# What servers send.


def authentication(code: int, data: bytes = b"") -> bytes:
    return message(b"R", struct.pack("!I", code) + data)


def sasl_offer(*mechanisms: str) -> bytes:
    return authentication(10, b"".join(map(text, mechanisms)) + b"\0")


def parameter_status(name: str, value: str) -> bytes:
    return message(b"S", text(name) + text(value))


def backend_key(key: bytes) -> bytes:
    return message(b"K", key)


def ready(status: str = "I") -> bytes:
    return message(b"Z", status.encode())


def row_description(*names: str, formats: Sequence[int] = ()) -> bytes:
    body = struct.pack("!H", len(names))
    for name, code in zip(names, formats or [0] * len(names), strict=True):
        body += text(name) + struct.pack("!IHIhiH", 0, 0, 25, -1, -1, code)
    return message(b"T", body)


def parameter_description(*oids: int) -> bytes:
    return message(b"t", struct.pack(f"!H{len(oids)}I", len(oids), *oids))


def data_row(*values: str | bytes | None) -> bytes:
    raw = [value.encode() if isinstance(value, str) else value for value in values]
    columns = [b"\xff\xff\xff\xff" if value is None else struct.pack("!i", len(value)) + value for value in raw]
    return message(b"D", struct.pack("!H", len(raw)) + b"".join(columns))


def complete(tag: str) -> bytes:
    return message(b"C", text(tag))


def fields(severity: str, code: str, words: str, **more: str) -> bytes:
    named = {"S": severity, "V": severity, "C": code, "M": words, **more}
    return b"".join(kind.encode() + text(value) for kind, value in named.items()) + b"\0"


def error(code: str, words: str = "no", severity: str = "ERROR", **more: str) -> bytes:
    return message(b"E", fields(severity, code, words, **more))


def notice(words: str) -> bytes:
    return message(b"N", fields("NOTICE", "00000", words))


def notification(channel: str, payload: str = "") -> bytes:
    return message(b"A", struct.pack("!I", 4711) + text(channel) + text(payload))


def copy_response(kind: bytes) -> bytes:
    """G: in, H: out, W: both."""
    return message(kind, b"\0\0\1\0\0")


PARSE_COMPLETE = message(b"1")
BIND_COMPLETE = message(b"2")
CLOSE_COMPLETE = message(b"3")
NO_DATA = message(b"n")
EMPTY_QUERY = message(b"I")
SUSPENDED = message(b"s")


# Bytes back into messages, for assertions that can be read.


def split(data: bytes) -> list[bytes]:
    """The messages in ``data``; what is left over is the last entry."""
    found = []
    while data:
        end = 1 + struct.unpack_from("!I", data, 1)[0] if len(data) >= 5 else len(data)
        found.append(data[:end])
        data = data[end:]
    return found


def kinds(data: bytes) -> str:
    """The types of the messages in ``data``: a whole exchange in one word."""
    return "".join(chr(raw[0]) for raw in split(data))


def error_of(data: bytes) -> dict[str, str]:
    """The fields of the one ErrorResponse in ``data``, by letter."""
    (raw,) = (raw for raw in split(data) if raw[:1] == b"E")
    return {piece[:1].decode(): piece[1:].decode() for piece in raw[5:].split(b"\0") if piece}


def chunks(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """``data`` in pieces of these sizes, over and over; no sizes: in one."""
    found = []
    turn = 0
    while data:
        size = sizes[turn % len(sizes)] if sizes else len(data)
        found.append(data[:size])
        data = data[size:]
        turn += 1
    return found

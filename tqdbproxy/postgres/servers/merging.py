"""A prepared batch of single-row INSERTs as a few many-row INSERTs, where nobody can notice.

The rows are cut into pieces of fixed sizes, so that each piece's statement is parsed once per connection, or are one
piece, if batches of this size come often (`Statements.grants`). A piece's Bind is put together from the members' raw
parameter bytes. Behind them runs a guard (`guards.MERGING`). The law of this module: no I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tqdbproxy.postgres.framing import HEADER, FramingError, length_at
from tqdbproxy.postgres.unit import Unit

MAX_PARAMETERS = 65535
"""A Bind's parameter count has two bytes."""

LARGEST_PIECE = 256
NULL = 0xFFFFFFFF


def pieces(members: int, parameters: int) -> list[int]:
    """Sizes whose sum is ``members``: powers of two, the largest first, none with too many parameters."""
    size = min(LARGEST_PIECE, 1 << (MAX_PARAMETERS // max(1, parameters)).bit_length() - 1)
    sizes: list[int] = []
    while members:
        while size > members:
            size >>= 1
        sizes.append(size)
        members -= size
    return sizes


def largest(parameters: int) -> int:
    """How many members one piece can have."""
    return min(LARGEST_PIECE, MAX_PARAMETERS // max(1, parameters))


def piece_types(types: bytes, parameters: int, rows: int) -> bytes:
    """The declared parameter types of a piece: those of one row again and again; 0 where nothing was declared."""
    (count,) = struct.unpack_from("!H", types)
    row = types[2 : 2 + 4 * min(count, parameters)].ljust(4 * parameters, b"\0")
    if not any(row):
        return b"\0\0"
    return struct.pack("!H", parameters * rows) + row * rows


def rows_of(units: Sequence[Unit], parameters: int) -> tuple[bytes, list[bytes]] | None:
    """The members' parameter formats, and the parameters of each, all raw; None if they don't fit together.

    The lengths inside are checked, so that nobody's parameters can reach into another's row.
    """
    first = parameters_of(units[0].tail, parameters)
    if first is None:
        return None
    formats = first[0]
    begin = len(formats) + 2
    head = units[0].tail[:begin]
    rows: list[bytes] = []
    each = range(parameters)
    for unit in units:
        tail = unit.tail
        if not tail.startswith(head):
            return None
        at = begin
        for _ in each:
            (size,) = length_at(tail, at)
            at += 4 if size == NULL else 4 + size
        if at + 2 > len(tail):
            return None
        rows.append(tail[begin:at])
    return formats, rows


def parameters_of(tail: bytes, expected: int) -> tuple[bytes, bytes] | None:
    """A Bind's parameter formats and its parameters, both raw; None if there are not as many as expected.

    The formats are made independent of the number of parameters: one code, or none, for all.
    """
    (codes,) = struct.unpack_from("!H", tail)
    at = 2 + 2 * codes
    formats = tail[:at]
    if struct.unpack_from("!H", tail, at)[0] != expected:
        return None
    begin = at = at + 2
    for _ in range(expected):
        size: int = length_at(tail, at)[0]
        at += 4 if size == NULL else 4 + size
    if at + 2 > len(tail):
        raise FramingError("a Bind message that ends too early")
    return formats, tail[begin:at]


def binds(units: Sequence[Unit], parameters: int, names: Sequence[bytes], sizes: Sequence[int]) -> list[bytes] | None:
    """One Bind frame for each piece; None if the members' parameters don't fit together."""
    try:
        found = rows_of(units, parameters)
    except (FramingError, struct.error):
        return None
    if found is None:
        return None
    formats, rows = found
    frames: list[bytes] = []
    done = 0
    for name, size in zip(names, sizes, strict=True):
        body = b"".join(rows[done : done + size])
        head = b"\0%b\0%b%b" % (name, _formats(formats, size), struct.pack("!H", size * parameters))
        frames.append(HEADER.pack(b"B", len(head) + len(body) + 6) + head + body + b"\0\0")
        done += size
    return frames


def _formats(formats: bytes, rows: int) -> bytes:
    """Parameter formats for so many rows: a code for each parameter is repeated, none or one holds for all."""
    (codes,) = struct.unpack_from("!H", formats)
    if codes < 2:
        return formats
    return struct.pack("!H", codes * rows) + formats[2:] * rows

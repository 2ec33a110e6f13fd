"""Bytes <-> frames of the PostgreSQL protocol: knows lengths, not meanings.

A frame is one message: a type byte, a four-byte length that counts itself, a body (manual, "Message Formats"). The law
of this module: nothing is copied that needn't be, nothing is waited for that the caller didn't ask for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tqdbproxy.errors import ProtocolViolation

HEADER = struct.Struct("!cI")
length_at = struct.Struct("!I").unpack_from
"""``length_at(data, position of the length)[0]``: the length of a frame without its type byte."""

HEADER_SIZE = 5
MIN_LENGTH = 4
MAX_LENGTH = 0x3FFFFFFF
"""PostgreSQL's own limit for a message (``PQ_LARGE_MESSAGE_LIMIT``): one byte less than 1 GiB."""


class FramingError(ProtocolViolation):
    """The bytes can't be messages of the protocol; the text says what is wrong with them."""


def frame(kind: bytes, body: bytes = b"") -> bytes:
    """One message of type ``kind`` (one byte)."""
    return HEADER.pack(kind, len(body) + 4) + body


def end_of_frame(data: bytes, position: int) -> int:
    """Where the frame that begins at ``position`` ends; its header must be in ``data``, its body needn't be.

    Raises `FramingError` for a length that no message can have.
    """
    length: int = length_at(data, position + 1)[0]
    if not MIN_LENGTH <= length <= MAX_LENGTH:
        raise FramingError(f"invalid message length {length} (type {data[position : position + 1]!r})")
    return position + 1 + length


def frames(data: bytes, position: int = 0) -> Iterator[tuple[int, int, int]]:
    """The whole frames in ``data`` from ``position`` on: type byte as a number, begin and end of the frame.

    Stops before a frame that isn't complete. Raises `FramingError`.
    """
    size = len(data)
    while position + HEADER_SIZE <= size:
        end = end_of_frame(data, position)
        if end > size:
            return
        yield data[position], position, end
        position = end


def text_at(data: bytes, position: int, limit: int | None = None) -> tuple[bytes, int]:
    """The zero-terminated text at ``position`` and the position after it. Raises `FramingError`.

    :param limit: the end of its frame, if ``data`` goes on after it.
    """
    end = data.find(0, position, limit)
    if end < 0:
        raise FramingError("a text without its terminating zero")
    return data[position:end], end + 1

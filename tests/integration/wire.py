"""PostgreSQL's protocol by hand, for what no driver says.

The builders are named after the messages of the manual. The law of this module: bytes as they are, nothing is checked,
so that a test can say what is forbidden.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.proxies import HOST

PROTOCOL_3_0 = 0x00030000
PROTOCOL_3_2 = 0x00030002
TIMEOUT_S = 60.0


class Frame(NamedTuple):
    """A message of the server: its type and its body."""

    kind: str
    body: bytes

    def fields(self) -> dict[str, str]:
        """Of an ErrorResponse or NoticeResponse: by type letter."""
        return {piece[:1].decode(): piece[1:].decode() for piece in self.body.split(b"\0") if piece}


def frame(kind: str, body: bytes = b"") -> bytes:
    """One message of a client."""
    return kind.encode() + struct.pack("!I", len(body) + 4) + body


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def query(text: str) -> bytes:
    return frame("Q", _text(text))


def parse(text: str, name: str = "", types: Sequence[int] = ()) -> bytes:
    return frame("P", _text(name) + _text(text) + struct.pack(f"!H{len(types)}I", len(types), *types))


def bind(
    *values: str | bytes | None,
    name: str = "",
    portal: str = "",
    formats: Sequence[int] = (),
    results: Sequence[int] = (),
) -> bytes:
    """Parameters as text or raw bytes; ``formats`` of theirs and of the ``results``: 0 text, 1 binary."""
    body = _text(portal) + _text(name) + struct.pack(f"!H{len(formats)}H", len(formats), *formats)
    body += struct.pack("!H", len(values))
    for value in values:
        raw = value.encode() if isinstance(value, str) else value
        body += struct.pack("!i", -1) if raw is None else struct.pack("!I", len(raw)) + raw
    return frame("B", body + struct.pack(f"!H{len(results)}H", len(results), *results))


def describe(name: str = "", what: str = "P") -> bytes:
    return frame("D", what.encode() + _text(name))


def execute(portal: str = "", limit: int = 0) -> bytes:
    return frame("E", _text(portal) + struct.pack("!I", limit))


def close(name: str = "", what: str = "S") -> bytes:
    return frame("C", what.encode() + _text(name))


def function_call(oid: int, *arguments: str) -> bytes:
    """Arguments and result as text."""
    body = struct.pack("!IHH", oid, 0, len(arguments))
    for argument in arguments:
        body += struct.pack("!I", len(argument)) + argument.encode()
    return frame("F", body + struct.pack("!H", 0))


def copy_data(data: bytes) -> bytes:
    return frame("d", data)


def copy_fail(why: str) -> bytes:
    return frame("f", _text(why))


SYNC = frame("S")
FLUSH = frame("H")
COPY_DONE = frame("c")
TERMINATE = frame("X")


def request(code: int, body: bytes = b"") -> bytes:
    """A packet without a type, as they begin a connection."""
    return struct.pack("!II", 8 + len(body), code) + body


SSL_REQUEST = request(80877103)
GSSENC_REQUEST = request(80877104)


def cancel_request(key: bytes) -> bytes:
    """``key``: the body of a BackendKeyData."""
    return request(80877102, key)


def startup(database: str, user: str = "postgres", version: int = PROTOCOL_3_0, **options: str) -> bytes:
    named = {"user": user, "database": database, **options}
    return request(version, b"".join(_text(name) + _text(value) for name, value in named.items()) + b"\0")


class Wire:
    """One connection."""

    def __init__(self, port: int, *, path: Path | None = None, receive_buffer: int = 0) -> None:
        """``path``: of a Unix socket, instead of the port. ``receive_buffer``: bytes that the kernel takes unread."""
        self.socket = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(TIMEOUT_S)
        try:
            self.socket.connect(str(path) if path else (HOST, port))
        except OSError:
            self.socket.close()
            raise
        self._unread = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *messages: bytes) -> None:
        self.socket.sendall(b"".join(messages))

    def dribble(self, data: bytes) -> None:
        """One byte a packet."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(data)):
            self.socket.sendall(data[at : at + 1])
            time.sleep(0)

    def raw(self, size: int) -> bytes:
        """So many bytes; fewer at the end of the stream."""
        while len(self._unread) < size:
            data = self.socket.recv(65536)
            if not data:
                size = len(self._unread)
            self._unread += data
        taken, self._unread = self._unread[:size], self._unread[size:]
        return taken

    def receive(self) -> Frame:
        """The next message. Raises `EOFError` at the end of the stream."""
        head = self.raw(5)
        if len(head) < 5:
            raise EOFError(head)
        (length,) = struct.unpack("!I", head[1:])
        return Frame(chr(head[0]), self.raw(length - 4))

    def until(self, kind: str = "Z", count: int = 1) -> list[Frame]:
        """All messages up to the ``count``-th one of type ``kind``."""
        frames: list[Frame] = []
        while count:
            frames.append(self.receive())
            count -= frames[-1].kind == kind
        return frames

    def to_end(self) -> list[Frame]:
        """All messages until the other end closes; a reset is an end, too."""
        frames: list[Frame] = []
        try:
            while True:
                frames.append(self.receive())
        except (EOFError, ConnectionResetError):
            return frames

    def ask(self, *messages: bytes) -> list[Frame]:
        """Send; all messages up to the next ReadyForQuery."""
        self.send(*messages)
        return self.until()

    def start(self, database: str, user: str = "postgres", **options: str) -> Wire:
        """Begin a session without a password; returns itself."""
        frames = self.ask(startup(database, user, PROTOCOL_3_0, **options))
        self.key = next((frame.body for frame in frames if frame.kind == "K"), b"")
        return self

    @property
    def backend_pid(self) -> int:
        pid: int = struct.unpack("!I", self.key[:4])[0]
        return pid


def kinds(frames: Sequence[Frame]) -> str:
    """The types of these messages as one text."""
    return "".join(frame.kind for frame in frames)


def values(frames: Sequence[Frame]) -> list[bytes]:
    """The first column of each DataRow."""
    return [f.body[6 : 6 + struct.unpack("!I", f.body[2:6])[0]] for f in frames if f.kind == "D"]

"""A client's connection on asyncio, as quick as Python allows: bytes out, one `Reply` back.

The law of this module: it tells what came, also what nobody asked for, and judges nothing.
"""

from __future__ import annotations

import asyncio
import struct
import time
from dataclasses import dataclass, field
from typing import cast

from tests.books.ledger import Row
from tests.books.phrasing import Prepared
from tests.integration import wire
from tests.proxies import HOST

HEAD = struct.Struct("!cI")
LOGIN_TIMEOUT_S = 20.0


@dataclass(slots=True)
class Reply:
    """All up to a ReadyForQuery; ``lost``: the connection ended before one, ``silent``: there was none in time."""

    tags: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    errors: list[dict[str, str]] = field(default_factory=list)
    notices: list[dict[str, str]] = field(default_factory=list)
    status: str = ""
    lost: bool = False
    silent: bool = False


class Conversation(asyncio.Protocol):
    """One connection. ``stray``: replies that nobody had asked for."""

    def __init__(self) -> None:
        self.transport = cast(asyncio.Transport, None)
        self.lost = False
        self.stray = 0
        self.key = b""
        self.asked_at = 0.0
        self.prepared: Prepared = {}
        self.ended = asyncio.get_running_loop().create_future()
        self._unread = b""
        self._reply = Reply()
        self._waiting: asyncio.Future[Reply] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self.lost = self._reply.lost = True
        if not self.ended.done():
            self.ended.set_result(None)
        self._answer()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        unread = self._unread + data if self._unread else data
        at = 0
        while len(unread) - at >= HEAD.size:
            kind, size = HEAD.unpack_from(unread, at)
            end = at + 1 + size
            if end > len(unread):
                break
            self._take(kind, unread[at + HEAD.size : end])
            at = end
        self._unread = unread[at:]

    def _take(self, kind: bytes, body: bytes) -> None:
        reply = self._reply
        if kind == b"Z":
            reply.status = body.decode()
            self._answer()
        elif kind == b"C":
            reply.tags.append(body[:-1].decode())
        elif kind == b"D":
            reply.rows.append(_row(body))
        elif kind == b"E":
            reply.errors.append(wire.Frame("E", body).fields())
        elif kind == b"N":
            reply.notices.append(wire.Frame("N", body).fields())
        elif kind == b"K":
            self.key = body

    def _answer(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(self._reply)
        elif not self.lost:
            self.stray += 1

    def send(self, raw: bytes) -> None:
        """Say something and wait for nothing."""
        self.transport.write(raw)

    def ask(self, raw: bytes) -> asyncio.Future[Reply]:
        """Say something; what was answered."""
        self._waiting = asyncio.get_running_loop().create_future()
        asked = self._waiting
        self._reply = Reply()
        self.asked_at = time.monotonic()
        if self.lost:
            self._reply.lost = True
            self._answer()
        else:
            self.transport.write(raw)
        return asked

    def give_up(self, before: float) -> None:
        """Whoever waits for an answer since ``before`` waits no longer."""
        if self._waiting is not None and self.asked_at < before:
            self._reply.silent = True
            self._answer()

    def abort(self) -> None:
        """The end of the client's process, as its peer sees it."""
        self.transport.abort()


async def connect(port: int, database: str, user: str = "postgres") -> Conversation | None:
    """A session; None if there can't be one now."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LOGIN_TIMEOUT_S):
            _, talk = await loop.create_connection(Conversation, HOST, port)
            reply = await talk.ask(wire.startup(database, user))
    except (OSError, TimeoutError):
        return None
    if reply.status == "I" and not reply.lost:
        return talk
    talk.abort()
    return None


async def cancel(port: int, key: bytes) -> None:
    """Ask for the cancellation of what the session with ``key`` does; returns when that was heard."""
    try:
        _, talk = await asyncio.get_running_loop().create_connection(Conversation, HOST, port)
    except OSError:
        return
    talk.send(wire.cancel_request(key))
    await talk.ended


def _row(body: bytes) -> Row:
    (count,) = struct.unpack_from("!H", body)
    at = 2
    columns: list[str | None] = []
    for _ in range(count):
        (size,) = struct.unpack_from("!i", body, at)
        at += 4
        columns.append(body[at : at + size].decode() if size >= 0 else None)
        at += max(size, 0)
    return tuple(columns)

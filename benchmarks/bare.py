"""A loop that knows one statement by heart: how much batching can bring on this machine, whoever does it in Python.

It batches as the proxy does and does nothing else that the proxy does: nobody logs in, one text is understood, all
clients are waited for, an error is the end. What is missing between the proxy's figure and this one is the price of
being right; what is missing between this one and a target is the machine's.

Run as a process of its own: ``python -m benchmarks.bare PORT HOST SERVER_PORT CLIENTS USER DATABASE``.
"""

from __future__ import annotations

import asyncio
import re
import struct
import sys
from typing import cast

import uvloop

PROTOCOL = 0x30000
SSL_REQUEST, GSS_REQUEST = 80877103, 80877104
PATIENCE_S = 0.02
"""Clients that are missing for so long have left."""


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


READY = message(b"Z", b"I")
REPLY = message(b"2") + message(b"n") + message(b"C", b"INSERT 0 1\x00") + READY
EXECUTE_AND_SYNC = message(b"E", bytes(5)) + message(b"S")
GREETING = message(b"R", bytes(4)) + message(b"K", bytes(8)) + READY


def startup(user: str, database: str) -> bytes:
    body = struct.pack("!I", PROTOCOL) + f"user\0{user}\0database\0{database}\0\0".encode()
    return struct.pack("!I", len(body) + 4) + body


def rows(text: str, count: int) -> str:
    """The INSERT of one row with one parameter as one of many rows."""
    head, row = re.split(r"(?<=VALUES )", text.strip().rstrip(";"), maxsplit=1)
    return head + ",".join(row.replace("$1", f"${number}") for number in range(1, count + 1))


class Server(asyncio.Protocol):
    """The one connection to the server, and the batch that it executes."""

    def __init__(self, clients: int, user: str, database: str) -> None:
        self._clients = clients
        self._startup = startup(user, database)
        self._prepared: set[int] = set()
        self._said = b""
        self._running: list[Client] = []
        self.ready = asyncio.get_running_loop().create_future()
        self.waiting: list[Client] = []
        self.text = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._startup)

    def data_received(self, data: bytes) -> None:
        self._said += data
        if not self._said.endswith(READY):
            return
        said, self._said = self._said, b""
        if not self.ready.done():
            self.ready.set_result(None)
        elif b"SERROR" in said:
            sys.exit(f"the server says: {said!r}")
        batch, self._running = self._running, []
        for client in batch:
            client.answer()
        self.consider()

    def consider(self) -> None:
        """Execute what waits, if nothing runs and all are there."""
        if not self._running and len(self.waiting) >= self._clients:
            self.execute()

    def execute(self) -> None:
        batch, self.waiting = self.waiting, []
        self._running, count = batch, len(batch)
        parts = []
        if count not in self._prepared:
            self._prepared.add(count)
            parts.append(message(b"P", b"s%d\0" % count + rows(self.text, count).encode() + b"\0\0\0"))
        parameters = b"".join([client.parameter for client in batch])
        parts.append(message(b"B", b"\0s%d\0\0\0" % count + struct.pack("!H", count) + parameters + b"\0\0"))
        parts.append(EXECUTE_AND_SYNC)
        self._transport.write(b"".join(parts))

    async def look_after(self) -> None:
        """At the end of a run, the last clients have nobody any more to wait for."""
        before: list[Client] = []
        while True:
            await asyncio.sleep(PATIENCE_S)
            if self.waiting and not self._running and self.waiting[:1] == before:
                self.execute()
            before = self.waiting[:1]


class Client(asyncio.Protocol):
    """pgbench -M prepared, and nobody else: Parse once, then Bind, Describe, Execute, Sync."""

    parameter = b""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._greeted = False
        self._begin = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._greeted and data[0] == ord("B"):
            begin = self._begin or self._find_parameter(data)
            (size,) = struct.unpack_from("!I", data, begin)
            self.parameter = data[begin : begin + 4 + size]
            self._server.waiting.append(self)
            self._server.consider()
        elif not self._greeted:
            asked = struct.unpack_from("!I", data, 4)[0]
            self._greeted = asked not in (SSL_REQUEST, GSS_REQUEST)
            self._transport.write(GREETING if self._greeted else b"N")
        elif data[0] == ord("P"):
            self._server.text = data[5:].split(b"\0")[1].decode()
            self._transport.write(message(b"1") + READY)

    def _find_parameter(self, data: bytes) -> int:
        """Behind the header, two names, the formats and the number of parameters."""
        names = data.index(b"\0", data.index(b"\0", 5) + 1) + 1
        (formats,) = struct.unpack_from("!H", data, names)
        self._begin = names + 2 + 2 * formats + 2
        return int(self._begin)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._server.waiting:
            self._server.waiting.remove(self)

    def answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(REPLY)


async def serve(port: int, host: str, server_port: int, clients: int, user: str, database: str) -> None:
    loop = asyncio.get_running_loop()
    _, server = await loop.create_connection(lambda: Server(clients, user, database), host, server_port)
    await server.ready
    await loop.create_server(lambda: Client(server), "127.0.0.1", port, backlog=1024)
    await server.look_after()


def main() -> None:
    port, host, server_port, clients, user, database = sys.argv[1:]
    loop = uvloop.new_event_loop()
    loop.run_until_complete(serve(int(port), host, int(server_port), int(clients), user, database))


if __name__ == "__main__":
    main()

"""A load that pgbench can't make (it gives up a client whose statement fails): one write in a hundred is an error.

The law of this module: the books are kept. Every reply is read and counted, and the table's rows are counted after.

Run by itself (as a process of its own, as pgbench is) it prints the counts as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import cast

import uvloop

from benchmarks import loads
from benchmarks.peers import Ground, Peer
from tqdbproxy.bench import Address, BenchError

EVERY = 100
TAKEN_KEY = 0
READY = b"Z\x00\x00\x00\x05I"
STATEMENT = f"INSERT INTO {loads.UNIQUE} (k, v) VALUES ($1, $2)"
HINT = "/* batch:10 */ "
DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Violations:
    """What the clients were told, and what is in the table: rows without the one that was there before."""

    tps: float
    succeeded: int
    violations: int
    rows: int
    unexpected: str = ""


def run_violations(ground: Ground, peer: Peer, clients: int, *, hint: bool) -> Violations:
    """Run the load through the peer in a process of its own, then count the table's rows."""
    loads.empty(ground, loads.UNIQUE)
    with ground.direct.connect() as connection:
        connection.execute(f"INSERT INTO {loads.UNIQUE} VALUES ({TAKEN_KEY}, 'was here before')".encode())
    command = [sys.executable, "-m", "benchmarks.violations", str(clients), str(ground.seconds), *(["--hint"] * hint)]
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {**peer.address.environment(), "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=DEADLINE_S * 2)
    if done.returncode != 0:
        raise BenchError(f"the load through {peer.name} failed: {done.stderr.strip()[-500:]}")
    counts = json.loads(done.stdout)
    with ground.direct.connect() as connection:
        (rows,) = connection.execute(f"SELECT count(*) - 1 FROM {loads.UNIQUE}".encode()).fetchone() or (0,)
    return Violations(rows=int(str(rows)), **counts)


class Books:
    """What all clients were told, and the keys that they take."""

    def __init__(self, clients: int) -> None:
        self.succeeded = 0
        self.violations = 0
        self.unexpected = ""
        self.running = clients
        self.ended = asyncio.get_running_loop().create_future()
        self.closing = False
        self._keys: Iterator[int] = count(1)

    def next_key(self) -> int:
        """A new key, and the taken one every hundredth time."""
        key = next(self._keys)
        return key if key % EVERY else TAKEN_KEY

    def enter(self, reply: bytes) -> None:
        """Count one complete reply to one write."""
        if reply == INSERTED:
            self.succeeded += 1
        elif b"C23505\x00" in reply:
            self.violations += 1
        else:
            self.unexpected = self.unexpected or repr(reply)

    def leave(self, why: str = "") -> None:
        """A client has ended; ``why`` if it should not have."""
        self.unexpected = self.unexpected or why
        self.running -= 1
        if self.running == 0 and not self.ended.done():
            self.ended.set_result(None)


class Writer(asyncio.Protocol):
    """One client: sends a write, waits for its reply, sends the next, as pgbench -M prepared does."""

    transport: asyncio.Transport

    def __init__(self, books: Books) -> None:
        self._books = books
        self._reply = b""
        self._prepared = False
        self._active = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are not derived from it

    def data_received(self, data: bytes) -> None:
        if data == INSERTED and not self._reply and not self._books.closing:  # nearly always
            self._books.succeeded += 1
            self.transport.write(one_write(self._books.next_key()))
            return
        self._reply += data
        if not self._reply.endswith(READY):  # one unit is under way at a time, so this can only be its end
            return
        if self._prepared:
            self._books.enter(self._reply)
        self._prepared, self._reply = True, b""
        if self._books.closing:
            self._end()
        else:
            self.transport.write(one_write(self._books.next_key()))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("connection lost")

    def _end(self, why: str = "") -> None:
        if self._active:
            self._active = False
            self._books.leave(why)


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def preparation(text: str) -> bytes:
    """Parse, Sync."""
    return message(b"P", b"w\x00" + text.encode() + b"\x00\x00\x00") + message(b"S", b"")


VALUE = b"a text as long as many"
BIND_END = struct.pack("!i", len(VALUE)) + VALUE + b"\x00\x00"
EXECUTION = message(b"D", b"P\x00") + message(b"E", b"\x00\x00\x00\x00\x00") + message(b"S", b"")


INSERTED = message(b"2", b"") + message(b"n", b"") + message(b"C", b"INSERT 0 1\x00") + READY


def one_write(key: int) -> bytes:
    """Bind, Describe, Execute, Sync."""
    digits = b"%d" % key
    return beginning(len(digits)) + digits + END


@cache
def beginning(digits: int) -> bytes:
    """All before a key of so many digits."""
    body = b"\x00w\x00\x00\x00\x00\x02" + struct.pack("!i", digits)
    return b"B" + struct.pack("!I", 4 + len(body) + digits + len(BIND_END)) + body


END = BIND_END + EXECUTION


async def write_all(clients: int, seconds: int, hint: bool) -> dict[str, object]:
    """Connect, prepare, write for so long; the counts."""
    loop = asyncio.get_running_loop()
    books = Books(clients)
    server = os.environ
    peer = Peer("", Address(server["PGHOST"], int(server["PGPORT"]), server["PGDATABASE"], server["PGUSER"]))
    with ExitStack() as stack:
        writers = []
        for _ in range(clients):  # libpq logs in, then its socket is ours
            connection = stack.enter_context(peer.connect())
            ours = socket.socket(fileno=os.dup(connection.fileno()))
            ours.setblocking(False)
            _, writer = await loop.create_connection(lambda: Writer(books), sock=ours)
            writers.append(writer)
        started = time.monotonic()
        for writer in writers:
            writer.transport.write(preparation((HINT if hint else "") + STATEMENT))
        await asyncio.sleep(seconds)
        tps = (books.succeeded + books.violations) / (time.monotonic() - started)
        books.closing = True
        await asyncio.wait_for(books.ended, DEADLINE_S)
        for writer in writers:
            writer.transport.abort()
    counts = {"succeeded": books.succeeded, "violations": books.violations, "unexpected": books.unexpected}
    return {"tps": tps, **counts}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.violations")
    parser.add_argument("clients", type=int)
    parser.add_argument("seconds", type=int)
    parser.add_argument("--hint", action="store_true")
    args = parser.parse_args()
    loop = uvloop.new_event_loop()  # costs half of what asyncio's own does
    try:
        print(json.dumps(loop.run_until_complete(write_all(args.clients, args.seconds, args.hint))))
    finally:
        loop.close()


if __name__ == "__main__":
    main()

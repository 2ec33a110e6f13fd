"""Clients that write registers and read them from memory, as fast as one process can, each answer judged at once.

A register's versions only grow. All clients live in one thread, so it is known when a read began which version somebody
had been told of by then: an answer with an older one is a fault. The law of this module: a client knows the protocol's
bytes and nothing of the proxy.

By hand: ``python -m tests.integration.caching.history PORT DATABASE SCHEMA OPERATIONS CLIENTS SEED``.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import uvloop

from tests.integration.wire import SYNC, bind, execute, parse, query, startup

TABLES = 40
KEYS = 5
READS = 0.97
HOST = "127.0.0.1"


def tables() -> str:
    """What makes the registers."""
    make = "CREATE TABLE r{n} (k int PRIMARY KEY, v int); INSERT INTO r{n} SELECT i, 0 FROM generate_series(0, {k}) i; "
    return "".join(make.format(n=n, k=KEYS - 1) for n in range(TABLES))


class Registers:
    """All registers: the newest version that anybody was told of, and what was found wrong."""

    def __init__(self, operations: int) -> None:
        self.known = [0] * (TABLES * KEYS)
        self.left = operations
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()


def read_messages() -> list[list[bytes]]:
    """For each register, the ways to ask for it. The third one needs `prepared`."""
    found = []
    for table in range(TABLES):
        for key in range(KEYS):
            text = f"/* ttl:60 */ SELECT v FROM r{table} WHERE k = "
            tagged = f"/* ttl:60 tags:r{table}k{key} */ SELECT v FROM r{table} WHERE k = {key}"
            found.append(
                [
                    query(f"{text}{key}"),
                    parse(f"{text}$1") + bind(str(key)) + execute() + SYNC,
                    bind(str(key), name=f"read{table}") + execute() + SYNC,
                    query(tagged),
                ]
            )
    return found


def prepared() -> bytes:
    """What each client prepares."""
    reads = [
        parse(f"/* ttl:60 */ SELECT v FROM r{table} WHERE k = $1", f"read{table}", [23]) for table in range(TABLES)
    ]
    writes = [
        parse(f"UPDATE r{table} SET v = v + 1 WHERE k = $1 RETURNING v", f"write{table}", [23])
        for table in range(TABLES)
    ]
    return b"".join(reads + writes) + SYNC


READ = read_messages()


def write_messages(table: int, key: int, way: str) -> list[bytes]:
    """The units of one write, each sent when the one before it is answered; the purge hint is for the tagged reads."""
    text = f"UPDATE r{table} SET v = v + 1 WHERE k = {key} RETURNING v"
    template = f"UPDATE r{table} SET v = v + 1 WHERE k = $1 RETURNING v"
    purge = f"purge:r{table}k{key}"
    ways: dict[str, list[bytes]] = {
        "simple": [query(f"/* {purge} */ {text}")],
        "batched": [query(f"/* batch:2 {purge} */ {text}")],
        "batched, extended": [parse(f"/* batch:2 {purge} */ {template}") + bind(str(key)) + execute() + SYNC],
        "extended": [parse(f"/* {purge} */ {text}") + bind() + execute() + SYNC],
        "transaction": [query("BEGIN"), query(f"/* {purge} */ {text}"), query("COMMIT")],
        "pipeline": [query(f"SELECT 1; /* {purge} */ {text}; SELECT 2 WHERE false")],
        "named": [
            query("BEGIN"),
            bind(str(key), name=f"write{table}") + execute() + SYNC,
            query(f"/* {purge} */ COMMIT"),
        ],
    }
    return ways[way]


WAYS = ("simple", "batched", "batched, extended", "extended", "transaction", "pipeline", "named")


class Client(asyncio.Protocol):
    """One of them: asks, judges, asks again."""

    def __init__(self, registers: Registers, seed: int, hello: bytes, ended: Callable[[], None]) -> None:
        self._registers = registers
        self._chance = Random(seed)
        self._ended = ended
        self._hello = hello
        self._buffer = b""
        self._register = self._floor = 0
        self._units: list[bytes] = []
        self._version: int | None = None
        self._writes = False
        self._ready: Callable[[bytes], None] = self._prepares
        self._way = ""

    def connection_made(self, transport: Any) -> None:
        self._write = transport.write
        self._transport = transport
        transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        # A unit is over with its ReadyForQuery, and nothing is asked before that.
        if data[-6:-1] != b"Z\0\0\0\5":
            self._buffer = data
            return
        self._buffer = b""
        self._ready(data)

    def connection_lost(self, _reason: Exception | None) -> None:
        self._ended()

    def _prepares(self, _data: bytes) -> None:
        self._write(prepared())
        self._ready = self._begins

    def _begins(self, _data: bytes) -> None:
        self._ready = self._answered
        self._next()

    def _next(self) -> None:
        registers = self._registers
        if registers.left <= 0:
            self._transport.close()
            return
        registers.left -= 1
        chance = self._chance.random
        self._register = register = int(chance() * len(READ))
        if chance() < READS:
            self._floor = registers.known[register]
            self._writes = False
            self._write(READ[register][int(chance() * 4)])
            return
        self._writes = True
        self._version = None
        self._way = self._chance.choice(WAYS)
        registers.counts[self._way] += 1
        self._units = write_messages(*divmod(register, KEYS), self._way)
        self._write(self._units.pop(0))

    def _answered(self, data: bytes) -> None:
        known = self._registers.known
        if not self._writes:
            version = value(data)
            if version is None or version < self._floor:
                self._fault(f"read {version} after {self._floor} was known", data)
            elif version > known[self._register]:
                known[self._register] = version  # of a write whose writer doesn't know yet: now somebody does
            self._next()
            return
        found = value(data)
        self._version = found if found is not None else self._version
        if self._units:
            self._write(self._units.pop(0))
            return
        if self._version is None:
            self._fault("no version", data)
        elif self._version > known[self._register]:
            known[self._register] = self._version
        self._next()

    def _fault(self, what: str, data: bytes) -> None:
        self._registers.faults.append(
            f"{self._way if self._writes else 'read'} {self._register}: {what}: {data!r}"[:500]
        )


VALUES: dict[bytes, int | None] = {}
"""Answers that were read before: most are."""


def value(data: bytes) -> int | None:
    """The number in the last row of one column; None if there is none."""
    try:
        return VALUES[data]
    except KeyError:
        pass
    found, at = None, 0
    while at < len(data):
        (length,) = struct.unpack_from("!I", data, at + 1)
        if data[at] == ord("D") and length > 10:
            found = int(data[at + 11 : at + 1 + length])
        at += 1 + length
    if len(VALUES) > 100_000:
        VALUES.clear()
    VALUES[data] = found
    return found


async def run(port: int, hello: bytes, operations: int, clients: int, seed: int) -> dict[str, Any]:
    """So many operations by so many clients: what came of it."""
    registers = Registers(operations)
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    running = clients

    def ended() -> None:
        nonlocal running
        running -= 1
        if not running:
            over.set_result(None)

    began = time.monotonic()
    for number in range(clients):
        await loop.create_connection(lambda n=number: Client(registers, seed * 1000 + n, hello, ended), HOST, port)  # type: ignore[misc]
    await over
    return {
        "seconds": time.monotonic() - began,
        "left": registers.left,
        "faults": registers.faults[:10],
        "known": registers.known,
        "writes": dict(registers.counts),
    }


def main() -> None:
    """Print what came of it."""
    port, database, schema, operations, clients, seed = sys.argv[1:]
    hello = startup(database, search_path=schema)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(run(int(port), hello, int(operations), int(clients), int(seed)))
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()

"""What goes through sessions with TLS on both sides: large, slow, batched, cut off."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psutil
import psycopg
import pytest
from psycopg import sql

from tests.integration.metrics import Growth, scrape
from tests.integration.waiting import wait_for
from tests.integration.wire import SYNC, TERMINATE, bind, copy_data, execute, frame, kinds, parse, query
from tests.proxies import RunningProxy
from tests.tls.clients import TlsWire, all_gone
from tests.tls.conftest import StartTls
from tests.tls.servers import UNASKED, PretendedServer, in_clear
from tqdbproxy.embedded import EmbeddedServer

MIB = 1 << 20
READY = frame("Z", b"I")
CHUNK = bytes(range(256)) * 256
COPY_SIZE = 20 * MIB
KEEP_WINDOWS = "[write_batch]\nearly_quorum = off"


@pytest.fixture
def table(debian: EmbeddedServer) -> Iterator[str]:
    """An empty table ``(id, who, data)``."""
    with psycopg.connect(debian.dsn(), autocommit=True) as connection:
        connection.execute("CREATE TABLE transferred (id serial, who int, data bytea)")
    yield "transferred"
    with psycopg.connect(debian.dsn(), autocommit=True) as connection:
        connection.execute("DROP TABLE transferred")


def resident(proxy: RunningProxy) -> int:
    memory: int = psutil.Process(proxy.process.pid).memory_info().rss
    return memory


def rows_of(debian: EmbeddedServer, table: str) -> list[int]:
    """The column ``who``, sorted."""
    with psycopg.connect(debian.dsn()) as connection:
        found = connection.execute(sql.SQL("SELECT who FROM {} ORDER BY who").format(sql.Identifier(table)))
        return [who for (who,) in found]


def test_copy_of_20_mb_both_ways(encrypted: RunningProxy, table: str) -> None:
    with psycopg.connect(encrypted.dsn(sslmode="require"), autocommit=True) as connection:
        connection.execute("SELECT 1")
        before = resident(encrypted)
        sent, received = hashlib.sha256(), hashlib.sha256()
        with connection.cursor() as cursor:
            with cursor.copy("COPY transferred (who, data) FROM STDIN (FORMAT binary)") as copy:
                copy.set_types(["int4", "bytea"])
                for number in range(COPY_SIZE // len(CHUNK)):
                    copy.write_row((number, CHUNK))
                    sent.update(CHUNK)
            assert cursor.statusmessage == f"COPY {COPY_SIZE // len(CHUNK)}"
            with cursor.copy("COPY (SELECT data FROM transferred ORDER BY who) TO STDOUT (FORMAT binary)") as copy:
                copy.set_types(["bytea"])
                for (data,) in copy.rows():
                    received.update(data)
        assert received.digest() == sent.digest()
        assert connection.execute("SELECT count(*) FROM transferred").fetchone() == (COPY_SIZE // len(CHUNK),)
        assert resident(encrypted) - before < 16 * MIB


def test_clients_over_tls_share_batches(encrypted: RunningProxy, debian: EmbeddedServer, table: str) -> None:
    grown = Growth(encrypted)
    clients, each = 8, 25
    all_there = threading.Barrier(clients, timeout=60)

    def insert(who: int) -> set[int]:
        ids = set()
        with psycopg.connect(encrypted.dsn(sslmode="require"), autocommit=True) as connection:
            all_there.wait()
            for _ in range(each):
                statement = "/* batch:20 */ INSERT INTO transferred (who) VALUES (%s) RETURNING id, who"
                row = connection.execute(statement, [who]).fetchone()
                assert row is not None
                assert row[1] == who
                ids.add(row[0])
        return ids

    with ThreadPoolExecutor(clients) as threads:
        ids = list(threads.map(insert, range(clients)))
    assert len(set.union(*ids)) == clients * each
    assert rows_of(debian, table) == sorted(list(range(clients)) * each)
    batches = grown("write_batch_size_count")
    assert grown("write_batch_size_sum") == clients * each
    assert batches < clients * each / 2


def test_a_slow_reader_stops_its_server(encrypted: RunningProxy) -> None:
    rows, size = 1000, 60_000
    with TlsWire(encrypted.port, receive_buffer=65536) as wire:
        wire.start("postgres")
        before = resident(encrypted)
        wire.send(query(f"SELECT repeat('x', {size}) FROM generate_series(1, {rows})"))
        grown = 0
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            grown = max(grown, resident(encrypted) - before)
            time.sleep(0.05)
        assert grown < 12 * MIB
        frames = wire.until()
        assert kinds(frames) == "T" + "D" * rows + "CZ"
        assert sum(len(frame.body) for frame in frames) > rows * size
        assert resident(encrypted) - before < 12 * MIB


def test_a_slow_server_stops_its_client(encrypted: RunningProxy, debian: EmbeddedServer, table: str) -> None:
    with TlsWire(encrypted.port) as wire, psycopg.connect(debian.dsn(), autocommit=True) as other:
        wire.start("postgres")
        before = resident(encrypted)
        blocked = other.transaction()
        with blocked:
            other.execute("LOCK TABLE transferred IN ACCESS EXCLUSIVE MODE")
            # The server reads nothing while its INSERT waits for the lock.
            wire.send(query("INSERT INTO transferred (who) VALUES (0)"))
            wire.socket.settimeout(0.5)
            left = query(f"SELECT length('{'x' * 1_000_000}')") * 60
            with pytest.raises(TimeoutError):
                wire.send(left)
            assert resident(encrypted) - before < 16 * MIB
            wire.socket.settimeout(20)
        wire.until("Z")
    wait_for(lambda: all_gone(encrypted))
    assert "Traceback" not in encrypted.log


# -- the end


def test_a_write_that_is_not_waited_for(encrypted: RunningProxy, debian: EmbeddedServer, table: str) -> None:
    """The client closes TLS, or only its socket, or its sending half; with Terminate and without."""
    statement = "INSERT INTO transferred (who) SELECT {} FROM pg_sleep(0.1)"
    for number in range(6):
        with TlsWire(encrypted.port) as wire:
            wire.start("postgres")
            wire.send(query(statement.format(number)), TERMINATE if number % 2 else b"")
            if number // 2 == 0:
                wire.socket.shutdown(socket.SHUT_WR)
                assert wire.socket.recv(65536) == b""
            elif number // 2 == 1:
                wire.socket.setblocking(False)
                with suppress(OSError):  # the other end's goodbye isn't waited for
                    wire.socket.unwrap()  # type: ignore[attr-defined]
    wait_for(lambda: all_gone(encrypted))
    assert rows_of(debian, table) == list(range(6))
    assert "Traceback" not in encrypted.log


def test_writes_that_wait_behind_a_batch_when_the_client_closes(
    start_tls: StartTls, debian: EmbeddedServer, table: str
) -> None:
    """While the first waits, the proxy reads no further: the others are still encrypted when the end comes."""
    proxy = start_tls(f"{debian.host}:{debian.port}", "require", "require", more=KEEP_WINDOWS)
    with TlsWire(proxy.port) as wire:
        wire.start("postgres")
        with psycopg.connect(debian.dsn()) as holder:
            holder.execute("LOCK TABLE transferred IN ACCESS EXCLUSIVE MODE")  # the first takes until this is over
            wire.send(query("/* batch:300 */ INSERT INTO transferred (who) VALUES (0)"))
            for number in range(1, 6):
                time.sleep(0.02)  # in packets of their own: the first stops the reading
                wire.send(query(f"INSERT INTO transferred (who) VALUES ({number})"))
            wire.send(TERMINATE)
            wire.socket.close()
    wait_for(lambda: all_gone(proxy))
    assert rows_of(debian, table) == list(range(6))


CUT_OFF = {
    "query": query("SELECT 1")[:-3],
    "header": b"Q\0\0",
    "large query": frame("Q", b"SELECT " + b" " * (3 * MIB))[: 2 * MIB],
    "bind": parse("SELECT $1::text") + bind("x" * 1000)[:-500],
    "copy data": query("COPY transferred (who) FROM STDIN") + copy_data(b"1\n" * 1000)[:-500],
    "copy": query("COPY transferred (who) FROM STDIN") + copy_data(b"1\n" * 1000),
    "unit": parse("INSERT INTO transferred (who) VALUES (1)") + bind() + execute(),
    "transaction": query("BEGIN; INSERT INTO transferred (who) VALUES (1)"),
}


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("name", CUT_OFF)
def test_what_was_cut_off_leaves_nothing(
    name: str, reset: bool, encrypted: RunningProxy, debian: EmbeddedServer, table: str
) -> None:
    with TlsWire(encrypted.port) as wire:
        wire.start("postgres")
        wire.send(CUT_OFF[name])
        time.sleep(0.05)
        if reset:
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: all_gone(encrypted))
    with psycopg.connect(debian.dsn(), autocommit=True) as connection:
        others = "SELECT count(*) FROM pg_stat_activity WHERE client_port > 0 AND pid <> pg_backend_pid()"
        wait_for(lambda: connection.execute(others).fetchone() == (0,))
    assert rows_of(debian, table) == []
    assert "Traceback" not in encrypted.log


def test_replication_connections(encrypted: RunningProxy) -> None:
    with TlsWire(encrypted.port) as wire:
        wire.start("postgres", replication="database")
        assert kinds(wire.ask(query("IDENTIFY_SYSTEM"))) == "TDCZ"
        wire.send(query("IDENTIFY_SYSTEM")[:-3])
    wait_for(lambda: all_gone(encrypted))


def test_sessions_that_are_over_leave_no_memory(start_tls: StartTls) -> None:
    """Each had buffers of some 100 KiB; they go with the session and not when the garbage collector comes."""
    with PretendedServer(in_clear(frame("D", bytes(200_000)) + READY)) as server:
        proxy = start_tls(server.address, "require", "disable", more=UNASKED)

        def hold(sessions: int) -> None:
            wires = [TlsWire(proxy.port).start("postgres") for _ in range(sessions)]
            for wire in wires:
                wire.ask(query("SELECT"))
                wire.socket.close()
            wait_for(lambda: all_gone(proxy))

        for _ in range(3):
            hold(20)
        before = resident(proxy)
        for _ in range(12):
            hold(20)
        # What 240 sessions had, if it stayed, were 24 MiB; some MiB are the allocator's own business.
        assert resident(proxy) - before < 8 * MIB


def test_a_server_that_dies_tells_its_client(encrypted: RunningProxy, debian: EmbeddedServer) -> None:
    with TlsWire(encrypted.port) as wire, psycopg.connect(debian.dsn(), autocommit=True) as other:
        wire.start("postgres")
        other.execute("SELECT pg_terminate_backend(%s)", [wire.backend_pid])
        (error,) = wire.to_end()
        assert error.fields()["C"] == "57P01"
    wait_for(lambda: all_gone(encrypted))


def test_a_slow_reader_hears_all_that_a_dying_server_said(encrypted: RunningProxy, debian: EmbeddedServer) -> None:
    """The proxy reads no further from the server when it closes: what is still encrypted isn't lost."""
    rows, size = 40, 60_000
    with TlsWire(encrypted.port, receive_buffer=8192) as wire, psycopg.connect(debian.dsn(), autocommit=True) as other:
        wire.start("postgres")
        wire.send(query(f"SELECT repeat('x', {size}) FROM generate_series(1, {rows})"))
        idle = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND state = 'idle' AND query LIKE 'SELECT rep%%'"
        wait_for(lambda: other.execute(idle, [wire.backend_pid]).fetchone() == (1,))
        other.execute("SELECT pg_terminate_backend(%s)", [wire.backend_pid])
        wait_for(lambda: scrape(encrypted).total("server_connections") == 0)
        assert kinds(wire.to_end()) == "T" + "D" * rows + "CZE"


def test_a_unit_goes_on_after_a_long_pause(encrypted: RunningProxy) -> None:
    """Reading stops and goes on again and again, on both sides."""
    with TlsWire(encrypted.port) as wire:
        wire.start("postgres")
        for size in (1, 100_000, 300_000, 600_000):
            unit = parse("SELECT $1::text") + bind("x" * size) + execute() + SYNC
            for _ in range(3):
                wire.send(unit * 3)
                frames = wire.until(count=3)
                assert kinds(frames) == "12DCZ" * 3
                assert all(len(f.body) == size + 6 for f in frames if f.kind == "D")

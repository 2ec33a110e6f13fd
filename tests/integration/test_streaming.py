"""Large transfers: constant memory, and a slow reader makes its peer wait."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import psutil
import psycopg
import pytest

from tests.integration.compare import Ends
from tests.integration.waiting import wait_for
from tests.integration.wire import COPY_DONE, TIMEOUT_S, Wire, copy_data, kinds, query, values
from tests.proxies import RunningProxy

SIZE = 100 << 20
GROWTH_LIMIT = 16 << 20
CHUNK = 1 << 16
READY = b"Z\0\0\0\5I"
# The kernel's buffers between a server and a client who doesn't read, four sockets, are well below this.
IN_THE_PIPE = 40 << 20


class Memory:
    """How much resident memory the process of ``proxy`` has gained at most, looked at every few milliseconds."""

    def __init__(self, proxy: RunningProxy) -> None:
        self._process = psutil.Process(proxy.process.pid)
        self._before = self._process.memory_info().rss
        self._most = self._before
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self._most = max(self._most, self._process.memory_info().rss)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        return self._most - self._before


@pytest.fixture
def fresh(start_with: Callable[[str], tuple[RunningProxy, Ends]]) -> tuple[RunningProxy, Ends]:
    """A proxy that has carried a few rows, so that what it needs once is there."""
    proxy, ends = start_with("")
    with psycopg.connect(ends.proxied) as connection:
        connection.execute("SELECT repeat('x', 1000) FROM generate_series(1, 2000)").fetchall()
    return proxy, ends


def test_copy_out(fresh: tuple[RunningProxy, Ends]) -> None:
    proxy, ends = fresh
    with psycopg.connect(ends.proxied) as connection, Memory(proxy) as memory:
        text = f"COPY (SELECT repeat('x', 1023) FROM generate_series(1, {SIZE >> 10})) TO STDOUT"
        with connection.cursor().copy(text.encode()) as copy:
            assert sum(map(len, copy)) == SIZE
    assert memory.growth < GROWTH_LIMIT


def test_copy_in(fresh: tuple[RunningProxy, Ends]) -> None:
    proxy, ends = fresh
    ends.prepare("CREATE UNLOGGED TABLE t (a text)")
    row = b"x" * 1023 + b"\n"
    with psycopg.connect(ends.proxied, autocommit=True) as connection, Memory(proxy) as memory:
        cursor = connection.cursor()
        with cursor.copy("COPY t FROM STDIN") as copy:
            for _ in range(SIZE // CHUNK):
                copy.write(row * (CHUNK >> 10))
        assert cursor.statusmessage == f"COPY {SIZE >> 10}"
    assert memory.growth < GROWTH_LIMIT


def test_one_value_of_a_hundred_megabytes_both_ways(fresh: tuple[RunningProxy, Ends]) -> None:
    proxy, ends = fresh
    with Wire(ends.proxied_port).start(ends.database) as wire, Memory(proxy) as memory:
        wire.send(query(f"SELECT repeat('x', {SIZE})"))
        assert _drained(wire.socket) > SIZE
        text = b"SELECT length('" + b"x" * SIZE + b"')\0"
        wire.send(b"Q" + (len(text) + 4).to_bytes(4, "big"))
        for at in range(0, len(text), CHUNK):
            wire.send(text[at : at + CHUNK])
        assert values(wire.until()) == [b"%d" % SIZE]
    assert memory.growth < GROWTH_LIMIT


def test_a_slow_reader_makes_the_server_wait(fresh: tuple[RunningProxy, Ends]) -> None:
    proxy, ends = fresh
    with Wire(ends.proxied_port, receive_buffer=CHUNK).start(ends.database) as wire, Memory(proxy) as memory:
        wire.send(query(f"COPY (SELECT repeat('x', 1023) FROM generate_series(1, {SIZE >> 10})) TO STDOUT"))
        stuck = (
            "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'ClientWrite' AND state_change < now() - '1s'::interval"
        )
        wait_for(lambda: ends.ask(stuck))
        with psycopg.connect(ends.proxied) as other:
            assert other.execute("SELECT 1").fetchone() == (1,)
        assert _drained(wire.socket) > SIZE
    assert memory.growth < GROWTH_LIMIT


def test_a_slow_server_makes_the_client_wait(fresh: tuple[RunningProxy, Ends]) -> None:
    proxy, ends = fresh
    ends.prepare("CREATE UNLOGGED TABLE t (a text)")
    data = copy_data((b"x" * 1023 + b"\n") * (CHUNK >> 10))
    with (
        psycopg.connect(ends.direct) as holder,
        Wire(ends.proxied_port).start(ends.database) as wire,
        Memory(proxy) as memory,
    ):
        holder.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        wire.send(query("COPY t FROM STDIN"))
        sent = _stuck_after(wire.socket, data)
        assert sent < IN_THE_PIPE
        with psycopg.connect(ends.proxied) as other:
            assert other.execute("SELECT 1").fetchone() == (1,)
        holder.rollback()
        wire.send(data[sent % len(data) :], COPY_DONE)
        assert kinds(wire.until()) == "GCZ"
    assert ends.ask("SELECT count(*) FROM t") == [((sent // len(data) + 1) * (CHUNK >> 10),)]
    assert memory.growth < GROWTH_LIMIT


def _stuck_after(sock: socket.socket, data: bytes) -> int:
    """How many bytes can be sent until nothing has been taken for half a second."""
    sock.setblocking(False)
    sent, last = 0, time.monotonic()
    while time.monotonic() - last < 0.5 and sent < SIZE:
        try:
            sent += sock.send(data[sent % len(data) :])
            last = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
    sock.settimeout(TIMEOUT_S)
    return sent


def _drained(sock: socket.socket) -> int:
    """How many bytes come up to a ReadyForQuery."""
    received, end = 0, b""
    while not end.endswith(READY):
        data = sock.recv(1 << 20)
        assert data
        received += len(data)
        end = (end + data)[-len(READY) :]
    return received

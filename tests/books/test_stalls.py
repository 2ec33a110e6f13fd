"""A server that stands still under load: memory stays bounded, and in the end every write is there once.

``TQDBPROXY_TEST_STALL_S`` makes the stall longer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.books.site import DATABASE, Site
from tests.integration.metrics import scrape
from tests.integration.waiting import wait_for
from tests.integration.wire import SYNC, Wire, bind, execute, parse

STALL_S = float(os.environ.get("TQDBPROXY_TEST_STALL_S", "3"))
CLIENTS = 16
MAX_PENDING = 5
INSERT = "/* batch:5 */ INSERT INTO t VALUES ($1, $2)"
PAYLOAD = "x" * 16_000
MOST_EACH = 12_000_000
"""Bytes that a client has to say; all of them together are far more than the proxy may keep."""

KEPT_EACH = 1_500_000
"""Bytes that the proxy may have for each: a chunk that it has read, what is queued for its server, and what Python and
uvloop make of these. The system's buffers take the most of what was said."""

CONFIG = f"[write_batch]\nmax_pending = {MAX_PENDING}\ntimeout_s = 600\n"

pytestmark = pytest.mark.timeout(900)


class Talker:
    """One client that says hinted writes, one after another, without waiting for answers."""

    def __init__(self, number: int, wire: Wire) -> None:
        self.wire = wire
        self.units = 0
        self.said = 0
        self._number = number
        self._rest = b""

    def begin(self) -> None:
        """Say one write and pause, as one who waits for the answer."""
        self._next()
        self.finish()

    def say(self) -> None:
        """As much as is taken."""
        self.wire.socket.setblocking(False)
        try:
            while self.said < MOST_EACH:
                self._next()
                sent = self.wire.socket.send(self._rest)
                self._rest = self._rest[sent:]
                self.said += sent
        except BlockingIOError:
            pass
        finally:
            self.wire.socket.settimeout(60)

    def finish(self) -> None:
        """Say the rest of what was begun."""
        self.wire.send(self._rest)
        self._rest = b""

    def _next(self) -> None:
        if not self._rest:
            self.units += 1
            w = self._number * 1_000_000 + self.units
            self._rest = parse(INSERT) + bind(str(w), PAYLOAD) + execute() + SYNC


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, CONFIG) as site, site.connect() as connection:
        connection.execute("CREATE TABLE t (w bigint, v text)")
        yield site


def test_a_server_that_stands_still(site: Site) -> None:
    process = psutil.Process(site.proxies[-1].process.pid)
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(site.port)).start(DATABASE) for _ in range(CLIENTS)]
        talkers = [Talker(number, wire) for number, wire in enumerate(wires)]
        before = process.memory_info().rss
        with site.stalled():
            for talker in talkers:
                talker.begin()
            wait_for(lambda: scrape(site.proxies[-1]).total("clients", state="waiting") == MAX_PENDING)
            grown = talk(talkers, process) - before
            page = scrape(site.proxies[-1])
        assert sum(talker.said for talker in talkers) > 3 * CLIENTS * KEPT_EACH
        assert grown < CLIENTS * KEPT_EACH
        assert page.total("clients", state="waiting") == MAX_PENDING
        assert page.total("write_excluded_total", reason="no_capacity") == CLIENTS - MAX_PENDING - 1  # one was alone
        for talker in talkers:
            talker.finish()
        for talker in talkers:
            answers = talker.wire.until(count=talker.units)
            assert sum(frame.kind == "C" for frame in answers) == talker.units
    expected = [number * 1_000_000 + unit for number, t in enumerate(talkers) for unit in range(1, t.units + 1)]
    with site.connect() as connection:
        assert [row[0] for row in connection.execute("SELECT w FROM t ORDER BY w")] == expected


def talk(talkers: Sequence[Talker], process: psutil.Process) -> int:
    """Until the stall has been long enough; the most memory that the proxy had."""
    most = 0
    end = time.monotonic() + STALL_S
    while time.monotonic() < end:
        for talker in talkers:
            talker.say()
        most = max(most, process.memory_info().rss)
        time.sleep(0.02)
    return most

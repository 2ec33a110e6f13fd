"""How long the reactor is kept from its clients while somebody reads the pages: ``python -m benchmarks.scraping``.

A timer asks to be called each half millisecond and notes how late it is, and how much CPU time the process has used
since the last time: that is what a turn of the reactor has cost, also on a machine that is busy with other things. The
reader is another process, as Prometheus is. With 10,000 callers every family that is labelled by caller has 10,000
label sets, and the page has some 300,000 lines.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, cast

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, react

from tqdbproxy import transport
from tqdbproxy.addresses import TcpAddress
from tqdbproxy.core.metrics import Metrics
from tqdbproxy.core.overview import Sources
from tqdbproxy.core.statement import Kind, Reason
from tqdbproxy.web import make_site

CALLERS = 10_000
INTERVAL_S = 0.0005
READ = "import sys, urllib.request as u; print(len(u.urlopen(sys.argv[1], timeout=120).read()))"
PAGES = ("", "metrics", "metrics", "status.json", "status.json")
"""The first is for comparison: nobody reads anything but a small file."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one reading: bytes of the page, seconds that it took, how late the timer was, CPU between two calls of it."""

    page: str
    size: int
    took_s: float
    worst_s: float
    busiest_s: float


def counted(registry: CollectorRegistry, callers: int) -> Metrics:
    """Metrics of so many callers, with something in every family."""
    metrics = Metrics(registry, callers)
    for number in range(callers):
        counts = metrics.caller(f"src/module_{number % 100}.py", str(number), Kind.INSERT)
        counts.queries, counts.batched = 1000 + number, 900
        counts.exclude(Reason.TRANSACTION)
        for value in (0.0001, 0.003, 0.02):
            counts.latency.observe(value)
    return metrics


class Delays:
    """How late a timer is."""

    def __init__(self, reactor: Any) -> None:
        self._seconds = reactor.seconds
        self._due = self._used = 0.0
        self.worst_s = self.busiest_s = 0.0
        self._loop = LoopingCall(self._tick)
        self._loop.clock = reactor

    def start(self) -> None:
        """From now on."""
        self._due = self._seconds()
        self._used = time.process_time()
        self._loop.start(INTERVAL_S)

    def stop(self) -> None:
        """Until now."""
        self._loop.stop()

    def _tick(self) -> None:
        now, used = self._seconds(), time.process_time()
        self.worst_s = max(self.worst_s, now - self._due)
        self.busiest_s = max(self.busiest_s, used - self._used)
        # LoopingCall keeps to its grid: what was missed is not made up for.
        self._due, self._used = now + INTERVAL_S, used


async def measure(reactor: Any, callers: int) -> list[Figures]:
    """Read each of `PAGES` once."""
    registry = CollectorRegistry()
    metrics = counted(registry, callers)
    sources = Sources("0", 0.0, reactor.seconds, metrics, dict, list, lambda: 0, lambda: None)
    site = make_site(registry, sources, lambda: True, reactor)
    listener = transport.Listener(TcpAddress("127.0.0.1", 0), lambda: cast(Any, site.buildProtocol(None)))
    await listener.start()
    try:
        return [await read(reactor, f"http://{listener.address}/", page) for page in PAGES]
    finally:
        listener.stop()


async def read(reactor: Any, base: str, page: str) -> Figures:
    """Let another process read a page."""
    with subprocess.Popen([sys.executable, "-c", READ, base + page], stdout=subprocess.PIPE, text=True) as reader:
        delays = Delays(reactor)
        delays.start()
        began = reactor.seconds()
        while reader.poll() is None:
            pause: Deferred[None] = Deferred()
            reactor.callLater(0.01, pause.callback, None)
            await pause
        took_s = reactor.seconds() - began
        delays.stop()
        assert reader.stdout is not None
        size = int(reader.stdout.read())
    return Figures(page, size, took_s, delays.worst_s, delays.busiest_s)


def run(callers: int) -> None:
    """Print a line for each reading."""

    def main(reactor: Any) -> Deferred[None]:
        running: Deferred[Any] = Deferred()
        reactor.callLater(0, running.callback, None)  # before that, asyncio's loop doesn't run
        running.addCallback(lambda _none: Deferred.fromCoroutine(measure(reactor, callers)))
        return running.addCallback(show)

    def show(figures: list[Figures]) -> None:
        print(f"{callers} callers; the busiest turn (CPU) and the longest delay while a page is read, in ms")
        print(f"{'page':14}{'bytes':>12}{'took s':>9}{'CPU':>8}{'delay':>8}")
        for it in figures:
            print(f"/{it.page:13}{it.size:12}{it.took_s:9.2f}{it.busiest_s * 1e3:8.2f}{it.worst_s * 1e3:8.2f}")

    transport.install_reactor()
    react(main)


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else CALLERS)

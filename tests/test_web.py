"""The pages, asked over transports in memory: what they say, and that they are made in small pieces."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from tqdbproxy.core.metrics import Metrics, exposition
from tqdbproxy.core.overview import CacheView, ServerView, Sources
from tqdbproxy.core.statement import Kind, Reason
from tqdbproxy.web import make_site
from tqdbproxy.web.site import ASSETS

ROOT = Path(__file__).parent.parent
SERVER = ServerView("main", "main/primary", "db:5432", False, "refused", 3, 20, 4)

CACHE = CacheView(3, 4567, 8000, 1, 5, 6, 7, 8, 90_000, {"same": 2, "reordered": 1, "different": 0})


class Site:
    """The pages of a proxy that is not there."""

    def __init__(self, max_callers: int = 1000, ready: Callable[[], Any] = lambda: True) -> None:
        self.clock = Clock()
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, max_callers, self.clock.seconds)
        sources = Sources(
            "1.2",
            0.0,
            self.clock.seconds,
            self.metrics,
            lambda: {"session": 5},
            lambda: [SERVER],
            lambda: 7,
            lambda: 2.5,
            lambda: CACHE,
        )
        self.site = make_site(self.registry, sources, ready, self.clock)

    def connect(self) -> tuple[Any, StringTransport]:
        """An HTTP connection."""
        channel = self.site.buildProtocol(None)
        transport = StringTransport()
        channel.makeConnection(transport)
        return channel, transport

    def ask(self, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        channel, transport = self.connect()
        channel.dataReceived(f"{method} {path} HTTP/1.0\r\n\r\n".encode())
        while self.turn():
            pass
        return read(transport.value())

    def turn(self) -> bool:
        """One turn of the reactor, with one piece; False if none waits."""
        due = [call for call in self.clock.calls if call.getTime() <= self.clock.seconds()]
        for call in due:
            self.clock.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)
        return bool(due)


def read(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().splitlines()
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body


def test_the_metrics() -> None:
    site = Site()
    site.metrics.caller("a.py", "1", Kind.INSERT).queries = 5
    status, headers, body = site.ask("/metrics")
    assert (status, headers["content-type"][:10]) == (200, "text/plain")
    assert body == exposition(site.registry)


def test_the_metrics_leave_the_reactor_to_others() -> None:
    site = Site(max_callers=3000)
    for number in range(3000):
        counts = site.metrics.caller("a.py", str(number), Kind.INSERT)
        counts.queries = 1
        counts.latency.observe(0.01)
    channel, transport = site.connect()
    channel.dataReceived(b"GET /metrics HTTP/1.0\r\n\r\n")
    sizes = []
    before = 0
    while site.turn():
        sizes.append(len(transport.value()) - before)
        before = len(transport.value())
    assert len(sizes) > 100
    assert max(sizes) < 50_000
    assert read(transport.value())[2] == exposition(site.registry)


def test_a_slow_reader_is_waited_for() -> None:
    site = Site()
    channel, transport = site.connect()
    channel.dataReceived(b"GET /metrics HTTP/1.0\r\n\r\n")
    channel._channel.pauseProducing()
    assert not site.turn()
    channel._channel.resumeProducing()
    while site.turn():
        pass
    assert read(transport.value())[2] == exposition(site.registry)


@pytest.mark.parametrize("path", ["/metrics", "/status.json"])
def test_a_reader_that_leaves(path: str) -> None:
    site = Site()
    channel, _transport = site.connect()
    channel.dataReceived(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    with capturedLogs() as events:
        channel.connectionLost(Failure(ConnectionError()))
        assert not site.turn()
    assert not events


def test_a_page_that_breaks_off_does_not_look_complete() -> None:
    site = Site()
    site.metrics.gauge("broken", "", lambda: 1 / 0)
    channel, transport = site.connect()
    channel.dataReceived(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    with capturedLogs() as events:
        while site.turn():
            pass
    assert transport.disconnecting
    assert not transport.value().endswith(b"0\r\n\r\n")
    assert events[0]["log_failure"].type is ZeroDivisionError


def test_the_numbers() -> None:
    site = Site()
    metrics = site.metrics
    plain = metrics.plain[Kind.SELECT]
    plain.queries, plain.cached, plain.cache_hits, plain.cache_misses = 100, 40, 40, 8
    for number in range(30):
        caller = metrics.caller("a.py", str(number), Kind.INSERT)
        caller.queries, caller.batched = 10, 8
        caller.latency.observe(number)
        caller.exclude(Reason.TRANSACTION)
    metrics.batch_size.observe(8)
    metrics.batch_methods["merged"] = 3
    metrics.aggregation.note(80, 10)
    status, headers, body = site.ask("/status.json")
    assert (status, headers["content-type"], headers["cache-control"]) == (200, "application/json", "no-store")
    said = json.loads(body)
    assert said["lanes"] == {"forwarded": 120, "batched": 240, "cached": 40}
    assert said["cache"] == {
        "hits": 40,
        "misses": 8,
        "entries": 3,
        "bytes": 4567,
        "max_bytes": 8000,
        "fetching": 1,
        "evictions": 5,
        "purges": 6,
        "stale": 7,
        "refreshes": 8,
        "served_bytes": 90_000,
        "verified": {"same": 2, "reordered": 1, "different": 0},
    }
    assert said["statements"]["insert"] == 300
    assert said["excluded"] == {"transaction": 30}
    assert said["batches"]["size"] == {
        "bounds": [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000],
        "counts": [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        "sum": 8,
    }
    assert (said["batches"]["strategies"]["merged"], said["batches"]["aggregation"]) == (3, 8)
    assert (said["version"], said["pending"], said["window_ms"], said["clients"]) == ("1.2", 7, 2.5, {"session": 5})
    assert said["servers"][0] | {"healthy": False, "problem": "refused"} == said["servers"][0]
    assert [caller["line"] for caller in said["callers"]] == [str(number) for number in range(29, 9, -1)]
    assert said["callers"][0] == {
        "file": "a.py",
        "line": "29",
        "query_type": "insert",
        "statements": 10,
        "batched": 8,
        "cached": 0,
        "timed": 1,
        "seconds": 29.0,
    }
    assert said["hinted_s"] == sum(range(30))


def test_the_numbers_are_summed_up_in_steps() -> None:
    site = Site(max_callers=5500)
    for number in range(5500):
        counts = site.metrics.caller("a.py", str(number), Kind.INSERT)
        counts.queries = 1
        counts.latency.observe(1 / (1 + number))
    channel, transport = site.connect()
    channel.dataReceived(b"GET /status.json HTTP/1.0\r\n\r\n")
    turns = 0
    while site.turn():
        turns += 1
    assert turns >= 6
    said = json.loads(read(transport.value())[2])
    assert said["lanes"]["forwarded"] == 5500
    assert [caller["line"] for caller in said["callers"]] == [str(number) for number in range(20)]


@pytest.mark.parametrize("path", sorted(ASSETS))
def test_assets(path: bytes) -> None:
    status, headers, body = Site().ask(f"/{path.decode()}")
    assert (status, headers["content-type"].encode()) == (200, ASSETS[path][1])
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert body
    assert b"//" not in body.replace(b"http://www.w3.org/2000/svg", b"").replace(b"// ", b"")  # nothing from elsewhere


def test_what_there_is_not() -> None:
    site = Site()
    assert [site.ask(path)[0] for path in ("/other", "/metrics/x", "/../setup.cfg", "/assets/status.js")] == [404] * 4
    assert site.ask("/", "POST")[0] == 405
    assert site.ask("/metrics", "DELETE")[0] in (405, 501)
    assert site.ask("/metrics", "HEAD")[2] == b""


class NoServer(Exception):
    """A reason."""


def test_health() -> None:
    answers: list[Any] = [True, False, "no primary", NoServer("refused")]

    def ready() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    site = Site(ready=ready)
    assert site.ask("/healthz")[::2] == (200, b"ok\n")
    assert [site.ask("/readyz")[::2] for _ in range(4)] == [
        (200, b"ok\n"),
        (503, b"not ready\n"),
        (503, b"no primary\n"),
        (503, b"refused\n"),
    ]


def test_readiness_may_take_its_time() -> None:
    waiting: list[Deferred[bool]] = []

    def ready() -> Deferred[bool]:
        waiting.append(Deferred())
        return waiting[-1]

    site = Site(ready=ready)
    one, first = site.connect()
    two, second = site.connect()
    for channel in (one, two):
        channel.dataReceived(b"GET /readyz HTTP/1.0\r\n\r\n")
    one.connectionLost(Failure(ConnectionError()))
    for answer in waiting:
        answer.callback(True)
    assert first.value() == b""
    assert read(second.value())[2] == b"ok\n"


def test_the_benchmark_of_reading_runs() -> None:
    command = [sys.executable, "-m", "benchmarks.scraping", "300"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    pages = [line.split()[0] for line in ran.stdout.splitlines()[2:]]
    assert pages == ["/", "/metrics", "/metrics", "/status.json", "/status.json"]

"""What is written at once comes before what waits for its turn, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest
import uvloop
from twisted.internet.protocol import Protocol

from tqdbproxy.transport import Loop, Wire

LARGE = bytes(range(256)) * 40_000
"""Ten million bytes: more than a socket takes at once."""


@contextmanager
def connected() -> Iterator[tuple[asyncio.AbstractEventLoop, Wire, socket.socket]]:
    """A wire on a loop of its own, and the other end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    loop = uvloop.new_event_loop()

    async def connect() -> Wire:
        made = await loop.create_unix_connection(lambda: Wire(Protocol()), sock=ours)
        return made[1]

    with ours, theirs:
        wire = loop.run_until_complete(connect())
        yield loop, wire, theirs
        wire.abortConnection()
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def received(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> bytes:
    """So many bytes, read while the loop runs."""

    def read() -> bytes:
        sock.settimeout(60)
        data = bytearray()
        while len(data) < size:
            data += sock.recv(size - len(data))
        return bytes(data)

    return loop.run_until_complete(loop.run_in_executor(None, read))


def test_what_is_written_at_once_has_left_at_once() -> None:
    with connected() as (_loop, wire, peer):
        wire.write_now(b"now")
        peer.setblocking(False)
        assert peer.recv(100) == b"now"


def test_what_waits_already_stays_in_front() -> None:
    with connected() as (loop, wire, peer):
        wire.write(b"first ")
        wire.write_now(b"second")
        assert received(loop, peer, 12) == b"first second"


@pytest.mark.parametrize("behind", [b"", b"behind"])
def test_what_the_socket_does_not_take_follows(behind: bytes) -> None:
    with connected() as (loop, wire, peer):
        wire.write_now(LARGE)
        assert 0 < wire.queued() < len(LARGE)
        wire.write_now(behind)
        assert received(loop, peer, len(LARGE) + len(behind)) == LARGE + behind


def test_to_somebody_who_has_gone() -> None:
    lost: list[object] = []

    with connected() as (loop, wire, peer):
        wire.protocol.connectionLost = lost.append  # type: ignore[assignment, method-assign]
        peer.close()
        wire.write_now(b"x")
        for _ in range(1000):
            loop.run_until_complete(asyncio.sleep(0.01))
            if lost:
                break
        assert len(lost) == 1
        wire.write_now(b"y")


class StoppedLoop(Loop):
    """Its clock stands still, and it keeps the delays that it was asked for instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.delays_s: list[float] = []

    def time(self) -> float:
        return 1000.0

    def call_later(self, delay: float, *_args: object, **_more: object) -> asyncio.TimerHandle:
        self.delays_s.append(delay)
        return cast(asyncio.TimerHandle, None)


@pytest.mark.parametrize(
    ("due_in_s", "delay_s"),
    [(-0.0005, 0), (0, 0), (0.0001, 0.001), (0.0004, 0.001), (0.001, 0.001), (0.0014, 0.002), (0.0016, 0.002)],
)
def test_a_timer_is_not_early_and_not_a_millisecond_late_for_nothing(due_in_s: float, delay_s: float) -> None:
    loop = StoppedLoop()
    loop.call_at(1000 + due_in_s, pytest.fail)
    loop.close()
    assert loop.delays_s == [delay_s]


@pytest.mark.parametrize("delay_s", [0.0001, 0.0014])
def test_a_real_timer_is_not_early(delay_s: float) -> None:
    loop = Loop()
    called = loop.create_future()
    due = loop.time() + delay_s
    loop.call_at(due, lambda: called.set_result(loop.time()))
    try:
        assert loop.run_until_complete(called) >= due
    finally:
        loop.close()


def test_a_timer_that_is_never_due() -> None:
    loop = Loop()
    loop.call_at(float("inf"), pytest.fail).cancel()
    loop.close()


def test_timers_go_on_when_somebody_puts_the_clock_back() -> None:
    program = """
import itertools, time
time.time = itertools.count(1e9, -1).__next__
from tqdbproxy.transport import install_reactor
install_reactor()
from twisted.internet import reactor
reactor.callLater(0.01, reactor.stop)
reactor.run()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

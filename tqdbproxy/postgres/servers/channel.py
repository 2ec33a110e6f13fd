"""One connection that listens to what is notified on a channel of a server, waited for in a thread of its own.

The law of this module: every wait has an end, and a `Bell` ends it at once; nothing else blocks but the look-up of
names. It uses psycopg's ``pq``, because psycopg's own connection can't be told to stop while it connects, and keeps
what a server says at the end of a session to itself.
"""

from __future__ import annotations

import math
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import pq

from tqdbproxy.errors import ServerClosed, ServerUnreachable
from tqdbproxy.postgres.servers.hosts import Attempt, attempts

CONNECTED, FAILED = pq.PollingStatus.OK, pq.PollingStatus.FAILED
ERRORS = (b"ERROR", b"FATAL", b"PANIC")


@dataclass(frozen=True, slots=True)
class Patience:
    """After ``quiet_s`` seconds without a word the server is asked whether it is there; it gets ``answer_s`` for it."""

    quiet_s: float = 30.0
    answer_s: float = 10.0


PATIENCE = Patience()


class Rung(Exception):
    """The bell has been rung: what waits is to end."""


class Bell:
    """Ends the waiting of another thread, once and for all."""

    def __init__(self) -> None:
        self._heard, self._rung = socket.socketpair()

    def ring(self) -> None:
        """From any thread, as often as one likes."""
        self._rung.close()

    def close(self) -> None:
        """Nobody waits any more."""
        self._heard.close()

    def wait(self, timeout_s: float, fd: int = -1, events: int = select.POLLIN) -> bool:
        """Whether ``fd`` is ready within that time. Raises `Rung`."""
        poll = select.poll()  # select() itself can't do with what a proxy of thousands of sockets gets
        poll.register(self._heard, select.POLLIN)
        if fd >= 0:
            poll.register(fd, events)
        ready = [which for which, _events in poll.poll(max(0, math.ceil(timeout_s * 1000)))]
        if self._heard.fileno() in ready:
            raise Rung
        return bool(ready)


class Channel:
    """A connection to the server of ``attempt``; `open` first, `close` in the end."""

    def __init__(self, attempt: Attempt, bell: Bell, patience: Patience = PATIENCE) -> None:
        self._attempt = attempt
        self._bell = bell
        self._patience = patience
        self._said = ""
        """The error that the server sent without being asked; it says why it closes the connection."""
        self._pg = pq.PGconn.connect_start(attempt.conninfo.encode())
        self._pg.notice_handler = self._noticed

    @property
    def place(self) -> str:
        """Server and database, for people."""
        host, port, database = (part.decode(errors="replace") for part in (self._pg.host, self._pg.port, self._pg.db))
        return f"{host} port {port}, database {database}"

    def open(self, name: str) -> None:
        """Log in and listen to the channel ``name``. Raises `ServerUnreachable`."""
        end = time.monotonic() + self._attempt.timeout_s
        try:
            self._connect(end)
            self._pg.nonblocking = 1
            self._say(f"LISTEN {name}".encode(), end)
        except (psycopg.Error, ServerClosed) as problem:
            raise ServerUnreachable(_one_line(problem)) from None

    def close(self) -> None:
        """Give the connection back."""
        self._pg.notice_handler = None  # with it, the connection would live until somebody collects circles
        self._pg.finish()

    def payloads(self) -> Iterator[bytes]:
        """What is notified, as it comes. Raises `ServerClosed` when the connection is lost."""
        try:
            while True:
                while notice := self._pg.notifies():
                    yield notice.extra
                # An error of a session that does nothing is its end, or a notification that couldn't be sent to us.
                if self._said:
                    raise ServerClosed(self._said)
                if self._bell.wait(self._patience.quiet_s, self._pg.socket):
                    self._pg.consume_input()
                else:
                    self._say(b"SELECT 1", time.monotonic() + self._patience.answer_s)
        except psycopg.Error as problem:
            raise ServerClosed(self._said or _one_line(problem)) from None

    def _connect(self, end: float) -> None:
        events = {pq.PollingStatus.READING: select.POLLIN, pq.PollingStatus.WRITING: select.POLLOUT}
        # https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PQCONNECTSTARTPARAMS
        while self._pg.status != pq.ConnStatus.BAD and (state := self._pg.connect_poll()) != FAILED:
            if state == CONNECTED:
                return
            if not self._bell.wait(end - time.monotonic(), self._pg.socket, events[pq.PollingStatus(state)]):
                raise ServerClosed(f"{self._attempt.server}: no session within {self._attempt.timeout_s:g} s")
        raise ServerClosed(self._pg.get_error_message())

    def _say(self, command: bytes, end: float) -> None:
        """Say it and hear that it is done."""
        self._pg.send_query(command)
        while True:
            while self._pg.is_busy():
                if not self._bell.wait(end - time.monotonic(), self._pg.socket):
                    raise ServerClosed(f"{self._attempt.server}: no answer to {command.decode()}")
                self._pg.consume_input()
            result = self._pg.get_result()
            if result is None:
                return
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise ServerClosed(self._said or _one_line(result.get_error_message()))

    def _noticed(self, notice: pq.abc.PGresult) -> None:
        if notice.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) in ERRORS:
            self._said = (notice.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")


def open_channel(conninfo: str, name: str, bell: Bell, patience: Patience = PATIENCE) -> Channel:
    """A channel of the first of the servers that lets us in. Raises `ServerUnreachable`, or `Rung`."""
    problems: list[str] = []
    for attempt in attempts(conninfo):
        if isinstance(attempt, ServerUnreachable):
            problems.append(str(attempt))
            continue
        channel = Channel(attempt, bell, patience)
        try:
            channel.open(name)
        except ServerUnreachable as problem:
            channel.close()
            problems.append(str(problem))
        except BaseException:
            channel.close()
            raise
        else:
            return channel
    raise ServerUnreachable("; ".join(problems))


def _one_line(problem: object) -> str:
    return " ".join(str(problem).split())

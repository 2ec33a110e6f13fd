"""Listening for purges on real servers: what is heard, what is told when it isn't, and how it ends."""

from __future__ import annotations

import itertools
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from tests.standbys import promote, standby_of
from tqdbproxy.addresses import TcpAddress
from tqdbproxy.embedded import EmbeddedServer
from tqdbproxy.postgres.servers.channel import PATIENCE, Patience
from tqdbproxy.postgres.servers.hosts import at_servers
from tqdbproxy.postgres.servers.purges import PurgeListener, PurgeListeners

HBA = "host all salted 127.0.0.1/32 scram-sha-256"
GAP = ("gap",)
DEADLINE_S = 30.0
SOON_S = 8.0
"""How long a thread may take to end: less than any of its own patience."""

numbers = itertools.count()


@implementer(ILogObserver)
class Rig:
    """A listener, and the reactor's side of it: calls wait in a queue until the test lets them happen."""

    def __init__(self, conninfo: str, patience: Patience = PATIENCE) -> None:
        self.heard: list[tuple[str, ...]] = []
        self.logged: list[str] = []
        self.calls = 0
        self._queue: queue.SimpleQueue[tuple[Callable[..., object], tuple[object, ...]]] = queue.SimpleQueue()
        self.name = f"rig {next(numbers)}"
        self.listener = PurgeListener(
            self.name,
            conninfo,
            purge=self.heard.append,
            gap=lambda: self.heard.append(GAP),
            call_from_thread=lambda what, *arguments: self._queue.put((what, arguments)),
            patience=patience,
        )

    def __call__(self, event: LogEvent) -> None:
        """Observe the log."""
        if event.get("listener") == self.name:
            self.logged.append(f"{event['log_level'].name}: {formatEvent(event)}")

    def step(self, timeout_s: float = DEADLINE_S) -> None:
        """Let one call happen. Raises `queue.Empty`."""
        what, arguments = self._queue.get(timeout=timeout_s)
        self.calls += 1
        what(*arguments)

    def until(self, done: Callable[[], bool]) -> None:
        """Let calls happen until then."""
        end = time.monotonic() + DEADLINE_S
        while not done():
            self.step(end - time.monotonic())

    def until_listening(self) -> None:
        self.until(lambda: self.listener.listening)

    def rest(self) -> None:
        """Let all calls happen that were made."""
        while not self._queue.empty():
            self.step()

    def until_called(self) -> None:
        """The thread has made a call, which hasn't happened yet."""
        self._queue.put(self._queue.get(timeout=DEADLINE_S))

    @property
    def thread(self) -> threading.Thread | None:
        found = [thread for thread in threading.enumerate() if thread.name == f"purges: {self.name}"]
        return found[0] if found else None

    def stop(self) -> None:
        """Returns when the thread is gone; fails if that isn't soon."""
        thread = self.thread
        began = time.monotonic()
        self.listener.stop()
        assert time.monotonic() - began < SOON_S / 2
        if thread is not None:
            thread.join(SOON_S)
            assert not thread.is_alive()


@contextmanager
def rigged(conninfo: str, patience: Patience = PATIENCE) -> Iterator[Rig]:
    """A listener that has been started; in the end it is stopped, and has left nothing behind."""
    rig = Rig(conninfo, patience)
    globalLogPublisher.addObserver(rig)
    try:
        rig.listener.start()
        yield rig
    finally:
        rig.stop()
        globalLogPublisher.removeObserver(rig)


@pytest.fixture(scope="module")
def own() -> Iterator[EmbeddedServer]:
    """A server that can be stopped, and asks ``salted`` for a password."""
    with EmbeddedServer(hba=[HBA]) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("CREATE ROLE salted LOGIN PASSWORD 'secret'")
        yield server


@contextmanager
def speaker(dsn: str) -> Iterator[Callable[[str], object]]:
    """Notifies as psql would."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield lambda payload: connection.execute("SELECT pg_notify('tqdbproxy_purge', %s)", [payload])


def listeners_of(connection: psycopg.Connection) -> list[int]:
    """Process ids of the sessions that listen."""
    found = connection.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tqdbproxy'"
    )
    return [pid for (pid,) in found.fetchall()]


@contextmanager
def blackhole() -> Iterator[int]:
    """The port of a socket to which one can connect, and that says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


# What is heard


def test_what_is_notified_is_purged(postgres: EmbeddedServer, database: str) -> None:
    dsn = postgres.dsn(database)
    with rigged(dsn) as rig, speaker(dsn) as say:
        rig.until_listening()
        assert rig.heard == [GAP]  # whatever was kept before may be old
        say("a")
        say(" table:s.b, größe ,,a, a")
        say("")
        say("*")
        with psycopg.connect(dsn) as connection:
            connection.execute("NOTIFY tqdbproxy_purge")
            connection.execute("NOTIFY tqdbproxy_purge, 'last'")
            connection.execute("NOTIFY another, 'nobody'")
        rig.until(lambda: rig.heard[-1] == ("last",))
        assert rig.heard == [GAP, ("a",), ("table:s.b", "größe", "a"), ("*",), ("last",)]
        assert rig.logged == [
            f"info: {rig.name}: listening for purges at 127.0.0.1 port {postgres.port}, database {database}"
        ]


@contextmanager
def encoded(own: EmbeddedServer, encoding: str) -> Iterator[str]:
    """Connection string for a new database with this encoding, where clients speak LATIN1."""
    with psycopg.connect(own.dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE encoded ENCODING {encoding} TEMPLATE template0".encode())
        try:
            yield own.dsn("encoded", client_encoding="latin1")
        finally:
            connection.execute("DROP DATABASE encoded WITH (FORCE)")


def test_a_database_with_another_encoding(own: EmbeddedServer) -> None:
    with encoded(own, "LATIN1") as dsn, rigged(dsn) as rig, speaker(dsn) as say:
        rig.until_listening()
        say("größe")
        rig.until(lambda: len(rig.heard) > 1)
        assert rig.heard == [GAP, ("größe",)]


def test_what_the_server_can_t_send_us_is_a_gap(own: EmbeddedServer) -> None:
    with encoded(own, "SQL_ASCII") as dsn, rigged(dsn) as rig, speaker(dsn) as say:
        rig.until_listening()
        say("größe")
        rig.until(lambda: not rig.listener.listening)
        assert "invalid byte sequence" in rig.listener.problem
        rig.until_listening()
        say("a")
        rig.until(lambda: rig.heard[-1] == ("a",))
        assert rig.heard == [GAP, GAP, GAP, ("a",)]


def test_many_at_once_come_in_their_order(postgres: EmbeddedServer, database: str) -> None:
    dsn = postgres.dsn(database)
    with rigged(dsn) as rig, psycopg.connect(dsn, autocommit=True) as connection:
        rig.until_listening()
        connection.execute(
            "SELECT pg_notify('tqdbproxy_purge', n || repeat('x', 1000)) FROM generate_series(1, 5000) n"
        )
        rig.until(lambda: len(rig.heard) > 5000)
        assert [int(tag.rstrip("x")) for (tag,) in rig.heard[1:]] == [*range(1, 5001)]


# Gaps


def test_a_lost_connection_is_a_gap_twice(postgres: EmbeddedServer, database: str) -> None:
    dsn = postgres.dsn(database)
    with rigged(dsn) as rig, psycopg.connect(dsn, autocommit=True) as connection, speaker(dsn) as say:
        rig.until_listening()
        (pid,) = listeners_of(connection)
        connection.execute("SELECT pg_terminate_backend(%s)", [pid])
        rig.until(lambda: not rig.listener.listening)
        assert rig.heard == [GAP, GAP]
        assert rig.listener.problem == "terminating connection due to administrator command"
        rig.until_listening()
        assert rig.heard == [GAP, GAP, GAP]
        say("a")
        rig.until(lambda: len(rig.heard) > 3)
        assert rig.heard[3:] == [("a",)]
    began = f"info: {rig.name}: listening for purges at 127.0.0.1 port {postgres.port}, database {database}"
    reason = "terminating connection due to administrator command"
    assert rig.logged == [began, f"warn: {rig.name}: listening for purges no more: {reason}", began]


def test_a_server_that_is_stopped_and_started(own: EmbeddedServer) -> None:
    with rigged(own.dsn()) as rig:
        rig.until_listening()
        own.stop()
        calls = rig.calls
        rig.until(lambda: rig.calls >= calls + 3)  # lost, and tried in vain
        assert rig.heard == [GAP, GAP]
        assert "refused" in rig.listener.problem
        own.start()
        rig.until_listening()
        assert rig.heard == [GAP, GAP, GAP]
        with speaker(own.dsn()) as say:
            say("a")
            rig.until(lambda: rig.heard[-1] == ("a",))
    assert [line.split(": ")[2] for line in rig.logged] == [
        f"listening for purges at 127.0.0.1 port {own.port}, database postgres",
        "listening for purges no more",
        f"listening for purges at 127.0.0.1 port {own.port}, database postgres",
    ]


def test_a_server_that_falls_silent_is_noticed(postgres: EmbeddedServer, database: str) -> None:
    dsn = postgres.dsn(database)
    patience = Patience(quiet_s=0.05, answer_s=0.5)
    with rigged(dsn, patience) as rig, psycopg.connect(dsn, autocommit=True) as connection, speaker(dsn) as say:
        rig.until_listening()
        (pid,) = listeners_of(connection)
        os.kill(pid, signal.SIGSTOP)
        try:
            rig.until(lambda: not rig.listener.listening)
            assert rig.listener.problem == "127.0.0.1: no answer to SELECT 1"
        finally:
            os.kill(pid, signal.SIGCONT)
        rig.until_listening()
        say("a")
        rig.until(lambda: rig.heard[-1] == ("a",))


def test_what_is_notified_during_a_question_is_heard(postgres: EmbeddedServer, database: str) -> None:
    dsn = postgres.dsn(database)
    with rigged(dsn, Patience(quiet_s=0.0)) as rig, speaker(dsn) as say:  # asks all the time
        rig.until_listening()
        for number in range(200):
            say(f"{number}")
        rig.until(lambda: len(rig.heard) > 200)
        assert rig.heard[1:] == [(f"{number}",) for number in range(200)]


def test_a_failover_is_followed() -> None:
    with EmbeddedServer() as primary, standby_of(primary) as standby:
        addresses = [TcpAddress(server.host, server.port) for server in (standby, primary)]
        with rigged(at_servers("user=postgres dbname=postgres", addresses, "disable", "")) as rig:
            rig.until_listening()
            with speaker(primary.dsn()) as say:
                say("a")
                rig.until(lambda: len(rig.heard) > 1)
            primary.kill9()
            rig.until(lambda: not rig.listener.listening)
            promote(standby)
            rig.until_listening()
            with speaker(standby.dsn()) as say:
                say("b")
                rig.until(lambda: rig.heard[-1] == ("b",))
        assert rig.heard == [GAP, ("a",), GAP, GAP, ("b",)]
        assert f"port {standby.port}" in rig.logged[-1]


# Who doesn't get in


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"user": "salted", "password": "guess-me"}, "password authentication failed"),
        ({"user": "nobody-of-that-name"}, "does not exist"),
        ({"dbname": "nothing-of-that-name"}, "does not exist"),
        ({"host": "no-such-host.invalid"}, "no-such-host.invalid: "),
        ({"sslmode": "require"}, "server does not support SSL"),
        ({"target_session_attrs": "standby"}, "is not in hot standby mode"),
    ],
)
def test_who_is_refused_is_told_once(own: EmbeddedServer, more: dict[str, str], reason: str) -> None:
    with rigged(own.dsn(**more)) as rig:
        rig.until(lambda: rig.calls >= 4)
        assert rig.heard == []
        assert len(rig.logged) == 1
        assert rig.logged[0].startswith(f"warn: {rig.name}: can't listen for purges: ")
        assert reason in rig.logged[0]
        assert "guess-me" not in rig.logged[0]
        assert "\n" not in rig.logged[0]


def test_a_right_password_gets_in(own: EmbeddedServer) -> None:
    with rigged(own.dsn(user="salted", password="secret", dbname="postgres")) as rig:
        rig.until_listening()
        assert rig.heard == [GAP]


def test_an_address_where_nobody_answers_is_passed_by(postgres: EmbeddedServer, database: str) -> None:
    with blackhole() as port:
        hosts = f"host=127.0.0.1,127.0.0.1 port={port},{postgres.port}"
        with rigged(f"{hosts} user=postgres dbname={database} connect_timeout=1") as rig:
            rig.until_listening()
            assert rig.calls == 1


# The end


def test_a_stop_while_it_listens(postgres: EmbeddedServer, database: str) -> None:
    dsn = postgres.dsn(database)
    rig = Rig(dsn)
    rig.listener.start()
    rig.listener.start()  # a second time: nothing
    rig.until_listening()
    with psycopg.connect(dsn, autocommit=True) as connection, speaker(dsn) as say:
        assert len(listeners_of(connection)) == 1
        say("too late")
        rig.until_called()
        rig.stop()
        rig.rest()
        assert rig.heard == [GAP]
        assert not rig.listener.listening
        rig.listener.stop()
        rig.listener.start()  # and again
        rig.until_listening()
        say("in time")
        rig.until(lambda: rig.heard[-1] == ("in time",))
        rig.stop()


@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_a_stop_while_it_connects(sslmode: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(DEADLINE_S)
        port = server.getsockname()[1]
        rig = Rig(f"host=127.0.0.1 port={port} user=postgres sslmode={sslmode} connect_timeout=60")
        rig.listener.start()
        accepted, _peer = server.accept()
        with accepted:
            accepted.settimeout(DEADLINE_S)
            assert accepted.recv(1000)  # it has said what it wants, and waits for an answer
            rig.stop()
            assert accepted.recv(1) == b""  # it has hung up
        rig.rest()
        assert (rig.calls, rig.heard) == (0, [])


def test_a_stop_during_a_pause() -> None:
    with blackhole() as port:
        pass
    rig = Rig(f"host=127.0.0.1 port={port} user=postgres")
    rig.listener.start()
    rig.until(lambda: rig.calls >= 5)  # the next pause is 1.6 s
    rig.stop()


def test_thousands_of_open_files_are_no_obstacle(postgres: EmbeddedServer, database: str) -> None:
    dsn = postgres.dsn(database)
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]  # select() ends at 1024
    try:
        with rigged(dsn) as rig:
            rig.until_listening()
    finally:
        for file in files:
            os.close(file)


# All groups


def test_each_group_hears_its_own(postgres: EmbeddedServer, database: str, own: EmbeddedServer) -> None:
    calls: queue.SimpleQueue[tuple[Callable[..., object], tuple[object, ...]]] = queue.SimpleQueue()
    heard: list[tuple[str | None, tuple[str, ...]]] = []
    listeners = PurgeListeners(
        lambda group, tags: heard.append((group, tags)),
        lambda group: heard.append((group, GAP)),
        lambda what, *arguments: calls.put((what, arguments)),
    )

    def until(done: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE_S
        while not done():
            what, arguments = calls.get(timeout=end - time.monotonic())
            what(*arguments)

    listeners.replace({"a": postgres.dsn(database), "b": own.dsn()})
    listeners.start()
    try:
        until(lambda: not any(listeners.problems().values()))
        assert sorted(heard) == [("a", GAP), ("b", GAP)]
        with speaker(postgres.dsn(database)) as say_a, speaker(own.dsn()) as say_b:
            say_a("x")
            until(lambda: len(heard) > 2)
            say_b("y")
            until(lambda: len(heard) > 3)
            assert heard[2:] == [("a", ("x",)), ("b", ("y",))]
            listeners.replace({"a": postgres.dsn(database), None: own.dsn()})
            until(lambda: not any(listeners.problems().values()))
            assert heard[4:] == [(None, GAP)]  # a was left alone
            say_b("z")
            until(lambda: len(heard) > 5)
            assert heard[5:] == [(None, ("z",))]
    finally:
        listeners.stop()

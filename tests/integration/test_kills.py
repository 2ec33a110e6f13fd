"""Server processes that die in mid batch: the books are right afterwards.

Every acknowledged write is a row, no row is there twice, what was not acknowledged was reported as failed, and only
what was reported as unknown (08007) or lost with its connection may be either.

``kill -9`` of one of its processes makes PostgreSQL restart all of them. ``TQDBPROXY_KILLS`` is how often (100).
Connections are closed, not left by ``with``: psycopg would commit first, fail, and leave them open.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field

import psycopg
import pytest

from tests.integration.conftest import assert_no_exception
from tests.integration.metrics import scrape
from tests.integration.waiting import wait_for
from tests.proxies import RunningProxy
from tqdbproxy.embedded import EmbeddedServer

KILLS = int(os.environ.get("TQDBPROXY_KILLS", "100"))
TERMINATIONS = 200
WRITERS = 12
CONFIG = "[write_batch]\nmax_batch_size = 8\n"
TEXTS = {
    "prepared": "/* batch:5 */ INSERT INTO t (who, n) VALUES (%s, %s) RETURNING id",
    "merged": "/* batch:5 */ INSERT INTO t (who, n) VALUES (%s, %s)",
}
# The check makes a batch slow enough to be hit.
SCHEMA = (
    "CREATE FUNCTION slowly() RETURNS bool LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.0005); RETURN true; END'",
    "CREATE TABLE t (id bigserial PRIMARY KEY, who int, n int CHECK (slowly()))",
)
# The processes that run a batch at this moment.
CARRIERS = (
    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND state = 'active'"
    " AND query LIKE '%INSERT INTO t%' AND pid <> pg_backend_pid()"
)
# A write that was alone in its batch is forwarded, and its client hears what the server says as it dies.
UNKNOWN = {"08007", "57P01", "57P02", "lost"}


@dataclass
class Book:
    """What one writer was told about each of its writes."""

    who: int
    acknowledged: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    codes: Counter[str] = field(default_factory=Counter)


class Writers:
    """Threads that write as fast as they are answered, and connect again when they have to."""

    def __init__(self, proxy: RunningProxy, text: str) -> None:
        self._dsn = proxy.dsn(connect_timeout=60)
        self._text = text
        self._over = threading.Event()
        self.books = [Book(who) for who in range(WRITERS)]
        self._threads = [threading.Thread(target=self._run, args=(book,)) for book in self.books]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def acknowledged(self) -> int:
        return sum(len(book.acknowledged) for book in self.books)

    def _run(self, book: Book) -> None:
        n = 0
        while not self._over.is_set():
            try:
                with closing(psycopg.connect(self._dsn, autocommit=True)) as connection:
                    while not self._over.is_set() and not connection.closed:
                        n += 1
                        self._write(connection, book, n)
            except psycopg.OperationalError:
                time.sleep(0.02)  # it recovers

    def _write(self, connection: psycopg.Connection, book: Book, n: int) -> None:
        try:
            connection.execute(self._text.encode(), (book.who, n))
        except psycopg.Error as error:
            code = error.sqlstate or "lost"
            book.codes[code] += 1
            (book.unknown if code in UNKNOWN else book.failed).add(n)
        else:
            book.acknowledged.add(n)


def check(server: EmbeddedServer, books: list[Book]) -> Counter[str]:
    """Compare the books with the table; returns how often each code was given."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        rows = Counter(connection.execute("SELECT who, n FROM t").fetchall())
    assert max(rows.values()) == 1
    codes: Counter[str] = Counter()
    for book in books:
        found = {n for who, n in rows if who == book.who}
        assert book.acknowledged <= found, f"acknowledged and lost: {book.acknowledged - found}"
        assert not book.failed & found, f"reported as failed, but there: {book.failed & found}"
        assert found <= book.acknowledged | book.unknown, f"never sent? {found - book.acknowledged - book.unknown}"
        codes += book.codes
    assert set(codes) <= UNKNOWN, "nothing else can go wrong here"
    return codes


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(conf=["restart_after_crash = on", "log_min_messages = fatal"], shared_buffers="16MB") as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            for statement in SCHEMA:
                connection.execute(statement.encode())
        yield server


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", TEXTS)
def test_kill_9_of_the_process_that_runs_a_batch(
    server: EmbeddedServer, start: Callable[..., RunningProxy], method: str
) -> None:
    proxy = start(f"{server.host}:{server.port}", CONFIG)
    chance = random.Random(7)
    with Writers(proxy, TEXTS[method]) as writers:
        for _ in range(KILLS // len(TEXTS)):
            before = writers.acknowledged
            wait_for(lambda: writers.acknowledged > before + 50, 60)  # noqa: B023
            _kill_a_carrier(server, chance)
    wait_for(lambda: _recovered(server), 60)
    codes = check(server, writers.books)
    assert codes["08007"] > KILLS / len(TEXTS)
    assert scrape(proxy).total("write_batch_method_total", method=method) > KILLS
    assert_no_exception(proxy)
    wait_for(lambda: (page := scrape(proxy)).total("clients") == page.total("server_connections") == 0)


def _recovered(server: EmbeddedServer) -> bool:
    with suppress(psycopg.OperationalError), closing(psycopg.connect(server.dsn())) as connection:
        return not connection.closed
    return False


def _kill_a_carrier(server: EmbeddedServer, chance: random.Random) -> None:
    """Find a process that runs a batch, and kill it at once."""

    def look() -> bool:
        with suppress(psycopg.OperationalError), closing(psycopg.connect(server.dsn(), autocommit=True)) as watcher:
            for _ in range(100):
                found = watcher.execute(CARRIERS).fetchall()
                if found:
                    os.kill(chance.choice(found)[0], signal.SIGKILL)
                    return True
        return False

    wait_for(look, 60)


@pytest.mark.parametrize("method", TEXTS)
def test_termination_of_the_process_that_runs_a_batch(
    server: EmbeddedServer, start: Callable[..., RunningProxy], method: str
) -> None:
    proxy = start(f"{server.host}:{server.port}", CONFIG)
    with Writers(proxy, TEXTS[method]) as writers, psycopg.connect(server.dsn(), autocommit=True) as watcher:
        ended = 0
        while ended < TERMINATIONS // len(TEXTS):
            ended += len(watcher.execute(CARRIERS.replace("SELECT pid", "SELECT pg_terminate_backend(pid)")).fetchall())
    assert check(server, writers.books)["08007"] > 0
    assert_no_exception(proxy)
    wait_for(lambda: (page := scrape(proxy)).total("clients") == page.total("server_connections") == 0)

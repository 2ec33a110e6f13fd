"""A proxy whose groups are executed when they are full, so that tests know who was in a batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import psycopg
import pytest

from tests.integration.batching.crowd import CONFIG, COUNT, Crowd, Reply, crowd, reply
from tests.integration.compare import Ends
from tests.integration.conftest import assert_no_exception
from tests.integration.wire import Wire, query
from tests.proxies import RunningProxy, start_proxy
from tqdbproxy.embedded import EmbeddedServer

MakeCrowd = Callable[..., Crowd]


@pytest.fixture(scope="session")
def batching(postgres: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """The proxy: a group is executed when it has `COUNT` members, or its window has ended."""
    running = start_proxy(tmp_path_factory.mktemp("batching"), f"{postgres.host}:{postgres.port}", CONFIG)
    yield running
    running.stop()
    assert_no_exception(running)


@pytest.fixture(scope="session")
def _arena(postgres: EmbeddedServer) -> Iterator[str]:
    """One database for all tests: schemas are made in a hundredth of the time."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE arena")
        yield "arena"
        connection.execute("DROP DATABASE arena WITH (FORCE)")


@dataclass(frozen=True)
class Place(Ends):
    """Two schemas of their own: ``here`` for what is done through the proxy, ``there`` for the same done directly."""

    here: str = ""
    there: str = ""

    def directly(self, schema: str, *texts: str) -> list[Reply]:
        """Execute in this schema; all must succeed."""
        with Wire(self.direct_port).start(self.database, search_path=schema) as wire:
            replies = [reply(wire.ask(query(text))) for text in texts]
        for text, said in zip(texts, replies, strict=True):
            assert not said.sqlstate, (text, said)
        return replies

    def make(self, *texts: str) -> None:
        """Execute in both."""
        for schema in (self.here, self.there):
            self.directly(schema, *texts)

    def rows(self, question: str, schema: str = "") -> tuple[tuple[bytes | None, ...], ...]:
        """What a query finds, ``here`` if nothing else is said."""
        return self.directly(schema or self.here, question)[0].rows


@pytest.fixture(scope="session")
def _numbers() -> Iterator[int]:
    return itertools.count()


@pytest.fixture
def place(postgres: EmbeddedServer, batching: RunningProxy, _arena: str, _numbers: Iterator[int]) -> Place:
    """A place in the database that all tests share."""
    number = next(_numbers)
    here, there = f"here{number}", f"there{number}"
    dsns = postgres.dsn(_arena), batching.dsn(_arena)
    found = Place(_arena, *dsns, postgres.port, batching.port, here, there)
    found.prepare(f"CREATE SCHEMA {here}", f"CREATE SCHEMA {there}")
    return found


@pytest.fixture
def crowds(place: Place, batching: RunningProxy) -> Iterator[MakeCrowd]:
    """Makes crowds that write ``here`` through ``batching``, closed after the test."""
    with ExitStack() as stack:

        def make(count: int = COUNT, port: int = 0, **options: str) -> Crowd:
            options.setdefault("search_path", place.here)
            return stack.enter_context(crowd(port or batching, place.database, count, **options))

        yield make


@pytest.fixture(scope="session")
def differing(postgres: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A proxy that keeps windows to their end, and batches of any size."""
    running = start_proxy(
        tmp_path_factory.mktemp("differing"), f"{postgres.host}:{postgres.port}", "[write_batch]\nearly_quorum = off\n"
    )
    yield running
    running.stop()
    assert_no_exception(running)

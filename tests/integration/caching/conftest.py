"""A proxy whose answers from memory are compared with its server's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest

from tests.integration.caching.places import Place
from tests.integration.conftest import assert_no_exception
from tests.proxies import RunningProxy, start_proxy
from tqdbproxy.embedded import EmbeddedServer

MakePlace = Callable[..., Place]


@pytest.fixture(scope="session")
def caching(postgres: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """The proxy, with default settings."""
    running = start_proxy(tmp_path_factory.mktemp("caching"), f"{postgres.host}:{postgres.port}")
    yield running
    running.stop()
    assert_no_exception(running)


@pytest.fixture(scope="session")
def _pantry(postgres: EmbeddedServer) -> Iterator[str]:
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE pantry")
        yield "pantry"
        connection.execute("DROP DATABASE pantry WITH (FORCE)")


@pytest.fixture(scope="session")
def _schemas() -> Iterator[int]:
    return itertools.count()


@pytest.fixture
def places(postgres: EmbeddedServer, _pantry: str, _schemas: Iterator[int]) -> Iterator[MakePlace]:
    """Makes places behind any proxy in front of the shared server."""
    with ExitStack() as stack:

        def make(proxy: RunningProxy) -> Place:
            place = Place(proxy, postgres.port, _pantry, f"shelf{next(_schemas)}")
            stack.callback(place.close)
            place.do(f"CREATE SCHEMA {place.schema}")
            return place

        yield make


@pytest.fixture
def place(caching: RunningProxy, places: MakePlace) -> Place:
    """A place behind `caching`."""
    return places(caching)

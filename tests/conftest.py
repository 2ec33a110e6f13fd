"""Fixtures: an embedded PostgreSQL for the whole run, a database for one test, proxies in front of them."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import psycopg
import pytest

from tests.proxies import Ports, RunningProxy, start_proxy
from tqdbproxy.embedded import EmbeddedServer, reserved_ports

# Deadlines measure the machine, not the code; pytest-timeout finds what hangs.
hypothesis.settings.register_profile("tqdbproxy", deadline=None)
hypothesis.settings.load_profile("tqdbproxy")


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedServer]:
    """One PostgreSQL for all tests. Who stops, kills or reconfigures a server makes an EmbeddedServer of his own."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture(scope="session")
def _database_numbers() -> Iterator[int]:
    return itertools.count()


@pytest.fixture
def database(postgres: EmbeddedServer, _database_numbers: Iterator[int]) -> Iterator[str]:
    """The name of a new database on ``postgres``, dropped after the test."""
    name = f"test_{next(_database_numbers)}"
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield name
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(scope="session")
def proxy(postgres: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """One proxy with the default configuration in front of ``postgres``, for all tests."""
    running = start_proxy(tmp_path_factory.mktemp("proxy"), f"{postgres.host}:{postgres.port}")
    yield running
    assert running.stop() == -signal.SIGTERM, running.log  # twistd ends with the signal that it got


@pytest.fixture
def ports() -> Iterator[Ports]:
    """Makes so many ports that nobody listens on, and nobody else gets while the test lasts."""
    with ExitStack() as stack:
        yield lambda count: stack.enter_context(reserved_ports(count))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningProxy]]:
    """``start_proxy`` with folders of its own; what it started is stopped after the test."""
    with ExitStack() as stack:
        numbers = itertools.count()

        def start_one(primary: str, text: str = "", **environ: str) -> RunningProxy:
            folder = tmp_path / f"proxy{next(numbers)}"
            folder.mkdir()
            running = start_proxy(folder, primary, text, **environ)
            stack.callback(running.stop)
            return running

        yield start_one

"""Fixtures for one database, reached directly and through the proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest
from psycopg import sql

from tests.integration.compare import Ends
from tests.integration.wire import Wire
from tests.proxies import RunningProxy
from tqdbproxy.embedded import EmbeddedServer

LEFT_OVER = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"


@pytest.fixture(scope="session", autouse=True)
def _nothing_unexpected(proxy: RunningProxy) -> Iterator[None]:
    """Whatever the tests do to the proxy that they share, it logs no exception."""
    yield
    assert_no_exception(proxy)


def assert_no_exception(proxy: RunningProxy) -> None:
    """An exception that nobody expected would be logged with its traceback."""
    assert "Traceback" not in proxy.log, proxy.log
    assert "#critical" not in proxy.log, proxy.log


@pytest.fixture(scope="session")
def _one_database(postgres: EmbeddedServer) -> Iterator[str]:
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE integration")
        yield "integration"
        connection.execute("DROP DATABASE integration WITH (FORCE)")


@pytest.fixture
def database(postgres: EmbeddedServer, _one_database: str) -> Iterator[str]:
    """A database that is empty: the same one for all tests, which is swept in a tenth of the time of making one."""
    yield _one_database
    with psycopg.connect(postgres.dsn(_one_database), autocommit=True) as connection:
        connection.execute(LEFT_OVER)
        for (schema,) in connection.execute(SCHEMAS).fetchall():
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
        connection.execute("CREATE SCHEMA public; GRANT ALL ON SCHEMA public TO PUBLIC")


@pytest.fixture
def ends_of(postgres: EmbeddedServer, database: str) -> Callable[[RunningProxy], Ends]:
    """The ends of the test's database for one proxy."""

    def make(proxy: RunningProxy) -> Ends:
        return Ends(database, postgres.dsn(database), proxy.dsn(database), postgres.port, proxy.port)

    return make


@pytest.fixture
def ends(proxy: RunningProxy, ends_of: Callable[[RunningProxy], Ends]) -> Ends:
    """The test's database, directly and through the proxy that all tests share."""
    return ends_of(proxy)


@pytest.fixture
def wires() -> Iterator[Callable[..., list[Wire]]]:
    """Makes so many connections to a port, with sessions if a database is named; closed after the test."""
    with ExitStack() as stack:

        def make(count: int, port: int, database: str = "") -> list[Wire]:
            made = [stack.enter_context(Wire(port)) for _ in range(count)]
            for wire in made:
                if database:
                    wire.start(database)
            return made

        yield make


@pytest.fixture
def start_with(
    postgres: EmbeddedServer, start: Callable[..., RunningProxy], ends_of: Callable[[RunningProxy], Ends]
) -> Iterator[Callable[[str], tuple[RunningProxy, Ends]]]:
    """Starts a proxy with this configuration in front of the shared server."""
    started: list[RunningProxy] = []

    def start_one(text: str) -> tuple[RunningProxy, Ends]:
        proxy = start(f"{postgres.host}:{postgres.port}", text)
        started.append(proxy)
        return proxy, ends_of(proxy)

    yield start_one
    for proxy in started:
        assert_no_exception(proxy)

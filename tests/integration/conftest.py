"""Fixtures for one database, reached directly and through the proxy."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.compare import Ends
from tests.proxies import RunningProxy
from tqdbproxy.embedded import EmbeddedServer


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
def start_with(
    postgres: EmbeddedServer, start: Callable[..., RunningProxy], ends_of: Callable[[RunningProxy], Ends]
) -> Callable[[str], tuple[RunningProxy, Ends]]:
    """Starts a proxy with this configuration in front of the shared server."""

    def start_one(text: str) -> tuple[RunningProxy, Ends]:
        proxy = start(f"{postgres.host}:{postgres.port}", text)
        return proxy, ends_of(proxy)

    return start_one

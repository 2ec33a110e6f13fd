"""A proxy whose groups are executed when they are full, so that tests know who was in a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.integration.batching.crowd import CONFIG, COUNT, Crowd, crowd
from tests.integration.compare import Ends
from tests.integration.conftest import assert_no_exception
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


@pytest.fixture
def batched(batching: RunningProxy, ends_of: Callable[[RunningProxy], Ends]) -> Ends:
    """The test's database, directly and through ``batching``."""
    return ends_of(batching)


@pytest.fixture
def crowds(batched: Ends) -> Iterator[MakeCrowd]:
    """Makes crowds through ``batching``, closed after the test."""
    with ExitStack() as stack:

        def make(count: int = COUNT, **options: str) -> Crowd:
            return stack.enter_context(crowd(batched.proxied_port, batched.database, count, **options))

        yield make

"""``verify_fraction``: answers from memory are compared with the server's, counted, and told to the operator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.caching.conftest import MakePlace
from tests.integration.caching.places import Place, backend, cached, told
from tests.integration.metrics import Growth
from tests.integration.waiting import wait_for
from tests.integration.wire import SYNC, bind, describe, execute, parse, query
from tests.proxies import RunningProxy, start_proxy
from tqdbproxy.embedded import EmbeddedServer


@pytest.fixture(scope="module")
def verifying(postgres: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A proxy that asks each time."""
    folder = tmp_path_factory.mktemp("verifying")
    proxy = start_proxy(folder, f"{postgres.host}:{postgres.port}", "[cache]\nverify_fraction = 1\n")
    yield proxy
    proxy.stop()


@pytest.fixture
def spied(verifying: RunningProxy, places: MakePlace) -> Place:
    """A place behind it."""
    place = places(verifying)
    place.do("CREATE TABLE t (k int, v text)", "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    return place


@pytest.mark.parametrize("way", ["simple", "extended"])
def test_what_was_changed_behind_the_proxys_back(spied: Place, way: str) -> None:
    text = cached(f"SELECT k, v AS {way} FROM t WHERE v <> 'secret' AND k < 12345")
    asked = query(text) if way == "simple" else parse(text) + bind() + describe() + execute() + SYNC
    wire, grown = spied.session(), Growth(spied.proxy)

    def verified() -> tuple[float, ...]:
        return tuple(grown("cache_verified_total", result=result) for result in ("same", "reordered", "different"))

    def lines() -> list[str]:
        told_of = (line for line in spied.proxy.log.splitlines() if "not true any more" in line)
        return [line for line in told_of if f"v AS {way}" in line]  # each template is logged for itself

    first = wire.ask(asked)
    assert verified() == (0, 0, 0), "nothing to compare"
    assert wire.ask(asked) == first
    assert (verified(), backend(wire)) == ((1, 0, 0), "primary")
    spied.do("DELETE FROM t WHERE k = 1", "INSERT INTO t VALUES (1, 'a')")
    wire.ask(asked)
    assert verified() == (1, 1, 0)
    assert not lines(), "the same rows in another order are no lie"
    spied.do("UPDATE t SET v = 'c' WHERE k = 1")
    new = wire.ask(asked)
    assert (verified(), new == first) == ((1, 1, 1), False), "the client has the server's answer"
    wire.ask(asked)
    assert verified() == (1, 1, 2)
    (line,) = wait_for(lines)
    assert line.endswith(f"SELECT k, v AS {way} FROM t WHERE v <> $1 AND k < $2")
    assert "secret" not in spied.proxy.log
    assert "12345" not in spied.proxy.log


def test_an_error_is_not_compared(spied: Place) -> None:
    wire, grown = spied.session(), Growth(spied.proxy)
    text = cached("SELECT k / (k - 1) FROM t WHERE k > 1")
    told(wire, text)
    spied.do("UPDATE t SET k = 1; INSERT INTO t VALUES (2, 'x')", "ALTER TABLE t RENAME k TO q")
    assert "E" in [frame.kind for frame in wire.ask(query(text))]
    assert not grown("cache_verified_total")
    assert "C" in [frame.kind for frame in wire.ask(query("SELECT 1"))]

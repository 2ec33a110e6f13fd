"""A thousand clients who ask the same at the same time, and what the server hears of it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.integration.batching.crowd import reply
from tests.integration.caching.places import Place, cached, cell, status, told
from tests.integration.metrics import Growth
from tests.integration.wire import SYNC, Wire, bind, describe, execute, parse, query
from tests.proxies import start_proxy
from tqdbproxy.embedded import EmbeddedServer

CROWD = 1000
TTL_S = 2.0


@pytest.fixture(scope="module")
def large() -> Iterator[EmbeddedServer]:
    """A server with room for all, which writes down what it is asked."""
    conf = ("log_statement = all", "max_prepared_transactions = 10")
    with EmbeddedServer(max_connections=CROWD + 50, conf=conf) as server:
        yield server


@pytest.fixture(scope="module")
def place(large: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place in front of it."""
    proxy = start_proxy(tmp_path_factory.mktemp("crowds"), f"{large.host}:{large.port}")
    found = Place(proxy, large.port, "postgres", "crowded")
    try:
        found.do("CREATE SCHEMA crowded")
        yield found
    finally:
        found.close()
        proxy.stop()


@pytest.fixture(scope="module")
def crowd(place: Place) -> list[Wire]:
    """The clients."""
    return [place.session() for _ in range(CROWD)]


def times(server: EmbeddedServer, mark: str) -> int:
    """How often the server has executed a statement with this mark."""
    lines = server.log_path.read_text(errors="replace").splitlines()
    return sum(mark in line and ("statement: " in line or "execute " in line) for line in lines)


def asked_by_all(crowd: list[Wire], message: bytes) -> tuple[set[str], float]:
    """What they are told, and how long it took."""
    began = time.monotonic()
    for wire in crowd:
        wire.send(message)
    answers = {cell(reply(wire.until())) for wire in crowd}
    return answers, time.monotonic() - began


@pytest.mark.parametrize("way", ["simple", "extended"])
def test_a_cold_key(large: EmbeddedServer, place: Place, crowd: list[Wire], way: str) -> None:
    grown = Growth(place.proxy)
    text = cached(f"SELECT 'cold {way}' FROM pg_sleep(1)")
    message = query(text) if way == "simple" else parse(text) + bind() + describe() + execute() + SYNC
    answers, seconds = asked_by_all(crowd, message)
    assert (answers, times(large, f"cold {way}")) == ({f"cold {way}"}, 1)
    assert seconds < 5
    assert (grown("cache_misses_total"), grown("cache_hits_total")) == (1, CROWD - 1)
    assert asked_by_all(crowd, message)[0] == answers
    assert times(large, f"cold {way}") == 1


def test_the_end_of_a_ttl(large: EmbeddedServer, place: Place, crowd: list[Wire]) -> None:
    """Then one of them asks the server, and nobody else waits for it; much later all wait for one."""
    grown = Growth(place.proxy)
    message = query(cached("SELECT clock_timestamp() FROM pg_sleep(1), (VALUES ('ttl''s end')) x", ttl=TTL_S))
    began = time.monotonic()
    first, _ = asked_by_all(crowd, message)
    assert (len(first), times(large, "ttl''s end")) == (1, 1)
    while time.monotonic() - began < TTL_S + 0.1:
        time.sleep(0.01)
    for wire in crowd:
        wire.send(message)
    answers = [cell(reply(wire.until())) for wire in crowd[1:]]
    assert time.monotonic() - began < 2 * TTL_S, "this machine is too slow for this test"
    assert (set(answers), times(large, "ttl''s end")) == (first, 2)
    assert {status(wire)["Backend"] for wire in crowd[1:]} <= {"cache (stale)", "cache"}
    assert status(crowd[-1])["Backend"] == "cache (stale)"
    (new,) = reply(crowd[0].until()).rows[0]
    assert status(crowd[0])["Backend"] == "primary"
    assert new is not None
    assert {new.decode()}.isdisjoint(first)
    assert cell(told(crowd[5], message[5:-1].decode())) == new.decode()
    assert (grown("cache_refreshes_total"), grown("cache_stale_total")) == (1, CROWD - 1)
    time.sleep(2 * TTL_S + 0.1)
    third, _ = asked_by_all(crowd, message)
    assert (len(third), times(large, "ttl''s end")) == (1, 3)
    assert third.isdisjoint({new.decode()} | first)


def test_an_error_is_everybodys_own(large: EmbeddedServer, place: Place, crowd: list[Wire]) -> None:
    """It goes to the one who asked; the others ask for themselves."""
    some = crowd[:50]
    for wire in some:
        wire.send(query(cached("SELECT 1 / (random() * 0)::int, 'zero' FROM pg_sleep(0.2)")))
    assert {reply(wire.until()).sqlstate for wire in some} == {"22012"}
    assert times(large, "'zero' FROM") >= len(some)


def test_too_large_for_others(large: EmbeddedServer, place: Place, crowd: list[Wire]) -> None:
    some = crowd[:10]
    for wire in some:
        wire.send(query(cached("SELECT repeat('large', 300000) FROM pg_sleep(0.2)")))
    assert {cell(reply(wire.until())) for wire in some} == {"large" * 300_000}
    assert times(large, "'large'") == len(some)


def test_two_phases(place: Place) -> None:
    place.do("CREATE TABLE phased (v int)")
    reader, writer = place.session(), place.session()
    read = cached("SELECT count(*) FROM phased")
    told(reader, read)
    told(writer, "BEGIN", "INSERT INTO phased VALUES (1)", "PREPARE TRANSACTION 'phased'")
    assert cell(told(reader, read)) == "0"
    told(place.session(), "COMMIT PREPARED 'phased'")
    assert cell(told(reader, read)) == "1"

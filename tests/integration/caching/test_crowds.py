"""A thousand clients who ask the same at the same time, and what the server hears of it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.integration.batching.crowd import reply
from tests.integration.caching.places import Gate, Place, cached, cell, status, told
from tests.integration.metrics import Growth, scrape
from tests.integration.waiting import wait_for
from tests.integration.wire import SYNC, Wire, bind, describe, execute, parse, query
from tests.proxies import start_proxy
from tqdbproxy.embedded import EmbeddedServer

CROWD = 1000


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
def gate(place: Place) -> Gate:
    """An open one."""
    return Gate(place)


@pytest.fixture(scope="module")
def crowd(place: Place) -> list[Wire]:
    """The clients."""
    return [place.session() for _ in range(CROWD)]


def times(server: EmbeddedServer, mark: str) -> int:
    """How often the server has executed a statement with this mark."""
    lines = server.log_path.read_text(errors="replace").splitlines()
    return sum(mark in line and ("statement: " in line or "execute " in line) for line in lines)


def asked_by_all(crowd: list[Wire], message: bytes) -> set[str]:
    """What they are told."""
    for wire in crowd:
        wire.send(message)
    return {cell(reply(wire.until())) for wire in crowd}


def one_for_all(place: Place, gate: Gate, crowd: list[Wire], message: bytes) -> None:
    """Let them ask while the gate is shut, and open it when all of them wait for one."""
    gate.shut()
    for wire in crowd:
        wire.send(message)
    wait_for(lambda: scrape(place.proxy).total("clients", state="waiting") == len(crowd) - 1)
    gate.open()


@pytest.mark.parametrize("way", ["simple", "extended"])
def test_a_cold_key(large: EmbeddedServer, place: Place, gate: Gate, crowd: list[Wire], way: str) -> None:
    grown = Growth(place.proxy)
    text = cached(f"SELECT 'cold {way}' FROM held()")
    message = query(text) if way == "simple" else parse(text) + bind() + describe() + execute() + SYNC
    one_for_all(place, gate, crowd, message)
    assert {cell(reply(wire.until())) for wire in crowd} == {f"cold {way}"}
    assert times(large, f"cold {way}") == 1
    assert (grown("cache_misses_total"), grown("cache_hits_total")) == (1, CROWD - 1)
    assert asked_by_all(crowd, message) == {f"cold {way}"}
    assert times(large, f"cold {way}") == 1


def test_the_end_of_a_ttl(large: EmbeddedServer, place: Place, gate: Gate, crowd: list[Wire]) -> None:
    """Then one of them asks the server, and nobody else waits for it; much later all wait for one."""
    for patience in (4, 16, 64):
        mark = f"the end {patience}"
        text = f"SELECT clock_timestamp() FROM held(), (VALUES ('{mark}')) x"
        grown = Growth(place.proxy)
        began = time.monotonic()
        first = asked_by_all(crowd, query(cached(text)))
        assert (len(first), times(large, mark)) == (1, 1)
        ttl = max(1.0, patience * (time.monotonic() - began))
        time.sleep(ttl + 0.01)
        gate.shut()
        if asked_while_stale(place, crowd, query(cached(text, ttl=ttl)), grown):
            break
        gate.open()  # it was too old before all of them had asked
        assert all(wire.until() for wire in crowd)
    else:
        pytest.fail("none was given a stale answer, or not all of them")
    answers = {cell(reply(wire.until())) for wire in crowd[1:]}
    assert (answers, times(large, mark)) == (first, 2)
    assert {status(wire)["Backend"] for wire in crowd[1:]} == {"cache (stale)"}
    gate.open()
    new = cell(reply(crowd[0].until()))
    assert status(crowd[0])["Backend"] == "primary"
    assert new not in first
    assert cell(told(crowd[5], cached(text))) == new
    assert (grown("cache_refreshes_total"), grown("cache_stale_total")) == (1, CROWD - 1)
    one_for_all(place, gate, crowd, query(cached(text, ttl=0.001)))
    third = {cell(reply(wire.until())) for wire in crowd}
    assert (len(third), times(large, mark)) == (1, 3)
    assert third.isdisjoint({new} | first)


def asked_while_stale(place: Place, crowd: list[Wire], message: bytes, grown: Growth) -> bool:
    """Let the first of them ask the server, and then the others; whether these are given what is stale, all of them."""
    crowd[0].send(message)
    wait_for(lambda: grown("cache_refreshes_total"))
    for wire in crowd[1:]:
        wire.send(message)

    def waiting() -> float:
        return scrape(place.proxy).total("clients", state="waiting")

    wait_for(lambda: grown("cache_stale_total") + waiting() == CROWD - 1)
    return grown("cache_stale_total") == CROWD - 1


def test_an_error_is_everybodys_own(large: EmbeddedServer, place: Place, gate: Gate, crowd: list[Wire]) -> None:
    """It goes to the one who asked; the others ask for themselves."""
    some = crowd[:50]
    one_for_all(place, gate, some, query(cached("SELECT 1 / (random() * 0)::int, 'zero' FROM held()")))
    assert {reply(wire.until()).sqlstate for wire in some} == {"22012"}
    assert times(large, "'zero' FROM") == len(some)


def test_too_large_for_others(large: EmbeddedServer, place: Place, gate: Gate, crowd: list[Wire]) -> None:
    some = crowd[:10]
    one_for_all(place, gate, some, query(cached("SELECT repeat('large', 300000) FROM held()")))
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

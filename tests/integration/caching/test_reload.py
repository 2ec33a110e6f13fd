"""What holds after a SIGHUP that changes ``[cache]``."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.integration.batching.crowd import reply
from tests.integration.caching.conftest import MakePlace
from tests.integration.caching.places import Gate, Place, backend, cached, cell, status, told
from tests.integration.metrics import scrape
from tests.integration.waiting import wait_for
from tests.integration.wire import SYNC, bind, execute, kinds, parse, query
from tests.proxies import RunningProxy, start_proxy
from tqdbproxy.embedded import EmbeddedServer

READ = cached("SELECT v FROM t")


@pytest.fixture
def own(
    postgres: EmbeddedServer,
    places: MakePlace,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    """A place behind a proxy of its own, with a table."""
    proxy = start_proxy(tmp_path_factory.mktemp("reloaded"), f"{postgres.host}:{postgres.port}", "[cache]\n")
    place = places(proxy)
    place.do("CREATE TABLE t (k int PRIMARY KEY, v int)", "INSERT INTO t VALUES (1, 0)")
    yield place
    proxy.stop()


def configure(proxy: RunningProxy, *lines: str) -> None:
    """Reload with these lines in ``[cache]``."""
    before = proxy.log.count("configuration reloaded")
    proxy.config_path.write_text("\n".join(["[cache]", *lines, ""]))
    proxy.process.send_signal(signal.SIGHUP)
    wait_for(lambda: proxy.log.count("configuration reloaded") > before)


def test_turned_off_and_on(own: Place) -> None:
    reader, writer = own.session(), own.session()
    assert (cell(told(reader, READ, READ)), backend(reader)) == ("0", "cache")
    configure(own.proxy, "enabled = false")
    assert not scrape(own.proxy).total("cache_entries")
    own.do("UPDATE t SET v = 1")
    assert cell(told(reader, READ)) == "1"
    assert (status(reader)["Backend"], status(reader)["Reason"]) == ("primary", "disabled")
    told(writer, "UPDATE t SET v = 2")
    configure(own.proxy)
    assert cell(told(reader, READ)) == "2"
    told(writer, "UPDATE t SET v = 3")
    assert (cell(told(reader, READ, READ)), backend(reader)) == ("3", "cache")


def test_how_long_anybody_waits(
    postgres: EmbeddedServer, places: MakePlace, start: Callable[..., RunningProxy]
) -> None:
    proxy = start(f"{postgres.host}:{postgres.port}", "[cache]\nmax_wait_ms = 0\n")
    place = places(proxy)
    place.do("CREATE TABLE t AS SELECT 1 AS v")
    configure(proxy, "max_wait_ms = 100")
    hung, waits = place.session(), place.session()
    os.kill(hung.backend_pid, signal.SIGSTOP)
    try:
        hung.send(query(READ))
        wait_for(lambda: scrape(proxy).total("cache_misses_total") == 1)
        assert (cell(told(waits, READ)), backend(waits)) == ("1", "primary")
    finally:
        os.kill(hung.backend_pid, signal.SIGCONT)
    assert cell(reply(hung.until())) == "1"


def test_writes_in_a_transaction_from_before_it_was_turned_on(own: Place) -> None:
    reader, writer = own.session(), own.session()
    told(reader, READ)
    configure(own.proxy, "enabled = false")
    told(writer, "BEGIN", "UPDATE t SET v = 1")
    configure(own.proxy)
    assert (cell(told(reader, READ, READ)), backend(reader)) == ("0", "cache")
    told(writer, "COMMIT")
    assert cell(told(reader, READ)) == "1"


def test_writes_under_way_before_it_was_turned_on(own: Place) -> None:
    reader, writer = own.session(), own.session()
    configure(own.proxy, "purge_on_write = false")
    told(reader, READ)
    gate = Gate(own)
    gate.shut()
    writer.send(parse("UPDATE t SET v = 1 WHERE held() IS NOT NULL"), bind(), execute(), SYNC)
    wait_for(lambda: own.do("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'UPDATE t%' AND state = 'active'")[0].rows)
    configure(own.proxy)
    assert cell(told(reader, READ)) == "0"
    gate.open()
    assert "E" not in kinds(writer.until())
    assert cell(told(reader, READ)) == "1"


def test_without_purging_on_writes(own: Place) -> None:
    reader, writer = own.session(), own.session()
    configure(own.proxy, "purge_on_write = false")
    assert cell(told(reader, READ)) == "0"
    told(writer, "UPDATE t SET v = 1")
    assert cell(told(reader, READ)) == "0", "an hour old, if one wants"
    told(writer, "/* purge:table:t */ UPDATE t SET v = 2")
    assert cell(told(reader, READ)) == "2"
    configure(own.proxy)
    told(writer, "UPDATE t SET v = 3")
    assert cell(told(reader, READ, READ)) == "3"


def test_less_memory(own: Place) -> None:
    reader = own.session()
    for number in range(100):
        told(reader, cached(f"SELECT {number}, repeat('x', 10000)"))
    assert scrape(own.proxy).total("cache_bytes") > 1_000_000
    configure(own.proxy, "max_bytes = 100000", "max_entry_bytes = 20000")
    for number in range(100):
        told(reader, cached(f"SELECT {number}, repeat('x', 10000)"))
        assert scrape(own.proxy).total("cache_bytes") <= 100_000
    assert scrape(own.proxy).total("cache_entries") == 8
    assert scrape(own.proxy).total("cache_evictions_total") >= 92
    told(reader, cached("SELECT repeat('x', 20000)"))
    assert scrape(own.proxy).total("cache_entries") == 8, "too large for one"
    told(reader, cached("SELECT 99, repeat('x', 10000)"))
    assert backend(reader) == "cache"
    told(reader, cached("SELECT 1, repeat('x', 10000)"))
    assert backend(reader) == "primary"

"""The one who asks the server for all who wait: what becomes of these when it goes, and of it when they go."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.integration.batching.crowd import reply
from tests.integration.caching.conftest import MakePlace
from tests.integration.caching.places import Gate, Place, backend, cached, cell, told
from tests.integration.metrics import scrape
from tests.integration.waiting import wait_for
from tests.integration.wire import SYNC, Wire, bind, cancel_request, describe, execute, kinds, parse, query, values
from tests.proxies import RunningProxy, start_proxy
from tqdbproxy.embedded import EmbeddedServer

WAITERS = 5
LIMIT = 1 << 20
OVERHEAD = 1500


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_behind(caching: RunningProxy) -> Iterator[None]:
    """After all these tests, the proxy has no waiting clients and as many connections as clients."""
    yield

    def even() -> bool:
        page = scrape(caching)
        return page.total("clients") == page.total("server_connections") > 0

    with psycopg.connect(caching.dsn()):
        wait_for(lambda: scrape(caching).total("clients", state="waiting") == 0)
        wait_for(even)


class Scene:
    """A leader whose answer isn't there before it is `released`, and those who wait for it."""

    def __init__(self, place: Place, text: str, **options: str) -> None:
        self.place = place
        self._mark = f"/* {place.schema} */"
        self.text = f"{self._mark} {cached(text)}"
        self._gate = Gate(place)
        self._gate.shut()
        self.leader, *self.waiters = (place.session(**options) for _ in range(1 + WAITERS))
        self.leader.send(query(self.text))
        wait_for(lambda: self.running() == 1)
        for waiter in self.waiters:
            waiter.send(query(self.text))
        wait_for(lambda: scrape(place.proxy).total("clients", state="waiting") == WAITERS)
        assert self.running() == 1

    def release(self) -> None:
        """Let the server answer."""
        self._gate.open()

    def running(self) -> int:
        """How many sessions execute it now."""
        find = f"SELECT pid FROM pg_stat_activity WHERE query LIKE '{self._mark}%' AND state = 'active'"
        return len(self.place.do(find)[0].rows)

    def answers(self, *but: Wire) -> list[str]:
        """What those who wait are told, but for these."""
        return [cell(reply(wire.until())) for wire in self.waiters if wire not in but]

    def kept(self) -> bool:
        """Whether the answer is found now; if it isn't, it is after that."""
        wire = self.place.session()
        told(wire, self.text)
        return backend(wire) == "cache"


SLOW = "SELECT 'slow' FROM held()"


def reset(wire: Wire) -> None:
    """End the connection as a client does that is killed."""
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.socket.close()


LEAVES: dict[str, Callable[[Wire], None]] = {
    "closed": lambda wire: wire.socket.close(),
    "reset": reset,
    "half closed": lambda wire: wire.socket.shutdown(socket.SHUT_WR),
    "terminated": lambda wire: wire.send(b"X\0\0\0\4"),
}


@pytest.mark.parametrize("way", LEAVES)
def test_the_leader_leaves(place: Place, way: str) -> None:
    """The fetch goes on without him."""
    scene = Scene(place, SLOW)
    LEAVES[way](scene.leader)
    time.sleep(0.1)
    assert scene.running() == 1
    scene.release()
    assert scene.answers() == ["slow"] * WAITERS
    assert {backend(wire) for wire in scene.waiters} == {"cache"}
    assert scene.kept()


def test_the_leaders_server_ends(place: Place) -> None:
    """Only then the next one begins anew."""
    scene = Scene(place, SLOW)
    place.do(f"SELECT pg_terminate_backend({scene.leader.backend_pid}, 60000)")
    assert [frame.fields()["C"] for frame in scene.leader.to_end() if frame.kind == "E"] == ["57P01"]
    wait_for(lambda: scene.running() == 1)
    scene.release()
    assert scene.answers() == ["slow"] * WAITERS
    assert sorted(backend(wire) for wire in scene.waiters) == ["cache"] * (WAITERS - 1) + ["primary"]
    assert scene.kept()


def test_the_leader_cancels(place: Place) -> None:
    scene = Scene(place, SLOW)
    with Wire(place.proxy.port) as request:
        request.send(cancel_request(scene.leader.key))
        assert request.to_end() == []
    assert reply(scene.leader.until()).sqlstate == "57014"
    scene.release()
    assert scene.answers() == ["slow"] * WAITERS
    assert cell(told(scene.leader, "SELECT 1")) == "1"


def test_the_leader_takes_too_long(place: Place) -> None:
    """Everybody has the same setting, so everybody takes too long; his own error, each."""
    scene = Scene(place, SLOW, options="-c statement_timeout=3000")
    assert reply(scene.leader.until()).sqlstate == "57014"
    assert [reply(wire.until()).sqlstate for wire in scene.waiters] == ["57014"] * WAITERS
    assert [cell(told(wire, "SELECT 1")) for wire in scene.waiters] == ["1"] * WAITERS


def test_only_the_leader_fails(place: Place) -> None:
    body = "PERFORM held(); IF nextval('s') = 1 THEN RAISE 'first'; END IF; RETURN 'well';"
    place.do("CREATE SEQUENCE s", f"CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $$ BEGIN {body} END $$")
    scene = Scene(place, "SELECT f()")
    scene.release()
    assert reply(scene.leader.until()).sqlstate == "P0001"
    assert scene.answers() == ["well"] * WAITERS


def test_one_who_waits_leaves(place: Place) -> None:
    scene = Scene(place, SLOW)
    gone, half, *_ = scene.waiters
    reset(gone)
    half.socket.shutdown(socket.SHUT_WR)
    scene.release()
    assert cell(reply(scene.leader.until())) == "slow"
    assert scene.answers(gone) == ["slow"] * (WAITERS - 1)
    assert half.to_end() == []
    wait_for(lambda: not place.do(f"SELECT 1 FROM pg_stat_activity WHERE pid = {gone.backend_pid}")[0].rows)


def test_one_who_waits_loses_his_server(place: Place) -> None:
    """As a write that waits: he gets his answer, and then the end."""
    scene = Scene(place, SLOW)
    place.do(f"SELECT pg_terminate_backend({scene.waiters[0].backend_pid}, 60000)")
    scene.release()
    assert cell(reply(scene.leader.until())) == "slow"
    assert scene.answers(scene.waiters[0]) == ["slow"] * (WAITERS - 1)
    said = scene.waiters[0].to_end()
    assert kinds(said).replace("E", "") == "TDCZ"
    assert values(said) == [b"slow"]


def test_all_who_wait_lose_their_servers(place: Place) -> None:
    scene = Scene(place, SLOW)
    for wire in (*scene.waiters, scene.leader):
        place.do(f"SELECT pg_terminate_backend({wire.backend_pid}, 60000)")
    for wire in (*scene.waiters, scene.leader):
        wire.to_end()
    scene.release()
    assert not scene.kept()
    assert scene.kept()


def test_one_who_waits_cancels(place: Place) -> None:
    scene = Scene(place, SLOW)
    wire = scene.waiters[0]
    with Wire(place.proxy.port) as request:
        request.send(cancel_request(wire.key))
        request.to_end()
    assert reply(wire.until()).sqlstate == "57014"
    assert cell(told(wire, "SELECT 7")) == "7"
    assert scene.running() == 1, "he needn't wait for the leader"
    scene.release()
    assert scene.answers(wire) == ["slow"] * (WAITERS - 1)
    assert cell(reply(scene.leader.until())) == "slow"


def test_what_comes_after_while_one_waits(place: Place) -> None:
    """In its order, and not before."""
    scene = Scene(place, SLOW)
    wire = scene.waiters[0]
    wire.send(query("SELECT 'next'"), query(scene.text), parse("SELECT 'last'"), bind(), execute(), SYNC)
    scene.release()
    assert [cell(reply(wire.until())) for _ in range(4)] == ["slow", "next", "slow", "last"]


def test_a_write_while_it_is_fetched(place: Place) -> None:
    """Who asked before may get what was; who asks after doesn't join them."""
    place.do("CREATE TABLE t AS SELECT 'old' AS v")
    scene = Scene(place, "SELECT v FROM t, held()")
    writer = place.session()
    told(writer, "UPDATE t SET v = 'new'")
    late = place.session()
    late.send(query(scene.text))
    wait_for(lambda: scene.running() == 2)
    scene.release()
    assert scene.answers() == ["old"] * WAITERS
    assert cell(reply(late.until())) == "new"
    after = place.session()
    assert (cell(told(after, scene.text)), backend(after)) == ("new", "cache")


def test_a_leader_who_does_not_read(place: Place) -> None:
    """He is given up as soon as he holds the server up; nobody waits for him."""
    leader = Wire(place.proxy.port, receive_buffer=4096)
    with leader:
        leader.start(place.database, search_path=place.schema)
        text = cached("SELECT repeat('x', 9000) FROM generate_series(1, 100)")
        leader.send(query("SELECT repeat('y', 1000) FROM generate_series(1, 20000)"))
        others = [place.session() for _ in range(3)]
        leader.send(query(text))
        for other in others:
            other.send(query(text))
        assert [len(reply(other.until()).rows) for other in others] == [100] * 3
        assert len(reply(leader.until()).rows) == 20000
        assert len(reply(leader.until()).rows) == 100


def test_a_leader_who_reads_only_the_beginning(place: Place) -> None:
    leader = Wire(place.proxy.port, receive_buffer=4096)
    with leader:
        leader.start(place.database, search_path=place.schema)
        text = cached("SELECT repeat('x', 9000), pg_sleep(0.005) FROM generate_series(1, 100)")
        leader.send(query(text))
        others = [place.session() for _ in range(3)]
        for other in others:
            other.send(query(text))
        assert [len(reply(other.until()).rows) for other in others] == [100] * 3
        assert len(reply(leader.until()).rows) == 100


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("way", ["simple", "extended"])
def test_the_largest_that_is_kept(place: Place, way: str, more: int) -> None:
    """``max_entry_bytes`` holds for the answer, its question, its asker's settings and what all need; to the byte."""
    sql = "SELECT repeat('x', $1)" if way == "extended" else "SELECT repeat('x', 1000000)"
    first = place.session()

    def ask(wire: Wire, size: int) -> bytes:
        value = str(size).zfill(7)
        text = sql.replace("1000000", value)
        message = query(cached(text))
        if way == "extended":
            message = parse(cached(text)) + bind(value) + describe() + execute() + SYNC
        return b"".join(frame.body + b"....." for frame in wire.ask(message) if frame.kind in "TDC")

    at_most = (
        LIMIT
        - OVERHEAD
        - len(ask(first, 1000))
        + 1000
        - len(sql)
        - len("search_path" + place.schema)
        - (len(bind("1000000")) - 7 if way == "extended" else 6)
    )
    asker = place.session()
    ask(asker, at_most + more)
    ask(asker, at_most + more)
    assert backend(asker) == ("primary" if more else "cache")


def test_each_size_up_to_the_largest_is_kept(place: Place) -> None:
    """A client that reads as fast as it can doesn't keep others from the answer."""
    wire = place.session()
    for kilobytes in (1, 10, 60, 100, 250, 260, 500, 700, 1000):
        text = cached(f"SELECT repeat('x', {kilobytes}000)")
        told(wire, text, text)
        assert backend(wire) == "cache", kilobytes


def test_the_server_is_stopped(
    places: MakePlace, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    """Whoever waits is told what whoever asks the server is told, and the next ones are served again."""
    with EmbeddedServer() as server:
        proxy = start_proxy(tmp_path_factory.mktemp("stopped"), f"{server.host}:{server.port}")
        request.addfinalizer(proxy.stop)
        place = Place(proxy, server.port, "postgres", "public")
        scene = Scene(place, SLOW)
        server.stop("immediate")
        for wire in (scene.leader, *scene.waiters):
            wire.to_end()
        server.start()
        assert not scene.kept()
        assert scene.kept()
        place.close()


def refused(proxy: RunningProxy) -> bool:
    """Whether it takes no connections any more."""
    with socket.socket() as probe:
        return probe.connect_ex((proxy.host, proxy.port)) != 0


def test_drained(postgres: EmbeddedServer, places: MakePlace, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A proxy that shuts down answers those who wait first."""
    proxy = start_proxy(tmp_path_factory.mktemp("drained"), f"{postgres.host}:{postgres.port}")
    try:
        scene = Scene(places(proxy), SLOW)
        proxy.process.terminate()
        wait_for(lambda: refused(proxy))
        scene.release()
        assert cell(reply(scene.leader.until())) == "slow"
        assert scene.answers() == ["slow"] * WAITERS
        for wire in (scene.leader, *scene.waiters):
            assert [frame.fields()["C"] for frame in wire.to_end() if frame.kind == "E"] == ["57P01"]
    finally:
        proxy.stop()

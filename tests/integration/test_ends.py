"""How connections end: servers that can't be reached or die, clients that vanish or say goodbye without waiting."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator

import psutil
import psycopg
import pytest

from tests.integration.compare import Ends
from tests.integration.metrics import scrape
from tests.integration.waiting import wait_for
from tests.integration.wire import (
    SYNC,
    TERMINATE,
    Wire,
    bind,
    copy_data,
    execute,
    frame,
    kinds,
    parse,
    query,
    startup,
    values,
)
from tests.proxies import HOST, Ports, RunningProxy
from tqdbproxy.embedded import EmbeddedServer

INSERT = "INSERT INTO t VALUES (1)"
SLEEPS = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
OTHERS = "SELECT pid, query FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"

WRITES: dict[str, bytes] = {
    "simple": query(INSERT),
    "extended": parse(INSERT) + bind() + execute() + SYNC,
    "hinted": query(f"/* batch:100 */ {INSERT}"),
    "hinted and extended": parse(f"/* batch:100 */ {INSERT}") + bind() + execute() + SYNC,
    "two hinted ones": query(f"/* batch:50 */ {INSERT}") + query(f"/* batch:100 */ {INSERT}"),
    "a pipeline": (parse(INSERT) + bind() + execute() + SYNC) * 3,
}


@pytest.fixture
def doomed() -> Iterator[EmbeddedServer]:
    """A server that may be stopped and killed."""
    with EmbeddedServer(max_connections=30, shared_buffers="16MB") as server:
        yield server


def linger_off(wire: Wire) -> None:
    """Closing will reset the connection, as the end of a client's machine looks like."""
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# Servers


def test_a_server_that_is_not_there(start: Callable[..., RunningProxy], ports: Ports) -> None:
    (port,) = ports(1)
    proxy = start(f"{HOST}:{port}")
    with Wire(proxy.port) as wire:
        wire.send(startup("postgres"))
        (only,) = wire.to_end()
    said = only.fields()
    assert (said["S"], said["V"], said["C"]) == ("FATAL", "FATAL", "08001")
    assert f"{HOST}:{port}" in said["M"]
    assert len([line for line in proxy.log.splitlines() if "warn" in line and str(port) in line]) == 1


def test_a_server_that_never_answers(start: Callable[..., RunningProxy]) -> None:
    with socket.create_server((HOST, 0)) as silent:
        proxy = start(f"{HOST}:{silent.getsockname()[1]}", "[limits]\nlogin_timeout_s = 0.3\n")
        with pytest.raises(psycopg.OperationalError, match="canceling authentication due to timeout"):
            psycopg.connect(proxy.dsn())
        wait_for(lambda: scrape(proxy).total("clients") == scrape(proxy).total("server_connections") == 0)


def test_a_refusal_has_the_servers_own_words(ends: Ends) -> None:
    ends.prepare("DROP ROLE IF EXISTS unwelcome", "CREATE ROLE unwelcome LOGIN CONNECTION LIMIT 0")
    said = []
    for dsn in (ends.direct, ends.proxied):
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(f"{dsn} user=unwelcome")
        said.append(str(caught.value).partition("FATAL")[2])
    assert said[1] == said[0] != ""
    ends.prepare("DROP ROLE unwelcome")


@pytest.mark.parametrize("end", ["kill -9", "fast", "immediate"])
def test_a_server_that_ends_in_mid_query(doomed: EmbeddedServer, start: Callable[..., RunningProxy], end: str) -> None:
    proxy = start(f"{doomed.host}:{doomed.port}")
    with psycopg.connect(doomed.dsn(), autocommit=True) as direct:
        direct.execute("CREATE TABLE t (a int)")
    said = []
    for port in (doomed.port, proxy.port):
        with Wire(port).start("postgres") as busy, Wire(port).start("postgres") as idle:
            busy.send(query("SELECT pg_sleep(60)"))
            with psycopg.connect(doomed.dsn(), autocommit=True) as watcher:
                wait_for(lambda: watcher.execute(SLEEPS).fetchall())
            doomed.kill9() if end == "kill -9" else doomed.stop(end)
            said.append([[(f.kind, f.fields()["C"]) for f in wire.to_end() if f.kind == "E"] for wire in (busy, idle)])
        doomed.start()
    # Who is killed says nothing; but a process that outlives the postmaster for a moment may say so.
    assert said[1] == said[0] or end == "kill -9"
    wait_for(lambda: not scrape(proxy).total("server_connections"))
    assert scrape(proxy).total("clients") == 0
    with psycopg.connect(proxy.dsn(), autocommit=True) as after:
        after.execute("/* batch:5 */ INSERT INTO t VALUES (1)")


# Clients


@pytest.mark.parametrize("end", ["reset", "closed"])
def test_a_client_that_vanishes_in_mid_query(ends: Ends, end: str) -> None:
    with Wire(ends.proxied_port).start(ends.database) as wire:
        wire.send(query("SELECT pg_sleep(2)"))
        wait_for(lambda: ends.ask(SLEEPS))
        if end == "reset":
            linger_off(wire)
    wait_for(lambda: not ends.ask(OTHERS))


def test_a_client_that_vanishes_in_the_middle_of_a_large_answer(ends: Ends) -> None:
    """Directly, the server ends the query as soon as it can't send; it may not go on for an hour for nobody."""
    for port in (ends.direct_port, ends.proxied_port):
        with Wire(port).start(ends.database) as wire:
            wire.send(query("COPY (SELECT repeat('x', 1000), generate_series(1, 1000000000)) TO STDOUT"))
            wire.raw(1 << 20)
        wait_for(lambda: not ends.ask(OTHERS))


def test_a_client_that_vanishes_in_the_middle_of_its_copy(ends: Ends) -> None:
    ends.prepare("CREATE TABLE t (a text)")
    for port in (ends.direct_port, ends.proxied_port):
        with Wire(port).start(ends.database) as wire:
            wire.send(query("COPY t FROM STDIN"))
            wire.until("G")
            wire.send(copy_data(b"row\n") * 1000, copy_data(b"row\n" * 1000)[:500])
        wait_for(lambda: not ends.ask(OTHERS))
        assert ends.ask("SELECT count(*) FROM t") == [(0,)]


def test_a_client_that_vanishes_in_a_transaction(ends: Ends) -> None:
    ends.prepare("CREATE TABLE t (a int)")
    with Wire(ends.proxied_port).start(ends.database) as wire:
        wire.ask(query(f"BEGIN; {INSERT}"))
        linger_off(wire)
    wait_for(lambda: not ends.ask(OTHERS))
    assert ends.ask("SELECT count(*) FROM t") == [(0,)]


@pytest.mark.parametrize("goodbye", [TERMINATE, b""], ids=["Terminate", "closed"])
@pytest.mark.parametrize("name", WRITES)
def test_a_write_is_executed_though_its_client_leaves(ends: Ends, name: str, goodbye: bytes) -> None:
    ends.prepare("CREATE TABLE t (a int)")
    with Wire(ends.proxied_port).start(ends.database) as wire:
        wire.send(WRITES[name] + goodbye)
    expected = WRITES[name].count(INSERT.encode())
    wait_for(lambda: ends.ask("SELECT count(*) FROM t") == [(expected,)])
    wait_for(lambda: not ends.ask(OTHERS))


@pytest.mark.parametrize("name", ["hinted", "hinted and extended"])
def test_a_waiting_write_is_executed_though_its_clients_machine_is_gone(
    start_with: Callable[[str], tuple[RunningProxy, Ends]], name: str
) -> None:
    proxy, ends = start_with("[write_batch]\nearly_quorum = off\n")
    ends.prepare("CREATE TABLE t (a int)")
    with Wire(ends.proxied_port).start(ends.database) as wire:
        wire.send(WRITES[name].replace(b":100 ", b":500 "))
        wait_for(lambda: scrape(proxy).total("clients", state="waiting"))
        linger_off(wire)
    wait_for(lambda: ends.ask("SELECT count(*) FROM t") == [(1,)])
    wait_for(lambda: (page := scrape(proxy)).total("clients") == page.total("server_connections") == 0)


@pytest.mark.parametrize("name", WRITES)
def test_a_client_that_only_reads_any_more_gets_its_answers(ends: Ends, name: str) -> None:
    ends.prepare("CREATE TABLE t (a int)")
    heard = []
    for port in (ends.direct_port, ends.proxied_port):
        with Wire(port).start(ends.database) as wire:
            wire.send(WRITES[name] + query("SELECT 'x' FROM pg_sleep(0.05)"))
            wire.socket.shutdown(socket.SHUT_WR)
            heard.append(wire.to_end())
    assert heard[1] == heard[0]
    assert values(heard[1]) == [b"x"]


def test_idle_ends_leave_nothing_behind(proxy: RunningProxy, ends: Ends) -> None:
    for number in range(20):
        with Wire(ends.proxied_port) as wire:
            if number % 4:
                wire.start(ends.database)
            if number % 2:
                linger_off(wire)
            if number % 5:
                wire.send(TERMINATE)
    wait_for(lambda: not ends.ask(OTHERS))
    wait_for(lambda: scrape(proxy).total("clients") == scrape(proxy).total("server_connections") == 0)
    assert psutil.Process(proxy.process.pid).num_fds() < 100


# What is no message of the protocol

BROKEN: dict[str, bytes] = {
    "an unknown type": frame("y", b"x"),
    "a message of the server": frame("Z", b"I"),
    "a password": frame("p", b"x\0"),
    "length 0": b"Q\0\0\0\0",
    "length 3": b"Q\0\0\0\3",
    "a negative length": b"Q\xff\xff\xff\xf0",
    "the longest length": b"Q\x7f\xff\xff\xff",
    "an unknown type after a good one": query("SELECT 1") + frame("y"),
    "a bad length in a pipeline": parse("SELECT 1") + b"B\0\0\0\1",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_messages(ends: Ends, name: str) -> None:
    with Wire(ends.proxied_port).start(ends.database) as other, Wire(ends.proxied_port).start(ends.database) as wire:
        other.ask(query("BEGIN"))
        wire.send(BROKEN[name])
        last = [frame for frame in wire.to_end() if frame.kind == "E"][-1]
        assert (last.fields()["V"], last.fields()["C"]) == ("FATAL", "08P01")
        assert kinds(other.ask(query("SELECT 1; COMMIT"))) == "TDCCZ"
    wait_for(lambda: not ends.ask(OTHERS))


def test_random_bytes(ends: Ends) -> None:
    chance = random.Random(5)
    for number in range(100):
        noise = chance.randbytes(chance.randrange(1, 300))
        with Wire(ends.proxied_port) as wire:
            if number % 2:
                wire.start(ends.database)
            wire.send(noise)
            wire.socket.shutdown(socket.SHUT_WR)
            wire.to_end()
    with psycopg.connect(ends.proxied) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)

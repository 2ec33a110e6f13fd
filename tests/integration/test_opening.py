"""How a session begins: versions, options, refusals, passwords, the Unix socket. All as directly."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.integration.compare import Ends
from tests.integration.conftest import assert_no_exception
from tests.integration.wire import (
    GSSENC_REQUEST,
    PROTOCOL_3_0,
    PROTOCOL_3_2,
    SSL_REQUEST,
    Frame,
    Wire,
    kinds,
    query,
    request,
    startup,
    values,
)
from tests.proxies import Ports, RunningProxy
from tqdbproxy.embedded import EmbeddedServer

STARTUP_LIMIT = 10_000
LONG = "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 20000)) TO STDOUT"
METHODS = {"clear": "password", "hashed": "md5", "salted": "scram-sha-256"}

# Start-up packets by what is special about them, for a database of the given name.
PACKETS: dict[str, Callable[[str], bytes]] = {
    "plain": startup,
    "options": lambda db: startup(db, options="-c work_mem=5MB", application_name="app", DateStyle="German"),
    "a bad option": lambda db: startup(db, options="-c nowhere=1"),
    "a bad setting": lambda db: startup(db, client_encoding="nowhere"),
    "an unknown database": lambda db: startup("nowhere"),
    "an unknown user": lambda db: startup(db, user="nobody"),
    "no user": lambda db: request(PROTOCOL_3_0, b"database\0x\0\0"),
    "protocol 3.2": lambda db: startup(db, version=PROTOCOL_3_2),
    "a later protocol": lambda db: startup(db, version=0x0003270F),
    "an unknown protocol option": lambda db: startup(db, "postgres", PROTOCOL_3_0, **{"_pq_.x": "1", "_pq_.y": "2"}),
    "physical replication": lambda db: startup(db, replication="true"),
    "logical replication": lambda db: startup(db, replication="database"),
    "no replication": lambda db: startup(db, replication="off"),
    "no text after a name": lambda db: request(PROTOCOL_3_0, b"user\0postgres\0database\0"),
    "bytes after its end": lambda db: request(PROTOCOL_3_0, b"user\0postgres\0\0xyz"),
    "nothing in it": lambda db: request(PROTOCOL_3_0),
    "protocol 4": lambda db: request(0x00040000, b"user\0postgres\0\0"),
}


def opening(port: int, packet: bytes) -> list[Frame]:
    """What the server says until it is ready for queries or closes; without keys, which have their length left."""
    heard: list[Frame] = []
    with Wire(port) as wire:
        wire.send(packet)
        try:
            while not heard or heard[-1].kind != "Z":
                heard.append(wire.receive())
        except EOFError:
            pass
    return [Frame("K", bytes(len(f.body))) if f.kind == "K" else f for f in heard]


@pytest.mark.parametrize("name", PACKETS)
def test_the_start_up_packet(ends: Ends, name: str) -> None:
    packet = PACKETS[name](ends.database)
    direct = opening(ends.direct_port, packet)
    proxied = opening(ends.proxied_port, packet)
    assert kinds(proxied) == kinds(direct)
    if proxied and proxied[-1].kind == "E" and direct[-1].fields()["C"] in ("0A000", "08P01"):
        # Versions and layouts are refused by the proxy itself: the same code, its own words.
        assert [proxied[-1].fields()[k] for k in "SVC"] == [direct[-1].fields()[k] for k in "SVC"]
    else:
        assert proxied == direct


def test_a_packet_that_comes_byte_by_byte(ends: Ends) -> None:
    with Wire(ends.proxied_port) as wire:
        wire.dribble(GSSENC_REQUEST)
        assert wire.raw(1) == b"N"
        wire.dribble(SSL_REQUEST)
        assert wire.raw(1) == b"N"
        wire.dribble(startup(ends.database))
        assert kinds(wire.until())[-2:] == "KZ"


def test_a_query_right_behind_the_start_up_packet(ends: Ends) -> None:
    for port in (ends.direct_port, ends.proxied_port):
        with Wire(port) as wire:
            wire.send(startup(ends.database), query("SELECT 'early'"))
            assert values(wire.until("Z", 2)) == [b"early"]


@pytest.mark.parametrize(("size", "accepted"), [(STARTUP_LIMIT, True), (STARTUP_LIMIT + 1, False)])
def test_the_longest_start_up_packet(ends: Ends, size: int, accepted: bool) -> None:
    bare = len(startup(ends.database, application_name=""))
    packet = startup(ends.database, application_name="x" * (size - bare))
    assert len(packet) == size
    assert (kinds(opening(ends.proxied_port, packet))[-1:] == "Z") is accepted


@pytest.mark.parametrize("length", [0, 3, 7, 0x7FFFFFFF, 0xFFFFFFFF, 0x47455420])
def test_what_is_no_start_up_packet(ends: Ends, length: int) -> None:
    assert opening(ends.proxied_port, struct.pack("!I", length) + bytes(100)) == []
    with psycopg.connect(ends.proxied) as connection:
        connection.execute("SELECT 1")


def test_long_cancel_keys(ends: Ends) -> None:
    with Wire(ends.proxied_port) as wire:
        wire.start(ends.database)
        assert len(wire.key) == 8
    with Wire(ends.proxied_port) as wire:
        frames = wire.ask(startup(ends.database, version=PROTOCOL_3_2))
        (key,) = (frame.body for frame in frames if frame.kind == "K")
        assert len(key) == 36
        assert values(wire.ask(query("SELECT pg_backend_pid()"))) == [b"%d" % int.from_bytes(key[:4], "big")]


@pytest.fixture
def guarded() -> Iterator[EmbeddedServer]:
    """A server that asks for passwords, by a method for each user."""
    hba = [f"host all {user} 127.0.0.1/32 {method}" for user, method in METHODS.items()]
    with EmbeddedServer(hba=hba, conf=["md5_password_warnings = off"]) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            for user, method in METHODS.items():
                connection.execute("SET password_encryption = " + ("md5" if method == "md5" else "'scram-sha-256'"))
                connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'right'".encode())
        yield server


def test_passwords(guarded: EmbeddedServer, start: Callable[..., RunningProxy]) -> None:
    proxy = start(f"{guarded.host}:{guarded.port}")
    for user in METHODS:
        with psycopg.connect(proxy.dsn(user=user, password="right")) as connection:
            assert connection.execute("SELECT current_user").fetchone() == (user,)
        said = []
        for dsn in (guarded.dsn(user=user, password="wrong"), proxy.dsn(user=user, password="wrong")):
            with pytest.raises(psycopg.OperationalError, match="password authentication failed") as caught:
                psycopg.connect(dsn)
            said.append(str(caught.value).partition("FATAL")[2])
        assert said[0] == said[1]


def test_a_unix_socket_on_both_sides(
    postgres: EmbeddedServer, start: Callable[..., RunningProxy], database: str, tmp_path: Path
) -> None:
    folder = tmp_path / "sockets"
    folder.mkdir()
    proxy = start(f"unix:{postgres.socket_dir}:{postgres.port}", f"[postgres]\nsocket = {folder}\n")
    assert (folder / f".s.PGSQL.{proxy.port}").is_socket()
    with psycopg.connect(proxy.dsn(database, host=str(folder)), autocommit=True) as connection:
        peer = "SELECT inet_client_addr() IS NULL, pg_backend_pid()"
        assert connection.execute(peer).fetchone() == (True, connection.info.backend_pid)
        connection.execute("CREATE TABLE t (a int)")
        connection.execute("/* batch:5 */ INSERT INTO t VALUES (1)")
        connection.cancel_safe()
    proxy.stop()
    assert not list(folder.iterdir())


def test_a_twisted_endpoint_description(
    postgres: EmbeddedServer,
    start: Callable[..., RunningProxy],
    ports: Ports,
    database: str,
) -> None:
    (port,) = ports(1)
    proxy = start(f"{postgres.host}:{postgres.port}", ALSO_LISTEN=f"tcp:{port}:interface=127.0.0.1")
    with psycopg.connect(proxy.dsn(database, port=port, sslmode="prefer"), autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a int)")
        connection.execute("/* batch:5 */ INSERT INTO t SELECT generate_series(1, 3)")
        assert ("Backend", "write-batch") in connection.execute("SELECT * FROM pg_tqdb_status").fetchall()
        with connection.cursor().copy(
            "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 20000)) TO STDOUT"
        ) as out:
            assert sum(len(block) for block in out) == 20_000 * 1001
    assert_no_exception(proxy)


def test_the_servers_own_process_answers_and_can_be_terminated(ends: Ends) -> None:
    with psycopg.connect(ends.proxied, autocommit=True) as connection:
        pid = connection.info.backend_pid
        assert connection.execute("SELECT pg_backend_pid()").fetchone() == (pid,)
        assert ends.ask(f"SELECT datname, usename FROM pg_stat_activity WHERE pid = {pid}") == [
            (ends.database, "postgres")
        ]
        assert ends.ask(f"SELECT pg_terminate_backend({pid}, 5000)") == [(True,)]
        with pytest.raises(psycopg.errors.AdminShutdown):
            connection.execute("SELECT 1")
        assert connection.closed

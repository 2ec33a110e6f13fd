"""How a client's encryption begins, byte by byte: cut anywhere, injected, cut off, or not TLS at all."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from contextlib import suppress

import psycopg
import pytest

from tests.integration.metrics import scrape
from tests.integration.waiting import wait_for
from tests.integration.wire import GSSENC_REQUEST, SSL_REQUEST, Wire, cancel_request, kinds, query, startup, values
from tests.proxies import HOST, RunningProxy
from tests.tls.clients import ALPN, ClientHello, TlsWire, all_gone, client_context, connected, said_at_start
from tests.tls.conftest import StartTls
from tqdbproxy.embedded import EmbeddedServer

NO_LINGER = struct.pack("ii", 1, 0)
SERVER_NAME = "localhost"


def closed_without_a_word(connection: socket.socket) -> bool:
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


# -- how it is meant


def test_gssapi_encryption_is_refused_and_tls_given(allowing: RunningProxy) -> None:
    with Wire(allowing.port) as wire:
        wire.send(GSSENC_REQUEST)
        assert wire.raw(1) == b"N"
        wire.send(SSL_REQUEST)
        assert wire.raw(1) == b"S"
        wire.socket = client_context().wrap_socket(wire.socket)
        assert values(wire.start("postgres").ask(query("SELECT 7"))) == [b"7"]


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("sizes", [(), (1,), (5,), (1, 4, 100), (1,) * 400], ids=str)
def test_a_client_hello_may_come_in_pieces(direct: bool, sizes: tuple[int, ...], allowing: RunningProxy) -> None:
    """Directly, its first byte is read as what may become a start-up packet. Again and again: it is a race."""
    for _ in range(15):
        hello = ClientHello()
        with connected(allowing.port) as connection:
            if not direct:
                connection.sendall(SSL_REQUEST)
                assert connection.recv(1) == b"S"
            rest = hello.data
            for size in sizes:
                connection.sendall(rest[:size])
                rest = rest[size:]
            connection.sendall(rest)
            assert hello.finish(connection) == ALPN
            assert hello.ask(connection, startup("postgres"))[:1] == b"R"


def test_no_tickets_are_sent(allowing: RunningProxy) -> None:
    """A client that closes with a ticket unread resets the connection, and its last message may be lost."""
    with TlsWire(allowing.port) as wire:
        wire.start("postgres")
        assert isinstance(wire.socket, ssl.SSLSocket)
        assert wire.socket.version() == "TLSv1.3"
        session = wire.socket.session
        assert session is not None
        assert not session.has_ticket


def test_cancel_requests_are_encrypted_like_their_session(debian: EmbeddedServer, start_tls: StartTls) -> None:
    proxy = start_tls(f"{debian.host}:{debian.port}", "require", "require")
    with psycopg.connect(proxy.dsn(sslmode="require", connect_timeout=10)) as connection:
        connection.execute("SET statement_timeout = '20s'")
        connection.pgconn.send_query(b"SELECT pg_sleep(20)")
        with psycopg.connect(debian.dsn(), autocommit=True) as watcher:
            sleeping = (
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND wait_event = 'PgSleep'"
            )
            wait_for(lambda: watcher.execute(sleeping).fetchone() == (1,))
        connection.cancel_safe(timeout=10)
        result = connection.pgconn.get_result()
        assert result is not None
        assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"57014"
        assert connection.pgconn.get_result() is None
    assert "warn" not in proxy.log


def test_a_cancel_request_over_tls_that_is_not_waited_for(allowing: RunningProxy) -> None:
    with TlsWire(allowing.port) as sleeper:
        sleeper.start("postgres")
        sleeper.send(query("SELECT pg_sleep(20)"))
        with TlsWire(allowing.port) as canceller:
            canceller.send(cancel_request(sleeper.key))
        (error, _ready) = (frame for frame in sleeper.until() if frame.kind in "EZ")
        assert error.fields()["C"] == "57014"


def test_tls_off(proxy: RunningProxy) -> None:
    with Wire(proxy.port) as wire:
        wire.send(SSL_REQUEST)
        assert wire.raw(1) == b"N"
        assert values(wire.start("postgres").ask(query("SELECT 7"))) == [b"7"]
    with connected(proxy.port) as connection:
        connection.sendall(ClientHello().data)
        assert closed_without_a_word(connection)


def test_tls_required(postgres: EmbeddedServer, start_tls: StartTls) -> None:
    proxy = start_tls(f"{postgres.host}:{postgres.port}", "require")
    with Wire(proxy.port) as wire:
        (error,) = said_at_start(wire)
        assert error.fields()["C"] == "28000"
        assert error.fields()["M"] == "This proxy requires TLS (tls = require): connect with sslmode=require"
    with TlsWire(proxy.port) as wire:
        assert kinds(said_at_start(wire))[-1] == "Z"
    assert proxy.log.count("#warn]") == 1


def test_a_unix_socket_needs_no_tls(postgres: EmbeddedServer, start_tls: StartTls) -> None:
    """libpq asks for none there, whatever its sslmode."""
    proxy = start_tls(f"{postgres.host}:{postgres.port}", "require", TQDBPROXY_POSTGRES_SOCKET=str(postgres.socket_dir))
    with psycopg.connect(proxy.dsn(host=str(postgres.socket_dir), sslmode="verify-full")) as connection:
        assert connection.execute("SELECT 7").fetchone() == (7,)


# -- how it is not


@pytest.mark.parametrize("injected", [b"x", startup("postgres"), ClientHello().data], ids=["byte", "start-up", "hello"])
def test_bytes_in_clear_behind_the_request(injected: bytes, allowing: RunningProxy) -> None:
    """CVE-2021-23214: somebody in between says something in the name of the client."""
    with connected(allowing.port) as connection:
        connection.sendall(SSL_REQUEST + injected)
        assert closed_without_a_word(connection)
    with connected(allowing.port) as connection:
        connection.sendall(GSSENC_REQUEST + SSL_REQUEST + injected)
        assert connection.recv(100) == b"N"
        assert closed_without_a_word(connection)


def test_a_start_up_packet_in_clear_where_the_handshake_belongs(allowing: RunningProxy) -> None:
    with connected(allowing.port) as connection:
        connection.sendall(SSL_REQUEST)
        assert connection.recv(1) == b"S"
        connection.sendall(startup("postgres") + ClientHello().data)
        answer = b"".join(iter(lambda: connection.recv(100), b""))
        assert answer[:1] in (b"", b"\x15")  # nothing, or TLS's alert
    assert "TLS: " in allowing.log


@pytest.mark.parametrize("data", [b"\x16", b"\x16\x03\x01\x00\x05hello", b"\x16" + bytes(3000), b"\x16\xff" * 500])
@pytest.mark.parametrize("direct", [False, True])
def test_what_is_no_handshake(direct: bool, data: bytes, allowing: RunningProxy) -> None:
    with connected(allowing.port) as connection:
        if not direct:
            connection.sendall(SSL_REQUEST)
            assert connection.recv(1) == b"S"
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(100), b""))
        assert answer[:1] in (b"", b"\x15")
    wait_for(lambda: all_gone(allowing))


@pytest.mark.parametrize("offered", [[], ["http/1.1"], ["postgres", "h2"]], ids=str)
def test_direct_tls_needs_the_right_alpn(offered: list[str], allowing: RunningProxy) -> None:
    """Else another protocol's client could be made to speak to PostgreSQL (ALPACA)."""
    with TlsWire(allowing.port, client_context(alpn=offered), direct=True) as wire:
        wire.send(startup("postgres"))
        assert wire.to_end() == []
    assert "direct TLS without the ALPN protocol postgresql" in allowing.log
    with TlsWire(allowing.port, client_context(alpn=["h2", ALPN]), direct=True) as wire:
        assert kinds(said_at_start(wire))[-1] == "Z"


def test_tls_inside_tls(allowing: RunningProxy) -> None:
    with TlsWire(allowing.port) as wire:
        wire.send(SSL_REQUEST)
        (error,) = wire.to_end()
        assert (error.fields()["C"], error.fields()["M"]) == ("0A000", "unsupported frontend protocol 1234.5679")


def test_packets_that_lie_about_their_length(allowing: RunningProxy) -> None:
    for length in (0, 7, 10001, 2**31 - 1):
        with TlsWire(allowing.port) as wire:
            wire.send(struct.pack("!II", length, 0x30000) + b"user\0x\0\0")
            assert wire.to_end() == []


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("size", [1, 50, 10_000], ids=["first byte", "half", "whole hello"])
@pytest.mark.parametrize("direct", [False, True])
def test_clients_that_leave_in_the_middle(direct: bool, size: int, reset: bool, allowing: RunningProxy) -> None:
    connections = [connected(allowing.port) for _ in range(5)]
    for number, connection in enumerate(connections):
        if not direct:
            connection.sendall(SSL_REQUEST)
            assert number % 2 or connection.recv(1) == b"S"  # some don't wait for the answer
        connection.sendall(ClientHello().data[:size])
        if number == 0:
            wait_for(lambda: scrape(allowing).total("clients") > 0)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        connection.close()
    wait_for(lambda: all_gone(allowing))


def test_a_handshake_that_never_ends(postgres: EmbeddedServer, start_tls: StartTls) -> None:
    proxy = start_tls(f"{postgres.host}:{postgres.port}", more="[limits]\nlogin_timeout_s = 3")
    with connected(proxy.port) as asked, connected(proxy.port) as direct, connected(proxy.port) as silent:
        asked.sendall(SSL_REQUEST)
        assert asked.recv(1) == b"S"
        asked.sendall(ClientHello().data[:30])
        direct.sendall(ClientHello().data[:30])
        silent.sendall(SSL_REQUEST)
        assert silent.recv(1) == b"S"
        # Not even an error in clear: the other end expects TLS.
        assert [closed_without_a_word(connection) for connection in (asked, direct, silent)] == [True] * 3
    with TlsWire(proxy.port) as wire:
        (error,) = wire.to_end()
        assert error.fields()["C"] == "57014"
    wait_for(lambda: all_gone(proxy))
    assert proxy.log.count("canceling authentication due to timeout") == 4
    assert "Traceback" not in proxy.log


def test_hundreds_at_once(allowing: RunningProxy) -> None:
    """Every third one leaves in the middle of it, and nobody else is disturbed."""

    async def talk(number: int) -> bytes:
        if number % 3 == 0:
            _reader, writer = await asyncio.open_connection(HOST, allowing.port)
            writer.write(ClientHello().data[: number + 1])
            await writer.drain()
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()
            return b"left"
        reader, writer = await asyncio.open_connection(
            HOST, allowing.port, ssl=client_context(), server_hostname=SERVER_NAME
        )
        writer.write(startup("postgres"))
        answer = await reader.readuntil(b"Z\0\0\0\5I")
        writer.close()
        await writer.wait_closed()
        return answer[:1]

    async def everybody() -> list[bytes]:
        return list(await asyncio.wait_for(asyncio.gather(*map(talk, range(240))), 60))

    said = asyncio.run(everybody())
    assert (said.count(b"left"), said.count(b"R")) == (80, 160)
    wait_for(lambda: all_gone(allowing))

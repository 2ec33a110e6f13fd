"""What a server may answer to the proxy's SSLRequest, and what becomes of the client that waits for it."""

from __future__ import annotations

import socket
import ssl
import struct
import threading

import psycopg

from tests.integration.metrics import scrape
from tests.integration.waiting import wait_for
from tests.integration.wire import SSL_REQUEST, Wire, frame, startup
from tests.proxies import HOST, Ports, RunningProxy
from tests.tls.certificates import Certificate
from tests.tls.clients import ALPN, TlsWire, client_context, said_at_start
from tests.tls.conftest import StartTls
from tests.tls.servers import SSL_REQUEST_SIZE, TRUSTING, UNASKED, PretendedServer, Script, trusting
from tqdbproxy.embedded import EmbeddedServer
from tqdbproxy.postgres.clients.replies import NO_SERVER


def answering(*pieces: bytes) -> Script:
    """Says these after the SSLRequest, each when the last one was read and answered, and waits for the end."""

    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert connection.recv(SSL_REQUEST_SIZE, socket.MSG_WAITALL) == SSL_REQUEST
        for number, piece in enumerate(pieces):
            assert not number or connection.recv(1)
            connection.sendall(piece)
        while connection.recv(65536):
            pass

    return serve


def closing(connection: socket.socket) -> None:
    connection.recv(SSL_REQUEST_SIZE, socket.MSG_WAITALL)


def hanging_up_on_hello(connection: socket.socket) -> None:
    connection.recv(SSL_REQUEST_SIZE, socket.MSG_WAITALL)
    connection.sendall(b"S")
    connection.recv(65536)


def resetting(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    hanging_up_on_hello(connection)


INJECTED = "TLS: to the SSL request the server sent unencrypted data after its answer"
REFUSALS: dict[str, tuple[Script, str]] = {
    # CVE-2021-23222: somebody in between says something in the name of the server.
    "injected": (answering(b"S" + TRUSTING), INJECTED),
    "injected no": (
        answering(b"N" + TRUSTING),
        "TLS: to the SSL request the server sent unencrypted data after its answer",
    ),
    "injected later": (answering(b"S", TRUSTING), "TLS: wrong version number"),
    "no": (answering(b"N"), "the server does not speak TLS, but sslmode requires it"),
    "error": (answering(frame("E", b"SFATAL\0\0")), "TLS: to the SSL request the server sent neither S nor N but b'E'"),
    "closed": (closing, "TLS: the server closed the connection unexpectedly"),
    "closed in the handshake": (hanging_up_on_hello, "TLS: connection closed during the TLS handshake"),
    "reset in the handshake": (resetting, "TLS: Connection reset by peer"),
    "silent": (answering(), "no answer within 4 s"),
    "silent in the handshake": (answering(b"S"), "no answer within 4 s"),
}


def refusal(port: int) -> tuple[str, str]:
    """SQLSTATE and text of what a client without TLS is told."""
    with Wire(port) as wire:
        (error,) = said_at_start(wire)
        return error.fields()["C"], error.fields()["M"]


def test_answers_that_are_none(start_tls: StartTls) -> None:
    with PretendedServer(closing) as server:
        proxy = start_tls(server.address, "off", "require", more=f"connect_timeout_s = 4\n{UNASKED}")
        seen = {}
        for name, (script, _told) in REFUSALS.items():
            server.script = script
            seen[name] = refusal(proxy.port)
        begins = f"{NO_SERVER}: {server.address}"
        assert seen == {name: ("08001", f"{begins}: {told}") for name, (_, told) in REFUSALS.items()}
        wait_for(lambda: scrape(proxy).total("server_connections") == 0)
    assert "Traceback" not in proxy.log
    assert proxy.log.count("#warn]") == len(REFUSALS)


def test_a_server_that_is_not_there(start_tls: StartTls, ports: Ports) -> None:
    (port,) = ports(1)
    proxy = start_tls(f"{HOST}:{port}", "off", "require")
    assert refusal(proxy.port) == ("08001", f"{NO_SERVER}: {HOST}:{port}: Connection refused")
    assert "Traceback" not in proxy.log


def test_a_server_without_tls(postgres: EmbeddedServer, start_tls: StartTls) -> None:
    where = f"{postgres.host}:{postgres.port}"
    with psycopg.connect(start_tls(where, "allow", "prefer").dsn(sslmode="require")) as connection:
        assert connection.execute("SELECT 7").fetchone() == (7,)
    told = f"{where}: the server does not speak TLS, but sslmode requires it"
    assert refusal(start_tls(where, "allow", "require").port) == ("08001", f"{NO_SERVER}: {told}")


def test_the_server_is_offered_postgresqls_alpn(start_tls: StartTls, certificate: Certificate) -> None:
    context = certificate.server_context()
    context.set_alpn_protocols([ALPN])
    seen: list[str] = []
    with PretendedServer(trusting(context, seen)) as server:
        proxy = start_tls(server.address, "off", "require", more=UNASKED)
        with Wire(proxy.port) as wire:
            wire.start("postgres")
    assert seen == [ALPN]


def test_tls_1_2_is_enough(start_tls: StartTls, certificate: Certificate) -> None:
    context = certificate.server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    seen: list[str] = []
    with PretendedServer(trusting(context, seen)) as server:
        proxy = start_tls(server.address, "off", "require", more=UNASKED)
        with Wire(proxy.port) as wire:
            wire.start("postgres")
    assert seen == [""]


def test_a_client_that_leaves_before_its_server_answers(start_tls: StartTls) -> None:
    asked, go_on = threading.Event(), threading.Event()
    ended: list[bytes] = []

    def late(connection: socket.socket) -> None:
        connection.recv(SSL_REQUEST_SIZE, socket.MSG_WAITALL)
        asked.set()
        go_on.wait(10)
        connection.sendall(b"N")
        ended.append(connection.recv(100))

    with PretendedServer(late) as server:
        proxy = start_tls(server.address, "off", "prefer", more=UNASKED)
        with Wire(proxy.port) as wire:
            wire.send(startup("postgres"))
            assert asked.wait(10)
        wait_for(lambda: scrape(proxy).total("clients") == 0)
        go_on.set()
        wait_for(lambda: gone(proxy))
    assert ended == [b""]
    assert "Traceback" not in proxy.log


def gone(proxy: RunningProxy) -> bool:
    return scrape(proxy).total("server_connections") == 0


def test_direct_tls_without_alpn_reaches_no_server(start_tls: StartTls) -> None:
    """The start-up packet that comes with the handshake isn't read any more."""
    reached: list[int] = []

    def count(connection: socket.socket) -> None:
        reached.append(len(connection.recv(65536)))

    with PretendedServer(count) as server:
        proxy = start_tls(server.address, "allow", "disable", more=UNASKED)
        for alpn in ([], [ALPN]):
            with TlsWire(proxy.port, client_context(alpn=alpn), direct=True) as wire:
                said_at_start(wire)
    assert reached == [len(startup("postgres"))]

"""Clients that say how a connection went: libpq by psycopg, asyncpg, and sockets with a TLS of our own."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import psycopg

from tests.integration.metrics import scrape
from tests.integration.wire import SSL_REQUEST, TIMEOUT_S, Frame, Wire, startup
from tests.proxies import HOST, RunningProxy
from tests.tls.servers import PASSWORD

ALPN = "postgresql"
ATTEMPT = re.compile(r'^connection failed: connection to server at "[^"]*"( \([^)]*\))?, port \d+ failed: ')
IS_ENCRYPTED = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


class Encrypted(NamedTuple):
    """Which sides of a session's way are."""

    client: bool
    server: bool


def outcome(proxy: RunningProxy, **options: str | int) -> Encrypted | str:
    """How libpq's connection went: which sides are encrypted, or what the user is told (without address and hints)."""
    parts = {"connect_timeout": 10, "password": PASSWORD, **options}
    try:
        with psycopg.connect(proxy.dsn(), **parts) as connection:  # type: ignore[arg-type]
            row = connection.execute(IS_ENCRYPTED).fetchone()
            assert row is not None
            return Encrypted(bool(connection.pgconn.ssl_in_use), row[0])
    except psycopg.OperationalError as error:
        told = re.sub(
            r'^connection failed: connection to server at "[^"]*"( \([^)]*\))?, port \d+ failed: ', "", str(error)
        )
        return told.partition("\n")[0].removeprefix("FATAL:  ")


def asyncpg_outcome(proxy: RunningProxy, user: str, encrypted: ssl.SSLContext | None) -> Encrypted | str:
    """The same with asyncpg."""

    async def connect() -> Encrypted | str:
        where: dict[str, Any] = {"host": HOST, "port": proxy.port, "user": user, "database": "postgres"}
        try:
            connection = await asyncpg.connect(**where, password=PASSWORD, ssl=encrypted or False, timeout=10)
        except (asyncpg.PostgresError, OSError) as error:
            return str(error)
        on_server = await connection.fetchval(IS_ENCRYPTED)
        await connection.close()
        return Encrypted(encrypted is not None, on_server)

    return asyncio.run(connect())


def client_context(root: Path | None = None, alpn: Sequence[str] = (ALPN,)) -> ssl.SSLContext:
    """For a client that trusts ``root``, or everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = root is not None
    context.verify_mode = ssl.CERT_NONE if root is None else ssl.CERT_REQUIRED
    if root is not None:
        context.load_verify_locations(root)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class TlsWire(Wire):
    """A `Wire` that speaks TLS, ``direct`` from the first byte or after an SSLRequest."""

    def __init__(
        self, port: int, context: ssl.SSLContext | None = None, *, direct: bool = False, **options: Any
    ) -> None:
        super().__init__(port, **options)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as libpq
        if not direct:
            self.send(SSL_REQUEST)
            answer = self.raw(1)
            assert answer == b"S", answer
        context = context or client_context()
        self.socket = context.wrap_socket(self.socket, server_hostname="localhost")

    def __enter__(self) -> TlsWire:
        return self

    def certificate_name(self) -> str:
        """The common name in the server's certificate, which must have been verified."""
        found: Any = self.socket.getpeercert()  # type: ignore[attr-defined]
        return str(dict(pair for group in found["subject"] for pair in group)["commonName"])


class ClientHello:
    """The client's part of a handshake, in one's own hands."""

    def __init__(self) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = client_context().wrap_bio(self._incoming, self._outgoing)
        self.data = self._said()

    def _said(self) -> bytes:
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._outgoing.read()

    def finish(self, connection: socket.socket) -> str | None:
        """The rest of the handshake, ``data`` being sent already: the ALPN protocol that was agreed on."""
        while self.tls.version() is None:
            received = connection.recv(65536)
            if not received:
                raise EOFError
            self._incoming.write(received)
            connection.sendall(self._said())
        return self.tls.selected_alpn_protocol()

    def ask(self, connection: socket.socket, data: bytes) -> bytes:
        """Send something, encrypted; what comes back."""
        self.tls.write(data)
        connection.sendall(self._outgoing.read())
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                received = connection.recv(65536)
                if not received:
                    raise EOFError from None
                self._incoming.write(received)


def all_gone(proxy: RunningProxy) -> bool:
    """Nobody is connected to the proxy, and the proxy to nobody."""
    page = scrape(proxy)
    return page.total("clients") == page.total("server_connections") == 0


def said_at_start(wire: Wire, **options: str) -> list[Frame]:
    """All that a start-up packet is answered with, until the end or until the session is ready."""
    wire.send(startup("postgres", **options))  # type: ignore[arg-type]
    frames: list[Frame] = []
    with suppress(EOFError, ConnectionResetError):
        while not frames or frames[-1].kind != "Z":
            frames.append(wire.receive())
    return frames


def connected(port: int, timeout_s: float = TIMEOUT_S) -> socket.socket:
    """A socket that sends at once what it is told to."""
    connection = socket.create_connection((HOST, port), timeout=timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection

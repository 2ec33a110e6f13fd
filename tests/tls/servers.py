"""Servers that speak TLS: Debian's PostgreSQL, and one that only pretends to be PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from tests.integration.wire import TERMINATE, TIMEOUT_S, frame
from tests.proxies import HOST
from tests.tls.certificates import Certificate
from tqdbproxy.embedded import UNPRIVILEGED, EmbeddedServer

METHODS = {"password": "password", "md5": "md5", "scram": "scram-sha-256"}
"""Names of ours and of pg_hba.conf for the three ways to log in with a password."""
PASSWORD = "grün und geheim"
SSL_ONLY, CLEAR_ONLY = "ssl", "clear"
"""Prefixes of users who may come over TLS only, or in clear only."""
SSL_REQUEST_SIZE = 8
TRUSTING = frame("R", bytes(4)) + frame("K", b"\0\0\0\1key!") + frame("Z", b"I")
"""What a server says that trusts whoever comes."""
ROOT_USER = 0


def debian_programs() -> Path | None:
    """The folder of the newest PostgreSQL that Debian's packages have installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@contextmanager
def debian_server(programs: Path, certificate: Certificate, root: Path) -> Iterator[EmbeddedServer]:
    """PostgreSQL with TLS and a user for each way to log in: ``scram``, ``ssl_scram``, ``clear_scram``, ``md5``, ..."""
    folder = Path(tempfile.mkdtemp(prefix="tqdb-tls-"))  # not pytest's folder: the server's user may not enter that
    try:
        files = {"ssl_cert_file": certificate.chain, "ssl_key_file": certificate.key, "ssl_ca_file": root}
        conf = ["ssl = on", "password_encryption = 'scram-sha-256'"]
        for setting, source in files.items():
            conf.append(f"{setting} = '{_given_to_server(source, folder)}'")
        with EmbeddedServer(folder, conf=conf, hba=_who_may_come(), bin_dir=programs) as server:
            _make_users(server)
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _given_to_server(source: Path, folder: Path) -> Path:
    copy = Path(shutil.copy(source, folder))
    copy.chmod(0o600)
    if os.geteuid() == ROOT_USER:
        entry = pwd.getpwnam(UNPRIVILEGED)
        os.chown(copy, entry.pw_uid, entry.pw_gid)
    return copy


def _who_may_come() -> list[str]:
    lines = []
    for name, method in METHODS.items():
        lines.append(f"hostssl all {SSL_ONLY}_{name} {HOST}/32 {method}")
        lines.append(f"hostnossl all {CLEAR_ONLY}_{name} {HOST}/32 {method}")
        lines.append(f"host all {SSL_ONLY}_{name},{CLEAR_ONLY}_{name} {HOST}/32 reject")
        lines.append(f"host all {name} {HOST}/32 {method}")
    return [*lines, f"hostssl all certified {HOST}/32 cert"]


def _make_users(server: EmbeddedServer) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE ROLE certified LOGIN")
        for name in METHODS:
            connection.execute(f"SET password_encryption = '{'md5' if name == 'md5' else 'scram-sha-256'}'".encode())
            for user in (name, f"{SSL_ONLY}_{name}", f"{CLEAR_ONLY}_{name}"):
                connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'".encode())


UNASKED = "probe_interval_s = 0"
"""A proxy's setting for pretended servers: nobody connects to them but clients."""

Script = Callable[[socket.socket], None]


class PretendedServer:
    """Listens on a free port and does with each connection what ``script`` says at that time, in a thread each."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self._listening = socket.create_server((HOST, 0))
        self.port: int = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _address = self._listening.accept()
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(TIMEOUT_S)
        with connection, suppress(OSError):
            self.script(connection)

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def __enter__(self) -> PretendedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(TIMEOUT_S)


def in_clear(answer: bytes) -> Script:
    """Trusts everybody and says ``answer`` to whatever is asked."""

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(TRUSTING)
        while connection.recv(65536) not in (b"", TERMINATE):
            connection.sendall(answer)

    return serve


def trusting(context: ssl.SSLContext, seen: list[str] | None = None) -> Script:
    """Answers S, trusts everybody, and is ready. Notes the ALPN protocol of each connection in ``seen``."""

    def serve(connection: socket.socket) -> None:
        connection.recv(SSL_REQUEST_SIZE, socket.MSG_WAITALL)
        connection.sendall(b"S")
        with context.wrap_socket(connection, server_side=True) as encrypted:
            if seen is not None:
                seen.append(encrypted.selected_alpn_protocol() or "")
            encrypted.recv(65536)
            encrypted.sendall(TRUSTING)
            while encrypted.recv(65536) not in (b"", TERMINATE):
                pass

    return serve

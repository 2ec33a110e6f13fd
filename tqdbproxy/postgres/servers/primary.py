"""One server: how it is reached, with or without TLS, and how it is asked to cancel something.

The law of this module: it makes connections and keeps none; sockets are opened by the function that it is given.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from tqdbproxy.addresses import TcpAddress, UnixAddress
from tqdbproxy.errors import ServerUnreachable, TlsRefused
from tqdbproxy.logs import logger
from tqdbproxy.postgres.messages import CANCEL_REQUEST
from tqdbproxy.postgres.servers.connection import ServerConnection
from tqdbproxy.postgres.servers.counts import Counts
from tqdbproxy.postgres.servers.dial import Address, Dial

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class ServerTls:
    """``context`` None: no TLS. ``required``: better no connection than one in clear."""

    context: SSLContext | None = None
    required: bool = False


class PrimaryServer:
    """A server that a group's sessions are connected to. ``name`` is its label in the metrics."""

    def __init__(
        self,
        group: str,
        address: Address,
        tls: ServerTls,
        connect_timeout_s: float,
        dial: Dial,
        clock: IReactorTime,
        counts: Counts | None = None,
    ) -> None:
        self.group = group
        self.name = f"{group}/primary"
        self.counts = counts or Counts()
        self.address = address
        # As libpq: nobody is between us and a Unix socket.
        self._tls = ServerTls() if isinstance(address, UnixAddress) else tls
        self._timeout_s = connect_timeout_s
        self._dial = dial
        self._clock = clock

    def connect(self, timeout_s: float) -> Deferred[ServerConnection]:
        """A new connection, encrypted if it has to be, before its login. Fails with `ServerUnreachable`."""
        connection = ServerConnection(self)
        return self._open(connection, timeout_s).addCallback(lambda _none: connection)

    def cancel(self, key: bytes) -> Deferred[None]:
        """Ask the server to cancel what the process with ``key`` does; fires when it has closed the connection."""
        request = ServerConnection(self)
        packet = struct.pack("!II", 8 + len(key), CANCEL_REQUEST) + key
        opened = self._open(request, self._timeout_s)
        opened.addCallback(lambda _none: request.transport.write(packet))
        opened.addCallback(lambda _none: request.closed)
        opened.addTimeout(self._timeout_s, self._clock, self._too_late)
        return opened.addErrback(self._not_cancelled, request)

    def _not_cancelled(self, failure: Failure, request: ServerConnection) -> None:
        log.warn("cancel request to {server}: {reason}", server=self.name, reason=failure.getErrorMessage())
        if request.alive:
            request.transport.abortConnection()

    def _open(self, connection: ServerConnection, timeout_s: float) -> Deferred[None]:
        opened = self._dial(self.address, connection, timeout_s)
        if self._tls.context is not None:
            opened.addCallback(lambda _wire: self._encrypt(connection, timeout_s))
        return opened

    def _encrypt(self, connection: ServerConnection, timeout_s: float) -> Deferred[None]:
        encrypted: Deferred[Any] = connection.request_tls()
        encrypted.addCallback(self._secure, connection)
        # `dial` stopped its clock when the connection was made.
        encrypted.addTimeout(timeout_s, self._clock, self._too_late)
        return encrypted.addErrback(self._failed, connection)

    def _secure(self, offered: bool, connection: ServerConnection) -> Deferred[None] | None:
        if not offered:
            if self._tls.required:
                raise TlsRefused(f"{self.address}: the server does not speak TLS, but sslmode requires it")
            return None
        connection.tls = True
        host = self.address.host if isinstance(self.address, TcpAddress) else ""
        secured: Deferred[None] = connection.transport.start_tls(
            self._tls.context, server_side=False, server_hostname=host
        )
        return secured

    def _too_late(self, _result: object, timeout_s: float) -> None:
        raise ServerUnreachable(f"{self.address}: no answer within {timeout_s:g} s")

    def _failed(self, failure: Failure, connection: ServerConnection) -> Failure:
        connection.transport.abortConnection()
        if failure.check(ServerUnreachable):
            return failure
        return Failure(TlsRefused(f"{self.address}: TLS: {failure.getErrorMessage()}"))

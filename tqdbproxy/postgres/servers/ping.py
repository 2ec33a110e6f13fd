"""Asks a server whether it begins sessions now, as libpq's ``PQping`` does.

It says hello and listens to the first word: whoever asks for a password, or refuses for any reason but "not now", is
up. libpq's own function isn't used: through psycopg it holds Python's lock while it waits, so that a server that keeps
silent would stop the reactor too, whatever thread asks (measured: ``docs/decisions/health.rst``). The law of this
module: an answer of any kind is a finding, and so is none.
"""

from __future__ import annotations

import struct
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from tqdbproxy.core.health import Finding, Reach
from tqdbproxy.postgres.framing import HEADER_SIZE, FramingError, end_of_frame
from tqdbproxy.postgres.messages import ERROR_RESPONSE, PROTOCOL_3_0, error_fields
from tqdbproxy.postgres.servers.dial import Address, Dial

CANNOT_CONNECT_NOW = "57P03"
LONGEST_ERROR = 65536
OPTIONS = b"user\0tqdbproxy\0database\0postgres\0application_name\0tqdbproxy\0\0"
"""Nobody has to exist under this name: any answer will do."""
HELLO = struct.pack("!II", 8 + len(OPTIONS), PROTOCOL_3_0) + OPTIONS


class Ping(Protocol):
    """One connection that ends with the first word. ``found`` fires with the finding."""

    transport: Any

    def __init__(self, address: Address) -> None:
        self.found: Deferred[Finding] = Deferred()
        self._address = address
        self._heard = b""

    def connectionMade(self) -> None:
        """See `twisted.internet.protocol.Protocol`."""
        self.transport.write(HELLO)

    def dataReceived(self, data: bytes) -> None:
        """See `twisted.internet.protocol.Protocol`."""
        self._heard += data
        if self._heard[0] != ERROR_RESPONSE:
            self.tell(Finding(Reach.UP))
        elif len(self._heard) >= HEADER_SIZE:
            self._error()

    def _error(self) -> None:
        try:
            end = end_of_frame(self._heard, 0)
        except FramingError:
            end = LONGEST_ERROR
        if end >= LONGEST_ERROR:
            self.tell(Finding(Reach.DOWN, problem=f"{self._address}: what answers is not PostgreSQL"))
        elif end <= len(self._heard):
            fields = error_fields(self._heard, 0, end)
            not_now = Finding(Reach.REJECTING, problem=f"{self._address}: {fields.get('M', '')}")
            self.tell(not_now if fields.get("C") == CANNOT_CONNECT_NOW else Finding(Reach.UP))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See `twisted.internet.protocol.Protocol`."""
        self.tell(Finding(Reach.DOWN, problem=f"{self._address}: closed the connection without a word"))

    def tell(self, finding: Finding) -> None:
        """This is it, unless it was told already."""
        if self.transport is not None:
            self.transport.abortConnection()
        if not self.found.called:
            self.found.callback(finding)


def ping(address: Address, dial: Dial, clock: IReactorTime, timeout_s: float) -> Deferred[Finding]:
    """What the server at ``address`` says to a hello; fires within twice ``timeout_s`` and never fails."""
    asking = Ping(address)
    silent = Finding(Reach.DOWN, problem=f"{address}: no answer within {timeout_s:g} s")

    def answered(finding: Finding, timer: IDelayedCall) -> Finding:
        if timer.active():
            timer.cancel()
        return finding

    def connected(_wire: object) -> None:
        timer = clock.callLater(timeout_s, asking.tell, silent)
        asking.found.addCallback(answered, timer)

    def not_connected(failure: Failure) -> None:
        asking.tell(Finding(Reach.DOWN, problem=failure.getErrorMessage()))

    dial(address, asking, timeout_s).addCallbacks(connected, not_connected)
    return asking.found

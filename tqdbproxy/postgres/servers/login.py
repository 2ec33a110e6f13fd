"""Start-up and authentication between a client and its server, relayed (manual, "Start-up" and "SASL Authentication").

The law of this module: no I/O, and nothing is changed but one thing: where TLS ends at the proxy, SCRAM-SHA-256-PLUS is
taken out of the offered mechanisms, since a channel can't be bound through it.
"""

from __future__ import annotations

from tqdbproxy.errors import ChannelBindingImpossible
from tqdbproxy.postgres.framing import HEADER_SIZE, FramingError, end_of_frame, frame, length_at, text_at
from tqdbproxy.postgres.messages import (
    AUTHENTICATION,
    BACKEND_KEY_DATA,
    ERROR_RESPONSE,
    PARAMETER_STATUS,
    PASSWORD,
    READY_FOR_QUERY,
    error_fields,
    parameter_status,
)

SASL = 10
UNANSWERED = frozenset({0, 12})
"""AuthenticationOk and AuthenticationSASLFinal."""
PLUS = b"SCRAM-SHA-256-PLUS"
MAX_EARLY = 1 << 20
"""Bytes of the session that are kept while the login goes on."""
MAX_FRAME = 65536
"""No message of an authentication is longer (PostgreSQL's ``PG_MAX_AUTH_TOKEN_LENGTH``)."""


class Login:
    """One session's login. ``cancel_key``: process id and secret key as the server gave them, raw.

    :param tls: TLS on at least one side ends at the proxy.
    :param tls_both: on both sides, so that the server knows of channel binding and the client does too.
    """

    def __init__(self, *, tls: bool, tls_both: bool) -> None:
        self.cancel_key = b""
        self.parameters: dict[bytes, bytes] = {}
        self.status = 0
        self.refused = ""
        """The error that the server has sent: its SQLSTATE and its message."""
        self.from_server_rest = b""
        """What came after ReadyForQuery: the session's, not the login's."""
        self._early = b""
        self._asking = False
        self._tls = tls
        self._tls_both = tls_both
        self._plus_offered = False
        self._server_part = b""
        self._client_part = b""

    @property
    def done(self) -> bool:
        """The server is ready for queries."""
        return self.status != 0

    @property
    def asking(self) -> bool:
        """The server waits for an answer of the client."""
        return self._asking

    @property
    def early(self) -> bytes:
        """What the client sent without waiting for ReadyForQuery: the session's, not the login's."""
        return self._early or self._client_part

    def from_server(self, data: bytes) -> bytes:
        """Take bytes of the server, return what the client gets. Raises `FramingError`."""
        data = self._server_part + data
        out: list[bytes] = []
        at = 0
        while not self.done and len(data) - at >= HEADER_SIZE:
            end = _end(data, at)
            if end > len(data):
                break
            out.append(self._server_frame(data[at:end]))
            at = end
        if self.done:
            self.from_server_rest, self._server_part = data[at:], b""
        else:
            self._server_part = data[at:]
        return b"".join(out)

    def _server_frame(self, raw: bytes) -> bytes:
        kind = raw[0]
        if kind == AUTHENTICATION and len(raw) >= 9:
            return self._request(raw, length_at(raw, 5)[0])
        if kind == BACKEND_KEY_DATA:
            self.cancel_key = raw[HEADER_SIZE:]
        elif kind == PARAMETER_STATUS:
            name, value = parameter_status(raw, 0)
            self.parameters[name] = value
        elif kind == ERROR_RESPONSE:
            fields = error_fields(raw, 0, len(raw))
            self.refused = f"{fields.get('C', '')} {fields.get('M', '')}"
        elif kind == READY_FOR_QUERY:
            if len(raw) != HEADER_SIZE + 1:
                raise FramingError("a ReadyForQuery without its one byte")
            self.status = raw[HEADER_SIZE]
        return raw

    def _request(self, raw: bytes, code: int) -> bytes:
        self._asking = code not in UNANSWERED
        if self._asking and self._early:
            raise FramingError("expected a password response")
        return self._offer(raw) if code == SASL and len(raw) > 9 else raw

    def _offer(self, raw: bytes) -> bytes:
        """AuthenticationSASL without the mechanism that can't work."""
        mechanisms = raw[9:].split(b"\0")
        if not self._tls or PLUS not in mechanisms:
            return raw
        self._plus_offered = True
        return frame(b"R", raw[5:9] + b"\0".join(name for name in mechanisms if name != PLUS))

    def from_client(self, data: bytes) -> bytes:
        """Take bytes of the client, return what the server gets.

        Raises `FramingError` for another answer to an authentication request, `ChannelBindingImpossible` where the
        client's first SCRAM message shows that the login can't succeed.
        """
        if self._early:
            self._early += data
            if len(self._early) > MAX_EARLY:
                raise FramingError("too much was sent before the login was finished")
            return b""
        data = self._client_part + data
        at = 0
        while len(data) - at >= HEADER_SIZE:
            if data[at] != PASSWORD:
                if self._asking:
                    raise FramingError(f"expected a password response, got message type {data[at]}")
                self._early, self._client_part = data[at:], b""
                return data[:at]
            end = _end(data, at)
            if end > len(data):
                break
            self._check_binding(data, at)
            self._asking = False
            at = end
        self._client_part = data[at:]
        return data[:at]

    def _check_binding(self, data: bytes, at: int) -> None:
        """The GS2 flag "y" says: I could bind the channel, but you did not offer it (RFC 5802, section 6)."""
        if not (self._plus_offered and self._tls_both):
            return
        self._plus_offered = False
        mechanism, after = text_at(data, at + HEADER_SIZE)
        if mechanism == b"SCRAM-SHA-256" and data[after + 4 : after + 6] == b"y,":
            raise ChannelBindingImpossible


def _end(data: bytes, at: int) -> int:
    end = end_of_frame(data, at)
    if end - at > MAX_FRAME:
        raise FramingError(f"a message of {end - at} bytes during authentication")
    return end

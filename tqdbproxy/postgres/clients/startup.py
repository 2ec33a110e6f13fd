"""The first packets of a client: encryption requests, cancel requests, the start-up message.

The law of this module: no I/O; it says what came, the protocol does what has to be done (manual, "Start-up", "SSL
Session Encryption", "Canceling Requests in Progress").
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tqdbproxy.errors import ProtocolViolation, UnsupportedProtocol
from tqdbproxy.postgres.framing import FramingError
from tqdbproxy.postgres.messages import (
    CANCEL_REQUEST,
    GSSENC_REQUEST,
    MAX_STARTUP_LENGTH,
    SSL_REQUEST,
    StartupMessage,
)

TLS_HANDSHAKE = 0x16
"""First byte of a TLS connection: a client that negotiates directly."""


@dataclass(frozen=True, slots=True)
class WantsTls:
    """It asks for TLS. ``received``: what came of a direct handshake already; None: it waits for S or N."""

    received: bytes | None


@dataclass(frozen=True, slots=True)
class WantsGssEncryption:
    """It asks for GSSAPI encryption and waits for G or N."""


@dataclass(frozen=True, slots=True)
class Cancels:
    """It asks to cancel what the session with ``key`` (process id and secret, raw) is doing."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Begins:
    """It wants a session."""

    message: StartupMessage


Event = WantsTls | WantsGssEncryption | Cancels | Begins


class Startup:
    """Takes bytes until the client has said what it wants. ``rest``: bytes that came after what was understood."""

    def __init__(self) -> None:
        self.rest = b""
        self.encrypted = False

    def feed(self, data: bytes) -> Event | None:
        """The next thing that the client wants; None: the packet isn't complete.

        Raises `FramingError` for what is no packet, another `ProtocolViolation` for one that is wrong inside.
        """
        data = self.rest + data
        self.rest = data
        if data and data[0] == TLS_HANDSHAKE and not self.encrypted:
            self.rest = b""
            return WantsTls(data)
        if len(data) < 8:
            return None
        length, code = struct.unpack_from("!II", data)
        if not 8 <= length <= MAX_STARTUP_LENGTH:
            raise FramingError("invalid length of startup packet")
        if len(data) < length:
            return None
        self.rest = data[length:]
        return self._packet(data[:length], code)

    def _packet(self, raw: bytes, code: int) -> Event:
        if code == SSL_REQUEST and not self.encrypted and len(raw) == 8:
            return WantsTls(None)
        if code == GSSENC_REQUEST and len(raw) == 8:
            return WantsGssEncryption()
        if code == CANCEL_REQUEST:
            return Cancels(raw[8:])
        if code >> 16 != 3:
            raise UnsupportedProtocol(f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}")
        try:
            return Begins(StartupMessage.parse(raw))
        except FramingError as problem:
            raise ProtocolViolation(str(problem)) from None

"""Who gets into the console, and how he is greeted.

Users that are named in ``[admin] users`` log in at the default server group, whose password check is relayed: the
start-up packet goes on with the database ``postgres`` instead of the console's. Over the Unix socket, the system's user
that the proxy runs as comes in by any name, as the kernel says who it is. The law of this module: no I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred

from tqdbproxy.errors import NotAdmin
from tqdbproxy.postgres.clients.console_commands import Commands
from tqdbproxy.postgres.framing import frame
from tqdbproxy.postgres.messages import PROTOCOL_3_0, READY_IDLE_FRAME, StartupMessage

LOGIN_DATABASE = b"postgres"
"""Where console users prove who they are; every cluster has it, unless somebody took pains."""

KEPT_OPTIONS = frozenset({b"user", b"application_name"})
"""Options that go on to the server; others (``replication``, ``options``) could make it another kind of session."""

SETTINGS = (
    ("server_version", "16.0 (tqdbproxy console)"),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("integer_datetimes", "on"),
    ("standard_conforming_strings", "on"),
)
"""What drivers want to know before they speak, where no server tells them."""

AUTHENTICATION_OK_FRAME = frame(b"R", bytes(4))


@dataclass(slots=True)
class ConsoleEntry:
    """``[admin]``. ``database`` empty: there is no console. ``connect``: to a server of the default group.

    ``own_uid`` is asked at each login: with ``--uid``, twistd changes the user when all has been made.
    """

    database: str
    users: frozenset[str]
    own_uid: Callable[[], int]
    connect: Callable[[StartupMessage], Deferred[Any]]
    commands: Commands

    def leads_to(self, database: str) -> bool:
        """Whether it is the console that a client asks for."""
        return bool(self.database) and database == self.database

    def trusts(self, uid: int | None) -> bool:
        """Whether the user at the other end of a Unix socket needs no password; None: it is no Unix socket."""
        return uid is not None and uid == self.own_uid()

    def check(self, user: str) -> None:
        """Raises `NotAdmin` if ``user`` may not even log in."""
        if user not in self.users:
            raise NotAdmin


def login_message(message: StartupMessage) -> StartupMessage:
    """The packet that a server gets instead of ``message``."""
    kept = [pair for pair in message.options if pair[0] in KEPT_OPTIONS or pair[0].startswith(b"_pq_.")]
    options = (*kept, (b"database", LOGIN_DATABASE))
    body = b"".join(b"%b\0%b\0" % pair for pair in options) + b"\0"
    return StartupMessage(message.version, options, struct.pack("!II", 8 + len(body), message.version) + body)


def greeting(message: StartupMessage) -> bytes:
    """The whole login of somebody who needs no password."""
    parts = [_negotiation(message), AUTHENTICATION_OK_FRAME]
    parts += [frame(b"S", f"{name}\0{value}\0".encode()) for name, value in SETTINGS]
    return b"".join((*parts, READY_IDLE_FRAME))


def _negotiation(message: StartupMessage) -> bytes:
    """NegotiateProtocolVersion: the console speaks 3.0, without options."""
    unknown = [name for name, _value in message.options if name.startswith(b"_pq_.")]
    if message.version <= PROTOCOL_3_0 and not unknown:
        return b""
    return frame(b"v", struct.pack("!II", PROTOCOL_3_0, len(unknown)) + b"".join(name + b"\0" for name in unknown))

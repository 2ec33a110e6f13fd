"""Twisted's endpoint descriptions, listened on with sockets of ours.

An endpoint says where and how; its ``listen`` asks a reactor for a port. `Sockets` stands in for that reactor and binds
sockets, which get the same transports as all others: with TLS, the rights of a Unix socket's peer, and the speed.
The law of this module: descriptions become sockets; it accepts nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from tqdbproxy.addresses import TcpAddress
from tqdbproxy.sockets import bind_tcp, bind_unix


class Sockets:
    """The reactor as an endpoint sees it (`IReactorTCP`, `IReactorUNIX`, `IReactorSocket`), for one ``listen``.

    The methods have Twisted's names; a backlog that is asked for isn't followed.
    """

    def __init__(self) -> None:
        self.bound: list[socket.socket] = []
        self.path: str | None = None
        """Of a Unix socket that was made here, and has to be removed."""
        self.factory: Factory = cast(Factory, None)
        """What makes the protocols: the endpoint may have wrapped the one that it was given."""

    def listenTCP(self, port: int, factory: Factory, backlog: int = 0, interface: str = "") -> None:
        """See `twisted.internet.interfaces.IReactorTCP`."""
        self._take(bind_tcp(TcpAddress(interface or "0.0.0.0", port), both=True), factory)

    def listenUNIX(self, address: str, factory: Factory, backlog: int = 0, mode: int = 0o666, wantPID: int = 0) -> None:
        """See `twisted.internet.interfaces.IReactorUNIX`."""
        self._take(bind_unix(address, mode), factory)
        self.path = address

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Factory) -> None:
        """See `twisted.internet.interfaces.IReactorSocket`: the endpoint closes its own descriptor."""
        sock = socket.socket(addressFamily, socket.SOCK_STREAM, fileno=os.dup(fileDescriptor))
        sock.setblocking(False)
        self._take([sock], factory)

    def _take(self, sockets: list[socket.socket], factory: Factory) -> None:
        self.bound = sockets
        self.factory = factory


class _Maker(Factory):
    def __init__(self, make: Callable[[], Protocol]) -> None:
        self._make = make

    def buildProtocol(self, addr: object) -> Protocol:
        """See `IProtocolFactory`."""
        return self._make()


def open_endpoint(description: str, make: Callable[[], Protocol]) -> Sockets:
    """The sockets that a description stands for, and what makes their connections' protocols.

    Raises whatever the endpoint's parser raises: `ValueError`, `TypeError`, `LookupError`, `OSError` among others.
    """
    sockets = Sockets()
    problems: list[Failure] = []
    listening: Any = serverFromString(sockets, description).listen(_Maker(make))
    listening.addErrback(problems.append)
    if problems:
        raise cast(Exception, problems[0].value)
    if not sockets.bound:
        raise ValueError("nobody can listen so here: tcp, tcp6, unix, systemd and haproxy can be used")
    return sockets

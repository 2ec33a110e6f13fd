"""Sockets that listen before anything runs, so that an address that can't be had is an error at the start.

The law of this module: sockets, not connections; nothing here accepts or waits.
"""

from __future__ import annotations

import errno
import os
import socket
import stat

from tqdbproxy.addresses import TcpAddress

BACKLOG = 1024

NOT_HERE = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""A host without IPv6 says so of a name's or of all interfaces' IPv6 address."""

ANYBODY = 0o777
"""As PostgreSQL's ``unix_socket_permissions``: who may come is the server's matter."""


def bind_tcp(address: TcpAddress, *, both: bool = False) -> list[socket.socket]:
    """One socket per address that the host's name stands for, all with one port. Raises `OSError`.

    ``both``: an IPv6 address takes IPv4 connections as well, if it is for all interfaces.
    """
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    port = address.port
    found = socket.getaddrinfo(address.host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _kind, _proto, _name, where in found:
        try:
            # Port 0: the first socket chooses, the others take the same.
            sock = _bind_one(family, (where[0], port, *where[2:]), both=both)
        except OSError as problem:
            if problem.errno in NOT_HERE:
                absent = problem
                continue
            _close(sockets)
            raise
        port = port or sock.getsockname()[1]
        sockets.append(sock)
    if absent is not None and not sockets:
        raise absent
    return sockets


def _bind_one(family: int, where: tuple[object, ...], *, both: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        sock.bind(where)
        # At once: two sockets can be bound to one address, but only one of them can listen.
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def bind_unix(path: str, mode: int = ANYBODY) -> list[socket.socket]:
    """A socket at ``path``, where one may lie that nobody listens on any more. Raises `OSError`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        os.chmod(path, mode)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return [sock]


def _remove_stale(path: str) -> None:
    """A socket file that nobody listens on is left over from a killed process."""
    if not os.path.exists(path) or not stat.S_ISSOCK(os.stat(path).st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def _close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()

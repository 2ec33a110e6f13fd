"""Sockets that are bound before anything runs, so that an address that can't be had is an error at the start.

The law of this module: sockets, not connections; nothing here listens or waits.
"""

from __future__ import annotations

import errno
import os
import socket
import stat

from tqdbproxy.addresses import TcpAddress


def bind_tcp(address: TcpAddress) -> list[socket.socket]:
    """One socket per address that the host's name stands for, all with one port. Raises `OSError`."""
    sockets: list[socket.socket] = []
    port = address.port
    found = socket.getaddrinfo(address.host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, proto, _name, where in found:
        sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            # Port 0: the first socket chooses, the others take the same.
            sock.bind((where[0], port, *where[2:]))
        except OSError as problem:
            sock.close()
            if problem.errno == errno.EAFNOSUPPORT or (sockets and not address.host):  # a host without IPv6
                continue
            for other in sockets:
                other.close()
            raise
        sock.setblocking(False)
        port = port or sock.getsockname()[1]
        sockets.append(sock)
    return sockets


def bind_unix(path: str) -> list[socket.socket]:
    """A socket at ``path``, where one may lie that nobody listens on any more. Raises `OSError`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        os.chmod(path, 0o777)  # as PostgreSQL's unix_socket_permissions: who may come is the server's matter
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

"""Where one can listen, and what is said where one can't."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest
from twisted.internet.protocol import Protocol
from twisted.logger import capturedLogs

from tqdbproxy.addresses import EndpointDescription, ListenAddress, TcpAddress
from tqdbproxy.endpoints import open_endpoint
from tqdbproxy.errors import ConfigError
from tqdbproxy.sockets import bind_tcp
from tqdbproxy.transport import Listener

LOOPBACK = "127.0.0.1"


def taken() -> socket.socket:
    """A socket that somebody listens on."""
    sock = socket.socket()
    sock.bind((LOOPBACK, 0))
    sock.listen()
    return sock


Found = tuple[int, int, int, str, tuple[str | int, ...]]
IPV4: Found = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
IPV6: Found = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0))
REAL = socket.socket


def without_ipv6(monkeypatch: pytest.MonkeyPatch, error: int, *found: Found) -> list[socket.socket]:
    """Names stand for ``found``, and an IPv6 socket can't be made; the sockets that are."""
    made: list[socket.socket] = []

    def make(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(error, os.strerror(error))
        made.append(REAL(family, kind))
        return made[-1]

    monkeypatch.setattr(socket, "socket", make)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: list(found))
    return made


@pytest.mark.parametrize("found", [(IPV4, IPV6), (IPV6, IPV4)])
@pytest.mark.parametrize("error", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_machine_without_ipv6(error: int, found: tuple[Found, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    made = without_ipv6(monkeypatch, error, *found)
    (sock,) = bind_tcp(TcpAddress("", 0))
    assert [sock] == made
    sock.close()


def test_a_machine_without_ipv6_and_an_address_that_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ipv6(monkeypatch, errno.EAFNOSUPPORT, IPV6)
    with pytest.raises(OSError, match="not supported"):
        bind_tcp(TcpAddress("::1", 0))


def test_a_port_that_is_taken_for_one_family_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    made = without_ipv6(monkeypatch, errno.EADDRINUSE, IPV4, IPV6)
    with pytest.raises(OSError, match="in use"):
        bind_tcp(TcpAddress("", 0))
    assert [sock.fileno() for sock in made] == [-1], "the other one is closed"


def test_two_listeners_for_one_address() -> None:
    first = Listener(TcpAddress(LOOPBACK, 0), Protocol)
    try:
        with pytest.raises(ConfigError, match=r"can't listen on 127\.0\.0\.1:\d+: Address already in use"):
            Listener(first.address, Protocol)
    finally:
        first.stop()


@pytest.mark.parametrize(
    ("description", "why"),
    [
        ("systemd:domain=INET:index=0", "there is nothing with this name or number"),
        ("systemd:domain=INET:name=x", "there is nothing with this name or number"),
        ("tcp:port=abc", "invalid literal"),
        ("tcp:80:bogus=1", "bogus"),
        ("nowhere:x=1", "nowhere"),
        ("unix:/nowhere/at/all", "No such file or directory"),
        ("fd:nowhere=1", "fd"),
    ],
)
def test_an_endpoint_that_can_not_be_used(description: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s)can't listen on {description[:4]}.*{why}"):
        Listener(EndpointDescription(description), Protocol)


def test_an_endpoint_whose_port_is_taken() -> None:
    with taken() as other:
        text = f"tcp:{other.getsockname()[1]}:interface={LOOPBACK}"
        with pytest.raises(ConfigError, match=r"can't listen on tcp:.*: Address already in use"):
            Listener(EndpointDescription(text), Protocol)


def test_a_unix_socket_by_its_description(tmp_path: Path) -> None:
    path = tmp_path / "s"
    address: ListenAddress = EndpointDescription(f"unix:{path}:mode=600")
    listener = Listener(address, Protocol)
    try:
        assert path.stat().st_mode & 0o777 == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(path))
    finally:
        listener.stop()
    assert not path.exists()


class Ipv6Socket:
    """In the place of an IPv6 socket, which not every machine can make: what is set on it."""

    def __init__(self) -> None:
        self.options: dict[tuple[int, int], int] = {}

    def setsockopt(self, level: int, name: int, value: int) -> None:
        self.options[level, name] = value

    def getsockname(self) -> tuple[str, int, int, int]:
        return "::", 5433, 0, 0

    def bind(self, _where: object) -> None: ...
    def listen(self, _backlog: int) -> None: ...
    def setblocking(self, _flag: bool) -> None: ...


def test_an_ipv6_endpoint_takes_ipv4_clients_as_twisteds_does(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [Ipv6Socket(), Ipv6Socket()]
    unused = iter(made)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [IPV6])
    monkeypatch.setattr(socket, "socket", lambda *_: next(unused))
    bind_tcp(TcpAddress("::", 0))
    open_endpoint("tcp6:0", Protocol)
    assert [sock.options[socket.IPPROTO_IPV6, socket.IPV6_V6ONLY] for sock in made] == [True, False]


def test_a_socket_that_can_not_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    listener = Listener(str(tmp_path / "s"), Protocol)
    monkeypatch.setattr(os, "unlink", refuse)
    with capturedLogs() as events:
        listener.stop()
    assert [(event["path"], event["reason"]) for event in events] == [(str(tmp_path / "s"), "Permission denied")]

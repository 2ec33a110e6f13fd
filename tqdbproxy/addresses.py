"""Where to listen and where a server is: text -> address.

The law of this module: it knows how addresses are written, not whether anybody answers there. No look-ups, no sockets.
"""

from __future__ import annotations

from dataclasses import dataclass

POSTGRES_PORT = 5432
HIGHEST_PORT = 65535
#: Names with which a Twisted endpoint description begins (twisted.internet.endpoints and Twisted's own plugins).
ENDPOINT_NAMES = frozenset({"tcp", "tcp6", "ssl", "unix", "systemd", "haproxy"})


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """Host or IP address, without brackets, and port. To listen: host "" is every interface, port 0 any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A server's Unix socket, named as libpq names it: a directory and a port."""

    directory: str
    port: int

    @property
    def path(self) -> str:
        return f"{self.directory.rstrip('/')}/.s.PGSQL.{self.port}"

    def __str__(self) -> str:
        return f"unix:{self.directory}:{self.port}"


@dataclass(frozen=True, slots=True)
class EndpointDescription:
    """A place to listen in Twisted's own words, for ``twisted.internet.endpoints.serverFromString``."""

    text: str

    def __str__(self) -> str:
        return self.text


ListenAddress = TcpAddress | EndpointDescription
ServerAddress = TcpAddress | UnixAddress


def parse_listen(text: str) -> tuple[ListenAddress, ...]:
    """Read a comma-separated list of ``host:port``, ``:port``, ``[v6]:port`` and endpoint descriptions.

    Raises ValueError with a text for the user.
    """
    return tuple(_parse_one_listen(part.strip()) for part in text.split(",") if part.strip())


def _parse_one_listen(text: str) -> ListenAddress:
    if "=" in text or text.partition(":")[0] in ENDPOINT_NAMES:
        return EndpointDescription(text)
    host, port = _split(text)
    if port is None:
        raise ValueError(f"{text!r} has no port: host:port, :port or [IPv6]:port is needed")
    return TcpAddress(host, _parse_port(port, lowest=0))


def parse_server(text: str) -> ServerAddress:
    """Read ``host``, ``host:port``, ``[v6]:port`` or ``unix:/directory:port``; the port may be left out (5432).

    Raises ValueError with a text for the user.
    """
    if "://" in text:
        raise ValueError(f"{text.partition(':')[0]}://... is a URI: host:port or unix:/directory:port is needed")
    if text.startswith("unix:"):
        directory, _, port = text.removeprefix("unix:").partition(":")
        if not directory.startswith("/"):
            raise ValueError(f"{text!r} has no absolute directory: unix:/directory:port is needed")
        return UnixAddress(directory, _parse_port(port or str(POSTGRES_PORT), lowest=1))
    host, given = _split(text)
    if not host:
        raise ValueError(f"{text!r} has no host: host:port or unix:/directory:port is needed")
    return TcpAddress(host, _parse_port(given or str(POSTGRES_PORT), lowest=1))


def _split(text: str) -> tuple[str, str | None]:
    """Host without brackets and port as text, None if there is none."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not of the form [IPv6]:port")
        return host, rest[1:] or None
    if text.count(":") > 1:
        raise ValueError(f"{text!r} has several colons: an IPv6 address is written in brackets, as in [::1]:5432")
    host, colon, port = text.partition(":")
    return host, port if colon else None


def _parse_port(text: str, *, lowest: int) -> int:
    if not (text.isascii() and text.isdigit() and lowest <= int(text) <= HIGHEST_PORT):
        raise ValueError(f"{text!r} is not a port ({lowest} to {HIGHEST_PORT})")
    return int(text)

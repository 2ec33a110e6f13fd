"""The servers that a connection string names, one after the other, as a client of our own tries them.

libpq tries several only where it may block, and looks up their names while it holds Python's lock; so both are done
here. The law of this module: it knows connection strings, not connections.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tqdbproxy.addresses import UnixAddress
from tqdbproxy.errors import ConfigError, ServerUnreachable
from tqdbproxy.postgres.servers.dial import Address
from tqdbproxy.postgres.servers.inquiry import with_tls, without_values

SERVER = ("host", "hostaddr", "service")
"""What names a server."""

ATTEMPT_S = 5.0
"""How long one server may take to let us in, unless the connection string has a ``connect_timeout``."""

KEEPALIVE = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3", "tcp_user_timeout": "25000"}
"""A peer that vanished is noticed after 25 s, unless the connection string has a wish of its own."""

OURS = {"client_encoding": "UTF8"}
"""What holds for each connection, whatever the connection string says."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One server at one address. ``conninfo`` may hold a password: only ``server`` may be shown."""

    server: str
    conninfo: str
    timeout_s: float


def check(conninfo: str) -> None:
    """Raise `ConfigError` if ``conninfo`` can't be used."""
    try:
        given = _read(conninfo)
    except psycopg.ProgrammingError as problem:
        raise ConfigError(f"is no connection string: {without_values(str(problem))}") from None
    _timeout_s(given)
    _servers(given)
    if given.get("port") and not names_server(conninfo):
        raise ConfigError("port is given without host: the addresses of each group's primary are used")


def names_server(conninfo: str) -> bool:
    """Whether it says itself where to connect to."""
    given = _read(conninfo)
    return any(given.get(name) for name in SERVER)


def at_servers(conninfo: str, addresses: Sequence[Address], sslmode: str, root_certificates: str) -> str:
    """``conninfo`` for the one of a group's servers that takes writes, with the group's TLS unless it has its own."""
    names = ",".join(a.directory if isinstance(a, UnixAddress) else a.host for a in addresses)
    ports = ",".join(str(address.port) for address in addresses)
    wanted = _read(conninfo).get("target_session_attrs", "read-write")
    placed = make_conninfo(conninfo, host=names, port=ports, target_session_attrs=wanted)
    return with_tls(placed, sslmode, root_certificates)


def attempts(conninfo: str) -> Iterator[Attempt | ServerUnreachable]:
    """What to try, in this order; for a server whose name isn't known: why. Looks up names, which blocks."""
    given = _read(conninfo)
    common = {"fallback_application_name": "tqdbproxy", **given, **OURS}
    if not any(name in given for name in ("keepalives", *KEEPALIVE)):
        common |= KEEPALIVE
    timeout_s = _timeout_s(given)
    if given.get("service"):
        yield Attempt(f"service {given['service']}", make_conninfo("", **common), timeout_s)
        return
    for host, address, port in _servers(given):
        numbered = address or not host or host.startswith(("/", "@"))  # sockets have no number
        try:
            for found in [address] if numbered else _look_up(host):
                # hostaddr even if empty, or libpq would take PGHOSTADDR.
                place = {"host": host or address, "hostaddr": found, "port": port or None}
                yield Attempt(host or address, make_conninfo("", **{**common, **place}), timeout_s)
        except OSError as problem:
            yield ServerUnreachable(f"{host}: {problem.strerror or problem}")


def _read(conninfo: str) -> dict[str, str]:
    return {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}


def _servers(given: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """host, hostaddr and port of each server, "" where there is none. Raises `ConfigError` before the first."""
    columns = {name: given.get(name, "").split(",") for name in ("host", "hostaddr", "port")}
    count = max(len(columns["host"]), len(columns["hostaddr"]))
    for name, values in columns.items():
        if len(values) == 1 and (name == "port" or not values[0]):
            values *= count
        if len(values) != count:
            raise ConfigError(f"{name} has {len(values)} entries for {count} servers")
    return zip(*columns.values(), strict=True)


def _look_up(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(where[0]) for *_rest, where in found))


def _timeout_s(given: dict[str, str]) -> float:
    """libpq waits for ever for a timeout of 0 or less; we don't."""
    text = given.get("connect_timeout", "0").strip() or "0"
    try:
        seconds = int(text)
    except ValueError:
        raise ConfigError("connect_timeout is not a whole number of seconds") from None
    return float(seconds) if seconds > 0 else ATTEMPT_S

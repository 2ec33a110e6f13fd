"""Logs in to a server as ``probe`` in the configuration says, and looks whether it takes writes.

Blocking: it is called in a thread. With `channel`, it is all in the daemon that is a client of its own. The law of this
module: it says nothing after the login to a server of version 14 or later, which reports by itself what is wanted here.
"""

from __future__ import annotations

import math
import re
import socket

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tqdbproxy.addresses import UnixAddress
from tqdbproxy.errors import ConfigError, ServerUnreachable
from tqdbproxy.postgres.servers.dial import Address

OURS = ("host", "hostaddr", "port", "service", "target_session_attrs", "load_balance_hosts", "connect_timeout")
"""What the proxy says itself of every server that it asks."""


def check(conninfo: str) -> None:
    """Raise `ConfigError` if ``conninfo`` can't be used."""
    try:
        given = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError as problem:
        raise ConfigError(f"is no connection string: {without_values(str(problem))}") from None
    for name in OURS:
        if name in given:
            raise ConfigError(f"{name} must not be given: the addresses of primary are used")


def without_values(problem: str) -> str:
    """libpq's words on a connection string, in one line and without its parts, of which any may be a password's."""
    return re.sub(r'("=")|".*"', lambda found: found[1] or "(not shown)", " ".join(problem.split()))


def with_tls(conninfo: str, sslmode: str, root_certificates: str) -> str:
    """``conninfo`` with what holds for all connections to the group's servers, unless it says otherwise itself."""
    if not conninfo:
        return ""
    given = conninfo_to_dict(conninfo)
    mode = given.get("sslmode", sslmode)
    return make_conninfo(conninfo, sslmode=mode, sslrootcert=given.get("sslrootcert", root_certificates or None))


def takes_writes(conninfo: str, address: Address, timeout_s: float) -> bool:
    """Whether sessions at ``address`` may write, in the sense of libpq's ``target_session_attrs=read-write``.

    Raises `ServerUnreachable` if that can't be found out, for whatever reason.
    """
    try:
        place = _place(address)
        options = {"target_session_attrs": "any", "connect_timeout": math.ceil(timeout_s)}
        with psycopg.connect(conninfo, autocommit=True, **place, **options) as connection:  # type: ignore[arg-type]
            standby = connection.info.parameter_status("in_hot_standby")
            if standby is None:  # a server before version 14
                found = connection.execute("SHOW transaction_read_only").fetchone()
                return found == ("off",)
            return (standby, connection.info.parameter_status("default_transaction_read_only")) == ("off", "off")
    except (psycopg.Error, OSError) as problem:
        raise ServerUnreachable(f"{address}: probe: {' '.join(str(problem).split())}") from problem


def _place(address: Address) -> dict[str, str]:
    """libpq's words for an address. Names are looked up here: libpq would hold Python's lock meanwhile."""
    if isinstance(address, UnixAddress):
        return {"host": address.directory, "port": str(address.port)}
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    numbers = [str(where[0]) for *_rest, where in found]
    names = [address.host] * len(numbers)
    return {"host": ",".join(names), "hostaddr": ",".join(numbers), "port": str(address.port)}

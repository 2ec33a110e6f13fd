"""A private PostgreSQL server: fresh cluster, free port, loopback only, gone at the end of the block.

Is set up as ``make check`` of PostgreSQL sets up its own (C locale, UTF8, superuser ``postgres``, everyone trusted),
so that its suites pass on it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from external_suites.places import Places, as_server_account, check, clean_environment, free_port

# The settings of pg_regress.c for its own server, and those that make a thrown-away server quick.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "max_connections": "200",
    "max_prepared_transactions": "2",
    "log_line_prefix": "%m %b[%p] %q%a ",
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a client finds a server, or what stands in front of it."""

    host: str
    port: int


@contextmanager
def private_server(places: Places, settings: Mapping[str, str]) -> Iterator[Address]:
    """A server that runs for as long as the block lasts."""
    data = places.server_folder("cluster")
    log = places.work / "server.log"
    programs, env = places.bindir, clean_environment()
    initdb = [str(programs / "initdb"), "-D", str(data), "--no-locale", "-E", "UTF8", "-U", "postgres", "-A", "trust"]
    check(as_server_account([*initdb, "--no-sync"]), log, cwd=data, env=env)
    address = Address("127.0.0.1", free_port())
    with (data / "postgresql.conf").open("a") as conf:
        for name, value in {**SETTINGS, "port": str(address.port), **settings}.items():
            conf.write(f"{name} = '{value}'\n")
    control = [str(programs / "pg_ctl"), "-D", str(data), "-w"]
    check(as_server_account([*control, "-l", str(data / "log"), "start"]), log, cwd=data, env=env)
    try:
        yield address
    finally:
        check(as_server_account([*control, "-m", "immediate", "stop"]), log, cwd=data, env=env)

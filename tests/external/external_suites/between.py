"""What stands between a suite and its server: nothing, PgBouncer or the proxy.

Each is started as its users start it, on a free port of the loopback interface, and stopped at the end of the block.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from external_suites.places import (
    CHECKOUT,
    Places,
    Unable,
    as_server_account,
    clean_environment,
    free_port,
    running,
)
from external_suites.server import Address

DIRECT, PGBOUNCER, PROXY = WAYS = ("direct", "pgbouncer", "proxy")
START_TIMEOUT_S = 30

# PgBouncer knows no `options`; what pg_regress says there is set in the server instead (see regress.py).
PGBOUNCER_INI = """\
[databases]
* = host={server.host} port={server.port} auth_user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
auth_query = SELECT rolname, coalesce(rolpassword, '') FROM pg_authid WHERE rolname = $1
pool_mode = session
max_client_conn = 500
default_pool_size = 150
ignore_startup_parameters = extra_float_digits, options, search_path, jit, geqo
"""

PROXY_INI = """\
[postgres]
listen = 127.0.0.1:{port}
[postgres.main]
primary = {server.host}:{server.port}
[metrics]
listen =
"""


@contextmanager
def in_front_of(server: Address, way: str, places: Places) -> Iterator[Address]:
    """The address at which a suite finds the server when it goes this way."""
    if way == DIRECT:
        yield server
        return
    port = free_port()
    command = _pgbouncer(places, server, port) if way == PGBOUNCER else _proxy(places, server, port)
    log = places.work / f"{way}-{port}.log"
    env = clean_environment({"PYTHONPATH": str(CHECKOUT)} if way == PROXY else {})
    with running(command, log, CHECKOUT if way == PROXY else places.work, env) as process:
        _await_listening(process, port, log)
        yield Address("127.0.0.1", port)
        if process.poll() is not None:
            raise Unable(f"{way} died while the suite ran, see {log}")


def _pgbouncer(places: Places, server: Address, port: int) -> list[str]:
    program = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        raise Unable("no pgbouncer installed (apt-get install pgbouncer)")
    folder = places.folder("pgbouncer")
    users, ini = folder / "users.txt", folder / f"{port}.ini"
    users.write_text('"postgres" ""\n')
    ini.write_text(PGBOUNCER_INI.format(server=server, port=port, users=users))
    return as_server_account([program, str(ini)])


def _proxy(places: Places, server: Address, port: int) -> list[str]:
    ini = places.folder("proxy") / f"{port}.ini"
    ini.write_text(PROXY_INI.format(server=server, port=port))
    if not places.twistd.exists():
        raise Unable(f"no {places.twistd}: run this with the Python that has the proxy's dependencies")
    return [str(places.twistd), "-n", "--pidfile=", "tqdbproxy", "--config", str(ini)]


def _await_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise Unable(f"{Path(process.args[0]).name if isinstance(process.args, list) else ''} did not start\n{tail}")

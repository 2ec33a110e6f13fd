"""Where things lie, and as whom they run.

Knows the machine, not the suites. PostgreSQL and PgBouncer refuse to run as root, so root lends them the account
``postgres``; any other user runs them itself.
"""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
EXTERNAL = Path(__file__).resolve().parents[1]
SERVER_ACCOUNT = "postgres"
SUITE_TIMEOUT_S = 1200


class Unable(Exception):
    """The suite can't be run on this machine; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Places:
    """The work directory, the directory of the server's programs (``initdb``, ``psql``), and ``twistd``."""

    work: Path
    bindir: Path
    twistd: Path

    def names(self) -> dict[str, str]:
        """The same as text, for a process that runs tests."""
        return {"work": str(self.work), "bindir": str(self.bindir), "twistd": str(self.twistd)}

    @classmethod
    def from_names(cls, names: Mapping[str, str]) -> "Places":
        """The places that ``names`` wrote down."""
        return cls(**{name: Path(value) for name, value in names.items()})

    def folder(self, *parts: str) -> Path:
        """A directory inside the work directory, made if it isn't there."""
        path = self.work.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def server_folder(self, *parts: str) -> Path:
        """An empty directory that belongs to the account of the server."""
        path = self.work.joinpath(*parts)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        if os.geteuid() == 0:
            shutil.chown(path, SERVER_ACCOUNT, SERVER_ACCOUNT)
        return path


def find_bindir() -> Path:
    """The programs of the newest PostgreSQL server that Debian's packages have installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise Unable("no PostgreSQL server installed (apt-get install postgresql)")
    return found[-1].parent


def as_server_account(command: Sequence[str]) -> list[str]:
    """The command as the account that may run servers."""
    if os.geteuid() != 0:
        return list(command)
    return ["setpriv", f"--reuid={SERVER_ACCOUNT}", f"--regid={SERVER_ACCOUNT}", "--init-groups", *command]


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without what would send libpq or the proxy elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "TQDBPROXY_"))}
    return kept | {"LC_ALL": "C"} | dict(extra or {})


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def check(command: Sequence[str], log: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
    """Run a step that must succeed; its output goes to the log, whose end is shown if it doesn't."""
    with log.open("ab") as out:
        out.write(f"\n$ {' '.join(command)}\n".encode())
        out.flush()
        done = subprocess.run(command, cwd=cwd, env=env, stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise Unable(f"{command[0]} failed with status {done.returncode} (all of it: {log})\n{tail}")


def supervised(command: Sequence[str], log: Path, cwd: Path, env: Mapping[str, str]) -> int:
    """Run a suite to its end, its output in a new log; the answer is its exit status.

    A suite that takes too long, or that we are interrupted in, gets the time to stop the servers that it started,
    and is then killed with all that it left.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=out, stderr=subprocess.STDOUT, process_group=0)
        try:
            return process.wait(timeout=SUITE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return -signal.SIGALRM
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def running(command: Sequence[str], log: Path, cwd: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon in the foreground for as long as the block lasts."""
    with log.open("ab") as out:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

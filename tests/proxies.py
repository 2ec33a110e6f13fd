"""A proxy started as a user starts it: ``twistd`` with a configuration file, on free ports."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdbproxy.embedded import reserved_ports

HOST = "127.0.0.1"
Ports = Callable[[int], list[int]]
"""See the fixture `ports`."""
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
GSSENC_REQUEST = struct.pack("!II", 8, 80877104)
TWISTD = str(Path(sys.executable).with_name("twistd"))


@dataclass
class RunningProxy:
    """One ``twistd tqdbproxy``. ``folder`` holds tqdbproxy.ini and what it logged."""

    folder: Path
    port: int
    metrics_port: int
    process: subprocess.Popen[bytes]

    host = HOST

    @property
    def log(self) -> str:
        return (self.folder / "proxy.log").read_text(errors="replace")

    @property
    def config_path(self) -> Path:
        return self.folder / "tqdbproxy.ini"

    def dsn(self, dbname: str = "postgres", **options: str | int) -> str:
        """A libpq connection string; ``options`` replace or add to its parts."""
        parts: dict[str, str | int] = {"host": HOST, "port": self.port, "user": "postgres", "dbname": dbname}
        return " ".join(f"{key}={value}" for key, value in {**parts, **options}.items())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, it stands still; what was sent meanwhile it then finds all at once, however slow the machine is."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and wait for the end; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def start_proxy(folder: Path, primary: str, text: str = "", **environ: str) -> RunningProxy:
    """Start a proxy in front of ``primary`` and wait until it takes connections.

    ``text`` is the configuration file. The addresses are given by the environment, and so win; ``ALSO_LISTEN`` in
    ``environ`` is one more to listen on.
    """
    with reserved_ports(2) as (port, metrics_port):
        return _start_on(port, metrics_port, folder, primary, text, environ)


def _start_on(
    port: int, metrics_port: int, folder: Path, primary: str, text: str, environ: dict[str, str]
) -> RunningProxy:
    environ["TQDBPROXY_POSTGRES_LISTEN"] = ", ".join(filter(None, (f"{HOST}:{port}", environ.pop("ALSO_LISTEN", ""))))
    environ["TQDBPROXY_METRICS_LISTEN"] = f"{HOST}:{metrics_port}"
    environ["TQDBPROXY_POSTGRES_MAIN_PRIMARY"] = primary
    config = folder / "tqdbproxy.ini"
    config.write_text(text)
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(
            [TWISTD, "--nodaemon", "--pidfile=", "tqdbproxy", "--config", str(config)],
            cwd=folder,
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_heed_ctrl_c,
        )
    proxy = RunningProxy(folder, port, metrics_port, process)
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        if is_at_work(port):
            return proxy
        time.sleep(0.02)
    proxy.stop(signal.SIGKILL)
    raise AssertionError(f"the proxy did not start:\n{proxy.log}")


def is_at_work(port: int) -> bool:
    """Whether somebody answers; the kernel takes connections before the proxy does."""
    with socket.socket() as probe:
        probe.settimeout(START_TIMEOUT_S)
        try:
            probe.connect((HOST, port))
            probe.sendall(GSSENC_REQUEST)
            return probe.recv(1) == b"N"
        except OSError:
            return False


def _heed_ctrl_c() -> None:
    """A child of a background job of a shell ignores SIGINT, unless somebody says otherwise."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

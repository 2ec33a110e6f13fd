"""`tqdbproxy demo`: an embedded PostgreSQL, the proxy in front of it, and the same inserts done three ways.

The law of this module: it uses the proxy as a user would (twistd, a configuration file, pgbench as client), and what it
started is gone when it ends, however it ends.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from tqdbproxy.embedded import HOST, EmbeddedServer
from tqdbproxy.errors import ProxyError

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
TABLE = "CREATE TABLE IF NOT EXISTS visits (id bigserial PRIMARY KEY, page int, at timestamptz DEFAULT now())"
INSERT = "INSERT INTO visits (page) VALUES (:page)"

# Stops the proxy ($1) and removes our files ($2) when our process is killed; is killed itself when we come to that.
WATCHER = """trap '' INT TERM HUP; read -r _; kill -TERM "$1"; rm -rf "$2" """


LOG = "proxy.log"
CONFIG = """[postgres]
listen = {host}:{port}
[postgres.main]
primary = {host}:{server_port}
[metrics]
listen =
"""


class DemoError(ProxyError):
    """The demonstration can't go on; the text says which part failed and what it said."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to do the inserts: where to connect to and what to write before the statement."""

    name: str
    port: int
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Proxy:
    """The running proxy."""

    port: int
    process: subprocess.Popen[bytes]
    folder: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What pgbench and the server counted; latency in ms."""

    inserts: int
    per_second: float
    latency_ms: float
    transactions: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="end after the table instead of serving until Ctrl-C")
    parser.add_argument("--port", type=int, default=5433, help="where the proxy listens on 127.0.0.1 (default: 5433)")
    parser.add_argument("--seconds", type=int, default=5, help="how long each of the three loads runs (default: 5)")
    parser.add_argument("--clients", type=int, default=50, help="clients that insert at the same time (default: 50)")


def run(args: argparse.Namespace) -> int:
    console = Console()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    _check_port(args.port)
    console.print("Starting an embedded PostgreSQL (fsync on, as in real life) and the proxy in front of it.")
    with EmbeddedServer(fsync=True) as server, _proxy(server, args.port) as proxy:
        _sql(server, TABLE)
        ways = (
            Way("directly", server.port),
            Way("through the proxy", args.port),
            Way("with /* batch:10 */", args.port, "/* batch:10 */ "),
        )
        console.print(f"{args.clients} clients insert single rows, as fast as they get answers:\n")
        outcomes = _show(console, server, proxy, ways, args)
        console.print(_as_table(ways, outcomes))
        _check_books(console, server, outcomes)
        if not args.once:
            _serve(console, server, proxy)
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


# -- the proxy


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the proxy does: TIME_WAIT is no obstacle
        try:
            probe.bind((HOST, port))
        except OSError as error:
            choose = "choose another one with --port (make demo DEMO_ARGS='--port 6543')"
            raise DemoError(f"port {port} on {HOST} can't be used: {error.strerror}; {choose}") from error


@contextmanager
def _proxy(server: EmbeddedServer, port: int) -> Iterator[Proxy]:
    """The proxy as ``twistd`` runs it, from when it takes connections."""
    with tempfile.TemporaryDirectory(prefix="tqdb-demo-") as name:
        folder = Path(name)
        config = folder / "tqdbproxy.ini"
        config.write_text(CONFIG.format(port=port, server_port=server.port, host=HOST))
        command = [_twistd(), "--nodaemon", "--pidfile=", "tqdbproxy", "--config", str(config)]
        with (folder / LOG).open("wb") as output, _child(command, folder, output.fileno()) as process:
            proxy = Proxy(port, process, folder)
            _wait_until_open(proxy)
            yield proxy


def _twistd() -> str:
    """The twistd of this very Python."""
    beside = Path(sys.executable).parent / "twistd"
    found = str(beside) if beside.exists() else shutil.which("twistd")
    if not found:
        raise DemoError("there is no twistd beside this Python: pip install . in the sources' folder")
    return found


@contextmanager
def _child(command: list[str], folder: Path, output: int) -> Iterator[subprocess.Popen[bytes]]:
    # A session of its own, so that Ctrl-C reaches us alone and the parts end in order.
    process = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
    )
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", WATCHER, "watcher", str(process.pid), str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        watcher.kill()
        watcher.communicate()


def _wait_until_open(proxy: Proxy) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and proxy.process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, proxy.port)) == 0:
                return
        time.sleep(0.05)
    raise DemoError(f"the proxy did not start: {_last_words(proxy)}")


def _last_words(proxy: Proxy) -> str:
    return (proxy.folder / LOG).read_text(errors="replace")[-2000:].strip()


# -- the load


def _show(
    console: Console, server: EmbeddedServer, proxy: Proxy, ways: tuple[Way, ...], args: argparse.Namespace
) -> list[Outcome]:
    columns = (TextColumn("{task.description:<20}"), BarColumn(), TextColumn("{task.fields[speed]}"))
    with Progress(*columns, console=console) as progress:
        tasks = [progress.add_task(way.name, total=args.seconds, speed="") for way in ways]
        return [
            _load(server, way, args, proxy.folder / "insert.sql", (progress, task))
            for way, task in zip(ways, tasks, strict=True)
        ]


def _load(
    server: EmbeddedServer, way: Way, args: argparse.Namespace, script: Path, bar: tuple[Progress, TaskID]
) -> Outcome:
    script.write_text(f"\\set page random(1, 1000)\n{way.hint}{INSERT};\n")
    command = [server.tool("pgbench"), "-h", HOST, "-p", str(way.port), "-U", server.user, "-n", "-M", "prepared"]
    command += ["-c", str(args.clients), "-j", "1", "-T", str(args.seconds), "-P", "1", "-f", str(script), "postgres"]
    before = _transactions(server)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            complaints = _follow(process, *bar)
            summary = process.stdout.read() if process.stdout else ""
        finally:
            process.kill()  # after Ctrl-C; it has ended otherwise
    if process.returncode != 0:
        raise DemoError(f"pgbench failed: {complaints}")
    # Each writing transaction took one id. (pg_stat_database would have to be waited for.)
    return _read_summary(summary, _transactions(server) - before)


def _follow(process: subprocess.Popen[str], progress: Progress, task: TaskID) -> str:
    """Move the bar with pgbench's progress lines; returns what else it said."""
    others = []
    for line in process.stderr or ():
        if said := re.match(r"progress: ([\d.]+) s, ([\d.]+) tps, lat ([\d.]+) ms", line):
            speed = f"{float(said[2]):>9,.0f} inserts/s at {float(said[3]):.2f} ms"
            progress.update(task, completed=float(said[1]), speed=speed)
        else:
            others.append(line)
    progress.update(task, completed=progress.tasks[task].total)
    process.wait()
    return "".join(others).strip()


def _read_summary(summary: str, transactions: int) -> Outcome:
    inserts = re.search(r"transactions actually processed: (\d+)", summary)
    latency = re.search(r"latency average = ([\d.]+) ms", summary)
    speed = re.search(r"tps = ([\d.]+)", summary)
    if not (inserts and latency and speed):
        raise DemoError(f"pgbench said something unexpected: {summary}")
    return Outcome(int(inserts[1]), float(speed[1]), float(latency[1]), transactions)


def _transactions(server: EmbeddedServer) -> int:
    return int(_sql(server, "SELECT pg_snapshot_xmax(pg_current_snapshot())"))


def _sql(server: EmbeddedServer, statement: str) -> str:
    command = [server.tool("psql"), "-X", "-q", "-At", "-d", server.dsn(), "-c", statement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoError(f"psql failed: {done.stderr.strip()}")
    return done.stdout.strip()


# -- what there is to see


def _as_table(ways: tuple[Way, ...], outcomes: list[Outcome]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for title in ("inserts/s", "to direct", "average\nlatency", "server\ntransactions", "inserts\nin each"):
        table.add_column(title, justify="right")
    for way, outcome in zip(ways, outcomes, strict=True):
        table.add_row(
            way.name,
            f"{outcome.per_second:,.0f}",
            f"{outcome.per_second / outcomes[0].per_second:.1f} x",
            f"{outcome.latency_ms:.2f} ms",
            f"{outcome.transactions:,}",
            f"{outcome.inserts / max(outcome.transactions, 1):.1f}",
        )
    return table


def _check_books(console: Console, server: EmbeddedServer, outcomes: list[Outcome]) -> None:
    rows, acknowledged = int(_sql(server, "SELECT count(*) FROM visits")), sum(each.inserts for each in outcomes)
    if rows != acknowledged:
        raise DemoError(f"{acknowledged:,} inserts were acknowledged, but there are {rows:,} rows")
    console.print(f"Each of the {acknowledged:,} acknowledged inserts is one row.\n")


def _serve(console: Console, server: EmbeddedServer, proxy: Proxy) -> None:
    psql = shutil.which("psql") or server.tool("psql")
    console.print(f"The proxy listens on {HOST}:{proxy.port}. Try it in another terminal:\n")
    console.print(f"  {psql} -h {HOST} -p {proxy.port} -U {server.user} postgres", style="bold", soft_wrap=True)
    console.print("  /* batch:10 */ INSERT INTO visits (page) VALUES (7) RETURNING id;", highlight=False)
    console.print("  SELECT * FROM pg_tqdb_status;\n")
    console.print("Ctrl-C ends everything and removes it.")
    try:
        status = proxy.process.wait()
    except KeyboardInterrupt:
        console.print("\nStopping.")
    else:
        raise DemoError(f"the proxy ended with status {status}: {_last_words(proxy)}")

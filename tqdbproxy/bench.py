"""`tqdbproxy bench`: what batching does for writes to a server of yours, beside the same writes sent directly.

The law of this module: the load comes from pgbench, every figure is a ratio of two runs made in turn, and the one table
that it makes in the database is dropped at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

import tqdbproxy
from tqdbproxy.embedded import EmbeddedError, installed_bin_dir, reserved_ports
from tqdbproxy.errors import ProxyError

LOOPBACK = "127.0.0.1"
TABLE = "tqdbproxy_bench"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
# The plugin is found beside the package, installed or in a checkout; twistd's own script may not be on the PATH.
TWISTD = "from twisted.scripts.twistd import run; run()"


class BenchError(ProxyError):
    """A benchmark can't be run; the text says which part failed and what it said."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where clients connect to. ``host`` may be the folder of a Unix socket."""

    host: str
    port: int
    database: str
    user: str
    sslmode: str = "disable"

    @property
    def primary(self) -> str:
        """The server as the proxy's configuration names it."""
        if self.host.startswith("/"):
            return f"unix:{self.host}:{self.port}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def environment(self) -> dict[str, str]:
        """Our environment, in which libpq's programs connect to this address without arguments."""
        named = {"PGHOST": self.host, "PGPORT": str(self.port), "PGDATABASE": self.database, "PGUSER": self.user}
        return {**os.environ, **named, "PGSSLMODE": self.sslmode, "PGGSSENCMODE": "disable"}


@dataclass(frozen=True, slots=True)
class Load:
    """One pgbench run. ``mode``: simple, extended or prepared; ``rate``: per second, of all clients together."""

    script: str
    mode: str = "prepared"
    clients: int = 1
    seconds: int = 3
    rate: int | None = None

    def arguments(self) -> list[str]:
        """pgbench's arguments; the script comes through its standard input."""
        pace = [] if self.rate is None else ["-R", str(self.rate)]
        return ["-n", "-j", "1", "-M", self.mode, "-c", str(self.clients), "-T", str(self.seconds), *pace, "-f", "-"]


@dataclass(frozen=True, slots=True)
class Result:
    """What pgbench reported: counts, transactions per second without the time to connect, mean latency in ms."""

    transactions: int
    failed: int
    tps: float
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that runs as our child: its process id, its port, its folder (of its Unix socket, too, if it has one),
    where its metrics are."""

    pid: int
    port: int
    folder: str
    metrics: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tqdbproxy bench`; defaults are libpq's where it has any."""
    home = f"{os.environ.get('PGHOST', LOOPBACK)}:{os.environ.get('PGPORT', '5432')}"
    home = f"unix:{home}" if home.startswith("/") else home
    user = os.environ.get("PGUSER", os.environ.get("USER", "postgres"))
    parser.add_argument("--primary", default=home, help="host:port or unix:/directory:port (default %(default)s)")
    parser.add_argument("--database", default=os.environ.get("PGDATABASE", user), help="default %(default)s")
    parser.add_argument("--user", default=user, help="default %(default)s; a password comes from PGPASSWORD")
    parser.add_argument("--sslmode", default=os.environ.get("PGSSLMODE", "prefer"), help="default %(default)s")
    parser.add_argument("--sslrootcert", default=os.environ.get("PGSSLROOTCERT", ""), help="for sslmode verify-*")
    parser.add_argument("--clients", type=int, nargs="+", default=[100, 10, 1], metavar="N", help="default 100 10 1")
    parser.add_argument("--protocols", nargs="+", default=["prepared", "simple"], choices=["prepared", "simple"])
    parser.add_argument("--batch", type=int, default=10, metavar="MS", help="the hint's value (default %(default)s)")
    parser.add_argument("--seconds", type=int, default=3, help="length of a run (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (default %(default)s)")
    parser.add_argument("--pgbench", type=Path, help="the program (default: PATH, then the embedded PostgreSQL's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0, or 1 with one line on standard error."""
    try:
        host, port = parse_primary(args.primary)
        direct = Address(host, port, args.database, args.user, args.sslmode)
        pgbench = find_pgbench(args.pgbench)
        with bench_table(pgbench, direct), proxy_for(direct, args.sslrootcert) as proxy:
            figures = measure(args, pgbench, direct, proxy)
    except (ProxyError, OSError) as error:
        print(f"tqdbproxy bench: {error}", file=sys.stderr)
        return 1
    Console().print(as_table(figures))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def parse_primary(text: str) -> tuple[str, int]:
    """``host:port``, ``[::1]:port`` or ``unix:/directory:port`` -> host or directory, and port."""
    host, _, port = text.removeprefix("unix:").rpartition(":")
    if not host or not port.isdecimal():
        raise BenchError(f"{text!r} is neither host:port nor unix:/directory:port")
    return host.strip("[]"), int(port)


def find_pgbench(given: Path | None = None) -> str:
    """The program that was named, else the one on PATH, else the one of the embedded PostgreSQL."""
    if found := shutil.which(given or "pgbench"):
        return found
    if given:
        raise BenchError(f"{given} can't be executed")
    try:
        return str(installed_bin_dir() / "pgbench")
    except EmbeddedError:
        raise BenchError("pgbench is neither on PATH nor installed with tqdbproxy[embedded]") from None


@contextmanager
def bench_table(pgbench: str, address: Address) -> Iterator[None]:
    """The table that the load writes to: made, and dropped at the end. One that exists is not ours: BenchError."""
    once = ["-n", "-t", "1", "-f", "-"]  # pgbench sends any SQL; psql and a driver need not be here
    columns = "id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, k integer, v text"
    call_pgbench(pgbench, address, once, f"CREATE TABLE {TABLE} ({columns});\n")
    try:
        yield
    finally:
        call_pgbench(pgbench, address, once, f"DROP TABLE {TABLE};\n")


def writes(batch_ms: int | None = None, table: str = TABLE) -> str:
    """A pgbench script of one INSERT, with the hint or without. (pgbench sends comments as they stand.)"""
    hint = "" if batch_ms is None else f"/* batch:{batch_ms} */ "
    return f"\\set k random(1, 1000000)\n{hint}INSERT INTO {table} (k, v) VALUES (:k, 'a text as long as many');\n"


def measure(args: argparse.Namespace, pgbench: str, direct: Address, proxy: Proxy) -> list[dict[str, object]]:
    """All runs, direct and batched in turn; one record for each protocol and number of clients."""
    proxied = replace(direct, host=LOOPBACK, port=proxy.port, sslmode="disable")
    figures: list[dict[str, object]] = []
    for mode in args.protocols:
        for clients in args.clients:
            load = Load(writes(), mode, clients, args.seconds)
            hinted = replace(load, script=writes(args.batch))
            before = read_metrics(proxy.metrics)
            turns = [
                (run_pgbench(pgbench, direct, load), run_pgbench(pgbench, proxied, hinted)) for _ in range(args.rounds)
            ]
            size = mean_batch(before, read_metrics(proxy.metrics))
            figures.append({"protocol": mode, "clients": clients, **summary(turns), "mean_batch": size})
    return figures


def summary(turns: Sequence[tuple[Result, Result]]) -> dict[str, object]:
    """Medians of both sides, and median and spread of their ratio."""
    ratios = [batched.tps / direct.tps for direct, batched in turns]
    return {
        "direct_tps": statistics.median(direct.tps for direct, _ in turns),
        "batched_tps": statistics.median(batched.tps for _, batched in turns),
        "direct_ms": statistics.median(direct.latency_ms for direct, _ in turns),
        "batched_ms": statistics.median(batched.latency_ms for _, batched in turns),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def as_table(figures: Sequence[Mapping[str, object]]) -> Table:
    """The figures for people."""
    table = Table(title="single-row INSERTs: sent directly, and through tqdbproxy with a batch hint")
    heads = ("protocol", "clients", "direct/s", "batched/s", "ratio", "spread", "direct ms", "batched ms", "mean batch")
    for head in heads:
        table.add_column(head, justify="left" if head == "protocol" else "right")
    for row in figures:
        table.add_row(
            *(str(row["protocol"]), str(row["clients"]), f"{row['direct_tps']:,.0f}", f"{row['batched_tps']:,.0f}"),
            *(f"{row['ratio']:.2f}", f"{row['ratio_min']:.2f}-{row['ratio_max']:.2f}"),
            *(f"{row['direct_ms']:.2f}", f"{row['batched_ms']:.2f}", f"{row['mean_batch']:.1f}"),
        )
    return table


# -- pgbench


def run_pgbench(program: str, address: Address, load: Load) -> Result:
    """One run to its end."""
    return parse_pgbench(call_pgbench(program, address, load.arguments(), load.script))


def call_pgbench(program: str, address: Address, arguments: Sequence[str], script: str) -> str:
    """pgbench's report. Raises BenchError with its own words if it could not connect or gave up a client."""
    done = subprocess.run(
        [program, *arguments], input=script, env=address.environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if "error:" in line]
        raise BenchError((said or [done.stderr.strip() or f"pgbench ended with status {done.returncode}"])[0])
    return done.stdout


def parse_pgbench(text: str) -> Result:
    """pgbench's report, of PostgreSQL 13 or newer. Without a single transaction it says no rate: that is 0."""
    tps = re.search(r"^tps = ([\d.]+) \((?:without initial|excluding)", text, re.MULTILINE)
    done = re.search(r"^number of transactions actually processed: (\d+)", text, re.MULTILINE)
    if done is None:
        raise BenchError(f"not a report of pgbench: {text[:200]!r}")
    failed = re.search(r"^number of failed transactions: (\d+)", text, re.MULTILINE)
    latency = re.search(r"^latency average = ([\d.]+) ms", text, re.MULTILINE)
    return Result(
        transactions=int(done[1]),
        failed=int(failed[1]) if failed else 0,
        tps=float(tps[1]) if tps else 0.0,
        latency_ms=float(latency[1]) if latency else 0.0,
    )


# -- children


@contextmanager
def child(name: str, command: Sequence[str], port: int, folder: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that listens on ``port``: ready on entry, ended on exit. ``more`` is for its environment."""
    log = folder / f"{name}.log"
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TQDBPROXY_")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=folder,
            env={**ours, **more},
            start_new_session=True,  # so that Ctrl-C reaches us alone and we end it in order
        )
    try:
        wait_until_open(name, process, port, log)
        yield process
        if process.poll() is not None:
            print(f"{name} ended early with status {process.returncode}: {_end_of(log)}", file=sys.stderr)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_open(name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Returns when somebody listens on the port; raises BenchError with the end of the log if the process ended."""
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((LOOPBACK, port)) == 0:
                return
        time.sleep(0.05)
    raise BenchError(f"{name} did not start: {_end_of(log)}")


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-1000:]


def proxy_config(port: int, metrics_port: int, server: Address, sslrootcert: str = "", folder: str = "") -> str:
    """The smallest configuration for one server; ``folder``: where its Unix socket is, if it has one."""
    return (
        f"[postgres]\nlisten = {LOOPBACK}:{port}\nsocket = {folder}\ndefault = main\n"
        f"[postgres.main]\nprimary = {server.primary}\n"
        f"sslmode = {server.sslmode}\nsslrootcert = {sslrootcert}\n"
        f"[metrics]\nlisten = {LOOPBACK}:{metrics_port}\n"
    )


@contextmanager
def proxy_for(server: Address, sslrootcert: str = "", *, with_socket: bool = False) -> Iterator[Proxy]:
    """A proxy before this server, started as operators start it; ``with_socket``: it has a Unix socket, too."""
    with reserved_ports(2) as (port, metrics_port), tempfile.TemporaryDirectory(prefix="tqdb-bench-") as name:
        folder = Path(name)
        config = proxy_config(port, metrics_port, server, sslrootcert, name if with_socket else "")
        (folder / "proxy.ini").write_text(config)
        command = [sys.executable, "-c", TWISTD, "-n", "--pidfile=", "tqdbproxy", "--config", str(folder / "proxy.ini")]
        home = str(Path(tqdbproxy.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
        with child("tqdbproxy", command, port, folder, PYTHONPATH=path) as process:
            yield Proxy(process.pid, port, name, f"http://{LOOPBACK}:{metrics_port}/metrics")


# -- metrics


def read_metrics(url: str) -> dict[str, float]:
    """Sample name -> value, added up over all labels."""
    with urllib.request.urlopen(url, timeout=STOP_TIMEOUT_S) as answer:
        text = answer.read().decode()
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


def mean_batch(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Writes per batch between two readings; 0 if there was no batch."""
    size, count = (
        after.get(f"tqdbproxy_write_batch_size_{part}", 0.0) - before.get(f"tqdbproxy_write_batch_size_{part}", 0.0)
        for part in ("sum", "count")
    )
    return size / count if count else 0.0

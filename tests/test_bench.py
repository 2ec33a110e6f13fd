"""`tqdbproxy bench` and the benchmarks: arguments, pgbench's reports, records, table, picture; one run of a second."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import run as benchmarks_run
from benchmarks.cpu import cpu_seconds, peak_bytes, reset_peak, resident_bytes
from benchmarks.goals import Benchmark, Goal, Outcome, Sample
from benchmarks.plot import draw
from benchmarks.report import as_json, as_table
from benchmarks.violations import EVERY, one_write, preparation
from tqdbproxy import bench, config
from tqdbproxy.bench import Address, BenchError, Load, Result
from tqdbproxy.embedded import EmbeddedServer, reserved_ports

# Recorded, as are the next two.
REPORT_18 = """\
pgbench (18.4)
transaction type: w1.sql
scaling factor: 1
query mode: prepared
number of clients: 50
number of threads: 1
maximum number of tries: 1
duration: 1 s
number of transactions actually processed: 1776
number of failed transactions: 0 (0.000%)
latency average = 2.219 ms
latency stddev = 2.728 ms
rate limit schedule lag: avg 0.283 (max 3.032) ms
initial connection time = 105.835 ms
tps = 1948.438781 (without initial connection time)
"""
REPORT_15 = """\
pgbench (15.18 (Debian 15.18-0+deb12u1), server 18.4)
transaction type: w1.sql
scaling factor: 1
query mode: simple
number of clients: 1
number of threads: 1
maximum number of tries: 1
duration: 1 s
number of transactions actually processed: 4001
number of failed transactions: 0 (0.000%)
latency average = 0.249 ms
initial connection time = 5.179 ms
tps = 4020.709518 (without initial connection time)
"""
REPORT_OF_NOTHING = """\
pgbench (15.18 (Debian 15.18-0+deb12u1), server 18.4)
transaction type: s.sql
scaling factor: 1
query mode: simple
number of clients: 1
number of threads: 1
maximum number of tries: 1
duration: 1 s
number of transactions actually processed: 0
number of failed transactions: 0 (NaN%)
"""
REPORT_13 = REPORT_15.replace("without initial connection time", "excluding connections establishing")
METRICS_BEFORE = {"tqdbproxy_write_batch_size_sum": 10.0, "tqdbproxy_write_batch_size_count": 10.0}
METRICS_AFTER = {"tqdbproxy_write_batch_size_sum": 310.0, "tqdbproxy_write_batch_size_count": 20.0}

AT_LEAST = Goal("ratio", "throughput", "x direct", at_least=4.0)
AT_MOST = Goal("cpu", "CPU", "x PgBouncer", at_most=2.0, later=1.2)


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(given)


@pytest.fixture
def _no_libpq_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("_no_libpq_environment")
class TestArguments:
    def test_defaults(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("USER", "ann")
        args = arguments()
        assert (args.primary, args.database, args.user, args.sslmode) == ("127.0.0.1:5432", "ann", "ann", "prefer")
        assert (args.clients, args.protocols) == ([100, 10, 1], ["prepared", "simple"])

    def test_defaults_are_libpqs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PGHOST", "/run/postgresql")
        monkeypatch.setenv("PGPORT", "5444")
        monkeypatch.setenv("PGUSER", "bob")
        args = arguments()
        assert (args.primary, args.database, args.user) == ("unix:/run/postgresql:5444", "bob", "bob")

    def test_given(self) -> None:
        args = arguments("--primary", "db:1", "--database", "d", "--user", "u", "--clients", "5", "7", "--rounds", "1")
        assert (args.primary, args.database, args.user, args.clients, args.rounds) == ("db:1", "d", "u", [5, 7], 1)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("h:5432", "h", 5432), ("[::1]:5", "::1", 5), ("unix:/run/postgresql:5432", "/run/postgresql", 5432)],
)
def test_parse_primary(text: str, host: str, port: int) -> None:
    assert bench.parse_primary(text) == (host, port)


@pytest.mark.parametrize("text", ["", "host", "host:", ":5432", "host:port"])
def test_parse_primary_refuses(text: str) -> None:
    with pytest.raises(BenchError, match="neither host:port"):
        bench.parse_primary(text)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (REPORT_18, Result(1776, 0, 1948.438781, 2.219)),
        (REPORT_15, Result(4001, 0, 4020.709518, 0.249)),
        (REPORT_OF_NOTHING, Result(0, 0, 0.0, 0.0)),
        (REPORT_13, Result(4001, 0, 4020.709518, 0.249)),
    ],
    ids=["18 with -R", "15", "nothing done", "13"],
)
def test_parse_pgbench(text: str, result: Result) -> None:
    assert bench.parse_pgbench(text) == result


def test_parse_pgbench_refuses_other_texts() -> None:
    with pytest.raises(BenchError, match="not a report"):
        bench.parse_pgbench("pgbench: command not found")


def test_load_becomes_arguments() -> None:
    load = Load("SELECT 1;\n", "simple", clients=50, seconds=2, rate=2000)
    assert " ".join(load.arguments()) == "-n -j 1 -M simple -c 50 -T 2 -R 2000 -f -"


def test_only_the_hint_differs() -> None:
    assert bench.writes(10).replace("/* batch:10 */ ", "") == bench.writes()


def test_address() -> None:
    assert Address("h", 1, "d", "u").primary == "h:1"
    assert Address("/run", 1, "d", "u").primary == "unix:/run:1"
    assert Address("::1", 1, "d", "u").primary == "[::1]:1"
    environment = Address("h", 1, "d", "u", "require").environment()
    assert [environment[name] for name in ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGSSLMODE")] == [
        *("h", "1", "d", "u", "require")
    ]


def test_the_proxys_configuration_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "proxy.ini").write_text(bench.proxy_config(5433, 9090, Address("h", 1, "d", "u", "prefer")))
    settings = config.load(str(tmp_path / "proxy.ini"), {})
    assert settings.groups["main"].sslmode == "prefer"


def test_mean_batch() -> None:
    assert bench.mean_batch(METRICS_BEFORE, METRICS_AFTER) == 30.0
    assert bench.mean_batch(METRICS_AFTER, METRICS_AFTER) == 0.0
    assert bench.mean_batch({}, {}) == 0.0


def test_summary() -> None:
    turns = [(Result(1, 0, 100.0, 4.0), Result(1, 0, tps, 1.0)) for tps in (500.0, 300.0, 400.0)]
    assert bench.summary(turns) == {
        "direct_tps": 100.0,
        "batched_tps": 400.0,
        "direct_ms": 4.0,
        "batched_ms": 1.0,
        "ratio": 4.0,
        "ratio_min": 3.0,
        "ratio_max": 5.0,
    }


def test_unknown_pgbench() -> None:
    with pytest.raises(BenchError, match="can't be executed"):
        bench.find_pgbench(Path("/nowhere/pgbench"))


def test_child_that_ends_tells_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such thing')"]
    with (
        pytest.raises(BenchError, match="it did not start: no such thing"),
        reserved_ports(1) as (port,),
        bench.child("it", command, port, tmp_path),
    ):
        pytest.fail("it can't be ready")


def test_unreachable_server_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with reserved_ports(1) as (port,):
        options = ("--primary", f"127.0.0.1:{port}", "--seconds", "1", "--rounds", "1")
        assert bench.run(arguments(*options)) == 1
    said = capsys.readouterr().err
    assert said.startswith("tqdbproxy bench: pgbench: error:")
    assert said.count("\n") == 1


class TestGoals:
    def test_bounds(self) -> None:
        assert (AT_LEAST.bound, AT_MOST.bound, Goal("k", "w", "u").bound) == (">= 4", "<= 2 (later 1.2)", "")
        assert (AT_LEAST.met(4.0), AT_LEAST.met(3.9), AT_MOST.met(2.0), AT_MOST.met(2.1)) == (True, False, True, False)

    def test_the_median_decides(self) -> None:
        assert outcome([3.0, 4.1, 5.0], [1.0]).missed() == []
        assert outcome([3.0, 3.9, 5.0], [2.5]).missed() == [AT_LEAST, AT_MOST]

    def test_what_was_not_measured_is_not_missed(self) -> None:
        assert outcome([], []).missed() == []


class TestReport:
    def test_a_missed_target_is_marked(self) -> None:
        text = printed(outcome([3.0, 3.5, 5.0], [1.0]))
        assert "MISSED" in text
        assert "3.50 x direct" in text
        assert "3.00 - 5.00" in text
        assert "direct tps 20,000" in text

    def test_an_error_is_shown(self) -> None:
        assert "it broke" in printed(Outcome(outcome([], []).benchmark, [], "it broke"))

    def test_json(self) -> None:
        made = json.loads(json.dumps(as_json([outcome([3.0, 5.0], [])], {"machine": "m"})))
        (figure,) = made["benchmarks"][0]["figures"]
        assert (figure["median"], figure["rounds"], figure["met"]) == (4.0, [3.0, 5.0], True)

    def test_picture(self) -> None:
        picture = draw([outcome([3.0, 5.0], [1.0])], "on <this> machine")
        assert "on &lt;this&gt; machine" in picture
        assert picture.count("<rect") == 1 + 2


class TestChoice:
    def test_list(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert benchmarks_run.main(["--list", "P2", "p6"]) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["P2", "P2one", "P6"]

    def test_unknown(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert benchmarks_run.main(["P66"]) == 2
        assert "P66" in capsys.readouterr().err

    def test_names_are_unique(self) -> None:
        names = [made.name for made in benchmarks_run.BENCHMARKS]
        assert len(set(names)) == len(names)


class TestViolations:
    def test_messages(self) -> None:
        assert preparation("X") == b"P\x00\x00\x00\x0aw\x00X\x00\x00\x00S\x00\x00\x00\x04"
        write = one_write(EVERY)
        assert write[:1] == b"B"
        assert write.endswith(b"S\x00\x00\x00\x04")
        assert b"\x00\x00\x00\x03100" in write


def test_cpu_and_memory_of_a_process() -> None:
    pid = os.getpid()
    reset_peak(pid)
    assert cpu_seconds(pid) > 0
    assert peak_bytes(pid) > 1_000_000
    assert resident_bytes(pid) > 1_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[Address]:
    with EmbeddedServer() as started:
        yield Address(started.host, started.port, "postgres", started.user)


class TestWithAServer:
    def test_one_second_directly(self, server: Address) -> None:
        pgbench = bench.find_pgbench()
        with bench.bench_table(pgbench, server):
            result = bench.run_pgbench(pgbench, server, Load(bench.writes(10), clients=2, seconds=1))
        assert result.transactions > 0
        assert result.tps > 0

    def test_a_table_that_exists_is_not_ours(self, server: Address) -> None:
        pgbench = bench.find_pgbench()
        with (
            bench.bench_table(pgbench, server),
            pytest.raises(BenchError, match="already exists"),
            bench.bench_table(pgbench, server),
        ):
            pytest.fail("it must not be taken")

    def test_all_of_it(self, server: Address, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        figures = tmp_path / "figures.json"
        given = ["--primary", server.primary, "--user", server.user, "--database", server.database, "--clients", "2"]
        short = ["--seconds", "1", "--rounds", "1", "--protocols", "prepared", "--sslmode", "disable"]
        assert bench.run(arguments(*given, *short, "--json", str(figures))) == 0, capsys.readouterr().err
        (row,) = json.loads(figures.read_text())
        assert row["direct_tps"] > 0
        assert row["batched_tps"] > 0
        assert row["mean_batch"] >= 1.0


def outcome(ratios: list[float], cpus: list[float]) -> Outcome:
    """A benchmark with two goals and the rounds that gave these figures."""
    benchmark = Benchmark("P0", "some work", (AT_LEAST, AT_MOST), lambda ground: Sample({}, {}))
    samples = [Sample({"ratio": ratio}, {"direct tps": 20000.0}) for ratio in ratios]
    return Outcome(benchmark, [*samples, *(Sample({"cpu": cpu}, {}) for cpu in cpus)])


def printed(made: Outcome) -> str:
    console = Console(width=120, record=True, file=StringIO())
    console.print(as_table([made], {"machine": "m"}))
    return console.export_text()

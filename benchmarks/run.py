"""The command line of the benchmarks: chooses, runs them in rounds, reports.

The law of this module: a benchmark that can't be run is a line in the report; Ctrl-C reports what there is.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import ascii_lowercase

import psycopg
from rich.console import Console

from benchmarks import batching, cached, forwarding
from benchmarks.goals import Benchmark, Outcome, Sample
from benchmarks.loads import drop_tables, make_tables
from benchmarks.peers import Ground, prepared_ground
from benchmarks.plot import draw
from benchmarks.report import as_json, as_table, circumstances
from tqdbproxy.errors import ProxyError

BENCHMARKS = (*batching.BENCHMARKS[:-2], *cached.BENCHMARKS, *forwarding.BENCHMARKS, *batching.BENCHMARKS[-2:])
INTERRUPTED = "interrupted"
OUTPUT = Path(__file__).parent / "output"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks", description="Direct, PgBouncer and proxy side by side.")
    made.add_argument("names", nargs="*", metavar="NAME", help="which benchmarks (default: all; P2 means P2 and P2one)")
    made.add_argument("--list", action="store_true", help="print the names and end")
    made.add_argument("--seconds", type=int, default=3, help="length of a run (default %(default)s)")
    made.add_argument("--rounds", type=int, default=3, help="rounds of each benchmark (default %(default)s)")
    made.add_argument("--json", type=Path, metavar="FILE", help="where the JSON goes (default benchmarks/output)")
    made.add_argument("--check", action="store_true", help="exit status 1 if a target is missed")
    made.add_argument("--no-pgbouncer", action="store_true")
    made.add_argument("--no-proxy", action="store_true", help="the peers alone")
    made.add_argument("--pgbench", type=Path, help="the program (default: PATH, then the embedded PostgreSQL's)")
    made.add_argument("--server", metavar="HOST:PORT", help="a server that trusts us, instead of an embedded one")
    made.add_argument("--database", default="postgres", help="there (default %(default)s)")
    made.add_argument("--user", default="postgres", help="there (default %(default)s)")
    made.add_argument("--idle-sessions", type=int, default=500, help="for P9 (default %(default)s)")
    made.add_argument("--megabytes", type=int, default=100, help="for P8 (default %(default)s)")
    return made


def main(argv: Sequence[str]) -> int:
    """Run the benchmarks that the arguments name; the exit status."""
    args = parser().parse_args(argv)
    chosen = [bench for bench in BENCHMARKS if not args.names or _is_named(bench, args.names)]
    if args.list:
        print("\n".join(f"{bench.name:6} {bench.title}" for bench in chosen))
        return 0
    if not chosen:
        print(f"no such benchmark: {' '.join(args.names)} (--list prints the names)", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the children end with us
    _allow_many_sockets()
    try:
        outcomes = _run(args, chosen)
    except ProxyError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if any(outcome.error == INTERRUPTED for outcome in outcomes):
        return 130
    missed = any(outcome.missed() or outcome.error for outcome in outcomes)
    return 1 if args.check and missed else 0


def _is_named(bench: Benchmark, names: Iterable[str]) -> bool:
    """By its whole name or without the letters at its end (P2 -> P2one)."""
    whole = bench.name.lower()
    return any(name.lower() in (whole, whole.rstrip(ascii_lowercase)) for name in names)


def _allow_many_sockets() -> None:
    """The idle sessions need two sockets each; children inherit the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65536, hard))


def _run(args: argparse.Namespace, chosen: Sequence[Benchmark]) -> list[Outcome]:
    console = Console()
    outcomes: list[Outcome] = []
    with prepared_ground(args) as ground:
        for note in ground.notes:
            console.print(note, style="yellow", markup=False)
        measured_on = {**circumstances(ground), "rounds": args.rounds}
        make_tables(ground)
        try:
            for bench in chosen:
                outcomes.append(_rounds(console, bench, ground, args.rounds))
                if outcomes[-1].error == INTERRUPTED:
                    break
        finally:
            drop_tables(ground)
    console.print(as_table(outcomes, measured_on))
    _write(args, console, outcomes, measured_on)
    return outcomes


def _rounds(console: Console, bench: Benchmark, ground: Ground, rounds: int) -> Outcome:
    samples: list[Sample] = []
    for number in range(rounds):
        with console.status(f"{bench.name}  {bench.title}  (round {number + 1} of {rounds})"):
            try:
                samples.append(bench.measure(ground))
            except (ProxyError, psycopg.Error, OSError) as error:
                return Outcome(bench, samples, str(error).strip())
            except KeyboardInterrupt:
                return Outcome(bench, samples, INTERRUPTED)
    return Outcome(bench, samples)


def _write(args: argparse.Namespace, console: Console, outcomes: list[Outcome], measured_on: dict[str, object]) -> None:
    OUTPUT.mkdir(exist_ok=True)
    place = args.json or OUTPUT / "benchmarks.json"
    place.write_text(json.dumps(as_json(outcomes, measured_on), indent=2) + "\n")
    picture = OUTPUT / "benchmarks.svg"
    picture.write_text(draw(outcomes, f"tqdbproxy on {measured_on['machine']}"))
    console.print(f"written: {place} and {picture}", style="dim", soft_wrap=True)

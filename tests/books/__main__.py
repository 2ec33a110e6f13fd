"""``python -m tests.books``: one run by hand."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.books.clients import Habits
from tests.books.faults import FAULTS
from tests.books.run import Plan, run


def main() -> int:
    """Exit status 1 if the books don't balance."""
    parser = argparse.ArgumentParser(prog="python -m tests.books", description="Writes, faults, and the books of both.")
    parser.add_argument("--writes", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", default="", help=f"comma-separated: {', '.join(FAULTS)}")
    parser.add_argument("--cancels", type=float, default=0.01, help="share of the writes")
    parser.add_argument("--vanishes", type=float, default=0.005, help="share of the writes")
    parser.add_argument("--cut", type=float, default=0.003, help="share of the writes")
    parser.add_argument("--excused", default="", help="comma-separated SQLSTATEs that any write may fail with")
    parser.add_argument("--config", default="", help="the proxy's configuration file")
    parser.add_argument("--no-hints", action="store_true")
    parser.add_argument("--in-step", action="store_true", help="all clients say the same")
    given = parser.parse_args()
    plan = Plan(
        given.writes,
        given.clients,
        given.seed,
        Habits(given.cancels, given.vanishes, given.cut, frozenset(given.excused.split(","))),
        [name for name in given.faults.split(",") if name],
        Path(given.config).read_text() if given.config else "",
        "" if given.no_hints else "batch",
        given.in_step,
    )
    with tempfile.TemporaryDirectory() as folder:
        report = run(plan, Path(folder))
    sys.stdout.write(report.text() + "\n")
    return bool(report.problems)


if __name__ == "__main__":
    sys.exit(main())

"""One run: tables, clients and faults, then the books against the tables.

The law of this module: it decides nothing about right and wrong; the report has all that was found.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import uvloop

from tests.books import faults, schema
from tests.books.audit import audit
from tests.books.clients import Client, Habits
from tests.books.kinds import Desk
from tests.books.ledger import Ledger, Outcome
from tests.books.program import InStep, Program
from tests.books.site import DATABASE, Site

USERS = ("hasty", "picky", *("postgres",) * 14)
"""One client after the other is one of these."""

PATIENCE_S = 30.0
"""For one answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does. ``faults``: names of `faults.FAULTS`, in their order; ``in_step``: see `program.InStep`."""

    writes: int = 20_000
    clients: int = 64
    seed: int = 1
    habits: Habits = Habits()  # noqa: RUF009 (it is frozen)
    faults: Sequence[str] = ()
    config: str = ""
    hint: str = "batch"
    in_step: bool = False


@dataclass
class Report:
    """What came of it."""

    ledger: Ledger
    seconds: float
    problems: list[str]
    counts: Counter[str] = field(default_factory=Counter)
    """See `Site.counts`; and ``deadlocks``."""

    def text(self) -> str:
        """For people."""
        ledger = self.ledger
        total = len(ledger.entries)
        lines = [f"{total} writes in {self.seconds:.1f} s, {total / self.seconds:.0f} a second"]
        lines.append("  ".join(f"{outcome.value}: {count}" for outcome, count in ledger.outcomes().items()))
        lines.append("  ".join(f"{state}: {count}" for state, count in sorted(ledger.sqlstates().items())))
        lines.append("  ".join(f"{what}: {count}" for what, count in self.counts.items()))
        for page, counts in ledger.pages().items():
            numbers = "  ".join(f"{outcome.value} {counts[outcome]:6}" for outcome in Outcome)
            lines.append(f"  {page:12} {numbers}")
        lines += [f"BROKEN: {problem[:600]}" for problem in self.problems[:20]]
        if len(self.problems) > 20:
            lines.append(f"and {len(self.problems) - 20} more")
        return "\n".join(lines)


def run(plan: Plan, folder: Path) -> Report:
    """Do it on a server and proxies of its own; ``folder`` takes the proxies' files."""
    with Site(folder, plan.config, relayed="cut" in plan.faults) as site:
        with site.connect() as connection:
            connection.execute((schema.roles() + schema.TABLES).encode())
            connection.execute(schema.tallies(plan.clients).encode())
        ledger = Ledger(plan.writes)
        began = time.monotonic()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_write(plan, site, ledger))
        seconds = time.monotonic() - began
        report = Report(ledger, seconds, ledger.problems, site.counts())
        report.counts["deadlocks"] = site.deadlocks()
        site.wait_until_quiet()
        with site.connect() as connection:
            report.problems += audit(connection, ledger)
        if "Traceback" in site.log or "#critical" in site.log:
            report.problems.append(f"a proxy logged an exception:\n{site.log[-4000:]}")
    return report


async def _write(plan: Plan, site: Site, ledger: Ledger) -> None:
    chance = Random(plan.seed)
    desk = Desk(ledger, chance, USERS)
    program = (InStep if plan.in_step else Program)(desk, plan.hint)
    clients = [
        Client(
            number,
            desk.user(number),
            DATABASE,
            lambda: site.port,
            ledger,
            program,
            plan.habits,
            Random(chance.random()),
        )
        for number in range(plan.clients)
    ]
    watching = asyncio.ensure_future(_watch(clients))
    await asyncio.gather(faults.happen(plan.faults, site, ledger, chance), *(client.run() for client in clients))
    watching.cancel()


async def _watch(clients: Sequence[Client]) -> None:
    """Whoever gets no answer is told so."""
    while True:
        await asyncio.sleep(1)
        for client in clients:
            if client.talk is not None:
                client.talk.give_up(time.monotonic() - PATIENCE_S)

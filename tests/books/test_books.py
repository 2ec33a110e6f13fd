"""Many clients, unique keys, faults of all kinds: success is exactly once, failure not at all, unknown at most once.

``TQDBPROXY_TEST_SEED`` makes other writes and faults.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.books.clients import CANCELED, Habits
from tests.books.ledger import Outcome
from tests.books.run import Plan, Report, run

pytestmark = pytest.mark.timeout(1800)

WRITES = {
    "errors": 100_000,
    "servers": 60_000,
    "in step": 40_000,
    "proxies": 30_000,
    "adaptive": 15_000,
    "cramped": 12_000,
    "network": 12_000,
    "stalls": 8_000,
}
SEED = int(os.environ.get("TQDBPROXY_TEST_SEED", "1"))
RUDE = Habits(cancels=0.01, vanishes=0.005, is_cut=0.003)
SERVER_FAULTS = ("terminate", "kill", "fast", "terminate", "immediate", "kill", "crash", "terminate")
EAGER = "[write_batch]\nearly_start = 2\n"
"""Servers begin with what is there, however few they are."""
CONFIGS = {
    "errors": EAGER,
    "servers": EAGER,
    "in step": EAGER,
    "network": EAGER,
    "adaptive": "[write_batch]\nmode = adaptive\nwrite_threshold = 500\nmetrics_interval = 0.2\n",
    "cramped": "[write_batch]\nmax_pending = 10\nmax_batch_size = 6\nearly_quorum = off\n",
    "stalls": "[write_batch]\ntimeout_s = 1\n",
}


def books(folder: Path, name: str, faults: Sequence[str] = (), habits: Habits = RUDE, hint: str = "batch") -> Report:
    """The report of a run in which all was as it must be."""
    in_step = name == "in step"
    clients = 8 if in_step else 64
    plan = Plan(WRITES[name], clients, SEED, habits, faults, CONFIGS.get(name, ""), hint, in_step=in_step)
    report = run(plan, folder)
    assert not report.problems, report.text()
    assert len(report.ledger.entries) >= WRITES[name]
    assert report.counts["batched"] > WRITES[name] / 10, report.text()
    return report


def test_there_are_enough_writes() -> None:
    assert sum(WRITES.values()) >= 200_000


def test_errors_and_rude_clients(tmp_path: Path) -> None:
    report = books(tmp_path, "errors")
    expected = {"23503", "23505", "23514", "40001", CANCELED, "TQ001"}
    assert expected <= set(report.ledger.sqlstates())
    assert not report.ledger.sqlstates()["08007"]
    assert all(report.counts[method] for method in ("single", "prepared", "merged", "transaction", "deadlocks"))
    assert all(counts[Outcome.SUCCESS] for counts in report.ledger.pages().values())


def test_servers_that_end(tmp_path: Path) -> None:
    report = books(tmp_path, "servers", SERVER_FAULTS)
    assert {"08007", "57P01"} <= set(report.ledger.sqlstates())


def test_clients_in_step(tmp_path: Path) -> None:
    """The server begins with most batches before they are complete, and is ended in the middle of that, too."""
    habits = Habits(cancels=0.002, vanishes=0.001, is_cut=0.001)
    report = books(tmp_path, "in step", ("terminate", "kill", "terminate", "cut", "terminate", "immediate"), habits)
    assert report.counts["batch_begun"] > 300, report.text()


def test_proxies_that_end(tmp_path: Path) -> None:
    """Killed: whoever waited can't know. Stopped: whoever waited is answered."""
    report = books(tmp_path, "proxies", ("proxy", "stop") * 3)
    assert "57P01" in report.ledger.sqlstates()


def test_networks_that_end(tmp_path: Path) -> None:
    """The server has done it, and nobody can know."""
    report = books(tmp_path, "network", ["cut"] * 30)
    assert report.ledger.sqlstates()["08007"] > 100, report.text()


def test_writes_without_hints(tmp_path: Path) -> None:
    books(tmp_path, "adaptive", ("kill", "stop"), hint="")


def test_more_waiting_writes_than_there_is_room_for(tmp_path: Path) -> None:
    books(tmp_path, "cramped", ("terminate",))


def test_servers_that_stand_still(tmp_path: Path) -> None:
    """Longer than ``timeout_s``: 57014 if it never ran, 08007 if it may have run."""
    habits = Habits(excused=frozenset({CANCELED}))
    report = books(tmp_path, "stalls", ("stall",), habits)
    assert "08007" in report.ledger.sqlstates()

"""What the metrics say of the process itself."""

from __future__ import annotations

import time
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector

from tqdbproxy.core.metrics import Metrics
from tqdbproxy.process import PROC, show_process


def shown(proc: Path = PROC) -> dict[str, float]:
    registry = CollectorRegistry()
    show_process(Metrics(registry), 1.5, proc)
    samples = (sample for family in registry.collect() for sample in family.samples)
    return {sample.name: sample.value for sample in samples}


def test_the_names_and_values_are_those_of_other_processes() -> None:
    theirs = {sample.name for family in ProcessCollector(registry=None).collect() for sample in family.samples}
    ours = shown()
    assert theirs - set(ours) <= {"process_open_fds"}  # it takes a kernel of our day
    assert set(ours) <= theirs
    assert ours["process_start_time_seconds"] == 1.5
    assert 0 < ours["process_cpu_seconds_total"] <= time.process_time()
    assert 1e6 < ours["process_resident_memory_bytes"] < ours["process_virtual_memory_bytes"]
    assert ours["process_max_fds"] >= ours.get("process_open_fds", 1) > 0


def test_what_the_system_does_not_tell_is_not_shown(tmp_path: Path) -> None:
    assert set(shown(tmp_path)) == {"process_cpu_seconds_total", "process_start_time_seconds", "process_max_fds"}

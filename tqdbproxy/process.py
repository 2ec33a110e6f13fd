"""What the system knows of this process, in the metrics that Prometheus' clients have of every process.

The names are those of prometheus-client's ``ProcessCollector``, which lists all open files to count them: 8 ms for
10,000 of them, in which no client is served. The law of this module: nothing here takes longer for more clients; what
the system doesn't tell isn't shown.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

from tqdbproxy.core.metrics import Metrics

PROC = Path("/proc/self")
PAGE = resource.getpagesize()

Reading = dict[tuple[str, ...], float]


def show_process(metrics: Metrics, started: float, proc: Path = PROC) -> None:
    """Let the metrics read them. ``started``: since the epoch."""
    metrics.counter("process_cpu_seconds_total", "User and system CPU time, in seconds", time.process_time)
    metrics.gauge("process_start_time_seconds", "When the proxy was started, since the epoch", lambda: started)
    metrics.gauge("process_virtual_memory_bytes", "Memory that is mapped", lambda: _pages(proc, 0))
    metrics.gauge("process_resident_memory_bytes", "Memory that is in use", lambda: _pages(proc, 1))
    metrics.gauge("process_open_fds", "Open file descriptors (Linux 6.2 and later)", lambda: _open_files(proc))
    metrics.gauge("process_max_fds", "File descriptors that may be open", _most_files)


def _pages(proc: Path, column: int) -> Reading:
    try:
        return {(): float(int((proc / "statm").read_text().split()[column]) * PAGE)}
    except OSError:
        return {}


def _open_files(proc: Path) -> Reading:
    """Older kernels say 0, as of all of /proc."""
    try:
        count = os.stat(proc / "fd").st_size
    except OSError:
        return {}
    return {(): float(count)} if count else {}


def _most_files() -> float:
    return float(resource.getrlimit(resource.RLIMIT_NOFILE)[0])

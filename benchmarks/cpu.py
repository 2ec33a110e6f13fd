"""Processor time and memory of a process, as the operating system counts them.

The law of this module: it only looks; the memory's peak alone is set back, where the system can.
"""

from __future__ import annotations

from pathlib import Path

import psutil


def cpu_seconds(pid: int) -> float:
    """User and system time so far, of all threads; Linux counts it in hundredths of a second."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def resident_bytes(pid: int) -> int:
    """Memory that is in RAM now."""
    return int(psutil.Process(pid).memory_info().rss)


def reset_peak(pid: int) -> None:
    """Let the peak start again from now (proc(5), clear_refs). Elsewhere than on Linux nothing happens."""
    place = Path(f"/proc/{pid}/clear_refs")
    if place.exists():
        place.write_text("5")


def peak_bytes(pid: int) -> int:
    """The most that was in RAM since :func:`reset_peak`; where the system doesn't say: what is there now."""
    place = Path(f"/proc/{pid}/status")
    lines = place.read_text().splitlines() if place.exists() else []
    peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return peaks[0] if peaks else resident_bytes(pid)

"""What this machine offers a process: cores and memory."""

import math
import os
from pathlib import Path

_CPU_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"),)


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, or the container's CPU quota where lower."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for path in _CPU_QUOTAS:
        quota, _, period = _read(path).partition(" ")
        if quota.isdecimal() and period.strip().isdecimal():
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

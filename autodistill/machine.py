"""Memory and cores that this process may use, with the limits of its container, and causes of the end of processes.

On Linux both are read from text files. The functions that read them take `root`, a folder in place of `/`, so that
tests can use copies of such files. Control groups of version 1 and version 2 are supported
(docs.kernel.org/admin-guide/cgroup-v1/memory.html and docs.kernel.org/admin-guide/cgroup-v2.html).
"""

import ctypes
import math
import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path("/")
WINDOWS_CODES = {
    0xC0000005: "access violation",
    0xC0000017: "out of memory",
    0xC000001D: "illegal instruction",
    0xC00000FD: "stack overflow",
    0xC0000374: "heap corruption",
    0xC0000409: "aborted after a corrupted stack or a failed check",
}
"""NTSTATUS values that end a process (learn.microsoft.com, MS-ERREF 2.3)."""
FORKED = 0x40
"""Flag of a Linux process that runs the program of the process that forked it (PF_FORKNOEXEC, linux/sched.h)."""
KILL = 9
"""Number of SIGKILL, which `signal` does not define on Windows."""
FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "memory.oom_control"),
    2: ("memory.max", "memory.current", "inactive_file", "memory.events"),
}
"""By version of control groups: file of the memory limit; file of the usage; key of `memory.stat` with the bytes of
cached files that the kernel gives up before it refuses memory; file with a line `oom_kill N`, the number of processes
of the group that the kernel killed for lack of memory."""


def memory_bytes(*, root: Path = ROOT) -> int:
    """Return the physical memory of this machine, or the limit of its container where that is lower."""
    physical = _machine_bytes("MemTotal", "ullTotalPhys", root)
    if physical is None:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min((physical, *(limit for limit, _ in _memory_limits(root))))


def free_memory_bytes(*, root: Path = ROOT) -> int | None:
    """Return the memory that processes can still allocate without swapping; None if the system does not report it.

    Memory of files in the page cache counts as free, because the kernel gives it to processes on demand.
    """
    available = _machine_bytes("MemAvailable", "ullAvailPhys", root)
    free = [max(0, limit - used) for limit, used in _memory_limits(root)]
    return min(free if available is None else [available, *free], default=None)


def process_age_s() -> float:
    """Return the seconds since this process began; where the system does not tell, the seconds of its own work."""
    try:
        begun = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - begun / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):  # not Linux
        return time.process_time()


def usable_cores(*, root: Path = ROOT) -> int:
    """Return the number of cores that this process may use, by its affinity and the CPU quota of its container.

    The number is at least 1; a fraction of a core counts as a whole core.
    """
    version, folders = cgroup("cpu", root=root)
    quotas = [_quota(version, folder) for folder in folders]
    return max(1, min([_allowed_cores(), *(math.ceil(quota) for quota in quotas if quota is not None)]))


def is_forked(*, root: Path = ROOT) -> bool:
    """Return whether this process was forked from another Python process, whose threads it lacks; False if unknown."""
    try:
        flags = (root / "proc/self/stat").read_text().rpartition(")")[2].split()[6]
    except (OSError, IndexError):
        return False
    return bool(int(flags) & FORKED)


def oom_kills(*, root: Path = ROOT) -> int:
    """Return how many processes the kernel has killed so far for lack of memory; 0 if the kernel does not count them.

    The count is that of the control group if there is one, else that of the machine. The count of a control group
    includes kills of its processes for lack of memory outside the group.
    """
    version, folders = cgroup("memory", root=root)
    paths = [*(folder / FILES[version][3] for folder in folders), root / "proc/vmstat"]
    counts = [_numbers(_text(path)).get("oom_kill") for path in paths]
    return next((count for count in counts if count is not None), 0)


def signal_name(number: int) -> str:
    """Return the name of a signal: `SIGABRT`, or `no name`."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "no name"


def exit_cause(code: int, *, oom_killed: bool = False) -> str:
    """Return the cause of the end of a process: `signal 6, SIGABRT`, `exit code 3`.

    Args:
        code: Exit code of `subprocess` or `multiprocessing`: negative signal number after a signal.
        oom_killed: Whether the count of `oom_kills` has increased. Memory is named as the cause only in this case.
    """
    if code >= 0:
        return f"exit code {code:#x}, {WINDOWS_CODES[code]}" if code in WINDOWS_CODES else f"exit code {code}"
    said = f"signal {-code}, {signal_name(-code)}"
    if code == -KILL:
        return f"{said}: {'out of memory, by the count of the kernel' if oom_killed else 'killed from outside'}"
    return f"{said}: ended from outside" if code == -signal.SIGTERM else said


def cgroup(controller: str, *, root: Path = ROOT) -> tuple[int, list[Path]]:
    """Return the version of the control groups, and the folders of this process's group and of the enclosing groups.

    In a container `/proc/self/cgroup` can contain the path on the host, while only the container's group is mounted.
    Folders that are not visible are left out.

    Args:
        controller: `memory` or `cpu`.
    """
    fields = (line.split(":", 2) for line in _text(root / "proc/self/cgroup").splitlines())
    # Path of the group by controller; the name is empty in version 2.
    paths = {name: field[2] for field in fields if len(field) == 3 for name in field[1].split(",")}
    version, mounted, path = 2, root / "sys/fs/cgroup", paths.get("", "")
    if controller in paths:  # where version 1 manages a controller, version 2 does not
        version, mounted, path = 1, mounted / controller, paths[controller]
    group = mounted / path.lstrip("/")
    return version, [it for it in (group, *group.parents) if it.is_relative_to(mounted) and it.is_dir()]


def _numbers(text: str) -> dict[str, int]:
    """Parse lines of a name and an integer: `oom_kill 2`, `MemAvailable:   1024 kB` (the number is in kB)."""
    rows = (line.replace(":", " ").split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) >= 2 and row[1].isdecimal()}


def _memory_limits(root: Path) -> list[tuple[int, int]]:
    """Return limit and usage in bytes of each enclosing control group that limits memory."""
    version, folders = cgroup("memory", root=root)
    limit_file, usage_file, reclaimable, _ = FILES[version]
    found = []
    for folder in folders:
        limit, used = (_text(folder / name).strip() for name in (limit_file, usage_file))
        if limit.isdecimal():  # not `max`
            spare = _numbers(_text(folder / "memory.stat")).get(reclaimable, 0)
            found.append((int(limit), max(0, int(used) - spare if used.isdecimal() else 0)))
    return found


def _quota(version: int, folder: Path) -> float | None:
    """Return the number of cores that a CPU quota allows; None for no quota: `max`, `-1` or no file."""
    v1 = (_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    values = [int(it) for it in (_text(folder / "cpu.max").split() if version == 2 else v1) if it.isdecimal()]
    return values[0] / values[1] if len(values) == 2 and values[1] else None


def _allowed_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine_bytes(name: str, windows_name: str, root: Path) -> int | None:
    """Return a number of bytes of /proc/meminfo, or of Windows; None on other systems."""
    if sys.platform == "win32":
        return _windows_memory(windows_name)
    kilobytes = _numbers(_text(root / "proc/meminfo")).get(name)
    return None if kilobytes is None else 1024 * kilobytes


class MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = [
        ("dwLength", ctypes.c_uint32),
        ("dwMemoryLoad", ctypes.c_uint32),
        ("ullTotalPhys", ctypes.c_uint64),
        ("ullAvailPhys", ctypes.c_uint64),
        ("others", ctypes.c_uint64 * 5),  # page file, virtual memory
    ]


def _windows_memory(name: str) -> int:
    status = MemoryStatus(dwLength=ctypes.sizeof(MemoryStatus))
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 (other systems do not have the name)
    if not kernel.GlobalMemoryStatusEx(ctypes.byref(status)):
        raise OSError("GlobalMemoryStatusEx failed")
    return int(getattr(status, name))


def _text(path: Path) -> str:
    """Return the text of a file; empty if it is missing or cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

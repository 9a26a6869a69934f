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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

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
KILL = 9
"""Number of SIGKILL, which `signal` does not define on Windows."""


class CgroupFiles(NamedTuple):
    """Names of a control group's files, which differ between the two versions."""

    memory_limit: str
    memory_usage: str
    reclaimable: str
    """Key of `memory.stat`: bytes of cached files that the kernel gives up before it refuses memory."""
    oom_kills: str
    """File with a line `oom_kill N`: number of processes of the group that the kernel killed for lack of memory."""


FILES = {
    1: CgroupFiles(
        "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", oom_kills="memory.oom_control"
    ),
    2: CgroupFiles("memory.max", "memory.current", "inactive_file", oom_kills="memory.events"),
}


class Cgroup(NamedTuple):
    """The control group of this process."""

    version: int
    folders: tuple[Path, ...]
    """Folder of the group, then folders of the enclosing groups, as far as they are visible."""


def memory_bytes(*, root: Path = ROOT) -> int:
    """Return the physical memory of this machine, or the limit of its container where that is lower."""
    limits = (limit for limit, _ in _memory_limits(root))
    return min((_physical_bytes(root), *limits))


def free_memory_bytes(*, root: Path = ROOT) -> int | None:
    """Return the memory that processes can still allocate without swapping; None if the system does not report it.

    Memory of files in the page cache counts as free, because the kernel gives it to processes on demand.
    """
    available = _available_bytes(root)
    free = [max(0, limit - used) for limit, used in _memory_limits(root)]
    return min(free if available is None else [available, *free], default=None)


def usable_cores(*, root: Path = ROOT) -> int:
    """Return the number of cores that this process may use, by its affinity and the CPU quota of its container.

    The number is at least 1; a fraction of a core counts as a whole core.
    """
    group = cgroup("cpu", root=root)
    quotas = [_quota(group.version, folder) for folder in group.folders] if group else []
    return max(1, min([_allowed_cores(), *(math.ceil(quota) for quota in quotas if quota is not None)]))


def oom_kills(*, root: Path = ROOT) -> int:
    """Return how many processes the kernel has killed so far for lack of memory; 0 if the kernel does not count them.

    The count is that of the control group if there is one, else that of the machine. The count of a control group
    includes kills of its processes for lack of memory outside the group.
    """
    group = cgroup("memory", root=root)
    texts = [_text(group.folders[0] / FILES[group.version].oom_kills)] if group and group.folders else []
    counts = [numbers(text).get("oom_kill") for text in (*texts, _text(root / "proc/vmstat"))]
    return next((count for count in counts if count is not None), 0)


def signal_name(number: int) -> str:
    """Return the name of a signal: `SIGABRT`; `no name` for a number without a name on this system."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "SIGKILL" if number == KILL else "no name"


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


def cgroup(controller: str, *, root: Path = ROOT) -> Cgroup | None:
    """Return the control group that limits this process; None if there is none.

    Args:
        controller: `memory` or `cpu`.
    """
    paths = cgroup_paths(_text(root / "proc/self/cgroup"))
    for version, mounted, top, names in cgroup_mounts(_text(root / "proc/self/mountinfo")):
        path = paths.get(controller if version == 1 else "")
        if path is None or (version == 1 and controller not in names):
            continue
        if version == 2 and controller in paths:
            continue  # version 1 manages this controller, so version 2 does not
        return Cgroup(version, tuple(_upwards(root / mounted.lstrip("/"), below(path, top))))
    return None


def cgroup_paths(text: str) -> dict[str, str]:
    """Parse `/proc/self/cgroup`: path of the group by controller; the name is empty in version 2."""
    fields = (line.split(":", 2) for line in text.splitlines())
    return {name: field[2] for field in fields if len(field) == 3 for name in field[1].split(",")}


def cgroup_mounts(text: str) -> list[tuple[int, str, str, tuple[str, ...]]]:
    """Parse `/proc/self/mountinfo`: version, mount point, mounted group and options of each mounted tree."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) >= 5 and len(kind) >= 3 and kind[0] in ("cgroup", "cgroup2"):
            found.append((2 if kind[0] == "cgroup2" else 1, fields[4], fields[3], tuple(kind[2].split(","))))
    return found


def below(path: str, top: str) -> str:
    """Return the path of a group relative to the mounted group `top`; empty if the group is not below `top`.

    In a container `/proc/self/cgroup` can contain the path on the host, while only the container's group is mounted.
    """
    inside = path == top or path.startswith(f"{top.rstrip('/')}/")
    return path.removeprefix(top.rstrip("/")).strip("/") if inside and ".." not in path else ""


def numbers(text: str) -> dict[str, int]:
    """Parse lines of a name and an integer: `oom_kill 2`, `MemAvailable:   1024 kB` (the number is in kB)."""
    rows = (line.replace(":", " ").split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) >= 2 and row[1].isdecimal()}


def bytes_in(text: str) -> int | None:
    """Parse the text of a file with one number of bytes; None if it is `max` or empty."""
    return int(text) if text.strip().isdecimal() else None


def quota(quota_us: str, period_us: str) -> float | None:
    """Return the number of cores that a CPU quota allows; None for no quota: `max`, `-1` or an empty string."""
    if not (quota_us.isdecimal() and period_us.isdecimal() and int(period_us)):
        return None
    return int(quota_us) / int(period_us)


def _upwards(mounted: Path, group: str) -> Iterator[Path]:
    folder = mounted / group
    while folder.is_relative_to(mounted):
        if folder.is_dir():
            yield folder
        if folder == mounted:
            return
        folder = folder.parent


def _memory_limits(root: Path) -> list[tuple[int, int]]:
    """Return limit and usage in bytes of each enclosing control group that limits memory."""
    group = cgroup("memory", root=root)
    if group is None:
        return []
    names, found = FILES[group.version], []
    for folder in group.folders:
        limit, used = (bytes_in(_text(folder / name)) for name in (names.memory_limit, names.memory_usage))
        if limit is not None:
            spare = numbers(_text(folder / "memory.stat")).get(names.reclaimable, 0)
            found.append((limit, max(0, (used or 0) - spare)))
    return found


def _quota(version: int, folder: Path) -> float | None:
    if version == 2:
        found = _text(folder / "cpu.max").split()
        return quota(*found) if len(found) == 2 else None
    return quota(*(_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")))


def _allowed_cores() -> int:
    counts: list[Callable[[], int | None]] = [os.cpu_count]
    if hasattr(os, "sched_getaffinity"):
        counts.insert(0, lambda: len(os.sched_getaffinity(0)))
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        counts.insert(0, os.process_cpu_count)
    return counts[0]() or 1


def _physical_bytes(root: Path) -> int:
    if sys.platform == "win32":
        return _windows_memory()["ullTotalPhys"]
    total = numbers(_text(root / "proc/meminfo")).get("MemTotal")
    return 1024 * total if total is not None else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _available_bytes(root: Path) -> int | None:
    if sys.platform == "win32":
        return _windows_memory()["ullAvailPhys"]
    available = numbers(_text(root / "proc/meminfo")).get("MemAvailable")
    return None if available is None else 1024 * available


class MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = [
        ("dwLength", ctypes.c_uint32),
        ("dwMemoryLoad", ctypes.c_uint32),
        *(
            (name, ctypes.c_uint64)
            for name in (
                "ullTotalPhys",
                "ullAvailPhys",
                "ullTotalPageFile",
                "ullAvailPageFile",
                "ullTotalVirtual",
                "ullAvailVirtual",
                "ullAvailExtendedVirtual",
            )
        ),
    ]


def _windows_memory() -> Mapping[str, int]:
    status = MemoryStatus(dwLength=ctypes.sizeof(MemoryStatus))
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 (other systems do not have the name)
    if not kernel.GlobalMemoryStatusEx(ctypes.byref(status)):
        raise OSError("GlobalMemoryStatusEx failed")
    return {name: getattr(status, name) for name in ("ullTotalPhys", "ullAvailPhys")}


def _text(path: Path) -> str:
    """Return the text of a file; empty if it is missing or cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

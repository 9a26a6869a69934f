"""Processes as /proc shows them; where there is none, nobody has children."""

from pathlib import Path


def alive(pid: int) -> bool:
    """Whether a process runs: one that only waits to be reaped does not."""
    return _stat(pid)[:1] not in ([], ["Z"])


def children_of(parent: int) -> set[int]:
    pids = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
    return {pid for pid in pids if _stat(pid)[1:2] == [str(parent)]}


def _stat(pid: int) -> list[str]:
    """State, parent and so on: what follows the name, which may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []

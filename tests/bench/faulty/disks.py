"""A disk that is full, again and again, wherever the study happens to write then."""

import ctypes
import os
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path

from faulty.lab import WAYS, Lab, finished, ill_said, unlike
from faulty.processes import apart, command
from faulty.studies import REAL, results

SIZE = 24 * 2**20
FREE_KB = (0, 60, 200, 500)
"""How much is free at each start of the command: it goes a little further every time."""
NEW_NAMESPACE, NEW_USER = 0x00020000, 0x10000000
"""Linux's `unshare`; below, its `mount`."""
READ_ONLY, REMOUNT, PRIVATE = 1, 32, (1 << 18) | (1 << 14)


def disk_full(lab: Lab) -> list[str]:
    return on_small_disks(lab, "disk", {"runs": "runs", "cache": "cache"}, _fill)


Scenario = Callable[[Lab, Path, str, list[str]], list[str]]
"""Of a lab, a place, a case and a command's options; returns what is wrong."""


def on_small_disks(lab: Lab, name: str, cases: Mapping[str, str], scenario: Scenario) -> list[str]:
    """A scenario for each way of keeping a study and each case, in a process that has a small disk to itself.

    Args:
        cases: what is tried, with the folder of the place that is on the small disk.
    """
    assert lab.calm.cache.exists(), "made here, before a process has a disk of its own"
    found = []
    for way, case in product(WAYS, cases):
        place, more = lab.place(f"{name}-{way}-{case}"), lab.options(way)
        lines = apart(partial(_on_small_disk, lab, place, case, more, cases[case], scenario), place, "disk")
        found += [f"{way}, {case}: {line}" for line in lines]
    return found


def _on_small_disk(lab: Lab, place: Path, case: str, more: list[str], folder: str, scenario: Scenario) -> list[str]:
    (place / folder).mkdir()
    if not mounted(place / folder):
        print("not run: this user may not mount a small file system", flush=True)
        return []
    return scenario(lab, place, case, more)


def _fill(lab: Lab, place: Path, folder: str, more: list[str]) -> list[str]:
    cache = place / "cache" if folder == "cache" else lab.calm.cache
    os.environ["AUTODISTILL_CACHE"] = str(cache)
    found, seen, stops = [], {}, 0
    for free in FREE_KB:
        leave(place / folder, free * 1024)
        run = command(place, f"{free}-kB", [*REAL, *more])
        code = run.end()
        seen = results(place) | seen
        if code == 0:
            break
        stops += 1
        found += ill_said(run, code, "No space left on device", "disk is full")
    (place / folder / "ballast").unlink()
    found += finished(command(place, "space", [*REAL, *more])) + unlike(lab.calm, place, seen)
    return [*found, *["no disk was full"] * (not stops)]


def mounted(place: Path) -> bool:
    """Give this process and its children a small file system there that nobody else sees."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = NEW_NAMESPACE if os.geteuid() == 0 else NEW_NAMESPACE | NEW_USER
    if libc.unshare(flags):
        return False
    libc.mount(b"none", b"/", None, PRIVATE, None)
    return not libc.mount(b"none", str(place).encode(), b"tmpfs", 0, f"size={SIZE}".encode())


def protect(place: Path) -> None:
    """Let nobody write any more to a file system of `mounted`; permissions alone would not stop root."""
    assert not ctypes.CDLL(None).mount(b"none", str(place).encode(), None, REMOUNT | READ_ONLY, None)


def leave(place: Path, free: int) -> None:
    """Fill a file system, but for so many bytes."""
    ballast = place / "ballast"
    ballast.unlink(missing_ok=True)
    left = os.statvfs(place)
    ballast.write_bytes(b"x" * max(0, left.f_bavail * left.f_frsize - free))

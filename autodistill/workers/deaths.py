"""Say in words why a worker process died: by its exit status, the kernel's counters and its stderr."""

import contextlib
import re
import time
from collections.abc import Iterable
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import torch

from autodistill.machine import KILL, WINDOWS_CODES, exit_cause, free_memory_bytes, oom_kills, signal_name
from autodistill.workers.output import WorkerOutput

NATIVE = ("SIGABRT", "SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE")
"""Signals that a process raises itself when its native code fails."""
_MEMORY_ERROR = re.compile(r"(\w+\.)*\w*MemoryError(:|$)")
"""Last line of a traceback: `MemoryError`, or NumPy's subclass with its module."""
DYING_S = 2.0
"""The kernel counts a kill before the process has ended: releasing its memory takes up to this time."""
_QUOTES = "; its stderr ends with:\n"
LOOK_S = 0.5
"""The kernel's count is not read more often."""
JOIN_S = 5.0
"""A process that closed its pipe has ended within this time, or is taken for hung."""
RESUME = "every finished run is kept: the same command goes on"


class Death(NamedTuple):
    """How a worker process ended, and the state of the machine when that was noticed."""

    exit_code: int | None
    """As `multiprocessing` gives it: minus the signal's number; None: the process did not end."""
    oom_killed: bool = False
    """Whether the kernel counts a kill for want of memory that explains this death."""
    free_bytes: int | None = None
    """Of the machine, or of its container; None where the system does not tell."""
    gpu_free_bytes: int | None = None
    """None where the worker used no GPU."""
    stderr: str = ""
    """The last lines."""


class KillWatch:
    """Tells which deaths of workers are explained by the kernel's count of kills for want of memory.

    The count covers other processes too. So a death is explained only by a kill that was counted after the worker was
    last known to live, and each kill explains one death.
    """

    def __init__(self) -> None:
        self._counts: dict[BaseProcess, list[tuple[float, int]]] = {}
        """Times (s) and counts at which a worker lived. The first is `DYING_S` old, once there is one so old."""

    def look(self, processes: Iterable[BaseProcess]) -> None:
        """Read the kernel's count while workers live. Call it for each new worker, and every second or so.

        A process that was looked at less than `LOOK_S` ago is skipped.
        """
        now = time.monotonic()
        due = [it for it in processes if it not in self._counts or now - self._counts[it][-1][0] >= LOOK_S]
        count = oom_kills() if due else 0
        for process in due:
            if not process.is_alive():  # asked after the count was read: a living worker is not among the killed
                continue
            counts = self._counts.setdefault(process, [])
            counts.append((now, count))
            while len(counts) > 1 and now - counts[1][0] >= DYING_S:
                del counts[0]

    def explains(self, process: BaseProcess) -> bool:
        """Return whether a counted kill explains the death of a process, which is then forgotten."""
        counts = self._counts.pop(process, [])
        count = oom_kills()
        if not counts or count <= counts[0][1]:
            return False
        for others in self._counts.values():
            others[:] = [(when, min(seen + 1, count)) for when, seen in others]
        return True


def noticed(process: BaseProcess, output: WorkerOutput, kills: KillWatch, *, device: str) -> Death:
    """Wait for the end of a process whose pipe is closed, and look at the machine.

    Args:
        process: ended with SIGKILL where it does not end by itself.
        output: its stderr.
        kills: has looked at the process while it lived.
        device: torch's name of the device that it used.
    """
    process.join(JOIN_S)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    gpu_free = None
    with contextlib.suppress(RuntimeError):  # of a GPU that failed with the worker
        gpu_free = torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else None
    killed = code == -KILL and kills.explains(process)
    return Death(code, killed, free_memory_bytes(), gpu_free, output.tail())


def cause(death: Death) -> str:
    """Return the cause of a death, as `machine.exit_cause` words it."""
    if death.exit_code is None:
        return f"it closed its pipe but did not end within {JOIN_S:g} s"
    return exit_cause(death.exit_code, oom_killed=death.oom_killed)


def free_memory(death: Death) -> str:
    """Return what was free when a death was noticed: `12.3 GB of memory were free`; empty where nothing is known."""
    known = {"memory": death.free_bytes, "the GPU's memory": death.gpu_free_bytes}
    parts = [f"{free / 1e9:.1f} GB of {name}" for name, free in known.items() if free is not None]
    return f"{' and '.join(parts)} were free" if parts else ""


def account(death: Death, doing: str, *, times: int = 1) -> str:
    """Return the whole message: cause, task and free memory in its first line, then the last lines of stderr.

    Args:
        doing: the task in words, as `queue.terms.in_words` gives it.
        times: how often workers have died on it.
    """
    died = f"the worker process died {times} times (last: " if times > 1 else "a worker process died ("
    first = "; ".join(filter(None, (f"{died}{cause(death)}) while {doing}", free_memory(death))))
    quoted = "\n".join(f"    {line}" for line in death.stderr.splitlines())
    return f"{first}{_QUOTES}{quoted}" if quoted else f"{first}; it wrote nothing to stderr"


def unquoted(told: str) -> str:
    """Return what `account` gave without the lines of stderr, for a terminal that has shown them already."""
    first, quotes, _ = told.partition(_QUOTES)
    return f"{first}; its stderr is shown above" if quotes else first


def way_out(death: Death) -> str:
    """Return what a person can do about a death that came back at every attempt."""
    code, last = death.exit_code, death.stderr.rstrip().rpartition("\n")[2]
    if death.oom_killed or code == 0xC0000017 or (code == 1 and _MEMORY_ERROR.match(last)):
        return f"use fewer workers (--workers), or give this machine or container more memory; {RESUME}"
    if code in WINDOWS_CODES or (code is not None and code < 0 and signal_name(-code) in NATIVE):
        return (
            "a native library failed: `autodistill env` shows the versions, another version of torch may not fail; "
            f"{RESUME}"
        )
    if code is not None and code < 0:
        uncounted = "no counter of the kernel says that memory ran out: " if code == -KILL else ""
        return (
            f"{uncounted}look for what kills processes here, such as the limits of a batch system or container "
            f"(dmesg and journalctl can name it); {RESUME}"
        )
    return (
        "autodistill did not foresee this error: please report the lines above with the output of `autodistill env`; "
        f"{RESUME}"
    )

"""Why a worker process died: what its exit status, the kernel's counters and its stderr tell, in words."""

import contextlib
import signal
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import torch

from autodistill.machine import free_memory_bytes, oom_kills
from autodistill.workers.output import WorkerOutput

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
"""SIGKILL, a name that Windows lacks."""
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


def noticed(process: BaseProcess, output: WorkerOutput, *, oom_kills_before: int, device: str) -> Death:
    """Wait for the end of a process whose pipe is closed, and look at the machine.

    Args:
        process: ended with SIGKILL where it does not end by itself.
        output: its stderr, which is closed.
        oom_kills_before: value of `oom_kills` when the process was started.
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
    killed = code == -KILL and oom_kills() > oom_kills_before
    death = Death(code, killed, free_memory_bytes(), gpu_free, output.tail())
    output.close()
    return death


def cause(death: Death) -> str:
    """Return the cause of a death: `signal 6, SIGABRT`, `exit code 3`.

    Memory is named only where the exit status or the kernel's counters do.
    """
    code = death.exit_code
    if code is None:
        return f"it closed its pipe but did not end within {JOIN_S:g} s"
    if code >= 0:
        return f"exit code {code:#x}, {WINDOWS_CODES[code]}" if code in WINDOWS_CODES else f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "SIGKILL" if code == -KILL else "no name"
    said = f"signal {-code}, {name}"
    if code == -KILL:
        return f"{said}: {'out of memory, by the count of the kernel' if death.oom_killed else 'killed from outside'}"
    return f"{said}: ended from outside" if code == -signal.SIGTERM else said


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
    return f"{first}; its stderr ends with:\n{quoted}" if quoted else f"{first}; it wrote nothing to stderr"


def way_out(death: Death) -> str:
    """Return what a person can do about a death that came back at every attempt."""
    code = death.exit_code
    if death.oom_killed or code == 0xC0000017:
        return f"use fewer workers (--workers), or give this machine or container more memory; {RESUME}"
    if code == -KILL:
        return (
            "no counter of the kernel says that memory ran out: look for what kills processes here, such as the "
            f"limits of a batch system or container (dmesg and journalctl can name it); {RESUME}"
        )
    if code is not None and (code < 0 or code in WINDOWS_CODES):
        return (
            "a native library failed: `autodistill env` shows the versions, another version of torch may not fail; "
            f"{RESUME}"
        )
    return (
        "autodistill did not foresee this error: please report the lines above with the output of `autodistill env`; "
        f"{RESUME}"
    )

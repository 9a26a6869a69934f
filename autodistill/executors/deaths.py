"""The stderr of worker processes, and the causes of their deaths.

Native libraries write their last message to stderr (glibc: `corrupted size vs. prev_size`), and so does `faulthandler`.
Each worker's stderr is a file, not a pipe: a worker never waits for a reader, and a file can replace descriptor 2 on
every system. The cause of a death follows from the exit status, the kernel's counters and stderr.
"""

import codecs
import contextlib
import faulthandler
import io
import os
import re
import sys
import tempfile
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import BinaryIO, NamedTuple

from autodistill.machine import KILL, WINDOWS_CODES, exit_cause, free_memory_bytes, oom_kills, signal_name

MOST_LINES, LONGEST_LINE = 20, 200
"""Lines of stderr that an error quotes, and characters of a quoted line, at most."""
TAIL_BYTES = 2**16
"""Bytes at the end of stderr that are searched for lines to quote."""
NATIVE_LINES = 8
"""Quoted lines before Python's own report of a fatal signal, at most; part of `MOST_LINES`."""
FATAL = "Fatal Python error:"
"""Start of the report of `faulthandler`."""
NATIVE = ("SIGABRT", "SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE")
"""Signals that a process raises itself when its native code fails."""
_MEMORY_ERROR = re.compile(r"(\w+\.)*\w*MemoryError(:|$)")
"""Last line of a traceback: `MemoryError`, or NumPy's subclass with its module."""
JOIN_S = 5.0
"""A process that closed its pipe and does not end within this time counts as hung."""


class WorkerOutput:
    """Stderr of a worker process. If no file can be created, the worker writes to the stderr of this process."""

    def __init__(self) -> None:
        self.path = ""
        self._file: BinaryIO | None = None
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        with contextlib.suppress(OSError):
            descriptor, self.path = tempfile.mkstemp(prefix="autodistill-worker-", suffix=".log")
            self._file = os.fdopen(descriptor, "rb")

    def pass_on(self) -> None:
        """Copy new text to the stderr of this process, with control characters escaped."""
        if self._file is not None:
            _show(self._decoder.decode(self._file.read()))

    def tail(self) -> str:
        """Return the last lines, as `last_lines` selects them."""
        if self._file is None:
            return ""
        position = self._file.tell()
        self._file.seek(max(0, self._file.seek(0, os.SEEK_END) - TAIL_BYTES))
        text = self._file.read().decode(errors="replace")
        self._file.seek(position)
        return last_lines(text)

    def close(self, *, quoted: str = "") -> None:
        """Copy the remaining text to the stderr of this process and remove the file. Idempotent.

        Lines of `quoted`, as returned by `tail`, are not copied, because an error shows them.
        """
        if self._file is None:
            return
        rest, known = self._decoder.decode(self._file.read(), final=True), set(quoted.splitlines())
        _show("".join(line for line in rest.splitlines(keepends=True) if _quotable(line) not in known))
        self._file.close()
        self._file = None
        with contextlib.suppress(OSError):
            os.unlink(self.path)


def redirect_stderr(path: str) -> None:
    """Redirect the stderr of this process, a worker, to an existing file; enable Python's reports of fatal signals.

    If `path` is empty, only the reports are enabled.
    """
    with contextlib.suppress(OSError):
        if path:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
            os.dup2(descriptor, 2)
            os.close(descriptor)
            if os.name != "nt":  # the reader has the file open; nothing remains if both processes are killed
                Path(path).unlink()
    faulthandler.enable(file=2, all_threads=False)


def last_lines(text: str) -> str:
    """Return the most informative lines of a dead process's stderr: at most `MOST_LINES`, control characters escaped.

    The message of a native library precedes Python's report of a fatal signal, so both parts are kept.
    """
    lines = [_quotable(line) for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("Extension modules:")]
    fatal = max((number for number, line in enumerate(lines) if line.startswith(FATAL)), default=None)
    if fatal is None:
        return "\n".join(lines[-MOST_LINES:])
    found = lines[max(0, fatal - NATIVE_LINES) :]
    return "\n".join(found if len(found) <= MOST_LINES else [*found[: MOST_LINES - 1], "  ..."])


def _show(text: str) -> None:
    if text:
        with contextlib.suppress(OSError):
            sys.stderr.write("\n".join(map(harmless, text.split("\n"))))
            sys.stderr.flush()


def _quotable(line: str) -> str:
    return harmless(line.rstrip("\r\n"))[:LONGEST_LINE].rstrip()


def harmless(line: str) -> str:
    """Escape control characters, which a terminal would obey."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line.expandtabs(4))


class Death(NamedTuple):
    """How a worker process ended, and the state of the machine when this was noticed."""

    exit_code: int | None
    """Exit code of `multiprocessing`, negative for a signal; None: the process did not end."""
    oom_killed: bool = False
    """Whether the kernel counted a kill for lack of memory that explains this death."""
    free_bytes: int | None = None
    """Free memory of the machine or its container; None if the system does not report it."""
    stderr: str = ""
    """Last lines of stderr."""


def noticed(process: BaseProcess, output: WorkerOutput, *, kills: int) -> Death:
    """Wait for the end of a process whose pipe is closed, and collect the facts about its death.

    A process that does not end within `JOIN_S` is killed. `kills` is the kernel's count when its task began.
    """
    process.join(JOIN_S)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    return Death(code, code == -KILL and oom_kills() > kills, free_memory_bytes(), output.tail())


def account(death: Death, doing: str, *, times: int = 1, shown: bool = False) -> str:
    """Return the message about a death: cause, task and free memory on the first line, then the last lines of stderr.

    Args:
        doing: The task in the words of `base.describe`.
        times: Number of workers that have died on this task.
        shown: Whether the terminal has shown stderr, which is then not quoted.
    """
    died = f"the worker process died {times} times (last: " if times > 1 else "a worker process died ("
    cause = f"it closed its pipe but did not end within {JOIN_S:g} s"
    if death.exit_code is not None:
        cause = exit_cause(death.exit_code, oom_killed=death.oom_killed)
    first = f"{died}{cause}) while {doing}"
    if death.free_bytes is not None:
        first = f"{first}; {death.free_bytes / 1e9:.1f} GB of memory were free"
    if not death.stderr:
        return f"{first}; it wrote nothing to stderr"
    if shown:
        return f"{first}; its stderr is shown above"
    return "\n    ".join([f"{first}; its stderr ends with:", *death.stderr.splitlines()])


def way_out(death: Death) -> str:
    """Return what the user can do about a death that recurred at every attempt."""
    code, last = death.exit_code, death.stderr.rstrip().rpartition("\n")[2]
    if death.oom_killed or code == 0xC0000017 or (code == 1 and _MEMORY_ERROR.match(last)):
        way = "use fewer workers (--workers), or give this machine or container more memory"
    elif code in WINDOWS_CODES or (code is not None and code < 0 and signal_name(-code) in NATIVE):
        way = "a native library failed: `autodistill env` shows the versions, another version of torch may not fail"
    elif code is not None and code < 0:
        uncounted = "no counter of the kernel says that memory ran out: " if code == -KILL else ""
        way = (
            f"{uncounted}look for what kills processes here, such as the limits of a batch system or container "
            "(dmesg and journalctl can name it)"
        )
    else:
        way = (
            "autodistill did not expect this error: please report the lines above with the output of `autodistill env`"
        )
    return f"{way}; every finished run is kept: the same command goes on"

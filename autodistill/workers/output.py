"""The stderr of worker processes: shown as it comes, and quoted where a worker dies.

Native libraries write their last message there (glibc: `corrupted size vs. prev_size`), and so does `faulthandler`. A
file, not a pipe: a worker never waits for its reader, and a file can take the place of descriptor 2 on every system.
"""

import codecs
import contextlib
import faulthandler
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

MOST_LINES = 20
"""Lines of stderr that an error quotes."""
LONGEST_LINE = 200
"""Characters of each."""
TAIL_BYTES = 2**16
"""What is searched for those lines."""
NATIVE_LINES = 8
"""Of `MOST_LINES`, at most: what was written before Python's own report of a fatal signal."""
FATAL = "Fatal Python error:"
"""Begins the report of `faulthandler`."""


class WorkerOutput:
    """What one worker process writes to stderr. Where no file can be made, the worker keeps this process's stderr."""

    def __init__(self) -> None:
        self.path = ""
        self._file: BinaryIO | None = None
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        with contextlib.suppress(OSError):
            descriptor, self.path = tempfile.mkstemp(prefix="autodistill-worker-", suffix=".log")
            self._file = os.fdopen(descriptor, "rb")

    def pass_on(self) -> None:
        """Write to this process's stderr what is new, with control characters spelt out."""
        if self._file is not None:
            _show(self._decoder.decode(self._file.read()))

    def tail(self) -> str:
        """Return the last lines, as `last_lines` picks them."""
        if self._file is None:
            return ""
        here = self._file.tell()
        self._file.seek(max(0, self._file.seek(0, os.SEEK_END) - TAIL_BYTES))
        text = self._file.read().decode(errors="replace")
        self._file.seek(here)
        return last_lines(text)

    def close(self, *, quoted: str = "") -> None:
        """Pass on what is left, and remove the file. Closing again does nothing.

        Args:
            quoted: lines, as `tail` gives them, that an error shows: they are not passed on.
        """
        if self._file is None:
            return
        left = self._decoder.decode(self._file.read(), final=True)
        known = set(quoted.splitlines())
        _show("".join(line for line in left.splitlines(keepends=True) if _quotable(line) not in known))
        self._file.close()
        self._file = None
        with contextlib.suppress(OSError):
            os.unlink(self.path)


def redirect_stderr(path: str) -> None:
    """Make a file the stderr of this process, and have Python report fatal signals there; called by a worker.

    Args:
        path: an existing file; empty: only the reports are switched on.
    """
    with contextlib.suppress(OSError):
        if path:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
            os.dup2(descriptor, 2)
            os.close(descriptor)
            if os.name != "nt":  # the reader has it open: nothing is left behind if both processes are killed
                Path(path).unlink()
    faulthandler.enable(file=2, all_threads=False)


def last_lines(text: str) -> str:
    """Return the lines of a dead process's stderr that say most: at most `MOST_LINES`, without control characters.

    Before Python's report of a fatal signal lies the message of the native library, so both parts are kept.
    """
    lines = [_quotable(line) for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("Extension modules:")]
    fatal = max((number for number, line in enumerate(lines) if line.startswith(FATAL)), default=None)
    if fatal is None:
        return "\n".join(lines[-MOST_LINES:])
    native, report = lines[max(0, fatal - NATIVE_LINES) : fatal], lines[fatal:]
    room = MOST_LINES - len(native)
    return "\n".join([*native, *report[:room]] if len(report) <= room else [*native, *report[: room - 1], "  ..."])


def _show(text: str) -> None:
    shown = "\n".join(map(harmless, text.split("\n")))
    if shown:
        with contextlib.suppress(OSError):
            sys.stderr.write(shown)
            sys.stderr.flush()


def _quotable(line: str) -> str:
    return harmless(line.rstrip("\r\n"))[:LONGEST_LINE].rstrip()


def harmless(line: str) -> str:
    """Spell out control characters: a terminal would obey them."""
    return "".join(it if it.isprintable() else repr(it)[1:-1] for it in line.expandtabs(4))

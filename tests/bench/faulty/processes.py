"""Processes of a test: forked, as each start would take seconds to import torch again; ended by their number."""

import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from autodistill import __main__ as entry
from autodistill.errors import AutodistillError

_CODES: dict[int, int] = {}


def forked(role: Callable[[], int], place: Path, name: str) -> int:
    """Run a role in a process of its own, in a folder, its words in `NAME.log` there."""
    place.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        _CODES.pop(pid, None)  # numbers come again
        return pid
    code = 70
    try:
        os.setpgid(0, 0)
        os.chdir(place)
        with (place / f"{name}.log").open("a", buffering=1) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            code = role()
    except AutodistillError as error:
        print(f"{error.message} | {error.hint}")
        code = error.exit_code
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int | None:
    """The exit code of a process that was forked here; None while it runs."""
    if pid not in _CODES:
        found, status = os.waitpid(pid, os.WNOHANG)
        if not found:
            return None
        _CODES[pid] = os.waitstatus_to_exitcode(status)
    return _CODES[pid]


def end_of(pid: int, *, limit_s: float) -> int:
    """Wait for a process's exit code; one that takes too long is killed."""
    until = time.monotonic() + limit_s
    while (code := ended(pid)) is None:
        if time.monotonic() > until:
            kill(pid)
            return 124
        time.sleep(0.02)
    return code


def kill(pid: int) -> None:
    if ended(pid) is None:
        os.kill(pid, signal.SIGKILL)
        _CODES[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def apart(work: Callable[[], Sequence[str]], place: Path, name: str) -> list[str]:
    """What a function finds that changes its process for good (its rights, its file systems)."""
    answer = place / f"{name}.json"

    def role() -> int:
        answer.write_text(json.dumps(list(work())))
        return 0

    code = end_of(forked(role, place, name), limit_s=900)
    if not answer.exists():
        return [f"{name}: ended with {code}: {(place / f'{name}.log').read_text()[-2000:]}"]
    return [str(line) for line in json.loads(answer.read_text())]


class Command(NamedTuple):
    """A command line at work, with all that it says."""

    pid: int
    log: Path

    @property
    def said(self) -> str:
        """Its words; a terminal's line ends are none of them."""
        return " ".join(self.log.read_text(errors="replace").split())

    def end(self, *, limit_s: float = 300) -> int:
        return end_of(self.pid, limit_s=limit_s)


def command(
    place: Path, name: str, arguments: Sequence[str], *, before: Callable[[], object] = lambda: None
) -> Command:
    """`autodistill ARGUMENTS` in a folder; `before` changes its process first."""

    def role() -> int:
        before()
        sys.argv = ["autodistill", *arguments]
        entry.main()
        return 0

    log = place / f"{name}.log"
    log.unlink(missing_ok=True)
    return Command(forked(role, place, name), log)

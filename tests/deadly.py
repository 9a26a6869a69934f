"""A worker that dies at its first task: what `Pool` can send to a process in place of `work`."""

import os
import signal
from collections.abc import Callable
from typing import NoReturn

from autodistill.workers import Workplace
from autodistill.workers.pool import work


def _abort() -> None:
    os.write(2, b"\x1b[31mcorrupted size vs. prev_size\n")
    os.abort()


def _memory() -> NoReturn:
    raise MemoryError("no room for the gradients")


WAYS: dict[str, Callable[[], object]] = {
    "abort": _abort,
    "segmentation fault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
    "MemoryError": _memory,
}


def dying(way: str, *given: object) -> None:
    """Be a worker, of `work`'s arguments, that dies in a way of `WAYS`."""
    Workplace.do = lambda self, task: WAYS[way]()  # type: ignore[assignment, method-assign, return-value]
    work(*given)  # type: ignore[arg-type]

"""Processes on stand-by: they import the modules of workers while a command still checks its input."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import NamedTuple

from autodistill.workers.output import WorkerOutput, redirect_stderr

ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(2**28)}
"""glibc: keep freed memory instead of giving it back after every step; 10-15 % of a small student's step on a CPU.
Read when a process starts, so it must be in the environment by then. Other systems ignore it."""


class Hand(NamedTuple):
    """A process that waits for a function and its arguments on a pipe."""

    process: BaseProcess
    pipe: Connection
    output: WorkerOutput
    """Its stderr."""


class StandBy:
    """Processes that were started early. A context manager: leaving it ends the processes that nobody took.

    Args:
        size: how many to start.
    """

    def __init__(self, size: int = 0) -> None:
        self._waiting = deque(_started() for _ in range(size))

    def __enter__(self) -> "StandBy":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hand in self._waiting:
            hand.pipe.close()
            hand.process.terminate()
        for hand in self._waiting:
            hand.process.join()
            hand.output.close()

    def take(self) -> Hand:
        """Return a waiting process, or a new one where none is left."""
        return self._waiting.popleft() if self._waiting else _started()


def _started() -> Hand:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    output = WorkerOutput()
    process = context.Process(target=stand_by, args=(theirs, os.getpid(), output.path), daemon=True)
    with in_environment(ALLOCATOR), uninterrupted():
        process.start()
    theirs.close()
    return Hand(process, ours, output)


def stand_by(pipe: Connection, parent: int, stderr: str) -> None:
    """Run the function that the pipe brings. The main function of a process.

    The import of this module, which comes first, imports nearly all other modules.

    Args:
        pipe: brings a function and its arguments.
        parent: number of the parent process.
        stderr: file for this process's stderr; empty: the parent's.
    """
    redirect_stderr(stderr)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=follow, args=(parent,), daemon=True).start()
    importlib.import_module("torchvision")  # a second; whoever builds a network needs it
    try:
        work, told = pipe.recv()
    except (EOFError, OSError):
        return
    work(pipe, *told)


def follow(parent: int) -> None:
    """End this process when its parent has ended: an orphan would write into a study that another command resumes.

    On Windows `os.getppid` never changes; elsewhere a process that inherited the parent's pipe could keep it open.
    """
    started_by = multiprocessing.parent_process()
    while os.getppid() == parent and (started_by is None or started_by.is_alive()):
        time.sleep(0.2)
    os._exit(1)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Start processes in here that Ctrl-C does not reach: their parent ends them.

    Windows cannot block signals: a worker ignores Ctrl-C there from its first line on.
    """
    if not hasattr(signal, "pthread_sigmask"):  # such systems have no resource tracker either
        yield
        return
    # The tracker unblocks the signal when it is started: start it first.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def in_environment(variables: Mapping[str, str]) -> Iterator[None]:
    kept = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

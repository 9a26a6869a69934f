"""Processes on stand-by: started while a command still checks its input, they import what they will need."""

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

ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(2**28)}
"""glibc: keep freed memory instead of giving it back after every step; 10-15 % of a small student's step on a CPU.
Read when a process starts, so it must be in the environment by then. Other systems ignore it."""


class Hand(NamedTuple):
    """A process that waits to be told what to do: a function and its arguments, over the pipe."""

    process: BaseProcess
    pipe: Connection


class StandBy:
    """Processes that were started early. A context manager: leaving it ends those that nobody took.

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

    def take(self) -> Hand:
        """One that waits; a new one where none is left."""
        return self._waiting.popleft() if self._waiting else _started()


def _started() -> Hand:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=stand_by, args=(theirs, os.getpid()), daemon=True)
    with in_environment(ALLOCATOR), uninterrupted():
        process.start()
    theirs.close()
    return Hand(process, ours)


def stand_by(pipe: Connection, parent: int) -> None:
    """A process: do what comes over the pipe first. That this module could be imported has imported nearly all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=follow, args=(parent,), daemon=True).start()
    importlib.import_module("torchvision")  # a second; whoever builds a network needs it
    try:
        work, told = pipe.recv()
    except (EOFError, OSError):
        return
    work(pipe, *told)


def follow(parent: int) -> None:
    """End with the parent, however it ended: an orphan would write into a study that another one resumes."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; a worker started in here never sees it, its parent ends it."""
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

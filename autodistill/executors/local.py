"""Run tasks on this machine: in this process, or in worker processes.

Worker processes are started once, compute on one thread each on a CPU, and are replaced when they die.
"""

import contextlib
import ctypes
import importlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from autodistill import processes
from autodistill.data import Data, to_worker
from autodistill.errors import StudyError
from autodistill.executors.base import (
    Done,
    Executor,
    OnEvent,
    Result,
    Setup,
    Slot,
    Stopped,
    Task,
    TaskQueue,
    TrainTask,
    describe,
    longest_first,
)
from autodistill.executors.deaths import WorkerOutput, account, noticed, redirect_stderr, way_out
from autodistill.executors.worker import Work, WorkerContext, end_of, perform
from autodistill.machine import oom_kills

MALLOPT = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 2**28)}
"""Numbers and values of glibc's options that keep freed memory instead of returning it after every step: 10-15 % of a
small student's step on a CPU."""
SHOW_S = 1.0
"""What workers write to stderr is shown at least this often."""
READY = "ready"
"""Sent by a worker when it has imported its modules and received its setup and its data."""
STOP = "stop"
"""Sent to a worker to make it stop at the end of the epoch."""


class SerialExecutor(Executor):
    """An `Executor` without processes, for notebooks, tests and debugging: one task after another in this process.

    Args:
        setup: the study.
        data: the study's data where they are loaded already.
        stop: makes `run` end at the end of the epoch.
        work: does a task.
    """

    workers = 1

    def __init__(
        self, setup: Setup, *, data: Data | None = None, stop: threading.Event | None = None, work: Work = perform
    ) -> None:
        self._stop, self._work = stop or threading.Event(), work
        self._context = WorkerContext(setup, data=data, stopping=self._stop.is_set)

    def run(self, tasks: Sequence[Task], on_event: OnEvent, *, meanwhile: Sequence[Task] = ()) -> list[Result]:
        """See `Executor.run`; nobody is idle, so `meanwhile` is not run."""
        self._context.on_event = on_event
        results: dict[int, Result] = {}
        for place in longest_first(tasks):
            if self._stop.is_set():
                raise Stopped
            results[place] = self._work(tasks[place], self._context)
        return [results[place] for place in range(len(tasks))]

    def __exit__(self, *_: object) -> None:
        return None


@dataclass(kw_only=True)
class Worker(Slot):
    """A process that waits for a setup and tasks on a pipe."""

    process: BaseProcess
    pipe: Connection
    output: WorkerOutput
    """Its stderr."""
    number: int
    """Among the workers of an executor."""
    started: bool = False
    """Whether it has said that it is ready."""
    kills: int = 0
    """Count of the kernel's kills for lack of memory that cannot explain this worker's death: kills before its task
    began, and kills that explain the deaths of other workers."""


class LocalExecutor(Executor):
    """An `Executor` of processes on this machine.

    Args:
        workers: number of processes.
        setup: the study.
        data: the study's data where they are loaded already. Images in a file are mapped, others are sent.
        stop: as for `SerialExecutor`. Signal handlers may set it.
        work: does a task in a worker; an importable function.
    """

    def __init__(
        self,
        workers: int,
        setup: Setup,
        *,
        data: Data | None = None,
        stop: threading.Event | None = None,
        work: Work = perform,
    ) -> None:
        self.workers, self._setup, self._work = workers, setup, work
        self._data = pickle.dumps(data and to_worker(data))
        self._workers = [self._hired(number) for number in range(workers)]
        self._deaths: list[Task] = []
        self._stop = stop or threading.Event()

    def ready(self) -> None:
        """See `Executor.ready`; a worker that has died is noticed by `run`."""
        while not self._stop.is_set() and (starting := [it for it in self._workers if not it.started]):
            answers = wait([worker.pipe for worker in starting], SHOW_S)
            for worker in starting:
                if worker.pipe in answers:
                    worker.started = True
                    with contextlib.suppress(EOFError, OSError):
                        worker.pipe.recv()

    def run(self, tasks: Sequence[Task], on_event: OnEvent, *, meanwhile: Sequence[Task] = ()) -> list[Result]:
        """See `Executor.run`."""
        queue, shown = TaskQueue(tasks, meanwhile, self._workers, self._deaths), time.monotonic()
        while not queue.is_complete:
            self._feed(queue)
            busy = {worker.pipe: worker for worker in self._workers if worker.task is not None}
            if not busy:
                raise Stopped
            ready = wait(list(busy), SHOW_S)
            for pipe in ready:
                self._receive(busy[pipe], queue, on_event)  # type: ignore[index]
            if not ready or time.monotonic() - shown >= SHOW_S:
                for worker in self._workers:
                    worker.output.pass_on()
                shown = time.monotonic()
        return queue.in_order()

    def __exit__(self, *_: object) -> None:
        _end(self._workers)

    def _hired(self, number: int) -> Worker:
        """Start a worker, and send what it needs before its first task."""
        worker, device = _started(number), device_of(self._setup.device, number)
        # A process that has died is noticed when its first answer is awaited.
        with contextlib.suppress(OSError):
            worker.pipe.send((self._setup.model_copy(update={"device": device}), self._work))
            worker.pipe.send_bytes(self._data)
        return worker

    def _feed(self, queue: TaskQueue) -> None:
        """Give every free worker a task, as long as there are any; on a stop, tell the others to stop."""
        stops = self._stop.is_set() and not queue.stopped
        queue.stopped |= stops
        for worker in self._workers:
            message = queue.assign(worker) if worker.task is None else STOP if stops else None
            if message is not None:
                worker.kills = oom_kills()
                with contextlib.suppress(OSError):
                    worker.pipe.send(message)

    def _receive(self, worker: Worker, queue: TaskQueue, on_event: OnEvent) -> None:
        """Take in a message, or the death of a worker."""
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):  # OSError: it died in the middle of a message
            self._replace(worker, queue, on_event)
            return
        if message == READY:  # the worker may be dying in its first task: an error quotes its stderr
            worker.started = True
            return
        worker.output.pass_on()
        if isinstance(message, Done):
            queue.end(worker, message)
        else:
            on_event(message)

    def _replace(self, worker: Worker, queue: TaskQueue, on_event: OnEvent) -> None:
        """Start another worker in place of a dead worker; its task continues there from its last checkpoint.

        The stderr of the dead worker is shown once: as it came, or in the error that ends the study.
        """
        task = worker.task
        assert task is not None
        worker.pipe.close()
        death = noticed(worker.process, worker.output, kills=worker.kills)
        if death.oom_killed:  # a counted kill explains one death
            count = oom_kills()
            for other in self._workers:
                other.kills = min(other.kills + 1, count)
        self._workers[worker.number] = self._hired(worker.number)
        self._deaths.append(task)
        ends_study = queue.gives_up(worker) and not isinstance(task, TrainTask)
        worker.output.close(quoted=death.stderr if ends_study else "")
        then = "another worker continues with it" if worker.place is not None else "it is done again when it is needed"
        note = f"{account(death, describe(task), shown=True)}\n    {then}"
        error = account(death, describe(task), times=self._deaths.count(task))
        queue.lose(worker, note, StudyError(error, way_out(death)), on_event)


def device_of(device: str, number: int) -> str:
    """Return the device of a worker: several GPUs are dealt out in turns where none is named."""
    count = torch.cuda.device_count() if device == "cuda" else 0
    return f"cuda:{number % count}" if count > 1 else device


def _started(number: int) -> Worker:
    ours, theirs = multiprocessing.Pipe()
    output = WorkerOutput()
    process = processes.start(_do_tasks, theirs, output.path)
    theirs.close()
    return Worker(process=process, pipe=ours, output=output, number=number)


def _end(workers: Collection[Worker]) -> None:
    for worker in workers:
        worker.pipe.close()
        worker.process.terminate()
    for worker in workers:
        worker.process.join(5)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()  # ends a worker that counts as dead because its server has died
        worker.output.close()


def _do_tasks(pipe: Connection, stderr: str) -> None:
    """Take a setup, a work function, data and tasks from a pipe until it closes. The main function of a process.

    Without a file `stderr`, the stderr of the parent is used.
    """
    redirect_stderr(stderr)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    keep_freed_memory()
    importlib.import_module("torchvision")  # every network needs it; a spawned process has not imported it yet

    try:
        setup, work = pipe.recv()
        data = pickle.loads(pipe.recv_bytes())
    except (EOFError, OSError):
        return
    # While a task runs, nothing but a request to stop comes through the pipe, or its end.
    context = WorkerContext(setup, data=data, on_event=pipe.send, stopping=pipe.poll)
    with contextlib.suppress(BrokenPipeError):
        pipe.send(READY)
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        if task != STOP:
            with contextlib.suppress(BrokenPipeError):
                pipe.send(end_of(task, context, work))


def _follow_parent() -> None:
    """End this process when its parent has ended: an orphan would write into a study that another command resumes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    ends: list[int] = [parent.sentinel]
    # Other forks of the parent keep the sentinel open. Linux also tells the end of a process by its ID.
    if hasattr(os, "pidfd_open") and parent.pid is not None:
        with contextlib.suppress(OSError):
            try:
                ends.append(os.pidfd_open(parent.pid))
            except ProcessLookupError:
                os._exit(1)
    wait(ends)
    os._exit(1)


def keep_freed_memory() -> bool:
    """Make this process keep freed memory instead of returning it to the system; return whether this is supported."""
    if os.name == "nt":  # no glibc, and `CDLL(None)` fails
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(number, value) for number, value in MALLOPT.values())

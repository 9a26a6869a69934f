"""Run tasks in this process, one after another: for notebooks, tests and debugging."""

import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from autodistill.data import Data
from autodistill.executors.base import OnEvent, Result, Setup, Stopped, Task, longest_first
from autodistill.executors.worker import WorkerContext, perform


class SerialExecutor:
    """An `Executor` without processes.

    Args:
        setup: the study.
        data: the study's data where they are loaded already.
        stop: makes `run` end at the end of the epoch.
        work: does a task.
    """

    workers = 1

    def __init__(
        self,
        setup: Setup,
        *,
        data: Data | None = None,
        stop: threading.Event | None = None,
        work: Callable[[Task, WorkerContext], Result] = perform,
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

    def __enter__(self) -> "SerialExecutor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

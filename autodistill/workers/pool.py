"""A pool of worker processes: spawned once, fed over pipes, replaced when they die."""

import contextlib
import pickle
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType

import torch

from autodistill.data import Data, handed_over
from autodistill.errors import AutodistillError, StudyError
from autodistill.queue.messages import Message, Setup, Task, ViewTask
from autodistill.queue.terms import MOST_DEATHS, Source, given_up, in_words, longest_first
from autodistill.records import Note, RunEnded, RunRequest
from autodistill.store import RunFolder, write_result
from autodistill.workers.deaths import account, noticed, way_out
from autodistill.workers.output import WorkerOutput
from autodistill.workers.standby import Hand, StandBy
from autodistill.workers.tasks import Workplace

SHOW_S = 1.0
"""What workers write to stderr is shown at least this often."""


class _Done:
    """Sent by a worker after the last message of a task."""


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    output: WorkerOutput
    oom_kills: int
    """Kills for want of memory before this worker, and later ones that explain another worker's death."""
    task: Task | None = None


class Pool:
    """Worker processes for one study. A context manager: leaving it ends them.

    Args:
        size: how many.
        data: the study's, where they are loaded already. Workers map images that are kept in a file; others they are
            sent.
        standby: processes that wait to become workers.
    """

    def __init__(self, size: int, setup: Setup, *, data: Data | None = None, standby: StandBy | None = None) -> None:
        self._setup = setup
        self._standby = standby or StandBy()
        self._data = pickle.dumps(data and handed_over(data))
        hands = [self._standby.take() for _ in range(size)]
        self._workers = [self._hired(hand, number) for number, hand in enumerate(hands)]
        self._deaths: dict[str, int] = {}
        self._again: deque[Task] = deque()
        """Tasks whose worker died."""
        self._deadly: set[str] = set()
        """Teachers that killed a worker which computed their logits ahead of need."""

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
            worker.output.close()

    def run(self, tasks: Sequence[Task] | Source) -> Iterator[Message]:
        """Do tasks together, the longest first or as they are given out, and yield their messages as they come.

        Raises:
            AutodistillError: a task met one that is no run's own failure.
            StudyError: workers keep dying on a task that is no run.
        """
        source = tasks if callable(tasks) else longest_first(tasks)
        self._again.clear()
        yield from self._feed(source)
        while any(worker.task is not None for worker in self._workers):
            pipes = {worker.pipe: worker for worker in self._workers if worker.task is not None}
            ready = wait(list(pipes), SHOW_S)
            for worker in self._workers:
                worker.output.pass_on()
            for pipe in ready:
                yield from self._receive(pipes[pipe])  # type: ignore[index]
            if ready:
                yield from self._feed(source)

    def _hired(self, hand: Hand, number: int) -> _Worker:
        setup = self._setup.model_copy(update={"device": device_of(self._setup.device, number)})
        # One that died meanwhile is noticed when its first answer is waited for.
        with contextlib.suppress(OSError):
            hand.pipe.send((work, (setup,)))
            hand.pipe.send_bytes(self._data)
        return _Worker(hand.process, hand.pipe, hand.output, hand.oom_kills)

    def _feed(self, source: Source) -> Iterator[RunEnded]:
        """Give everybody who is free a task, until there is none; yields the answers that are known already."""
        for worker in self._workers:
            while worker.task is None:
                given = self._again.popleft() if self._again else source()
                if given is None:
                    return
                if isinstance(given, RunEnded):
                    yield given
                    continue
                if isinstance(given, ViewTask) and given.name in self._deadly:
                    continue
                worker.task = given
                # A worker that died while idle is noticed when its answer is waited for.
                with contextlib.suppress(OSError):
                    worker.pipe.send(given)

    def _receive(self, worker: _Worker) -> Iterator[Message]:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):  # OSError: it died in the middle of a message
            yield from self._replace(worker)
            return
        if isinstance(message, _Done):
            worker.task = None
        elif isinstance(message, AutodistillError):
            worker.task = None
            raise message
        else:
            yield message

    def _replace(self, worker: _Worker) -> Iterator[Message]:
        """Start another worker in place of a dead one; its task goes on from its last checkpoint."""
        task = worker.task
        assert task is not None
        worker.pipe.close()
        device = device_of(self._setup.device, self._workers.index(worker))
        death = noticed(worker.process, worker.output, oom_kills_before=worker.oom_kills, device=device)
        if death.oom_killed:
            for other in self._workers:
                other.oom_kills += 1
        number = self._workers.index(worker)
        self._workers[number] = self._hired(self._standby.take(), number)
        if isinstance(task, ViewTask):
            self._deadly.add(task.name)
            yield Note(
                text=f"{account(death, in_words(task))}\n    the runs that need them compute them", warning=True
            )
            return
        name = task.run if isinstance(task, RunRequest) else repr(task)
        self._deaths[name] = self._deaths.get(name, 0) + 1
        if self._deaths[name] < MOST_DEATHS:
            self._again.append(task)
            yield Note(text=f"{account(death, in_words(task))}\n    another worker goes on with it", warning=True)
            return
        error = account(death, in_words(task), times=MOST_DEATHS)
        if not isinstance(task, RunRequest):
            raise StudyError(error, way_out(death))
        ended = given_up(task, error)
        # Kept like any other failure: what the search decides next rests on it, and must after a resume.
        write_result(RunFolder(Path(self._setup.runs)), ended)
        yield ended


def device_of(device: str, number: int) -> str:
    """The device of a study's worker: several GPUs are dealt out, where none is named."""
    count = torch.cuda.device_count() if device == "cuda" else 0
    return f"cuda:{number % count}" if count > 1 else device


def work(pipe: Connection, setup: Setup) -> None:
    """A worker process: take tasks from the pipe until it closes."""
    place = Workplace(setup, data=pickle.loads(pipe.recv_bytes()))
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        with contextlib.suppress(BrokenPipeError):
            _answer(place, task, pipe)


def _answer(place: Workplace, task: Task, pipe: Connection) -> None:
    try:
        for message in place.do(task):
            pipe.send(message)
        pipe.send(_Done())
    except AutodistillError as error:
        pipe.send(error)

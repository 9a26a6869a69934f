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
from autodistill.workers.deaths import Death, KillWatch, account, noticed, unquoted, way_out
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
        self._kills = KillWatch()
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
            self._kills.look(worker.process for worker in self._workers)
            for pipe in ready:
                yield from self._receive(pipes[pipe])  # type: ignore[index]
            # After messages: the error that ends a study quotes what a dead worker wrote, which is not shown twice.
            for worker in self._workers:
                worker.output.pass_on()
            if ready:
                yield from self._feed(source)

    def _hired(self, hand: Hand, number: int) -> _Worker:
        setup = self._setup.model_copy(update={"device": device_of(self._setup.device, number)})
        # One that died meanwhile is noticed when its first answer is waited for.
        with contextlib.suppress(OSError):
            hand.pipe.send((work, (setup,)))
            hand.pipe.send_bytes(self._data)
        self._kills.look([hand.process])
        return _Worker(hand.process, hand.pipe, hand.output)

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
        """Start another worker in place of a dead one; its task goes on from its last checkpoint.

        What the dead one wrote to stderr is shown once: as it came, or in the error that ends the study.
        """
        task = worker.task
        assert task is not None
        worker.pipe.close()
        number = self._workers.index(worker)
        device = device_of(self._setup.device, number)
        death = noticed(worker.process, worker.output, self._kills, device=device)
        self._workers[number] = self._hired(self._standby.take(), number)
        if isinstance(task, ViewTask):
            self._deadly.add(task.name)
            yield _warning(worker, death, task, then="the runs that need them compute them")
            return
        name = task.run if isinstance(task, RunRequest) else repr(task)
        self._deaths[name] = self._deaths.get(name, 0) + 1
        if self._deaths[name] < MOST_DEATHS:
            self._again.append(task)
            yield _warning(worker, death, task, then="another worker goes on with it")
            return
        error = account(death, in_words(task), times=MOST_DEATHS)
        if not isinstance(task, RunRequest):
            worker.output.close(quoted=death.stderr)
            raise StudyError(error, way_out(death))
        worker.output.close()
        ended = given_up(task, error)
        # Kept like any other failure: what the search decides next rests on it, and must after a resume.
        write_result(RunFolder(Path(self._setup.runs)), ended)
        yield ended


def _warning(worker: _Worker, death: Death, task: Task, *, then: str) -> Note:
    """Show the rest of a dead worker's stderr, and return the note to show after that."""
    worker.output.close()
    return Note(text=f"{unquoted(account(death, in_words(task)))}\n    {then}", warning=True)


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

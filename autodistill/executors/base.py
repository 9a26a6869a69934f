"""Tasks, the interface of executors, and the queue that executors with several workers share."""

import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from autodistill.config import Space
from autodistill.errors import AutodistillError, StudyError
from autodistill.records import (
    AgreementRecord,
    Event,
    ForeignRecord,
    KeptResult,
    Mode,
    Note,
    ProfileRecord,
    Record,
    RunResult,
    RunSpec,
    TeacherRecord,
    TrialParams,
    run_ended,
)

MOST_DEATHS = 3
"""A task whose worker died this often is given up."""


class Setup(Record):
    """What every worker of a study needs to know; plain data, so that it can travel."""

    space: Space
    student: str
    foreign: ForeignRecord | None = None
    """Facts about a student from elsewhere."""
    teachers: dict[str, str]
    """Name to URI."""
    fingerprints: dict[str, str]
    """Name to fingerprint of the given teachers."""
    data: str
    """Fingerprint of the data."""
    views: int
    """Size of the pool of views that epochs cycle through."""
    own_methods: dict[str, str] = {}
    """Hashes of the code of the user's methods, by their names."""
    device: str
    folder: str
    """The study's folder."""
    cache: str
    """The user's cache folder."""
    sources: dict[str, str] = {}
    """Fingerprints of the pretrained networks of adapted teachers, and what decides the weights of the teachers that
    assistants learn from, by URI."""
    offline: bool = False
    mode: Mode = "eager"
    """How training steps are executed."""
    memory_share: float = 1.0
    """Part of the GPU's memory that a worker may use."""
    with_validation: bool = False
    """Whether students are trained on the training and the validation split together."""


class TrainTask(Record):
    """Train a student; returns a `KeptResult`."""

    spec: RunSpec
    key: str
    """Under which result, weights and checkpoint are kept."""


class TrainTeacherTask(Record):
    """Train a teacher on the study's data, unless it is kept already; returns None."""

    uri: str
    after: tuple[str, ...] = ()
    """URIs of teachers that are trained first: an assistant learns from another teacher, and the training of a ladder
    teacher continues that of another."""


class CheckTask(Record):
    """Load and check a teacher; returns its `TeacherRecord`, or a `Refusal`."""

    name: str
    optional: bool = False
    """Whether a teacher that does not pass is left out, so that the task returns a `Refusal` instead of an error. A
    teacher that is read wrongly is an error in any case."""


class ProfileTask(Record):
    """Profile a checked teacher from its cached logits; returns a `Profiled`, or None after a warning."""

    name: str


class LogitsTask(Record):
    """Compute a teacher's logits on a view before a run needs them; returns the number of views computed."""

    name: str
    view: int


class AgreementTask(Record):
    """Compare profiled teachers; returns an `AgreementRecord`, or None where there is nothing to compare."""

    names: tuple[str, ...]


class MeasureStudentTask(Record):
    """Measure the parts of the student's runs; returns a `StudentTimes`, or None after a warning."""

    params: TrialParams
    """A configuration with a teacher; its logits are random."""
    seconds: float
    """About how long each part is measured."""


class MeasureTeacherTask(Record):
    """Measure a teacher; returns a `TeacherTimes`, or None after a warning."""

    name: str
    untrained: bool = False
    """Whether the teacher is still to be trained or adapted by autodistill."""
    seconds: float
    """About how long each part is measured."""


class Refusal(Record):
    """Why a teacher does not pass its check, and what the user can do."""

    message: str
    hint: str


class Profiled(Record):
    """A teacher's profile."""

    profile: ProfileRecord
    views_computed: int
    """How often the teacher was run over a view; 0 where its logits were in the cache."""


class Line(Record):
    """Seconds of something that is repeated, as a function of the number of times."""

    once_s: float = 0.0
    each_s: float = 0.0

    def seconds(self, count: int) -> float:
        """Return the seconds of `count` times."""
        return self.once_s + count * self.each_s


class StudentTimes(Record):
    """Seconds of the parts of a student's runs on one worker."""

    training: Line
    """An epoch by its number of steps, with soft targets, without evaluation."""
    targets: Line
    """The part of it that a teacher's soft targets take."""
    evaluation_s: float
    """Per image."""
    build_s: float
    """Per run."""
    fit_s: float
    """Per run and training image: what the method computes once from the teacher's logits."""
    profile_s: float
    """Per profile of a teacher and training image, without the teacher's logits."""


class TeacherTimes(Record):
    """Seconds of a teacher on one worker."""

    training: Line = Line()
    """An epoch of its own training by its number of steps; zero where it is trained."""
    view_s: float
    """Its logits, per image."""


Task = (
    TrainTask
    | TrainTeacherTask
    | CheckTask
    | ProfileTask
    | LogitsTask
    | AgreementTask
    | MeasureStudentTask
    | MeasureTeacherTask
)
Result = KeptResult | TeacherRecord | Refusal | Profiled | AgreementRecord | StudentTimes | TeacherTimes | int | None
OnEvent = Callable[[Event], None]

STARTED = "started"
"""Sent by a worker when it begins a task."""


class Done(NamedTuple):
    """Sent by a worker when a task has ended."""

    result: Result = None
    error: AutodistillError | None = None
    stopped: bool = False


class Stopped(Exception):
    """All tasks were stopped on request, after each run had written a checkpoint."""


@runtime_checkable
class Executor(AbstractContextManager["Executor"], Protocol):
    """Runs tasks on workers. A context manager: leaving the context ends the workers."""

    workers: int

    def ready(self) -> None:
        """Wait until the workers have started, where that is known, so that a time from then on is one of work."""
        return

    def run(self, tasks: Sequence[Task], on_event: OnEvent, *, meanwhile: Sequence[Task] = ()) -> list[Result]:
        """Run tasks, the longest first, and return their results in the order of the tasks.

        Args:
            tasks: are all completed. A task whose worker dies starts again on another worker.
            on_event: is called in this process with each event of a task.
            meanwhile: are given to workers that would otherwise be idle, as long as `tasks` are not completed. Their
                results are dropped. A later call adopts such a task where it is still running and is asked for.

        Raises:
            AutodistillError: a task ended with an error that is not a failure of a single run.
            StudyError: workers keep dying on a task that is not a run.
            Stopped: the executor's stop event was set, and each run has written a checkpoint at the end of its epoch.
        """
        ...


def longest_first(tasks: Sequence[Task]) -> list[int]:
    """Return the places of tasks in the order in which workers take them.

    Training tasks of teachers come first, because everything else waits for teachers, each after the tasks that it
    waits for; then runs by their epochs.
    """
    training = {task.uri: task for task in tasks if isinstance(task, TrainTeacherTask)}

    def depth(task: TrainTeacherTask) -> int:
        return max((1 + depth(training[uri]) for uri in task.after if uri in training), default=0)

    def length(place: int) -> int:
        task = tasks[place]
        if isinstance(task, TrainTask):
            return task.spec.new_epochs
        # Apart from that they come strongest teacher first already. Sorting is stable.
        return sys.maxsize - depth(task) if isinstance(task, TrainTeacherTask) else 0

    return sorted(range(len(tasks)), key=length, reverse=True)


_DOING: dict[type[Task], str] = {
    TrainTeacherTask: "training the teacher {uri}",
    CheckTask: "checking the teacher {name}",
    ProfileTask: "profiling the teacher {name}",
    LogitsTask: "computing logits of the teacher {name}",
    MeasureTeacherTask: "measuring the teacher {name}",
    MeasureStudentTask: "measuring the student",
}


def describe(task: Task) -> str:
    """Return what a worker does for a task, to follow "while"."""
    if isinstance(task, TrainTask):
        params = task.spec.params
        taught = f"teacher {params.teacher}, {params.method}" if params.teacher else "no teacher"
        return f"training the run {task.spec.run} ({taught})"
    if isinstance(task, AgreementTask):
        return f"comparing the teachers {', '.join(task.names)}"
    return _DOING[type(task)].format_map(dict(task))


def given_up(task: TrainTask, error: str) -> KeptResult:
    """Return the result of a run on which workers kept dying."""
    record = RunResult(**task.spec.kept(), key=task.key, state="failed", error=error)
    return KeptResult(result=record, wall_s=0.0)


@dataclass(kw_only=True)
class Slot:
    """The task of a worker."""

    task: Task | None = None
    place: int | None = None
    """Place of the task among those that `run` was given; None: the result is dropped."""


class TaskQueue:
    """The tasks of one call of `Executor.run`, and their results.

    Args:
        tasks: are all completed, the longest first.
        meanwhile: are given to workers that would otherwise be idle.
        slots: of the workers. A task that a worker is doing already is adopted.
        deaths: tasks on which workers died, over all calls of `run`. Logits of a teacher whose logits killed a worker
            are not computed meanwhile.
    """

    def __init__(
        self, tasks: Sequence[Task], meanwhile: Sequence[Task], slots: Sequence[Slot], deaths: list[Task]
    ) -> None:
        self._tasks, self._slots, self._deaths = tasks, slots, deaths
        self._waiting, self._meanwhile = deque(longest_first(tasks)), deque(meanwhile)
        self._results: dict[int, Result] = {}
        self.stopped = False
        """Whether no further task is given out."""
        for slot in slots:
            slot.place = next((place for place in self._waiting if tasks[place] == slot.task), None)
            if slot.place is not None:
                self._waiting.remove(slot.place)

    @property
    def is_complete(self) -> bool:
        return len(self._results) == len(self._tasks)

    def in_order(self) -> list[Result]:
        """Return the results in the order of the tasks."""
        return [self._results[place] for place in range(len(self._tasks))]

    def assign(self, slot: Slot) -> Task | None:
        """Give a free worker its next task; None where there is none, or every task waits for another."""
        slot.place = slot.task = None
        if self.stopped:
            return None
        slot.place = next(filter(self._can_begin, self._waiting), None)
        if slot.place is not None:
            self._waiting.remove(slot.place)
            slot.task = self._tasks[slot.place]
            return slot.task
        deadly = {task.name for task in self._deaths if isinstance(task, LogitsTask)}
        while self._meanwhile:
            task = self._meanwhile.popleft()
            kills = isinstance(task, LogitsTask) and task.name in deadly
            if not kills and all(other.task != task for other in self._slots):
                slot.task = task
                break
        return slot.task

    def end(self, slot: Slot, done: Done) -> None:
        """Take the result of a worker's task, or raise its error."""
        place, slot.task, slot.place = slot.place, None, None
        if place is None or done.stopped:
            return
        if done.error is not None:
            raise done.error
        self._results[place] = done.result

    def gives_up(self, slot: Slot) -> bool:
        """Return whether too many workers have died on a worker's task. A task without a result is never given up."""
        return slot.place is not None and self._deaths.count(self._tasks[slot.place]) >= MOST_DEATHS

    def lose(self, slot: Slot, note: str, error: StudyError, on_event: OnEvent) -> None:
        """Let another worker do the task of a lost worker and warn with `note`, or give the task up.

        A run that is given up has the message of `error` as its result; another task raises `error`.
        """
        gives_up, task, place = self.gives_up(slot), slot.task, slot.place
        slot.task = slot.place = None
        if not gives_up:
            on_event(Note(text=note, warning=True))
            if place is not None:
                self._waiting.append(place)
            return
        if place is None or not isinstance(task, TrainTask):
            raise error
        self._results[place] = kept = given_up(task, error.message)
        on_event(run_ended(kept))

    def _can_begin(self, place: int) -> bool:
        """Return whether the teachers that a task waits for are trained."""
        task = self._tasks[place]
        if not isinstance(task, TrainTeacherTask) or not task.after:
            return True
        left = [it for number, it in enumerate(self._tasks) if number not in self._results]
        return not any(isinstance(it, TrainTeacherTask) and it.uri in task.after for it in left)

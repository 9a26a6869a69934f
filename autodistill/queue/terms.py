"""What a worker and whoever gives it tasks agree on."""

import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from autodistill.queue.messages import (
    AgreementTask,
    CheckTask,
    LadderTask,
    ProfileTask,
    Task,
    TeacherProbeTask,
    ViewTask,
)
from autodistill.records import Record, RunEnded, RunRecord, RunRequest

MOST_DEATHS = 3
"""A task whose worker died this often is given up."""


class LeaseLost(Exception):
    """Somebody else has the task by now: stop, write nothing."""


class Pace(Record):
    """How often a study's processes look at the database."""

    beat_s: float = 5.0
    lease_s: float = 30.0
    """Without a sign of life for this long, by the clock of who waits, a worker is taken for dead."""
    look_s: float = 0.25
    """Between two looks of whoever coordinates."""
    idle_s: float = 1.0
    """Between two looks of a worker that waits for a task, at most."""


class Terms(NamedTuple):
    """On which a worker does a task."""

    hold: Callable[[], None]
    """Raises where the task is no longer the worker's own; called before what it made takes its place."""
    urgent: Callable[[], bool]
    """Whether the worker is to leave: a checkpoint is due at the next epoch's end."""


AT_HOME = Terms(hold=lambda: None, urgent=lambda: False)
"""Of a worker whose tasks nobody else can be given."""


def length(task: Task) -> int:
    """For starting the longest first, after teachers that all else waits for."""
    # Ladder tasks come in order of capacity: the last is the longest. Sorting is stable, so give them no order.
    return task.new_epochs if isinstance(task, RunRequest) else sys.maxsize * isinstance(task, LadderTask)


def rank(task: Task) -> int:
    """For taking the rest of a trial before a new one, however short it is."""
    return task.last_epoch if isinstance(task, RunRequest) else length(task)


Source = Callable[[], Task | RunEnded | None]
"""Gives the task for whoever is free, or its answer where that is known; None: nothing until an answer has come,
and nothing at all where no task is under way."""


def in_words(task: Task) -> str:
    """Return what a worker does for a task, to follow `while`."""
    if isinstance(task, RunRequest):
        params = task.params
        taught = f"teacher {params.teacher}, {params.rule}" if params.teacher else "no teacher"
        return f"training the run {task.run} ({taught})"
    if isinstance(task, LadderTask):
        return f"training the teacher {task.uri}"
    if isinstance(task, CheckTask):
        return f"checking the teacher {task.name}"
    if isinstance(task, ProfileTask):
        return f"profiling the teacher {task.name}"
    if isinstance(task, ViewTask):
        return f"computing logits of the teacher {task.name} ahead of need"
    if isinstance(task, AgreementTask):
        return f"comparing the teachers {', '.join(task.names)}"
    if isinstance(task, TeacherProbeTask):
        return f"measuring how long the teacher {task.name} takes"
    return "measuring how long a run takes"


def longest_first(tasks: Sequence[Task]) -> Source:
    waiting = deque(sorted(tasks, key=length, reverse=True))
    return lambda: waiting.popleft() if waiting else None


def given_up(request: RunRequest, error: str) -> RunEnded:
    """Return the result of a run on which workers kept dying.

    Args:
        request: the run.
        error: why the last worker died.
    """
    record = RunRecord(**request.kept(), state="failed", error=error)
    return RunEnded(record=record, wall_s=0.0)

"""What the tests of executors share: a small setup, its tasks, events, and work that fails."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from autodistill.config import Space
from autodistill.data import load as load_data
from autodistill.executors import Result, Setup, Task, TrainTask, WorkerContext, perform
from autodistill.records import Event, Note, RunSpec, TrialParams

SPACE = Space.model_validate(
    {
        "data": {"name": "digits", "train": 100, "validation": 100, "test": 100, "crop": 1},
        "training": {"epochs": 4, "rung_epochs": 1, "batch_size": 25},
        "ladder": {"architectures": ("resnet8:0.25",), "epochs": 10},
    }
)
LADDER = "ladder:resnet8:0.25"
PARAMS = TrialParams(teacher="weak", method="isats", method_params={"target_ratio": 5 / 3}, soft_weight=0.5)

AnyEvent = TypeVar("AnyEvent", bound=Event)


def setup(home: Path, **fields: object) -> Setup:
    """Return a study of digits with two teachers of the ladder, in a folder that holds study and cache."""
    here = {
        "folder": str(home / "runs" / "study"),
        "cache": str(home / "cache"),
        "data": fingerprint(),
        "device": "cpu",
    }
    teachers = {"weak": LADDER, "other": "ladder:resnet8:0.5"}
    given = {"student": "resnet8:0.25", "teachers": teachers, "fingerprints": {}, "views": 4, **here, **fields}
    return Setup.model_validate({"space": SPACE, **given})


@cache
def fingerprint() -> str:
    return load_data(SPACE.data).fingerprint


def diverging() -> Space:
    return SPACE.model_copy(update={"training": SPACE.training.model_copy(update={"lr": 1e30})})


def run(name: str, *, teacher: str | None = None, epochs: int = 4, **fields: object) -> TrainTask:
    """Return the task of a run, whose key is its name."""
    params = PARAMS.model_copy(update={"teacher": teacher}) if teacher else TrialParams()
    spec = RunSpec.model_validate({"run": name, "params": params, "seed": 3, "epochs": epochs, **fields})
    return TrainTask(spec=spec, key=name.replace("/", "-"))


class Here:
    """A worker in this process that does real work, and the events of its last task."""

    def __init__(self, home: Path, *, kind: type[WorkerContext] = WorkerContext, **fields: object) -> None:
        self.events: list[Event] = []
        self.context = kind(setup(home, **fields), on_event=self.events.append)

    def do(self, task: Task) -> Any:
        self.events.clear()
        return perform(task, self.context)


def of(kind: type[AnyEvent], events: Sequence[Event]) -> list[AnyEvent]:
    """Return the events of a kind."""
    return [it for it in events if isinstance(it, kind)]


def children() -> set[int]:
    """Return the numbers of this process's children."""
    return {child.pid for child in multiprocessing.active_children() if child.pid is not None}


def _abort(_: WorkerContext) -> None:
    os.write(2, b"\x1b[31mcorrupted size vs. prev_size\n")
    os.abort()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _cut_off(context: WorkerContext) -> None:
    """Die in the middle of a message that is larger than a pipe: nobody reads while the first event is handled."""
    context.on_event(Note(text="first"))
    threading.Timer(0.2, _kill).start()
    context.on_event(Note(text="x" * 10**7))


def _memory(_: WorkerContext) -> NoReturn:
    raise MemoryError("no room for the gradients")


WAYS: dict[str, Callable[[WorkerContext], object]] = {
    "abort": _abort,
    "cut off": _cut_off,
    "MemoryError": _memory,
}


def dying(task: Task, context: WorkerContext) -> Result:
    """End this process in the way of `WAYS` that the run's name, or the teacher's, says."""
    WAYS[task.spec.run if isinstance(task, TrainTask) else task.name](context)  # type: ignore[union-attr]
    return None


def killed(task: Task, context: WorkerContext) -> Result:
    """Kill this process, as the kernel does for lack of memory."""
    _kill()
    return None

"""Studies of a few seconds: their options, how they run, and which parts of their records are compared."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fake_trainer
import pytest

from autodistill import processes, running
from autodistill.cli import teachers as commands
from autodistill.executors import Result, SerialExecutor, Setup, Task, TrainTeacherTask, WorkerContext
from autodistill.options import search_options
from autodistill.records import Event, LatencyRecord, StudyRecord, TaskProgress, read_study
from autodistill.stats.verdict import judged
from autodistill.study import SearchOptions, StudySpec, resolve, run_study
from autodistill.study.run import ExecutorFor

TINY = (
    "data.train=100",
    "data.validation=100",
    "data.test=100",
    "training.epochs=3",
    "training.rung_epochs=1",
    "ladder.epochs=10",
    'ladder.architectures=["resnet8:0.25", "resnet8:0.5"]',
)
ISATS_FIRST = 'prior={method="isats",params={target_ratio=2.0,tau_student=4.0},soft_weight=0.5}'
"""With this prior plain KD has a run of its own."""
NAME = "smoke-resnet8-0.25"
NEEDED_VIEWS = 2 * 3
"""Two teachers, a view for each of three epochs."""
LATENCY = LatencyRecord(median_ms=1.0, iqr_ms=0.1, device="made up")


def options(
    *more: str, student: str = "resnet8:0.25", budget: str = "11", workers: int | str = 1, **flags: Any
) -> SearchOptions:
    overrides = (*TINY, *more)
    return search_options(student=student, space="smoke", budget=budget, workers=workers, overrides=overrides, **flags)


def serial(spec: StudySpec) -> SerialExecutor:
    """Start an executor that trains in this process."""
    return SerialExecutor(spec.setup, data=spec.data)


def without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands train in this process instead of in worker processes, which import torch for seconds."""

    def executor(_: int, setup: Setup, **given: Any) -> SerialExecutor:
        return SerialExecutor(setup, data=given["data"])

    monkeypatch.setattr(processes, "start_server", lambda: None)
    monkeypatch.setattr(running, "local_executor", lambda spec, **_: serial(spec))
    monkeypatch.setattr(commands, "LocalExecutor", executor)


def fake_work(task: Task, context: WorkerContext) -> Result:
    """Do a task as the fake trainer does, but leave no file of a ladder teacher, which a later command would load."""
    if isinstance(task, TrainTeacherTask):
        context.on_event(TaskProgress(task=f"teacher {task.uri}", done=1, total=1))
        return None
    return fake_trainer.work(task, context)


def faking(spec: StudySpec) -> SerialExecutor:
    """Start an executor that trains nothing."""
    return SerialExecutor(spec.setup, data=spec.data, work=fake_work)


def no_work(task: Task, context: WorkerContext) -> Result:
    raise AssertionError(f"nothing is left to do, but: {task!r}")


def idle(spec: StudySpec) -> SerialExecutor:
    """Start an executor that must get no task."""
    return SerialExecutor(spec.setup, data=spec.data, work=no_work)


def drive(
    asked: SearchOptions, on_event: Callable[[Event], object] = lambda _: None, *, executor_for: ExecutorFor = serial
) -> StudyRecord:
    """Run a study with real training."""
    return run_study(resolve(asked), on_event, executor_for=executor_for)


def fake(
    asked: SearchOptions, on_event: Callable[[Event], object] = lambda _: None, *, executor_for: ExecutorFor = faking
) -> StudyRecord:
    """Run a study without training and without measuring the student's latency."""
    return run_study(resolve(asked)._replace(latency=LATENCY), on_event, executor_for=executor_for)


@contextlib.contextmanager
def placed(folder: Path) -> Iterator[Path]:
    """Work in a folder, with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTODISTILL_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        yield folder


class Killed(Exception):
    """Stands for the end of the process."""


def kill_after(count: int) -> Callable[[Event], None]:
    """Return an `on_event` that ends the study at an event."""
    seen = 0

    def on_event(event: Event) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            raise Killed

    return on_event


def core(record: StudyRecord) -> dict[str, Any]:
    """Return what equal studies share."""
    return record.model_dump(mode="json", exclude={"timing", "environment", "found"})


def kept(name: str = NAME) -> StudyRecord:
    return read_study(Path("runs", name, "study.json"))


def everything(*roots: Path) -> set[Path]:
    return {path for root in roots for path in root.rglob("*")}


class Reference(NamedTuple):
    record: StudyRecord
    cache: Path
    place: Path


def recommending(record: StudyRecord, teacher: str | None) -> StudyRecord:
    """Return a record whose confirm runs speak for a teacher; None: for training without a teacher."""
    finalists = []
    for finalist in record.finalists:
        best, runs = 0.9 if finalist.teacher == teacher else 0.3, []
        for number, run in enumerate(finalist.runs):
            last = run.curve[-1].model_copy(update={"test_top1": best + number / 100})
            runs.append(run.model_copy(update={"curve": (*run.curve[:-1], last)}))
        finalists.append(finalist.model_copy(update={"runs": tuple(runs)}))
    found = judged(record.model_copy(update={"finalists": tuple(finalists)}))
    assert found.recommendation is not None
    assert found.recommendation.params.teacher == teacher
    return found


def stamps(paths: Iterable[Path]) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in paths}


def results(place: Path) -> list[Path]:
    return sorted(place.glob("runs/*/results/*.json"))

"""Studies of a few seconds: what they are asked, how they are driven, what of them is compared."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from autodistill.commands import search_request
from autodistill.models import cost
from autodistill.queue.terms import Source
from autodistill.records import (
    Event,
    RunEnded,
    StudyRecord,
    read_study,
)
from autodistill.study import limits, measuring, prepare, run_study
from autodistill.workers import Message, Pool, Setup, Task, Workplace

TINY = (
    "data.train=100",
    "data.validation=100",
    "data.test=100",
    "training.epochs=3",
    "training.short_epochs=1",
    "ladder.epochs=10",
    'ladder.architectures=["resnet8:0.25", "resnet8:0.5"]',
)
NAME = "smoke-resnet8-0.25"
NEEDED_VIEWS = 2 * 3

"""Two teachers, a view for each of three epochs."""


class Here(Pool):
    """The pool's work done in this process: as many workplaces, taking turns."""

    def __init__(self, size: int, setup: Setup, **_: object) -> None:
        self.places = [Workplace(setup) for _ in range(size)]

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, tasks: Sequence[Task] | Source) -> Iterator[Message]:
        source = tasks if callable(tasks) else iter((*tasks, None)).__next__
        for place in itertools.cycle(self.places):
            task = source()
            if task is None:
                return
            yield from (task,) if isinstance(task, RunEnded) else place.do(task)


def briefly(patch: pytest.MonkeyPatch) -> None:
    """Measure times of parts and latency by as few repetitions as there can be: how exactly is not what tests ask."""
    patch.setattr(measuring, "PROBE_S", 0.01)
    patch.setattr(limits, "latency_ms", functools.partial(cost.latency_ms, min_run_time_s=0.01))


def request(
    *more: str, student: str = "resnet8:0.25", budget: str = "11", workers: int | str = 1, **flags: Any
) -> Any:
    overrides = (*TINY, *more)
    return search_request(
        student=student, space="smoke", budget=budget, workers=workers, overrides=overrides, **flags
    )


def drive(asked: Any, watch: Callable[[Event], None] = lambda _: None) -> StudyRecord:
    events = run_study(prepare(asked))
    while True:
        try:
            watch(next(events))
        except StopIteration as end:
            return end.value


def core(record: StudyRecord) -> dict[str, Any]:
    """What equal studies share."""
    return record.model_dump(mode="json", exclude={"timing", "environment"})


def kept() -> StudyRecord:
    return read_study(Path("runs", NAME, "study.json"))


def everything(*roots: Path) -> set[Path]:
    return {path for root in roots for path in root.rglob("*")}


class Reference(NamedTuple):
    record: StudyRecord
    cache: Path
    place: Path


def stamps(paths: Iterable[Path]) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in paths}


def results(place: Path) -> list[Path]:
    return list(place.glob("runs/*/**/result.json"))

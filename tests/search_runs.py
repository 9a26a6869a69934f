"""Studies whose trainer computes its scores: nothing is trained."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from autodistill.config import Space
from autodistill.records import CostRecord, EpochRecord, Event, RunEnded, RunRecord, RunRequest, TeacherRecord
from autodistill.search import Outcome, Question, Source, make_plan, search
from autodistill.store import seed_from

GAIN = {"weak": -0.02, "mid": 0.03, "slow": 0.05, "strong": 0.02, "fifth": 0.0, "sixth": 0.01}
TAU_STUDENT_FROM = {"isats": None, "ats": None, "ts": "tau"}


def teacher(name: str) -> TeacherRecord:
    return TeacherRecord(
        name=name,
        uri=f"file:{name}.safetensors",
        architecture="resnet8",
        fingerprint=name,
        cost=CostRecord(params=1, macs=1, size_bytes=4),
        normalisation="data",
        val_top1=0.9 + GAIN[name] / 10,
        val_nll=0.3,
        val_ece=0.02,
    )


def score(request: RunRequest) -> float:
    """Accuracy of a pretended run: the teacher's gain, the weight's, fewer epochs' loss, seed noise."""
    params, full = request.params, request.last_epoch >= 30
    noise = (seed_from(request.seed, request.last_epoch, len(str(params))) % 1000 / 1000 - 0.5) * 0.002
    if params.teacher is None:
        return 0.75 + noise - (0 if full else 0.1)
    late = 0.3 if params.teacher == "slow" else 0.1
    return 0.75 + GAIN[params.teacher] - 0.04 * abs(params.soft_weight - 0.6) - (0 if full else late) + noise


def ended(request: RunRequest, *, fail: bool = False, top1: float) -> RunEnded:
    last = {"val_top1": top1, "test_top1": top1 if request.evaluate_on == "validation+test" else None}
    curve = tuple(
        EpochRecord(epoch=epoch, train_loss=1.0, hard_loss=1.0, **(last if epoch == request.last_epoch else {}))
        for epoch in range(1, request.last_epoch + (not fail))
    )
    state, error = ("failed", "the loss became nan") if fail else ("complete", "")
    record = RunRecord(**request.kept(), state=state, error=error, curve=curve)
    return RunEnded(record=record, wall_s=1.0)


Fails = Callable[[RunRequest], bool]


class Trainer:
    """Remembers results, as the run folder does; notes what it was asked."""

    def __init__(
        self,
        *,
        fails: Fails = lambda _: False,
        scores: Callable[[RunRequest], float] = score,
        backwards: bool = False,
        dies_after: float = math.inf,
        workers: int = 1,
        draw: int = 0,
    ) -> None:
        self.kept: dict[str, RunEnded] = {}
        self.asked: list[RunRequest] = []
        self.fails, self.scores, self.backwards, self.dies_after = fails, scores, backwards, dies_after
        self.workers, self.chance = workers, random.Random(draw)
        self.under_way: list[RunRequest] = []

    def __call__(self, requests: Sequence[RunRequest] | Source) -> Iterator[Event]:
        if callable(requests):
            yield from self._streamed(requests)
            return
        for request in reversed(requests) if self.backwards else requests:
            if request.run not in self.kept:
                if len(self.kept) >= self.dies_after:
                    raise KeyboardInterrupt
                self.trained(request)
            yield self.kept[request.run]

    def _streamed(self, source: Source) -> Iterator[Event]:
        """`workers` places; which run ends next is drawn."""
        self.under_way = []
        while True:
            while len(self.under_way) < self.workers and (given := source()) is not None:
                if given.run in self.kept:
                    yield self.kept[given.run]
                else:
                    self.under_way.append(given)
            if not self.under_way:
                return
            if len(self.kept) >= self.dies_after:
                raise KeyboardInterrupt
            yield self.trained(self.under_way.pop(self.chance.randrange(len(self.under_way))))

    def trained(self, request: RunRequest) -> RunEnded:
        self.asked.append(request)
        self.kept[request.run] = ended(request, fail=self.fails(request), top1=self.scores(request))
        return self.kept[request.run]


def question(*names: str, budget: str = "20", space: Space | None = None, **options: Any) -> Question:
    space = space or Space()
    plan = make_plan(space, teachers=len(names), requested=budget, **options)
    return Question("a-study", space, plan, tuple(teacher(name) for name in names), TAU_STUDENT_FROM)


FOUR = ("weak", "mid", "slow", "strong")


def run(asked: Question, trainer: Trainer, database: Path) -> tuple[Outcome, list[Event]]:
    outcome = Outcome()
    order = database.with_suffix(".jsonl")
    return outcome, list(search(asked, outcome, run=trainer, database=database, order=order))


def searched(asked: Question, trainer: Trainer) -> tuple[Outcome, list[Event]]:
    """A study without a database."""
    outcome = Outcome()
    return outcome, list(search(asked, outcome, run=trainer, database=None))

"""Whole searches over a made-up scoring function. Nothing is trained."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from autodistill.config import MethodShape, Space
from autodistill.records import (
    EpochRecord,
    Event,
    RunEnded,
    RunResult,
    RunSpec,
    TeacherCostRecord,
    TeacherRecord,
    TrialRecord,
)
from autodistill.searching import (
    Sampler,
    SearchSpec,
    SearchState,
    make_plan,
    run_search,
)
from autodistill.store import seed_from

GAIN = {"weak": -0.02, "mid": 0.03, "slow": 0.05, "strong": 0.02, "fifth": 0.0, "sixth": 0.01}
"""What a teacher adds to the accuracy of its students. `slow` is the best teacher, and its students start slowly."""
FOUR = ("weak", "mid", "slow", "strong")
ISATS_FIRST = Space.model_validate(
    {"prior": {"method": "isats", "params": {"target_ratio": 5 / 3, "tau_student": 4.0}, "soft_weight": 0.5}}
)
"""A space whose prior is not plain KD, which then has a run of its own."""

SHAPES = {"isats": MethodShape(), "ats": MethodShape(), "ts": MethodShape(tau_student_from="tau")}

Fails = Callable[[RunSpec], bool]
Scores = Callable[[RunSpec], float]
OnEvent = Callable[[Event], None]
Watch = Callable[[Event, SearchState], object]


def teacher(name: str) -> TeacherRecord:
    return TeacherRecord(
        name=name,
        uri=f"file:{name}.safetensors",
        architecture="resnet8",
        fingerprint=name,
        cost=TeacherCostRecord(params=1, macs=1, size_bytes=4),
        normalisation="data",
        val_top1=0.9 + GAIN[name] / 10,
        val_nll=0.3,
        val_ece=0.02,
    )


def score(run: RunSpec) -> float:
    """Return a made-up accuracy: the teacher's gain, less for a poor soft weight and for few epochs, and noise."""
    params, full = run.params, run.last_epoch >= 30
    noise = (seed_from(run.seed, run.last_epoch, len(str(params))) % 1000 / 1000 - 0.5) * 0.002
    if params.teacher is None:
        return 0.75 + noise - (0 if full else 0.1)
    late = 0.3 if params.teacher == "slow" else 0.1
    return 0.75 + GAIN[params.teacher] - 0.04 * abs(params.soft_weight - 0.6) - (0 if full else late) + noise


def result_of(run: RunSpec, *, fail: bool = False, top1: float) -> RunResult:
    last = {"val_top1": top1, "test_top1": top1 if run.evaluate_on == "validation+test" else None}
    curve = tuple(
        EpochRecord(epoch=epoch, train_loss=1.0, hard_loss=1.0, **(last if epoch == run.last_epoch else {}))
        for epoch in range(1, run.last_epoch + (not fail))
    )
    state, error = ("failed", "the loss became nan") if fail else ("complete", "")
    return RunResult(**run.kept(), state=state, error=error, curve=curve)


class Trains(Protocol):
    def train(self, runs: Sequence[RunSpec], on_event: OnEvent, /) -> list[RunResult]: ...


class Trainer:
    """Makes results up, and keeps them as a study folder does.

    Args:
        fails: whether a run fails.
        scores: accuracy of a run.
        backwards: runs end in reverse order.
        dies_after: raise `KeyboardInterrupt` instead of training more than so many runs.
    """

    def __init__(
        self,
        *,
        fails: Fails = lambda _: False,
        scores: Scores = score,
        backwards: bool = False,
        dies_after: float = math.inf,
    ) -> None:
        self.kept: dict[str, RunResult] = {}
        self.trained: list[RunSpec] = []
        self.fails, self.scores, self.backwards, self.dies_after = fails, scores, backwards, dies_after

    def train(self, runs: Sequence[RunSpec], on_event: OnEvent) -> list[RunResult]:
        for run in reversed(runs) if self.backwards else runs:
            reused = run.run in self.kept
            if not reused:
                if len(self.kept) >= self.dies_after:
                    raise KeyboardInterrupt
                self.trained.append(run)
                self.kept[run.run] = result_of(run, fail=self.fails(run), top1=self.scores(run))
            on_event(RunEnded(record=self.kept[run.run], wall_s=1.0, reused=reused))
        return [self.kept[run.run] for run in runs]


def search_spec(
    *names: str,
    budget: str = "20",
    space: Space | None = None,
    recorded: Sequence[TrialRecord] = (),
    carried: Sequence[TrialRecord] = (),
    **options: Any,
) -> SearchSpec:
    space = space or Space()
    return SearchSpec(
        space=space,
        plan=make_plan(space, teachers=len(names), requested=budget, **options),
        teachers=tuple(teacher(name) for name in names),
        shapes=SHAPES,
        recorded=tuple(recorded),
        carried=tuple(carried),
    )


def search(
    spec: SearchSpec, trainer: Trains | None = None, *, watch: Watch = lambda *_: None, audited: bool = False
) -> tuple[SearchState, list[Event]]:
    """Run a whole search; return its state and its events.

    Args:
        spec: the search.
        trainer: makes the results up.
        watch: is called with each event and the state; it may raise.
        audited: whether the best pruned trials are trained to the end.
    """
    state, events = started(spec, trainer or Trainer(), watch=watch)
    run_search(state, audited=audited)
    return state, events


def started(spec: SearchSpec, trainer: Trains, *, watch: Watch = lambda *_: None) -> tuple[SearchState, list[Event]]:
    """Return the state before the first stage, and the list that its events are added to."""
    events: list[Event] = []

    def on_event(event: Event) -> None:
        if isinstance(event, RunEnded):  # as a study does: the record shows each run as soon as it has ended
            state.results[event.record.run] = event.record
        events.append(event)
        watch(event, state)

    state = SearchState(
        spec=spec,
        train=lambda runs: trainer.train(runs, on_event),
        on_event=on_event,
        sampler=Sampler(spec.space, [it.name for it in spec.teachers], spec.shapes),
    )
    return state, events


def kill_after(count: int, record: list[TrialRecord]) -> Watch:
    """Return a watcher that ends the search after so many events; `record` then holds the trials so far.

    As in a study, the record of an earlier process is kept until a run is trained.
    """
    left, fresh = count, not record

    def watch(event: Event, state: SearchState) -> None:
        nonlocal left, fresh
        fresh = fresh or (isinstance(event, RunEnded) and not event.reused)
        if not left:
            if fresh:
                record[:] = [TrialRecord.model_validate_json(it.model_dump_json()) for it in state.trials]
            raise KeyboardInterrupt
        left -= 1

    return watch

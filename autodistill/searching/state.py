"""The specification of a search, its mutable state, and the training runs that it is made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from autodistill.config import MethodShape, Space
from autodistill.records import (
    CellRecord,
    ControlRecord,
    Event,
    FinalistRecord,
    MethodGrid,
    PlanRecord,
    RunResult,
    RunSpec,
    TeacherRecord,
    TrialParams,
    TrialRecord,
)
from autodistill.searching.plan import plain_kd_is_prior
from autodistill.searching.sampler import Sampler

CONFIRM_SEED = 1000
"""Confirm runs use the seeds of the study plus this number, plus 0, 1, 2, ..."""

LABEL_SMOOTHING = 0.1
"""Usual value (Szegedy et al. 2016)."""

PLAIN_KD = "baselines/plain-kd"
"""Name of the run of plain KD, where no prior is plain KD."""

Asked = Bool[np.ndarray, "finalists seeds"]


class Candidate(NamedTuple):
    """A configuration with at least one full run before the confirm runs."""

    name: str
    """Name in paths: the number of the trial, "plain-kd", or "shared-" and the place of the teacher, from 1."""
    trial: int | None
    """Number of the first trial with this configuration; None if no trial has it."""
    params: TrialParams
    scores: tuple[float, ...]
    """Validation accuracy of each full run."""

    @property
    def val_top1(self) -> float:
        return sum(self.scores) / len(self.scores)


NO_TEACHER = Candidate("no-teacher", None, TrialParams(), ())
"""Training on labels alone, which is always a finalist."""


class SearchSpec(NamedTuple):
    """What is searched, over which teachers, with which plan."""

    space: Space
    plan: PlanRecord
    teachers: tuple[TeacherRecord, ...]
    shapes: Mapping[str, MethodShape]
    """Shapes of the searched methods by name."""
    carried: tuple[TrialRecord, ...] = ()
    """Ended trials from before the last teacher joined the study."""
    recorded: tuple[TrialRecord, ...] = ()
    """Trials of an earlier process of this study: their parameters are read, not sampled again."""
    score_step: float = 0.0
    """Smallest difference between two test accuracies."""


@dataclass
class SearchState:
    """The mutable state of a running search."""

    spec: SearchSpec
    train: Callable[[Sequence[RunSpec]], Sequence[RunResult]]
    """Trains runs, several at a time, and returns their results in the same order."""
    on_event: Callable[[Event], None]
    sampler: Sampler
    results: dict[str, RunResult] = field(default_factory=dict)
    """Results by the name of the run."""
    trials: list[TrialRecord] = field(default_factory=list)
    no_teacher: RunResult | None = None
    plain_kd_trial: int | None = None
    """The prior that is plain KD from the most accurate teacher; None: plain KD has a run of its own."""
    reruns: list[RunResult] = field(default_factory=list)
    chosen: list[Candidate] = field(default_factory=list)
    """The finalists with a teacher."""
    asked: Asked | None = None
    """Confirm runs asked for so far; the first row is "no teacher", the others are `chosen`."""
    controls: list[ControlRecord] = field(default_factory=list)
    cells: list[CellRecord] = field(default_factory=list)
    """Cells of a method grid with their settings, without runs."""
    shared: list[CellRecord] = field(default_factory=list)
    """Cells of a method grid with settings that are shared by all teachers, without runs."""
    audit: list[RunResult] = field(default_factory=list)

    @property
    def plain_kd(self) -> RunResult | None:
        if self.plain_kd_trial is None:
            return self.results.get(PLAIN_KD)
        return self.trials[self.plain_kd_trial].full

    @property
    def spent_epochs(self) -> int:
        """Epochs that count towards the budget. An audit does not."""
        return sum(run.spent_epochs for name, run in self.results.items() if not name.startswith("audit/"))

    @property
    def finalists(self) -> list[FinalistRecord]:
        """The finalists with the confirm runs that have ended, "no teacher" first."""
        if self.asked is None:
            return []
        return [
            FinalistRecord(
                teacher=candidate.params.teacher,
                trial=candidate.trial,
                params=candidate.params,
                search_val_top1=candidate.val_top1 if candidate.scores else None,
                runs=self._ended(runs),
            )
            for candidate, runs in self.confirm_runs(self.asked)
        ]

    def confirm_runs(self, asked: Asked) -> list[tuple[Candidate, list[RunSpec]]]:
        """Return each finalist, "no teacher" first, with the confirm runs that `asked` marks."""
        return [
            (candidate, [finalist_run(self.spec, candidate, seed) for seed in np.flatnonzero(row).tolist()])
            for candidate, row in zip([NO_TEACHER, *self.chosen], asked, strict=True)
        ]

    @property
    def label_smoothing(self) -> tuple[RunResult, ...]:
        """The runs with label smoothing that have ended."""
        return self._ended(label_smoothing_runs(self.spec)) if self.spec.plan.label_smoothing else ()

    @property
    def grid(self) -> MethodGrid | None:
        """The method grid with the runs that have ended; None in a search."""
        plan = self.spec.plan
        if plan.settings is None:
            return None

        def filled(cells: Sequence[CellRecord]) -> tuple[CellRecord, ...]:
            return tuple(it.model_copy(update={"runs": self._ended(cell_runs(self.spec, it))}) for it in cells)

        return MethodGrid(
            methods=tuple(self.spec.space.search.methods),
            settings=plan.settings,
            cells=filled(self.cells),
            no_teacher=self._ended(no_teacher_runs(self.spec)),
            label_smoothing=self.label_smoothing,
            shared=filled(self.shared),
        )

    def _ended(self, runs: Sequence[RunSpec]) -> tuple[RunResult, ...]:
        return tuple(self.results[it.run] for it in runs if it.run in self.results)

    def run(self, runs: Sequence[RunSpec]) -> list[RunResult]:
        """Train runs and keep their results."""
        found = list(self.train(runs))
        self.results.update({result.run: result for result in found})
        return found


def score(run: RunResult | None) -> float:
    """Return a run's validation accuracy for ordering; runs without a score come last."""
    return run.val_top1 if run is not None and run.val_top1 is not None else -1.0


def new_run(spec: SearchSpec, name: str, params: TrialParams, seed: int) -> RunSpec:
    """Return a run over the full schedule."""
    metric = spec.space.search.metric
    return RunSpec(run=name, params=params, seed=seed, epochs=spec.plan.epochs_full, metric=metric)


def rung_run(spec: SearchSpec, trial: TrialRecord) -> RunSpec:
    """Return a trial's run up to its rung: a part of the full schedule, or a short schedule of its own."""
    run = new_run(spec, f"trials/{trial.number:04d}/rung", trial.params, trial.seed)
    short = spec.plan.epochs_rung
    if spec.plan.rungs == "short schedule":
        return run.model_copy(update={"epochs": short})
    return run.model_copy(update={"rung": short, "until": short})


def full_run(spec: SearchSpec, trial: TrialRecord) -> RunSpec:
    """Return a trial's full run, which continues from its rung where the rung is a part of the full schedule."""
    run = new_run(spec, f"trials/{trial.number:04d}/full", trial.params, trial.seed)
    if spec.plan.rungs != "part-way":
        return run
    return run.model_copy(update={"rung": spec.plan.epochs_rung, "begun_epochs": spec.plan.epochs_rung})


def reference_teacher(spec: SearchSpec) -> str:
    """Return the most accurate teacher, which most people would take."""
    return max(spec.teachers, key=lambda teacher: teacher.score(spec.space.search.metric)).name


def plain_kd_run(spec: SearchSpec) -> RunSpec:
    """Return plain KD from the most accurate teacher."""
    plain = spec.space.plain_kd
    params = TrialParams(
        teacher=reference_teacher(spec),
        method="ts",
        method_params={"tau": plain.tau},
        tau_student=plain.tau,
        soft_weight=plain.soft_weight,
    )
    return new_run(spec, PLAIN_KD, params, spec.space.search.seed)


def confirm_run(spec: SearchSpec, folder: str, params: TrialParams, index: int) -> RunSpec:
    """Return a full run with a seed that the search never used; only such runs are evaluated on the test split."""
    seed = spec.space.search.seed + CONFIRM_SEED + index
    return new_run(spec, f"{folder}-{seed}", params, seed).model_copy(update={"evaluate_on": "validation+test"})


def finalist_run(spec: SearchSpec, candidate: Candidate, index: int) -> RunSpec:
    """Return a confirm run of a finalist."""
    folder = "baselines" if candidate is NO_TEACHER else "confirm"
    return confirm_run(spec, f"{folder}/{candidate.name}", candidate.params, index)


def first_seeds(spec: SearchSpec) -> int:
    """Return the number of confirm seeds that every finalist gets: those before the first look of a race, or all."""
    return spec.plan.race.first if spec.plan.race else spec.space.confirm.seeds


def no_teacher_runs(spec: SearchSpec) -> list[RunSpec]:
    """Return the no-teacher runs that every study of this plan needs; the first of them is the baseline."""
    return [finalist_run(spec, NO_TEACHER, index) for index in range(first_seeds(spec))]


def label_smoothing_runs(spec: SearchSpec) -> list[RunSpec]:
    """Return the runs on labels alone with label smoothing, a control without a teacher, over the confirm seeds."""
    params = TrialParams(method_params={"label_smoothing": LABEL_SMOOTHING})
    return [confirm_run(spec, "baselines/label-smoothing", params, index) for index in range(first_seeds(spec))]


def cell_runs(spec: SearchSpec, cell: CellRecord) -> list[RunSpec]:
    """Return the confirm runs of a cell of a method grid."""
    if cell.trial is not None:
        folder = f"confirm/{cell.trial:04d}"
    else:
        method = list(spec.space.search.methods).index(cell.method) + 1
        teacher = [it.name for it in spec.teachers].index(cell.teacher) + 1
        folder = f"controls/shared-{method}-{teacher}"
    return [confirm_run(spec, folder, cell.params, index) for index in range(first_seeds(spec))]


def next_seed(spec: SearchSpec, params: TrialParams, trials: Sequence[TrialRecord]) -> int:
    """Return the first seed above those of earlier runs of this configuration, pruned trials and plain KD included."""
    plain = plain_kd_run(spec)
    used = [it.seed for it in trials if it.params == params]
    has_plain_kd = spec.plan.settings is None and not plain_kd_is_prior(spec.space)
    if plain.params == params and has_plain_kd:
        used.append(plain.seed)
    return max(used, default=spec.space.search.seed - 1) + 1


def left_epochs(state: SearchState, promoted: int = 0) -> int:
    """Return the epochs that may still be committed.

    Reserved are the stages after the search, as far as their runs are not trained yet, and the rests of `promoted`
    trials.
    """
    plan, first = state.spec.plan, finalist_run(state.spec, NO_TEACHER, 0).run
    later = round((plan.reruns + plan.confirm + plan.controls + plan.label_smoothing) * plan.epochs_full)
    trained = sum(
        run.spent_epochs
        for name, run in state.results.items()
        if name.startswith("baselines/no-teacher") and name != first
    )
    return plan.total_epochs - (state.spent_epochs - trained) - later - promoted * plan.epochs_rest

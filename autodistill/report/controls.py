"""Sections on what else may explain a difference: fair controls (tuning or teacher?) and replicates (seed noise)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from autodistill import stats
from autodistill.formatting import EMPTY, interval, percent, plural, points, recipe, short, sure
from autodistill.records import ControlRecord, StudyRecord, TrialRecord
from autodistill.report.parts import MAX_ROWS, Cell, Column, Row, Table, cut_note, number_columns, row, text_columns

REGIMES = {"default": "Prior", "shared": "One for all", "own": "Its own best"}


@dataclass(frozen=True)
class ControlsInfo:
    table: Table | None
    findings: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class ReplicatesInfo:
    groups: int
    """Configurations with two or more rung scores."""
    std: float | None
    """Standard deviation of a rung score between seeds, pooled over the groups; None without replicates."""
    finding: str
    table: Table | None


def controls_info(record: StudyRecord) -> ControlsInfo:
    """Return each teacher's accuracy with the prior, with the best configuration of all and with its own best."""
    if not record.controls:
        return ControlsInfo(None, (), _missing(record))
    teachers = list(dict.fromkeys(one.teacher for one in record.controls))
    columns = (Column("Teacher"), *number_columns(*REGIMES.values()), *number_columns("Own over shared, points"))
    rows = tuple(_control_row(record.controls, teacher) for teacher in teachers)
    shared = next(one for one in record.controls if one.regime == "shared")
    note = (
        f"Test accuracy over the same confirm seeds. One for all: {recipe(shared.params)}, the best of the search. "
        "Only the gain of a teacher's own configuration over the shared one is an effect of tuning for that teacher."
    )
    return ControlsInfo(Table("Fair controls", columns, rows, note), tuple(_findings(record.controls, teachers)), "")


def _missing(record: StudyRecord) -> str:
    if record.plan.controls:
        return "Fair controls are still to come."
    return (
        "Not measured: whether a difference comes from the teacher or from temperatures that were tuned for it. From "
        "a budget of 40 on, each finalist is also trained with the prior and with the best configuration of all."
    )


def _control_row(controls: Sequence[ControlRecord], teacher: str) -> Row:
    found = {one.regime: one for one in controls if one.teacher == teacher}
    cells = (_control_cell(found[regime]) if regime in found else Cell(EMPTY) for regime in REGIMES)
    gain = _difference(found["own"], found["shared"]) if found["own"].params != found["shared"].params else None
    return row(short(teacher), *cells, Cell(points(gain[0]), interval(*gain[1:])) if gain else EMPTY)


def _control_cell(one: ControlRecord) -> Cell:
    mean = _mean(one)
    return Cell(percent(mean) if math.isfinite(mean) else EMPTY, recipe(one.params))


def _findings(controls: Sequence[ControlRecord], teachers: Sequence[str]) -> Iterator[str]:
    by_regime = {regime: [one for one in controls if one.regime == regime] for regime in REGIMES}
    for regime, words in (("default", "With the prior for all"), ("shared", "With one configuration for all")):
        best, *others = sorted(by_regime[regime], key=lambda one: -_mean(one))
        for other in others:
            gain = _difference(best, other)
            if gain is not None:
                pair = f"{short(best.teacher)} gives {points(gain[0])} points over {short(other.teacher)}"
                yield f"{words}, {pair} ({sure(*gain[1:])})."
    for teacher in teachers:
        own, shared = ({one.teacher: one for one in by_regime[regime]}[teacher] for regime in ("own", "shared"))
        gain = _difference(own, shared) if own.params != shared.params else None
        if gain is not None:
            size = f"{points(gain[0])} points ({sure(*gain[1:])})"
            yield f"Tuning for {short(teacher)} alone changes its student by {size} against the shared configuration."


def _mean(one: ControlRecord) -> float:
    scores = [run.test_top1 for run in one.runs if run.test_top1 is not None]
    return math.fsum(scores) / len(scores) if scores else -math.inf


def _difference(one: ControlRecord, other: ControlRecord) -> tuple[float, float | None, float | None] | None:
    """Return the paired difference over the shared seeds and its 95 % interval; None without a shared seed."""
    mine, yours = ({run.seed: run.test_top1 for run in it.runs if run.test_top1 is not None} for it in (one, other))
    seeds = sorted(mine.keys() & yours.keys())
    if not seeds:
        return None
    scores = np.array([[mine[seed] for seed in seeds], [yours[seed] for seed in seeds]])
    difference = float((scores[0] - scores[1]).mean())
    if len(seeds) < 2 or np.ptp(scores[0] - scores[1]) == 0:
        return difference, None, None
    width = float(stats.compare(scores).half_width(stats.STATED)[0, 1])
    return difference, difference - width, difference + width


def replicates_info(record: StudyRecord) -> ReplicatesInfo:
    """Return the spread of the rung scores of trials with equal parameters."""
    groups: dict[int, list[tuple[TrialRecord, float]]] = {}
    for trial in record.trials:
        if trial.rung is not None and trial.rung.val_top1 is not None:
            first = trial.number if trial.replicate_of is None else trial.replicate_of
            groups.setdefault(first, []).append((trial, trial.rung.val_top1))
    repeated = [group for _, group in sorted(groups.items()) if len(group) > 1]
    if not repeated:
        return ReplicatesInfo(0, None, "", None)
    scores = [np.array([score for _, score in group]) for group in repeated]
    dof = sum(len(one) - 1 for one in scores)
    std = math.sqrt(sum(float(((one - one.mean()) ** 2).sum()) for one in scores) / dof)
    finding = (
        f"{plural(len(repeated), 'configuration')} ran again with another seed: between seeds a rung score has a "
        f"standard deviation of {100 * std:.1f} points ({plural(dof, 'degree')} of freedom)."
    )
    rows = tuple(_replicate_row(group) for group in repeated[:MAX_ROWS])
    columns = (*text_columns("Trials", "Teacher", "Settings"), *number_columns("Rung scores", "Spread, points"))
    note = cut_note(rows, len(repeated), "configurations")
    return ReplicatesInfo(len(repeated), std, finding, Table("Equal settings, other seeds", columns, rows, note))


def _replicate_row(group: Sequence[tuple[TrialRecord, float]]) -> Row:
    params = group[0][0].params
    scores = [score for _, score in group]
    return row(
        short(", ".join(str(trial.number) for trial, _ in group)),
        short(params.teacher or "no teacher", 40),
        recipe(params),
        f"{100 * min(scores):.1f} to {percent(max(scores))}",
        f"{100 * (max(scores) - min(scores)):.1f}",
    )

"""Fair controls: is it the teacher, or that its temperature was tuned?"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from autodistill import stats
from autodistill.formatting import sure
from autodistill.records import ControlRecord, StudyRecord
from autodistill.report.sections.parts import Cell, Column, Row, Table, number_columns, row
from autodistill.report.words import EMPTY, interval, percent, points, recipe, short

REGIMES = {"default": "Prior", "shared": "One for all", "own": "Its own best"}


@dataclass(frozen=True)
class ControlsInfo:
    table: Table | None
    findings: tuple[str, ...]
    note: str


def controls_info(record: StudyRecord) -> ControlsInfo:
    """What each teacher's student reaches with the prior, with the best configuration of all, and with its own."""
    if not record.controls:
        return ControlsInfo(None, (), _missing(record))
    teachers = list(dict.fromkeys(one.teacher for one in record.controls))
    columns = (Column("Teacher"), *number_columns(*REGIMES.values()), *number_columns("Own over shared, points"))
    rows = tuple(_row(record.controls, teacher) for teacher in teachers)
    shared = next(one for one in record.controls if one.regime == "shared")
    note = (
        f"Test accuracy over the same confirm seeds. One for all: {recipe(shared.params)}, the best of the search. "
        "Only what a teacher's own configuration gains over that one is an effect of choosing it for the teacher."
    )
    return ControlsInfo(Table("Fair controls", columns, rows, note), tuple(_findings(record.controls, teachers)), "")


def _missing(record: StudyRecord) -> str:
    if record.plan.controls:
        return "Fair controls are still to come."
    return (
        "Not measured: whether a difference comes from the teacher or from temperatures that were tuned for it. From "
        "a budget of 40 on, each finalist is also trained with the prior and with the best configuration of all."
    )


def _row(controls: Sequence[ControlRecord], teacher: str) -> Row:
    found = {one.regime: one for one in controls if one.teacher == teacher}
    cells = (_cell(found[regime]) if regime in found else Cell(EMPTY) for regime in REGIMES)
    gain = _difference(found["own"], found["shared"]) if found["own"].params != found["shared"].params else None
    return row(short(teacher), *cells, Cell(points(gain[0]), interval(*gain[1:])) if gain else EMPTY)


def _cell(one: ControlRecord) -> Cell:
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
    """Paired difference with its 95 % interval over the seeds that both have; None: they share none."""
    rows = ({run.seed: run.test_top1 for run in it.runs if run.test_top1 is not None} for it in (one, other))
    mine, yours = rows
    seeds = sorted(mine.keys() & yours.keys())
    if not seeds:
        return None
    scores = np.array([[mine[seed] for seed in seeds], [yours[seed] for seed in seeds]])
    difference = float((scores[0] - scores[1]).mean())
    if len(seeds) < 2 or np.ptp(scores[0] - scores[1]) == 0:
        return difference, None, None
    width = float(stats.compare(scores).half_width(stats.STATED)[0, 1])
    return difference, difference - width, difference + width

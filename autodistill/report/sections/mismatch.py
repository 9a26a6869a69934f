"""Capacity mismatch: does a better teacher, or a bigger one, make a better student?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autodistill.records import StudyRecord
from autodistill.report.sections.parts import (
    Cell,
    Figure,
    Row,
    Table,
    best_full_runs,
    number_columns,
    row,
    score,
    teacher_names,
    text_columns,
    verdict_of,
)
from autodistill.report.words import EMPTY, count, interval, percent, plural, short


@dataclass(frozen=True)
class MismatchPoint:
    teacher: str
    teacher_top1: float
    student_top1: float
    macs: int
    params: int


@dataclass(frozen=True)
class MismatchInfo:
    points: tuple[MismatchPoint, ...]
    """Teachers with a full run, by rising accuracy of their own."""
    teachers: tuple[str, ...]
    spearman: float | None
    """Of the teachers' accuracy with the students'."""
    spearman_params: float | None
    """Of the teachers' size with the students' accuracy."""
    regret: float | None
    """Accuracy lost by taking the most accurate teacher, on the search's validation scores."""
    no_teacher: float | None
    seed_std: float | None
    """Standard deviation of one run's seed noise between students of the same seed; None: not measured."""
    figure: Figure | None
    note: str


def mismatch_info(record: StudyRecord) -> MismatchInfo:
    """Teacher accuracy and size against student accuracy."""
    best = best_full_runs(record)
    found = [
        MismatchPoint(one.name, one.val_top1, score(best[one.name]), one.cost.macs, one.cost.params)
        for one in record.teachers
        if one.name in best
    ]
    found.sort(key=lambda one: (one.teacher_top1, one.teacher))
    students = [one.student_top1 for one in found]
    spearman = rank_correlation([one.teacher_top1 for one in found], students)
    by_size = rank_correlation([one.params for one in found], students)
    regret = max(students) - found[-1].student_top1 if found else None
    several = len(found) > 1 and regret is not None
    noise = verdict_of(record).seed_std
    return MismatchInfo(
        points=tuple(found),
        teachers=teacher_names(record),
        spearman=spearman,
        spearman_params=by_size,
        regret=regret,
        no_teacher=record.no_teacher.val_top1 if record.no_teacher else None,
        seed_std=noise,
        figure=_figure(record, found, spearman, regret) if several and regret is not None else None,
        note=_note(len(found), by_size, noise) if several else "It takes two teachers with a full run each.",
    )


def rank_correlation(x: Sequence[int | float], y: Sequence[int | float]) -> float | None:
    """Spearman's rho with mean ranks for ties; None below three pairs or where one side is constant."""
    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: Sequence[int | float]) -> np.ndarray:
    array = np.array(values)
    below, up_to = (array[:, None] > array).sum(axis=1), (array[:, None] >= array).sum(axis=1)
    return np.asarray((below + up_to + 1) / 2)


def _figure(record: StudyRecord, found: Sequence[MismatchPoint], spearman: float | None, regret: float) -> Figure:
    top = found[-1]
    rank = sum(one.student_top1 > top.student_top1 for one in found) + 1
    place = (
        "made the best student"
        if rank == 1
        else f"made student {rank} of {len(found)}, {100 * regret:.1f} points below the best"
    )
    rho = "" if spearman is None else f" (Spearman {spearman:+.2f} over {len(found)} teachers)"
    columns = (
        *text_columns("Teacher"),
        *number_columns("Teacher accuracy", "Best student", "Confirmed on test", "Params", "Teacher MACs"),
    )
    return Figure(
        finding=f"The most accurate teacher, {short(top.teacher)} ({percent(top.teacher_top1)}), {place}{rho}.",
        alt="Two scatters of the best student's accuracy, against the teacher's accuracy and its size, for "
        f"{len(found)} teachers.",
        table=Table(
            "Teacher accuracy and best student, on validation", columns, tuple(_row(record, one) for one in found)
        ),
    )


def _row(record: StudyRecord, point: MismatchPoint) -> Row:
    ranking = verdict_of(record).ranking
    confirmed = next((one for one in ranking if one.teacher == point.teacher and one.confirmed_test_top1), None)
    tested = Cell(EMPTY)
    if confirmed is not None and confirmed.confirmed_test_top1 is not None:
        below = interval(confirmed.low, confirmed.high, lambda value: f"{100 * value:.1f}")
        tested = Cell(percent(confirmed.confirmed_test_top1), f"{below}, {plural(confirmed.seeds, 'seed')}")
    return row(
        short(point.teacher),
        percent(point.teacher_top1),
        percent(point.student_top1),
        tested,
        count(point.params),
        count(point.macs),
    )


def _note(teachers: int, by_size: float | None, noise: float | None) -> str:
    size = "" if by_size is None else f" With the number of parameters the Spearman correlation is {by_size:+.2f}."
    bars = (
        "its place carries seed noise that nobody measured"
        if noise is None
        else "bars are two standard deviations of a run's seed noise either way, as measured between confirm runs"
    )
    return (
        f"Each of {teachers} points is the best full run of a teacher's trials, on validation: one run; {bars}. "
        f"A teacher with more trials had more chances.{size}"
    )

"""Rows of tables and CSV files: teachers and trials of a study, students of several studies."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from autodistill.cli import console
from autodistill.formatting import COSTS, count, interval, probability, quantity
from autodistill.records import StudentRow, StudyRecord, TrialParams, TrialRecord
from autodistill.report.parts import plain_kd_confirmed

Rows = Iterator[tuple[object, ...]]


class TeacherLine(NamedTuple):
    """A row of the leaderboard."""

    name: str
    method: str | None
    soft_weight: float | None
    val: float | None
    own: float | None
    params: int | None
    macs: int | None
    test: float | None = None
    low: float | None = None
    high: float | None = None
    p_best: float | None = None
    seeds: int = 0


TEACHER_KEYS = ("test", "val", "own", "params", "macs")
STUDENT_KEYS = ("test", "params", "macs", "size", "latency")
TEACHER_COLUMNS = (
    "teacher",
    "method",
    ">soft",
    ">test %",
    "95 % interval",
    ">P(best)",
    ">seeds",
    ">val %",
    ">own %",
    ">params",
)
STUDENT_COLUMNS = (
    "student",
    "teacher",
    "method",
    ">test %",
    "95 % interval",
    ">seeds",
    ">params",
    ">MACs",
    ">size",
    ">latency",
    "on the front by",
)
TRIAL_COLUMNS = (">#", "kind", "teacher", "method", ">soft", ">rung val %", ">full val %", "state", "params", "reason")


def teacher_lines(record: StudyRecord) -> list[TeacherLine]:
    """Return confirmed finalists in their order, then plain KD, then the other teachers by their own accuracy."""
    ranking = record.recommendation.ranking if record.recommendation else ()
    lines = []
    for row in ranking:
        line = _teacher_line(record, row.teacher or "no teacher", row.params, row.search_val_top1)
        lines.append(
            line._replace(test=row.confirmed_test_top1, low=row.low, high=row.high, p_best=row.p_best, seeds=row.seeds)
        )
    if record.plain_kd is not None and not plain_kd_confirmed(record):
        params = record.plain_kd.params
        lines.append(_teacher_line(record, f"plain KD, {params.teacher}", params, record.plain_kd.val_top1))
    ranked = {row.teacher for row in ranking}
    for teacher in sorted(record.teachers, key=lambda teacher: teacher.val_top1, reverse=True):
        if teacher.name not in ranked:
            trials = [trial for trial in record.trials if trial.params.teacher == teacher.name]
            best = max(trials, key=trial_score, default=None)
            params = best.params if best else TrialParams(teacher=teacher.name)
            val = record.search_score(params)
            lines.append(_teacher_line(record, teacher.name, params, val))
    return lines


def chosen_teachers(lines: Sequence[TeacherLine], *, pareto: bool, sort: str) -> list[TeacherLine]:
    """Return the rows of the leaderboard, sorted.

    Args:
        lines: Rows of the leaderboard.
        pareto: Return only the Pareto front of test accuracy against the teacher's MACs. Teachers without confirm runs
            are left out.
        sort: One of `TEACHER_KEYS`. Scores descend, costs ascend, unknown values come last.
    """
    if pareto:
        confirmed = [(line, line.macs or 0, line.test) for line in lines if line.test is not None]
        lines = [
            line
            for line, macs, test in confirmed
            if not any(m <= macs and t >= test and (m, t) != (macs, test) for _, m, t in confirmed)
        ]
    return lines_by(lines, sort)


def lines_by(lines: Sequence[TeacherLine], sort: str) -> list[TeacherLine]:
    """Sort rows by a key; rows without a value keep their order at the end."""
    sign = 1 if sort in ("params", "macs") else -1

    def place(line: TeacherLine) -> float:
        value = getattr(line, sort)
        return math.inf if value is None else sign * value

    return sorted(lines, key=place)


def teacher_rows(lines: Sequence[TeacherLine]) -> Rows:
    for line in lines:
        yield (
            line.name,
            line.method,
            None if line.soft_weight is None else f"{line.soft_weight:.2f}",
            console.percent(line.test),
            None if line.test is None else interval(line.low, line.high, _percent),
            None if line.p_best is None else probability(line.p_best),
            line.seeds,
            console.percent(line.val),
            console.percent(line.own),
            None if line.params is None else count(line.params),
        )


def chosen_students(rows: Sequence[StudentRow], *, pareto: bool, sort: str) -> list[StudentRow]:
    """Return students sorted by a key of `STUDENT_KEYS`; with `pareto`, only those on the Pareto front of some cost."""
    shown = [row for row in rows if row.front or not pareto]
    if sort == "test":
        return shown
    kind = {"size": "size_bytes", "latency": "latency_ms"}.get(sort, sort)
    return sorted(shown, key=lambda row: row.costs.get(kind, math.inf))  # type: ignore[call-overload]


def student_rows(rows: Sequence[StudentRow]) -> Rows:
    for row in rows:
        yield (
            row.student,
            row.teacher or "no teacher",
            row.params.method,
            console.percent(row.test_top1),
            None if row.test_top1 is None else interval(row.low, row.high, _percent),
            row.seeds,
            *(quantity(kind, row.costs[kind]) if kind in row.costs else None for kind in COSTS),
            ", ".join(COSTS[kind] for kind in row.front) or "none",
        )


def trial_rows(trials: Sequence[TrialRecord]) -> Rows:
    for trial in trials:
        params = " ".join(f"{name} {_rounded(value)}" for name, value in trial.params.method_params.items())
        yield (
            trial.number,
            _kind(trial),
            trial.params.teacher,
            trial.params.method,
            f"{trial.params.soft_weight:.2f}",
            console.percent(trial.rung.val_top1 if trial.rung else None),
            console.percent(trial.full.val_top1 if trial.full else None),
            trial.state,
            params,
            trial.reason or None,
        )


def trial_csv(trials: Sequence[TrialRecord]) -> Rows:
    """Yield the header and the rows of a CSV file of trials: every parameter in its own column, values not rounded."""
    keys = sorted({key for trial in trials for key in trial.params.method_params})
    yield (
        "number",
        "kind",
        "teacher",
        "method",
        *keys,
        "tau_student",
        "soft_weight",
        "seed",
        "short_val_top1",
        "full_val_top1",
        "state",
        "reason",
    )
    for trial in trials:
        params = trial.params
        yield (
            trial.number,
            _kind(trial),
            params.teacher,
            params.method,
            *(params.method_params.get(key) for key in keys),
            params.tau_student,
            params.soft_weight,
            trial.seed,
            trial.rung.val_top1 if trial.rung else None,
            trial.full.val_top1 if trial.full else None,
            trial.state,
            trial.reason,
        )


def student_csv(rows: Sequence[StudentRow]) -> Rows:
    """Yield the header and the rows of a CSV file of students."""
    yield ("student", "study", "teacher", "method", "test_top1", "low", "high", "seeds", *COSTS, "front")
    for row in rows:
        costs = (row.costs.get(kind) for kind in COSTS)
        front = " ".join(row.front)
        yield (
            row.student,
            row.study,
            row.teacher,
            row.params.method,
            row.test_top1,
            row.low,
            row.high,
            row.seeds,
            *costs,
            front,
        )


def trial_score(trial: TrialRecord) -> tuple[float, float]:
    """Return a sort key: trials with a full run above those with a rung only, trials without a score lowest."""
    full = trial.full.val_top1 if trial.full else None
    rung = trial.rung.val_top1 if trial.rung else None
    return (full if full is not None else -1.0, rung if rung is not None else -1.0)


def _teacher_line(record: StudyRecord, name: str, params: TrialParams, val: float | None) -> TeacherLine:
    teacher = next((teacher for teacher in record.teachers if teacher.name == params.teacher), None)
    return TeacherLine(
        name=name,
        method=params.method,
        soft_weight=params.soft_weight if params.method else None,
        val=val,
        own=teacher.val_top1 if teacher else None,
        params=teacher.cost.params if teacher else None,
        macs=teacher.cost.macs if teacher else None,
    )


def _kind(trial: TrialRecord) -> str:
    return trial.kind if trial.replicate_of is None else f"replicate of {trial.replicate_of}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _rounded(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

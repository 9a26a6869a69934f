"""The section on scores that take no training: would they have chosen the right teacher in this study?"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from autodistill.formatting import EMPTY, plural, short
from autodistill.records import InspectionRecord, TeacherRecord
from autodistill.report.parts import Column, Table, best_full_runs, number_columns, row, score
from autodistill.report.teachers import TAU, Teachers, at, by_size, profile_of
from autodistill.report.verdict import rank_correlation

MIN_TRUSTED = 10
"""Number of teachers from which an order of scores can be trusted."""


class Score(NamedTuple):
    """A figure of a teacher that is said to predict the better student."""

    label: str
    value: Callable[[TeacherRecord], float]
    more: bool
    """True if more is said to be better."""


SCORES = (
    Score("accuracy", lambda one: one.val_top1, more=True),
    Score("NLL", lambda one: one.val_nll, more=False),
    Score("calibration error", lambda one: one.val_ece, more=False),
    Score("label's probability on train", lambda one: profile_of(one).train.target_probability, more=False),
    Score("inherent variance at tau 4", lambda one: at(profile_of(one).spread, TAU).inherent_variance, more=True),
    Score("derived variance at tau 4", lambda one: at(profile_of(one).spread, TAU).derived_variance, more=True),
    Score("parameters", lambda one: float(one.cost.params), more=True),
    Score("parameters", lambda one: float(one.cost.params), more=False),
)
"""Sources. Accuracy: common practice. NLL: Menon et al., ICML 2021. Label's probability (less certain teachers): Cho
and Hariharan, ICCV 2019. Variances: Li et al., NeurIPS 2022, Fan et al. 2026. Size: both directions are claimed."""


@dataclass(frozen=True)
class Ranked:
    """The result of choosing the teacher by one score."""

    label: str
    picked: str
    regret: float
    """Accuracy of the best student minus that of the picked teacher's student."""
    spearman: float | None
    """Correlation of the score, signed so that higher should be better, with the students' accuracies.

    None for fewer than three teachers.
    """


@dataclass(frozen=True)
class ScoresInfo:
    ranked: tuple[Ranked, ...]
    """In the order of `SCORES`; empty if fewer than two teachers have a student."""
    regret_at_random: float | None
    """Mean regret over the teachers."""
    ranking: Table | None
    finding: str
    note: str


def scores_info(record: Teachers) -> ScoresInfo:
    """Return the regret of choosing the teacher of this study by each score that takes no training."""
    students = _students(record)
    teachers = [one for one in by_size(record) if one.name in students]
    if len(teachers) < 2:
        return ScoresInfo((), None, None, "", "")
    ranked = tuple(_ranked(one, teachers, students) for one in SCORES)
    regrets = [max(students.values()) - students[one.name] for one in teachers]
    at_random = math.fsum(regrets) / len(regrets)
    return ScoresInfo(
        ranked=ranked,
        regret_at_random=at_random,
        ranking=_scores_table(ranked, at_random, len(teachers)),
        finding=_scores_finding(ranked[0], at_random),
        note=_scores_note(len(teachers)),
    )


def _students(record: Teachers) -> dict[str, float]:
    """Return the accuracy of the best full run of each profiled teacher."""
    if isinstance(record, InspectionRecord):
        return {}
    best = best_full_runs(record)
    return {one.name: score(best[one.name]) for one in by_size(record) if one.name in best}


def _ranked(one: Score, teachers: Sequence[TeacherRecord], students: Mapping[str, float]) -> Ranked:
    sign = 1 if one.more else -1
    figures = [sign * one.value(teacher) for teacher in teachers]
    results = [students[teacher.name] for teacher in teachers]
    picked = max(range(len(teachers)), key=figures.__getitem__)
    return Ranked(
        label=f"{one.label}, {'more' if one.more else 'less'} is better",
        picked=teachers[picked].name,
        regret=max(results) - results[picked],
        spearman=rank_correlation(figures, results),
    )


def _scores_table(ranked: Sequence[Ranked], at_random: float, teachers: int) -> Table:
    columns = (
        *(Column("Score", long=True), Column("Teacher it picks")),
        *number_columns("Regret, points", "Spearman with the students"),
    )
    best_first = sorted(ranked, key=lambda one: (one.regret, -(one.spearman or 0.0)))
    rows = [
        row(
            one.label,
            short(one.picked, 40),
            f"{100 * one.regret:.1f}",
            EMPTY if one.spearman is None else f"{one.spearman:+.2f}",
        )
        for one in best_first
    ]
    rows.append(row("a teacher drawn at random", EMPTY, f"{100 * at_random:.1f}", EMPTY, mark="baseline"))
    caption = f"Choosing by a score that takes no training (n = {plural(teachers, 'teacher')})"
    return Table(caption, columns, tuple(rows))


def _scores_finding(accuracy: Ranked, at_random: float) -> str:
    result = "cost nothing" if accuracy.regret == 0 else f"cost {100 * accuracy.regret:.1f} points"
    return (
        f"Taking the most accurate teacher, {short(accuracy.picked)}, would have {result} against the best choice in "
        f"this study; taking a teacher at random, {100 * at_random:.1f} points on average."
    )


def _scores_note(teachers: int) -> str:
    caution = (
        f"{teachers} teachers are too few to trust any of these orders: a random order is perfect with a chance of 1 "
        f"in {math.factorial(teachers):,}, and {len(SCORES)} scores have as many chances. "
        if teachers < MIN_TRUSTED
        else ""
    )
    return (
        f"{caution}Regret is measured against the best student on validation. Each student is the best full run of "
        "its teacher, a single run: seed noise counts as regret too, and a teacher with more trials had more chances."
    )

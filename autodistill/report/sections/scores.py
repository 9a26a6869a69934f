"""Scores that take no training, and how well each would have ranked this study's teachers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from autodistill.records import InspectionRecord, TeacherRecord
from autodistill.report.sections.mismatch import rank_correlation
from autodistill.report.sections.parts import Column, Table, best_full_runs, number_columns, row, score
from autodistill.report.sections.profiles import TAU, Teachers, at, by_size, profile_of
from autodistill.report.words import EMPTY, plural, short

FEW = 10
"""Teachers below which no order of scores is to be trusted."""


class Score(NamedTuple):
    """A figure of a teacher, and which end of it is said to make the better student."""

    label: str
    value: Callable[[TeacherRecord], float]
    more: bool
    """Whether more is said to be better."""


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
"""Accuracy is what people go by; NLL: Menon et al., ICML 2021; the label's probability: less sure teachers, Cho and
Hariharan, ICCV 2019; variances: Li et al., NeurIPS 2022, Fan et al. 2026; size: both ways are said."""


@dataclass(frozen=True)
class Ranked:
    """How a score would have done as the way to choose a teacher."""

    label: str
    picked: str
    regret: float
    """Accuracy of the best student minus that of the picked teacher's."""
    spearman: float | None
    """With the students' accuracies, the better end counted up; None below three teachers."""


@dataclass(frozen=True)
class ScoresInfo:
    ranked: tuple[Ranked, ...]
    """In the order of `SCORES`; empty where fewer than two teachers have a student to compare."""
    regret_at_random: float | None
    """Mean over the teachers."""
    ranking: Table | None
    finding: str
    note: str


def scores_info(record: Teachers) -> ScoresInfo:
    """What following each figure of the teachers alone would have cost in this study."""
    students = _students(record)
    teachers = [one for one in by_size(record) if one.name in students]
    if len(teachers) < 2:
        return ScoresInfo((), None, None, "", "")
    ranked = tuple(_ranked(one, teachers, students) for one in SCORES)
    lost = [max(students.values()) - students[one.name] for one in teachers]
    chance = math.fsum(lost) / len(lost)
    return ScoresInfo(
        ranked=ranked,
        regret_at_random=chance,
        ranking=_ranking(ranked, chance, len(teachers)),
        finding=_finding(ranked[0], chance),
        note=_note(len(teachers)),
    )


def _students(record: Teachers) -> dict[str, float]:
    """Accuracy of the best full run by profiled teacher."""
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


def _ranking(ranked: Sequence[Ranked], chance: float, teachers: int) -> Table:
    columns = (
        *(Column("Following", long=True), Column("takes")),
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
    rows.append(row("a teacher drawn at random", EMPTY, f"{100 * chance:.1f}", EMPTY, mark="baseline"))
    caption = f"Had one followed a score that takes no training (n = {plural(teachers, 'teacher')})"
    return Table(caption, columns, tuple(rows))


def _finding(own: Ranked, chance: float) -> str:
    result = "cost nothing" if own.regret == 0 else f"cost {100 * own.regret:.1f} points"
    return (
        f"Taking the most accurate teacher, {short(own.picked)}, would have {result} against the best choice in this "
        f"study, taking one at random {100 * chance:.1f} points on average."
    )


def _note(teachers: int) -> str:
    caution = (
        f"{teachers} teachers are too few to trust any of these orders: one drawn at random is perfect with a chance "
        f"of 1 in {math.factorial(teachers):,}, and {len(SCORES)} scores have as many chances. "
        if teachers < FEW
        else ""
    )
    return (
        f"{caution}Regret is measured against the best student on validation. Each student is its teacher's best "
        "full run, a single one: seed noise counts as regret too, and a teacher with more trials had more chances."
    )

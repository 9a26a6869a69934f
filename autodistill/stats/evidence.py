"""The confirm runs of a study as a two-way table of scores, and the answers its intervals give."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.special import fdtrc, stdtrit

from autodistill import stats
from autodistill.records import Contrast, FinalistRecord, RankRow, RunResult, SeedsToSettle, StudyRecord
from autodistill.stats.intervals import accuracy_error, difference_error

WIDEST = 0.5
"""A wider interval, over half the scale of an accuracy, is not reported: there are too few seeds."""

Answer = Literal["helps", "does_not_help", "cannot_tell"]


@dataclass(frozen=True)
class Finalist:
    """A finalist with at least one confirm run."""

    record: FinalistRecord
    scores: dict[int, float]
    """Test accuracy by seed."""

    @property
    def mean(self) -> float:
        return math.fsum(self.scores.values()) / len(self.scores)


@dataclass(frozen=True)
class Race:
    """The end of a study whose confirm runs were raced."""

    left: int
    """Confirm runs that were not needed."""
    runs: int
    """Confirm runs that the budget paid for."""
    share: float
    """Share of the error probability that the last look spent."""


@dataclass(frozen=True)
class Evidence:
    """The finalists, best first, and the table of scores of the finalists that have intervals.

    The baseline without a teacher is a row of the table like any other: it was trained over the same seeds.
    """

    finalists: tuple[Finalist, ...]
    members: tuple[Finalist, ...]
    """Finalists with two runs or more, in the order of the table's rows; empty if no two share two seeds."""
    threshold: float
    images: int
    """Number of test images."""
    race: Race | None = None

    @cached_property
    def table(self) -> Float[np.ndarray, "finalists seeds"]:
        """Test accuracies; NaN where a run failed or was not needed."""
        return _table(self.members)

    @cached_property
    def _pairs(self) -> stats.Pairs:
        return stats.compare(self.table)

    @cached_property
    def _bounds(self) -> stats.Bounds:
        return stats.bounds(self._pairs, share=self._share)

    @property
    def _share(self) -> float:
        return self.race.share if self.race else 1.0

    @property
    def teachers(self) -> list[str]:
        return [one.record.teacher for one in self.finalists if one.record.teacher is not None]

    def finalist(self, teacher: str | None) -> Finalist | None:
        """Return the finalist of a teacher; None stands for no teacher."""
        return next((one for one in self.finalists if one.record.teacher == teacher), None)

    def row(self, teacher: str | None) -> int | None:
        """Return the table's row of a teacher."""
        return next((row for row, one in enumerate(self.members) if one.record.teacher == teacher), None)

    def better(self, teacher: str, other: str) -> bool:
        """Return whether a teacher is better than another by at least the threshold."""
        cell = self._cell(teacher, other)
        return cell is not None and bool(stats.better(self._bounds, threshold=self.threshold)[cell])

    def answer(self, teacher: str) -> Answer:
        """Return whether a teacher helps."""
        cell = self._cell(teacher, None)
        if cell is None:
            return "cannot_tell"
        if stats.helps(self._bounds)[cell]:
            return "helps"
        return "does_not_help" if stats.does_not_help(self._bounds, threshold=self.threshold)[cell] else "cannot_tell"

    def behind(self, teacher: str) -> bool:
        """Return whether a teacher's students have a lower mean than students without a teacher."""
        contrast = self.contrast(teacher, None)
        return contrast is not None and contrast.difference < 0

    def contrast(self, teacher: str, versus: str | None) -> Contrast | None:
        """Return `teacher` minus `versus`; None if `versus` has no confirm run."""
        one, other = self.finalist(teacher), self.finalist(versus)
        if one is None or other is None:
            return None
        sampling = difference_error(one.mean, other.mean, images=self.images)
        cell = self._cell(teacher, versus)
        if cell is None:
            return Contrast(teacher=teacher, versus=versus, difference=one.mean - other.mean, sampling=sampling)
        difference, width = float(self._pairs.difference[cell]), float(self._pairs.half_width()[cell])
        low, high = (difference - width, difference + width) if 2 * width <= WIDEST else (None, None)
        return Contrast(
            teacher=teacher,
            versus=versus,
            difference=difference,
            low=low,
            high=high,
            at_least=float(self._bounds.at_least[cell]),
            sampling=sampling,
        )

    def seeds_to_settle(self, teacher: str, versus: str | None) -> SeedsToSettle | None:
        """Return the number of seeds that would decide a pair; None if the pair has no interval yet."""
        cell = self._cell(teacher, versus)
        if cell is None:
            return None
        difference, error, dof = (float(part[cell]) for part in self._pairs)
        seeds = stats.seeds_to_settle(
            difference,
            error,
            dof,
            int((~np.isnan(self.table[list(cell)])).all(axis=0).sum()),
            threshold=self.threshold,
            gain=versus is None,
            share=self._share,
        )
        return SeedsToSettle(teacher=teacher, versus=versus, seeds=seeds)

    def _cell(self, teacher: str, versus: str | None) -> tuple[int, int] | None:
        """Return the table's cell that compares two finalists; None if they share fewer than two seeds."""
        one, other = self.row(teacher), self.row(versus)
        if one is None or other is None or np.isnan(self._pairs.standard_error[one, other]):
            return None
        return one, other


def collect(record: StudyRecord, *, threshold: float) -> Evidence:
    """Collect the confirm runs that ended with a test accuracy."""
    found = [Finalist(one, _test_scores(one.runs)) for one in record.finalists]
    found = [one for one in found if one.scores]
    members = tuple(one for one in found if len(one.scores) > 1)
    means = {one.record.teacher: one.mean for one in found}
    if members and np.isnan(stats.compare(_table(members)).standard_error).all():
        members = ()
    if members:
        means |= dict(zip((one.record.teacher for one in members), _means(members), strict=True))
    ranked = sorted(found, key=lambda one: (-means[one.record.teacher], one.record.teacher or ""))
    return Evidence(tuple(ranked), members, threshold, record.data.test, _race(record))


def seed_noise(evidence: Evidence) -> tuple[float, float] | None:
    """Test whether the finalists differ by more than seed noise.

    Returns:
        The residual standard deviation of one run and the p of an F test of the finalists; None without intervals.
    """
    if not evidence.members:
        return None
    fitted = stats.fit(evidence.table)
    rank, dof = int(fitted.rank), int(fitted.residual_dof)
    variance, between = float(fitted.residual_ss) / dof, float(fitted.between_ss) / rank
    p = float(fdtrc(rank, dof, between / variance)) if variance > 0 else float(between == 0)
    return math.sqrt(variance), p


def contrasts(evidence: Evidence) -> list[Contrast]:
    """Return the better teacher minus the worse for every pair, then each teacher minus no teacher."""
    pairs = [*combinations(evidence.teachers, 2), *((teacher, None) for teacher in evidence.teachers)]
    return [contrast for pair in pairs if (contrast := evidence.contrast(*pair)) is not None]


def ranking(evidence: Evidence) -> list[RankRow]:
    """Return the finalists, best first, each with the Student-t interval of its own runs alone."""
    probable = stats.probability_best(evidence.table) if evidence.members else None
    rows = []
    for one in evidence.finalists:
        row = evidence.row(one.record.teacher)
        p_best = None if probable is None or row is None else float(probable[row])
        rows.append(_rank_row(one, p_best=p_best, images=evidence.images))
    return rows


def _rank_row(one: Finalist, *, p_best: float | None, images: int) -> RankRow:
    low, high = _own_interval(one)
    validation = [run.val_top1 for run in one.record.runs if run.seed in one.scores and run.val_top1 is not None]
    confirmed = math.fsum(validation) / len(validation) if validation else None
    searched = one.record.search_val_top1
    return RankRow(
        teacher=one.record.teacher,
        params=one.record.params,
        seeds=len(one.scores),
        confirmed_test_top1=one.mean,
        low=low,
        high=high,
        confirmed_val_top1=confirmed,
        search_val_top1=searched,
        search_gap=None if searched is None or confirmed is None else searched - confirmed,
        p_best=p_best,
        sampling=accuracy_error(one.mean, images=images),
    )


def _own_interval(one: Finalist) -> tuple[float | None, float | None]:
    scores = np.array(list(one.scores.values()))
    if len(scores) < 2:
        return None, None
    width = float(stdtrit(len(scores) - 1, 0.975) * scores.std(ddof=1) / math.sqrt(len(scores)))
    return (max(0.0, one.mean - width), min(1.0, one.mean + width)) if 2 * width <= WIDEST else (None, None)


def _race(record: StudyRecord) -> Race | None:
    planned, finalists = record.plan.race, len(record.finalists)
    if planned is None or finalists < 3:
        return None
    runs = finalists * planned.seeds
    left = runs - sum(len(one.runs) for one in record.finalists)
    looks = stats.most_looks(finalists * (planned.seeds - planned.first))
    return Race(left, runs, float(stats.share(left, looks)))


def _table(members: Sequence[Finalist]) -> Float[np.ndarray, "finalists seeds"]:
    seeds = sorted(set().union(*(one.scores for one in members)))
    return np.array([[one.scores.get(seed, math.nan) for seed in seeds] for one in members], dtype=float)


def _means(members: Sequence[Finalist]) -> list[float]:
    """Return each finalist's mean, with seed effects removed where runs are missing."""
    table = _table(members)
    fitted = stats.fit(table)
    if not np.isnan(table).any() or fitted.rank < len(members) - 1:
        return [one.mean for one in members]
    by_seed = np.nanmean(table - fitted.effects[:, None], axis=0)
    return [float(effect + by_seed.mean()) for effect in fitted.effects]


def _test_scores(runs: Sequence[RunResult]) -> dict[int, float]:
    scores = {run.seed: run.test_top1 for run in runs}
    return {seed: score for seed, score in scores.items() if score is not None and math.isfinite(score)}

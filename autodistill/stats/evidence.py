"""The confirm runs of a study as a two-way table of scores, and the answers its intervals give."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.special import fdtrc

from autodistill import stats
from autodistill.formatting import short
from autodistill.records import Contrast, FinalistRecord, RankRow, SeedsToSettle, StudyRecord, TrialParams, TrialRecord
from autodistill.stats.tuning import basis

WIDEST = 0.5
"""A wider interval, over half the scale of an accuracy, is not reported (`formatting.TOO_WIDE`)."""

MAX_REASON = 120

Answer = Literal["helps", "does_not_help", "cannot_tell"]


@dataclass(frozen=True)
class Finalist:
    """A finalist with its confirm runs."""

    record: FinalistRecord

    @cached_property
    def scores(self) -> dict[int, float]:
        """Test accuracy by seed."""
        return stats.scores_by_seed(self.record.runs)

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


def ends(middle: float, half_width: float) -> dict[str, float]:
    """Return the ends of an interval as fields of a record; none if the interval is missing or too wide."""
    return {"low": middle - half_width, "high": middle + half_width} if 2 * half_width <= WIDEST else {}


def accuracy_ends(mean: float, half_width: float) -> dict[str, float]:
    """Return the ends of an interval on an accuracy, which lies between 0 and 1."""
    return {name: min(1.0, max(0.0, end)) for name, end in ends(mean, half_width).items()}


@dataclass(frozen=True)
class Evidence:
    """The finalists by teacher, best first, and the table of scores of the finalists that have intervals.

    The baseline without a teacher, None, is a row of the table like any other: it was trained over the same seeds.
    """

    finalists: dict[str | None, Finalist]
    members: tuple[Finalist, ...]
    """Finalists with two runs or more, in the order of the table's rows; empty if no two share two seeds."""
    table: Float[np.ndarray, "finalists seeds"]
    """Test accuracies; NaN where a run failed or was not needed."""
    threshold: float
    record: StudyRecord

    @cached_property
    def race(self) -> Race | None:
        planned, finalists = self.record.plan.race, len(self.record.finalists)
        if planned is None or finalists < 3:
            return None
        runs = finalists * planned.seeds
        left = runs - sum(len(one.runs) for one in self.record.finalists)
        share = stats.share(left, finalists * (planned.seeds - planned.first))
        return Race(left, runs, float(share))

    @property
    def _share(self) -> float:
        """Share of the error probability that the decision may spend."""
        return self.race.share if self.race else 1.0

    @property
    def step(self) -> float:
        """Smallest difference between two test accuracies."""
        return 1 / self.record.data.test

    @cached_property
    def rows(self) -> dict[str | None, int]:
        """The table's row of each member."""
        return {one.record.teacher: row for row, one in enumerate(self.members)}

    @cached_property
    def _pairs(self) -> stats.Pairs:
        return stats.compare(self.table, step=self.step)

    @cached_property
    def _bounds(self) -> stats.Bounds:
        return stats.bounds(self._pairs, share=self._share)

    @property
    def teachers(self) -> list[str]:
        return [teacher for teacher in self.finalists if teacher is not None]

    def better(self, teacher: str, other: str) -> bool:
        """Return whether a teacher is better than another by at least the threshold."""
        cell = self._cell(teacher, other)
        return cell is not None and bool(self._bounds.better(self.threshold)[cell])

    def answer(self, teacher: str) -> Answer:
        """Return whether a teacher helps."""
        cell = self._cell(teacher, None)
        if cell is None:
            return "cannot_tell"
        if self._bounds.helps()[cell]:
            return "helps"
        return "does_not_help" if self._bounds.does_not_help(self.threshold)[cell] else "cannot_tell"

    def behind(self, teacher: str) -> bool:
        """Return whether a teacher's students have a lower mean than students without a teacher."""
        return None in self.finalists and self.contrast(teacher, None).difference < 0

    def contrast(self, teacher: str, versus: str | None) -> Contrast:
        """Return `teacher` minus `versus`, two finalists."""
        one, other = self.finalists[teacher], self.finalists[versus]
        difference, interval = one.mean - other.mean, {}
        cell = self._cell(teacher, versus)
        if cell is not None:
            difference = float(self._pairs.difference[cell])
            interval = ends(difference, float(self._pairs.half_width()[cell]))
            interval["at_least"] = float(self._bounds.at_least[cell])
        ahead, behind = (one, other) if difference >= 0 else (other, one)
        evidence = None if versus is None else basis(self.record, ahead.record, behind.record, threshold=self.threshold)
        return Contrast(
            teacher=teacher,
            versus=versus,
            difference=difference,
            **interval,
            sampling=stats.difference_error(one.mean, other.mean, images=self.record.data.test),
            basis=evidence,
        )

    @cached_property
    def label_smoothing(self) -> Finalist | None:
        """The control with label smoothing; None without a finished run."""
        found = Finalist(FinalistRecord(teacher=None, params=TrialParams(), runs=self.record.label_smoothing))
        return found if found.scores else None

    def versus_label_smoothing(self, teacher: str) -> Contrast | None:
        """Return a teacher minus label smoothing; None where label smoothing was not tried.

        The noise comes from all finalists, as for the other differences.
        """
        control = self.label_smoothing
        if control is None:
            return None
        difference, interval = self.finalists[teacher].mean - control.mean, {}
        if teacher in self.rows:
            pairs = stats.compare(_table((*self.members, control)), step=self.step)
            at = (self.rows[teacher], len(self.members))
            interval = ends(float(pairs.difference[at]), float(pairs.half_width()[at]))
            if interval:
                difference = float(pairs.difference[at])
                interval["at_least"] = float(stats.bounds(pairs).at_least[at])
        return Contrast(teacher=teacher, versus=None, difference=difference, **interval)

    def contrasts(self) -> tuple[Contrast, ...]:
        """Return the better teacher minus the worse for every pair, then each teacher minus no teacher."""
        against_none = [(teacher, None) for teacher in self.teachers if None in self.finalists]
        return tuple(self.contrast(*pair) for pair in [*combinations(self.teachers, 2), *against_none])

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
        one, other = self.rows.get(teacher), self.rows.get(versus)
        if one is None or other is None or np.isnan(self._pairs.standard_error[one, other]):
            return None
        return one, other

    @property
    def label_smoothing_row(self) -> RankRow | None:
        """The scores of the control with label smoothing."""
        return None if self.label_smoothing is None else self._rank_row(self.label_smoothing)

    @cached_property
    def seed_noise(self) -> tuple[float, float] | None:
        """The residual standard deviation of one run and the p of an F test of the finalists; None without intervals.

        The test asks whether the finalists differ by more than seed noise.
        """
        if not self.members:
            return None
        fitted = stats.fit(self.table)
        rank, dof = int(fitted.rank), int(fitted.residual_dof)
        variance = max(float(fitted.residual_ss) / dof, stats.ROUNDED * self.step**2)
        between = float(fitted.between_ss) / rank
        return math.sqrt(variance), float(fdtrc(rank, dof, between / variance))

    def ranking(self) -> list[RankRow]:
        """Return the finalists, best first, each with the Student-t interval of its own runs alone."""
        probable = stats.probability_best(self.table, step=self.step) if self.members else None
        p_best = {} if probable is None else {name: float(probable[row]) for name, row in self.rows.items()}
        return [self._rank_row(one, p_best.get(name)) for name, one in self.finalists.items()]

    def _rank_row(self, one: Finalist, p_best: float | None = None) -> RankRow:
        runs = [run for run in one.record.runs if run.seed in one.scores]
        confirmed, searched = stats.mean(run.val_top1 for run in runs), one.record.search_val_top1
        _, half_width = stats.own_mean(np.array(list(one.scores.values())), step=self.step)
        return RankRow(
            teacher=one.record.teacher,
            params=one.record.params,
            seeds=len(one.scores),
            confirmed_test_top1=one.mean,
            confirmed_test_balanced_top1=stats.mean(run.test_balanced_top1 for run in runs),
            **accuracy_ends(one.mean, half_width),
            confirmed_val_top1=confirmed,
            search_val_top1=searched,
            search_gap=None if searched is None or confirmed is None else searched - confirmed,
            p_best=p_best,
            sampling=stats.accuracy_error(one.mean, images=self.record.data.test),
        )


def collect(record: StudyRecord, *, threshold: float) -> Evidence:
    """Collect the confirm runs that ended with a test accuracy."""
    found = [one for one in map(Finalist, record.finalists) if one.scores]
    members = tuple(one for one in found if len(one.scores) > 1)
    table = _table(members)
    if members and np.isnan(stats.compare(table).standard_error).all():
        members = ()
    means = {one.record.teacher: one.mean for one in found}
    if members and np.isnan(table).any() and stats.fit(table).rank == len(members) - 1:
        # Correct every mean for the effects of the seeds that it has.
        for one, mean in zip(members, stats.adjusted_means(table), strict=True):
            means[one.record.teacher] = float(mean)
    ranked = sorted(found, key=lambda one: (-means[one.record.teacher], one.record.teacher or ""))
    finalists = {one.record.teacher: one for one in ranked}
    return Evidence(finalists, members, table, threshold, record)


def _table(members: Sequence[Finalist]) -> Float[np.ndarray, "finalists seeds"]:
    rows = [one.scores for one in members]
    return stats.score_table(rows, set().union(*rows))


def all_failed(name: str, trials: Sequence[TrialRecord]) -> Iterator[str]:
    """Say so if every trial of a teacher or of a method failed, and why the first did."""
    if trials and all(trial.state == "failed" for trial in trials):
        reason = short(trials[0].reason or "no reason recorded", MAX_REASON)
        yield f"Every trial of {name} failed ({len(trials)}), the first with: {reason}."

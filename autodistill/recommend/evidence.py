"""The finalists' confirm runs as one layout, and the noise they share.

The finalists, the no-teacher baseline among them, were all trained over the same seeds, so a study's confirm runs
are a finalists x seeds layout. Differences are paired over its seeds, and their noise is one residual variance pooled
over the layout: score = finalist + seed + residual, s^2 = residual sum of squares / ((k - 1)(n - 1)) for k finalists
and n seeds; a difference of two means has the variance 2 s^2 / n and a Student-t interval with (k - 1)(n - 1) degrees
of freedom.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float
from scipy.special import fdtrc, stdtrit

from autodistill.records import Contrast, FinalistRecord, RankRow, RunRecord, StudyRecord

MOST_SEEDS = 50

Scores = Float[np.ndarray, "*draws finalists seeds"]


def residual(scores: Scores) -> tuple[Float[np.ndarray, "*draws"], int]:
    """Pool what finalist and seed means leave over: its variance and its degrees of freedom, (k - 1)(n - 1).

    Args:
        scores: k finalists x n seeds, both at least 2; leading axes are independent layouts.
    """
    finalists, seeds = scores.shape[-2:]
    by_finalist = scores.mean(axis=-1, keepdims=True)
    by_seed = scores.mean(axis=-2, keepdims=True)
    left = scores - by_finalist - by_seed + scores.mean(axis=(-2, -1), keepdims=True)
    freedom = (finalists - 1) * (seeds - 1)
    return np.asarray((left**2).sum(axis=(-2, -1)) / freedom), freedom


def half_width(scores: Scores) -> Float[np.ndarray, "*draws"]:
    """Half the width of the 95 % interval on a difference between two finalists' means."""
    variance, freedom = residual(scores)
    return np.asarray(stdtrit(freedom, 0.975) * np.sqrt(2 * variance / scores.shape[-1]))


@dataclass(frozen=True)
class Finalist:
    """A finalist with at least one confirm run: test accuracy by seed."""

    record: FinalistRecord
    scores: dict[int, float]

    @property
    def mean(self) -> float:
        return math.fsum(self.scores.values()) / len(self.scores)


@dataclass(frozen=True)
class Evidence:
    """The finalists by falling mean, and the intervals between those that share a complete layout.

    The no-teacher baseline is a row of the layout: it was trained over the same seeds, and it doubles the degrees of
    freedom of the usual three finalists (4 in place of 2 with 3 seeds, which narrows an interval by a third).
    """

    finalists: tuple[Finalist, ...]
    layout: dict[str | None, tuple[float, ...]]
    """Scores over the shared seeds, for the finalists that the intervals rest on; empty where there are none."""

    @property
    def table(self) -> Float[np.ndarray, "finalists seeds"]:
        return np.array(list(self.layout.values()), dtype=float)

    @property
    def teachers(self) -> list[str]:
        return [one.record.teacher for one in self.finalists if one.record.teacher is not None]

    def of(self, teacher: str | None) -> Finalist | None:
        return next((one for one in self.finalists if one.record.teacher == teacher), None)

    def contrast(self, teacher: str, versus: str | None) -> Contrast | None:
        """`teacher` minus `versus`; None where `versus` has no confirm run."""
        one, other = self.of(teacher), self.of(versus)
        if one is None or other is None:
            return None
        difference = one.mean - other.mean
        if teacher not in self.layout or versus not in self.layout:
            return Contrast(teacher=teacher, versus=versus, difference=difference)
        width = float(half_width(self.table))
        return Contrast(
            teacher=teacher, versus=versus, difference=difference, low=difference - width, high=difference + width
        )


def collect(record: StudyRecord) -> Evidence:
    """Gather the confirm runs that ended with a test accuracy."""
    found = [Finalist(one, _test_scores(one.runs)) for one in record.finalists]
    found = [one for one in found if one.scores]
    # A finalist left with a single run would cost everybody their intervals, so it stands outside the layout.
    members = [one for one in found if len(one.scores) > 1]
    seeds = sorted(set.intersection(*(set(one.scores) for one in members))) if members else []
    if len(members) < 2 or len(seeds) < 2:
        return Evidence(_by_mean(found), {})
    shared = {one.record.teacher: Finalist(one.record, {seed: one.scores[seed] for seed in seeds}) for one in members}
    layout = {teacher: tuple(one.scores.values()) for teacher, one in shared.items()}
    return Evidence(_by_mean([shared.get(one.record.teacher, one) for one in found]), layout)


def seed_noise(evidence: Evidence) -> tuple[float, float] | None:
    """Do the finalists differ by more than seed noise?

    Returns:
        The residual standard deviation of one run, and the p of an F test of the finalists over the layout; None
        without a layout.
    """
    if not evidence.layout:
        return None
    table = evidence.table
    finalists, seeds = table.shape
    variance, freedom = residual(table)
    between = seeds * float(table.mean(axis=1).var(ddof=1))
    p = float(fdtrc(finalists - 1, freedom, between / variance)) if variance > 0 else float(between == 0)
    return math.sqrt(variance), p


def seeds_to_settle(evidence: Evidence, difference: float) -> int | None:
    """Seeds at which a difference of this size would exclude 0, were the measured noise to stay; None: over 50."""
    noise = math.sqrt(float(residual(evidence.table)[0]))
    finalists = len(evidence.layout)
    for seeds in range(2, MOST_SEEDS + 1):
        if stdtrit((finalists - 1) * (seeds - 1), 0.975) * noise * math.sqrt(2 / seeds) < abs(difference):
            return seeds
    return None


def contrasts(evidence: Evidence) -> list[Contrast]:
    """The better teacher minus the worse, pair by pair, then each teacher minus no teacher."""
    pairs = [*combinations(evidence.teachers, 2), *((teacher, None) for teacher in evidence.teachers)]
    return [contrast for pair in pairs if (contrast := evidence.contrast(*pair)) is not None]


def rank_row(one: Finalist) -> RankRow:
    """A finalist's confirmed mean, with the Student-t interval of its own runs alone."""
    scores = np.array(list(one.scores.values()))
    width = None
    if len(scores) > 1:
        width = float(stdtrit(len(scores) - 1, 0.975) * scores.std(ddof=1) / math.sqrt(len(scores)))
    validation = [run.val_top1 for run in one.record.runs if run.seed in one.scores and run.val_top1 is not None]
    return RankRow(
        teacher=one.record.teacher,
        params=one.record.params,
        seeds=len(scores),
        confirmed_test_top1=one.mean,
        low=None if width is None else max(0.0, one.mean - width),
        high=None if width is None else min(1.0, one.mean + width),
        confirmed_val_top1=math.fsum(validation) / len(validation) if validation else None,
        search_val_top1=one.record.search_val_top1,
    )


def _test_scores(runs: Sequence[RunRecord]) -> dict[int, float]:
    scores = {run.seed: run.test_top1 for run in runs}
    return {seed: score for seed, score in scores.items() if score is not None and math.isfinite(score)}


def _by_mean(finalists: Sequence[Finalist]) -> tuple[Finalist, ...]:
    return tuple(sorted(finalists, key=lambda one: (-one.mean, one.record.teacher or "")))

"""What the study recommends, and what it rests on."""

from typing import Literal

from autodistill.records.base import Record
from autodistill.records.runs import TrialParams


class Contrast(Record):
    """A paired difference of test accuracies, `teacher` minus `versus` (None: no teacher), with its 95 % interval.

    Over the seeds that both have.
    """

    teacher: str
    versus: str | None
    difference: float
    low: float | None = None
    """None: too few paired runs for an interval, or one wider than half the scale."""
    high: float | None = None
    at_least: float | None = None
    """Lower end at the level of naming; a difference counts where it reaches the threshold."""
    sampling: tuple[float, float] | None = None
    """Least and largest standard error that the test set's size alone gives the difference; in no interval."""


class RankRow(Record):
    """A finalist in the order of its confirmed mean; where runs are missing, with seed effects taken out of it."""

    teacher: str | None
    params: TrialParams
    seeds: int
    confirmed_test_top1: float | None
    low: float | None = None
    high: float | None = None
    confirmed_val_top1: float | None = None
    search_val_top1: float | None = None
    search_gap: float | None = None
    """Search score minus confirmed validation mean: what having been chosen was worth."""
    p_best: float | None = None
    """Probability of being the best finalist; shown, never used."""
    sampling: float | None = None
    """Standard error that the test set's size alone gives the accuracy; in no interval."""


class SeedsToSettle(Record):
    """How many confirm seeds an open question takes, were difference and noise to stay as measured."""

    teacher: str
    versus: str | None
    """None: does the teacher help?"""
    seeds: int | None
    """None: over 50, or no number, because the difference lies within the threshold."""


class Recommendation(Record):
    """What to do, and what it rests on."""

    verdict: Literal["winner", "no_clear_difference", "only_one", "no_teacher", "unconfirmed"]
    versus_no_teacher: Literal["helps", "does_not_help", "cannot_tell"]
    teacher: str | None
    """The teacher to use; None: train without one."""
    params: TrialParams
    sentence: str
    reasons: tuple[str, ...] = ()
    ranking: tuple[RankRow, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    seed_std: float | None = None
    """Pooled residual standard deviation of the finalists x seeds layout: the seed noise of one run."""
    seeds_to_settle: tuple[SeedsToSettle, ...] = ()
    """Empty where nothing is open, or where there is no interval to start from."""
    threshold: float

"""What the study recommends, and what it rests on."""

from typing import Literal

from autodistill.records.base import Record
from autodistill.records.runs import TrialParams


class Contrast(Record):
    """A paired difference of test accuracies, `teacher` minus `versus` (None: no teacher), with its 95 % interval."""

    teacher: str
    versus: str | None
    difference: float
    low: float | None = None
    """None: too few paired runs for an interval."""
    high: float | None = None


class RankRow(Record):
    """A finalist in the order of its confirmed mean."""

    teacher: str | None
    params: TrialParams
    seeds: int
    confirmed_test_top1: float | None
    low: float | None = None
    high: float | None = None
    confirmed_val_top1: float | None = None
    search_val_top1: float | None = None


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
    """Pooled residual standard deviation of the finalists x seeds layout: the seed noise of a paired comparison."""
    threshold: float

"""What intervals decide: who is better, whether a teacher helps, how many seeds would tell."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from autodistill.stats.fitting import Matrix, Pairs

STATED = 0.95
NAMING = 0.925
"""Level at which the lower end must reach the threshold before a finalist is called better.

By simulation (`tests/bench/verdict.py`): "the 95 % interval excludes 0 and the difference is at least 0.2 points"
names somebody in up to 42 % of studies whose true lead is 0.19 (8 seeds, noise 0.1, n = 20,000). With this end as
well, under 5 % of studies name a winner that is worse or within the threshold, in every design.
"""

MOST_SEEDS = 50

Verdicts = Bool[np.ndarray, "*draws finalists finalists"]


class Ends(NamedTuple):
    """Ends of the intervals that decide: the stated ones, wider where a study looks at its results more than once."""

    low: Matrix
    high: Matrix
    at_least: Matrix
    """Lower end at the level of naming."""


def ends(pairs: Pairs, *, share: float | Float[np.ndarray, "*draws"] = 1.0) -> Ends:
    """The intervals to decide by.

    Args:
        share: of the error probability that this look at the results may spend; 1 where it is the only one.
    """
    spent = np.asarray(share)
    width = pairs.half_width(1 - spent * (1 - STATED))
    least = pairs.half_width(1 - spent * (1 - NAMING))
    return Ends(pairs.difference - width, pairs.difference + width, pairs.difference - least)


def better(found: Ends, *, threshold: float) -> Verdicts:
    """Whether the row's finalist is better than the column's, by what matters."""
    return np.asarray((found.low > 0) & (found.at_least >= threshold))


def helps(found: Ends) -> Verdicts:
    """Whether the row's finalist gains anything over the column's."""
    return np.asarray(found.low > 0)


def helps_not(found: Ends, *, threshold: float) -> Verdicts:
    """Whether the row's finalist gains nothing that matters over the column's."""
    return np.asarray(found.high < threshold)


def seeds_to_settle(
    difference: float, error: float, freedom: float, seeds: int, *, threshold: float, gain: bool, share: float = 1.0
) -> int | None:
    """Seeds at which a pair would be decided, were difference and noise to stay as measured.

    Args:
        difference: of the two means.
        error: its standard error over `seeds` shared seeds, with `freedom` degrees of freedom.
        gain: the question is whether it helps; otherwise who is better.
        share: of the error probability that the deciding look may spend.

    Returns:
        None: more than 50, or no number at all, because the difference lies within the threshold.
    """
    numbers = np.arange(2, MOST_SEEDS + 1)[:, None, None]
    asked = Pairs(
        np.full(numbers.shape, abs(difference) if not gain else difference),
        error * np.sqrt(seeds / numbers),
        freedom * (numbers - 1) / (seeds - 1),
    )
    found = ends(asked, share=share)
    settled = helps(found) | helps_not(found, threshold=threshold) if gain else better(found, threshold=threshold)
    return int(numbers[settled.argmax(axis=0)[0, 0], 0, 0]) if settled.any() else None

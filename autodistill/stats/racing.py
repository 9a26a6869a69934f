"""Racing: the next confirm runs go to the finalists that are not decided yet.

Row 0 of a layout is the baseline without a teacher, the other rows are teachers. All are trained over the first
seeds; after that each look at the results names who goes on. The looks share the error probability: a tenth of it in
equal parts for those on the way, the rest for the last one, so a study that stops early is surer of its answer than
one that spends all its runs.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from autodistill.stats.deciding import STATED, better, ends, helps, helps_not
from autodistill.stats.fitting import Scores, compare, fit

FIRST = 3
"""Seeds that every finalist is trained over before the first look."""
SMALLEST = 5
"""Confirm seeds from which racing pays."""
ON_THE_WAY = 0.1
"""Share of the error probability that all looks but the last spend together."""


def most_looks(runs: int) -> int:
    """Looks on the way, where this many runs are left after the first seeds: each look pays for two runs or more."""
    return runs // 2


def share(left: int | Int[np.ndarray, "*draws"], looks: int) -> Float[np.ndarray, "*draws"]:
    """The error probability that a look may spend, of 1 in all.

    Args:
        left: confirm runs that are not trained yet; below two it is the last look.
        looks: looks on the way, from `most_looks`; 0 without racing.
    """
    if not looks:
        return np.ones(np.shape(left))
    return np.where(np.asarray(left) < 2, 1 - ON_THE_WAY, ON_THE_WAY / looks)


def undecided(
    scores: Scores, *, threshold: float, spent: float | Float[np.ndarray, "*draws"]
) -> Bool[np.ndarray, "*draws finalists"]:
    """Who should be trained over another seed; nobody where all is decided.

    The best teacher and the nearest of those that it is not told apart from; the best teacher and the baseline while
    it is open whether a teacher helps. A finalist with fewer than two finished runs is out of the race.

    Args:
        scores: NaN where there is no run.
        spent: the share of the error probability that this look may spend.
    """
    pairs = compare(scores)
    found = ends(pairs, share=spent)
    places = np.arange(scores.shape[-2])
    runs = (~np.isnan(scores)).sum(axis=-1)
    racing = (runs > 1) & (places > 0)
    best = np.where(racing, fit(scores).effects, -np.inf).argmax(axis=-1)[..., None]
    rivals = racing & (places != best) & ~_row(better(found, threshold=threshold), best)
    # The rival that may yet be the best: of two that lie equally far behind, the one with fewer seeds.
    lead = _row(pairs.difference - pairs.half_width(STATED), best)
    rival = np.where(rivals, lead, np.inf).argmin(axis=-1)[..., None]
    contested = rivals.any(axis=-1, keepdims=True)
    answered = _row(helps(found) | helps_not(found, threshold=threshold), best)[..., :1]
    unclear = ~answered & (runs[..., :1] > 1)
    named = (places == best) & (contested | unclear) | (places == rival) & contested | (places == 0) & unclear
    return np.asarray(named & racing.any(axis=-1, keepdims=True))


def next_runs(
    asked: Bool[np.ndarray, "*draws finalists seeds"],
    named: Bool[np.ndarray, "*draws finalists"],
    *,
    left: int | Int[np.ndarray, "*draws"],
) -> Bool[np.ndarray, "*draws finalists seeds"]:
    """The runs to train next: one for each that is named, as far as they are paid, earliest seeds first.

    Args:
        asked: runs that were trained, failed ones included.
        named: who goes on.
        left: runs that are still paid for.
    """
    missing = (named[..., None] & ~asked).swapaxes(-1, -2)
    order = missing.reshape(*missing.shape[:-2], -1).cumsum(axis=-1).reshape(missing.shape)
    most = np.minimum(named.sum(axis=-1), left)[..., None, None]
    return np.asarray((missing & (order <= most)).swapaxes(-1, -2))


def _row(matrix: np.ndarray, at: Int[np.ndarray, "*draws 1"]) -> np.ndarray:
    """One row of each matrix."""
    return np.asarray(np.take_along_axis(matrix, at[..., None], axis=-2)[..., 0, :])

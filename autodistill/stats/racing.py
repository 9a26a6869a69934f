"""Racing: the next confirm runs go to the finalists that are still undecided.

Row 0 of a table of scores is the baseline without a teacher, the other rows are teachers. All are trained over the
first seeds. After that, each look at the results names the finalists to train over another seed. The looks share the
error probability: all looks but the last share a tenth of it equally, and the last look has the rest. A study that
stops early is therefore surer of its answer than a study that spends all its runs.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from autodistill.stats.intervals import STATED, Scores, better, bounds, compare, does_not_help, fit, helps

FIRST = 3
"""Seeds that every finalist is trained over before the first look."""
SMALLEST = 5
"""Number of confirm seeds from which racing pays."""
EARLY_SHARE = 0.1
"""Share of the error probability that all looks but the last spend together."""


def most_looks(runs: int) -> int:
    """Return the largest number of looks before the last, where `runs` runs remain after the first seeds.

    Each look pays for at least two runs.
    """
    return runs // 2


def share(left: int | Int[np.ndarray, "*draws"], looks: int) -> Float[np.ndarray, "*draws"]:
    """Return the share of the error probability that a look may spend.

    Args:
        left: confirm runs that are not trained yet; fewer than two make this the last look.
        looks: looks before the last, from `most_looks`; 0 without racing.
    """
    if not looks:
        return np.ones(np.shape(left))
    return np.where(np.asarray(left) < 2, 1 - EARLY_SHARE, EARLY_SHARE / looks)


def undecided(
    scores: Scores, *, threshold: float, spent: float | Float[np.ndarray, "*draws"]
) -> Bool[np.ndarray, "*draws finalists"]:
    """Return which finalists to train over another seed; none once everything is decided.

    These are the best teacher and its nearest rival among the teachers that are not told apart from it, and the best
    teacher and the baseline while it is open whether a teacher helps. A finalist with fewer than two finished runs
    takes no part.

    Args:
        scores: NaN where there is no run.
        spent: share of the error probability that this look may spend.
    """
    pairs = compare(scores)
    found = bounds(pairs, share=spent)
    places = np.arange(scores.shape[-2])
    runs = (~np.isnan(scores)).sum(axis=-1)
    racing = (runs > 1) & (places > 0)
    best = np.where(racing, fit(scores).effects, -np.inf).argmax(axis=-1)[..., None]
    rivals = racing & (places != best) & ~_row(better(found, threshold=threshold), best)
    # The lower bound of the lead picks the rival that may still be best: of two equally far behind, the one with
    # fewer seeds.
    lead = _row(pairs.difference - pairs.half_width(STATED), best)
    rival = np.where(rivals, lead, np.inf).argmin(axis=-1)[..., None]
    contested = rivals.any(axis=-1, keepdims=True)
    answered = _row(helps(found) | does_not_help(found, threshold=threshold), best)[..., :1]
    unclear = ~answered & (runs[..., :1] > 1)
    named = (places == best) & (contested | unclear) | (places == rival) & contested | (places == 0) & unclear
    return np.asarray(named & racing.any(axis=-1, keepdims=True))


def next_runs(
    asked: Bool[np.ndarray, "*draws finalists seeds"],
    named: Bool[np.ndarray, "*draws finalists"],
    *,
    left: int | Int[np.ndarray, "*draws"],
) -> Bool[np.ndarray, "*draws finalists seeds"]:
    """Return the runs to train next: one per named finalist while the budget lasts, earliest seeds first.

    Args:
        asked: runs that were trained, failed runs included.
        named: finalists to train, from `undecided`.
        left: number of runs that the budget still pays for.
    """
    missing = (named[..., None] & ~asked).swapaxes(-1, -2)
    order = missing.reshape(*missing.shape[:-2], -1).cumsum(axis=-1).reshape(missing.shape)
    most = np.minimum(named.sum(axis=-1), left)[..., None, None]
    return np.asarray((missing & (order <= most)).swapaxes(-1, -2))


def _row(matrix: np.ndarray, at: Int[np.ndarray, "*draws 1"]) -> np.ndarray:
    """Return one row of each matrix."""
    return np.asarray(np.take_along_axis(matrix, at[..., None], axis=-2)[..., 0, :])

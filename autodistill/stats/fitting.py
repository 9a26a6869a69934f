"""Least squares over the layout, with gaps; whole batches of layouts at once."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit

OWN = 0.75
"""A pair's own share in its noise variance; the rest of the layout has the other quarter.

By simulation: where one finalist has twice the noise of the others, an interval on it covers 88 to 92 % with the
residual of the whole layout, 92.7 to 94 % with this (3 to 5 finalists, 3 to 8 seeds, n = 20,000). At 3 finalists x 3
seeds that costs a tenth of width; the pair's own residual alone, with 2 degrees of freedom, would cost nearly half.
"""

Scores = Float[np.ndarray, "*draws finalists seeds"]
Matrix = Float[np.ndarray, "*draws finalists finalists"]


class Fit(NamedTuple):
    """Finalist effects and what they leave over; axes before the finalists are independent layouts."""

    effects: Float[np.ndarray, "*draws finalists"]
    """Against each other, seed effects taken out; 0 on average."""
    covariance: Matrix
    """Of the effects, for a noise variance of 1."""
    between: Float[np.ndarray, "*draws"]
    """Sum of squares that the finalists explain beyond the seeds."""
    rank: Int[np.ndarray, "*draws"]
    """Degrees of freedom between; finalists - 1 where shared seeds connect them all."""
    within: Float[np.ndarray, "*draws"]
    """Residual sum of squares."""
    freedom: Int[np.ndarray, "*draws"]
    """Residual degrees of freedom."""


class Pairs(NamedTuple):
    """Each finalist minus each other, over the seeds they share; NaN where those are fewer than two."""

    difference: Matrix
    error: Matrix
    """Standard error of the difference."""
    freedom: Matrix
    """Satterthwaite's, of the error."""

    def half_width(self, level: float | Float[np.ndarray, "#*draws"] = 0.95) -> Matrix:
        """Half the width of the two-sided Student-t interval; a level for all layouts or one for each."""
        upper = (1 + np.asarray(level)) / 2
        return np.asarray(stdtrit(self.freedom, upper[..., None, None]) * self.error)


def fit(scores: Scores) -> Fit:
    """Fit score = finalist + seed + noise by least squares.

    The seeds are eliminated first, which leaves normal equations of finalists x finalists.

    Args:
        scores: NaN where there is no run.
    """
    ran = ~np.isnan(scores)
    at_seed = ran / np.maximum(ran.sum(axis=-2, keepdims=True), 1)
    centred = _centred(np.where(ran, scores, 0.0), ran, at_seed)
    normal = ran.sum(axis=-1)[..., None] * np.eye(scores.shape[-2]) - at_seed @ ran.astype(float).swapaxes(-1, -2)
    values, vectors = np.linalg.eigh(normal)
    used = values > 1e-9 * scores.shape[-1]
    inverse = np.where(used, 1.0, 0.0) / np.where(used, values, 1.0)
    covariance = (vectors * inverse[..., None, :]) @ vectors.swapaxes(-1, -2)
    moments = centred.sum(axis=-1)
    effects = (covariance @ moments[..., None])[..., 0]
    left = centred - _centred(np.broadcast_to(effects[..., None], scores.shape), ran, at_seed)
    rank = used.sum(axis=-1)
    return Fit(
        effects=effects,
        covariance=covariance,
        between=(moments * effects).sum(axis=-1),
        rank=rank,
        within=(left**2).sum(axis=(-2, -1)),
        freedom=ran.sum(axis=(-2, -1)) - ran.any(axis=-2).sum(axis=-1) - rank,
    )


def compare(scores: Scores) -> Pairs:
    """Compare every two finalists over the seeds they share.

    A difference of two means over n shared seeds has the variance 2 s^2 / n, with s^2 = 3/4 of the pair's own
    residual variance and 1/4 of what the rest of the layout leaves over. The two parts are independent: a layout's
    residual sum of squares less that of a part of it. Two finalists alone have the exact paired t.

    Args:
        scores: NaN where there is no run.
    """
    fitted = fit(scores)
    gaps = scores[..., :, None, :] - scores[..., None, :, :]
    both = ~np.isnan(gaps)
    shared = both.sum(axis=-1)
    valid = (shared > 1) & ~np.eye(scores.shape[-2], dtype=bool)
    seeds = np.where(valid, shared, 2)
    difference = np.where(both, gaps, 0.0).sum(axis=-1) / seeds
    own = np.where(both, (gaps - difference[..., None]) ** 2, 0.0).sum(axis=-1) / 2
    rest = np.maximum(fitted.within[..., None, None] - own, 0.0)
    variance, freedom = _blend(own, seeds - 1, rest, fitted.freedom[..., None, None] - (seeds - 1))
    return Pairs(
        np.where(valid, difference, np.nan),
        np.where(valid, np.sqrt(2 * variance / seeds), np.nan),
        np.where(valid, freedom, np.nan),
    )


def _blend(
    own: Matrix, own_freedom: Int[np.ndarray, "*draws f f"], rest: Matrix, rest_freedom: Int[np.ndarray, "*draws f f"]
) -> tuple[Matrix, Matrix]:
    """One variance of two sums of squares, and its degrees of freedom (Satterthwaite 1946).

    Those are taken at equal noise. Put in as estimated, the two variances cover no better, and the noise of such a
    freedom costs 5 of the 73 % winners that are found with 3 finalists x 3 seeds (lead 1.0, noise 0.3, n = 20,000).
    """
    weight = np.where(rest_freedom > 0, OWN, 1.0)
    others = np.maximum(rest_freedom, 1)
    variance = weight * own / own_freedom + (1 - weight) * rest / others
    return variance, 1 / (weight**2 / own_freedom + (1 - weight) ** 2 / others)


def _centred(values: Scores, ran: Bool[np.ndarray, "*draws finalists seeds"], at_seed: Scores) -> Scores:
    """Less the mean of those that ran with the same seed; 0 where there is no run."""
    return np.where(ran, values - (values * at_seed).sum(axis=-2, keepdims=True), 0.0)

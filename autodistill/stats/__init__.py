"""Statistics of confirm runs: paired confidence intervals, the decisions they allow, and racing.

The modules of this package judge records: `evidence` collects the confirm runs of a study, `verdict` names the teacher,
`students` the student. `grid` compares methods and their cells in a grid of methods x teachers.

All functions take a two-way table of scores, finalists x seeds. The model is score = finalist + seed + noise. A NaN
marks a missing run: it failed, or racing left it out. Leading axes hold independent tables, so that the simulation in
`tests/bench/verdict.py` runs the code that decides a study.

In a race, row 0 is the baseline without a teacher, the other rows are teachers. All are trained over the first seeds.
After that, each look at the results names the finalists to train over another seed. The looks share the error
probability: all looks but the last share a tenth of it equally, and the last look has the rest. A study that stops
early is therefore surer of its answer than a study that spends all its runs.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit

from autodistill.records import RunResult

STATED = 0.95
"""Confidence level of the intervals that are shown."""
NAMING = 0.925
"""Confidence level at which the lower bound must reach the threshold before a finalist is called better.

By simulation (`tests/bench/README.md`), under 5 % of studies then name a winner that is worse or within the threshold;
without this bound, up to 42 % do.
"""
OWN_WEIGHT = 0.75
"""Weight of a pair's own residual in its noise variance. The rest of the table has the other quarter.

By simulation: where one finalist has twice the noise of the others, an interval on it covers 88 to 92 % with the
residual of the whole table, 92.7 to 94 % with this weight (3 to 5 finalists, 3 to 8 seeds, n = 20,000). With 3 seeds
the weight costs a tenth of width; the pair's own residual alone would cost nearly half.
"""
MAX_SEEDS = 50
"""Largest number of seeds that `seeds_to_settle` considers."""
DRAWS = 20_000
"""Monte Carlo draws of `probability_best`."""
ROUNDING = 1e-12
"""Largest difference of equal accuracies after a least-squares fit."""
FIRST = 3
"""Seeds that every finalist of a race is trained over before the first look."""
SMALLEST = 5
"""Number of confirm seeds from which racing pays."""
ROUNDED = 1 / 12
"""Variance of the error of a rounded number, for steps of 1."""
EARLY_SHARE = 0.1
"""Share of the error probability that all looks but the last spend together."""

Scores = Float[np.ndarray, "*draws finalists seeds"]
Matrix = Float[np.ndarray, "*draws finalists finalists"]
Verdicts = Bool[np.ndarray, "*draws finalists finalists"]


class Fit(NamedTuple):
    """A least-squares fit of finalist and seed effects."""

    effects: Float[np.ndarray, "*draws finalists"]
    """Finalist effects with seed effects removed; mean 0."""
    covariance: Matrix
    """Covariance of the effects for a noise variance of 1."""
    between_ss: Float[np.ndarray, "*draws"]
    """Sum of squares that the finalists explain beyond the seeds."""
    rank: Int[np.ndarray, "*draws"]
    """Degrees of freedom of `between_ss`: finalists - 1 where shared seeds connect all finalists."""
    residual_ss: Float[np.ndarray, "*draws"]
    residual_dof: Int[np.ndarray, "*draws"]


class Pairs(NamedTuple):
    """Each finalist (row) minus each other (column) over their shared seeds; NaN for fewer than two shared seeds."""

    difference: Matrix
    standard_error: Matrix
    dof: Matrix
    """Satterthwaite's degrees of freedom of the standard error."""

    def half_width(self, level: float | Float[np.ndarray, "#*draws"] = STATED) -> Matrix:
        """Return half the width of the two-sided Student-t interval at one level, or at one level per table."""
        upper = (1 + np.asarray(level)) / 2
        return np.asarray(stdtrit(self.dof, upper[..., None, None]) * self.standard_error)


class Bounds(NamedTuple):
    """Bounds of the intervals that decide. They are wider than the stated 95 % where a study looks more than once."""

    low: Matrix
    high: Matrix
    at_least: Matrix
    """Lower bound at the level `NAMING`."""

    def better(self, threshold: float) -> Verdicts:
        """Return whether the row's finalist is better than the column's by at least the threshold."""
        return np.asarray((self.low > 0) & (self.at_least >= threshold))

    def helps(self) -> Verdicts:
        """Return whether the row's finalist is better than the column's by any amount."""
        return np.asarray(self.low > 0)

    def does_not_help(self, threshold: float) -> Verdicts:
        """Return whether the row's finalist gains less than the threshold over the column's."""
        return np.asarray(self.high < threshold)


def scores_by_seed(runs: Iterable[RunResult]) -> dict[int, float]:
    """Return the test accuracies of the runs that have one."""
    scores = {run.seed: run.test_top1 for run in runs}
    return {seed: score for seed, score in scores.items() if score is not None and math.isfinite(score)}


def mean(scores: Iterable[float | None]) -> float | None:
    """Return the mean of the scores that are known; None without any."""
    known = [score for score in scores if score is not None]
    return math.fsum(known) / len(known) if known else None


def score_table(rows: Sequence[Mapping[int, float]], seeds: Collection[int]) -> Float[np.ndarray, "rows seeds"]:
    """Return scores by row and by seed, in rising order; NaN where a row has no score."""
    scores = [[row.get(seed, math.nan) for seed in sorted(seeds)] for row in rows]
    return np.array(scores, dtype=float).reshape(len(rows), len(seeds))


def fit(scores: Scores) -> Fit:
    """Fit score = finalist + seed + noise by least squares.

    Eliminating the seeds first leaves normal equations of finalists x finalists.
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
    residuals = centred - _centred(np.broadcast_to(effects[..., None], scores.shape), ran, at_seed)
    rank = used.sum(axis=-1)
    return Fit(
        effects=effects,
        covariance=covariance,
        between_ss=(moments * effects).sum(axis=-1),
        rank=rank,
        residual_ss=(residuals**2).sum(axis=(-2, -1)),
        residual_dof=ran.sum(axis=(-2, -1)) - ran.any(axis=-2).sum(axis=-1) - rank,
    )


def compare(scores: Scores, *, own_weight: float = OWN_WEIGHT, step: float = 0.0) -> Pairs:
    """Compare every two finalists over their shared seeds.

    A difference of two means over n shared seeds has the variance 2 s^2 / n, with s^2 = 3/4 of the pair's own
    residual variance plus 1/4 of the residual variance of the rest of the table. The two parts are independent,
    because the second is the residual sum of squares of the table minus that of the pair. Two finalists alone have
    the exact paired t interval.

    The degrees of freedom (Satterthwaite 1946) assume equal noise in both parts: with the two estimated variances,
    intervals cover no better, and fewer winners are found.

    The accuracies of a few seeds on a small test set can agree exactly. The variance s^2 is therefore never taken to
    be below step^2 / 12, that of a number rounded to a multiple of `step`.

    Args:
        own_weight: weight of the pair's own residual variance, 3/4 above.
        step: smallest difference between two scores, 1 / test images.
    """
    fitted = fit(scores)
    gaps = scores[..., :, None, :] - scores[..., None, :, :]
    both = ~np.isnan(gaps)
    shared = both.sum(axis=-1)
    valid = (shared > 1) & ~np.eye(scores.shape[-2], dtype=bool)
    seeds = np.where(valid, shared, 2)
    difference = np.where(both, gaps, 0.0).sum(axis=-1) / seeds
    own = np.where(both, (gaps - difference[..., None]) ** 2, 0.0).sum(axis=-1) / 2
    rest = np.maximum(fitted.residual_ss[..., None, None] - own, 0.0)
    own_dof = seeds - 1
    rest_dof = fitted.residual_dof[..., None, None] - own_dof
    weight, others = np.where(rest_dof > 0, own_weight, 1.0), np.maximum(rest_dof, 1)
    variance = np.maximum(weight * own / own_dof + (1 - weight) * rest / others, ROUNDED * step**2)
    dof = 1 / (weight**2 / own_dof + (1 - weight) ** 2 / others)
    return Pairs(
        np.where(valid, difference, np.nan),
        np.where(valid, np.sqrt(2 * variance / seeds), np.nan),
        np.where(valid, dof, np.nan),
    )


def adjusted_means(scores: Float[np.ndarray, "finalists seeds"]) -> Float[np.ndarray, " finalists"]:
    """Return the finalists' means over all seeds, as least squares estimates them where runs are missing.

    Plain means where nothing is missing. NaN for a finalist without a run.
    """
    effects = fit(scores).effects
    ran = ~np.isnan(scores)
    seeds = ran.any(axis=0)
    by_seed = np.where(ran, scores - effects[:, None], 0.0).sum(axis=0)[seeds] / ran.sum(axis=0)[seeds]
    level = by_seed.sum() / max(len(by_seed), 1)
    return np.where(ran.any(axis=1), effects + level, np.nan)


def own_mean(scores: Float[np.ndarray, " seeds"], *, step: float = 0.0) -> tuple[float, float]:
    """Return the mean of the runs of one finalist, and half the width of its 95 % Student-t interval.

    The mean is NaN without a run, the width for fewer than two. `step` is that of `compare`.
    """
    known = scores[~np.isnan(scores)]
    number = len(known)
    if number < 2:
        return float(known.mean()) if number else math.nan, math.nan
    deviation = max(known.std(ddof=1), math.sqrt(ROUNDED) * step)
    width = stdtrit(number - 1, (1 + STATED) / 2) * deviation / math.sqrt(number)
    return float(known.mean()), float(width)


def bounds(pairs: Pairs, *, share: float | Float[np.ndarray, "*draws"] = 1.0) -> Bounds:
    """Return the bounds of the intervals that decide.

    Args:
        share: share of the error probability that this look at the results may spend; 1 if it is the only look.
    """
    spent = np.asarray(share)
    width = pairs.half_width(1 - spent * (1 - STATED))
    naming_width = pairs.half_width(1 - spent * (1 - NAMING))
    return Bounds(pairs.difference - width, pairs.difference + width, pairs.difference - naming_width)


def seeds_to_settle(
    difference: float, error: float, dof: float, seeds: int, *, threshold: float, gain: bool, share: float = 1.0
) -> int | None:
    """Return the number of seeds that decides a pair if difference and noise stay as measured.

    Args:
        difference: difference of the two means.
        error: its standard error over `seeds` shared seeds, with `dof` degrees of freedom.
        gain: True asks whether the first helps, False asks which of the two is better.
        share: share of the error probability that the deciding look may spend.

    Returns:
        None if that takes more than 50 seeds, or if the difference lies within the threshold.
    """
    numbers = np.arange(2, MAX_SEEDS + 1)[:, None, None]
    pairs = Pairs(
        np.full(numbers.shape, abs(difference) if not gain else difference),
        error * np.sqrt(seeds / numbers),
        dof * (numbers - 1) / (seeds - 1),
    )
    found = bounds(pairs, share=share)
    settled = found.helps() | found.does_not_help(threshold) if gain else found.better(threshold)
    enough = numbers[settled]
    return int(enough[0]) if len(enough) else None


def probability_best(
    scores: Float[np.ndarray, "finalists seeds"], *, step: float = 0.0
) -> Float[np.ndarray, " finalists"] | None:
    """Return the share of Monte Carlo draws in which each finalist has the largest effect; ties are shared equally.

    The posterior of the effects under flat priors is their least-squares fit with a multivariate Student-t of the
    table's pooled residual variance. The generator is seeded, so equal tables give equal shares. `step` is that of
    `compare`.

    Returns:
        None without residual degrees of freedom, or if shared seeds do not connect all finalists.
    """
    fitted = fit(scores)
    finalists = scores.shape[0]
    if fitted.residual_dof < 1 or fitted.rank < finalists - 1:
        return None
    draw = np.random.default_rng(0)
    values, vectors = np.linalg.eigh(fitted.covariance)
    # Equal eigenvalues leave the eigenvectors open. The symmetric root does not depend on their choice.
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    noise = draw.normal(size=(DRAWS, finalists)) @ root
    residual_ss = max(float(fitted.residual_ss), ROUNDED * step**2 * int(fitted.residual_dof))
    spread = np.sqrt(residual_ss / draw.chisquare(int(fitted.residual_dof), size=(DRAWS, 1)))
    drawn = fitted.effects + spread * noise
    best = drawn >= drawn.max(axis=1, keepdims=True) - ROUNDING
    return np.asarray((best / best.sum(axis=1, keepdims=True)).mean(axis=0))


def accuracy_error(accuracy: float, *, images: int) -> float:
    """Return the binomial standard error of an accuracy on `images` test images."""
    return math.sqrt(max(0.0, accuracy * (1 - accuracy)) / images)


def difference_error(one: float, other: float, *, images: int) -> tuple[float, float]:
    """Return the smallest and the largest standard error of a difference of two accuracies on the same images.

    If exactly one of the two networks is right on a share q of the images, the difference d has the variance
    (q - d^2) / images (McNemar 1947). The accuracies do not determine q. It is at least |d|, where one network is
    right wherever the other is. It is at most the smaller of the sum of both accuracies and the sum of both error
    rates, where the networks err on different images.
    """
    difference = abs(one - other)
    most = min(one + other, 2 - one - other)

    def error(only_one_right: float) -> float:
        return math.sqrt(max(0.0, only_one_right - difference**2) / images)

    return error(difference), error(most)


def share(left: int | Int[np.ndarray, "*draws"], runs: int) -> Float[np.ndarray, "*draws"]:
    """Return the share of the error probability that a look may spend.

    Args:
        left: confirm runs that are not trained yet; fewer than two make this the last look.
        runs: confirm runs after the first seeds. Each look but the last pays for two of them or more.
    """
    looks = runs // 2
    if not looks:
        return np.ones(np.shape(left))
    return np.where(np.asarray(left) < 2, 1 - EARLY_SHARE, EARLY_SHARE / looks)


def undecided(
    scores: Scores, *, threshold: float, spent: float | Float[np.ndarray, "*draws"], step: float = 0.0
) -> Bool[np.ndarray, "*draws finalists"]:
    """Return which finalists to train over another seed; none once everything is decided.

    These are the best teacher and its nearest rival among the teachers that are not told apart from it, and the best
    teacher and the baseline while it is open whether a teacher helps. A finalist with fewer than two finished runs
    takes no part.

    Args:
        spent: share of the error probability that this look may spend.
        step: that of `compare`.
    """
    pairs = compare(scores, step=step)
    found = bounds(pairs, share=spent)
    places = np.arange(scores.shape[-2])
    runs = (~np.isnan(scores)).sum(axis=-1)
    racing = (runs > 1) & (places > 0)
    best = np.where(racing, fit(scores).effects, -np.inf).argmax(axis=-1)[..., None]
    rivals = racing & (places != best) & ~_row(found.better(threshold), best)
    # The lower bound of the lead picks the rival that may still be best: of two equally far behind, the one with
    # fewer seeds.
    lead = _row(pairs.difference - pairs.half_width(STATED), best)
    rival = np.where(rivals, lead, np.inf).argmin(axis=-1)[..., None]
    contested = rivals.any(axis=-1, keepdims=True)
    answered = _row(found.helps() | found.does_not_help(threshold), best)[..., :1]
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


def _centred(values: Scores, ran: Bool[np.ndarray, "*draws finalists seeds"], at_seed: Scores) -> Scores:
    """Subtract the mean of the runs with the same seed; 0 where there is no run."""
    return np.where(ran, values - (values * at_seed).sum(axis=-2, keepdims=True), 0.0)


def _row(matrix: np.ndarray, at: Int[np.ndarray, "*draws 1"]) -> np.ndarray:
    """Return one row of each matrix."""
    return np.asarray(np.take_along_axis(matrix, at[..., None], axis=-2)[..., 0, :])

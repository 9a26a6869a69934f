"""Statistics of a method grid: which distillation method is best over several teachers, and how does capacity matter?

A grid holds the scores of methods x teachers x seeds, fractions in [0, 1]. A cell is a method with a teacher. All cells
are trained over the same seeds, and so are the controls: no teacher, and label smoothing. The model is
score = cell + seed + noise. A NaN marks a failed run. Leading axes hold independent grids, so that the simulation in
`tests/bench/verdict.py` runs the code that decides a comparison.

Methods are compared on the table of methods x seeds whose entries are means over the teachers. Their intervals hold
simultaneously, because the method that is named was picked as the best of several. Cells have individual intervals.

Failed runs must not shift a mean. A mean over teachers therefore takes the same teachers for every method and seed
(`counted_teachers`). A seed in which a run of a method failed is left out for this method. Two methods are compared
over the seeds that are complete for both.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtr, stdtrit

from autodistill import stats

CELL_WEIGHT = 0.6
"""Weight of a pair's own residual in the noise variance of two cells; their methods' other residuals have the rest.

By simulation (3 methods x 4 teachers x 3 seeds, n = 8,000), an interval covers 95.1 to 96.8 %, also where a method has
twice the noise of the others, and 91 % or more where a single cell has.
"""
POWER = 0.8
"""Share of repetitions in which the rule tells two methods apart that differ by `smallest_difference`."""
FEWEST_CAPACITIES = 3
"""Distinct MACs from which a slope is fitted.

Two teachers differ in more than their capacity, and no third point could contradict a line through two.
"""

Grid = Float[np.ndarray, "*draws methods teachers seeds"]
Table = Float[np.ndarray, "*draws methods seeds"]
Counted = Bool[np.ndarray, "*draws teachers"]


class MethodPairs(NamedTuple):
    """Each method (row) minus each other (column); NaN for fewer than two shared seeds."""

    pairs: stats.Pairs
    """Differences of means, standard errors and degrees of freedom."""
    shared: Int[np.ndarray, "*draws methods methods"]
    """Number of seeds that both methods have scores for."""
    compared: Int[np.ndarray, "*draws"]
    """Number of methods with an interval. The intervals of all their pairs hold together."""

    def half_width(self, level: float = stats.STATED) -> Float[np.ndarray, "*draws methods methods"]:
        """Return half the width of the simultaneous intervals at one level."""
        critical = np.vectorize(partial(critical_value, level=level), otypes=[float])
        dof = np.nan_to_num(self.pairs.dof, nan=1.0)  # where it is NaN, so is the standard error
        return np.asarray(critical(self.compared[..., None, None], dof) * self.pairs.standard_error)

    def bounds(self) -> stats.Bounds:
        """Return the bounds that decide, all of them simultaneous; `better` is the rule that names a method."""
        difference, width = self.pairs.difference, self.half_width()
        return stats.Bounds(difference - width, difference + width, difference - self.half_width(stats.NAMING))


class Judgement(NamedTuple):
    """Which method is best, or that the methods cannot be told apart."""

    leader: int | None
    """The method with the highest mean among the methods with an interval; None if there are none."""
    named: bool
    """Whether the leader is better than every other method by at least the threshold."""
    rivals: tuple[int, ...]
    """Methods that the leader cannot be told apart from."""
    left_out: tuple[int, ...]
    """Methods without an interval: too many of their runs failed."""
    seeds_to_settle: int | None
    """Seeds that would name the leader if differences and noise stay as measured; None if it is named already, if a
    rival is within the threshold, or if more than 50 are needed."""
    smallest_difference: float | None
    """From `smallest_difference`, at the root mean square of the pairs' standard errors; a fraction."""


def counted_teachers(scores: Grid) -> Counted:
    """Return the teachers that the mean over teachers takes: those with two finished runs of every method.

    Methods that have no teacher with two finished runs are left out and do not count here.
    """
    enough = (~np.isnan(scores)).sum(axis=-1) > 1
    measured = enough.any(axis=-1, keepdims=True)
    return np.asarray((enough | ~measured).all(axis=-2) & measured.any(axis=-2))


def method_scores(scores: Grid) -> Table:
    """Return each method's mean over the counted teachers by seed; NaN where a run of theirs failed."""
    counted = counted_teachers(scores)[..., None, :, None]
    number = np.maximum(counted.sum(axis=-2), 1)
    # A failed run of a counted teacher makes the sum NaN.
    total = np.where(counted, scores, 0.0).sum(axis=-2) / number
    return np.where(counted.any(axis=-2), total, np.nan)


def compare_methods(table: Table, *, step: float = 0.0) -> MethodPairs:
    """Compare every two methods on their scores by seed, from `method_scores`.

    Differences, standard errors and degrees of freedom are those of `stats.compare`, which allows methods to differ in
    noise. The critical value is that of the largest |t| over all pairs (Tukey's studentised range). Two methods have
    the exact paired t interval.

    The studentised range is exact for equal noise and the pooled residual variance of the table. With the weights of
    `stats.compare`, all intervals hold in 94.6 to 96.8 % of simulated studies, equal noise or not (3 to 5 methods, 3 to
    8 seeds, n = 40,000); with the pooled variance in 92.5 to 93.8 % where a method has twice the noise of the others.
    `step` is that of `stats.compare`.
    """
    ran = (~np.isnan(table)).astype(int)
    pairs = stats.compare(table, step=step)
    return MethodPairs(
        pairs,
        shared=ran @ ran.swapaxes(-1, -2),
        compared=np.asarray((~np.isnan(pairs.dof)).any(axis=-1).sum(axis=-1)),
    )


def compare_cells(
    scores: Grid, controls: Float[np.ndarray, "*draws controls seeds"], *, step: float = 0.0
) -> stats.Pairs:
    """Compare every two cells, and cells with controls, over their shared seeds; the intervals are individual.

    The noise variance of two rows has 0.6 of the pair's own residual variance. The rest is that of the other cells of
    their methods, not of the whole grid, because methods differ in noise. The controls are treated as a method. `step`
    is that of `stats.compare`.

    Returns:
        Pairs of controls + methods * teachers rows: first the controls, then the cells of the first method, and so on.
    """
    *draws, methods, teachers, seeds = scores.shape
    first = controls.shape[-2]
    rows = np.concatenate([controls, scores.reshape(*draws, methods * teachers, seeds)], axis=-2)
    group = np.concatenate([np.zeros(first, dtype=int), 1 + np.repeat(np.arange(methods), teachers)])
    matrices = [np.full((*draws, len(group), len(group)), np.nan) for _ in stats.Pairs._fields]
    # Pairs of methods come first: their blocks hold each method's own cells too, which the method alone overwrites.
    every = range(methods + 1)
    for compared in (*combinations(every, 2), *((one,) for one in every)):
        taken = np.flatnonzero(np.isin(group, compared))
        part = stats.compare(rows[..., taken, :], own_weight=CELL_WEIGHT, step=step)
        for whole, values in zip(matrices, part, strict=True):
            whole[..., taken[:, None], taken] = values
    return stats.Pairs(*matrices)


def judge(table: Float[np.ndarray, "methods seeds"], *, threshold: float, step: float = 0.0) -> Judgement:
    """Name the best method, or say what it cannot be told apart from and how many seeds would tell.

    A method is named if the simultaneous 95 % intervals of its differences to all others exclude 0 and the lower ends
    of the simultaneous intervals at the level `stats.NAMING` reach the threshold.

    Args:
        table: scores by method and seed, from `method_scores`.
        threshold: the smallest difference in accuracy that matters, a fraction.
        step: that of `stats.compare`, for means over teachers.
    """
    comparison = compare_methods(table, step=step)
    pairs = comparison.pairs
    out = np.isnan(pairs.dof).all(axis=-1)
    left_out = tuple(int(number) for number in np.flatnonzero(out))
    if out.all():
        return Judgement(None, False, (), left_out, None, None)
    leader = int(np.where(out, -np.inf, stats.adjusted_means(table)).argmax())
    better = comparison.bounds().better(threshold)[leader]
    rivals = tuple(int(number) for number in np.flatnonzero(~out & ~better) if number != leader)
    needed = [
        seeds_to_settle(
            float(pairs.difference[leader, rival]),
            float(pairs.standard_error[leader, rival]),
            float(pairs.dof[leader, rival]),
            int(comparison.shared[leader, rival]),
            methods=int(comparison.compared),
            threshold=threshold,
        )
        for rival in rivals
    ]
    known = ~np.isnan(pairs.dof)
    return Judgement(
        leader,
        named=not rivals,
        rivals=rivals,
        left_out=left_out,
        seeds_to_settle=max((number for number in needed if number), default=None) if all(needed) else None,
        smallest_difference=smallest_difference(
            float(np.sqrt((pairs.standard_error[known] ** 2).mean())),
            float(pairs.dof[known].mean()),
            methods=int(comparison.compared),
            threshold=threshold,
        ),
    )


def seeds_to_settle(
    difference: float, error: float, dof: float, seeds: int, *, methods: int, threshold: float
) -> int | None:
    """Return the smallest number of seeds that names one of two methods if difference and noise stay as measured.

    Args:
        difference: difference of the two means.
        error: its standard error over `seeds` shared seeds, with `dof` degrees of freedom.
        methods: number of methods that are compared.

    Returns:
        None if that takes more than 50 seeds, if the difference lies within the threshold, or if it is NaN.
    """
    lead = abs(difference)
    if not lead > threshold:
        return None
    for number in range(2, stats.MAX_SEEDS + 1):
        freedom, spread = dof * (number - 1) / (seeds - 1), np.array(error * math.sqrt(seeds / number))
        if lead > _needed(freedom, methods, spread=spread, threshold=threshold):
            return number
    return None


def smallest_difference(error: float, dof: float, *, methods: int, threshold: float) -> float:
    """Return the true difference that tells two methods apart in 80 % of repetitions, at the measured noise.

    The rule needs a measured difference d of max(c95 s, threshold + c92.5 s), with the estimated standard error s and
    the critical values c of the simultaneous intervals. The result solves P(d >= needed) = 0.8 for d normal about the
    true difference with the standard error `error`, and s^2 / error^2 an independent chi-square over its degrees of
    freedom. Without noise it is the threshold.

    Args:
        error: standard error of a difference of two methods, a fraction.
        dof: its degrees of freedom.
        methods: number of methods that are compared.
    """
    if error == 0:
        return threshold
    spread, weight = _chi(dof)
    needed = _needed(dof, methods, spread=error * spread, threshold=threshold)

    def found(difference: float) -> bool:
        return bool(weight @ ndtr((difference - needed) / error) >= POWER)

    return _smallest(found, threshold + 2 * error * critical_value(methods, dof, level=0.999))


@cache
def critical_value(methods: int, dof: float, *, level: float) -> float:
    """Return the value that the largest |t| over all pairs of methods exceeds with probability 1 - level.

    It is the quantile of Tukey's studentised range over the square root of 2, computed by numerical integration to
    about 1e-4. `scipy.stats.studentized_range` takes 0.15 s for each value. Student's t for two methods.
    """
    if methods < 2:
        return math.nan
    if methods == 2:
        return float(stdtrit(dof, (1 + level) / 2))
    widths, probabilities = _range_distribution(methods)
    spread, weight = _chi(dof)

    def reached(width: float) -> bool:
        return bool(weight @ np.interp(width * spread, widths, probabilities) >= level)

    high = 1.0
    while not reached(high):
        high *= 2
    return float(_smallest(reached, high) / np.sqrt(2))


def _smallest(holds: Callable[[float], bool], high: float) -> float:
    """Return the smallest number in [0, high] for which a condition holds that holds for all larger ones."""
    low = 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def capacity_slopes(
    scores: Float[np.ndarray, "methods teachers seeds"], macs: Float[np.ndarray, " teachers"]
) -> Float[np.ndarray, "methods seeds"]:
    """Return the change of accuracy per doubling of the teacher's MACs: the slope of a line for each method and seed.

    The effect of a seed is common to all cells and moves no slope. What the teachers differ in beside their MACs is
    not noise here: the intervals are about other seeds with these teachers, not about other teachers.

    Args:
        macs: multiply-accumulates of each teacher; NaN if unknown. Such teachers are left out.

    Returns:
        NaN where a run failed, and everywhere for fewer than three distinct MACs.
    """
    known = np.flatnonzero(~np.isnan(macs))
    taken = known[counted_teachers(scores[:, known])]
    if len(np.unique(macs[taken])) < FEWEST_CAPACITIES:
        return np.full((scores.shape[0], scores.shape[2]), np.nan)
    doublings = np.log2(macs[taken])
    centred = doublings - doublings.mean()
    return np.asarray(centred @ scores[:, taken] / (centred @ centred))


def _needed(
    dof: float, methods: int, *, spread: Float[np.ndarray, "*errors"], threshold: float
) -> Float[np.ndarray, "*errors"]:
    """Return the measured difference that the rule needs, for each estimated standard error."""
    shown = critical_value(methods, dof, level=stats.STATED)
    naming = critical_value(methods, dof, level=stats.NAMING)
    return np.asarray(np.maximum(shown * spread, threshold + naming * spread))


@cache
def _range_distribution(methods: int) -> tuple[Float[np.ndarray, " widths"], Float[np.ndarray, " widths"]]:
    """Return widths, and the probabilities that the range of this many standard normal values is below them.

    The smallest value is z, the others lie between z and z + width: the integral over z of
    methods * density(z) * (Phi(z + width) - Phi(z))^(methods - 1).
    """
    widths = np.linspace(0, 14, 2801)
    z, step = np.linspace(-9, 9, 181, retstep=True)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    between = ndtr(z + widths[:, None]) - ndtr(z)
    return widths, methods * step * (between ** (methods - 1) @ density)


def _chi(dof: float) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    """Return nodes and weights for a mean over sqrt(chi-square / dof), equally spaced in the logarithm."""
    log = np.linspace(-36 / dof - 6 / np.sqrt(dof), np.log1p(9 / np.sqrt(dof)), 800)
    weight = np.exp(dof * (log - np.expm1(2 * log) / 2))
    return np.exp(log), weight / weight.sum()

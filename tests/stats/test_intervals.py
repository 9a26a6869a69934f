"""Least squares, paired intervals, decisions and the probability of being best.

The references are numbers worked by hand, design matrices, closed forms and scipy.
"""

import math

import numpy as np
import pytest
from scipy import stats

from autodistill.stats import (
    bounds,
    compare,
    fit,
    own_mean,
    probability_best,
    seeds_to_settle,
)

NAN = math.nan
NOISE = np.array([[0.0004, -0.0004, 0.0, 0.0002], [0.0, 0.0004, -0.0002, -0.0002], [0.0, 0.0, 0.0, 0.0]])


def test_intervals_by_hand() -> None:
    """Rows 1 3 2, 3 3 6 and 2 3 4.

    Finalist means 2, 4, 3, seed means 2, 3, 4, grand mean 3; residuals 0 1 -1 / 0 -1 1 / 0 0 0, so the whole table
    leaves 4. The first two differ by -2, 0, -4: mean -2, squares about it 0 + 4 + 4 = 8, half of which is residual.
    """
    pairs = compare(np.array([[1.0, 3.0, 2.0], [3.0, 3.0, 6.0], [2.0, 3.0, 4.0]]))
    # s^2 = 3/4 x 4/2 + 1/4 x 0/2 = 1.5, variance of the difference 2 x 1.5 / 3 = 1;
    # freedom 1 / ((3/4)^2 / 2 + (1/4)^2 / 2) = 3.2.
    assert pairs.difference[0, 1] == pytest.approx(-2)
    assert pairs.standard_error[0, 1] == pytest.approx(1)
    assert pairs.dof[0, 1] == pytest.approx(3.2)
    assert pairs.half_width(0.95)[0, 1] == pytest.approx(stats.t.ppf(0.975, 3.2))
    # First and third: differences -1, 0, -2, half their squares 1, the rest 3 on 2 degrees of freedom:
    # s^2 = 3/4 x 1/2 + 1/4 x 3/2 = 0.75, variance 0.5.
    assert pairs.standard_error[0, 2] == pytest.approx(math.sqrt(0.5))
    assert pairs.dof[0, 2] == pytest.approx(3.2)
    assert np.isnan(pairs.standard_error.diagonal()).all()


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_two_finalists_have_scipys_paired_t(seeds: int) -> None:
    scores = np.random.default_rng(seeds).normal(size=(2, seeds))
    expected = stats.ttest_rel(scores[0], scores[1]).confidence_interval(0.9)
    pairs = compare(scores)
    width = pairs.half_width(0.9)
    assert pairs.difference[0, 1] - width[0, 1] == pytest.approx(expected.low)
    assert pairs.difference[0, 1] + width[0, 1] == pytest.approx(expected.high)


def test_seeds_that_agree_exactly_leave_the_error_of_rounded_accuracies() -> None:
    """Each row is 1 of 48 images ahead of the row before, in both seeds."""
    scores = np.array([[30, 33], [31, 34], [32, 35]]) / 48
    pairs = compare(scores, step=1 / 48)
    # s^2 = (1/48)^2 / 12; the variance of a difference of means of two seeds is 2 s^2 / 2.
    assert pairs.standard_error[1, 0] == pytest.approx(1 / 48 / math.sqrt(12))
    better = bounds(pairs).better(0.002)
    assert [bool(better[1, 0]), bool(better[2, 1])] == [False, False], "one image in two seeds is no evidence"
    assert compare(scores).standard_error[1, 0] == pytest.approx(0, abs=1e-12)
    best = probability_best(scores, step=1 / 48)
    assert best is not None
    assert 0.9 < best[2] < 1
    mean, half_width = own_mean(np.array([0.5, 0.5]), step=0.01)
    assert (mean, half_width) == (0.5, pytest.approx(stats.t.ppf(0.975, 1) * 0.01 / math.sqrt(12 * 2)))
    noisy = np.array([[30, 33], [35, 31], [32, 39]]) / 48
    np.testing.assert_array_equal(compare(noisy, step=1 / 48).standard_error, compare(noisy).standard_error)


def test_intervals_cover_where_few_images_make_accuracies_agree() -> None:
    draw = np.random.default_rng(0)
    for images, seeds in ((24, 2), (48, 2), (48, 3), (300, 2)):
        scores = draw.binomial(images, 0.8, size=(4000, 2, seeds)) / images
        pairs = compare(scores, step=1 / images)
        covered = abs(pairs.difference[:, 1, 0]) <= pairs.half_width()[:, 1, 0]
        assert covered.mean() >= 0.94


GAPS = {
    "complete": [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]],
    "one run missing": [[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1]],
    "a race": [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]],
    "two islands": [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]],
    "an empty seed": [[1, 0, 1, 1], [1, 0, 1, 1]],
}


@pytest.mark.parametrize("name", GAPS)
def test_least_squares_is_that_of_the_design_matrix(name: str) -> None:
    """Against lstsq on a matrix with one column for each finalist and each seed."""
    ran = np.array(GAPS[name], dtype=bool)
    scores = np.where(ran, np.random.default_rng(5).normal(size=ran.shape), NAN)
    finalists, seeds = np.nonzero(ran)
    design = np.hstack([np.eye(ran.shape[0])[finalists], np.eye(ran.shape[1])[seeds]])
    solution, _, rank, _ = np.linalg.lstsq(design, scores[ran], rcond=None)
    left = scores[ran] - design @ solution
    fitted = fit(scores)
    assert fitted.residual_ss == pytest.approx((left**2).sum())
    assert fitted.residual_dof == len(left) - rank
    by_seed = design[:, ran.shape[0] :]
    alone = scores[ran] - by_seed @ np.linalg.lstsq(by_seed, scores[ran], rcond=None)[0]
    assert fitted.between_ss == pytest.approx((alone**2).sum() - (left**2).sum())
    if fitted.rank == len(ran) - 1:
        effects = solution[: len(ran)]
        assert fitted.effects == pytest.approx(effects - effects.mean())


def test_a_batch_is_its_tables_one_by_one() -> None:
    draw = np.random.default_rng(1)
    scores = draw.normal(size=(6, 4, 5))
    scores[draw.random(scores.shape) < 0.2] = NAN
    together = (*fit(scores), *compare(scores))
    for number, one in enumerate(scores):
        for whole, alone in zip(together, (*fit(one), *compare(one)), strict=True):
            np.testing.assert_allclose(whole[number], alone, atol=1e-12)


def test_a_difference_is_taken_over_shared_seeds() -> None:
    pairs = compare(np.array([[1.0, 2.0, 4.0, NAN], [0.0, 0.5, 3.0, 9.0], [NAN, NAN, 5.0, 5.0]]))
    assert pairs.difference[0, 1] == pytest.approx((1 + 1.5 + 1) / 3)
    assert pairs.difference[1, 0] == -pairs.difference[0, 1]
    assert np.isnan(pairs.standard_error[0, 2])
    assert pairs.standard_error[1, 2] > 0


def test_equal_scores_have_no_width_and_no_warning() -> None:
    pairs = compare(np.full((3, 3), 0.5))
    assert pairs.half_width()[0, 1] == 0


@pytest.mark.parametrize(("finalists", "seeds", "loud"), [(2, 3, 2.0), (3, 3, 1.0), (3, 3, 2.0), (4, 5, 2.0)])
def test_intervals_cover(finalists: int, seeds: int, loud: float) -> None:
    """4,000 studies, seed effects larger than the noise, one finalist perhaps twice as noisy."""
    draw = np.random.default_rng(finalists * 10 + seeds)
    noise = np.array([0.003 * loud] + [0.003] * (finalists - 1))
    shared = draw.normal(0, 0.006, size=(4000, 1, seeds))
    truth = np.linspace(0, 0.01, finalists)
    pairs = compare(truth[:, None] + shared + noise[:, None] * draw.normal(size=(4000, finalists, seeds)))
    wrong = np.abs(pairs.difference - (truth[:, None] - truth))
    covered = (wrong <= pairs.half_width()).mean(axis=0)[np.triu_indices(finalists, 1)]
    assert 0.93 <= covered.mean() <= 0.97
    assert covered.min() >= 0.92


def decided(*means: float, share: float = 1.0, scale: float = 1.0):
    return bounds(compare(np.array(means)[:, None] + scale * NOISE[: len(means)]), share=share)


def test_bounds_are_the_t_intervals_of_their_levels() -> None:
    one, other = 0.78 + NOISE[0], 0.77 + NOISE[1]
    found = bounds(compare(np.array([one, other])), share=0.9)
    test = stats.ttest_rel(one, other)
    assert found.low[0, 1] == pytest.approx(test.confidence_interval(0.955).low)
    assert found.high[0, 1] == pytest.approx(test.confidence_interval(0.955).high)
    assert found.at_least[0, 1] == pytest.approx(test.confidence_interval(1 - 0.9 * 0.075).low)


def test_better_needs_both_bounds() -> None:
    """A difference of 0.0024 with a standard error of 0.00025 is surely above 0, and not surely above 0.002."""
    clear, close = decided(0.785, 0.780), decided(0.7824, 0.7800)
    assert clear.better(0.002)[0, 1]
    assert not clear.better(0.002)[1, 0]
    assert close.low[0, 1] > 0
    assert not close.better(0.002)[0, 1]
    assert close.better(0.001)[0, 1]


def test_a_wide_interval_names_nobody_however_large_the_lead() -> None:
    wide = decided(0.785, 0.780, scale=10)
    assert wide.low[0, 1] < 0
    assert not wide.better(0.0)[0, 1]


def test_help_has_three_answers() -> None:
    for gain, expected in ((0.01, (True, False)), (-0.01, (False, True)), (0.0, (False, True))):
        found = decided(0.77 + gain, 0.77)
        assert (bool(found.helps()[0, 1]), bool(found.does_not_help(0.002)[0, 1])) == expected
    found = decided(0.771, 0.77, scale=8)
    assert not found.helps()[0, 1]
    assert not found.does_not_help(0.002)[0, 1]


def test_an_early_look_asks_for_more() -> None:
    assert decided(0.785, 0.780).better(0.002)[0, 1]
    assert not decided(0.785, 0.780, share=0.01).better(0.002)[0, 1]


def width(seeds: int, freedom: float, level: float) -> float:
    return float(stats.t.ppf((1 + level) / 2, freedom)) * 0.004 * math.sqrt(2 / seeds)


def test_seeds_to_settle_is_where_the_decision_first_holds() -> None:
    """Standard deviation 0.004 in one run, 1.5 degrees of freedom for each further seed, found with 3 seeds."""
    error = 0.004 * math.sqrt(2 / 3)
    seeds = seeds_to_settle(0.006, error, 3.0, 3, threshold=0.002, gain=False)
    assert seeds is not None

    def named(n: int) -> bool:
        return 0.006 - width(n, 1.5 * (n - 1), 0.95) > 0 and 0.006 - width(n, 1.5 * (n - 1), 0.925) >= 0.002

    assert named(seeds)
    assert not named(seeds - 1)
    helped = seeds_to_settle(0.006, error, 3.0, 3, threshold=0.002, gain=True)
    assert helped is not None
    assert width(helped, 1.5 * (helped - 1), 0.95) < 0.006 <= width(helped - 1, 1.5 * (helped - 2), 0.95)


def test_what_no_number_of_seeds_settles() -> None:
    assert seeds_to_settle(0.0019, 0.001, 3.0, 3, threshold=0.002, gain=False) is None
    assert seeds_to_settle(1e-6, 0.01, 3.0, 3, threshold=1e-5, gain=True) is None


def test_a_loss_is_settled_where_the_interval_ends_below_the_threshold() -> None:
    seeds = seeds_to_settle(-0.001, 0.004 * math.sqrt(2 / 3), 3.0, 3, threshold=0.002, gain=True)
    assert seeds is not None
    assert -0.001 + width(seeds, 1.5 * (seeds - 1), 0.95) < 0.002
    assert -0.001 + width(seeds - 1, 1.5 * (seeds - 2), 0.95) >= 0.002


def test_two_finalists_have_the_one_sided_p_of_the_paired_t() -> None:
    scores = np.array([[0.781, 0.785, 0.780, 0.786], [0.780, 0.779, 0.781, 0.784]])
    expected = 1 - stats.ttest_rel(scores[0], scores[1], alternative="greater").pvalue
    found = probability_best(scores)
    assert found is not None
    # 20,000 draws have a standard error below 0.0036.
    assert found[0] == pytest.approx(expected, abs=0.011)
    assert found.sum() == 1


def test_equal_finalists_share_alike_and_equal_tables_are_equal() -> None:
    noise = np.array([1.0, -1.0, 0.0])
    scores = np.array([noise, np.roll(noise, 1), np.roll(noise, 2)])
    found = probability_best(scores)
    assert found == pytest.approx([1 / 3] * 3, abs=0.015)
    np.testing.assert_array_equal(found, probability_best(scores))


def test_a_run_missing_moves_it_little_and_a_lone_seed_gives_none() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 6)) + np.array([[0.0], [1.0], [0.0]])
    gap = scores.copy()
    gap[0, 3] = math.nan
    assert probability_best(gap) == pytest.approx(probability_best(scores), abs=0.1)
    assert probability_best(scores[:, :1]) is None
    islands = np.array([[1.0, 2.0, math.nan, math.nan], [math.nan, math.nan, 1.0, 2.0]])
    assert probability_best(islands) is None


def test_without_noise_the_best_is_certain() -> None:
    assert probability_best(np.array([[0.5, 0.6], [0.7, 0.8]])) == pytest.approx([0, 1])


def test_equal_scores_share_the_probability_of_being_best():
    """As students at chance have: two of three are equal at each seed, without noise."""
    assert probability_best(np.array([[0.1, 0.1], [0.1, 0.1], [0.05, 0.05]])) == pytest.approx([0.5, 0.5, 0.0])

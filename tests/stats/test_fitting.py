"""The layout's least squares and intervals, against numbers worked by hand, design matrices and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from autodistill.stats import compare, fit

NAN = math.nan


def test_intervals_by_hand() -> None:
    """Rows 1 3 2, 3 3 6 and 2 3 4.

    Finalist means 2, 4, 3, seed means 2, 3, 4, grand mean 3; residuals 0 1 -1 / 0 -1 1 / 0 0 0, so the whole layout
    leaves 4. The first two differ by -2, 0, -4: mean -2, squares about it 0 + 4 + 4 = 8, half of them all there is.
    """
    pairs = compare(np.array([[1.0, 3.0, 2.0], [3.0, 3.0, 6.0], [2.0, 3.0, 4.0]]))
    # s^2 = 3/4 x 4/2 + 1/4 x 0/2 = 1.5, variance of the difference 2 x 1.5 / 3 = 1;
    # freedom 1 / ((3/4)^2 / 2 + (1/4)^2 / 2) = 3.2.
    assert pairs.difference[0, 1] == pytest.approx(-2)
    assert pairs.error[0, 1] == pytest.approx(1)
    assert pairs.freedom[0, 1] == pytest.approx(3.2)
    assert pairs.half_width(0.95)[0, 1] == pytest.approx(stats.t.ppf(0.975, 3.2))
    # First and third: differences -1, 0, -2, half their squares 1, the rest 3 on 2 degrees of freedom:
    # s^2 = 3/4 x 1/2 + 1/4 x 3/2 = 0.75, variance 0.5.
    assert pairs.error[0, 2] == pytest.approx(math.sqrt(0.5))
    assert pairs.freedom[0, 2] == pytest.approx(3.2)
    assert np.isnan(pairs.error.diagonal()).all()


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_two_finalists_have_scipys_paired_t(seeds: int) -> None:
    scores = np.random.default_rng(seeds).normal(size=(2, seeds))
    expected = stats.ttest_rel(scores[0], scores[1]).confidence_interval(0.9)
    pairs = compare(scores)
    width = pairs.half_width(0.9)
    assert pairs.difference[0, 1] - width[0, 1] == pytest.approx(expected.low)
    assert pairs.difference[0, 1] + width[0, 1] == pytest.approx(expected.high)


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
    assert fitted.within == pytest.approx((left**2).sum())
    assert fitted.freedom == len(left) - rank
    by_seed = design[:, ran.shape[0] :]
    alone = scores[ran] - by_seed @ np.linalg.lstsq(by_seed, scores[ran], rcond=None)[0]
    assert fitted.between == pytest.approx((alone**2).sum() - (left**2).sum())
    if fitted.rank == len(ran) - 1:
        effects = solution[: len(ran)]
        assert fitted.effects == pytest.approx(effects - effects.mean())


def test_a_batch_is_its_layouts_one_by_one() -> None:
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
    assert np.isnan(pairs.error[0, 2])
    assert pairs.error[1, 2] > 0


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

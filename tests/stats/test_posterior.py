"""The probability of being best, against a closed form and its symmetries."""

import math

import numpy as np
import pytest
from scipy import stats

from autodistill.stats import probability_best


def test_two_finalists_have_the_one_sided_p_of_the_paired_t() -> None:
    scores = np.array([[0.781, 0.785, 0.780, 0.786], [0.780, 0.779, 0.781, 0.784]])
    expected = 1 - stats.ttest_rel(scores[0], scores[1], alternative="greater").pvalue
    found = probability_best(scores)
    assert found is not None
    # 20,000 draws have a standard error below 0.0036.
    assert found[0] == pytest.approx(expected, abs=0.011)
    assert found.sum() == 1


def test_equal_finalists_share_alike_and_equal_layouts_are_equal() -> None:
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

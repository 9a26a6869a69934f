"""Who is better, whether a teacher helps, how many seeds would tell."""

import math

import numpy as np
import pytest
from scipy import stats

from autodistill.stats import better, compare, ends, helps, helps_not, seeds_to_settle

NOISE = np.array([[0.0004, -0.0004, 0.0, 0.0002], [0.0, 0.0004, -0.0002, -0.0002], [0.0, 0.0, 0.0, 0.0]])


def decided(*means: float, share: float = 1.0, scale: float = 1.0):
    return ends(compare(np.array(means)[:, None] + scale * NOISE[: len(means)]), share=share)


def test_ends_are_the_t_intervals_of_their_levels() -> None:
    one, other = 0.78 + NOISE[0], 0.77 + NOISE[1]
    found = ends(compare(np.array([one, other])), share=0.9)
    test = stats.ttest_rel(one, other)
    assert found.low[0, 1] == pytest.approx(test.confidence_interval(0.955).low)
    assert found.high[0, 1] == pytest.approx(test.confidence_interval(0.955).high)
    assert found.at_least[0, 1] == pytest.approx(test.confidence_interval(1 - 0.9 * 0.075).low)


def test_better_needs_both_ends() -> None:
    """A difference of 0.0024 with a standard error of 0.00025 is surely above 0, and not surely above 0.002."""
    clear, close = decided(0.785, 0.780), decided(0.7824, 0.7800)
    assert better(clear, threshold=0.002)[0, 1]
    assert not better(clear, threshold=0.002)[1, 0]
    assert close.low[0, 1] > 0
    assert not better(close, threshold=0.002)[0, 1]
    assert better(close, threshold=0.001)[0, 1]


def test_a_wide_interval_names_nobody_however_large_the_lead() -> None:
    wide = decided(0.785, 0.780, scale=10)
    assert wide.low[0, 1] < 0
    assert not better(wide, threshold=0.0)[0, 1]


def test_help_has_three_answers() -> None:
    for gain, expected in ((0.01, (True, False)), (-0.01, (False, True)), (0.0, (False, True))):
        found = decided(0.77 + gain, 0.77)
        assert (bool(helps(found)[0, 1]), bool(helps_not(found, threshold=0.002)[0, 1])) == expected
    found = decided(0.771, 0.77, scale=8)
    assert not helps(found)[0, 1]
    assert not helps_not(found, threshold=0.002)[0, 1]


def test_an_early_look_asks_for_more() -> None:
    assert better(decided(0.785, 0.780), threshold=0.002)[0, 1]
    assert not better(decided(0.785, 0.780, share=0.01), threshold=0.002)[0, 1]


def width(seeds: int, freedom: float, level: float) -> float:
    return float(stats.t.ppf((1 + level) / 2, freedom)) * 0.004 * math.sqrt(2 / seeds)


def test_seeds_to_settle_is_where_the_rule_first_holds() -> None:
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

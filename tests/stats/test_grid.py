"""Method grids: means over teachers, simultaneous intervals, the verdict, cells and slopes.

The references are numbers worked by hand, loops in float64, closed forms and scipy.
"""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats as reference

from autodistill import stats
from autodistill.stats import grid

NAN = math.nan
THRESHOLD = 0.002
HAND = np.array([[1.0, 3.0, 2.0], [3.0, 3.0, 6.0], [2.0, 3.0, 4.0]])
"""Three methods x 3 seeds; their errors are worked out in `test_intervals.py`."""


def scores_of(*shape: int, seed: int = 0, noise: float = 0.003) -> np.ndarray:
    draw = np.random.default_rng(seed)
    cells = 0.7 + 0.01 * draw.normal(size=(*shape[:-1], 1))
    return cells + 0.005 * draw.normal(size=shape[-1:]) + noise * draw.normal(size=shape)


def test_intervals_by_hand() -> None:
    """The first two methods differ by -2 with a standard error of 1 on 3.2 degrees of freedom."""
    found = grid.compare_methods(HAND)
    critical = reference.studentized_range.ppf(0.95, 3, 3.2) / math.sqrt(2)
    assert found.pairs.difference[0, 1] == pytest.approx(-2)
    assert found.half_width()[0, 1] == pytest.approx(critical, rel=1e-4)
    assert found.compared == 3
    assert found.shared[0, 1] == 3
    bounds = found.bounds()
    naming = reference.studentized_range.ppf(0.925, 3, 3.2) / math.sqrt(2)
    assert bounds.high[1, 0] == pytest.approx(2 + critical, rel=1e-4)
    assert bounds.at_least[1, 0] == pytest.approx(2 - naming, rel=1e-3)


@pytest.mark.parametrize(
    ("methods", "dof", "level"),
    [(2, 1.0, 0.95), (3, 1.0, 0.95), (3, 3.2, 0.925), (3, 4.0, 0.95), (5, 300.0, 0.95), (8, 2.5, 0.95)],
)
def test_critical_values_are_those_of_the_studentised_range(methods: int, dof: float, level: float) -> None:
    expected = reference.studentized_range.ppf(level, methods, dof) / math.sqrt(2)
    assert grid.critical_value(methods, dof, level=level) == pytest.approx(expected, rel=1e-5)


def test_published_critical_values() -> None:
    """Upper 5 % points of the studentised range from tables: q(3, 4) = 5.04, q(3, 10) = 3.88, q(5, 20) = 4.23."""
    for methods, dof, tabulated in ((3, 4.0, 5.04), (3, 10.0, 3.88), (5, 20.0, 4.23)):
        assert math.sqrt(2) * grid.critical_value(methods, dof, level=0.95) == pytest.approx(tabulated, abs=0.005)


def test_two_methods_have_scipys_paired_t() -> None:
    table = np.random.default_rng(3).normal(size=(2, 4))
    expected = reference.ttest_rel(table[0], table[1]).confidence_interval(0.95)
    found = grid.compare_methods(table).bounds()
    assert found.low[0, 1] == pytest.approx(expected.low)
    assert found.high[0, 1] == pytest.approx(expected.high)


def loops(table: np.ndarray, one: int, other: int) -> tuple[float, float, float]:
    """Difference, squared standard error and degrees of freedom of two rows of a complete table."""
    rows, seeds = table.shape
    total, grand = 0.0, table.mean()
    for row in range(rows):
        for seed in range(seeds):
            total += (table[row, seed] - table[row].mean() - table[:, seed].mean() + grand) ** 2
    gaps = [table[one, seed] - table[other, seed] for seed in range(seeds)]
    mean = sum(gaps) / seeds
    own = sum((gap - mean) ** 2 for gap in gaps) / 2
    own_dof, rest_dof = seeds - 1, (rows - 1) * (seeds - 1) - (seeds - 1)
    variance = 0.75 * own / own_dof + 0.25 * (total - own) / rest_dof
    return mean, 2 * variance / seeds, 1 / (0.75**2 / own_dof + 0.25**2 / rest_dof)


def test_methods_are_compared_on_their_means_over_teachers() -> None:
    scores = scores_of(4, 3, 5)
    table = np.zeros((4, 5))
    for method in range(4):
        for seed in range(5):
            table[method, seed] = sum(scores[method, teacher, seed] for teacher in range(3)) / 3
    found = grid.compare_methods(grid.method_scores(scores))
    for one, other in combinations(range(4), 2):
        difference, squared, dof = loops(table, one, other)
        assert found.pairs.difference[one, other] == pytest.approx(difference)
        critical = reference.studentized_range.ppf(0.95, 4, dof) / math.sqrt(2)
        assert found.half_width()[one, other] == pytest.approx(critical * math.sqrt(squared), rel=1e-4)
    assert stats.adjusted_means(table) == pytest.approx(scores.mean(axis=(1, 2)))


def test_a_batch_is_its_grids_one_by_one() -> None:
    draw = np.random.default_rng(1)
    scores = scores_of(20, 3, 4, 4)
    scores[draw.random(scores.shape) < 0.06] = NAN
    controls = scores_of(20, 2, 4, seed=2)

    def everything(scores: np.ndarray, controls: np.ndarray) -> list[np.ndarray]:
        table = grid.method_scores(scores)
        compared = grid.compare_methods(table)
        return [
            grid.counted_teachers(scores),
            table,
            *compared.pairs,
            compared.half_width(),
            *grid.compare_cells(scores, controls),
        ]

    together = everything(scores, controls)
    for number in range(20):
        for whole, alone in zip(together, everything(scores[number], controls[number]), strict=True):
            np.testing.assert_allclose(whole[number], alone, atol=1e-12)


def test_a_seed_effect_changes_no_comparison() -> None:
    scores, controls, effect = scores_of(3, 4, 4), scores_of(2, 4, seed=9), np.array([0.1, -0.2, 0.05, 0.0])
    macs = np.array([1.0, 2.0, 4.0, 9.0])
    before, after = (grid.compare_methods(grid.method_scores(scores + shift)) for shift in (0, effect))
    np.testing.assert_allclose(after.half_width(), before.half_width())
    np.testing.assert_allclose(after.pairs.difference, before.pairs.difference, atol=1e-12)
    cells, moved = (grid.compare_cells(scores + shift, controls + shift) for shift in (0, effect))
    np.testing.assert_allclose(moved.standard_error, cells.standard_error)
    slopes, same = (grid.capacity_slopes(scores + shift, macs) for shift in (0, effect))
    np.testing.assert_allclose(same, slopes)


def test_permuted_methods_have_permuted_results() -> None:
    scores, order = scores_of(3, 4, 3), [2, 0, 1]
    scores[2, 1, 0] = NAN
    macs = np.array([1.0, 2.0, 4.0, 9.0])
    before, after = (grid.compare_methods(grid.method_scores(rows)) for rows in (scores, scores[order]))
    np.testing.assert_allclose(after.half_width(), before.half_width()[np.ix_(order, order)])
    np.testing.assert_allclose(grid.capacity_slopes(scores[order], macs), grid.capacity_slopes(scores, macs)[order])
    table = grid.method_scores(scores)
    verdict, permuted = (grid.judge(rows, threshold=THRESHOLD) for rows in (table, table[order]))
    assert verdict.leader is not None
    assert permuted.leader == order.index(verdict.leader)
    assert permuted.seeds_to_settle == verdict.seeds_to_settle


def test_a_failed_run_takes_its_seed_and_shifts_no_mean() -> None:
    """The third seed is 0.1 worse for all cells; where a run of it failed, the method's mean must not gain."""
    scores = np.full((3, 2, 4), 0.7) + np.array([0.0, 0.0, -0.1, 0.0])
    scores[0] += 0.01
    scores[0, 1, 2] = NAN
    scores[:, 1] += 0.05
    table = grid.method_scores(scores)
    assert np.isnan(table[0]).tolist() == [False, False, True, False]
    found = grid.compare_methods(table)
    assert found.pairs.difference[0, 1] == pytest.approx(0.01)
    assert found.shared.tolist() == [[3, 3, 3], [3, 4, 4], [3, 4, 4]]
    assert stats.adjusted_means(table) == pytest.approx([0.71, 0.70, 0.70])


def test_a_teacher_that_a_method_fails_with_is_left_out_for_all() -> None:
    """The second teacher is worth 0.1 more. The first method has one finished run with it."""
    scores = scores_of(3, 3, 3)
    scores[:, 1] += 0.1
    scores[0, 1, :2] = NAN
    assert grid.counted_teachers(scores).tolist() == [True, False, True]
    np.testing.assert_allclose(grid.method_scores(scores), scores[:, [0, 2]].mean(axis=1))


def test_a_method_whose_runs_all_failed_takes_no_part() -> None:
    scores = scores_of(3, 4, 3)
    scores[1] = NAN
    alone = grid.compare_methods(grid.method_scores(scores[[0, 2]]))
    found = grid.compare_methods(grid.method_scores(scores))
    assert found.compared == 2
    assert found.half_width()[0, 2] == pytest.approx(alone.half_width()[0, 1])
    assert np.isnan(found.half_width()[1]).all()
    assert np.isnan(stats.adjusted_means(grid.method_scores(scores))[1])
    verdict = grid.judge(grid.method_scores(scores), threshold=THRESHOLD)
    assert verdict.left_out == (1,)
    assert verdict.leader != 1


@pytest.mark.parametrize("shape", [(1, 4, 3), (3, 1, 3), (1, 1, 2), (3, 4, 1), (3, 2, 2)])
def test_small_grids(shape: tuple[int, int, int]) -> None:
    """One method or one seed has no interval between methods; one teacher is its own mean."""
    methods, teachers, seeds = shape
    scores, controls = scores_of(*shape), scores_of(2, seeds, seed=1)
    table = grid.method_scores(scores)
    verdict = grid.judge(table, threshold=THRESHOLD)
    measurable = methods > 1 and seeds > 1
    assert (verdict.leader is not None) is measurable
    assert (verdict.smallest_difference is not None) is measurable
    assert verdict.left_out == (() if measurable else tuple(range(methods)))
    cells = grid.compare_cells(scores, controls)
    assert np.isnan(cells.half_width()).all() == (seeds == 1)
    # Three distinct MACs are a trend; two are not.
    slopes = grid.capacity_slopes(scores, np.arange(1.0, teachers + 1))
    assert np.isnan(slopes).all() == (teachers < 3 or seeds == 1)


def test_without_noise_everything_is_certain_and_nothing_warns() -> None:
    scores = np.full((3, 4, 3), 0.75)
    level = grid.judge(grid.method_scores(scores), threshold=THRESHOLD)
    assert not level.named
    assert len(level.rivals) == 2
    assert level.seeds_to_settle is None
    assert level.smallest_difference == pytest.approx(THRESHOLD)
    assert grid.capacity_slopes(scores, np.array([1.0, 2.0, 4.0, 8.0])) == pytest.approx(0)
    scores[2] += 0.25
    clear = grid.judge(grid.method_scores(scores), threshold=THRESHOLD)
    assert clear[:3] == (2, True, ())
    assert clear.seeds_to_settle is None


NOISE = np.array([[0.0004, -0.0004, 0.0], [0.0, 0.0004, -0.0004], [-0.0004, 0.0, 0.0004]])


def test_a_method_is_named_by_both_levels() -> None:
    def judged(*means: float) -> grid.Judgement:
        return grid.judge(np.array(means)[:, None] + NOISE, threshold=THRESHOLD)

    clear = judged(0.70, 0.71, 0.70)
    assert clear[:3] == (1, True, ())
    # A difference of 0.0024 is surely above 0, and not surely above 0.002.
    close = judged(0.7000, 0.7024, 0.6900)
    assert close[:3] == (1, False, (0,))
    found = grid.compare_methods(np.array([0.7, 0.7024, 0.69])[:, None] + NOISE)
    assert found.bounds().low[1, 0] > 0
    assert grid.judge(np.array([0.7, 0.7024, 0.69])[:, None] + NOISE, threshold=0.0)[:3] == (1, True, ())


def rule_holds(difference: float, error: float, dof: float, *, methods: int) -> bool:
    def critical(level: float) -> float:
        return float(reference.studentized_range.ppf(level, methods, dof)) / math.sqrt(2)

    return difference > critical(0.95) * error and difference - critical(0.925) * error >= THRESHOLD


def test_seeds_to_settle_is_where_the_rule_first_holds() -> None:
    found = grid.seeds_to_settle(-0.004, 0.002, 3.2, 3, methods=3, threshold=THRESHOLD)
    assert found is not None

    def holds(seeds: int) -> bool:
        return rule_holds(0.004, 0.002 * math.sqrt(3 / seeds), 1.6 * (seeds - 1), methods=3)

    assert holds(found)
    assert not holds(found - 1)
    assert grid.seeds_to_settle(0.0019, 0.0001, 3.2, 3, methods=3, threshold=THRESHOLD) is None
    assert grid.seeds_to_settle(0.0025, 0.002, 3.2, 3, methods=3, threshold=THRESHOLD) is None
    assert grid.seeds_to_settle(NAN, NAN, NAN, 0, methods=3, threshold=THRESHOLD) is None


def test_a_verdict_needs_the_seeds_of_its_hardest_pair() -> None:
    table = np.array([0.7100, 0.7060, 0.7050])[:, None] + 4 * NOISE
    verdict = grid.judge(table, threshold=THRESHOLD)
    assert verdict[:3] == (0, False, (1, 2))
    pairs = grid.compare_methods(table).pairs
    needed = [
        grid.seeds_to_settle(
            float(pairs.difference[0, rival]),
            float(pairs.standard_error[0, rival]),
            float(pairs.dof[0, rival]),
            3,
            methods=3,
            threshold=THRESHOLD,
        )
        for rival in (1, 2)
    ]
    assert None not in needed
    assert verdict.seeds_to_settle == max(needed)
    assert grid.judge(np.array([0.71, 0.709, 0.70])[:, None] + 4 * NOISE, threshold=THRESHOLD).seeds_to_settle is None


@pytest.mark.parametrize(("methods", "dof", "error"), [(2, 3.0, 0.001), (3, 3.2, 0.002), (5, 8.0, 0.0002)])
def test_the_smallest_difference_is_found_in_80_percent(methods: int, dof: float, error: float) -> None:
    """20,000 draws of a difference and of its estimated error; standard error 0.3 %."""
    truth = grid.smallest_difference(error, dof, methods=methods, threshold=THRESHOLD)
    draw = np.random.default_rng(methods)
    difference = truth + error * draw.normal(size=20_000)
    estimate = error * np.sqrt(draw.chisquare(dof, size=20_000) / dof)
    shown, naming = (reference.studentized_range.ppf(level, methods, dof) / math.sqrt(2) for level in (0.95, 0.925))
    found = (difference > shown * estimate) & (difference - naming * estimate >= THRESHOLD)
    assert found.mean() == pytest.approx(0.8, abs=0.012)


def test_cells_are_compared_within_their_methods_by_hand() -> None:
    """Two methods x 2 teachers x 3 seeds; the first cells of both, against loops over the four rows."""
    scores, controls = scores_of(2, 2, 3), scores_of(2, 3, seed=4)
    found = grid.compare_cells(scores, controls)
    rows = scores.reshape(4, 3)
    residual = rows - rows.mean(axis=1, keepdims=True) - rows.mean(axis=0) + rows.mean()
    gaps = rows[0] - rows[2]
    own = ((gaps - gaps.mean()) ** 2).sum() / 2
    # Residual degrees of freedom: 3 x 2 of four rows, 2 of them the pair's own.
    variance = 0.6 * own / 2 + 0.4 * ((residual**2).sum() - own) / 4
    dof = 1 / (0.6**2 / 2 + 0.4**2 / 4)
    assert found.difference[2, 4] == pytest.approx(gaps.mean())
    assert found.difference[4, 2] == pytest.approx(-gaps.mean())
    assert found.half_width()[2, 4] == pytest.approx(reference.t.ppf(0.975, dof) * math.sqrt(2 * variance / 3))
    # Two cells of a method of two teachers, and the two controls, have the paired t interval.
    for one, other in ((2, 3), (0, 1)):
        both = np.concatenate([controls, rows])[[one, other]]
        expected = reference.ttest_rel(both[0], both[1]).confidence_interval(0.95)
        assert found.difference[one, other] - found.half_width()[one, other] == pytest.approx(expected.low)


def test_a_noisy_method_widens_its_own_cells_only() -> None:
    scores, controls = scores_of(3, 4, 4), scores_of(2, 4, seed=1)
    before = grid.compare_cells(scores, controls)
    scores[2] += 0.05 * np.random.default_rng(0).normal(size=(4, 4))
    after = grid.compare_cells(scores, controls)
    np.testing.assert_allclose(after.standard_error[:10, :10], before.standard_error[:10, :10])
    assert (after.standard_error[:10, 10:] > 2 * before.standard_error[:10, 10:]).all()


def test_a_cell_without_runs_has_no_interval_and_takes_none() -> None:
    scores, controls = scores_of(2, 3, 3), scores_of(2, 3, seed=1)
    scores[1, 2] = NAN
    found = grid.compare_cells(scores, controls).half_width()
    assert np.isnan(found[7]).all()
    others = found[:7, :7][~np.eye(7, dtype=bool)]
    assert not np.isnan(others).any()


def test_slopes_by_hand() -> None:
    """Teachers of 1, 2, 4 units: x = -1, 0, 1 about its mean, so the slope is (last - first) / 2."""
    scores = np.array([[[1.0, 2.0], [9.0, 9.0], [5.0, 2.0]], [[3.0, 3.0], [0.0, 1.0], [1.0, 3.0]]])
    found = grid.capacity_slopes(scores, np.array([1e6, 2e6, 4e6]))
    np.testing.assert_allclose(found, [[2.0, 0.0], [-1.0, 0.0]], atol=1e-12)
    # Standard deviations sqrt(2) and sqrt(0.5) over two seeds; t of one degree of freedom.
    assert stats.own_mean(found[0]) == pytest.approx((1.0, 12.7062), rel=1e-4)
    assert stats.own_mean(found[1]) == pytest.approx((-0.5, 6.3531), rel=1e-4)
    # Differences 3 and 0: mean 1.5, standard deviation 3 / sqrt(2), over two seeds 1.5.
    between = grid.compare_methods(found)
    assert between.pairs.difference[0, 1] == pytest.approx(1.5)
    assert between.half_width()[0, 1] == pytest.approx(12.7062 * 1.5, rel=1e-4)


def test_slopes_are_numpys_lines_and_know_what_they_leave_out() -> None:
    scores, macs = scores_of(3, 6, 4), np.array([1e7, NAN, 8e7, 3e8, 5e8, 2e7])
    scores[1, 1] = NAN  # of unknown MACs: leaves nothing else out
    scores[0, 3, 2] = NAN  # takes its seed
    scores[2, 4, 1:] = NAN  # one finished run: takes its teacher
    found = grid.capacity_slopes(scores, macs)
    taken = [0, 2, 3, 5]
    for method in range(3):
        for seed in range(4):
            if (method, seed) == (0, 2):
                assert np.isnan(found[method, seed])
                continue
            line = np.polyfit(np.log2(macs[taken]), scores[method, taken, seed], 1)
            assert found[method, seed] == pytest.approx(line[0])


@pytest.mark.parametrize("macs", [[1.0, 1.0, 2.0, 2.0], [NAN, NAN, 1.0, 3.0], [NAN] * 4])
def test_fewer_than_three_capacities_have_no_slope(macs: list[float]) -> None:
    assert np.isnan(grid.capacity_slopes(scores_of(2, 4, 3), np.array(macs))).all()


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_intervals_hold_together(factor: float) -> None:
    """4,000 grids; one method perhaps twice as noisy. The bench has the exact shares."""
    draw = np.random.default_rng(3)
    noise = np.array([0.003 * factor, 0.003, 0.003])[:, None, None]
    scores = noise * draw.normal(size=(4000, 3, 4, 3)) + 0.005 * draw.normal(size=(4000, 1, 1, 3))
    found = grid.compare_methods(grid.method_scores(scores))
    inside = np.abs(found.pairs.difference) <= found.half_width()
    joint = (inside | np.eye(3, dtype=bool)).all(axis=(-2, -1)).mean()
    assert 0.93 <= joint <= 0.97

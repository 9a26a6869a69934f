"""Who gets the next confirm runs, on planted results. Row 0 is no teacher."""

import math

import numpy as np
import pytest

from autodistill.stats import next_runs, share, undecided

NAN = math.nan
NOISE = np.array([[4, -4, 0], [0, 4, -4], [2, -2, 0], [0, -4, 4]]) / 10_000


def table(*means: float, noise: float = 1.0) -> np.ndarray:
    return np.array(means)[:, None] + noise * NOISE[: len(means)]


def named(scores: np.ndarray, spent: float = 1.0) -> list[bool]:
    return undecided(scores, threshold=0.002, spent=np.array(spent)).tolist()


def test_nothing_is_left_to_ask_when_all_is_decided() -> None:
    assert named(table(0.77, 0.80, 0.78)) == [False, False, False]


def test_the_best_and_its_nearest_open_rival_go_on() -> None:
    assert named(table(0.77, 0.790, 0.7895, 0.770)) == [False, True, True, False]
    assert named(table(0.77, 0.770, 0.7895, 0.790)) == [False, False, True, True]


def test_no_teacher_goes_on_while_help_is_open() -> None:
    assert named(table(0.789, 0.790, 0.780), spent=0.1) == [True, True, False]
    assert named(table(0.7895, 0.790, 0.7895), spent=0.1) == [True, True, True]
    assert named(table(0.795, 0.790, 0.7895)) == [False, True, True]


def test_of_two_rivals_the_less_certain_one_is_asked() -> None:
    scores = np.hstack([table(0.77, 0.792, 0.7905, 0.7905, noise=3.0), np.full((4, 2), NAN)])
    scores[1:3, 3:] = [[0.792, 0.792], [0.7905, 0.7905]]
    assert named(scores) == [False, True, False, True]


def test_a_finalist_without_runs_is_out_of_the_race() -> None:
    scores = table(0.77, 0.79, 0.7895)
    scores[2] = NAN
    assert named(scores) == [False, False, False]
    scores = table(0.7895, 0.79, 0.78)
    scores[0] = NAN
    assert named(scores) == [False, False, False]
    assert named(np.full((3, 3), NAN)) == [False, False, False]


def test_next_runs_are_paired_and_the_earliest_missing_come_first() -> None:
    asked = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]], dtype=bool)
    level = np.array([False, True, True])
    expected = np.zeros((3, 6), dtype=bool)
    expected[2, 4] = expected[1, 5] = True
    assert next_runs(asked, level, left=9).tolist() == expected.tolist()
    behind = next_runs(asked, np.array([True, True, False]), left=9)
    assert np.argwhere(behind).tolist() == [[0, 3], [0, 4]]
    assert next_runs(asked, np.array([True, True, True]), left=2).sum() == 2
    assert not next_runs(asked, np.array([False] * 3), left=9).any()


@pytest.mark.parametrize("left", [0, 1, 2, 6, 7, 25])
def test_the_looks_spend_the_error_probability_once(left: int) -> None:
    """Each look but the last pays for two runs or more, so there are no more of them than planned."""
    spent = [float(share(runs, left)) for runs in (*range(left, 1, -2), left % 2)]
    assert sum(spent) == pytest.approx(1)
    assert spent[-1] == max(spent)


def test_a_batch_is_raced_one_by_one() -> None:
    draw = np.random.default_rng(2)
    scores = 0.78 + 0.002 * draw.normal(size=(20, 4, 5))
    scores[:, :, 4] = NAN
    scores[:10, 2, 3] = NAN
    spent = np.linspace(0.01, 1, 20)
    together = undecided(scores, threshold=0.002, spent=spent)
    asked = ~np.isnan(scores)
    left = np.arange(20)
    new = next_runs(asked, together, left=left)
    assert together.any()
    assert not together.all()
    for one in range(20):
        alone = undecided(scores[one], threshold=0.002, spent=float(spent[one]))
        assert together[one].tolist() == alone.tolist()
        assert new[one].tolist() == next_runs(asked[one], alone, left=int(left[one])).tolist()

"""Importance of what was searched."""

from statistics import fmean, stdev

import pytest
from search_runs import search, search_spec

from autodistill.config import Space
from autodistill.searching import importance

pytestmark = pytest.mark.slow


def test_importance_is_a_mean_over_forests_and_finds_the_planted_cause():
    """With the same forest twice there is no spread; two forests give mean and deviation of each grown alone."""
    spec = search_spec("weak", "slow", budget="40")
    trials = search(spec)[0].trials

    def grown(*seeds):
        return importance(trials, spec.space, ["weak", "slow"], seeds=seeds)

    one, other, both = grown(3, 3), grown(4, 4), grown(3, 4)
    assert one.n == len(trials) > 20
    assert sum(both.shares.values()) == pytest.approx(1, abs=1e-3)
    assert both.shares["teacher"] > 0.8
    assert both.evaluator_seeds == 2
    assert set(one.shares_std.values()) == {0.0}
    assert max(both.shares_std.values()) > 0
    assert list(both.shares.values()) == sorted(both.shares.values(), reverse=True)
    for name, share in both.shares.items():
        pair = [one.shares[name], other.shares[name]]
        assert share == pytest.approx(fmean(pair), abs=2e-6)
        assert both.shares_std[name] == pytest.approx(stdev(pair), abs=2e-6)


def test_importance_of_few_trials_is_not_stated():
    state, _ = search(search_spec("weak", "slow", budget="20"))
    assert len(state.trials) > 9
    found = importance(state.trials[:9], Space(), ["weak", "slow"])
    assert found.shares == {}
    assert found.note == "9 scored trials are too few: at least 10"

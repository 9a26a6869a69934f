"""The simulated searches, small: what they count is what is true in their worlds."""

import numpy as np
import pytest
import worlds
from bench import policy
from bench.policy import Found, Study


@pytest.mark.parametrize("world", policy.WORLDS)
@pytest.mark.parametrize("variant", policy.POLICIES)
def test_each_policy_runs_in_each_world(world, variant):
    found = policy.run(Study(world, variant, 0, 4, "20"))
    assert found.regret >= 0, "no configuration is better than the best of the world"
    assert not (found.basis is None and (found.false or found.false_winner or found.named)), "no winner, no claim"


def test_equal_studies_are_equal():
    study = Study("planted", "as it is", 3, 4, "20")
    assert policy.run(study) == policy.run(study)


def test_exchanged_teachers_have_each_other_s_results():
    world = policy.world_of("cifar10", np.random.default_rng(0))
    other = worlds.exchanged(world, np.random.default_rng(2))
    names = [it.name for it in world.recording.teachers]
    assert sorted(map(world.best_of, names)) == sorted(map(other.best_of, names))
    assert list(map(world.best_of, names)) != list(map(other.best_of, names))


def test_the_noise_of_a_world_is_that_of_its_recording():
    """Runs of one configuration differ by what the recorded runs of one configuration differ by."""
    world = policy.world_of("fashion-mnist", np.random.default_rng(0))
    tests = np.array(
        [[world.recording.test(it, seed) for seed in world.recording.seeds] for it in world.recording.configurations]
    )
    of_runs = np.sqrt(world.noise[2, 2] + world.seeds[2, 2])
    assert of_runs == pytest.approx(np.sqrt(tests.var(axis=1, ddof=1).mean()), rel=0.05)


def test_a_row_counts_claims_by_their_basis():
    claim = Found(right=True, regret=0.001, basis="teachers", false=False, false_winner=False, leads=True, named=True)
    other = Found(
        right=False, regret=0.009, basis="configurations", false=False, false_winner=True, leads=True, named=False
    )
    assert policy.row("a", [claim, other]) == "| a | 2 | 50.0 | 0.50 ± 0.28 | 0.0 | 50.0 | 50.0 | 50.0 | 50 of 2 |"

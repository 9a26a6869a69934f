"""The replayed searches, small: every way of a study runs over the recorded runs."""

import pytest
import replays
from bench import replay
from bench.replay import Study


@pytest.mark.parametrize("way", replay.WAYS)
def test_each_way_runs_within_the_epochs_of_its_budget(way):
    recording = replays.load(replays.RECORDED)
    found = replay.run(recording, Study(way, 4, 0, "20"))
    assert found.regret >= 0, "no configuration is better than the best of the recording"
    assert found.epochs <= 20 * recording.full


def test_too_few_right_teachers_are_a_failure():
    right, wrong = (replay.Found(right=it, regret=0.001, epochs=240) for it in (True, False))
    studies = [Study("averaged weights", 4, number, "20") for number in range(10)]
    assert replay.failures(dict.fromkeys(studies, right)) == []
    assert replay.failures({**dict.fromkeys(studies, right), studies[0]: wrong}) == [
        "averaged weights, 4 teachers: 90.0% right, mean regret 0.10 points"
    ]

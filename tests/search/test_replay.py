"""The search over recorded runs: real scores and real noise. Nothing is trained."""

import json
from dataclasses import replace

import pytest
from replays import RECORDED, Player, Recording, load, play, rungs, search_spec

from autodistill.config import load as load_space
from autodistill.searching import SearchState
from autodistill.study import KNOWN

FOUR = ("resnet8:0.25", "resnet8:0.5", "resnet8", "vgg8:0.5")


@pytest.fixture(scope="module")
def recording() -> Recording:
    return load()


def replayed(recording: Recording, *names: str, seed: int = 0, **how: object) -> tuple[SearchState, Player]:
    player = Player(recording, rungs(recording)["averaged weights"], base=seed)
    player = replace(player, **how)
    return play(search_spec(recording, names or FOUR, seed=seed), player), player


def test_the_recording_is_of_the_shipped_space(recording):
    first = json.loads(RECORDED.read_text(encoding="utf-8").splitlines()[0])
    shipped = load_space("fashion-mnist", known=KNOWN).model_dump(mode="json")
    assert first["space"] == {part: shipped[part] for part in ("data", "student", "training", "ladder")}


def test_there_are_enough_runs_and_every_cell_is_there(recording):
    full = [key for key in recording.runs if key[2:] == ("cosine", recording.full)]
    assert len(full) >= 150
    assert len(full) == len(recording.seeds) * (1 + len(recording.configurations))
    assert len(recording.configurations) == 8 * len(recording.teachers) == 48


@pytest.mark.parametrize("seed", range(4))
def test_a_study_spends_its_budget_and_not_an_epoch_more(recording, seed):
    state, player = replayed(recording, seed=seed)
    spec = search_spec(recording, FOUR, seed=seed)
    assert 0 <= spec.plan.total_epochs - state.spent_epochs < recording.rung
    assert len({run.run for run in player.asked}) == len(player.asked)


def test_short_runs_that_are_repeated_spend_the_budget_too(recording):
    rung = rungs(recording)["complete rung"]
    spec = search_spec(recording, FOUR, rungs=rung.rungs)
    state = play(spec, Player(recording, rung))
    assert 0 <= spec.plan.total_epochs - state.spent_epochs < recording.rung
    assert all(run.spent_epochs == run.epochs for run in state.results.values())


def test_confirm_runs_see_no_seed_of_the_search(recording):
    _, player = replayed(recording, first=1)
    scores = {run.evaluate_on: player.result(run).test_top1 for run in player.asked if run.params.teacher == "resnet8"}
    assert scores.get("validation") is None
    confirmed = [run for run in player.asked if run.run.startswith("confirm/")]
    of_first = {recording.test(run.params, 1) for run in confirmed}
    assert confirmed
    assert not of_first & {player.result(run).test_top1 for run in confirmed}


def test_a_teacher_with_slow_starters_is_judged_by_its_own(recording):
    """Ten points off all rungs of one teacher's students: its trials are promoted all the same."""
    plain, _ = replayed(recording, seed=3)
    slow, _ = replayed(recording, seed=3, handicap={"vgg8:0.5": -0.1})
    promoted = [
        sum(trial.full is not None for trial in state.trials if trial.params.teacher == "vgg8:0.5")
        for state in (plain, slow)
    ]
    assert promoted[1] >= 1
    assert slow.trials[3].full is not None


def test_most_studies_name_a_right_teacher(recording):
    right = 0
    for seed in range(20):
        state, _ = replayed(recording, seed=seed, first=seed % 2)
        best = max((it for it in state.finalists if it.teacher), key=lambda it: sum(run.test_top1 for run in it.runs))
        right += recording.best_of(best.teacher) >= max(map(recording.best_of, FOUR)) - 0.002
    assert right >= 16

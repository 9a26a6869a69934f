"""Confirm runs, and the race of confirm seeds, over a made-up scoring function."""

import math

import pytest
from factories import bare, confirmed
from search_runs import FOUR, Trainer, search, search_spec

from autodistill.config import Space
from autodistill.records import PhaseStarted, RunEnded, RunSpec, StudyRecord
from autodistill.searching import SearchState, make_plan
from autodistill.stats.verdict import judged, recommend
from autodistill.store import seed_from

RACED = Space.model_validate({"confirm": {"teachers": 3, "seeds": 6}})


def confirm_runs(state: SearchState) -> dict[str | None, list[int]]:
    return {one.teacher: [run.seed - 1000 for run in one.runs] for one in state.finalists}


def close_race(run: RunSpec) -> float:
    """slow and strong are equal but for noise, mid is far behind, and all are far above no teacher."""
    worth = {"slow": 0.80, "strong": 0.80, "mid": 0.78, "weak": 0.70, None: 0.60}[run.params.teacher]
    return worth + (seed_from(run.seed, len(str(run.params))) % 1000 / 1000 - 0.5) * 0.004


def record_of(state: SearchState) -> StudyRecord:
    plan = make_plan(RACED, teachers=4, requested="33")
    return bare(dict.fromkeys(FOUR, 0.9)).model_copy(update={"finalists": tuple(state.finalists), "plan": plan})


def test_confirm_runs_are_paired_and_the_no_teacher_runs_are_those_of_the_first_stage():
    trainer = Trainer()
    state, _ = search(search_spec(*FOUR), trainer)
    assert [[it.seed for it in finalist.runs] for finalist in state.finalists] == [[1000, 1001, 1002]] * 3
    assert state.finalists[0].runs[0] == state.no_teacher
    names = [run.run for run in trainer.trained]
    assert [name for name in names if name.startswith("baselines/no-teacher")] == names[:3]
    assert len(set(names)) == len(names)


def test_confirm_runs_are_on_record_as_they_end():
    seen = []

    def watch(event, state):
        if isinstance(event, RunEnded) and event.record.run.startswith("confirm/"):
            seen.append([len(it.runs) for it in state.finalists])
            assert event.record in [run for it in state.finalists for run in it.runs]

    search(search_spec(*FOUR), watch=watch)
    assert [sum(counts) for counts in seen] == [4, 5, 6, 7, 8, 9]
    assert seen[-1] == [3, 3, 3]


def test_a_running_study_is_judged_by_its_search_alone():
    record = bare({"a": 0.9, "b": 0.9}).model_copy(
        update={"finalists": confirmed({None: [0.7, 0.7], "a": [0.8, 0.81], "b": [0.75, 0.76]}).finalists}
    )
    assert judged(record).recommendation.verdict == "unconfirmed"
    assert judged(record.model_copy(update={"state": "complete"})).recommendation.verdict != "unconfirmed"


@pytest.mark.parametrize("fails", [{"confirm/"}, {"confirm/", "baselines/"}])
def test_confirm_runs_that_fail_end_no_search(fails):
    state, _ = search(search_spec(*FOUR), Trainer(fails=lambda run: any(run.run.startswith(it) for it in fails)))
    assert [len(it.runs) for it in state.finalists] == [3, 3, 3]
    assert {run.state for it in state.finalists[1:] for run in it.runs} == {"failed"}


def test_without_a_trial_that_ended_no_teacher_is_the_only_finalist():
    state, _ = search(search_spec(*FOUR), Trainer(fails=lambda run: run.params.teacher is not None))
    assert [it.teacher for it in state.finalists] == [None]
    assert len(state.finalists[0].runs) == 3


def test_a_race_spends_its_seeds_on_the_open_pair():
    trainer = Trainer(scores=close_race)
    state, _ = search(search_spec(*FOUR, budget="36", space=RACED), trainer)
    found = confirm_runs(state)
    assert found[None] == found["mid"] == [0, 1, 2]
    # 24 runs in all, 12 in the first seeds: six more for each of the two that are equal.
    assert found["slow"] == found["strong"] == list(range(9))
    assert recommend(record_of(state)).verdict == "no_clear_difference"


def test_a_race_ends_when_all_is_decided_and_the_rest_stays_unspent():
    """The planted gains are 2 points and more, the noise is 0.2: some runs after the first 12 are not needed."""
    spec = search_spec(*FOUR, budget="36", space=RACED)
    state, events = search(spec)
    runs = sum(map(len, confirm_runs(state).values()))
    assert 12 <= runs < 24
    unspent = spec.plan.total_epochs - state.spent_epochs
    assert (24 - runs) * 30 <= unspent < (24 - runs) * 30 + spec.plan.epochs_rung
    verdict = recommend(record_of(state))
    assert (verdict.verdict, verdict.teacher, verdict.versus_no_teacher) == ("winner", "slow", "helps")
    assert [event.runs for event in events if isinstance(event, PhaseStarted) and event.phase == "confirm"] == [21 + 3]


def test_a_race_is_equal_whatever_the_order_and_after_a_kill():
    spec = search_spec(*FOUR, budget="36", space=RACED)
    whole_trainer = Trainer(scores=close_race)
    whole, _ = search(spec, whole_trainer)
    back, _ = search(spec, Trainer(scores=close_race, backwards=True))
    assert back.finalists == whole.finalists
    count = len(whole_trainer.trained)
    for kills in (count - 1, count - 9):
        trainer = Trainer(scores=close_race, dies_after=kills)
        with pytest.raises(KeyboardInterrupt):
            search(spec, trainer)
        trainer.dies_after = math.inf
        resumed, _ = search(spec._replace(recorded=tuple(whole.trials)), trainer)
        assert resumed.finalists == whole.finalists, kills
        assert len(trainer.trained) == count, "a finished run was trained again"


def test_a_race_without_rivals_left_goes_on_with_whether_a_teacher_helps():
    """Every run of slow and strong fails, so mid has no rival; it is level with no teacher."""

    def score(run: RunSpec) -> float:
        return 0.7 + (seed_from(run.seed, len(str(run.params))) % 1000 / 1000 - 0.5) * 0.02

    def fails(run: RunSpec) -> bool:
        return run.run.startswith("confirm") and run.params.teacher != "mid"

    trainer = Trainer(scores=score, fails=fails)
    state, _ = search(search_spec("mid", "slow", "strong", budget="36", space=RACED), trainer)
    found = confirm_runs(state)
    assert found["slow"] == found["strong"] == [0, 1, 2]
    assert found["mid"] == found[None] == list(range(9))

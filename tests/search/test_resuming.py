"""A search that was killed ends like an undisturbed search: recorded trials are read, kept results are not trained."""

import math

import optuna
import pytest
from search_runs import FOUR, Trainer, kill_after, search, search_spec

from autodistill.config import Space
from autodistill.records import TrialRecord

SETTINGS = {
    "two teachers": (("weak", "mid"), {"budget": "14"}),
    "four teachers": (FOUR, {"budget": "22"}),
    "all of it": (("weak", "mid"), {"budget": "40"}),
    "race": (("mid", "slow", "weak"), {"budget": "33", "space": Space(confirm={"teachers": 3, "seeds": 6})}),
    "short schedules": (("weak", "mid"), {"budget": "15", "space": Space(search={"rungs": "short schedule"})}),
    "wide waves": (("weak", "mid"), {"budget": "24", "space": Space(search={"wave": 6})}),
}


def ends(state):
    return {name: getattr(state, name) for name in ("trials", "reruns", "finalists", "controls", "plain_kd", "results")}


@pytest.mark.parametrize(
    ("setting", "step"),
    [
        ("two teachers", 3),
        pytest.param("two teachers", 1, marks=pytest.mark.slow),
        pytest.param("four teachers", 5, marks=pytest.mark.slow),
        pytest.param("all of it", 17, marks=pytest.mark.slow),
        pytest.param("race", 7, marks=pytest.mark.slow),
        pytest.param("short schedules", 3, marks=pytest.mark.slow),
        pytest.param("wide waves", 5, marks=pytest.mark.slow),
    ],
)
def test_a_search_killed_after_any_event_goes_on_to_the_same_end(setting, step):
    """The sampler takes running trials into account, and remembers more of them than their parameters."""
    names, options = SETTINGS[setting]
    calm = Trainer()
    whole, events = search(search_spec(*names, **options), calm)
    for kills in range(0, len(events), step):
        trainer, record = Trainer(), list[TrialRecord]()
        with pytest.raises(KeyboardInterrupt):
            search(search_spec(*names, **options), trainer, watch=kill_after(kills, record))
        resumed, _ = search(search_spec(*names, **options, recorded=record), trainer)
        assert ends(resumed) == ends(whole), kills
        assert sorted(run.run for run in trainer.trained) == sorted(run.run for run in calm.trained), kills


def test_a_search_killed_twice_goes_on_to_the_same_end():
    whole, _ = search(search_spec(*FOUR))
    trainer, record = Trainer(), list[TrialRecord]()
    for kills in (5, 30, 50):
        with pytest.raises(KeyboardInterrupt):
            search(search_spec(*FOUR, recorded=record), trainer, watch=kill_after(kills, record))
    assert len(record) > 4
    resumed, _ = search(search_spec(*FOUR, recorded=record), trainer)
    assert ends(resumed) == ends(whole)
    assert len({run.run for run in trainer.trained}) == len(trainer.trained)


@pytest.mark.slow
def test_a_search_killed_while_runs_train_goes_on_to_the_same_end():
    """Some runs of a batch have ended, in reverse order; the record was written before the batch."""
    calm = Trainer()
    whole, _ = search(search_spec(*FOUR, budget="18"), calm)
    for kills in range(0, len(calm.trained), 5):
        trainer, record = Trainer(dies_after=kills, backwards=True), list[TrialRecord]()
        with pytest.raises(KeyboardInterrupt):
            search(search_spec(*FOUR, budget="18"), trainer, watch=lambda _, state, kept=record: _copy(kept, state))
        trainer.dies_after = math.inf
        resumed, _ = search(search_spec(*FOUR, budget="18", recorded=record), trainer)
        assert ends(resumed) == ends(whole), kills
        assert len(trainer.trained) == len(calm.trained), "a finished run was trained again"


def _copy(kept, state):
    kept[:] = state.trials


def test_a_search_without_record_finds_its_results_and_trains_nothing():
    """The record was lost, the results were not."""
    trainer = Trainer()
    first, _ = search(search_spec(*FOUR), trainer)
    count = len(trainer.trained)
    second, _ = search(search_spec(*FOUR), trainer)
    assert ends(second) == ends(first)
    assert len(trainer.trained) == count


def test_failed_runs_are_no_different_after_a_kill():
    def fails(run):
        return run.params.soft_weight > 0.6 and run.run.startswith("trials")

    whole, events = search(search_spec("weak", "mid", budget="16"), Trainer(fails=fails))
    assert "failed" in {trial.state for trial in whole.trials}
    for kills in range(0, len(events), 9):
        trainer, record = Trainer(fails=fails), list[TrialRecord]()
        with pytest.raises(KeyboardInterrupt):
            search(search_spec("weak", "mid", budget="16"), trainer, watch=kill_after(kills, record))
        resumed, _ = search(search_spec("weak", "mid", budget="16", recorded=record), trainer)
        assert ends(resumed) == ends(whole), kills


def test_recorded_trials_win_over_a_sampler_that_suggests_something_else(monkeypatch):
    """After an update of Optuna the same seeds may suggest other configurations."""
    trainer = Trainer()
    first, _ = search(search_spec(*FOUR), trainer)
    count = len(trainer.trained)
    suggest = optuna.trial.Trial.suggest_float

    def lower(self, name, low, high, **more):
        return (suggest(self, name, low, high, **more) + low) / 2

    monkeypatch.setattr(optuna.trial.Trial, "suggest_float", lower)
    other, _ = search(search_spec(*FOUR), Trainer())
    assert [it.params for it in other.trials[4:]] != [it.params for it in first.trials[4:]]
    again, _ = search(search_spec(*FOUR, recorded=first.trials), trainer)
    assert ends(again) == ends(first)
    assert len(trainer.trained) == count
    partly, _ = search(search_spec(*FOUR, recorded=first.trials[:6]), Trainer())
    assert [it.params for it in partly.trials[:6]] == [it.params for it in first.trials[:6]]
    assert [it.params for it in partly.trials[6:]] != [it.params for it in first.trials[6:]]

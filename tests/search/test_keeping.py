"""A study that suggests in memory and is written down whole."""

import optuna
import pytest
from optuna.trial import TrialState
from search_runs import question
from sqlalchemy.exc import OperationalError

from autodistill.search.asking import ask
from autodistill.search.keeping import KeptStudy
from autodistill.search.opening import open_study
from autodistill.storage import close_storage, open_storage

LOST = OperationalError("COMMIT", {}, Exception("server closed the connection"))
NOW = {"say": lambda _: None}


@pytest.fixture
def url(tmp_path):
    return f"journal:{tmp_path}/kd.log"


def stored(url: str, name: str) -> list[optuna.trial.FrozenTrial]:
    storage = open_storage(url)
    found = optuna.load_study(study_name=name, storage=storage).trials
    close_storage(storage)
    return found


def loses_the_answer(monkeypatch, kept: KeptStudy, method: str) -> list[int]:
    """The first call does its work, and its connection breaks before it is told so."""
    storage, calls = kept._kept._storage, []
    before = getattr(storage, method)

    def call(*given, **named):
        calls.append(1)
        done = before(*given, **named)
        if len(calls) == 1:
            raise LOST
        return done

    monkeypatch.setattr(storage, method, call)
    return calls


def test_what_another_process_finds_was_decided_on_whole(url):
    asked = question("weak", "mid", budget="14")
    kept = open_study(asked, url)
    params = [ask(kept, asked, number) for number in range(3)]
    found = stored(url, asked.name)
    assert [it.state for it in found] == [TrialState.RUNNING] * 3
    assert [it.params["teacher"] for it in found] == [it.teacher for it in params]
    assert [it.system_attrs for it in found] == [it.system_attrs for it in kept.trials()], (
        "what the sampler remembers"
    )
    kept.close()
    again = open_study(asked, url)
    assert [ask(again, asked, number) for number in range(3)] == params
    again.close()


@pytest.mark.parametrize("method", ["create_new_trial", "set_trial_intermediate_value", "set_trial_state_values"])
def test_what_was_done_before_the_connection_broke_is_not_done_twice(url, monkeypatch, method):
    asked = question("weak", "mid", budget="14")
    kept = open_study(asked, url)
    calls = loses_the_answer(monkeypatch, kept, method)
    params = ask(kept, asked, 0)
    kept.report(0, {4: 0.5}, **NOW)
    kept.end(0, TrialState.PRUNED, score=None, reason="behind", **NOW)
    assert len(calls) == (1 if method == "create_new_trial" else 2)
    (one,) = stored(url, asked.name)
    assert (one.state, one.value, one.intermediate_values) == (TrialState.PRUNED, 0.5, {4: 0.5})
    assert one.user_attrs == {"reason": "behind"}
    assert one.params["teacher"] == params.teacher
    kept.close()


def test_telling_again_changes_nothing():
    asked = question("weak", "mid", budget="14")
    kept = open_study(asked, None)
    ask(kept, asked, 0)
    for score in (0.5, 0.9):
        kept.report(0, {12: score}, **NOW)
        kept.end(0, TrialState.COMPLETE, score=score, reason="", **NOW)
    (one,) = kept.trials()
    assert (one.value, one.intermediate_values) == (0.5, {12: 0.5})

"""The sampler: an Optuna study in memory that is asked and told."""

import optuna
import pytest
from search_runs import FOUR, ISATS_FIRST, SHAPES, result_of, search, search_spec

from autodistill.config import Space
from autodistill.records import RunSpec, TrialRecord
from autodistill.searching import Sampler, prior_params


def sampler(space: Space | None = None, names=FOUR) -> Sampler:
    return Sampler(space or Space(), names, SHAPES)


def asked(asking: Sampler, count: int) -> list[TrialRecord]:
    return [
        TrialRecord(number=number, kind="search", wave=1, params=asking.ask(), seed=0, state="running")
        for number in range(count)
    ]


def scored(trial: TrialRecord, top1: float, *, state: str, reason: str = "") -> TrialRecord:
    run = RunSpec(run="a-run", params=trial.params, seed=0, epochs=12)
    update = {"rung": result_of(run.model_copy(update={"until": 4}), top1=top1 - 0.1), "state": state, "reason": reason}
    if state == "complete":
        update["full"] = result_of(run, top1=top1)
    return trial.model_copy(update=update)


@pytest.mark.parametrize(
    ("space", "searched"),
    [
        (Space(), {"method": "ts", "ts.tau": 4.0, "soft_weight": 0.9}),
        (
            ISATS_FIRST,
            {"method": "isats", "isats.target_ratio": 5 / 3, "isats.tau_student": 4.0, "soft_weight": 0.5},
        ),
    ],
)
def test_a_prior_is_the_prior_of_its_teacher(space, searched):
    asking = sampler(space)
    assert asking.ask(prior_of="mid") == prior_params(space, "mid", SHAPES)
    (trial,) = asking.trials
    assert trial.params == {"teacher": "mid", **searched}


def test_optuna_holds_the_searched_parameters_scores_and_states():
    state, _ = search(search_spec(*FOUR))
    assert [it.state.name.lower() for it in state.sampler.trials] == [it.state for it in state.trials]
    for frozen, trial in zip(state.sampler.trials, state.trials, strict=True):
        assert frozen.params["teacher"] == trial.params.teacher
        own = {name.partition(".")[2]: value for name, value in frozen.params.items() if "." in name}
        assert own.items() <= {**trial.params.method_params, "tau_student": trial.params.tau_student}.items()
        runs = [run for run in (trial.rung, trial.full) if run]
        assert frozen.intermediate_values == {run.last_epoch: run.val_top1 for run in runs}
        assert frozen.user_attrs == ({"reason": trial.reason} if trial.reason else {})
        if trial.state == "complete":
            assert frozen.value == trial.full.val_top1


def test_telling_again_changes_nothing():
    asking = sampler()
    (trial,) = asked(asking, 1)
    for top1 in (0.5, 0.9):
        asking.tell(scored(trial, top1, state="complete"))
    (frozen,) = asking.trials
    assert (frozen.value, frozen.intermediate_values) == (0.5, {4: 0.4, 12: 0.5})


def test_a_trial_is_told_its_rung_while_it_runs():
    asking = sampler()
    (trial,) = asked(asking, 1)
    asking.tell(scored(trial, 0.5, state="running"))
    assert asking.trials[0].intermediate_values == {4: 0.4}
    assert asking.trials[0].state.name == "RUNNING"
    asking.tell(scored(trial, 0.5, state="pruned", reason="behind"))
    assert asking.trials[0].state.name == "PRUNED"
    assert asking.trials[0].user_attrs == {"reason": "behind"}


@pytest.mark.parametrize("state", ["complete", "pruned", "failed", "running"])
def test_a_trial_that_is_added_is_a_trial_that_was_asked_for_and_told(state):
    asking, other = sampler(), sampler()
    (trial,) = asked(asking, 1)
    ended = scored(trial, 0.5, state=state, reason="behind" if state in ("pruned", "failed") else "")
    asking.tell(ended)
    other.add(ended)
    (left,), (right,) = asking.trials, other.trials
    for name in ("state", "params", "distributions", "intermediate_values", "user_attrs"):
        assert getattr(left, name) == getattr(right, name), name
    if state == "complete":
        assert left.value == right.value == 0.5


def test_what_a_sampler_suggests_follows_from_its_seed_and_its_trials():
    space = Space.model_validate({"search": {"seed": 1}})
    first, second, third = (asked(sampler(it), 4) for it in (Space(), Space(), space))
    assert [it.params for it in first] == [it.params for it in second]
    assert [it.params for it in first] != [it.params for it in third]


def test_one_value_is_fixed_and_not_searched():
    space = Space.model_validate(
        {
            "search": {"methods": {"ts": {"tau": [4.0]}}, "soft_weight": [0.5, 0.9]},
            "prior": {"method": "ts", "params": {"tau": 4.0}, "soft_weight": 0.5},
        }
    )
    asking = sampler(space, ("only",))
    params = asking.ask()
    assert (params.teacher, params.method, params.method_params) == ("only", "ts", {"tau": 4.0})
    assert asking.trials[0].params.keys() == {"soft_weight"}
    assert prior_params(space, "only", SHAPES).tau_student == 4.0


def test_running_trials_keep_what_the_sampler_remembers_and_ended_trials_do_not():
    remembered = []
    state, _ = search(
        search_spec("weak", "mid", budget="40"),
        watch=lambda _, state: remembered.extend(it.sampler_attrs for it in state.trials if it.state == "running"),
    )
    assert any(remembered), "Optuna remembers what it drew for parameters of other methods"
    assert {str(it.sampler_attrs) for it in state.trials} == {"{}"}
    attrs = next(filter(None, remembered))
    trial = state.trials[0].model_copy(update={"state": "running", "sampler_attrs": attrs})
    asking = sampler(names=("weak", "mid"))
    asking.add(trial)
    assert asking.trials[0].system_attrs == attrs
    assert asking.trials[0].state == optuna.trial.TrialState.RUNNING

"""Fair controls and the audit of pruning, over a made-up scoring function."""

import pytest
from factories import bare, confirmed, isats, kd, with_settings
from factories import run as made
from search_runs import FOUR, Trainer, score, search, search_spec

from autodistill.config import Space
from autodistill.formatting import EMPTY
from autodistill.records import ControlRecord, PhaseStarted
from autodistill.report.trials import curves_info
from autodistill.report.verdict import controls_info
from autodistill.searching import audited_trials, prior_params


def by_regime(state) -> dict[tuple[str, str], ControlRecord]:
    return {(one.regime, one.teacher): one for one in state.controls}


def test_each_finalist_is_trained_in_three_regimes_over_the_same_seeds():
    spec = search_spec(*FOUR, budget="45")
    state, events = search(spec)
    teachers = [one.teacher for one in state.finalists if one.teacher]
    found = by_regime(state)
    assert set(found) == {(regime, name) for regime in ("default", "shared", "own") for name in teachers}
    for one in state.controls:
        assert [it.seed for it in one.runs] == [1000, 1001, 1002]
        assert all(it.params == one.params and it.test_top1 is not None for it in one.runs)
        assert one.params.teacher == one.teacher
    best = max(state.finalists[1:], key=lambda one: sum(it.test_top1 for it in one.runs))
    for finalist in state.finalists[1:]:
        name = finalist.teacher
        assert found["own", name].runs == finalist.runs
        assert found["default", name].params == prior_params(spec.space, name, spec.shapes)
        assert found["shared", name].params == best.params.model_copy(update={"teacher": name})
    (phase,) = [it for it in events if isinstance(it, PhaseStarted) and it.phase == "controls"]
    assert 0 < phase.runs <= spec.plan.controls
    assert state.spent_epochs <= spec.plan.total_epochs


@pytest.mark.parametrize("mid", [{1000: 0.75, 1001: 0.75, 1002: 0.75}, {1000: 0.75, 1001: 0.75}])
def test_the_shared_settings_are_those_with_the_best_confirmed_mean(mid):
    """`slow` is ahead in the search, and its best confirm run is the best of all, but its mean is 0.70."""
    confirmed = {"slow": {1000: 0.9, 1001: 0.6, 1002: 0.6}, "mid": mid}

    def scores(run):
        return confirmed[run.params.teacher].get(run.seed, 0.0) if found(run) else score(run)

    def found(run):
        return run.run.startswith("confirm/") and run.params.teacher is not None

    space = Space.model_validate({"search": {"reruns": False}})
    trainer = Trainer(scores=scores, fails=lambda run: found(run) and run.seed not in confirmed[run.params.teacher])
    state, _ = search(search_spec(*FOUR, budget="45", space=space), trainer)
    ahead, best = state.finalists[1:]
    assert (ahead.teacher, best.teacher) == ("slow", "mid")
    assert ahead.search_val_top1 > best.search_val_top1
    shared = {name: by_regime(state)["shared", name] for name in ("slow", "mid")}
    assert shared["mid"].params == best.params
    assert shared["mid"].runs == best.runs
    assert shared["slow"].params == best.params.model_copy(update={"teacher": "slow"}) != ahead.params
    assert [it.run for it in shared["slow"].runs] == [f"controls/shared-2-{seed}" for seed in (1000, 1001, 1002)]


def test_what_the_finalists_have_is_not_trained_again():
    trainer = Trainer()
    state, _ = search(search_spec(*FOUR, budget="45"), trainer)
    tested = [(it.params.model_dump_json(), it.seed) for it in trainer.trained if it.evaluate_on == "validation+test"]
    assert len(tested) == len(set(tested))
    assert by_regime(state)["shared", state.finalists[1].teacher].runs == state.finalists[1].runs


def test_the_report_tells_tuning_from_teacher():
    """Shared: a over b by 2 points; b's own configuration wins one of them back."""
    scores = {
        ("default", "a"): [0.70, 0.71, 0.72],
        ("shared", "a"): [0.80, 0.81, 0.82],
        ("own", "a"): [0.80, 0.81, 0.82],
        ("default", "b"): [0.71, 0.72, 0.73],
        ("shared", "b"): [0.780, 0.789, 0.801],
        ("own", "b"): [0.790, 0.800, 0.810],
    }
    record = confirmed_controls(scores)
    info = controls_info(record)
    cells = {row.cells[0].text: [cell.text for cell in row.cells[1:]] for row in info.table.rows}
    assert cells == {"a": ["71.0 %", "81.0 %", "81.0 %", EMPTY], "b": ["72.0 %", "79.0 %", "80.0 %", "+1.0"]}
    assert any(it.startswith("With the prior for all, b gives +1.0 points over a") for it in info.points)
    assert any(it.startswith("With one configuration for all, a gives +2.0 points over b") for it in info.points)
    assert [it for it in info.points if it.startswith("Tuning")] == [
        "Tuning for b alone changes its student by +1.0 points (95 % interval +0.8 to +1.2) against the shared "
        "configuration."
    ]
    assert "From a budget of 40 on" in controls_info(bare({"a": 0.9})).text


def test_without_controls_the_report_says_whether_tuning_was_equal():
    scores = {"a": [0.7, 0.7, 0.71], "b": [0.8, 0.81, 0.8], None: [0.5, 0.5, 0.51]}
    equal = with_settings(confirmed(scores), {"a": kd("a"), "b": kd("b")})
    assert controls_info(equal).text.startswith("The finalists were compared at equal tuning")
    other = with_settings(confirmed(scores), {"a": isats("a"), "b": kd("b")})
    assert controls_info(other).text.startswith("Not measured: whether a difference comes from the teacher")


def confirmed_controls(scores):
    ratios = {("default", "a"): 1.5, ("default", "b"): 1.5, ("own", "b"): 3.0}
    found = []
    for (regime, name), values in scores.items():
        params = isats(name, ratio=ratios.get((regime, name), 2.0))
        runs = [
            made(f"controls/{regime}-{name}-{seed}", params, val=test, test=test, seed=seed)
            for seed, test in enumerate(values)
        ]
        found.append(ControlRecord(regime=regime, teacher=name, params=params, runs=tuple(runs)))
    return bare({"a": 0.9, "b": 0.9}).model_copy(update={"controls": tuple(found)})


def test_a_search_below_40_has_no_controls():
    state, events = search(search_spec(*FOUR, budget="39"))
    assert state.controls == []
    assert "controls" not in {event.phase for event in events if isinstance(event, PhaseStarted)}


def test_an_audit_trains_the_best_looking_pruned_trials_outside_the_budget():
    spec = search_spec(*FOUR, budget="35")
    plain, _ = search(spec)
    state, events = search(spec, audited=True)
    assert state.trials == plain.trials
    assert state.finalists == plain.finalists
    assert state.spent_epochs == plain.spent_epochs
    assert plain.audit == []
    stopped = [it for it in state.trials if it.state == "pruned" and not it.out_of_budget]
    best = sorted(stopped, key=lambda it: -it.rung.val_top1)[:4]
    assert len(stopped) > len(best)
    assert {it.run for it in state.audit} == {f"audit/{it.number:04d}" for it in best}
    assert {it.number for it in best} == {it.number for it in audited_trials(state.trials)}
    assert {(it.epochs, it.begun_epochs, it.spent_epochs) for it in state.audit} == {(spec.plan.epochs_full, 0, 30)}
    assert [it.phase for it in events if isinstance(it, PhaseStarted)][-1] == "audit"


def test_the_report_says_what_pruning_cost():
    def scores(run):
        return 0.95 if run.run.startswith("audit/") and run.seed == 0 else score(run)

    spec = search_spec(*FOUR, budget="35")
    state, _ = search(spec, Trainer(scores=scores), audited=True)
    record = bare(dict.fromkeys(FOUR, 0.9)).model_copy(
        update={"trials": tuple(state.trials), "audit": tuple(state.audit), "plan": spec.plan}
    )
    said = curves_info(record).text
    assert f"Audit: the {len(state.audit)} pruned trials with the best rung scores went on to the end" in said
    assert "beat the best full run of their teacher, by up to +" in said
    assert "Audit" not in curves_info(record.model_copy(update={"audit": ()})).text

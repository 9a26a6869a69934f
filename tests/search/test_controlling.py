"""Fair controls and the audit of pruning, against a trainer that computes its scores."""

import pytest
from factories import bare
from search_runs import FOUR, Trainer, question, run, score

from autodistill.config import Space
from autodistill.records import ControlRecord, PhaseStarted
from autodistill.report.sections.controls import controls_info
from autodistill.report.sections.evidence import curves_info
from autodistill.report.words import EMPTY
from autodistill.search import make_plan
from autodistill.search.asking import prior_params
from autodistill.search.auditing import MOST_AUDITED

pytestmark = pytest.mark.slow


def controlled(tmp_path, **trainer):
    asked = question(*FOUR, budget="45")
    return asked, *run(asked, Trainer(**trainer), tmp_path / "study.db")


def by_regime(outcome) -> dict[tuple[str, str], ControlRecord]:
    return {(one.regime, one.teacher): one for one in outcome.controls}


def test_a_budget_of_40_has_room_for_controls_and_one_below_has_not():
    assert make_plan(Space(), teachers=4, requested="39.9").controls == 0
    plan = make_plan(Space(), teachers=4, requested="40")
    assert plan.controls == (2 + 1) * 3, "the prior for two finalists, the best configuration for the other one"
    assert plan.search + plan.second_looks + plan.controls + plan.confirm + plan.priors + 2 == pytest.approx(40)
    raced = Space.model_validate({"confirm": {"seeds": 6}})
    assert make_plan(raced, teachers=4, requested="50").controls == 9, "over the seeds before the first look"


def test_each_finalist_is_trained_in_three_regimes_over_the_same_seeds(tmp_path):
    asked, outcome, events = controlled(tmp_path)
    teachers = [one.teacher for one in outcome.finalists if one.teacher]
    found = by_regime(outcome)
    assert set(found) == {(regime, name) for regime in ("default", "shared", "own") for name in teachers}
    for one in outcome.controls:
        assert [it.seed for it in one.runs] == [1000, 1001, 1002]
        assert all(it.params == one.params and it.test_top1 is not None for it in one.runs)
        assert one.params.teacher == one.teacher
    best = max(outcome.finalists[1:], key=lambda one: one.search_val_top1)
    for finalist in outcome.finalists[1:]:
        name = finalist.teacher
        assert found["own", name].runs == finalist.runs
        assert found["default", name].params == prior_params(asked.space, name, asked.tau_student_from)
        assert found["shared", name].params == best.params.model_copy(update={"teacher": name})
    (phase,) = [it for it in events if isinstance(it, PhaseStarted) and it.phase == "controls"]
    assert 0 < phase.runs <= asked.plan.controls
    assert outcome.spent_epochs <= asked.plan.total_epochs


def test_what_the_finalists_have_is_not_trained_again(tmp_path):
    trainer = Trainer()
    outcome, _ = run(question(*FOUR, budget="45"), trainer, tmp_path / "study.db")
    asked = [(it.params.model_dump_json(), it.seed) for it in trainer.asked if it.evaluate_on == "validation+test"]
    assert len(asked) == len(set(asked))
    assert by_regime(outcome)["shared", outcome.finalists[1].teacher].runs == outcome.finalists[1].runs


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
    assert any(it.startswith("With the prior for all, b gives +1.0 points over a") for it in info.findings)
    assert any(it.startswith("With one configuration for all, a gives +2.0 points over b") for it in info.findings)
    assert [it for it in info.findings if it.startswith("Tuning")] == [
        "Tuning for b alone changes its student by +1.0 points (95 % interval +0.8 to +1.2) against the shared "
        "configuration."
    ]
    assert "From a budget of 40 on" in controls_info(bare({"a": 0.9})).note


def confirmed_controls(scores):
    from factories import isats
    from factories import run as made

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


def test_an_audit_trains_the_best_looking_pruned_trials_outside_the_budget(tmp_path):
    asked = question(*FOUR)
    plain, _ = run(asked, Trainer(), tmp_path / "plain.db")
    outcome, events = run(asked._replace(audit=True), Trainer(), tmp_path / "study.db")
    assert outcome.trials == plain.trials
    assert outcome.finalists == plain.finalists
    assert outcome.spent_epochs == plain.spent_epochs
    stopped = [it for it in outcome.trials if it.state == "pruned" and not it.out_of_budget]
    pruned = sorted(stopped, key=lambda it: -it.short.val_top1)
    assert {it.run for it in outcome.audit} == {f"audit/{it.number:04d}" for it in pruned[:MOST_AUDITED]}
    assert {it.epochs for it in outcome.audit} == {asked.plan.epochs_full}
    assert [it.phase for it in events if isinstance(it, PhaseStarted)][-1] == "audit"


def test_the_report_says_what_pruning_cost(tmp_path):
    def scores(request):
        return 0.95 if request.run.startswith("audit/") and request.seed == 0 else score(request)

    outcome, _ = run(question(*FOUR)._replace(audit=True), Trainer(scores=scores), tmp_path / "study.db")
    record = bare(dict.fromkeys(FOUR, 0.9)).model_copy(
        update={"trials": tuple(outcome.trials), "audit": tuple(outcome.audit), "plan": question(*FOUR).plan}
    )
    said = curves_info(record).saving
    assert f"Audit: the {len(outcome.audit)} pruned trials with the best short runs went on to the end" in said
    assert "beat the best full run of their teacher, by up to +" in said
    assert "Audit" not in curves_info(record.model_copy(update={"audit": ()})).saving

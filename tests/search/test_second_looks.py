"""Who leads when the search ends is trained once more, against a trainer that computes its scores."""

import math

import pytest
from factories import bare
from search_runs import FOUR, Trainer, question, run, score

from autodistill.config import Space
from autodistill.records import RunRequest, TrialParams, TrialRecord
from autodistill.report.sections.second_looks import second_looks_info
from autodistill.search import Outcome, candidates, finalists_of, make_plan, search
from autodistill.search.requests import next_seed, plain_kd_run

pytestmark = pytest.mark.slow

SOME = TrialParams(teacher="weak", rule="ts", rule_params={"tau": 7.0}, tau_student=7.0, soft_weight=0.3)


def lucky_prior(request: RunRequest) -> float:
    """The prior from `slow` does best of all with the search's own seed, and badly with any other."""
    if (request.params.teacher, request.params.rule, request.params.soft_weight) == ("slow", "isats", 0.5):
        return 0.85 if request.seed == 0 else 0.65
    return score(request)


@pytest.mark.parametrize(("budget", "looks", "searched"), [("17", 0, 3), ("18", 2, 2), ("30", 2, 14)])
def test_second_looks_leave_the_search_two_trainings(budget, looks, searched):
    plan = make_plan(Space(), teachers=4, requested=budget)
    assert (plan.second_looks, plan.search) == (looks, pytest.approx(searched))
    without = make_plan(Space(search={"second_looks": False}), teachers=4, requested=budget)
    assert (without.second_looks, without.search) == (0, pytest.approx(looks + searched))


def test_a_leader_that_was_lucky_makes_room(tmp_path):
    asked = question(*FOUR, budget="30")
    outcome, _ = run(asked, Trainer(scores=lucky_prior), tmp_path / "study.db")
    first, second = outcome.second_looks
    prior = next(it for it in outcome.trials if it.kind == "prior" and it.params.teacher == "slow")
    assert (first.run, first.seed) == (f"second-looks/{prior.number:04d}-1", 1)
    assert first.params == prior.params
    assert (first.val_top1, first.test_top1) == (0.65, None)
    assert first.params not in [one.params for one in outcome.finalists]
    assert second.params in [one.params for one in outcome.finalists], "nothing is wrong with this one"
    kept = next(one for one in outcome.finalists if one.params == second.params)
    trial = outcome.trials[kept.trial]
    assert kept.search_val_top1 == pytest.approx((trial.full.val_top1 + second.val_top1) / 2)
    whole, short = asked.plan.total_epochs, asked.plan.epochs_short
    assert whole - short < outcome.spent_epochs <= whole


def test_a_second_look_is_no_run_that_was_there_before():
    """A pruned trial had the first seed, its replicate the second; plain KD has one too."""
    asked = question("weak", "mid", budget="14")
    plain = plain_kd_run(asked)
    trials = [
        TrialRecord(number=number, kind="search", wave=1, params=params, seed=seed, state=state)
        for number, (params, seed, state) in enumerate(
            [(SOME, 0, "pruned"), (SOME, 1, "complete"), (plain.params, plain.seed + 1, "complete")]
        )
    ]
    assert next_seed(asked, SOME, trials) == 2
    assert next_seed(asked, plain.params, trials[:2]) == plain.seed + 1
    assert next_seed(asked, plain.params, trials) == plain.seed + 2


def test_without_them_the_lucky_one_is_a_finalist(tmp_path):
    asked = question(*FOUR, budget="30")
    plan = asked.plan.model_copy(update={"second_looks": 0.0, "search": asked.plan.search + 2})
    outcome, events = run(asked._replace(plan=plan), Trainer(scores=lucky_prior), tmp_path / "study.db")
    assert outcome.second_looks == []
    assert "second looks" not in {getattr(event, "phase", None) for event in events}
    assert outcome.finalists[1].search_val_top1 == 0.85


def test_a_study_killed_amidst_second_looks_ends_like_one_that_was_not(tmp_path):
    asked = question(*FOUR, budget="30")
    whole, _ = run(asked, Trainer(), tmp_path / "study.db")
    before = [it.run for it in (*whole.second_looks, *(run for one in whole.finalists for run in one.runs))]
    trainer = Trainer(dies_after=len(whole.results) - len(set(before) - {whole.no_teacher.run}) + 1)
    with pytest.raises(KeyboardInterrupt):
        list(search(asked, Outcome(), run=trainer, database=tmp_path / "killed.db"))
    assert [it for it in trainer.kept if it.startswith("second-looks/")] == [whole.second_looks[0].run]
    trainer.dies_after = math.inf
    outcome, _ = run(asked, trainer, tmp_path / "killed.db")
    assert (outcome.second_looks, outcome.finalists) == (whole.second_looks, whole.finalists)


def test_equal_settings_are_one_candidate_whose_scores_are_averaged(tmp_path):
    outcome, _ = run(question("weak", "mid", budget="14"), Trainer(), tmp_path / "study.db")
    trial = next(it for it in outcome.trials if it.state == "complete")
    again = trial.full.model_copy(update={"curve": (trial.full.curve[-1].model_copy(update={"val_top1": 0.5}),)})
    failed = again.model_copy(update={"state": "failed"})
    found = candidates(outcome.trials, second_looks=[again, failed])
    one = next(it for it in found if it.params == trial.params)
    assert one.scores == (trial.full.val_top1, 0.5)
    assert one.val_top1 == (trial.full.val_top1 + 0.5) / 2
    assert one.trial == trial.number
    assert len(found) == len(candidates(outcome.trials))
    assert one not in finalists_of(found, count=1)


def test_the_report_says_who_held(tmp_path):
    outcome, _ = run(question(*FOUR, budget="30"), Trainer(scores=lucky_prior), tmp_path / "study.db")
    record = bare(dict.fromkeys(FOUR, 0.9)).model_copy(
        update={
            "trials": tuple(outcome.trials),
            "plain_kd": outcome.plain_kd,
            "second_looks": tuple(outcome.second_looks),
            "finalists": tuple(outcome.finalists),
        }
    )
    info = second_looks_info(record)
    assert info.finding.startswith("1 of 2 leaders of the search held")
    lucky, held = ([cell.text for cell in row.cells] for row in info.table.rows)
    assert (lucky[0], lucky[2:]) == ("slow", ["85.0 %", "65.0 %", "-20.0", "no finalist"])
    assert held[-1] == "finalist"
    assert outcome.second_looks[0] in list(record.runs())
    assert second_looks_info(record.model_copy(update={"second_looks": ()})).table is None
    assert record.search_score(outcome.second_looks[0].params) == (0.85 + 0.65) / 2
    assert record.search_score(outcome.second_looks[0].params.model_copy(update={"soft_weight": 0.123})) is None

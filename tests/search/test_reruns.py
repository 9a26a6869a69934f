"""Reruns of the leaders of a search, over a made-up scoring function."""

import math

import pytest
from factories import bare
from search_runs import FOUR, Trainer, score, search, search_spec

from autodistill.records import RunSpec, TrialParams, TrialRecord
from autodistill.report.trials import reruns_info
from autodistill.searching import candidates, finalists_of
from autodistill.searching.state import next_seed, plain_kd_run

SOME = TrialParams(teacher="weak", method="ts", method_params={"tau": 7.0}, tau_student=7.0, soft_weight=0.3)


def lucky_prior(run: RunSpec) -> float:
    """The prior from `slow` does best of all with the search's own seed, and badly with any other."""
    if (run.params.teacher, run.params.method, run.params.soft_weight) == ("slow", "isats", 0.5):
        return 0.85 if run.seed == 0 else 0.65
    return score(run)


def test_a_leader_that_was_lucky_makes_room():
    spec = search_spec(*FOUR, budget="30")
    state, _ = search(spec, Trainer(scores=lucky_prior))
    first, second = state.reruns
    prior = next(it for it in state.trials if it.kind == "prior" and it.params.teacher == "slow")
    assert (first.run, first.seed) == (f"reruns/{prior.number:04d}-1", 1)
    assert first.params == prior.params
    assert (first.val_top1, first.test_top1) == (0.65, None)
    assert first.params not in [one.params for one in state.finalists]
    assert second.params in [one.params for one in state.finalists], "nothing is wrong with this one"
    kept = next(one for one in state.finalists if one.params == second.params)
    trial = state.trials[kept.trial]
    assert kept.search_val_top1 == pytest.approx((trial.full.val_top1 + second.val_top1) / 2)
    whole, short = spec.plan.total_epochs, spec.plan.epochs_rung
    assert whole - short < state.spent_epochs <= whole


def test_a_rerun_has_a_seed_that_no_earlier_run_had():
    """A pruned trial had the first seed, its replicate the second; plain KD has one too."""
    spec = search_spec("weak", "mid", budget="14")
    plain = plain_kd_run(spec)
    trials = [
        TrialRecord(number=number, kind="search", wave=1, params=params, seed=seed, state=state)
        for number, (params, seed, state) in enumerate(
            [(SOME, 0, "pruned"), (SOME, 1, "complete"), (plain.params, plain.seed + 1, "complete")]
        )
    ]
    assert next_seed(spec, SOME, trials) == 2
    assert next_seed(spec, plain.params, trials[:2]) == plain.seed + 1
    assert next_seed(spec, plain.params, trials) == plain.seed + 2


def test_without_reruns_the_lucky_one_is_a_finalist():
    spec = search_spec(*FOUR, budget="30")
    plan = spec.plan.model_copy(update={"reruns": 0.0, "search": spec.plan.search + 2})
    state, events = search(spec._replace(plan=plan), Trainer(scores=lucky_prior))
    assert state.reruns == []
    assert "reruns" not in {getattr(event, "phase", None) for event in events}
    assert state.finalists[1].search_val_top1 == 0.85


def test_a_search_killed_between_reruns_ends_like_an_undisturbed_search():
    spec = search_spec(*FOUR, budget="30")
    whole, _ = search(spec)
    names = list(whole.results)
    trainer = Trainer(dies_after=names.index(whole.reruns[1].run))
    with pytest.raises(KeyboardInterrupt):
        search(spec, trainer)
    assert [it for it in trainer.kept if it.startswith("reruns/")] == [whole.reruns[0].run]
    trainer.dies_after = math.inf
    state, _ = search(spec._replace(recorded=tuple(whole.trials)), trainer)
    assert (state.reruns, state.finalists) == (whole.reruns, whole.finalists)


def test_equal_settings_are_one_candidate_whose_scores_are_averaged():
    state, _ = search(search_spec("weak", "mid", budget="14"), Trainer())
    trial = next(it for it in state.trials if it.state == "complete")
    again = trial.full.model_copy(update={"curve": (trial.full.curve[-1].model_copy(update={"val_top1": 0.5}),)})
    failed = again.model_copy(update={"state": "failed"})
    found = candidates(state.trials, reruns=[again, failed])
    one = next(it for it in found if it.params == trial.params)
    assert one.scores == (trial.full.val_top1, 0.5)
    assert one.val_top1 == (trial.full.val_top1 + 0.5) / 2
    assert one.trial == trial.number
    assert len(found) == len(candidates(state.trials))
    assert one not in finalists_of(found, count=1)


def test_the_report_says_who_held():
    state, _ = search(search_spec(*FOUR, budget="30"), Trainer(scores=lucky_prior))
    record = bare(dict.fromkeys(FOUR, 0.9)).model_copy(
        update={
            "trials": tuple(state.trials),
            "plain_kd": state.plain_kd,
            "reruns": tuple(state.reruns),
            "finalists": tuple(state.finalists),
        }
    )
    info = reruns_info(record)
    assert info.text.startswith("1 of 2 leaders of the search became finalists")
    lucky, held = ([cell.text for cell in row.cells] for row in info.table.rows)
    assert (lucky[0], lucky[2:]) == ("slow", ["85.0 %", "65.0 %", "-20.0", "no finalist"])
    assert held[-1] == "finalist"
    assert state.reruns[0] in list(record.runs())
    assert reruns_info(record.model_copy(update={"reruns": ()})).table is None
    assert record.search_score(state.reruns[0].params) == (0.85 + 0.65) / 2
    assert record.search_score(state.reruns[0].params.model_copy(update={"soft_weight": 0.123})) is None

"""Reruns of the leaders of a search, over a made-up scoring function."""

import math

import pytest
from factories import bare
from search_runs import FOUR, ISATS_FIRST, Trainer, score, search, search_spec

from autodistill.formatting import EMPTY
from autodistill.records import RunSpec, StudyRecord, TrialParams, TrialRecord
from autodistill.report.trials import reruns_info
from autodistill.searching import SearchState
from autodistill.searching.stages import candidates, finalists_of
from autodistill.searching.state import next_seed, plain_kd_run

SOME = TrialParams(teacher="weak", method="ts", method_params={"tau": 7.0}, tau_student=7.0, soft_weight=0.3)


def lucky_prior(run: RunSpec) -> float:
    """The prior from `slow` does best of all with the search's own seed, and badly with any other."""
    if (run.params.teacher, run.params.method, run.params.soft_weight) == ("slow", "isats", 0.5):
        return 0.85 if run.seed == 0 else 0.65
    return score(run)


def steady(run: RunSpec) -> float:
    """The leader's rerun is a little better than its first run, so that it stays the leader."""
    if run.run.startswith("reruns/0"):
        return score(run.model_copy(update={"seed": 0})) + 0.002
    return score(run)


def test_a_leader_that_was_lucky_makes_room():
    spec = search_spec(*FOUR, budget="30", space=ISATS_FIRST)
    state, _ = search(spec, Trainer(scores=lucky_prior))
    first, second = state.reruns
    prior = next(it for it in state.trials if it.kind == "prior" and it.params.teacher == "slow")
    assert (first.run, first.seed) == (f"reruns/{prior.number:04d}-1", 1)
    assert first.params == prior.params
    assert (first.val_top1, first.test_top1) == (0.65, None)
    assert first.params not in [one.params for one in state.finalists]
    assert second.params == prior.params.model_copy(update={"teacher": "mid"}), "the same settings with another teacher"
    assert second.run == "reruns/0001-1", "these are its prior"
    others = [it for it in state.trials if it.full and it.params.teacher == "slow" and it.number != prior.number]
    best = max(others, key=lambda it: it.full.val_top1)
    slow, mid = state.finalists[1:]
    assert (slow.teacher, slow.trial) == ("slow", best.number)
    assert slow.search_val_top1 == best.full.val_top1, "trained once"
    assert (mid.teacher, mid.trial, mid.params) == ("mid", 1, second.params)
    assert mid.search_val_top1 == pytest.approx((state.trials[1].full.val_top1 + second.val_top1) / 2), "trained twice"
    assert state.finalists[1].search_val_top1 < 0.8 < 0.85 == prior.full.val_top1
    whole, short = spec.plan.total_epochs, spec.plan.epochs_rung
    assert whole - short < state.spent_epochs <= whole


def settings(params: TrialParams) -> TrialParams:
    return params.model_copy(update={"teacher": None})


@pytest.mark.parametrize("gain", [0.005, -0.005])
def test_the_leader_s_settings_are_trained_with_the_second_teacher_which_takes_the_better_of_both(gain):
    """The leader has settings of its own, which `mid` never had."""

    def scores(run: RunSpec) -> float:
        return steady(run) + (gain if run.run.startswith("reruns/shared-") else 0)

    state, _ = search(search_spec(*FOUR, budget="30"), Trainer(scores=scores))
    complete = [trial for trial in state.trials if trial.state == "complete"]
    best = {
        name: max((it for it in complete if it.params.teacher == name), key=lambda it: it.full.val_top1)
        for name in ("slow", "mid")
    }
    assert best["slow"] is max(complete, key=lambda it: it.full.val_top1)
    assert settings(best["slow"].params) not in [settings(it.params) for it in complete if it is not best["slow"]]
    first, second = state.reruns
    assert (first.run, first.seed, first.params) == (f"reruns/{best['slow'].number:04d}-1", 1, best["slow"].params)
    assert (second.run, second.seed) == ("reruns/shared-2-0", 0), "the second of four teachers, for the first time"
    assert second.params == best["slow"].params.model_copy(update={"teacher": "mid"})
    assert {run.epochs for run in state.reruns} == {30}

    _, leader, other = state.finalists
    assert (leader.teacher, leader.trial) == ("slow", best["slow"].number)
    assert leader.search_val_top1 == pytest.approx(best["slow"].full.val_top1 + 0.001), "the mean of both runs"
    if gain > 0:
        assert second.val_top1 > best["mid"].full.val_top1
        assert (other.teacher, other.trial, other.params) == ("mid", None, second.params)
        assert other.search_val_top1 == second.val_top1
        assert [it.run for it in other.runs] == [f"confirm/shared-2-{seed}" for seed in (1000, 1001, 1002)]
    else:
        assert second.val_top1 < best["mid"].full.val_top1
        assert (other.teacher, other.trial, other.params) == ("mid", best["mid"].number, best["mid"].params)
        assert other.search_val_top1 == best["mid"].full.val_top1


def test_settings_that_both_teachers_had_are_trained_with_both_again():
    """The prior is the best of all, so the leaders are priors."""

    def scores(run: RunSpec) -> float:
        return score(run) + (0.05 if (run.params.method, run.params.soft_weight) == ("isats", 0.5) else 0)

    state, _ = search(search_spec(*FOUR, budget="30", space=ISATS_FIRST), Trainer(scores=scores))
    assert [it.run for it in state.reruns] == ["reruns/0002-1", "reruns/0001-1"]
    for finalist, rerun, number in zip(state.finalists[1:], state.reruns, (2, 1), strict=True):
        assert (finalist.trial, finalist.params) == (number, rerun.params)
        mean = (state.trials[number].full.val_top1 + rerun.val_top1) / 2
        assert finalist.search_val_top1 == pytest.approx(mean)


def test_plain_kd_with_a_run_of_its_own_can_be_the_leader():
    def scores(run: RunSpec) -> float:
        plain = (run.params.teacher, run.params.method, run.params.soft_weight) == ("slow", "ts", 0.9)
        return score(run) + 0.05 * plain

    state, _ = search(search_spec(*FOUR, budget="30", space=ISATS_FIRST), Trainer(scores=scores))
    first, second = state.reruns
    assert (first.run, first.params) == ("reruns/plain-kd-1", state.plain_kd.params)
    assert (second.run, second.params) == ("reruns/shared-2-0", first.params.model_copy(update={"teacher": "mid"}))
    leader = state.finalists[1]
    assert (leader.trial, leader.params) == (None, first.params)
    assert leader.search_val_top1 == pytest.approx((state.plain_kd.val_top1 + first.val_top1) / 2)


def test_a_single_teacher_s_leader_is_trained_again():
    spec = search_spec("mid", budget="20")
    assert spec.plan.reruns == 1
    state, _ = search(spec)
    (rerun,) = state.reruns
    best = max((it for it in state.trials if it.full), key=lambda it: it.full.val_top1)
    assert (rerun.run, rerun.params) == (f"reruns/{best.number:04d}-1", best.params)
    assert 0 <= spec.plan.total_epochs - state.spent_epochs < spec.plan.epochs_rung


@pytest.mark.parametrize("failing", ["reruns/", "reruns/0", "reruns/shared-"])
def test_a_leader_whose_rerun_fails_keeps_its_score(failing):
    """A failed run says nothing about the settings: the loss may have diverged with one seed, or a worker died."""

    def scores(run: RunSpec) -> float:
        return steady(run) + (0.005 if run.run.startswith("reruns/shared-") else 0)

    state, _ = search(search_spec(*FOUR, budget="30"), Trainer(scores=scores, fails=lambda it: failing in it.run))
    leader, other = state.reruns
    assert [it.state == "failed" for it in (leader, other)] == [failing != "reruns/shared-", failing != "reruns/0"]
    searched = finalists_of(candidates(state.trials), count=2)
    assert [it.teacher for it in state.finalists] == [None, "slow", "mid"]
    first, second = state.finalists[1:]
    assert first.params == searched[0].params
    if leader.state == "failed":
        assert first.search_val_top1 == searched[0].val_top1
    assert second.params == (searched[1].params if other.state == "failed" else other.params)
    assert second.search_val_top1 == (searched[1].val_top1 if other.state == "failed" else other.val_top1)


def test_without_any_full_run_there_is_nothing_to_train_again():
    spec = search_spec(*FOUR, budget="30")
    state, _ = search(spec, Trainer(fails=lambda run: run.run.startswith("trials/")))
    assert spec.plan.reruns == 2
    assert state.reruns == []


def test_a_rerun_has_a_seed_that_no_earlier_run_had():
    """A pruned trial had the first seed, its replicate the second; plain KD has one too."""
    spec = search_spec("weak", "mid", budget="14", space=ISATS_FIRST)
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


def test_a_rerun_of_plain_kd_that_is_a_prior_has_the_seed_after_the_prior_s():
    spec = search_spec("weak", "mid", budget="14")
    plain = plain_kd_run(spec).params
    prior = TrialRecord(number=0, kind="prior", wave=0, params=plain, seed=0, state="complete")
    assert next_seed(spec, plain, [prior]) == 1


def test_without_reruns_the_lucky_one_is_a_finalist():
    spec = search_spec(*FOUR, budget="30", space=ISATS_FIRST)
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
    curve = (trial.full.curve[-1].model_copy(update={"val_top1": 0.5}),)
    again = trial.full.model_copy(update={"run": f"reruns/{trial.number:04d}-1", "curve": curve})
    failed = again.model_copy(update={"state": "failed"})
    found = candidates(state.trials, reruns=[again, failed])
    one = next(it for it in found if it.params == trial.params)
    assert one.scores == (trial.full.val_top1, 0.5)
    assert one.val_top1 == (trial.full.val_top1 + 0.5) / 2
    assert (one.trial, one.name) == (trial.number, f"{trial.number:04d}")
    assert len(found) == len(candidates(state.trials))
    assert one not in finalists_of(found, count=1)


def test_a_run_that_is_a_prior_and_plain_kd_counts_once():
    """Plain KD is the leader: its mean is over two runs, not over three."""

    def scores(run: RunSpec) -> float:
        plain = (run.params.teacher, run.params.method, run.params.soft_weight) == ("slow", "ts", 0.9)
        return (0.65 if run.run.startswith("reruns/") else 0.85) if plain else score(run)

    state, _ = search(search_spec(*FOUR, budget="30"), Trainer(scores=scores))
    assert state.plain_kd == state.trials[2].full
    rerun = state.reruns[0]
    assert (rerun.params, rerun.val_top1) == (state.plain_kd.params, 0.65)
    found = candidates(state.trials, plain_kd=state.plain_kd, reruns=state.reruns)
    assert [it.scores for it in found if it.params == rerun.params] == [(0.85, 0.65)]
    assert record_of(state).search_score(rerun.params) == (0.85 + 0.65) / 2


def record_of(state: SearchState) -> StudyRecord:
    return bare(dict.fromkeys(FOUR, 0.9)).model_copy(
        update={
            "trials": tuple(state.trials),
            "plain_kd": state.plain_kd,
            "reruns": tuple(state.reruns),
            "finalists": tuple(state.finalists),
        }
    )


def test_the_report_says_who_held():
    """The prior is the leader by luck; with `mid` the same settings are better than at first."""

    def scores(run: RunSpec) -> float:
        return lucky_prior(run) + (0.01 if run.run == "reruns/0001-1" else 0)

    state, _ = search(search_spec(*FOUR, budget="30", space=ISATS_FIRST), Trainer(scores=scores))
    record = record_of(state)
    info = reruns_info(record)
    assert info.text == (
        "1 of 2 configurations that were trained after the search became finalists; other settings scored better for "
        "the rest."
    )
    lucky, held = ([cell.text for cell in row.cells] for row in info.table.rows)
    assert (lucky[0], lucky[2:]) == ("slow", ["85.0 %", "65.0 %", "-20.0", "no finalist"])
    assert (held[0], held[-1]) == ("mid", "finalist")
    assert state.reruns[0] in list(record.runs())
    assert reruns_info(record.model_copy(update={"reruns": ()})).table is None
    assert record.search_score(state.reruns[0].params) == (0.85 + 0.65) / 2
    assert record.search_score(state.reruns[0].params.model_copy(update={"soft_weight": 0.123})) is None


def test_the_report_shows_no_difference_for_settings_that_a_teacher_had_for_the_first_time():
    state, _ = search(
        search_spec(*FOUR, budget="30"), Trainer(scores=lambda run: 0.7 if "shared" in run.run else steady(run))
    )
    rows = [[cell.text for cell in row.cells] for row in reruns_info(record_of(state)).table.rows]
    assert [row[0] for row in rows] == ["slow", "mid"]
    assert rows[0][1] == rows[1][1], "the settings"
    assert rows[0][-1] == "finalist"
    assert rows[1][2:] == [EMPTY, "70.0 %", EMPTY, "no finalist"]

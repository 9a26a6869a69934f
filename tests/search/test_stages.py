"""Baselines, priors and waves over a made-up scoring function: decisions, budget, failed runs."""

import math

import pytest
from search_runs import FOUR, GAIN, ISATS_FIRST, Trainer, score, search, search_spec

from autodistill.config import Space
from autodistill.errors import StudyError
from autodistill.records import PhaseStarted, TrialEnded, TrialParams, TrialStarted
from autodistill.searching.plan import plain_kd_is_prior
from autodistill.searching.stages import candidates, finalists_of, goes_on

PLAIN_KD = TrialParams(teacher="slow", method="ts", method_params={"tau": 4.0}, tau_student=4.0, soft_weight=0.9)
"""Of the most accurate teacher."""


@pytest.mark.parametrize("teachers", [1, 2, 4, 5, 6])
@pytest.mark.parametrize("budget", ["18", "20", "27.5"])
@pytest.mark.parametrize("space", [None, ISATS_FIRST], ids=["plain KD first", "ISATS first"])
def test_the_budget_is_kept_and_used_up(teachers, budget, space):
    spec, trainer = search_spec(*list(GAIN)[:teachers], budget=budget, space=space), Trainer()
    state, _ = search(spec, trainer)
    spent = sum(run.new_epochs for run in trainer.trained)
    assert state.spent_epochs == spent
    assert 0 <= spec.plan.total_epochs - spent < spec.plan.epochs_rung


def test_a_budget_for_short_schedules_is_kept_and_used_up():
    spec = search_spec(*FOUR, space=Space(search={"rungs": "short schedule"}))
    trainer = Trainer()
    state, _ = search(spec, trainer)
    assert state.spent_epochs == sum(run.epochs for run in trainer.trained)
    assert 0 <= spec.plan.total_epochs - state.spent_epochs < spec.plan.epochs_rung


@pytest.mark.parametrize(("space", "own"), [(Space(), []), (ISATS_FIRST, ["baselines/plain-kd"])])
def test_the_first_stage_holds_the_baselines_all_no_teacher_runs_and_the_priors(space, own):
    """Plain KD has a run of its own where no prior is plain KD."""
    first: list[str] = []

    def watch(event, state):
        if isinstance(event, PhaseStarted) and event.phase == "search":
            first.extend(state.results)

    spec = search_spec(*FOUR, space=space)
    state, events = search(spec, watch=watch)
    no_teacher = [f"baselines/no-teacher-{seed}" for seed in (1000, 1001, 1002)]
    priors = [f"trials/{number:04d}/rung" for number in range(4)]
    assert first == [*no_teacher, *own, *priors]
    (phase,) = [it for it in events if isinstance(it, PhaseStarted) and it.phase == "baselines and priors"]
    assert (phase.runs, phase.epochs) == (7 + len(own), (3 + len(own)) * 30 + 4 * 10)
    assert [trial.params.teacher for trial in state.trials[:4]] == list(FOUR)
    assert state.no_teacher == state.results[no_teacher[0]]
    assert state.plain_kd.params == PLAIN_KD, "from the most accurate teacher"
    assert (state.plain_kd.state, state.plain_kd.last_epoch) == ("complete", 30)


def test_plain_kd_is_the_full_run_of_the_prior_of_the_most_accurate_teacher():
    trainer = Trainer()
    state, _ = search(search_spec(*FOUR), trainer)
    assert state.spec.plan.plain_kd == 0
    assert [trial.params for trial in state.trials[:4]] == [
        PLAIN_KD.model_copy(update={"teacher": name}) for name in FOUR
    ]
    assert state.plain_kd == state.trials[2].full == state.results["trials/0002/full"]
    assert "baselines/plain-kd" not in [run.run for run in trainer.trained]


def test_plain_kd_is_a_prior_where_the_search_fixes_the_student_temperature_at_that_of_plain_kd():
    space = Space.model_validate({"search": {"methods": {"ts": {"tau": [2, 4, 8], "tau_student": 4}}}})
    assert plain_kd_is_prior(space)
    trainer = Trainer()
    state, _ = search(search_spec(*FOUR, space=space), trainer)
    assert state.spec.plan.plain_kd == 0
    assert state.trials[2].params == PLAIN_KD
    assert state.plain_kd == state.trials[2].full
    assert "baselines/plain-kd" not in [run.run for run in trainer.trained]

    space = Space.model_validate({"search": {"methods": {"ts": {"tau": [2, 4, 8], "tau_student": 2}}}})
    assert not plain_kd_is_prior(space)
    state, _ = search(search_spec(*FOUR, space=space))
    assert state.spec.plan.plain_kd == 1
    assert state.trials[2].params == PLAIN_KD.model_copy(update={"tau_student": 2.0})
    assert state.plain_kd == state.results["baselines/plain-kd"]
    assert state.plain_kd.params == PLAIN_KD


@pytest.mark.parametrize("space", [Space(), ISATS_FIRST], ids=["plain KD first", "ISATS first"])
def test_the_priors_of_all_teachers_have_the_same_seed(space):
    """Teachers are compared at equal tuning and equal noise."""
    state, _ = search(search_spec(*FOUR, space=space))
    assert [trial.seed for trial in state.trials[:4]] == [0, 0, 0, 0]


def test_plain_kd_is_trained_in_full_even_where_its_rung_is_the_worst():
    """The rung scores of `slow`, the most accurate teacher, are behind those of all five others."""
    trainer = Trainer()
    spec = search_spec(*GAIN, budget="20")
    state, _ = search(spec, trainer)
    priors = {trial.params.teacher: trial for trial in state.trials if trial.kind == "prior"}
    ranked = sorted(priors, key=lambda name: -priors[name].rung.val_top1)
    assert ranked == ["mid", "strong", "sixth", "fifth", "weak", "slow"]
    complete = {name for name, trial in priors.items() if trial.state == "complete"}
    assert complete == {"mid", "strong", "sixth", "slow"}, "the best three beside it"
    assert priors["fifth"].reason.endswith("not among the best 4 of 6 priors")
    assert state.plain_kd == priors["slow"].full
    assert 0 <= spec.plan.total_epochs - state.spent_epochs < spec.plan.epochs_rung

    other, _ = search(search_spec(*GAIN, budget="20", space=ISATS_FIRST))
    priors = {trial.params.teacher: trial for trial in other.trials if trial.kind == "prior"}
    assert priors["slow"].state == "pruned", "its prior is no plain KD"
    assert other.plain_kd == other.results["baselines/plain-kd"]


@pytest.mark.parametrize("part", ["rung", "full"])
def test_plain_kd_that_fails_gets_no_other_run_and_the_search_goes_on(part):
    trainer = Trainer(fails=lambda run: run.run == f"trials/0002/{part}")
    state, _ = search(search_spec(*FOUR), trainer)
    assert state.trials[2].state == "failed"
    assert state.plain_kd is None if part == "rung" else state.plain_kd.state == "failed"
    assert "baselines/plain-kd" not in [run.run for run in trainer.trained]
    assert len(state.finalists) == 3


def test_rests_of_a_wave_are_trained_beside_the_rungs_of_the_next():
    batches: list[list[str]] = []

    class Noting(Trainer):
        def train(self, runs, on_event):
            batches.append([run.run for run in runs])
            return super().train(runs, on_event)

    state, _ = search(search_spec(*FOUR), Noting())
    assert batches[1] == [*(f"trials/{number:04d}/full" for number in range(4)), *_rungs(state, wave=1)]
    assert _rungs(state, wave=1)
    waves = [trial.wave for trial in state.trials]
    assert waves == sorted(waves)
    assert max(waves.count(wave) for wave in set(waves) - {0}) == state.spec.plan.wave


def _rungs(state, *, wave):
    return [f"trials/{trial.number:04d}/rung" for trial in state.trials if trial.wave == wave]


def test_failed_runs_give_their_epochs_back_and_the_search_goes_on():
    trainer = Trainer(fails=lambda run: run.params.soft_weight > 0.6 and run.run.startswith("trials"))
    spec = search_spec(*FOUR, budget="30")
    state, _ = search(spec, trainer)
    failed = [trial for trial in state.trials if trial.state == "failed"]
    assert failed
    assert all("the loss became nan" in trial.reason for trial in failed)
    assert {finalist.teacher for finalist in state.finalists} >= {None, "slow"}
    assert 0 <= spec.plan.total_epochs - state.spent_epochs < spec.plan.epochs_rung


def test_a_full_run_that_fails_fails_its_trial_and_is_no_candidate():
    state, _ = search(search_spec(*FOUR), Trainer(fails=lambda run: run.run == "trials/0002/full"))
    trial = state.trials[2]
    assert (trial.params.teacher, trial.state, trial.reason) == ("slow", "failed", "the loss became nan")
    assert trial.rung.state == "complete"
    assert trial.number not in [it.trial for it in candidates(state.trials)]
    assert state.sampler.trials[2].state.name == "FAIL"
    assert state.sampler.trials[2].user_attrs == {"reason": "the loss became nan"}


@pytest.mark.parametrize(
    ("space", "count", "named"),
    [
        (Space(), 7, "trials/0000/rung, trials/0001/rung, trials/0002/rung, and 1 more"),
        (ISATS_FIRST, 8, "baselines/plain-kd, trials/0000/rung, trials/0001/rung, and 2 more"),
    ],
)
def test_a_search_whose_runs_all_fail_ends_with_their_reason(space, count, named):
    with pytest.raises(StudyError) as found:
        search(search_spec(*FOUR, space=space), Trainer(fails=lambda _: True))
    assert found.value.message == (
        f"all {count} runs of the first stage failed:\n"
        f"  {count} x the loss became nan: baselines/no-teacher-1000, baselines/no-teacher-1001, "
        f"baselines/no-teacher-1002, {named}"
    )
    assert found.value.hint.startswith("lower training.lr, which is 0.1: --set training.lr=0.01, in a new study")
    assert found.value.exit_code == 1


@pytest.mark.parametrize(
    ("survivor", "space"),
    [
        ("baselines/no-teacher-1002", Space()),
        ("trials/0002/rung", Space()),
        ("trials/0003/rung", Space()),
        ("baselines/plain-kd", ISATS_FIRST),
        ("trials/0003/rung", ISATS_FIRST),
    ],
)
def test_a_search_with_one_run_left_goes_on(survivor, space):
    state, _ = search(search_spec(*FOUR, space=space), Trainer(fails=lambda run: run.run != survivor))
    assert state.asked is not None
    assert state.results[survivor].state == "complete"


def test_a_teacher_whose_students_start_slowly_is_not_cut():
    state, _ = search(search_spec(*FOUR))
    rungs = {trial.params.teacher: trial.rung.val_top1 for trial in state.trials[:4]}
    assert rungs["slow"] == min(rungs.values())
    assert state.finalists[1].teacher == "slow"


def test_trials_are_pruned_within_their_teacher_and_method_and_the_reason_says_so():
    state, _ = search(search_spec(*FOUR, budget="33"))
    pruned = [it for it in state.trials if it.kind == "search" and it.state == "pruned" and not it.out_of_budget]
    assert len(pruned) > 3
    for trial in pruned:
        teacher, method, wave = trial.params.teacher, trial.params.method, trial.wave
        # A wave is judged when all its rungs have ended.
        rivals = [
            it.rung.val_top1
            for it in state.trials
            if (it.params.teacher, it.params.method) == (teacher, method) and it.wave <= wave and it is not trial
        ]
        better = sum(rival > trial.rung.val_top1 for rival in rivals)
        assert not goes_on(trial.rung.val_top1, rivals, eta=3.0)
        own, best, most = 100 * trial.rung.val_top1, 100 * max(rivals), math.ceil((len(rivals) + 1) / 3)
        assert trial.reason == (
            f"rung {own:.1f} %: rank {better + 1} of {len(rivals) + 1} {method.upper()} trials with {teacher}, whose "
            f"best has {best:.1f} %; only the best {'goes' if most == 1 else f'{most} go'} on"
        )
        assert trial.full is None


def test_a_method_whose_students_start_slowly_is_not_cut():
    """At the rung every ISATS student is 20 points behind every other; in the end it is 1 point ahead."""

    def scores(run):
        late = -0.2 if run.last_epoch < 30 else 0.01
        return score(run) + (late if run.params.method == "isats" else 0)

    state, _ = search(search_spec(*FOUR, budget="30"), Trainer(scores=scores))
    trials = [it for it in state.trials if it.params.method == "isats"]
    firsts = {it.params.teacher: it for it in reversed(trials)}
    assert len(firsts) > 1
    for teacher, first in firsts.items():
        others = [it.rung.val_top1 for it in state.trials[: first.number] if it.params.teacher == teacher]
        assert others
        assert first.rung.val_top1 < min(others)
        assert first.state == "complete"
    assert state.finalists[1].params.method == "isats"


@pytest.mark.parametrize(
    ("score", "rivals", "eta", "expected"),
    [
        (0.5, [], 3.0, True),
        (0.5, [0.6], 3.0, False),
        (0.6, [0.6], 3.0, True),
        (0.5, [0.6, 0.4], 3.0, False),
        (0.5, [0.6, 0.4, 0.3], 3.0, True),
        (0.5, [0.6, 0.7, 0.3], 3.0, False),
        (0.5, [0.6, 0.4], 2.0, True),
    ],
)
def test_goes_on(score, rivals, eta, expected):
    assert goes_on(score, rivals, eta=eta) is expected


def test_the_test_split_is_touched_by_finalists_only():
    trainer = Trainer()
    search(search_spec(*FOUR), trainer)
    tested = [run for run in trainer.trained if run.evaluate_on != "validation"]
    assert {run.run.split("/")[0] for run in tested} == {"baselines", "confirm"}
    assert not any(run.run.startswith("baselines/plain-kd") for run in tested)


def test_six_teachers_get_four_full_priors_and_two_reasons():
    state, _ = search(search_spec(*GAIN, budget="20"))
    priors = [trial for trial in state.trials if trial.kind == "prior"]
    assert [trial.state for trial in priors].count("complete") == 4
    cut = [trial.reason for trial in priors if trial.state == "pruned"]
    assert len(cut) == 2
    assert all("not among the best 4 of 6 priors" in reason for reason in cut)


def test_the_order_in_which_runs_end_changes_nothing():
    forth, _ = search(search_spec(*FOUR))
    back, _ = search(search_spec(*FOUR), Trainer(backwards=True))
    assert forth.trials == back.trials
    assert forth.finalists == back.finalists


def test_equal_searches_are_equal_and_another_seed_is_another_search():
    other = Space.model_validate({"search": {"seed": 1}})
    (first, _), (second, _), (third, _) = (
        search(search_spec(*FOUR, space=space)) for space in (Space(), Space(), other)
    )
    assert first.trials == second.trials
    assert first.finalists == second.finalists
    assert [trial.params for trial in first.trials[4:]] != [trial.params for trial in third.trials[4:]]


def test_a_wide_wave_keeps_room_for_full_runs():
    space = Space.model_validate({"search": {"wave": 16}})
    state, _ = search(search_spec(*FOUR, budget="30", space=space))
    assert any(trial.state == "complete" for trial in state.trials if trial.kind == "search")


def test_a_trial_that_no_full_run_is_left_for_says_so():
    """Each trial does better than all before it, so each goes on as long as the budget allows."""

    def scores(run):
        return 0.5 + 0.001 * int(run.run[7:11]) if run.run.startswith("trials") else score(run)

    space = Space.model_validate({"search": {"wave": 1}})
    state, _ = search(search_spec(*FOUR, budget="14.5", space=space), Trainer(scores=scores))
    complete, *stopped = [trial for trial in state.trials if trial.kind == "search"]
    assert complete.state == "complete"
    assert stopped
    assert all((trial.state, trial.out_of_budget) == ("pruned", True) for trial in stopped)
    assert all(trial.reason.endswith("not promoted, the budget has no full run left") for trial in stopped)


def test_an_identical_suggestion_is_a_replicate_with_a_new_seed():
    space = Space.model_validate(
        {
            "search": {"methods": {"ts": {"tau": [2.0, 4.0]}}, "soft_weight": [0.5]},
            "prior": {"method": "ts", "params": {"tau": 4.0}, "soft_weight": 0.5},
        }
    )
    state, _ = search(search_spec("mid", budget="30", space=space))
    replicates = [trial for trial in state.trials if trial.replicate_of is not None]
    assert replicates
    for trial in replicates:
        first = state.trials[trial.replicate_of]
        assert first.params == trial.params
        assert first.seed != trial.seed
    assert {trial.params.tau_student for trial in state.trials} == {2.0, 4.0}


def test_max_trials_limits_the_searched_trials():
    state, _ = search(search_spec(*FOUR, budget="40", max_trials=7))
    assert len(state.trials) == 7
    assert len(search(search_spec(*FOUR, budget="40"))[0].trials) > 7


def test_each_trial_starts_and_ends_once_and_none_is_left_open():
    state, events = search(search_spec(*FOUR))
    numbers = [trial.number for trial in state.trials]
    assert [event.record.number for event in events if isinstance(event, TrialStarted)] == numbers
    assert sorted(event.record.number for event in events if isinstance(event, TrialEnded)) == numbers
    assert {trial.state for trial in state.trials} <= {"complete", "pruned", "failed"}
    assert [it.state.name.lower() for it in state.sampler.trials] == [it.state for it in state.trials]


def test_finalists_are_the_best_full_run_of_each_teacher():
    state, _ = search(search_spec(*FOUR, budget="40"))
    chosen = finalists_of(candidates(state.trials), count=2)
    assert [it.params.teacher for it in chosen] == ["slow", "mid"]
    for candidate in chosen:
        teacher = candidate.params.teacher
        rivals = [it.full.val_top1 for it in state.trials if it.full and it.params.teacher == teacher]
        assert candidate.val_top1 == max(rivals)
        assert state.trials[candidate.trial].params == candidate.params


@pytest.mark.parametrize(
    ("space", "trial", "name"), [(Space(), 2, "0002"), (ISATS_FIRST, None, "plain-kd")], ids=["a prior", "its own run"]
)
def test_plain_kd_is_a_teacher_s_finalist_where_it_did_best(space, trial, name):
    def scores(run):
        return 0.99 if run.params == PLAIN_KD else score(run)

    state, _ = search(search_spec(*FOUR, space=space), Trainer(scores=scores))
    _, first, second = state.finalists
    assert (first.teacher, first.trial, first.params) == ("slow", trial, PLAIN_KD)
    assert [it.run for it in first.runs] == [f"confirm/{name}-{seed}" for seed in (1000, 1001, 1002)]
    assert second.trial is not None


def test_a_run_of_plain_kd_that_failed_is_no_candidate():
    state, _ = search(search_spec(*FOUR, space=ISATS_FIRST))
    found = candidates(state.trials, plain_kd=state.plain_kd)
    assert [it.trial for it in found if it.params == PLAIN_KD] == [None]
    failed = state.plain_kd.model_copy(update={"state": "failed"})
    assert PLAIN_KD not in [it.params for it in candidates(state.trials, plain_kd=failed)]


def test_plain_kd_that_is_a_prior_is_one_candidate_with_one_score():
    state, _ = search(search_spec(*FOUR))
    found = candidates(state.trials, plain_kd=state.plain_kd)
    assert found == candidates(state.trials)
    (plain,) = [it for it in found if it.params == PLAIN_KD]
    assert (plain.name, plain.trial, plain.scores) == ("0002", 2, (state.plain_kd.val_top1,))

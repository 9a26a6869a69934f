"""The search against a trainer that computes its scores: decisions, budget, resuming, equality."""

import math
from statistics import fmean, stdev

import optuna
import pytest
from search_runs import FOUR, GAIN, Trainer, question, run, score, searched

from autodistill.config import Space
from autodistill.errors import ConfigError, StudyError
from autodistill.records import TrialEnded
from autodistill.search import candidates, finalists_of, goes_on, importance, make_plan, parse_budget

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("teachers", "priors", "searched"), [(1, 4 / 3, 11.667), (4, 16 / 3, 4.667), (5, 17 / 3, 4.333), (6, 6, 4)]
)
def test_the_plan_of_20_with_short_runs_is_the_design_s(teachers, priors, searched):
    space = Space(search={"rungs": "short runs", "second_looks": False})
    plan = make_plan(space, teachers=teachers, requested="20")
    assert plan.priors == pytest.approx(priors)
    assert plan.search == pytest.approx(searched, abs=1e-3)


@pytest.mark.parametrize(
    ("teachers", "priors", "searched"), [(1, 1, 11), (4, 4, 4), (5, 13 / 3, 11 / 3), (6, 14 / 3, 10 / 3)]
)
def test_the_plan_of_20_pays_no_epoch_twice(teachers, priors, searched):
    plan = make_plan(Space(), teachers=teachers, requested="20")
    assert (plan.no_teacher, plan.plain_kd) == (1, 1)
    assert (plan.second_looks, plan.confirm) == ((2, 8) if teachers > 1 else (1, 5))
    assert plan.priors == pytest.approx(priors)
    assert plan.search == pytest.approx(searched, abs=1e-3)
    parts = plan.no_teacher + plan.plain_kd + plan.priors + plan.second_looks + plan.confirm + plan.search
    assert parts == pytest.approx(plan.equivalents) == pytest.approx(20)


def test_a_budget_below_the_plan_says_the_smallest_and_that_one_works():
    with pytest.raises(ConfigError, match=r"the smallest is 15 "):
        make_plan(Space(), teachers=4, requested="14.9")
    assert make_plan(Space(), teachers=4, requested="15").search >= 1


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("20", 20, "full runs"),
        ("600ep", 600, "epochs"),
        ("8h", 28800, "seconds"),
        ("1.5h", 5400, "seconds"),
        ("30min", 1800, "seconds"),
    ],
)
def test_budgets_are_read(text, amount, unit):
    assert parse_budget(text) == (amount, unit)


@pytest.mark.parametrize("text", ["", "0", "-3", "20 parsecs", "many", "1e3"])
def test_an_unreadable_budget_is_refused(text):
    with pytest.raises(ConfigError, match="--budget"):
        parse_budget(text)


def test_a_budget_of_time_is_epochs_at_the_measured_rate():
    plan = make_plan(Space(), teachers=4, requested="1h", epochs_per_s=0.25)
    assert plan.total_epochs == 900


@pytest.mark.parametrize("teachers", [1, 2, 4, 5, 6])
@pytest.mark.parametrize("budget", ["18", "20", "27.5"])
def test_the_budget_is_kept_and_used_up(teachers, budget):
    asked = question(*list(GAIN)[:teachers], budget=budget)
    trainer = Trainer()
    outcome, _ = searched(asked, trainer)
    spent = sum(request.new_epochs for request in trainer.asked)
    assert outcome.spent_epochs == spent
    assert 0 <= asked.plan.total_epochs - spent < asked.plan.epochs_short


def test_failed_runs_give_their_epochs_back_and_the_study_goes_on(tmp_path):
    trainer = Trainer(fails=lambda request: request.params.soft_weight > 0.6 and request.run.startswith("trials"))
    asked = question(*FOUR, budget="30")
    outcome, _ = run(asked, trainer, tmp_path / "study.db")
    failed = [trial for trial in outcome.trials if trial.state == "failed"]
    assert failed
    assert all("the loss became nan" in trial.reason for trial in failed)
    assert {finalist.teacher for finalist in outcome.finalists} >= {None, "slow"}
    assert 0 <= asked.plan.total_epochs - outcome.spent_epochs < asked.plan.epochs_short


def test_a_study_whose_runs_all_fail_ends_with_their_reason(tmp_path):
    with pytest.raises(StudyError) as found:
        run(question(*FOUR), Trainer(fails=lambda _: True), tmp_path / "study.db")
    assert found.value.message == (
        "all 6 runs of the first stage failed:\n"
        "  6 x the loss became nan: baselines/no-teacher-1000, baselines/plain-kd, trials/0000/short, "
        "trials/0001/short, trials/0002/short, trials/0003/short"
    )
    assert found.value.hint.startswith("lower training.lr, which is 0.1: --set training.lr=0.01, in a new study")
    assert found.value.exit_code == 1


def test_a_teacher_whose_students_start_slowly_is_not_cut():
    outcome, _ = searched(question(*FOUR), Trainer())
    shorts = {trial.params.teacher: trial.short.val_top1 for trial in outcome.trials[:4]}
    assert shorts["slow"] == min(shorts.values())
    assert outcome.finalists[1].teacher == "slow"


def test_the_test_set_is_touched_by_finalists_only():
    trainer = Trainer()
    searched(question(*FOUR), trainer)
    tested = {request.run.split("/")[0] for request in trainer.asked if request.evaluate_on != "validation"}
    assert tested == {"baselines", "confirm"}
    assert not any(
        request.run.startswith("baselines/plain-kd") and request.evaluate_on != "validation"
        for request in trainer.asked
    )


def test_confirm_runs_are_paired_and_reuse_the_baseline():
    trainer = Trainer()
    outcome, _ = searched(question(*FOUR), trainer)
    assert [[it.seed for it in finalist.runs] for finalist in outcome.finalists] == [[1000, 1001, 1002]] * 3
    assert outcome.finalists[0].runs[0] == outcome.no_teacher
    assert len({request.run for request in trainer.asked}) == len(trainer.asked)


def test_six_teachers_get_four_full_priors_and_two_reasons():
    outcome, _ = searched(question(*GAIN, budget="20"), Trainer())
    priors = [trial for trial in outcome.trials if trial.kind == "prior"]
    assert [trial.state for trial in priors].count("complete") == 4
    cut = [trial.reason for trial in priors if trial.state == "pruned"]
    assert len(cut) == 2
    assert all("not among the best 4 of 6 priors" in reason for reason in cut)


def test_the_order_in_which_runs_end_changes_nothing(tmp_path):
    forth, _ = run(question(*FOUR), Trainer(), tmp_path / "forth.db")
    back, _ = run(question(*FOUR), Trainer(backwards=True), tmp_path / "back.db")
    assert forth.trials == back.trials
    assert forth.finalists == back.finalists


def test_a_killed_study_goes_on_to_the_same_end_from_every_point(tmp_path):
    asked = question(*FOUR, budget="18")
    whole_trainer = Trainer()
    whole, _ = run(asked, whole_trainer, tmp_path / "whole.db")
    for kills in range(0, len(whole_trainer.asked), 5):
        trainer = Trainer(dies_after=kills)
        database = tmp_path / f"{kills}.db"
        with pytest.raises(KeyboardInterrupt):
            run(asked, trainer, database)
        trainer.dies_after = math.inf
        resumed, _ = run(asked, trainer, database)
        assert resumed.trials == whole.trials, kills
        assert resumed.finalists == whole.finalists, kills
        assert len(trainer.asked) == len(whole_trainer.asked), "a finished run was trained again"


@pytest.fixture(scope="module")
def of_22(tmp_path_factory):
    """A study's question, and its outcome undisturbed."""
    asked = question(*FOUR, budget="22")
    return asked, run(asked, Trainer(), tmp_path_factory.mktemp("22") / "whole.db")[0]


@pytest.mark.parametrize("suggestions", [1, 2, 3, 4, 25, 26, 27, 38])
def test_a_study_killed_between_two_suggestions_asks_the_same(tmp_path, monkeypatch, suggestions, of_22):
    asked, whole = of_22
    trainer, made = Trainer(), 0
    store = optuna.trial.Trial._suggest

    def suggest(self: optuna.trial.Trial, *arguments: object) -> object:
        nonlocal made
        if made == suggestions:
            raise KeyboardInterrupt
        made += 1
        return store(self, *arguments)

    monkeypatch.setattr(optuna.trial.Trial, "_suggest", suggest)
    with pytest.raises(KeyboardInterrupt):
        run(asked, trainer, tmp_path / "killed.db")
    monkeypatch.undo()
    resumed, _ = run(asked, trainer, tmp_path / "killed.db")
    assert resumed.trials == whole.trials


def test_a_wide_wave_keeps_room_for_full_runs():
    space = Space.model_validate({"search": {"wave": 16}})
    outcome, _ = searched(question(*FOUR, budget="30", space=space), Trainer())
    assert any(trial.state == "complete" for trial in outcome.trials if trial.kind == "search")


def test_a_damaged_database_is_set_aside_and_nothing_is_lost(tmp_path):
    trainer = Trainer()
    first, _ = run(question(*FOUR), trainer, tmp_path / "study.db")
    count = len(trainer.asked)
    (tmp_path / "study.db").write_bytes(b"not a database, but long enough to look like a file" * 40)
    second, _ = run(question(*FOUR), trainer, tmp_path / "study.db")
    assert second.trials == first.trials
    assert len(trainer.asked) == count
    assert (tmp_path / "study.db.damaged").exists()


def test_running_a_finished_study_again_trains_nothing(tmp_path):
    trainer = Trainer()
    first, _ = run(question(*FOUR), trainer, tmp_path / "study.db")
    count = len(trainer.asked)
    second, _ = run(question(*FOUR), trainer, tmp_path / "study.db")
    assert len(trainer.asked) == count
    assert second.trials == first.trials


def test_optuna_holds_the_searched_trials_and_none_is_left_open(tmp_path):
    outcome, events = run(question(*FOUR), Trainer(), tmp_path / "study.db")
    study = optuna.load_study(study_name="a-study", storage=f"sqlite:///{tmp_path / 'study.db'}")
    states = {trial.number: trial.state.name.lower() for trial in study.trials}
    assert states == {trial.number: trial.state for trial in outcome.trials}
    assert study.trials[0].params == {
        "teacher": "weak",
        "rule": "isats",
        "isats.target_ratio": 5 / 3,
        "soft_weight": 0.5,
    }
    assert study.trials[0].intermediate_values.keys() == {10, 30}
    assert len([event for event in events if isinstance(event, TrialEnded)]) == len(outcome.trials)
    study._storage.remove_session()
    study._storage._backend.engine.dispose()


def test_an_identical_suggestion_is_a_replicate_with_a_new_seed():
    space = Space.model_validate(
        {
            "search": {"rules": {"ts": {"tau": [2.0, 4.0]}}, "soft_weight": [0.5]},
            "prior": {"rule": "ts", "params": {"tau": 4.0}, "soft_weight": 0.5},
        }
    )
    outcome, _ = searched(question("mid", budget="30", space=space), Trainer())
    replicates = [trial for trial in outcome.trials if trial.replicate_of is not None]
    assert replicates
    for trial in replicates:
        first = outcome.trials[trial.replicate_of]
        assert first.params == trial.params
        assert first.seed != trial.seed
    assert {trial.params.tau_student for trial in outcome.trials} == {2.0, 4.0}


def test_max_trials_limits_the_searched_trials(tmp_path):
    outcome, _ = run(question(*FOUR, budget="40", max_trials=7), Trainer(), tmp_path / "study.db")
    assert len(outcome.trials) == 7
    with pytest.raises(ConfigError, match="--max-trials 3"):
        question(*FOUR, max_trials=3)


def test_equal_studies_are_equal_and_another_seed_is_another_study(tmp_path):
    other = Space.model_validate({"search": {"seed": 1}})
    first, _ = run(question(*FOUR), Trainer(), tmp_path / "1.db")
    second, _ = run(question(*FOUR), Trainer(), tmp_path / "2.db")
    third, _ = run(question(*FOUR, space=other), Trainer(), tmp_path / "3.db")
    assert first.trials == second.trials
    assert [trial.params for trial in first.trials[4:]] != [trial.params for trial in third.trials[4:]]


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


def test_finalists_are_the_best_full_run_of_each_teacher(tmp_path):
    outcome, _ = run(question(*FOUR, budget="40"), Trainer(), tmp_path / "study.db")
    chosen = finalists_of(candidates(outcome.trials), count=2)
    assert [one.params.teacher for one in chosen] == ["slow", "mid"]
    for one in chosen:
        rivals = [it.full.val_top1 for it in outcome.trials if it.full and it.params.teacher == one.params.teacher]
        assert one.val_top1 == max(rivals)
        assert outcome.trials[one.trial].params == one.params


def test_plain_kd_is_a_teacher_s_finalist_where_it_did_best():
    def scores(request):
        return 0.99 if request.params.rule == "ts" and request.params.soft_weight == 0.9 else score(request)

    outcome, _ = searched(question(*FOUR), Trainer(scores=scores))
    _, first, second = outcome.finalists
    assert (first.teacher, first.trial, first.params) == ("slow", None, outcome.plain_kd.params)
    assert [it.run for it in first.runs] == [f"confirm/plain-kd-{seed}" for seed in (1000, 1001, 1002)]
    assert second.trial is not None
    failed = outcome.plain_kd.model_copy(update={"state": "failed"})
    assert finalists_of(candidates(outcome.trials, plain_kd=failed), count=1)[0].trial is not None


def test_importance_is_a_mean_over_forests_and_finds_the_planted_cause():
    """One forest twice: no spread; two forests: their mean and standard deviation, from each grown alone."""
    asked = question("weak", "slow", budget="40")
    trials = searched(asked, Trainer())[0].trials

    def grown(*seeds):
        return importance(trials, asked.space, ["weak", "slow"], seeds=seeds)

    one, other, both = grown(3, 3), grown(4, 4), grown(3, 4)
    assert one.n == len(trials) > 20
    assert sum(both.shares.values()) == pytest.approx(1, abs=1e-3)
    assert both.shares["teacher"] > 0.8
    assert both.evaluator_seeds == 2
    assert set(one.shares_std.values()) == {0.0}
    assert max(both.shares_std.values()) > 0
    assert list(both.shares.values()) == sorted(both.shares.values(), reverse=True)
    for name, share in both.shares.items():
        pair = [one.shares[name], other.shares[name]]
        assert share == pytest.approx(fmean(pair), abs=2e-6)
        assert both.shares_std[name] == pytest.approx(stdev(pair), abs=2e-6)


def test_importance_of_few_trials_is_not_told():
    outcome, _ = searched(question("weak", "slow", budget="20"), Trainer())
    assert len(outcome.trials) > 9
    found = importance(outcome.trials[:9], Space(), ["weak", "slow"])
    assert found.shares == {}
    assert found.note == "9 scored trials are too few: at least 10"

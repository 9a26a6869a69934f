"""A study in virtual time against schedules drawn by hand."""

import random

import pytest
from search_runs import FOUR, question

from autodistill.config import Space
from autodistill.errors import StudyError
from autodistill.records import RunEnded, RunRecord, RunRequest, TrialParams
from autodistill.study.simulating import (
    Certain,
    Clock,
    Costs,
    TeacherCosts,
    fitting_beside,
    makespan,
    preparing_s,
    simulate,
)

TAUGHT = TrialParams(teacher="mid", rule="isats", rule_params={"target_ratio": 2.0}, soft_weight=0.5)
COSTS = Costs(
    epoch_s=2.0,
    targets_s=0.5,
    validation_s=0.3,
    test_s=0.4,
    run_s=1.0,
    profile_s=5.0,
    teachers={"mid": TeacherCosts(0.0, 10.0, frozenset({1, 2, 9}))},
    held_out=0.25,
    views=8,
    evaluate_every=4,
)
NOTHING = COSTS._replace(targets_s=0.0, validation_s=0.0, test_s=0.0, run_s=0.0, profile_s=0.0)
KEPT = TeacherCosts(0.0, 1.0, frozenset())


def asked(run: str, epochs: int, *, teacher: str | None = None, test: bool = False) -> RunRequest:
    params = TAUGHT if teacher else TrialParams()
    evaluate_on = "validation+test" if test else "validation"
    return RunRequest(run=run, params=params, seed=0, epochs=epochs, evaluate_on=evaluate_on)


def clock(costs: Costs = COSTS, *, workers: int = 2) -> Clock:
    return Clock(costs, workers, random.Random(0), phase="confirm")


@pytest.mark.parametrize(
    ("durations", "workers", "ends"),
    [
        ([3.0, 3.0, 3.0], 2, 6.0),
        ([3.0, 3.0, 3.0, 3.0], 2, 6.0),
        ([5.0, 1.0, 1.0, 1.0], 2, 5.0),
        ([1.0, 1.0, 5.0], 2, 6.0),
        ([4.0, 2.0, 3.0], 1, 9.0),
        ([4.0], 3, 4.0),
        ([], 2, 0.0),
    ],
)
def test_the_last_task_ends_when_a_schedule_by_hand_says(durations, workers, ends):
    assert makespan(durations, workers) == ends


@pytest.mark.parametrize(
    ("runs", "confirm", "workers", "filled"),
    [
        ([12], 5, 2, 1),  # 12 and three rounds of 12, or 12 and two
        ([12], 5, 4, 1),  # 12 and two rounds, or one
        ([12, 12], 8, 2, 0),  # 12 and four rounds, or 24 and three after both
        ([8], 7, 2, 1),  # 8 and four rounds, or 12 and three
        ([8, 8], 7, 2, 1),  # 8 and four rounds, or 16 and three
        ([12, 12], 7, 2, 0),  # 12 and four rounds, or 24 and three
        ([4], 8, 2, 0),  # one more would leave as many rounds
        ([12], 8, 1, 0),
        ([], 5, 2, 0),
    ],
)
def test_idle_workers_are_filled_where_the_study_ends_earlier(runs, confirm, workers, filled):
    first, *spare = (asked(f"baselines/no-teacher-{seed}", 12) for seed in (1000, 1001, 1002))
    certain = Certain([first, *spare], confirm)
    given = [asked(str(place), epochs) for place, epochs in enumerate(runs)]
    assert certain.beside(given, {first.run}, workers) == spare[:filled]
    assert certain.beside(given, {first.run, *(it.run for it in spare)}, workers) == []


def test_a_run_that_filled_an_idle_worker_takes_no_time_when_it_is_asked_for():
    first, *spare = (asked(f"baselines/no-teacher-{seed}", 6) for seed in (1000, 1001, 1002))
    certain = Certain([first, *spare], 5)
    found = Clock(NOTHING, 2, random.Random(0), phase="second looks", beside=frozenset({first.run}), certain=certain)
    list(found([asked("look", 6)]))
    assert (found.phases_s, found.beside) == ({"second looks": 12.0}, {first.run, spare[0].run})
    found.phase = "confirm"
    list(found(spare))
    assert found.phases_s["confirm"] == 12.0, "the other one"


def test_a_run_takes_its_epochs_and_its_looks_and_the_first_one_its_teachers_views():
    found = clock()
    assert found.run_s(asked("plain", 6)) == pytest.approx(1 + 6 * 2 + 2 * 0.3)
    assert found.run_s(asked("tested", 8, test=True)) == pytest.approx(1 + 8 * 2 + 2 * 0.3 + 0.4)
    taught = 1 + 6 * 2.5 + 2 * 0.3
    assert found.run_s(asked("taught", 6, teacher="mid")) == pytest.approx(taught)
    list(found([asked("first", 6, teacher="mid")]))
    assert found.phases_s == {"confirm": pytest.approx(taught + 10)}, "views 1 and 2, a worker each; nobody needs 9"
    list(found([asked("second", 6, teacher="mid")]))
    assert found.phases_s == {"confirm": pytest.approx(2 * taught + 10)}
    assert found.logits_s == 20


def test_workers_that_need_the_same_views_share_them_out():
    found = clock(NOTHING)
    list(found([asked(name, 6, teacher="mid") for name in "ab"]))
    assert found.phases_s == {"confirm": 6 * 2 + 10}
    assert found.logits_s == 20


def test_three_equal_runs_on_two_workers_take_two_rounds():
    found = clock(NOTHING)
    list(found([asked(name, 5) for name in "abc"]))
    assert found.phases_s == {"confirm": 2 * 5 * 2}
    list(found([asked("d", 3)]))
    assert found.phases_s == {"confirm": 26}, "what follows waits for all of them"


def test_a_run_is_asked_for_when_the_first_worker_is_free():
    """a until 10; b until 2, c until 6, then what is first in line by then until 12; d from 10 until 16."""
    found, waiting, told = clock(NOTHING), [asked("a", 5), asked("b", 1), asked("c", 2), asked("d", 3)], []

    def source():
        if told == ["b", "c"] and "late" not in [it.run for it in waiting]:
            waiting.insert(0, asked("late", 3))
        return waiting.pop(0) if waiting else None

    for event in found(source):
        told.append(event.record.run)
    assert told == ["b", "c", "a", "late", "d"]
    assert found.phases_s == {"confirm": 16}


def test_the_longest_run_starts_first():
    found = clock(NOTHING)
    list(found([asked("a", 1), asked("b", 1), asked("c", 4)]))
    assert found.phases_s == {"confirm": 8}


def test_kept_runs_take_no_time_and_keep_their_scores():
    made = clock(NOTHING)
    (kept,) = made([asked("a", 3)])
    found = clock(NOTHING)
    found.kept = lambda request: kept if request.run == "a" else None
    first, second = found([asked("a", 3), asked("b", 2)])
    assert first is kept
    assert second.record.spent_epochs == 2
    assert found.phases_s == {"confirm": 4}


def test_a_ladder_is_trained_strongest_first_and_teachers_are_profiled_side_by_side():
    teachers = {
        "given": TeacherCosts(0.0, 8.0, frozenset({0})),
        "weak": TeacherCosts(10.0, 4.0, frozenset({0, 1})),
        "mid": TeacherCosts(20.0, 4.0, frozenset({0, 1})),
        "strong": TeacherCosts(40.0, 4.0, frozenset({0, 1})),
        "known": KEPT,
    }
    found = preparing_s(COSTS._replace(teachers=teachers), 2)
    # 40 | 20 + 10; then a check is a quarter of a view, a profile 5 and a view:
    # 40 + 1 + 9 + 1 + 9 (weak, strong) | 30 + 2 + 13 + 1 + 9 + 5 (given, mid, known).
    assert found == {"teachers": pytest.approx(60), "profiles": 0}


def test_as_many_runs_are_trained_beside_the_ladder_as_end_the_study_first():
    teachers = {"weak": TeacherCosts(10.0, 0.0, frozenset()), "strong": TeacherCosts(40.0, 0.0, frozenset())}
    costs = NOTHING._replace(teachers=teachers)
    # 40 | 10 + 12 + 12 and four rounds of 12, or 40 | 10 + 12 + 12 + 12 and three; 7 leave three either way.
    assert fitting_beside(costs, 12.0, most=3, confirm=8, workers=2) == 3
    assert fitting_beside(costs, 12.0, most=3, confirm=7, workers=2) == 2
    assert fitting_beside(costs, 12.0, most=1, confirm=8, workers=2) == 1
    assert fitting_beside(costs, 12.0, most=3, confirm=8, workers=1) == 0, "one worker has no time left over"


@pytest.mark.parametrize("budget", ["20", "50"])
def test_one_worker_takes_the_whole_budget_one_epoch_after_another(budget):
    space = Space.model_validate({"training": {"epochs": 30, "short_epochs": 10}})
    costs = NOTHING._replace(teachers=dict.fromkeys(FOUR, KEPT))
    found = simulate(question(*FOUR, budget=budget, space=space), costs, 1)
    spent = (found.wall_s - found.phases_s["report"]) / costs.epoch_s / 30
    assert float(budget) - 1 <= spent <= float(budget)
    assert found.phases_s["baselines and priors"] == pytest.approx(2 * (2 * 30 + 4 * 10))
    assert found.phases_s["confirm"] == pytest.approx(2 * 8 * 30)
    assert ("controls" in found.phases_s) == (budget == "50")
    assert found.logits_s == 0


def test_two_workers_take_over_half_as_long_and_logits_are_counted_once():
    cold = NOTHING._replace(teachers={name: TeacherCosts(0.0, 3.0, frozenset(range(8))) for name in FOUR})
    alone, both = (simulate(question(*FOUR), cold, workers) for workers in (1, 2))
    assert alone.logits_s == both.logits_s == 4 * 8 * 3
    assert alone.phases_s["teachers"] == pytest.approx(4 * (3 + 3 * 0.25))
    assert alone.phases_s["baselines and priors"] == pytest.approx(2 * (2 * 30 + 4 * 10) + 4 * 7 * 3)
    assert alone.wall_s / 2 < both.wall_s < 0.75 * alone.wall_s


def test_kept_results_that_are_all_failures_end_the_simulated_study_too():
    def failed(request: RunRequest) -> RunEnded:
        return RunEnded(record=RunRecord(**request.kept(), state="failed", error="out of memory"), wall_s=0.0)

    costs = NOTHING._replace(teachers=dict.fromkeys(FOUR, KEPT))
    assert "confirm" not in simulate(question(*FOUR), costs, 1, kept=failed).phases_s


def test_any_other_error_of_a_simulated_study_is_raised():
    def away(_: RunRequest) -> RunEnded:
        raise StudyError("the database stayed away")

    with pytest.raises(StudyError, match="stayed away"):
        simulate(question(*FOUR), NOTHING._replace(teachers=dict.fromkeys(FOUR, KEPT)), 1, kept=away)

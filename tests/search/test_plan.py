"""The plan of a budget."""

import pytest
from search_runs import ISATS_FIRST

from autodistill.config import Space
from autodistill.errors import ConfigError
from autodistill.records import RaceRecord
from autodistill.searching import make_plan, parse_budget

RACED = Space.model_validate({"confirm": {"teachers": 3, "seeds": 6}})


@pytest.mark.parametrize(
    ("teachers", "priors", "searched"), [(1, 4 / 3, 12.667), (4, 16 / 3, 5.667), (5, 17 / 3, 5.333), (6, 6, 5)]
)
def test_the_plan_of_20_with_short_schedules_is_the_design_s(teachers, priors, searched):
    space = Space(search={"rungs": "short schedule", "reruns": False})
    plan = make_plan(space, teachers=teachers, requested="20")
    assert plan.priors == pytest.approx(priors)
    assert plan.search == pytest.approx(searched, abs=1e-3)


@pytest.mark.parametrize(
    ("teachers", "priors", "searched"), [(1, 1, 12), (4, 4, 5), (5, 13 / 3, 14 / 3), (6, 14 / 3, 13 / 3)]
)
def test_the_plan_of_20_pays_no_epoch_twice(teachers, priors, searched):
    plan = make_plan(Space(), teachers=teachers, requested="20")
    assert (plan.no_teacher, plan.plain_kd) == (1, 0), "plain KD is a prior"
    assert (plan.reruns, plan.confirm) == ((2, 8) if teachers > 1 else (1, 5))
    assert plan.priors == pytest.approx(priors)
    assert plan.search == pytest.approx(searched, abs=1e-3)
    parts = plan.no_teacher + plan.plain_kd + plan.priors + plan.reruns + plan.confirm + plan.search
    assert parts == pytest.approx(plan.equivalents) == pytest.approx(20)


@pytest.mark.parametrize(("teachers", "searched"), [(1, 11), (4, 4), (5, 11 / 3), (6, 10 / 3)])
@pytest.mark.parametrize(
    "changed",
    [
        {"prior": ISATS_FIRST.prior.model_dump()},
        {"prior": {"soft_weight": 0.8}},
        {"search": {"methods": {"ts": {"tau": [2.0, 8.0]}}}},
    ],
)
def test_plain_kd_is_a_part_of_the_plan_where_no_prior_is_plain_kd(changed, teachers, searched):
    space = Space.model_validate(changed)
    plan = make_plan(space, teachers=teachers, requested="20")
    assert (plan.no_teacher, plan.plain_kd) == (1, 1)
    assert plan.search == pytest.approx(searched, abs=1e-3)
    parts = plan.no_teacher + plan.plain_kd + plan.priors + plan.reruns + plan.confirm + plan.search
    assert parts == pytest.approx(plan.equivalents) == pytest.approx(20)


@pytest.mark.parametrize(("space", "below", "smallest"), [(Space(), "13.9", 14), (ISATS_FIRST, "14.9", 15)])
def test_a_budget_below_the_plan_names_the_smallest_and_the_smallest_works(space, below, smallest):
    with pytest.raises(ConfigError, match=rf"the smallest is {smallest} "):
        make_plan(space, teachers=4, requested=below)
    assert make_plan(space, teachers=4, requested=str(smallest)).search >= 1


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


def test_max_trials_below_the_number_of_teachers_is_refused():
    with pytest.raises(ConfigError, match="--max-trials 3"):
        make_plan(Space(), teachers=4, requested="20", max_trials=3)


@pytest.mark.parametrize(
    ("budget", "reruns", "searched"), [("16", 0, 3), ("17", 2, 2), ("22.9", 2, 7.9), ("23", 2, 5), ("30", 2, 12)]
)
def test_reruns_leave_the_search_two_trainings(budget, reruns, searched):
    plan = make_plan(Space(), teachers=4, requested=budget)
    assert (plan.reruns, plan.search) == (reruns, pytest.approx(searched))
    without = make_plan(Space(search={"reruns": False}), teachers=4, requested=budget)
    assert (without.reruns, without.search) == (0, pytest.approx(reruns + searched))


def test_racing_needs_five_seeds_and_two_teachers():
    assert make_plan(Space(), teachers=4, requested="20").race is None
    assert make_plan(RACED, teachers=1, requested="40").race is None
    plan = make_plan(RACED, teachers=4, requested="33")
    assert plan.race == RaceRecord(first=3, seeds=6)
    assert plan.confirm == 3 * 6 + 5


def test_a_budget_of_40_has_room_for_controls_and_a_smaller_budget_has_not():
    assert make_plan(Space(), teachers=4, requested="39.9").controls == 0
    plan = make_plan(Space(), teachers=4, requested="40")
    assert plan.controls == (2 + 1) * 3, "the prior for two finalists, the best configuration for the other finalist"
    parts = plan.search + plan.reruns + plan.controls + plan.label_smoothing + plan.confirm + plan.priors
    assert parts + 1 == pytest.approx(40)
    raced = Space.model_validate({"confirm": {"seeds": 6}})
    assert make_plan(raced, teachers=4, requested="50").controls == 9, "over the seeds before the first look"


@pytest.mark.parametrize(
    ("wanted", "budget", "cost"),
    [(None, "22.9", 0), (None, "23", 3), (False, "60", 0), (True, "17", 3), (True, "40", 3)],
)
def test_label_smoothing_is_a_control_from_a_budget_of_23_on_or_as_the_space_says(wanted, budget, cost):
    confirm = {} if wanted is None else {"label_smoothing": wanted}
    plan = make_plan(Space.model_validate({"confirm": confirm}), teachers=4, requested=budget)
    assert plan.label_smoothing == cost


def test_label_smoothing_is_left_out_where_the_budget_has_no_room_for_it():
    space = Space.model_validate({"confirm": {"seeds": 10}})
    smallest = make_plan(space, teachers=4, requested="39")
    assert smallest.label_smoothing == 0


def test_label_smoothing_gets_the_seeds_of_the_first_look_of_a_race():
    assert make_plan(RACED, teachers=4, requested="60").label_smoothing == 3

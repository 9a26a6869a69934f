"""A study that asks whenever a worker is free: budget, decisions, their trail, and what a resumed one repeats."""

import json
import math
from itertools import chain

import pytest
from search_runs import FOUR, GAIN, Trainer, question, run, searched

from autodistill.config import Space
from autodistill.errors import StoreError
from autodistill.records import TrialEnded
from autodistill.search import Outcome, goes_on, search
from autodistill.search.order import Order, Step
from autodistill.search.streaming import pays
from autodistill.store import seed_from

pytestmark = pytest.mark.slow

ETA = Space().search.eta


QUICK = Space.model_validate({"search": {"startup": 10**6}})
"""Draws at random: the sampler's model takes its time."""


def asked(*names: str, budget: str = "20", space: Space = QUICK, **options):
    return question(*(names or FOUR), budget=budget, space=space, asynchronous=True, **options)


def check_trails(outcome, plan) -> None:
    """Every decision follows from what its trail says was known, and the trail says what was so."""
    for trial in (it for it in outcome.trials if it.kind == "search"):
        trail = trial.audit_trail
        known = [number for first, last in trail.known for number in range(first, last + 1)]
        assert sorted([*known, *trail.running]) == list(range(trial.number))
        assert all(first <= last for first, last in trail.known)
        assert all(one[1] + 1 < other[0] for one, other in zip(trail.known, trail.known[1:], strict=False))
        assert trail.sampler_seed == seed_from(0, trial.number)
        if trial.short.val_top1 is None:
            assert trail.rivals is None
            continue
        for number, score in trail.rivals.items():
            assert outcome.trials[number].params.teacher == trial.params.teacher
            assert outcome.trials[number].short.val_top1 == score
        going = goes_on(trial.short.val_top1, list(trail.rivals.values()), eta=ETA)
        assert going == (trial.full is not None or trial.out_of_budget)


@pytest.mark.parametrize(
    ("teachers", "budget", "workers"),
    [
        (1, "18", 3),
        (4, "18", 3),
        (4, "20", 1),
        (4, "20", 64),
        (4, "27.5", 3),
        (4, "60", 16),
        (6, "40", 64),
    ],
)
def test_the_budget_is_kept_and_used_up_however_many_ask(teachers, budget, workers):
    names = list(GAIN)[:teachers]
    trainer, wanted = Trainer(workers=workers, draw=workers), asked(*names, budget=budget)
    outcome, events = searched(wanted, trainer)
    spent = sum(request.new_epochs for request in trainer.asked)
    assert outcome.spent_epochs == spent
    confirmed = [it.run for one in (*outcome.finalists, *outcome.controls) for it in one.runs]
    planned = round((wanted.plan.confirm + wanted.plan.controls) * wanted.plan.epochs_full)
    unused = planned - sum(it.new_epochs for it in trainer.asked if it.run in confirmed[1:])
    assert unused >= 0
    assert 0 <= wanted.plan.total_epochs - unused - spent < wanted.plan.epochs_short
    assert {trial.state for trial in outcome.trials} <= {"complete", "pruned"}
    assert len([it for it in events if isinstance(it, TrialEnded)]) == len(outcome.trials)
    check_trails(outcome, wanted.plan)


def test_one_worker_knows_all_that_has_ended_and_many_know_less():
    alone, many = (searched(asked(budget="40"), Trainer(workers=it))[0] for it in (1, 8))
    found = [it for it in alone.trials if it.kind == "search"]
    assert {it.audit_trail.running for it in found} == {()}
    assert {it.audit_trail.known for it in found} == {((0, it.number - 1),) for it in found}
    running = [len(it.audit_trail.running) for it in many.trials if it.kind == "search"]
    assert 4 < max(running) < 8 + len(FOUR)
    assert {it.wave for it in many.trials} == {0, 1}


def test_a_survivor_goes_on_before_a_new_trial_is_asked_for():
    trainer = Trainer(workers=1)
    outcome, _ = searched(asked(budget="40"), trainer)
    runs = [request.run for request in trainer.asked]
    full = [it for it in outcome.trials if it.kind == "search" and it.full]
    assert len(full) > 3
    for trial in full:
        assert runs.index(trial.full.run) == runs.index(trial.short.run) + 1


def test_the_order_of_arrival_makes_another_study_and_the_same_order_the_same():
    first, second, other = (
        searched(asked(budget="26", space=Space()), Trainer(workers=4, draw=draw))[0] for draw in (1, 1, 2)
    )
    assert first.trials == second.trials
    assert [it.params for it in first.trials] != [it.params for it in other.trials]


def test_failed_runs_give_their_epochs_back_and_the_study_goes_on():
    trainer = Trainer(
        fails=lambda it: it.params.soft_weight > 0.6 and it.run.startswith("trials") and "short" in it.run, workers=3
    )
    wanted = asked(budget="30")
    outcome, _ = searched(wanted, trainer)
    assert [it for it in outcome.trials if it.state == "failed"]
    assert 0 <= wanted.plan.total_epochs - outcome.spent_epochs < wanted.plan.epochs_short
    check_trails(outcome, wanted.plan)


def test_max_trials_limits_the_searched_trials():
    outcome, _ = searched(asked(budget="40", max_trials=7), Trainer(workers=5))
    assert len(outcome.trials) == 7


@pytest.mark.parametrize(("workers", "late"), [(1, 0), (4, 2)])
def test_a_killed_study_repeats_what_it_decided_and_goes_on(tmp_path, workers, late):
    """`late`: runs that end while nobody coordinates."""
    wanted = asked(budget="20")
    total = len(searched(wanted, Trainer(workers=workers))[0].results)
    for kills in range(9 + late, total, 11):
        database, trainer = tmp_path / f"{kills}.db", Trainer(dies_after=kills, workers=workers)
        with pytest.raises(KeyboardInterrupt):
            run(wanted, trainer, database)
        before = Order(database.with_suffix(".jsonl")).kept
        for request in trainer.under_way[:late]:
            trainer.trained(request)
        trainer.dies_after = math.inf
        outcome, _ = run(wanted, trainer, database)
        assert len({it.run for it in trainer.asked}) == len(trainer.asked) == len(outcome.results)
        assert 0 <= wanted.plan.total_epochs - outcome.spent_epochs < wanted.plan.epochs_short
        assert Order(database.with_suffix(".jsonl")).kept[: len(before)] == before
        check_trails(outcome, wanted.plan)
        count = len(trainer.asked)
        again, _ = run(wanted, trainer, database)
        assert again.trials == outcome.trials
        assert len(trainer.asked) == count


def test_a_killed_study_has_the_trials_that_it_had(tmp_path):
    """The trials as they stood at the kill, and as the resumed study repeats them."""
    wanted, trainer = asked(budget="40", space=Space()), Trainer(workers=4)
    database = tmp_path / "study.db"
    ends: list[dict[int, object]] = []
    for dies_after in (30, math.inf):
        trainer.dies_after, seen = dies_after, {}
        try:
            for event in search(wanted, Outcome(), run=trainer, database=database, order=tmp_path / "order.jsonl"):
                if isinstance(event, TrialEnded):
                    seen[event.record.number] = event.record
        except KeyboardInterrupt:
            pass
        ends.append(seen)
    before, after = ends
    assert len(before) > 10
    assert {number: after[number] for number in before} == before


def test_the_order_and_the_results_are_enough_where_the_database_is_lost(tmp_path):
    wanted, trainer, database = asked(budget="24", space=Space()), Trainer(workers=4), tmp_path / "study.db"
    first, _ = run(wanted, trainer, database)
    count = len(trainer.asked)
    database.write_bytes(b"not a database, but long enough to look like a file" * 40)
    second, _ = run(wanted, trainer, database)
    assert second.trials == first.trials
    assert len(trainer.asked) == count


@pytest.mark.parametrize("budget", ["20.5", "31"])
def test_more_budget_is_kept_too(tmp_path, budget):
    trainer = Trainer(workers=3)
    run(asked(budget="20"), trainer, tmp_path / "study.db")
    count, wanted = len(trainer.asked), asked(budget=budget)
    more, _ = run(wanted, trainer, tmp_path / "study.db")
    assert len({it.run for it in trainer.asked}) == len(trainer.asked) > count
    paid = sum(it.new_epochs for it in trainer.asked)
    assert paid <= wanted.plan.total_epochs + 2 * wanted.plan.confirm * 30, "finalists may be others now"
    assert more.spent_epochs <= wanted.plan.total_epochs
    check_trails(more, wanted.plan)


def test_an_unfinished_line_is_cut_off(tmp_path):
    path = tmp_path / "order.jsonl"
    order = Order(path)
    assert order.kept == ()
    steps = (Step(asked=4), Step(ended="trials/0004/short"), Step(asked=5))
    for step in steps:
        order.add(step)
    whole = path.read_text()
    assert [json.loads(line) for line in whole.splitlines()][1] == {"asked": None, "ended": "trials/0004/short"}
    for torn in range(1, len(whole.splitlines()[-1]) + 1):
        path.write_text(whole[:-torn])
        expected = steps if torn == 1 else steps[:2]
        assert Order(path).kept == expected, "the line's end alone is no loss"
        order.add(Step(asked=6))
        assert Order(path).kept == (*expected, Step(asked=6))


def test_an_order_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(StoreError, match=r"order\.jsonl: cannot be written"):
        Order(tmp_path / "gone" / "order.jsonl").add(Step(asked=1))


@pytest.mark.parametrize(
    ("free", "judging", "expected"),
    [
        (9, 0, False),
        (10, 0, True),  # a last short run
        (10, 5, True),  # no trial can be gone on with any more: the rest buys short runs
        (19, 5, True),
        (20, 1, False),  # one under way may win the 20 that are left
        (29, 1, False),
        (30, 1, True),  # of two short runs one goes on
        (30, 2, True),
        (30, 3, False),  # of four two do
        (49, 3, False),
        (50, 3, True),
    ],
)
def test_who_is_under_way_keeps_what_it_may_win(free, judging, expected):
    plan = asked().plan
    assert (plan.epochs_short, plan.epochs_rest) == (10, 20)
    assert pays(plan, free=free, judging=judging, eta=3.0) is expected


def test_a_joining_teacher_starts_an_order_of_its_own(tmp_path):
    three = ("weak", "mid", "slow")
    trainer = Trainer(workers=3)
    before, _ = run(asked(*three), trainer, tmp_path / "study.db")
    trained = {request.run for request in trainer.asked}
    trainer.asked.clear()
    wanted = asked("weak", "strong", "mid", "slow", budget="30")._replace(joined=1, carried=tuple(before.trials))
    outcome = Outcome()
    list(search(wanted, outcome, run=trainer, database=tmp_path / "study.db", order=tmp_path / "order+1.jsonl"))
    assert outcome.trials[: len(before.trials)] == before.trials
    assert not trained & {request.run for request in trainer.asked}
    assert outcome.spent_epochs <= wanted.plan.total_epochs
    runs = list(chain.from_iterable((it.short, it.full) for it in outcome.trials))
    assert None not in [it.short for it in outcome.trials]
    assert len(runs) == 2 * len(outcome.trials)


@pytest.mark.parametrize("draw", range(2))
def test_a_little_more_budget_is_not_given_away_twice(tmp_path, draw):
    """A trial that no full run was left for may go on now; what was asked for after it is paid all the same."""
    trainer, order = Trainer(workers=3, draw=draw), tmp_path / "order.jsonl"
    for budget in ("24", "24.4", "24.7", "25.1", "26"):
        wanted, outcome = asked(budget=budget), Outcome()
        list(search(wanted, outcome, run=trainer, database=None, order=order))
        assert outcome.spent_epochs <= wanted.plan.total_epochs, budget

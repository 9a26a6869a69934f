"""Confirm seeds as a race, against a trainer that computes its scores."""

import math

import pytest
from factories import bare, confirmed
from search_runs import FOUR, Trainer, question, run

from autodistill.config import Space
from autodistill.records import PhaseStarted, RaceRecord, RunEnded, RunRequest, StudyRecord
from autodistill.search import Outcome, make_plan, search
from autodistill.stats.recommend import judged, recommend
from autodistill.store import seed_from

pytestmark = pytest.mark.slow

RACED = Space.model_validate({"confirm": {"teachers": 3, "seeds": 6}})


def confirm_runs(outcome: Outcome) -> dict[str | None, list[int]]:
    return {one.teacher: [run.seed - 1000 for run in one.runs] for one in outcome.finalists}


def close_race(request: RunRequest) -> float:
    """slow and strong are equal but for noise, mid is far behind, and all are far above no teacher."""
    worth = {"slow": 0.80, "strong": 0.80, "mid": 0.78, "weak": 0.70, None: 0.60}[request.params.teacher]
    return worth + (seed_from(request.seed, len(str(request.params))) % 1000 / 1000 - 0.5) * 0.004


def record_of(outcome: Outcome) -> StudyRecord:
    plan = make_plan(RACED, teachers=4, requested="33")
    return bare(dict.fromkeys(FOUR, 0.9)).model_copy(update={"finalists": tuple(outcome.finalists), "plan": plan})


def test_confirm_runs_are_on_record_as_they_end(tmp_path):
    outcome, seen = Outcome(), []
    for event in search(question(*FOUR), outcome, run=Trainer(), database=tmp_path / "study.db"):
        if isinstance(event, RunEnded) and event.record.run.startswith("confirm/"):
            seen.append([len(one.runs) for one in outcome.finalists])
            assert event.record in [it for one in outcome.finalists for it in one.runs]
    assert [sum(counts) for counts in seen] == [4, 5, 6, 7, 8, 9]
    assert seen[-1] == [3, 3, 3]


def test_a_running_study_is_judged_by_its_search_alone():
    record = bare({"a": 0.9, "b": 0.9}).model_copy(
        update={"finalists": confirmed({None: [0.7, 0.7], "a": [0.8, 0.81], "b": [0.75, 0.76]}).finalists}
    )
    assert judged(record).recommendation.verdict == "unconfirmed"
    assert judged(record.model_copy(update={"state": "complete"})).recommendation.verdict != "unconfirmed"


def test_racing_needs_five_seeds_and_two_teachers():
    assert make_plan(Space(), teachers=4, requested="20").race is None
    assert make_plan(RACED, teachers=1, requested="40").race is None
    plan = make_plan(RACED, teachers=4, requested="33")
    assert plan.race == RaceRecord(first=3, seeds=6)
    assert plan.confirm == 3 * 6 + 5


def test_a_race_spends_its_seeds_on_the_open_pair(tmp_path):
    trainer = Trainer(scores=close_race)
    outcome, _ = run(question(*FOUR, budget="33", space=RACED), trainer, tmp_path / "study.db")
    found = confirm_runs(outcome)
    assert found[None] == found["mid"] == [0, 1, 2]
    # 24 runs in all, 12 in the first seeds: six more for each of the two that are equal.
    assert found["slow"] == found["strong"] == list(range(9))
    assert recommend(record_of(outcome)).verdict == "no_clear_difference"


def test_a_race_ends_when_all_is_decided_and_the_rest_stays_unspent(tmp_path):
    """The planted gains are 2 points and more, the noise is 0.2: some runs after the first 12 are not needed."""
    asked = question(*FOUR, budget="33", space=RACED)
    outcome, events = run(asked, Trainer(), tmp_path / "study.db")
    runs = sum(map(len, confirm_runs(outcome).values()))
    assert 12 <= runs < 24
    unspent = asked.plan.total_epochs - outcome.spent_epochs
    assert (24 - runs) * 30 <= unspent < (24 - runs) * 30 + asked.plan.epochs_short
    verdict = recommend(record_of(outcome))
    assert (verdict.verdict, verdict.teacher, verdict.versus_no_teacher) == ("winner", "slow", "helps")
    assert [event.runs for event in events if isinstance(event, PhaseStarted) and event.phase == "confirm"] == [23]


def test_a_race_is_equal_whatever_the_order_and_after_a_kill(tmp_path):
    asked = question(*FOUR, budget="33", space=RACED)
    whole_trainer = Trainer(scores=close_race)
    whole, _ = run(asked, whole_trainer, tmp_path / "whole.db")
    back, _ = run(asked, Trainer(scores=close_race, backwards=True), tmp_path / "back.db")
    assert back.finalists == whole.finalists
    count = len(whole_trainer.asked)
    for kills in (count - 1, count - 9):
        trainer = Trainer(scores=close_race, dies_after=kills)
        database = tmp_path / f"{kills}.db"
        with pytest.raises(KeyboardInterrupt):
            run(asked, trainer, database)
        trainer.dies_after = math.inf
        resumed, _ = run(asked, trainer, database)
        assert resumed.finalists == whole.finalists, kills
        assert len(trainer.asked) == count, "a finished run was trained again"


def test_a_race_without_rivals_left_goes_on_with_whether_a_teacher_helps(tmp_path):
    """Every run of slow and strong fails, so mid has no rival; it is level with no teacher."""

    def score(request: RunRequest) -> float:
        return 0.7 + (seed_from(request.seed, len(str(request.params))) % 1000 / 1000 - 0.5) * 0.02

    def fails(request: RunRequest) -> bool:
        return request.run.startswith("confirm") and request.params.teacher != "mid"

    trainer = Trainer(scores=score, fails=fails)
    outcome, _ = run(question("mid", "slow", "strong", budget="33", space=RACED), trainer, tmp_path / "study.db")
    found = confirm_runs(outcome)
    assert found["slow"] == found["strong"] == [0, 1, 2]
    assert found["mid"] == found[None] == list(range(9))

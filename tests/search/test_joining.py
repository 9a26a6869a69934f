"""A teacher joins a study: what was tried carries over under its numbers, the new one gets its prior."""

import optuna
import pytest
from search_runs import Trainer, question, run

from autodistill.errors import ConfigError
from autodistill.search import Outcome, Question, search

pytestmark = pytest.mark.slow

THREE, FOUR = ("weak", "mid", "slow"), ("weak", "strong", "mid", "slow")


def joined(outcome: Outcome, *, budget: str) -> Question:
    return question(*FOUR, budget=budget)._replace(joined=1, carried=tuple(outcome.trials))


def test_the_joining_teacher_gets_its_prior_and_nothing_is_trained_again(tmp_path):
    trainer = Trainer()
    before, _ = run(question(*THREE), trainer, tmp_path / "study.db")
    trained = {request.run for request in trainer.asked}
    trainer.asked.clear()
    after, _ = run(joined(before, budget="30"), trainer, tmp_path / "study.db")
    count = len(before.trials)
    assert after.trials[:count] == before.trials
    first = after.trials[count]
    assert (first.kind, first.params.teacher, first.number) == ("prior", "strong", count)
    assert first.full is not None
    assert [it.params.teacher for it in after.trials if it.kind == "prior"] == [*THREE, "strong"]
    assert not trained & {request.run for request in trainer.asked}
    assert after.spent_epochs <= 30 * 30
    assert 30 * 30 - after.spent_epochs < 10 + 30, "a teacher's share of full runs is left at most"
    asked = len(trainer.asked)
    again, _ = run(joined(before, budget="30"), trainer, tmp_path / "study.db")
    assert again.trials == after.trials
    assert len(trainer.asked) == asked


def test_optuna_s_successor_holds_the_old_trials_under_their_numbers(tmp_path):
    trainer, url = Trainer(), f"sqlite:///{tmp_path}/study.db"
    before, _ = run(question(*THREE), trainer, tmp_path / "study.db")
    after, _ = run(joined(before, budget="30"), trainer, tmp_path / "study.db")
    old, new = (optuna.load_study(study_name=name, storage=url).trials for name in ("a-study", "a-study+1"))
    assert len(old) == len(before.trials) < len(new) == len(after.trials)
    for one, twin in zip(old, new, strict=False):
        assert (one.number, one.state, one.params) == (twin.number, twin.state, twin.params)
        assert one.intermediate_values == twin.intermediate_values
        assert one.value == twin.value or one.state.name == "PRUNED"
        assert twin.distributions["teacher"].choices == FOUR
    assert {it.state.name for it in new} <= {"COMPLETE", "PRUNED", "FAIL"}


def test_a_killed_joining_goes_on_to_the_same_end(tmp_path):
    before, _ = run(question(*THREE), Trainer(), tmp_path / "whole.db")
    calm = Trainer()
    whole, _ = run(joined(before, budget="30"), calm, tmp_path / "whole.db")
    for kills in (0, 5):
        database, trainer = tmp_path / f"{kills}.db", Trainer(dies_after=kills)
        with pytest.raises(KeyboardInterrupt):
            run(joined(before, budget="30"), trainer, database)
        trainer.dies_after = 10**9
        resumed, _ = run(joined(before, budget="30"), trainer, database)
        assert resumed.trials == whole.trials
        assert resumed.finalists == whole.finalists


def test_a_budget_that_is_spent_refuses_a_teacher_before_any_work(tmp_path):
    trainer = Trainer()
    before, _ = run(question(*THREE), trainer, tmp_path / "study.db")
    count, tight = len(trainer.asked), joined(before, budget="20")
    with pytest.raises(ConfigError, match="nothing is left for the teacher that joins") as found:
        list(search(tight, Outcome(), run=trainer, database=tmp_path / "study.db"))
    assert len(trainer.asked) == count
    least = found.value.hint.removeprefix("raise it to ").removesuffix(" or more")
    enough, _ = run(joined(before, budget=least), trainer, tmp_path / "study.db")
    assert enough.spent_epochs <= float(least) * 30

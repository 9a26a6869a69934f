"""A teacher joins a search: ended trials keep number and cost, and the new teacher gets its prior."""

import pytest
from search_runs import Trainer, kill_after, search, search_spec

from autodistill.errors import ConfigError
from autodistill.records import PhaseStarted
from autodistill.searching import SearchSpec, SearchState

THREE, FOUR = ("weak", "mid", "slow"), ("weak", "strong", "mid", "slow")


def joined(before: SearchState, *, budget: str, recorded=None) -> SearchSpec:
    return search_spec(*FOUR, budget=budget, carried=before.trials, recorded=recorded or before.trials)


def test_the_joining_teacher_gets_its_prior_and_nothing_is_trained_again():
    trainer = Trainer()
    before, _ = search(search_spec(*THREE), trainer)
    trained = {run.run for run in trainer.trained}
    trainer.trained.clear()
    after, _ = search(joined(before, budget="30"), trainer)
    count = len(before.trials)
    assert after.trials[:count] == before.trials
    first = after.trials[count]
    assert (first.kind, first.params.teacher, first.number) == ("prior", "strong", count)
    assert first.full is not None
    assert [it.params.teacher for it in after.trials if it.kind == "prior"] == [*THREE, "strong"]
    assert not trained & {run.run for run in trainer.trained}
    assert after.spent_epochs <= 30 * 30
    assert 30 * 30 - after.spent_epochs < 10 + 30, "a teacher's share of full runs is left at most"
    asked = len(trainer.trained)
    again, _ = search(joined(before, budget="30", recorded=after.trials), trainer)
    assert again.trials == after.trials
    assert again.finalists == after.finalists
    assert len(trainer.trained) == asked


def test_every_run_counts_from_before_and_after_joining():
    trainer = Trainer()
    before, _ = search(search_spec(*THREE), trainer)
    after, _ = search(joined(before, budget="30"), trainer)
    carried = [run for trial in before.trials for run in (trial.rung, trial.full) if run is not None]
    assert carried == [after.results[run.run] for run in carried]
    assert after.spent_epochs == sum(run.spent_epochs for run in after.results.values())


def test_the_new_optuna_study_holds_the_old_trials_under_their_numbers():
    trainer = Trainer()
    before, _ = search(search_spec(*THREE), trainer)
    after, _ = search(joined(before, budget="30"), trainer)
    old, new = before.sampler.trials, after.sampler.trials
    assert len(old) == len(before.trials) < len(new) == len(after.trials)
    for left, right in zip(old, new, strict=False):
        assert (left.number, left.state, left.params) == (right.number, right.state, right.params)
        assert left.intermediate_values == right.intermediate_values
        assert left.value == right.value or left.state.name == "PRUNED"
        assert right.distributions["teacher"].choices == FOUR
    assert {it.state.name for it in new} <= {"COMPLETE", "PRUNED", "FAIL"}
    assert any(it.params["teacher"] == "strong" for it in new)


@pytest.mark.slow
def test_a_killed_joining_goes_on_to_the_same_end():
    trainer = Trainer()
    before, _ = search(search_spec(*THREE), trainer)
    kept = dict(trainer.kept)
    whole, events = search(joined(before, budget="30"), trainer)
    for kills in range(0, len(events), 3):
        trainer, record = Trainer(), list(before.trials)
        trainer.kept |= kept
        with pytest.raises(KeyboardInterrupt):
            search(joined(before, budget="30"), trainer, watch=kill_after(kills, record))
        resumed, _ = search(joined(before, budget="30", recorded=record), trainer)
        assert resumed.trials == whole.trials, kills
        assert resumed.finalists == whole.finalists, kills


def test_a_spent_budget_refuses_a_teacher_before_any_work():
    trainer = Trainer()
    before, _ = search(search_spec(*THREE), trainer)
    count, phases = len(trainer.trained), []
    with pytest.raises(ConfigError, match="nothing is left for the teacher that joins") as found:
        search(
            joined(before, budget="20"),
            trainer,
            watch=lambda event, _: phases.append(event) if isinstance(event, PhaseStarted) else None,
        )
    assert phases == []
    assert len(trainer.trained) == count
    least = found.value.hint.removeprefix("raise it to ").removesuffix(" or more")
    enough, _ = search(joined(before, budget=least), trainer)
    assert enough.spent_epochs <= float(least) * 30

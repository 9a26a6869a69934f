"""A teacher joins a search: ended trials keep number and cost, and the new teacher gets its prior."""

import pytest
from search_runs import Trainer, kill_after, search, search_spec

from autodistill.errors import ConfigError
from autodistill.records import PhaseStarted, TrialRecord
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


def least_budget(carried: list[TrialRecord], trainer: Trainer) -> float:
    """Return the smallest budget with which `strong` can join, in epochs; the hint rounds up to 0.01 full trainings."""
    with pytest.raises(ConfigError) as found:
        search(search_spec(*FOUR, budget="20", carried=carried, recorded=carried), trainer)
    return 30 * float(found.value.hint.removeprefix("raise it to ").removesuffix(" or more"))


def test_a_carried_prior_that_is_plain_kd_stays_plain_kd():
    trainer = Trainer()
    before, _ = search(search_spec(*THREE), trainer)
    assert before.plain_kd == before.trials[2].full, "the prior of `slow`"
    trainer.trained.clear()
    after, _ = search(joined(before, budget="30"), trainer)
    assert after.plain_kd == before.plain_kd
    assert "baselines/plain-kd" not in after.results
    # Before: 600 epochs - 90 without a teacher - 60 of reruns - 180 of confirm runs. To come: the prior and no teacher,
    # 30 each, and reruns and confirm runs, 10 of 30 each.
    assert least_budget(before.trials, trainer) == pytest.approx(270 + 2 * 30 + 10 * 30, abs=0.3)


def test_plain_kd_gets_a_run_of_its_own_where_the_carried_prior_was_pruned():
    trainer = Trainer()
    before, _ = search(search_spec(*THREE), trainer)
    pruned = before.trials[2].model_copy(update={"state": "pruned", "reason": "behind", "full": None})
    carried = [*before.trials[:2], pruned, *before.trials[3:]]
    del trainer.kept["trials/0002/full"]
    spec = search_spec(*FOUR, budget="30", carried=carried, recorded=carried)
    after, _ = search(spec, trainer)
    assert after.trials[: len(carried)] == carried
    assert after.plain_kd == after.results["baselines/plain-kd"]
    assert (after.plain_kd.state, after.plain_kd.params) == ("complete", pruned.params)
    assert "trials/0002/full" not in after.results
    assert 0 <= spec.plan.total_epochs - after.spent_epochs < spec.plan.epochs_rung, "it is paid for by the search"
    again, _ = search(spec._replace(recorded=tuple(after.trials)), trainer)
    assert (again.trials, again.finalists, again.plain_kd) == (after.trials, after.finalists, after.plain_kd)
    # The 20 epochs of the prior's rest are not spent, but 30 of plain KD are to come.
    assert least_budget(carried, trainer) == pytest.approx(250 + 3 * 30 + 10 * 30, abs=0.3)


def test_the_prior_of_a_joining_teacher_is_plain_kd_if_it_is_the_most_accurate():
    trainer = Trainer()
    before, _ = search(search_spec("weak", "mid", "strong"), trainer)
    assert before.plain_kd == before.trials[1].full, "the prior of `mid`"
    count = len(before.trials)
    spec = search_spec(*FOUR, budget="30", carried=before.trials, recorded=before.trials)
    after, _ = search(spec, trainer)
    assert after.trials[count].params == before.plain_kd.params.model_copy(update={"teacher": "slow"})
    assert after.plain_kd == after.trials[count].full
    assert "baselines/plain-kd" not in after.results


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

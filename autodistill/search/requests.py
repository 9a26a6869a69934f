"""The training runs a study is made of: what decides each outcome, and the folder that keeps it."""

from collections.abc import Sequence

from autodistill.records import RunRequest, TrialParams, TrialRecord
from autodistill.search.question import Question

CONFIRM_SEED = 1000
"""Confirm runs train with the study's seed plus this, plus 0, 1, 2, ..."""


def short_run(question: Question, trial: TrialRecord) -> RunRequest:
    run, plan = f"trials/{trial.number:04d}/short", question.plan
    if plan.rungs == "short runs":
        return RunRequest(run=run, params=trial.params, seed=trial.seed, epochs=plan.epochs_short)
    return RunRequest(run=run, params=trial.params, seed=trial.seed, epochs=plan.epochs_full, until=plan.epochs_short)


def full_run(question: Question, trial: TrialRecord) -> RunRequest:
    run, plan = f"trials/{trial.number:04d}/full", question.plan
    whole = RunRequest(run=run, params=trial.params, seed=trial.seed, epochs=plan.epochs_full)
    if plan.rungs == "short runs":
        return whole
    begun = {"begun_by": short_run(question, trial).run, "begun_epochs": plan.epochs_short}
    return whole.model_copy(update=begun)


def no_teacher_run(question: Question, index: int) -> RunRequest:
    return confirm_run(question, "baselines/no-teacher", TrialParams(), index)


def certain_runs(question: Question) -> list[RunRequest]:
    """Runs that every study of this plan needs, whatever its trials turn out to be."""
    race = question.plan.race
    return [no_teacher_run(question, index) for index in range(race.first if race else question.space.confirm.seeds)]


def audit_run(question: Question, trial: TrialRecord) -> RunRequest:
    """The full run that pruning saved."""
    anew = {"run": f"audit/{trial.number:04d}", "begun_by": None, "begun_epochs": 0}
    return full_run(question, trial).model_copy(update=anew)


def next_seed(question: Question, params: TrialParams, trials: Sequence[TrialRecord]) -> int:
    """The first seed above those that runs of this configuration have had, pruned trials and plain KD included."""
    plain = plain_kd_run(question)
    used = [it.seed for it in trials if it.params == params] + [plain.seed] * (plain.params == params)
    return max(used, default=question.space.search.seed - 1) + 1


def second_look_run(question: Question, name: str, params: TrialParams, seed: int) -> RunRequest:
    """Another full run of a configuration."""
    epochs = question.plan.epochs_full
    return RunRequest(run=f"second-looks/{name}-{seed}", params=params, seed=seed, epochs=epochs)


def confirm_run(question: Question, folder: str, params: TrialParams, index: int) -> RunRequest:
    """One of the full runs over new seeds, which touch the test set."""
    seed = question.space.search.seed + CONFIRM_SEED + index
    epochs = question.plan.epochs_full
    return RunRequest(run=f"{folder}-{seed}", params=params, seed=seed, epochs=epochs, evaluate_on="validation+test")


def plain_kd_run(question: Question) -> RunRequest:
    """Plain KD from the teacher that people would take: the most accurate one."""
    best = max(question.teachers, key=lambda teacher: teacher.val_top1)
    spec = question.space.plain_kd
    params = TrialParams(
        teacher=best.name,
        rule="ts",
        rule_params={"tau": spec.tau},
        tau_student=spec.tau,
        soft_weight=spec.soft_weight,
    )
    seed = question.space.search.seed
    return RunRequest(run="baselines/plain-kd", params=params, seed=seed, epochs=question.plan.epochs_full)

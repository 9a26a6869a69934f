"""The stages of a search before the confirm runs: baselines and priors, then waves of trials.

A trial trains up to its rung, is compared with the other trials of its teacher there, and is pruned or goes on.
The order in which suggestions, results and decisions follow each other depends on nothing but results, so a search over
kept results takes the same way again and goes on from its end.
"""

import math
import re
from collections.abc import Sequence

from autodistill.config import TrainingSpec
from autodistill.errors import ConfigError, EveryRunFailed
from autodistill.records import PhaseStarted, RunResult, TrialEnded, TrialRecord, TrialStarted
from autodistill.search.plan import PROTECTED_PRIORS, wave_size
from autodistill.search.state import (
    SearchState,
    full_run,
    left_epochs,
    next_seed,
    no_teacher_runs,
    plain_kd_run,
    rung_run,
    score,
)

MOST_NAMES = 6
"""Runs named for each cause of failure, at most."""


def first_stage(state: SearchState) -> list[TrialRecord]:
    """Train the baselines, all "no teacher" runs that the study needs, and every teacher's prior up to its rung.

    Returns:
        The priors that go on to a full run.

    Raises:
        ConfigError: a teacher joined the study, and the budget has no room for it.
        EveryRunFailed: all of these runs failed.
    """
    spec = state.spec
    for trial in spec.carried:
        state.sampler.add(trial)
        state.trials.append(trial)
        state.results.update({run.run: run for run in (trial.rung, trial.full) if run is not None})
    tried = {trial.params.teacher for trial in spec.carried if trial.kind == "prior"}
    priors = [new_trial(state, wave=0, prior_of=it.name) for it in spec.teachers if it.name not in tried]
    no_teacher, plain_kd = no_teacher_runs(spec), plain_kd_run(spec)
    runs = [*no_teacher, plain_kd, *(rung_run(spec, prior) for prior in priors)]
    if tried:
        counted = [no_teacher[0], plain_kd, *(rung_run(spec, prior) for prior in priors)]
        _check_room(state, sum(run.new_epochs for run in counted), len(priors))
    epochs = sum(run.new_epochs for run in runs)
    state.on_event(PhaseStarted(phase="baselines and priors", runs=len(runs), epochs=epochs))
    results = state.run(runs)
    state.no_teacher, state.plain_kd = results[0], results[len(no_teacher)]
    promoted = _best_priors(state, priors)
    if all(result.state == "failed" for result in results):
        raise every_run_failed(results, training=spec.space.training)
    return promoted


def waves(state: SearchState, promoted: Sequence[TrialRecord]) -> None:
    """Ask for trials in waves until the budget is spent.

    The rests of a wave are trained beside the rungs of the next wave.

    Args:
        state: after the first stage.
        promoted: trials that go on to a full run.
    """
    spec = state.spec
    plan, eta = spec.plan, spec.space.search.eta
    state.on_event(PhaseStarted(phase="search", runs=0, epochs=left_epochs(state)))
    wave = max((trial.wave for trial in state.trials), default=0)
    while True:
        size = wave_size(plan, left=left_epochs(state, len(promoted)), eta=eta)
        if plan.max_trials is not None:
            size = min(size, plan.max_trials - len(state.trials))
        wave += 1
        asked = [new_trial(state, wave=wave) for _ in range(size)]
        if not promoted and not asked:
            return
        state.run([full_run(spec, it) for it in promoted] + [rung_run(spec, it) for it in asked])
        for trial in promoted:
            full = state.results[full_run(spec, trial).run]
            ended = {"state": "complete"} if full.state == "complete" else {"state": "failed", "reason": full.reason}
            _settle(state, _with_rung(state, trial).model_copy(update={"full": full, **ended}))
        promoted = _judge(state, asked)


def new_trial(state: SearchState, *, wave: int, prior_of: str | None = None) -> TrialRecord:
    """Ask for a trial, or read it where an earlier process of this study has recorded it."""
    number, spec = len(state.trials), state.spec
    recorded = spec.recorded[number] if number < len(spec.recorded) else None
    if recorded is not None:
        params, attrs = recorded.params, recorded.sampler_attrs
    else:
        params = state.sampler.ask(prior_of=prior_of)
        attrs = dict(state.sampler.trials[number].system_attrs)
    same = [trial.number for trial in state.trials if trial.params == params]
    trial = TrialRecord(
        number=number,
        kind="search" if prior_of is None else "prior",
        wave=wave,
        params=params,
        seed=next_seed(spec, params, state.trials),
        replicate_of=same[0] if same else None,
        state="running",
        sampler_attrs=attrs,
    )
    if recorded is not None:
        state.sampler.add(trial)
    state.trials.append(trial)
    state.on_event(TrialStarted(record=trial))
    return trial


def goes_on(score: float, rivals: Sequence[float], *, eta: float) -> bool:
    """Return whether a rung score is among the best 1/eta of its teacher's.

    Only students of one teacher are compared. Stock pruners compare all students, and so cut a teacher whose students
    start slowly.

    Args:
        score: validation accuracy at the rung.
        rivals: those of the same teacher's other trials.
        eta: above 1; 3 lets one in three go on.
    """
    better = sum(rival > score for rival in rivals)
    return better < math.ceil((len(rivals) + 1) / eta)


def _check_room(state: SearchState, epochs: int, priors: int) -> None:
    """Refuse a teacher for which the budget has no room left, before anything is trained."""
    plan = state.spec.plan
    needed = epochs + min(priors, PROTECTED_PRIORS) * plan.epochs_rest
    missing = needed - left_epochs(state)
    if missing > 0:
        raise ConfigError(
            f"--budget {plan.requested}: with what is spent, nothing is left for the teacher that joins",
            f"raise it to {math.ceil(100 * (plan.total_epochs + missing) / plan.epochs_full) / 100:g} or more",
        )


def _best_priors(state: SearchState, priors: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the priors that go on to a full run: up to `PROTECTED_PRIORS`, the best at their rung."""
    priors = [_with_rung(state, prior) for prior in priors]
    ranked = sorted(priors, key=lambda it: (-score(it.rung), it.number))
    chosen = [it.number for it in ranked if it.state == "running"][:PROTECTED_PRIORS]
    promoted = []
    for prior in priors:
        if prior.number in chosen:
            promoted.append(prior)
        elif prior.state == "running":
            reason = f"rung {score(prior.rung):.1%}: not among the best {PROTECTED_PRIORS} of {len(priors)} priors"
            prior = prior.model_copy(update={"state": "pruned", "reason": reason})
        _settle(state, prior)
    return promoted


def _judge(state: SearchState, asked: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Prune or promote the trials of a wave, in number order, after all of them have reached their rung."""
    trials = [_with_rung(state, trial) for trial in asked]
    for trial in trials:
        state.trials[trial.number] = trial
    promoted: list[TrialRecord] = []
    for trial in trials:
        if trial.state == "running":
            trial = _judged(state, trial, left=left_epochs(state, len(promoted)))
        if trial.state == "running":
            promoted.append(trial)
        _settle(state, trial)
    return promoted


def _judged(state: SearchState, trial: TrialRecord, *, left: int) -> TrialRecord:
    """Return the trial, pruned where rivals did better or where the budget has no room for its rest."""
    rivals = [
        other.rung.val_top1
        for other in state.trials
        if other.number != trial.number
        and other.params.teacher == trial.params.teacher
        and other.rung is not None
        and other.rung.val_top1 is not None
    ]
    own, eta, pruned = score(trial.rung), state.spec.space.search.eta, {"state": "pruned"}
    if not goes_on(own, rivals, eta=eta):
        better = sum(rival > own for rival in rivals)
        reason = (
            f"rung {own:.1%}: {better} of {trial.params.teacher}'s {len(rivals)} other trials did better, "
            f"the best {max(rivals):.1%}; {math.ceil((len(rivals) + 1) / eta)} of {len(rivals) + 1} may go on"
        )
        return trial.model_copy(update={**pruned, "reason": reason})
    if left < state.spec.plan.epochs_rest:
        reason = f"rung {own:.1%}: not promoted, the budget has no full run left"
        return trial.model_copy(update={**pruned, "reason": reason, "out_of_budget": True})
    return trial


def _with_rung(state: SearchState, trial: TrialRecord) -> TrialRecord:
    run = state.results[rung_run(state.spec, trial).run]
    failed = {"state": "failed", "reason": f"rung: {run.reason}"} if run.state == "failed" else {}
    return trial.model_copy(update={"rung": run, **failed})


def _settle(state: SearchState, trial: TrialRecord) -> None:
    """Record a trial and tell the sampler."""
    if trial.state != "running":
        trial = trial.model_copy(update={"sampler_attrs": {}})
    state.trials[trial.number] = trial
    state.sampler.tell(trial)
    if trial.state != "running":
        state.on_event(TrialEnded(record=trial))


def every_run_failed(runs: Sequence[RunResult], *, training: TrainingSpec) -> EveryRunFailed:
    """Return the error for a study that cannot go on, with the causes, the most frequent first, and their runs.

    Args:
        runs: Failed runs, at least one.
        training: Training settings of the runs.
    """
    causes: dict[str, list[str]] = {}
    for run in runs:
        cause = re.split(r" in epoch \d| while ", run.reason)[0] or "no cause recorded"  # without details of the run
        causes.setdefault(cause, []).append(run.run)
    lines = [f"all {len(runs)} runs of the first stage failed:"]
    for cause, names in sorted(causes.items(), key=lambda item: -len(item[1])):
        more = [f"and {len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
        lines.append(f"  {len(names)} x {cause}: {', '.join([*names[:MOST_NAMES], *more])}")
    new_study = "in a new study (--study NAME): this one keeps its failed runs"
    if all(re.search(r"became (nan|-?inf)", cause) for cause in causes):
        lower = f"{min(0.05, training.lr / 10):g}"
        hint = f"lower training.lr, which is {training.lr:g}: --set training.lr={lower}, {new_study}"
    else:
        hint = f"correct the causes above, {new_study}"
    return EveryRunFailed("\n".join(lines), hint)

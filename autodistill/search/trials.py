"""A trial's way: asked for, judged by its rivals after the short run, ended."""

import math
from collections.abc import Iterator, Mapping, Sequence

from autodistill.records import Event, Note, TrialEnded, TrialRecord
from autodistill.search.asking import ask, tell
from autodistill.search.outcome import Desk, score
from autodistill.search.requests import full_run, next_seed, short_run


def goes_on(score: float, rivals: Sequence[float], *, eta: float) -> bool:
    """Whether a short run is among the best 1/eta of its teacher's.

    Only students of one teacher are compared: stock pruners compare all, and so cut a teacher whose
    students start slowly.

    Args:
        score: validation accuracy of a complete short run.
        rivals: those of the same teacher's other trials.
        eta: above 1; 3 lets one in three go on.
    """
    better = sum(rival > score for rival in rivals)
    return better < math.ceil((len(rivals) + 1) / eta)


def rivals_of(desk: Desk, trial: TrialRecord) -> dict[int, float]:
    """What the short runs of the same teacher's other trials scored, as far as they have ended, by trial."""
    return {
        other.number: other.short.val_top1
        for other in desk.outcome.trials
        if other.number != trial.number
        and other.params.teacher == trial.params.teacher
        and other.short is not None
        and other.short.val_top1 is not None
    }


def judged(desk: Desk, trial: TrialRecord, rivals: Mapping[int, float], *, left: int) -> TrialRecord:
    """The trial, pruned where rivals did better or the rest of it cannot be paid.

    Args:
        rivals: of `rivals_of`.
        left: epochs that are not spoken for.
    """
    reason = _prune_reason(desk, trial, tuple(rivals.values()))
    if reason:
        return trial.model_copy(update={"state": "pruned", "reason": reason})
    if left < desk.question.plan.epochs_rest:
        reason = f"short run {score(trial.short):.1%}: not promoted, the budget has no full run left"
        return trial.model_copy(update={"state": "pruned", "reason": reason, "out_of_budget": True})
    return trial


def _prune_reason(desk: Desk, trial: TrialRecord, rivals: Sequence[float]) -> str:
    """Which rivals did better, in words; empty where it may go on."""
    eta = desk.question.space.search.eta
    own = score(trial.short)
    if goes_on(own, rivals, eta=eta):
        return ""
    better = sum(rival > own for rival in rivals)
    places = math.ceil((len(rivals) + 1) / eta)
    return (
        f"short run {own:.1%}: {better} of {trial.params.teacher}'s {len(rivals)} other short runs did better, "
        f"the best {max(rivals):.1%}; {places} of {len(rivals) + 1} may go on"
    )


def left(desk: Desk, promoted: int) -> int:
    """Epochs that may still be committed: not what comes after the search, nor what `promoted` trials still cost."""
    plan = desk.question.plan
    kept = round((plan.second_looks + plan.confirm + plan.controls) * plan.epochs_full)
    return plan.total_epochs - desk.outcome.spent_epochs - kept - promoted * plan.epochs_rest


def new_trial(desk: Desk, *, wave: int, prior_of: str | None = None) -> TrialRecord:
    trials = desk.outcome.trials
    params = ask(desk.study, desk.question, len(trials), prior_of=prior_of, say=desk.notes.append, hold=desk.hold)
    same = [trial.number for trial in trials if trial.params == params]
    trial = TrialRecord(
        number=len(trials),
        kind="search" if prior_of is None else "prior",
        wave=wave,
        params=params,
        seed=next_seed(desk.question, params, trials),
        replicate_of=same[0] if same else None,
        state="running",
    )
    trials.append(trial)
    return trial


def with_short(desk: Desk, trial: TrialRecord) -> TrialRecord:
    run = desk.outcome.results[short_run(desk.question, trial).run]
    failed = {"state": "failed", "reason": f"short run: {run.reason}"} if run.state == "failed" else {}
    return trial.model_copy(update={"short": run, **failed})


def finish(desk: Desk, trials: Sequence[TrialRecord]) -> Iterator[Event]:
    """End trials whose full run is over."""
    for trial in trials:
        trial = with_short(desk, trial)
        full = desk.outcome.results[full_run(desk.question, trial).run]
        ended = {"state": "complete"} if full.state == "complete" else {"state": "failed", "reason": full.reason}
        yield from settle(desk, trial.model_copy(update={"full": full, **ended}))


def settle(desk: Desk, trial: TrialRecord) -> Iterator[Event]:
    """Put a trial into the record and tell Optuna."""
    desk.outcome.trials[trial.number] = trial
    desk.hold()
    tell(desk.study, trial, say=desk.notes.append)
    while desk.notes:
        yield Note(text=desk.notes.pop(0), warning=True)
    if trial.state != "running":
        yield TrialEnded(record=trial)

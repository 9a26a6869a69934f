"""What pruning cost: the best-looking pruned trials trained to the end, outside the budget and after the verdict."""

from collections.abc import Iterator, Sequence

from autodistill.records import Event, PhaseStarted, TrialRecord
from autodistill.search.outcome import Desk, drive, score
from autodistill.search.requests import audit_run

MOST_AUDITED = 4


def audited_trials(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those with the best short runs that rivals pruned, by number; one that ran out of budget was not judged."""
    pruned = [trial for trial in trials if trial.state == "pruned" and not trial.out_of_budget]
    best = sorted(pruned, key=lambda trial: (-score(trial.short), trial.number))[:MOST_AUDITED]
    return sorted(best, key=lambda trial: trial.number)


def audit(desk: Desk) -> Iterator[Event]:
    """Train the pruned trials with the best short runs in full, with their own seeds; nothing else hears of it."""
    requests = [audit_run(desk.question, trial) for trial in audited_trials(desk.outcome.trials)]
    yield PhaseStarted(phase="audit", runs=len(requests), epochs=len(requests) * desk.question.plan.epochs_full)
    yield from drive(desk, requests)
    desk.outcome.audit = [desk.outcome.results[request.run] for request in requests]

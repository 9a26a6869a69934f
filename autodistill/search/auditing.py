"""What pruning cost: the best-looking pruned trials trained to the end, outside the budget and after the verdict."""

from collections.abc import Iterator

from autodistill.records import Event, PhaseStarted
from autodistill.search.outcome import Desk, drive, score
from autodistill.search.requests import audit_run

MOST_AUDITED = 4


def audit(desk: Desk) -> Iterator[Event]:
    """Train the pruned trials with the best short runs in full, with their own seeds; nothing else hears of it."""
    pruned = [trial for trial in desk.outcome.trials if trial.state == "pruned" and not trial.out_of_budget]
    chosen = sorted(pruned, key=lambda trial: (-score(trial.short), trial.number))[:MOST_AUDITED]
    requests = [audit_run(desk.question, trial) for trial in sorted(chosen, key=lambda trial: trial.number)]
    yield PhaseStarted(phase="audit", runs=len(requests), epochs=len(requests) * desk.question.plan.epochs_full)
    yield from drive(desk, requests)
    desk.outcome.audit = [desk.outcome.results[request.run] for request in requests]

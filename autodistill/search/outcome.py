"""What a study has found so far, and the desk that its stages work at."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from autodistill.records import ControlRecord, Event, FinalistRecord, RunEnded, RunRecord, RunRequest, TrialRecord
from autodistill.search.keeping import KeptStudy
from autodistill.search.question import Question

Source = Callable[[], RunRequest | None]
"""Gives the run for whoever is free; None: nothing until a run has ended, nothing at all where none is at work."""

Runner = Callable[[Sequence[RunRequest] | Source], Iterator[Event]]


@dataclass
class Outcome:
    """What a study has found so far."""

    results: dict[str, RunRecord] = field(default_factory=dict)
    no_teacher: RunRecord | None = None
    plain_kd: RunRecord | None = None
    trials: list[TrialRecord] = field(default_factory=list)
    second_looks: list[RunRecord] = field(default_factory=list)
    finalists: list[FinalistRecord] = field(default_factory=list)
    controls: list[ControlRecord] = field(default_factory=list)
    audit: list[RunRecord] = field(default_factory=list)

    @property
    def spent_epochs(self) -> int:
        """Of the budget, which an audit is no part of."""
        return sum(run.spent_epochs for name, run in self.results.items() if not name.startswith("audit/"))


class Desk(NamedTuple):
    question: Question
    outcome: Outcome
    study: KeptStudy
    run: Runner
    notes: list[str]
    """What the database made wait for; said with the next event."""
    hold: Callable[[], None] = lambda: None
    """Raises where another process decides by now; called before Optuna is asked or told anything."""


def drive(desk: Desk, requests: Sequence[RunRequest] | Source) -> Iterator[Event]:
    """Train requests together, or as workers get free, and keep what comes out."""
    for event in desk.run(requests):
        if isinstance(event, RunEnded):
            desk.outcome.results[event.record.run] = event.record
        yield event


def score(run: RunRecord | None) -> float:
    """Validation accuracy for ordering: below all others where there is none."""
    return run.val_top1 if run is not None and run.val_top1 is not None else -1.0

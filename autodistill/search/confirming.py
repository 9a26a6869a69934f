"""The last stage: the finalists over new seeds, all at once or raced."""

import math
from collections.abc import Generator, Iterator, Sequence

import numpy as np
from jaxtyping import Bool

from autodistill import layout
from autodistill.records import Event, FinalistRecord, PhaseStarted, RaceRecord, RunRequest, TrialParams, TrialRecord
from autodistill.search.outcome import Desk, drive, score
from autodistill.search.requests import confirm_run, no_teacher_run

Asked = Bool[np.ndarray, "finalists seeds"]


def finalists_of(trials: Sequence[TrialRecord], *, count: int) -> list[TrialRecord]:
    """The best full run of each teacher, best teachers first; earlier trials win ties."""
    best: dict[str, TrialRecord] = {}
    for trial in sorted(trials, key=lambda it: (-score(it.full), it.number)):
        if trial.state == "complete" and trial.params.teacher is not None:
            best.setdefault(trial.params.teacher, trial)
    return list(best.values())[:count]


def confirm(desk: Desk) -> Iterator[Event]:
    """Train the finalists over new seeds, the same for each; in a race the later seeds go to those still undecided.

    Only they are evaluated on test: these runs, and the baseline without a teacher, a finalist from the start.
    """
    question, outcome = desk.question, desk.outcome
    chosen = finalists_of(outcome.trials, count=question.space.confirm.teachers)
    rows, seeds = len(chosen) + 1, question.space.confirm.seeds
    race = question.plan.race if len(chosen) > 1 else None
    asked = np.ones((rows, race.first if race else seeds), dtype=bool)
    runs = rows * seeds - 1
    yield PhaseStarted(phase="confirm", runs=runs, epochs=runs * question.plan.epochs_full)
    yield from drive(desk, _requests(desk, chosen, asked)[1:])
    if race is not None:
        asked = yield from _race(desk, chosen, race)
    outcome.finalists = [
        FinalistRecord(
            teacher=trial.params.teacher if trial else None,
            trial=trial.number if trial else None,
            params=trial.params if trial else TrialParams(),
            search_val_top1=score(trial.full) if trial else None,
            runs=tuple(outcome.results[_request(desk, trial, seed).run] for seed in np.flatnonzero(row).tolist()),
        )
        for trial, row in zip([None, *chosen], asked, strict=True)
    ]


def _race(desk: Desk, chosen: Sequence[TrialRecord], race: RaceRecord) -> Generator[Event, None, Asked]:
    """Give out confirm runs look by look, until all is decided or no run is left."""
    rows, threshold = len(chosen) + 1, desk.question.space.confirm.threshold
    left = rows * (race.seeds - race.first)
    looks = layout.most_looks(left)
    asked = np.zeros((rows, race.first + left), dtype=bool)
    asked[:, : race.first] = True
    while left > 1:
        # Only complete waves are looked at: which run ends first changes nothing.
        scores = _scores(desk, chosen, asked)
        named = layout.undecided(scores, threshold=threshold, spent=layout.share(left, looks))
        new = layout.next_runs(asked, named, left=left)
        if not new.any():
            break
        yield from drive(desk, _requests(desk, chosen, new))
        asked |= new
        left -= int(new.sum())
    return asked


def _scores(desk: Desk, chosen: Sequence[TrialRecord], asked: Asked) -> layout.Scores:
    """Test accuracies; NaN where a run failed or was not asked for."""
    scores = np.full(asked.shape, math.nan)
    for row, trial in enumerate([None, *chosen]):
        for seed in np.flatnonzero(asked[row]).tolist():
            found = desk.outcome.results[_request(desk, trial, seed).run].test_top1
            scores[row, seed] = math.nan if found is None else found
    return scores


def _requests(desk: Desk, chosen: Sequence[TrialRecord], asked: Asked) -> list[RunRequest]:
    return [
        _request(desk, trial, seed)
        for trial, row in zip([None, *chosen], asked, strict=True)
        for seed in np.flatnonzero(row).tolist()
    ]


def _request(desk: Desk, trial: TrialRecord | None, index: int) -> RunRequest:
    return no_teacher_run(desk.question, index) if trial is None else confirm_run(desk.question, trial, index)

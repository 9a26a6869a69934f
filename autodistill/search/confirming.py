"""The last stage: the finalists over new seeds, all at once or raced."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from autodistill import layout
from autodistill.records import (
    Event,
    FinalistRecord,
    PhaseStarted,
    RaceRecord,
    RunRecord,
    RunRequest,
    TrialParams,
    TrialRecord,
)
from autodistill.search.outcome import Desk, drive, score
from autodistill.search.requests import confirm_run, no_teacher_run

Asked = Bool[np.ndarray, "finalists seeds"]


class Candidate(NamedTuple):
    """A configuration with a full run: a searched trial's, or plain KD's (`trial` None)."""

    trial: int | None
    params: TrialParams
    val_top1: float

    @property
    def name(self) -> str:
        return "plain-kd" if self.trial is None else f"{self.trial:04d}"


def finalists_of(trials: Sequence[TrialRecord], *, count: int, plain_kd: RunRecord | None = None) -> list[Candidate]:
    """The best full run of each teacher, best teachers first; earlier trials win ties, and win against plain KD.

    Plain KD is a point of the space like any other: leaving it out would hide a teacher's best student.
    """
    found = [
        Candidate(trial.number, trial.params, score(trial.full))
        for trial in sorted(trials, key=lambda it: it.number)
        if trial.state == "complete" and trial.params.teacher is not None
    ]
    if plain_kd is not None and plain_kd.state == "complete":
        found.append(Candidate(None, plain_kd.params, score(plain_kd)))
    best: dict[str | None, Candidate] = {}
    for one in sorted(found, key=lambda it: -it.val_top1):
        best.setdefault(one.params.teacher, one)
    return list(best.values())[:count]


def confirm(desk: Desk) -> Iterator[Event]:
    """Train the finalists over new seeds, the same for each; in a race the later seeds go to those still undecided.

    Only they are evaluated on test: these runs, and the baseline without a teacher, a finalist from the start.
    """
    question, outcome = desk.question, desk.outcome
    chosen = finalists_of(outcome.trials, count=question.space.confirm.teachers, plain_kd=outcome.plain_kd)
    rows, seeds = len(chosen) + 1, question.space.confirm.seeds
    race = question.plan.race if len(chosen) > 1 else None
    asked = np.ones((rows, race.first if race else seeds), dtype=bool)
    runs = rows * seeds - 1
    yield PhaseStarted(phase="confirm", runs=runs, epochs=runs * question.plan.epochs_full)
    yield from _trained(desk, chosen, asked, asked)
    if race is not None:
        yield from _race(desk, chosen, race)


def _trained(desk: Desk, chosen: Sequence[Candidate], new: Asked, asked: Asked) -> Iterator[Event]:
    """Train the new runs; the finalists are on record with what has ended, after every run."""
    requests = [request for request in _requests(desk, chosen, new) if request.run not in desk.outcome.results]
    for event in drive(desk, requests):
        desk.outcome.finalists = _finalists(desk, chosen, asked)
        yield event
    desk.outcome.finalists = _finalists(desk, chosen, asked)


def _finalists(desk: Desk, chosen: Sequence[Candidate], asked: Asked) -> list[FinalistRecord]:
    results = desk.outcome.results
    return [
        FinalistRecord(
            teacher=one.params.teacher if one else None,
            trial=one.trial if one else None,
            params=one.params if one else TrialParams(),
            search_val_top1=one.val_top1 if one else None,
            runs=tuple(
                results[run]
                for seed in np.flatnonzero(row).tolist()
                if (run := _request(desk, one, seed).run) in results
            ),
        )
        for one, row in zip([None, *chosen], asked, strict=True)
    ]


def _race(desk: Desk, chosen: Sequence[Candidate], race: RaceRecord) -> Iterator[Event]:
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
        asked |= new
        yield from _trained(desk, chosen, new, asked)
        left -= int(new.sum())


def _scores(desk: Desk, chosen: Sequence[Candidate], asked: Asked) -> layout.Scores:
    """Test accuracies; NaN where a run failed or was not asked for."""
    scores = np.full(asked.shape, math.nan)
    for row, one in enumerate([None, *chosen]):
        for seed in np.flatnonzero(asked[row]).tolist():
            found = desk.outcome.results[_request(desk, one, seed).run].test_top1
            scores[row, seed] = math.nan if found is None else found
    return scores


def _requests(desk: Desk, chosen: Sequence[Candidate], asked: Asked) -> list[RunRequest]:
    return [
        _request(desk, one, seed)
        for one, row in zip([None, *chosen], asked, strict=True)
        for seed in np.flatnonzero(row).tolist()
    ]


def _request(desk: Desk, one: Candidate | None, index: int) -> RunRequest:
    if one is None:
        return no_teacher_run(desk.question, index)
    return confirm_run(desk.question, f"confirm/{one.name}", one.params, index)

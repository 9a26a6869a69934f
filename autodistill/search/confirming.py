"""The last stages: second looks at who leads, then the finalists over new seeds, all at once or raced."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from autodistill import stats
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
from autodistill.search.requests import confirm_run, next_seed, no_teacher_run, second_look_run

Asked = Bool[np.ndarray, "finalists seeds"]


class Candidate(NamedTuple):
    """A configuration with full runs: a searched trial's, or plain KD's (`trial` None)."""

    trial: int | None
    """The first one."""
    params: TrialParams
    scores: tuple[float, ...]
    """Validation accuracy of each full run."""

    @property
    def val_top1(self) -> float:
        return sum(self.scores) / len(self.scores)

    @property
    def name(self) -> str:
        return "plain-kd" if self.trial is None else f"{self.trial:04d}"


def candidates(
    trials: Sequence[TrialRecord], *, plain_kd: RunRecord | None = None, second_looks: Sequence[RunRecord] = ()
) -> list[Candidate]:
    """Every configuration with a teacher that was trained in full, in the order of their first full run.

    Plain KD is a point of the space like any other: leaving it out would hide a teacher's best student.
    """
    numbered = [(it.number, it.full) for it in sorted(trials, key=lambda it: it.number) if it.state == "complete"]
    found: list[Candidate] = []
    for number, run in [*numbered, (None, plain_kd), *((None, it) for it in second_looks)]:
        if run is None or run.state != "complete" or run.params.teacher is None:
            continue
        known = next((place for place, it in enumerate(found) if it.params == run.params), None)
        if known is None:
            found.append(Candidate(number, run.params, (score(run),)))
        else:
            found[known] = found[known]._replace(scores=(*found[known].scores, score(run)))
    return found


def finalists_of(found: Sequence[Candidate], *, count: int) -> list[Candidate]:
    """The best candidate of each teacher by mean score, best teachers first; the first of `found` wins ties."""
    best: dict[str | None, Candidate] = {}
    for one in sorted(found, key=lambda it: -it.val_top1):
        best.setdefault(one.params.teacher, one)
    return list(best.values())[:count]


def look_again(desk: Desk) -> Iterator[Event]:
    """Train once more who would be a finalist by now, where the plan has room for it.

    The best of many single scores is lucky too. A leader that was lucky falls behind its teacher's next best, or
    behind another teacher. Replayed over recorded runs this is worth more than as many runs of search
    (`tests/bench/replay.py`).
    """
    question, outcome = desk.question, desk.outcome
    if not question.plan.second_looks:
        return
    found = candidates(outcome.trials, plain_kd=outcome.plain_kd)
    leaders = finalists_of(found, count=question.space.confirm.teachers)
    seeds = [next_seed(question, it.params, outcome.trials) for it in leaders]
    requests = [second_look_run(question, it.name, it.params, seed) for it, seed in zip(leaders, seeds, strict=True)]
    yield PhaseStarted(phase="second looks", runs=len(requests), epochs=len(requests) * question.plan.epochs_full)
    yield from drive(desk, requests)
    outcome.second_looks = [outcome.results[request.run] for request in requests]


def confirm(desk: Desk) -> Iterator[Event]:
    """Train the finalists over new seeds, the same for each; in a race the later seeds go to those still undecided.

    Only they are evaluated on test: these runs, and the baseline without a teacher, a finalist from the start.
    """
    question, outcome = desk.question, desk.outcome
    found = candidates(outcome.trials, plain_kd=outcome.plain_kd, second_looks=outcome.second_looks)
    chosen = finalists_of(found, count=question.space.confirm.teachers)
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
    looks = stats.most_looks(left)
    asked = np.zeros((rows, race.first + left), dtype=bool)
    asked[:, : race.first] = True
    while left > 1:
        # Only complete waves are looked at: which run ends first changes nothing.
        scores = _scores(desk, chosen, asked)
        named = stats.undecided(scores, threshold=threshold, spent=stats.share(left, looks))
        new = stats.next_runs(asked, named, left=left)
        if not new.any():
            break
        asked |= new
        yield from _trained(desk, chosen, new, asked)
        left -= int(new.sum())


def _scores(desk: Desk, chosen: Sequence[Candidate], asked: Asked) -> stats.Scores:
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

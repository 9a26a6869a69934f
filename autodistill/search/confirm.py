"""The stages after the waves: reruns of the leaders, confirm runs over new seeds, controls, the audit of pruning."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from autodistill import stats
from autodistill.records import (
    ControlRecord,
    Phase,
    PhaseStarted,
    RaceRecord,
    RunResult,
    RunSpec,
    TrialParams,
    TrialRecord,
)
from autodistill.search.sampler import prior_params
from autodistill.search.state import (
    Asked,
    Candidate,
    SearchState,
    confirm_run,
    finalist_run,
    first_seeds,
    full_run,
    next_seed,
    score,
)

MOST_AUDITED = 4
Regime = Literal["default", "shared", "own"]


def candidates(
    trials: Sequence[TrialRecord], *, plain_kd: RunResult | None = None, reruns: Sequence[RunResult] = ()
) -> list[Candidate]:
    """Return every configuration with a teacher that was trained in full, in the order of their first full run.

    Plain KD is a point of the space like any other. Without it a teacher's best student could be missed.
    """
    numbered = [(it.number, it.full) for it in sorted(trials, key=lambda it: it.number) if it.state == "complete"]
    found: list[Candidate] = []
    for number, run in [*numbered, (None, plain_kd), *((None, it) for it in reruns)]:
        if run is None or run.state != "complete" or run.params.teacher is None:
            continue
        known = next((place for place, it in enumerate(found) if it.params == run.params), None)
        if known is None:
            found.append(Candidate(number, run.params, (score(run),)))
        else:
            found[known] = found[known]._replace(scores=(*found[known].scores, score(run)))
    return found


def finalists_of(found: Sequence[Candidate], *, count: int) -> list[Candidate]:
    """Return the best candidate of each teacher by mean score, best teachers first; ties go to the earlier."""
    best: dict[str | None, Candidate] = {}
    for candidate in sorted(found, key=lambda it: -it.val_top1):
        best.setdefault(candidate.params.teacher, candidate)
    return list(best.values())[:count]


def rerun_leaders(state: SearchState) -> None:
    """Train once more the configurations that would be finalists by now, where the plan has room for it.

    The best of many single scores is partly luck. In the rerun a lucky leader falls behind its teacher's next best
    configuration, or behind another teacher. Replayed over recorded runs, reruns are worth more than the same number
    of searched runs (`tests/bench/replay.py`).
    """
    spec = state.spec
    if not spec.plan.reruns:
        return
    found = candidates(state.trials, plain_kd=state.plain_kd)
    leaders = finalists_of(found, count=spec.space.confirm.teachers)
    runs = []
    for it in leaders:
        seed = next_seed(spec, it.params, state.trials)
        runs.append(RunSpec(run=f"reruns/{it.name}-{seed}", params=it.params, seed=seed, epochs=spec.plan.epochs_full))
    _announce(state, "reruns", len(runs))
    state.reruns = state.run(runs)


def confirm(state: SearchState) -> None:
    """Train the finalists over new seeds, the same seeds for each; in a race the undecided get the later seeds.

    Only these runs and those of "no teacher", which is always a finalist, are evaluated on the test split.
    """
    spec = state.spec
    found = candidates(state.trials, plain_kd=state.plain_kd, reruns=state.reruns)
    state.chosen = finalists_of(found, count=spec.space.confirm.teachers)
    rows, seeds = len(state.chosen) + 1, spec.space.confirm.seeds
    race = spec.plan.race if len(state.chosen) > 1 else None
    state.asked = np.ones((rows, race.first if race else seeds), dtype=bool)
    new = _missing(state, state.asked)
    planned = len(new) + (rows * (race.seeds - race.first) if race else 0)
    _announce(state, "confirm", planned)
    state.run(new)
    if race is not None:
        _race(state, race)


def controls(state: SearchState) -> None:
    """Train fair controls of the finalists over the first confirm seeds, where the plan has room for them.

    Each finalist's teacher has its own best configuration. It is compared with the prior, which nobody tuned, and
    with the best configuration of all, given to every teacher. Only what a teacher's own configuration gains over the
    shared configuration is an effect of tuning for that teacher.
    """
    spec = state.spec
    finalists = [it for it in state.finalists if it.teacher is not None]
    if not spec.plan.controls or not finalists:
        return
    seeds = first_seeds(spec)
    best = max(finalists, key=lambda it: it.search_val_top1 or 0.0)
    places = [it.name for it in spec.teachers]
    trained = [(it.params, [run.run for run in it.runs[:seeds]]) for it in finalists]
    wanted: list[tuple[Regime, str, TrialParams]] = []
    missing: list[RunSpec] = []
    for finalist in finalists:
        teacher = str(finalist.teacher)
        prior = prior_params(spec.space, teacher, spec.tau_student_from)
        shared = best.params.model_copy(update={"teacher": teacher})
        wanted += [("default", teacher, prior), ("shared", teacher, shared), ("own", teacher, finalist.params)]
    for regime, teacher, params in wanted:
        if all(params != known for known, _ in trained):  # two regimes can have the same configuration
            folder = f"controls/{regime}-{places.index(teacher)}"
            runs = [confirm_run(spec, folder, params, index) for index in range(seeds)]
            missing += runs
            trained.append((params, [run.run for run in runs]))
    _announce(state, "controls", len(missing))
    state.run(missing)
    for regime, teacher, params in wanted:
        names = next(names for known, names in trained if known == params)
        results = tuple(state.results[name] for name in names)
        state.controls.append(ControlRecord(regime=regime, teacher=teacher, params=params, runs=results))


def audited_trials(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the pruned trials with the best rung scores, by number; trials without budget were not judged."""
    pruned = [trial for trial in trials if trial.state == "pruned" and not trial.out_of_budget]
    best = sorted(pruned, key=lambda trial: (-score(trial.rung), trial.number))[:MOST_AUDITED]
    return sorted(best, key=lambda trial: trial.number)


def audit(state: SearchState) -> None:
    """Train the best pruned trials to the end, with their own seeds: outside the budget, after the verdict."""
    runs = [
        full_run(state.spec, trial).model_copy(update={"run": f"audit/{trial.number:04d}", "begun_epochs": 0})
        for trial in audited_trials(state.trials)
    ]
    _announce(state, "audit", len(runs))
    state.audit = state.run(runs)


def _announce(state: SearchState, phase: Phase, runs: int) -> None:
    state.on_event(PhaseStarted(phase=phase, runs=runs, epochs=runs * state.spec.plan.epochs_full))


def _race(state: SearchState, race: RaceRecord) -> None:
    """Give out confirm runs to the undecided, look by look, until all is decided or no run is left."""
    assert state.asked is not None
    threshold = state.spec.space.confirm.threshold
    left = len(state.asked) * (race.seeds - race.first)
    looks = stats.most_looks(left)
    state.asked = np.pad(state.asked, ((0, 0), (0, left)))
    while left > 1:
        # Only complete batches are looked at, so which run ends first changes nothing.
        named = stats.undecided(_scores(state), threshold=threshold, spent=stats.share(left, looks))
        new = stats.next_runs(state.asked, named, left=left)
        if not new.any():
            return
        state.asked = state.asked | new
        state.run(_missing(state, new))
        left -= int(new.sum())


def _scores(state: SearchState) -> stats.Scores:
    """Return test accuracies; NaN where a run failed or was not asked for."""
    assert state.asked is not None
    scores = np.full(state.asked.shape, math.nan)
    for row, candidate in enumerate([None, *state.chosen]):
        for seed in np.flatnonzero(state.asked[row]).tolist():
            found = state.results[finalist_run(state.spec, candidate, seed).run].test_top1
            scores[row, seed] = math.nan if found is None else found
    return scores


def _missing(state: SearchState, asked: Asked) -> list[RunSpec]:
    """Return the confirm runs that are asked for and not trained yet."""
    runs = [
        finalist_run(state.spec, candidate, seed)
        for candidate, row in zip([None, *state.chosen], asked, strict=True)
        for seed in np.flatnonzero(row).tolist()
    ]
    return [run for run in runs if run.run not in state.results]

"""The stages after the waves: reruns of the leaders, confirm runs over new seeds, controls, the audit of pruning."""

import math
from collections.abc import Sequence

import numpy as np

from autodistill import stats
from autodistill.records import (
    ControlRecord,
    FinalistRecord,
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
    audit_run,
    confirm_run,
    finalist_run,
    next_seed,
    rerun,
    score,
)

MOST_AUDITED = 4


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
    runs = [rerun(spec, it.name, it.params, next_seed(spec, it.params, state.trials)) for it in leaders]
    state.on_event(PhaseStarted(phase="reruns", runs=len(runs), epochs=len(runs) * spec.plan.epochs_full))
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
    new = [it for it in _runs(state, state.asked) if it.run not in state.results]
    planned = len(new) + (rows * (race.seeds - race.first) if race else 0)
    state.on_event(PhaseStarted(phase="confirm", runs=planned, epochs=planned * spec.plan.epochs_full))
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
    seeds = spec.plan.race.first if spec.plan.race else spec.space.confirm.seeds
    wanted = _wanted_controls(state, finalists)
    groups: list[tuple[TrialParams, list[RunSpec]]] = []
    for regime, teacher, params in wanted:  # two regimes can have the same configuration
        if _finalist_with(finalists, params) is None and all(it != params for it, _ in groups):
            place = [it.name for it in spec.teachers].index(teacher)
            runs = [confirm_run(spec, f"controls/{regime}-{place}", params, index) for index in range(seeds)]
            groups.append((params, runs))
    missing = [run for _, runs in groups for run in runs]
    state.on_event(PhaseStarted(phase="controls", runs=len(missing), epochs=len(missing) * spec.plan.epochs_full))
    state.run(missing)
    for regime, teacher, params in wanted:
        same = _finalist_with(finalists, params)
        results = same.runs[:seeds] if same else _results(state, next(runs for it, runs in groups if it == params))
        state.controls.append(ControlRecord(regime=regime, teacher=teacher, params=params, runs=results))


def audited_trials(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the pruned trials with the best rung scores, by number; trials without budget were not judged."""
    pruned = [trial for trial in trials if trial.state == "pruned" and not trial.out_of_budget]
    best = sorted(pruned, key=lambda trial: (-score(trial.rung), trial.number))[:MOST_AUDITED]
    return sorted(best, key=lambda trial: trial.number)


def audit(state: SearchState) -> None:
    """Train the best pruned trials to the end, with their own seeds: outside the budget, after the verdict."""
    runs = [audit_run(state.spec, trial) for trial in audited_trials(state.trials)]
    state.on_event(PhaseStarted(phase="audit", runs=len(runs), epochs=len(runs) * state.spec.plan.epochs_full))
    state.audit = state.run(runs)


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
        state.run([it for it in _runs(state, new) if it.run not in state.results])
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


def _runs(state: SearchState, asked: Asked) -> list[RunSpec]:
    return [
        finalist_run(state.spec, candidate, seed)
        for candidate, row in zip([None, *state.chosen], asked, strict=True)
        for seed in np.flatnonzero(row).tolist()
    ]


def _wanted_controls(state: SearchState, finalists: Sequence[FinalistRecord]) -> list[tuple[str, str, TrialParams]]:
    """Return regime, teacher and configuration of every control."""
    spec, found = state.spec, []
    best = max(finalists, key=lambda it: it.search_val_top1 or 0.0)
    for finalist in finalists:
        assert finalist.teacher is not None
        prior = prior_params(spec.space, finalist.teacher, spec.tau_student_from)
        shared = best.params.model_copy(update={"teacher": finalist.teacher})
        named = {"default": prior, "shared": shared, "own": finalist.params}
        found += [(regime, finalist.teacher, params) for regime, params in named.items()]
    return found


def _finalist_with(finalists: Sequence[FinalistRecord], params: TrialParams) -> FinalistRecord | None:
    return next((it for it in finalists if it.params == params), None)


def _results(state: SearchState, runs: Sequence[RunSpec]) -> tuple[RunResult, ...]:
    return tuple(state.results[run.run] for run in runs)

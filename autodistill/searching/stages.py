"""The stages of a search.

Baselines and priors come first, then waves of trials, reruns of the leaders, confirm runs over new seeds, controls, and
the audit of pruning. A trial trains up to its rung, is compared there with the other trials of its teacher and method,
and is pruned or goes on. The order in which suggestions, results and decisions follow each other depends on nothing but
results, so a search over kept results takes the same way again and goes on from its end.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from autodistill import stats
from autodistill.config import TrainingSpec
from autodistill.errors import ConfigError, EveryRunFailed
from autodistill.formatting import method_label
from autodistill.records import (
    ControlRecord,
    FinalistRecord,
    Phase,
    PhaseStarted,
    RaceRecord,
    RunResult,
    RunSpec,
    TrialEnded,
    TrialParams,
    TrialRecord,
    TrialStarted,
)
from autodistill.searching.plan import PROTECTED_PRIORS, rounded_up, wave_size
from autodistill.searching.sampler import prior_params
from autodistill.searching.state import (
    Asked,
    Candidate,
    SearchState,
    confirm_run,
    first_seeds,
    full_run,
    label_smoothing_runs,
    left_epochs,
    new_run,
    next_seed,
    no_teacher_runs,
    plain_kd_run,
    reference_teacher,
    rung_run,
    score,
)

MOST_NAMES = 6
"""Runs named for each cause of failure, at most."""
MOST_AUDITED = 4
Regime = Literal["default", "shared", "own"]


def run_search(state: SearchState, *, audited: bool = False) -> None:
    """Run the stages of a search; `audited`: train the best pruned trials to the end.

    Raises:
        ConfigError: A teacher joined the study, and the budget has no room for it.
        EveryRunFailed: All runs of the first stage failed.
    """
    promoted = _first_stage(state)
    _waves(state, promoted)
    rerun_leaders(state)
    _confirm(state)
    _controls(state)
    if audited:
        _audit(state)


def _first_stage(state: SearchState) -> list[TrialRecord]:
    """Train all "no teacher" runs that the study needs, plain KD, and every teacher's prior up to its rung.

    Return the priors that go on to a full run.
    """
    spec = state.spec
    for trial in spec.carried:
        state.sampler.add(trial)
        state.trials.append(trial)
        state.results.update({run.run: run for run in (trial.rung, trial.full) if run is not None})
    tried = {trial.params.teacher for trial in spec.carried if trial.kind == "prior"}
    priors = [new_trial(state, wave=0, prior_of=it.name) for it in spec.teachers if it.name not in tried]
    no_teacher, plain_kd = no_teacher_runs(spec), plain_kd_run(spec)
    state.plain_kd_trial = _plain_kd_trial(state)
    others = [*([plain_kd] if state.plain_kd_trial is None else []), *(rung_run(spec, prior) for prior in priors)]
    runs = [*no_teacher, *others]
    if tried:
        _check_room(state, sum(run.new_epochs for run in (no_teacher[0], *others)), len(priors))
    epochs = sum(run.new_epochs for run in runs)
    state.on_event(PhaseStarted(phase="baselines and priors", runs=len(runs), epochs=epochs))
    results = state.run(runs)
    state.no_teacher = results[0]
    promoted = _best_priors(state, priors)
    if all(result.state == "failed" for result in results):
        raise every_run_failed(results, training=spec.space.training)
    return promoted


def _waves(state: SearchState, promoted: Sequence[TrialRecord]) -> None:
    """Ask for trials in waves until the budget is spent; train the rests of a wave beside the rungs of the next."""
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
        finish(state, promoted)
        promoted = _judge(state, asked)


def new_trial(state: SearchState, *, wave: int, prior_of: str | None = None) -> TrialRecord:
    """Ask for a trial, or read it where an earlier process of this study has recorded it."""
    number, recorded = len(state.trials), state.spec.recorded
    if number < len(recorded):
        params, attrs = recorded[number].params, recorded[number].sampler_attrs
    else:
        params = state.sampler.ask(prior_of=prior_of)
        attrs = dict(state.sampler.trials[number].system_attrs)
    return add_trial(state, params, prior=prior_of is not None, wave=wave, sampler_attrs=attrs)


def add_trial(
    state: SearchState, params: TrialParams, *, prior: bool, wave: int, sampler_attrs: dict[str, Any] | None = None
) -> TrialRecord:
    """Add a running trial to the study, and to the sampler if the sampler has not just suggested it."""
    same = [trial.number for trial in state.trials if trial.params == params]
    trial = TrialRecord(
        number=len(state.trials),
        kind="prior" if prior else "search",
        wave=wave,
        params=params,
        seed=next_seed(state.spec, params, state.trials),
        replicate_of=same[0] if same else None,
        state="running",
        sampler_attrs=sampler_attrs or {},
    )
    if trial.number == len(state.sampler.trials):
        state.sampler.add(trial)
    state.trials.append(trial)
    state.on_event(TrialStarted(record=trial))
    return trial


def goes_on(score: float, rivals: Sequence[float], *, eta: float) -> bool:
    """Return whether a rung score is among the best 1/eta, compared with `rivals` of the same teacher and method.

    Stock pruners compare all students, and so cut teachers and methods whose students start slowly.
    """
    better = sum(rival > score for rival in rivals)
    return better < math.ceil((len(rivals) + 1) / eta)


def _plain_kd_trial(state: SearchState) -> int | None:
    """Return the prior that is plain KD: a new trial, or a carried trial that was trained in full."""
    params = plain_kd_run(state.spec).params
    same = (it for it in state.trials if it.kind == "prior" and it.params == params)
    return next((it.number for it in same if it.state in ("running", "complete")), None)


def _check_room(state: SearchState, epochs: int, priors: int) -> None:
    """Refuse a teacher for which the budget has no room left, before anything is trained."""
    plan = state.spec.plan
    needed = epochs + min(priors, PROTECTED_PRIORS) * plan.epochs_rest
    missing = needed - left_epochs(state)
    if missing > 0:
        raise ConfigError(
            f"--budget {plan.requested}: with what is spent, nothing is left for the teacher that joins",
            f"raise it to {rounded_up(plan.total_epochs + missing, full=plan.epochs_full)} or more",
        )


def _best_priors(state: SearchState, priors: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the priors that go on to a full run: up to `PROTECTED_PRIORS`, plain KD and the best at their rung."""
    priors = with_rungs(state, priors)
    ranked = sorted(priors, key=lambda it: (it.number != state.plain_kd_trial, -score(it.rung), it.number))
    chosen = [it.number for it in ranked if it.state == "running"][:PROTECTED_PRIORS]
    reason = f"not among the best {PROTECTED_PRIORS} of {len(priors)} priors"
    return settle(state, [it if it.number in chosen else pruned(it, reason) for it in priors])


def _judge(state: SearchState, asked: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Prune or promote the trials of a wave, in number order, after all of them have reached their rung."""
    judged, promoted = [], 0
    for trial in with_rungs(state, asked):
        trial = _judged(state, trial, left=left_epochs(state, promoted))
        promoted += trial.state == "running"
        judged.append(trial)
    return settle(state, judged)


def _judged(state: SearchState, trial: TrialRecord, *, left: int) -> TrialRecord:
    """Return the trial, pruned where rivals did better or where the budget has no room for its rest."""
    rivals = [score(other.rung) for other in rivals_of(trial, state.trials) if score(other.rung) >= 0]
    own, eta = score(trial.rung), state.spec.space.search.eta
    if not goes_on(own, rivals, eta=eta):
        rank, count = 1 + sum(rival > own for rival in rivals), len(rivals) + 1
        best = math.ceil(count / eta)
        return pruned(
            trial,
            f"rank {rank} of {count} {method_label(str(trial.params.method))} trials with {trial.params.teacher}, "
            f"whose best has {100 * max(rivals):.1f} %; only the best {f'{best} go' if best > 1 else 'goes'} on",
        )
    if left < state.spec.plan.epochs_rest:
        return pruned(trial, "not promoted, the budget has no full run left", out_of_budget=True)
    return trial


def rivals_of(trial: TrialRecord, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the other trials with the teacher and the method of a trial."""
    own = (trial.params.teacher, trial.params.method)
    return [it for it in trials if it.number != trial.number and (it.params.teacher, it.params.method) == own]


def with_rungs(state: SearchState, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Record the results of the rungs of trials; return the trials, failed where the rung failed."""
    for trial in trials:
        run = state.results[rung_run(state.spec, trial).run]
        failed = {"state": "failed", "reason": f"rung: {run.reason}"} if run.state == "failed" else {}
        state.trials[trial.number] = trial.model_copy(update={"rung": run, **failed})
    return [state.trials[trial.number] for trial in trials]


def pruned(trial: TrialRecord, reason: str, *, out_of_budget: bool = False) -> TrialRecord:
    """Return a trial that is pruned at its rung; a trial that has failed stays as it is."""
    if trial.state != "running":
        return trial
    reason = f"rung {100 * score(trial.rung):.1f} %: {reason}"
    return trial.model_copy(update={"state": "pruned", "reason": reason, "out_of_budget": out_of_budget})


def finish(state: SearchState, promoted: Sequence[TrialRecord]) -> None:
    """Record the full runs of trials that went on."""
    trials = []
    for trial in promoted:
        full = state.results[full_run(state.spec, trial).run]
        ended = {"state": "complete"} if full.state == "complete" else {"state": "failed", "reason": full.reason}
        trials.append(trial.model_copy(update={"full": full, **ended}))
    settle(state, trials)


def settle(state: SearchState, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Record trials, and tell the sampler; return those that go on."""
    for trial in trials:
        if trial.state != "running":
            trial = trial.model_copy(update={"sampler_attrs": {}})
        state.trials[trial.number] = trial
        state.sampler.tell(trial)
        if trial.state != "running":
            state.on_event(TrialEnded(record=trial))
    return [trial for trial in trials if trial.state == "running"]


def every_run_failed(runs: Sequence[RunResult], *, training: TrainingSpec) -> EveryRunFailed:
    """Return the error for a study whose first runs all failed: the causes, the most frequent first, and their runs."""
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


def candidates(
    trials: Sequence[TrialRecord], *, plain_kd: RunResult | None = None, reruns: Sequence[RunResult] = ()
) -> list[Candidate]:
    """Return every configuration with a teacher that was trained in full, in the order of their first full run.

    Plain KD is a point of the space like any other. Without it a teacher's best student could be missed.
    """
    numbered = [(it.number, it.full) for it in sorted(trials, key=lambda it: it.number) if it.state == "complete"]
    trained = {run.run for _, run in numbered if run is not None}
    others = [it for it in (plain_kd, *reruns) if it is not None and it.run not in trained]
    found: list[Candidate] = []
    for number, run in [*numbered, *((None, it) for it in others)]:
        if run is None or run.state != "complete" or run.params.teacher is None:
            continue
        known = next((place for place, it in enumerate(found) if it.params == run.params), None)
        if known is None:
            name = f"{number:04d}" if number is not None else re.sub(r"^\w+/|-\d+$", "", run.run)
            found.append(Candidate(name, number, run.params, (score(run),)))
        else:
            found[known] = found[known]._replace(scores=(*found[known].scores, score(run)))
    return found


def finalists_of(found: Sequence[Candidate], *, count: int, reference: str | None = None) -> list[Candidate]:
    """Return the best candidates of the best `count` teachers by mean score, best first; ties go to the earlier.

    The teacher `reference` is among them if it has a candidate and `count` is above 1.
    """
    best: dict[str | None, Candidate] = {}
    for candidate in sorted(found, key=lambda it: -it.val_top1):
        best.setdefault(candidate.params.teacher, candidate)
    chosen = list(best.values())[:count]
    if reference in best and best[reference] not in chosen and count > 1:
        chosen[-1] = best[reference]
    return chosen


def rerun_leaders(state: SearchState) -> None:
    """Train the settings of the search's best run with every teacher that would be a finalist by now.

    For the teacher that had them, this is a rerun with another seed: the best of many single scores is partly luck,
    and a lucky leader falls behind. The other teachers are given the chance of the leader's settings, so that
    finalists are compared at equal tuning, not by which teacher happened upon good settings. Nothing is trained where
    the plan has no room for it. `tests/bench/policy.py` compares this with other uses of the same runs.
    """
    spec = state.spec
    if not spec.plan.reruns:
        return
    found = candidates(state.trials, plain_kd=state.plain_kd)
    leaders = finalists_of(found, count=spec.space.confirm.teachers, reference=reference_teacher(spec))
    places = [it.name for it in spec.teachers]
    runs = []
    for leader in leaders:
        teacher = str(leader.params.teacher)
        params = leaders[0].params.model_copy(update={"teacher": teacher})
        name = next((it.name for it in found if it.params == params), f"shared-{places.index(teacher) + 1}")
        seed = next_seed(spec, params, state.trials)
        runs.append(new_run(spec, f"reruns/{name}-{seed}", params, seed))
    announce(state, "reruns", len(runs))
    state.reruns = state.run(runs)


def _confirm(state: SearchState) -> None:
    """Train the finalists over new seeds, the same seeds for each; in a race the undecided get the later seeds.

    Only these runs and those of "no teacher", which is always a finalist, are evaluated on the test split. So is the
    most accurate teacher: whether another teacher is better than the usual choice is the question of the study. Where
    the plan has room, training on labels alone with label smoothing gets the first seeds too.
    """
    spec = state.spec
    found = candidates(state.trials, plain_kd=state.plain_kd, reruns=state.reruns)
    state.chosen = finalists_of(found, count=spec.space.confirm.teachers, reference=reference_teacher(spec))
    rows, seeds = len(state.chosen) + 1, spec.space.confirm.seeds
    race = spec.plan.race if len(state.chosen) > 1 else None
    state.asked = np.ones((rows, race.first if race else seeds), dtype=bool)
    smoothed = label_smoothing_runs(spec) if spec.plan.label_smoothing else []
    new = [*_missing(state, state.asked), *smoothed]
    planned = len(new) + (rows * (race.seeds - race.first) if race else 0)
    announce(state, "confirm", planned)
    state.run(new)
    if race is not None:
        _race(state, race)


def _controls(state: SearchState) -> None:
    """Train fair controls of the finalists over the first confirm seeds, where the plan has room for them.

    Each finalist's teacher has its own best configuration. It is compared with the prior, which nobody tuned, and
    with the configuration that is best by confirmed mean, given to every teacher. Only what a teacher's own
    configuration gains over the shared configuration is an effect of tuning for that teacher.
    """
    spec = state.spec
    finalists = [it for it in state.finalists if it.teacher is not None]
    if not spec.plan.controls or not finalists:
        return
    seeds = first_seeds(spec)
    best = max(finalists, key=_confirmed)
    places = [it.name for it in spec.teachers]
    trained = [(it.params, [run.run for run in it.runs[:seeds]]) for it in finalists]
    wanted: list[tuple[Regime, str, TrialParams]] = []
    missing: list[RunSpec] = []
    for finalist in finalists:
        teacher = str(finalist.teacher)
        prior = prior_params(spec.space, teacher, spec.shapes)
        shared = best.params.model_copy(update={"teacher": teacher})
        wanted += [("default", teacher, prior), ("shared", teacher, shared), ("own", teacher, finalist.params)]
    for regime, teacher, params in wanted:
        if all(params != known for known, _ in trained):  # two regimes can have the same configuration
            folder = f"controls/{regime}-{places.index(teacher)}"
            runs = [confirm_run(spec, folder, params, index) for index in range(seeds)]
            missing += runs
            trained.append((params, [run.run for run in runs]))
    announce(state, "controls", len(missing))
    state.run(missing)
    for regime, teacher, params in wanted:
        names = next(names for known, names in trained if known == params)
        results = tuple(state.results[name] for name in names)
        state.controls.append(ControlRecord(regime=regime, teacher=teacher, params=params, runs=results))


def _confirmed(finalist: FinalistRecord) -> float:
    """Return the mean test accuracy of a finalist's confirm runs, for ordering."""
    scores = [run.test_top1 for run in finalist.runs if run.test_top1 is not None]
    return sum(scores) / len(scores) if scores else -1.0


def audited_trials(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the pruned trials with the best rung scores, by number; trials without budget were not judged."""
    judged = [trial for trial in trials if trial.state == "pruned" and not trial.out_of_budget]
    best = sorted(judged, key=lambda trial: (-score(trial.rung), trial.number))[:MOST_AUDITED]
    return sorted(best, key=lambda trial: trial.number)


def _audit(state: SearchState) -> None:
    """Train the best pruned trials to the end, with their own seeds: outside the budget, after the verdict."""
    runs = [
        full_run(state.spec, trial).model_copy(update={"run": f"audit/{trial.number:04d}", "begun_epochs": 0})
        for trial in audited_trials(state.trials)
    ]
    announce(state, "audit", len(runs))
    state.audit = state.run(runs)


def announce(state: SearchState, phase: Phase, runs: int) -> None:
    """Tell that a phase of full runs begins."""
    state.on_event(PhaseStarted(phase=phase, runs=runs, epochs=runs * state.spec.plan.epochs_full))


def _race(state: SearchState, race: RaceRecord) -> None:
    """Give out confirm runs to the undecided, look by look, until all is decided or no run is left."""
    assert state.asked is not None
    threshold, step = state.spec.space.confirm.threshold, state.spec.score_step
    left = runs = len(state.asked) * (race.seeds - race.first)
    state.asked = np.pad(state.asked, ((0, 0), (0, left)))
    while left > 1:
        # Only complete batches are looked at, so which run ends first changes nothing.
        named = stats.undecided(_scores(state), threshold=threshold, spent=stats.share(left, runs), step=step)
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
    for row, (_, runs) in enumerate(state.confirm_runs(state.asked)):
        found = [state.results[run.run].test_top1 for run in runs]
        scores[row, state.asked[row]] = [math.nan if top1 is None else top1 for top1 in found]
    return scores


def _missing(state: SearchState, asked: Asked) -> list[RunSpec]:
    """Return the confirm runs that are asked for and not trained yet."""
    return [run for _, runs in state.confirm_runs(asked) for run in runs if run.run not in state.results]

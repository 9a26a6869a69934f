"""The stages of a method grid: methods x teachers, each cell with settings of its own.

All teachers try the same settings of a method. The first setting is that of the method's registry entry, the others are
suggested by Optuna, which receives the mean score over the teachers. Settings are tried in waves. Of the settings of a
wave, the best of each cell at its rung goes on to a full run. So every cell is tuned at the same cost, and only
students with the same teacher and method are compared. The best full run of a cell, on validation, has the setting
that is trained over the confirm seeds, like training on labels alone with and without label smoothing.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from autodistill.config import PriorSpec
from autodistill.formatting import method_label
from autodistill.records import CellRecord, PhaseStarted, TrialRecord
from autodistill.searching.plan import wave_settings
from autodistill.searching.sampler import Sampler
from autodistill.searching.stages import add_trial, announce, every_run_failed, finish, pruned, settle, with_rungs
from autodistill.searching.state import (
    SearchState,
    cell_runs,
    full_run,
    label_smoothing_runs,
    no_teacher_runs,
    rung_run,
    score,
)

ALL_TEACHERS = "all teachers"
"""Name of the teacher of settings that are suggested for all teachers."""


def run_grid(state: SearchState, priors: Mapping[str, PriorSpec]) -> None:
    """Run the stages of a method grid; `priors` are the first settings of the methods.

    Raises:
        EveryRunFailed: All runs of the first wave failed.
    """
    _tune(state, priors)
    _confirm_cells(state)
    if state.spec.plan.controls:
        _train_shared(state)


def _tune(state: SearchState, priors: Mapping[str, PriorSpec]) -> None:
    """Train the baselines, and try the settings of every cell."""
    spec, plan = state.spec, state.spec.plan
    assert plan.settings is not None
    samplers = {method: _sampler(state, method, prior) for method, prior in priors.items()}
    baselines = [*no_teacher_runs(spec), *label_smoothing_runs(spec)]
    epochs = sum(run.new_epochs for run in baselines) + round((plan.priors + plan.search) * plan.epochs_full)
    state.on_event(PhaseStarted(phase="tuning", runs=0, epochs=epochs))
    promoted: list[TrialRecord] = []
    tried, wave = 0, 0
    while promoted or tried < plan.settings:
        count = min(wave_settings(spec.space), plan.settings - tried)
        # The number of a trial follows from setting, method and teacher. A larger budget adds trials at the end.
        asked = [
            trial
            for setting in range(tried, tried + count)
            for method, sampler in samplers.items()
            for trial in _trials(state, sampler, method, setting=setting, wave=wave)
        ]
        first = baselines if wave == 0 else []
        results = state.run([*first, *(full_run(spec, it) for it in promoted), *(rung_run(spec, it) for it in asked)])
        if wave == 0:
            state.no_teacher = results[0]
            if all(result.state == "failed" for result in results):
                raise every_run_failed(results, training=spec.space.training)
        finish(state, promoted)
        promoted = _judge(state, asked)
        for method, sampler in samplers.items():
            for setting in range(tried, tried + count):
                sampler.score(setting, _mean_rung(state, method, setting))
        tried, wave = tried + count, wave + 1


def _confirm_cells(state: SearchState) -> None:
    """Train the best setting of each cell over the confirm seeds."""
    spec = state.spec
    for method in spec.space.search.methods:
        for teacher in spec.teachers:
            own = (method, teacher.name)
            trials = [
                it for it in state.trials if (it.params.method, it.params.teacher) == own and it.state == "complete"
            ]
            if trials:
                best = max(trials, key=lambda it: score(it.full))
                found = {"trial": best.number, "params": best.params, "search_val_top1": score(best.full)}
                state.cells.append(CellRecord(method=method, teacher=teacher.name, **found))
    runs = [run for cell in state.cells for run in cell_runs(spec, cell)]
    announce(state, "confirm", len(runs))
    state.run(runs)


def _train_shared(state: SearchState) -> None:
    """Train, for each method, the setting that is best for all teachers together with every teacher.

    Candidates are the settings that are best in a cell, and their mean score at the rung over all teachers decides.
    """
    spec = state.spec
    for method in spec.space.search.methods:
        own = [cell for cell in state.cells if cell.method == method]
        settings = {_setting(state, cell.trial): cell for cell in own if cell.trial is not None}
        if not settings:
            continue
        means = {setting: _mean_rung(state, method, setting) for setting in settings}
        best = max(settings, key=lambda setting: (means[setting] or -1.0, -setting))
        for teacher in spec.teachers:
            params = settings[best].params.model_copy(update={"teacher": teacher.name})
            same = next((cell for cell in own if cell.params == params), None)
            state.shared.append(
                CellRecord(method=method, teacher=teacher.name, trial=same.trial if same else None, params=params)
            )
    runs = [run for cell in state.shared if cell.trial is None for run in cell_runs(spec, cell)]
    announce(state, "controls", len(runs))
    state.run(runs)


def _sampler(state: SearchState, method: str, prior: PriorSpec) -> Sampler:
    """Return a sampler of the settings of one method."""
    space = state.spec.space
    search = space.search.model_copy(update={"methods": {method: space.search.methods[method]}})
    return Sampler(space.model_copy(update={"prior": prior, "search": search}), [ALL_TEACHERS], state.spec.shapes)


def _trials(state: SearchState, sampler: Sampler, method: str, *, setting: int, wave: int) -> list[TrialRecord]:
    """Ask for a setting of a method, or read it where an earlier process recorded it; return a trial per teacher."""
    spec, number = state.spec, len(state.trials)
    recorded = spec.recorded[number].params if number < len(spec.recorded) else None
    assert recorded is None or recorded.method == method
    known = recorded.model_copy(update={"teacher": ALL_TEACHERS}) if recorded else None
    params = sampler.ask(known=known) if known or setting else sampler.ask(prior_of=ALL_TEACHERS)
    return [
        add_trial(state, params.model_copy(update={"teacher": it.name}), prior=setting == 0, wave=wave)
        for it in spec.teachers
    ]


def _judge(state: SearchState, asked: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the best trial of each cell at its rung; the others are pruned."""
    trials = with_rungs(state, asked)
    cells: defaultdict[tuple[str | None, str | None], list[TrialRecord]] = defaultdict(list)
    for trial in trials:
        if trial.state == "running":
            cells[trial.params.method, trial.params.teacher].append(trial)
    judged = {trial.number: trial for trial in trials}
    for (method, teacher), own in cells.items():
        for rank, trial in enumerate(sorted(own, key=lambda it: (-score(it.rung), it.number)), 1):
            if rank > 1:
                of = f"{len(own)} settings of {method_label(str(method))} with {teacher}"
                judged[trial.number] = pruned(trial, f"rank {rank} of {of}; only the best goes on")
    return settle(state, list(judged.values()))


def _mean_rung(state: SearchState, method: str, setting: int) -> float | None:
    """Return the mean score at the rung of a setting over the teachers, or None if a run failed."""
    trials = [it for it in state.trials if it.params.method == method and _setting(state, it.number) == setting]
    scores = [it.rung.val_top1 for it in trials if it.rung is not None and it.rung.val_top1 is not None]
    return sum(scores) / len(scores) if len(scores) == len(state.spec.teachers) else None


def _setting(state: SearchState, trial: int) -> int:
    """Return the number of the setting of a trial, among the settings of its method."""
    return trial // (len(state.spec.space.search.methods) * len(state.spec.teachers))

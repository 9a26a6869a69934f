"""Sections on what was run: trials, learning curves and pruning, reruns, failures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from autodistill.formatting import EMPTY, maybe, percent, plural, points, recipe, short
from autodistill.records import RunResult, StudyRecord, TargetSummary, TrialRecord
from autodistill.report.parts import (
    MAX_ROWS,
    Cell,
    Column,
    Figure,
    Row,
    Table,
    best_full_runs,
    cut_note,
    number_columns,
    row,
    score,
    teacher_names,
    text_columns,
)

MAX_CURVES = 60
MAX_POINTS = 40
MAX_REASON = 160
AT_BOUND, DISPLACED = 0.5, 0.05
"""Shares of samples from which a trial's row warns about its temperatures."""
CURVES_NOTE = "One curve per trial: its full run, or the run up to its rung where it was pruned or failed."
RUNG_NOTES = {
    "part-way": "A rung is the first part of a full run, scored by its averaged weights.",
    "short schedule": "A rung is a complete annealed schedule of its own, so its curve rises faster than a full run's.",
}

End = Literal["finished", "pruned", "failed"]


@dataclass(frozen=True)
class TrialsInfo:
    table: Table
    counts: str


@dataclass(frozen=True)
class Curve:
    label: str
    teacher: str | None
    points: tuple[tuple[int, float], ...]
    """Epoch and validation accuracy, thinned to at most 40 points, the last one kept."""
    end: End


@dataclass(frozen=True)
class CurvesInfo:
    curves: tuple[Curve, ...]
    teachers: tuple[str, ...]
    pruned: int
    saved_epochs: int
    """Epochs of full runs that pruning avoided."""
    rung_epochs: int
    """Epochs that all rungs cost."""
    saving: str
    note: str
    figure: Figure | None


@dataclass(frozen=True)
class RerunsInfo:
    finding: str
    table: Table | None
    """None: there were no reruns, or the finalists are not chosen yet."""


@dataclass(frozen=True)
class FailuresInfo:
    total: int
    table: Table | None


def trials_info(record: StudyRecord) -> TrialsInfo:
    """Return a table of at most 100 trials, those with the best scores, by number."""
    best = sorted(record.trials, key=lambda trial: (-score(trial.full), -score(trial.rung), trial.number))
    shown = sorted(best[:MAX_ROWS], key=lambda trial: trial.number)
    columns = (
        *number_columns("Trial"),
        *text_columns("Kind", "Teacher"),
        Column("Settings", long=True),
        *number_columns("Rung", "Full run"),
        Column("State"),
        Column("Reason and warnings", long=True),
    )
    note = cut_note(shown, len(record.trials), "trials, those with the best scores,")
    table = Table("Trials, validation accuracy", columns, tuple(_trial_row(trial) for trial in shown), note)
    return TrialsInfo(table, _counts(record.trials))


def _trial_row(trial: TrialRecord) -> Row:
    run = trial.full or trial.rung
    notes = [short(trial.reason, MAX_REASON)] if trial.reason else []
    if trial.replicate_of is not None:
        notes.append(f"replicate of trial {trial.replicate_of} with a new seed")
    notes += _warnings(run.targets if run else None)
    return row(
        str(trial.number),
        trial.kind,
        short(trial.params.teacher or "no teacher", 40),
        recipe(trial.params),
        maybe(trial.rung.val_top1 if trial.rung else None),
        maybe(trial.full.val_top1 if trial.full else None),
        trial.state,
        Cell("; ".join(notes) or EMPTY),
    )


def _warnings(targets: TargetSummary | None) -> Iterator[str]:
    if targets is None:
        return
    bound = targets.at_lower + targets.at_upper
    if bound > AT_BOUND:
        yield f"tau other is at a bound for {100 * bound:.0f} % of the samples that the teacher gets right"
    if targets.displaced > DISPLACED:
        yield f"the label lost its first place in {100 * targets.displaced:.0f} % of the targets"


def _counts(trials: Sequence[TrialRecord]) -> str:
    if not trials:
        return "No trial has been run yet."
    states = [trial.state for trial in trials]
    named = [f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed", "running")]
    parts = [part for part in named if not part.startswith("0 ")]
    replicates = sum(trial.replicate_of is not None for trial in trials)
    repeats = f"; {plural(replicates, 'replicate')} of an earlier trial" if replicates else ""
    return f"{plural(len(trials), 'trial')}: {', '.join(parts)}{repeats}."


def curves_info(record: StudyRecord) -> CurvesInfo:
    """Return the learning curves, and what pruning saved."""
    found = list(_curves(record))
    curves = tuple(found[:MAX_CURVES])
    pruned = sum(trial.state == "pruned" for trial in record.trials)
    by_rivals = sum(trial.state == "pruned" and not trial.out_of_budget for trial in record.trials)
    rung_epochs = sum(trial.rung.spent_epochs for trial in record.trials if trial.rung is not None)
    return CurvesInfo(
        curves=curves,
        teachers=teacher_names(record),
        pruned=pruned,
        saved_epochs=by_rivals * record.plan.epochs_rest,
        rung_epochs=rung_epochs,
        saving=f"{_saving(record, by_rivals, rung_epochs)} {_audit_words(record)}".strip(),
        note=f"{CURVES_NOTE} {RUNG_NOTES[record.plan.rungs]} {cut_note(curves, len(found), 'curves')}".strip(),
        figure=_curves_figure(curves, pruned, len(record.trials)) if curves else None,
    )


def _curves(record: StudyRecord) -> Iterator[Curve]:
    """Yield one curve per baseline and trial: baselines, full runs, running, pruned and failed trials."""
    for label, run in (("no teacher", record.no_teacher), ("plain KD", record.plain_kd)):
        if run is not None:
            yield from _curve(label, run, "finished" if run.state == "complete" else "failed")
    order = {"complete": 0, "running": 1, "pruned": 2, "failed": 3}
    trials = sorted(record.trials, key=lambda one: (order[one.state], -score(one.full), -score(one.rung), one.number))
    for trial in trials:
        run = trial.full or trial.rung
        end: End = trial.state if trial.state == "pruned" or trial.state == "failed" else "finished"
        if run is not None:
            yield from _curve(f"trial {trial.number}", run, end)


def _curve(label: str, run: RunResult, end: End) -> Iterator[Curve]:
    scored = [(one.epoch, one.val_top1) for one in run.curve if one.val_top1 is not None]
    if scored:
        last = len(scored) - 1
        steps = min(MAX_POINTS, len(scored)) - 1
        kept = [scored[round(step * last / steps)] for step in range(steps + 1)] if steps else scored
        yield Curve(label, run.params.teacher, tuple(kept), end)


def _saving(record: StudyRecord, pruned: int, rung_epochs: int) -> str:
    full, rest = record.plan.epochs_full, record.plan.epochs_rest
    cost = f"all rungs together cost {rung_epochs:,} epochs ({rung_epochs / full:.1f} full-training equivalents)"
    if not pruned:
        unpaid = sum(trial.out_of_budget for trial in record.trials)
        stopped = f"; {plural(unpaid, 'trial')} stopped because the budget had no full run left" if unpaid else ""
        ran = any(trial.rung is not None for trial in record.trials)
        return f"No trial was pruned by a rival{stopped}; {cost}." if ran else "No trial was pruned."
    saved = f"{pruned * rest:,} epochs ({pruned * rest / full:.1f} full-training equivalents)"
    stopped = f"Pruning stopped {pruned} of {plural(len(record.trials), 'trial')} at the rung"
    return f"{stopped}: {saved} not spent; {cost}."


def _audit_words(record: StudyRecord) -> str:
    """Say what pruning cost, if pruned trials were trained to the end."""
    if not record.audit:
        return ""
    best = best_full_runs(record)
    rivals = ((run, best[run.params.teacher]) for run in record.audit if run.params.teacher in best)
    better = [score(run) - score(rival) for run, rival in rivals if score(run) > score(rival)]
    trained = f"Audit: the {plural(len(record.audit), 'pruned trial')} with the best rung scores"
    spent = f"{sum(run.spent_epochs for run in record.audit):,} epochs outside the budget"
    found = f"{trained} went on to the end ({spent}); {len(better)} of them beat the best full run of their teacher"
    most = f", by up to {points(max(better))} points" if better else ""
    return f"{found}{most}."


def _curves_figure(curves: Sequence[Curve], pruned: int, trials: int) -> Figure:
    best = max(curves, key=lambda one: one.points[-1][1])
    name = f"{best.label} ({short(best.teacher)})" if best.teacher else best.label
    stopped = f"{pruned} of {plural(trials, 'trial')} stopped early" if trials else "no trial has been run yet"
    rows = tuple(row(one.label, short(one.teacher or "no teacher", 40), *_quarters(one), one.end) for one in curves)
    columns = (
        *text_columns("Curve", "Teacher"),
        *number_columns("Start", "Half-way", "End", "Last epoch"),
        Column("Ended"),
    )
    return Figure(
        finding=f"The highest curve, {name}, ends at {percent(best.points[-1][1])}; {stopped}.",
        alt=f"Validation accuracy against epoch, {plural(len(curves), 'curve')}; a cross marks a pruned trial.",
        table=Table("Validation accuracy along the curves", columns, rows),
    )


def _quarters(curve: Curve) -> tuple[str, ...]:
    scored = curve.points
    return (*(percent(scored[at][1]) for at in (0, len(scored) // 2, -1)), str(scored[-1][0]))


def reruns_info(record: StudyRecord) -> RerunsInfo:
    """Return the scores of the search's leaders before and in their rerun, and whether they became finalists."""
    reruns = record.reruns
    if not reruns or not record.finalists:
        return RerunsInfo("", None)
    finalists = [one.params for one in record.finalists]
    held = sum(rerun.params in finalists for rerun in reruns)
    finding = f"{held} of {len(reruns)} leaders of the search became finalists after a rerun with another seed"
    finding += "." if held == len(reruns) else "; other settings replaced the rest."
    searched = record.model_copy(update={"reruns": ()})
    rows = tuple(_rerun_row(searched, rerun, held=rerun.params in finalists) for rerun in reruns)
    columns = (
        *text_columns("Teacher", "Settings"),
        *number_columns("In the search", "Rerun", "Difference, points"),
        *text_columns("Then"),
    )
    return RerunsInfo(finding, Table("Reruns, validation accuracy", columns, rows))


def _rerun_row(searched: StudyRecord, rerun: RunResult, *, held: bool) -> Row:
    before, after = searched.search_score(rerun.params), rerun.val_top1
    return row(
        short(rerun.params.teacher or EMPTY, 40),
        recipe(rerun.params),
        maybe(before),
        maybe(after),
        points(after - before) if before is not None and after is not None else EMPTY,
        "finalist" if held else "no finalist",
    )


def failures_info(record: StudyRecord) -> FailuresInfo:
    """Return the failed runs and their reasons."""
    failed = [run for run in record.runs() if run.state == "failed"]
    if not failed:
        return FailuresInfo(0, None)
    rows = tuple(
        row(
            short(run.run),
            short(run.params.teacher or "no teacher"),
            recipe(run.params),
            f"{len(run.curve)} of {run.last_epoch}",
            short(run.reason or "no reason recorded", MAX_REASON),
        )
        for run in failed[:MAX_ROWS]
    )
    columns = (*text_columns("Run", "Teacher", "Settings"), *number_columns("Epochs"), Column("Reason", long=True))
    note = cut_note(rows, len(failed), "failed runs")
    return FailuresInfo(len(failed), Table("Failed runs", columns, rows, note))

"""What was run: trials, learning curves, failures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from autodistill.records import RunRecord, StudyRecord, TargetSummary, TrialRecord
from autodistill.report.sections.parts import (
    MOST_ROWS,
    Cell,
    Column,
    Figure,
    Row,
    Table,
    best_full_runs,
    number_columns,
    row,
    score,
    shown_of,
    teacher_names,
    text_columns,
)
from autodistill.report.words import EMPTY, maybe, percent, plural, points, recipe, short

MOST_CURVES = 60
MOST_POINTS = 40
LONGEST_REASON = 160
AT_BOUND, DISPLACED = 0.5, 0.05
ONE_EACH = "One curve for each trial: its full run, or its short run where it was pruned or failed."
SHORT_RUNS = {
    "part-way": "A short run is the first part of a full run, scored by its averaged weights.",
    "short runs": "A short run is a whole annealed schedule of its own, so it rises faster than a full run does.",
}

Mark = Literal["finished", "pruned", "failed"]


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
    mark: Mark
    """How the curve ends."""


@dataclass(frozen=True)
class CurvesInfo:
    curves: tuple[Curve, ...]
    teachers: tuple[str, ...]
    """In the study's order, which fixes colours and markers."""
    pruned: int
    saved_epochs: int
    """Full runs that pruning avoided."""
    short_epochs: int
    """What the short runs cost that made pruning possible."""
    saving: str
    note: str
    figure: Figure | None


@dataclass(frozen=True)
class FailuresInfo:
    total: int
    table: Table | None


def trials_info(record: StudyRecord) -> TrialsInfo:
    """The trials in words: at most 100, those with the best scores, by number."""
    best = sorted(record.trials, key=lambda trial: (-score(trial.full), -score(trial.short), trial.number))
    shown = sorted(best[:MOST_ROWS], key=lambda trial: trial.number)
    columns = (
        *number_columns("Trial"),
        *text_columns("Kind", "Teacher"),
        Column("Settings", long=True),
        *number_columns("Short run", "Full run"),
        Column("State"),
        Column("Why, and what to know", long=True),
    )
    note = shown_of(shown, len(record.trials), "trials, those with the best scores,")
    table = Table("Trials, validation accuracy", columns, tuple(_trial_row(trial) for trial in shown), note)
    return TrialsInfo(table, _counts(record.trials))


def curves_info(record: StudyRecord) -> CurvesInfo:
    """Learning curves, where pruning cut, and what that saved."""
    found = list(_curves(record))
    curves = tuple(found[:MOST_CURVES])
    pruned = sum(trial.state == "pruned" for trial in record.trials)
    by_rivals = sum(trial.state == "pruned" and not trial.out_of_budget for trial in record.trials)
    short_runs = [trial.short for trial in record.trials if trial.short is not None]
    info = CurvesInfo(
        curves=curves,
        teachers=teacher_names(record),
        pruned=pruned,
        saved_epochs=by_rivals * record.plan.epochs_rest,
        short_epochs=sum(run.spent_epochs for run in short_runs),
        saving=f"{_saving(record, by_rivals, short_runs)} {_audited(record)}".strip(),
        note=f"{ONE_EACH} {SHORT_RUNS[record.plan.rungs]} {shown_of(curves, len(found), 'curves')}".strip(),
        figure=_curves_figure(curves, pruned, len(record.trials)) if curves else None,
    )
    return info


def failures_info(record: StudyRecord) -> FailuresInfo:
    """Runs that failed, with their reasons."""
    failed = [run for run in record.runs() if run.state == "failed"]
    if not failed:
        return FailuresInfo(0, None)
    rows = tuple(
        row(
            short(run.run),
            short(run.params.teacher or "no teacher"),
            recipe(run.params),
            f"{len(run.curve)} of {run.last_epoch}",
            short(run.reason or "no reason recorded", LONGEST_REASON),
        )
        for run in failed[:MOST_ROWS]
    )
    columns = (*text_columns("Run", "Teacher", "Settings"), *number_columns("Epochs"), Column("Reason", long=True))
    note = shown_of(rows, len(failed), "failed runs")
    return FailuresInfo(len(failed), Table("Failed runs", columns, rows, note))


def warnings(targets: TargetSummary | None) -> Iterator[str]:
    """What to know about where a rule put its temperatures."""
    if targets is None:
        return
    bound = targets.at_lower + targets.at_upper
    if bound > AT_BOUND:
        yield f"tau other sits at a bound for {100 * bound:.0f} % of the samples that the teacher gets right"
    if targets.displaced > DISPLACED:
        yield f"the label lost its first place in {100 * targets.displaced:.0f} % of the targets"


def _trial_row(trial: TrialRecord) -> Row:
    run = trial.full or trial.short
    notes = [short(trial.reason, LONGEST_REASON)] if trial.reason else []
    if trial.replicate_of is not None:
        notes.append(f"replicate of trial {trial.replicate_of} with a new seed")
    notes += warnings(run.targets if run else None)
    return row(
        str(trial.number),
        trial.kind,
        short(trial.params.teacher or "no teacher", 40),
        recipe(trial.params),
        maybe(trial.short.val_top1 if trial.short else None),
        maybe(trial.full.val_top1 if trial.full else None),
        trial.state,
        Cell("; ".join(notes) or EMPTY),
    )


def _counts(trials: Sequence[TrialRecord]) -> str:
    if not trials:
        return "No trial has been run yet."
    states = [trial.state for trial in trials]
    named = [f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed", "running")]
    parts = [part for part in named if not part.startswith("0 ")]
    replicates = sum(trial.replicate_of is not None for trial in trials)
    repeats = f"; {plural(replicates, 'replicate')} of an earlier trial" if replicates else ""
    return f"{plural(len(trials), 'trial')}: {', '.join(parts)}{repeats}."


def _curves(record: StudyRecord) -> Iterator[Curve]:
    """One curve per run or trial, the most telling first: baselines, full runs, pruned trials, failures."""
    for label, run in (("no teacher", record.no_teacher), ("plain KD", record.plain_kd)):
        if run is not None:
            yield from _curve(label, run, "finished" if run.state == "complete" else "failed")
    order = {"complete": 0, "running": 1, "pruned": 2, "failed": 3}
    trials = sorted(
        record.trials, key=lambda one: (order[one.state], -score(one.full), -score(one.short), one.number)
    )
    for trial in trials:
        run = trial.full or trial.short
        mark: Mark = "finished"
        if trial.state == "pruned" or trial.state == "failed":
            mark = trial.state
        if run is not None:
            yield from _curve(f"trial {trial.number}", run, mark)


def _curve(label: str, run: RunRecord, mark: Mark) -> Iterator[Curve]:
    points = [(one.epoch, one.val_top1) for one in run.curve if one.val_top1 is not None]
    if points:
        last = len(points) - 1
        steps = min(MOST_POINTS, len(points)) - 1
        kept = [points[round(step * last / steps)] for step in range(steps + 1)] if steps else points
        yield Curve(label, run.params.teacher, tuple(kept), mark)


def _saving(record: StudyRecord, pruned: int, short_runs: Sequence[RunRecord]) -> str:
    full, rest = record.plan.epochs_full, record.plan.epochs_rest
    spent = sum(run.spent_epochs for run in short_runs)
    cost = f"all short runs together cost {spent:,} epochs ({spent / full:.1f} equivalents)"
    if not pruned:
        unpaid = sum(trial.out_of_budget for trial in record.trials)
        stopped = f"; {plural(unpaid, 'trial')} stopped because the budget had no full run left" if unpaid else ""
        return f"Nothing was pruned by a rival{stopped}; {cost}." if short_runs else "Nothing was pruned."
    saved = f"{pruned * rest:,} epochs ({pruned * rest / full:.1f} full-training equivalents)"
    stopped = f"Pruning stopped {pruned} of {plural(len(record.trials), 'trial')} after the short run"
    return f"{stopped}: {saved} not spent; {cost}."


def _audited(record: StudyRecord) -> str:
    """What pruning cost, where pruned trials were trained to the end."""
    if not record.audit:
        return ""
    best = best_full_runs(record)
    rivals = ((run, best[run.params.teacher]) for run in record.audit if run.params.teacher in best)
    better = [score(run) - score(rival) for run, rival in rivals if score(run) > score(rival)]
    trained = f"Audit: the {plural(len(record.audit), 'pruned trial')} with the best short runs"
    spent = f"{sum(run.spent_epochs for run in record.audit):,} epochs outside the budget"
    found = f"{trained} went on to the end ({spent}); {len(better)} of them beat the best full run of their teacher"
    most = f", by up to {points(max(better))} points" if better else ""
    return f"{found}{most}."


def _curves_figure(curves: Sequence[Curve], pruned: int, trials: int) -> Figure:
    best = max(curves, key=lambda one: one.points[-1][1])
    name = f"{best.label} ({short(best.teacher)})" if best.teacher else best.label
    stopped = f"{pruned} of {plural(trials, 'trial')} stopped early" if trials else "no trial has been run yet"
    rows = tuple(row(one.label, short(one.teacher or "no teacher", 40), *_quarters(one), one.mark) for one in curves)
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
    points = curve.points
    return (*(percent(points[at][1]) for at in (0, len(points) // 2, -1)), str(points[-1][0]))

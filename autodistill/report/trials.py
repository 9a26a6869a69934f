"""Sections on the search: trials, curves and pruning, reruns, replicates, failures, and the settings that mattered."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np

from autodistill.formatting import EMPTY, maybe, method_label, percent, plural, points, recipe, short
from autodistill.records import RunResult, StudyRecord, TrialRecord
from autodistill.report.charts import Curve, Share, curves_chart, importance_chart
from autodistill.report.parts import (
    MAX_ROWS,
    Column,
    Figure,
    Row,
    Section,
    Table,
    cut_note,
    row,
    setting_name,
    spread_out,
    table,
    teacher_names,
)
from autodistill.stats.verdict import best_full_runs, score

MAX_CURVES = 60
MAX_POINTS = 40
MAX_REASON = 160
AT_BOUND, DISPLACED = 0.5, 0.05
"""Shares of samples from which a trial's row warns about its temperatures."""
RUNG_NOTES = {
    "part-way": "A rung is the first part of a full run, scored by its averaged weights.",
    "short schedule": "A rung is a complete annealed schedule of its own, so its curve rises faster than a full run's.",
}


def trials_info(record: StudyRecord) -> Section:
    """Return a table of at most 100 trials, those with the best scores, by number."""
    best = sorted(record.trials, key=lambda trial: (-score(trial.full), -score(trial.rung), trial.number))
    shown = sorted(best[:MAX_ROWS], key=lambda trial: trial.number)
    settings, notes = Column("Settings", long=True), Column("Reason and warnings", long=True)
    columns = (">Trial", "Kind", "Teacher", settings, ">Rung", ">Full run", "State", notes)
    note = cut_note(shown, len(record.trials), "trials, those with the best scores,")
    counts = "No trial has been run yet."
    if record.trials:
        states = [trial.state for trial in record.trials]
        named = [f"{states.count(it)} {it}" for it in ("complete", "pruned", "failed", "running") if it in states]
        replicates = sum(trial.replicate_of is not None for trial in record.trials)
        repeats = f"; {plural(replicates, 'replicate')} of an earlier trial" if replicates else ""
        counts = f"{plural(len(states), 'trial')}: {', '.join(named)}{repeats}."
    rows = table("Trials, validation accuracy", columns, map(_trial_row, shown), note) if shown else None
    return Section("Trials", counts, table=rows)


def _trial_row(trial: TrialRecord) -> Row:
    run = trial.full or trial.rung
    notes = [short(trial.reason, MAX_REASON)] if trial.reason else []
    if trial.replicate_of is not None:
        notes.append(f"replicate of trial {trial.replicate_of} with a new seed")
    if run and run.targets:
        bound, displaced = run.targets.at_lower + run.targets.at_upper, run.targets.displaced
        if bound > AT_BOUND:
            at_bound = f"{100 * bound:.0f} % of the samples that the teacher gets right"
            notes.append(f"tau other is at a bound for {at_bound}")
        if displaced > DISPLACED:
            notes.append(f"the label lost its first place in {100 * displaced:.0f} % of the targets")
    return row(
        str(trial.number),
        trial.kind,
        short(trial.params.teacher or "no teacher", 40),
        recipe(trial.params),
        maybe(trial.rung.val_top1 if trial.rung else None),
        maybe(trial.full.val_top1 if trial.full else None),
        trial.state,
        "; ".join(notes) or EMPTY,
    )


def curves_info(record: StudyRecord) -> Section:
    """Return the learning curves, what pruning saved, and the reruns."""
    found = list(_curves(record))
    curves = found[:MAX_CURVES]
    note = (
        "One curve per trial: its full run, or the run up to its rung where it was pruned or failed. "
        f"{RUNG_NOTES[record.plan.rungs]} {cut_note(curves, len(found), 'curves')}"
    )
    figure = _curves_figure(record, curves) if curves else None
    return Section(
        "Learning curves and pruning",
        f"{_saving(record)} {_audit_words(record)}".strip(),
        figure=figure,
        note=note.strip(),
        parts=(reruns_info(record),),
        nav="Curves and pruning",
    )


def _curves(record: StudyRecord) -> Iterator[Curve]:
    """Yield one curve per baseline and trial: baselines, full runs, running, pruned and failed trials."""
    of_trials = {trial.full.run for trial in record.trials if trial.full is not None}
    for label, run in (("no teacher", record.no_teacher), ("plain KD", record.plain_kd)):
        if run is not None and run.run not in of_trials:
            yield from _curve(label, run, "finished" if run.state == "complete" else "failed")
    order = {"complete": 0, "running": 1, "pruned": 2, "failed": 3}
    trials = sorted(record.trials, key=lambda one: (order[one.state], -score(one.full), -score(one.rung), one.number))
    for trial in trials:
        if run := trial.full or trial.rung:
            end = trial.state if trial.state == "pruned" or trial.state == "failed" else "finished"
            yield from _curve(f"trial {trial.number}", run, end)


def _curve(label: str, run: RunResult, end: Literal["finished", "pruned", "failed"]) -> Iterator[Curve]:
    if scored := [(one.epoch, one.val_top1) for one in run.curve if one.val_top1 is not None]:
        yield Curve(label, run.params.teacher, spread_out(scored, MAX_POINTS), end)


def _saving(record: StudyRecord) -> str:
    full, rest = record.plan.epochs_full, record.plan.epochs_rest
    rungs = [trial.rung.spent_epochs for trial in record.trials if trial.rung is not None]
    cost = f"all rungs together cost {sum(rungs):,} epochs ({sum(rungs) / full:.1f} full-training equivalents)"
    pruned = sum(trial.state == "pruned" and not trial.out_of_budget for trial in record.trials)
    if pruned:
        saved = f"{pruned * rest:,} epochs ({pruned * rest / full:.1f} full-training equivalents)"
        stopped = f"Pruning stopped {pruned} of {plural(len(record.trials), 'trial')} at the rung"
        return f"{stopped}: {saved} not spent; {cost}."
    unpaid = sum(trial.out_of_budget for trial in record.trials)
    stopped = f"; {plural(unpaid, 'trial')} stopped because the budget had no full run left" if unpaid else ""
    return f"No trial was pruned by a rival{stopped}; {cost}." if rungs else "No trial was pruned."


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


def _curves_figure(record: StudyRecord, curves: Sequence[Curve]) -> Figure:
    best = max(curves, key=lambda one: one.points[-1][1])
    name = f"{best.label} ({short(best.teacher)})" if best.teacher else best.label
    pruned = sum(trial.state == "pruned" for trial in record.trials)
    stopped = f"{pruned} of {plural(len(record.trials), 'trial')} stopped early"
    if not record.trials:
        stopped = "no trial has been run yet"
    rows = []
    for one in curves:
        values = [percent(one.points[place][1]) for place in (0, len(one.points) // 2, -1)]
        teacher = short(one.teacher or "no teacher", 40)
        rows.append(row(one.label, teacher, *values, str(one.points[-1][0]), one.end))
    columns = ("Curve", "Teacher", ">Start", ">Half-way", ">End", ">Last epoch", "Ended")
    return Figure(
        "curves",
        finding=f"The highest curve, {name}, ends at {percent(best.points[-1][1])}; {stopped}.",
        alt=f"Validation accuracy against epoch, {plural(len(curves), 'curve')}; a cross marks a pruned trial.",
        table=table("Validation accuracy along the curves", columns, rows),
        draw=partial(curves_chart, curves, teacher_names(record)),
    )


def reruns_info(record: StudyRecord) -> Section:
    """Return the scores of the reruns and of the same configurations before, and whether they became finalists."""
    reruns = record.reruns
    if not reruns or not record.finalists:
        return Section()
    finalists = [one.params for one in record.finalists]
    held = sum(rerun.params in finalists for rerun in reruns)
    finding = f"{held} of {len(reruns)} configurations that were trained after the search became finalists"
    finding += "." if held == len(reruns) else f"; other settings scored better for {'the rest' if held else 'all'}."
    searched = record.model_copy(update={"reruns": ()})
    rows = []
    for rerun in reruns:
        before, after = searched.search_score(rerun.params), rerun.val_top1
        gain = points(after - before) if before is not None and after is not None else EMPTY
        then = "finalist" if rerun.params in finalists else "no finalist"
        teacher = short(rerun.params.teacher or EMPTY, 40)
        rows.append(row(teacher, recipe(rerun.params), maybe(before), maybe(after), gain, then))
    columns = ("Teacher", "Settings", ">In the search", ">Rerun", ">Difference, points", "Then")
    return Section("Reruns", finding, table=table("Reruns, validation accuracy", columns, rows))


def replicates_info(record: StudyRecord) -> Section:
    """Return the spread of the rung scores of trials with equal parameters."""
    groups: dict[int, list[TrialRecord]] = {}
    for trial in record.trials:
        if trial.rung is not None and trial.rung.val_top1 is not None:
            groups.setdefault(trial.number if trial.replicate_of is None else trial.replicate_of, []).append(trial)
    repeated = [group for _, group in sorted(groups.items()) if len(group) > 1]
    if not repeated:
        return Section()
    scores = [np.array([score(trial.rung) for trial in group]) for group in repeated]
    dof = sum(len(one) - 1 for one in scores)
    std = math.sqrt(sum(float(((one - one.mean()) ** 2).sum()) for one in scores) / dof)
    finding = (
        f"{plural(len(repeated), 'configuration')} ran again with another seed: between seeds a rung score has a "
        f"standard deviation of {100 * std:.1f} points ({plural(dof, 'degree')} of freedom)."
    )
    rows = [
        row(
            short(", ".join(str(trial.number) for trial in group)),
            short(group[0].params.teacher or "no teacher", 40),
            recipe(group[0].params),
            f"{100 * found.min():.1f} to {percent(found.max())}",
            f"{100 * (found.max() - found.min()):.1f}",
        )
        for group, found in zip(repeated[:MAX_ROWS], scores, strict=False)
    ]
    columns = ("Trials", "Teacher", "Settings", ">Rung scores", ">Spread, points")
    note = cut_note(rows, len(repeated), "configurations")
    return Section("Replicates", finding, table=table("Equal settings, other seeds", columns, rows, note))


def failures_info(record: StudyRecord) -> Section:
    """Return the failed runs and their reasons."""
    failed = [run for run in record.runs() if run.state == "failed"]
    if not failed:
        return Section("Failures", "No run failed.")
    rows = [
        row(
            short(run.run),
            short(run.params.teacher or "no teacher"),
            recipe(run.params),
            f"{len(run.curve)} of {run.last_epoch}",
            short(run.reason or "no reason recorded", MAX_REASON),
        )
        for run in failed[:MAX_ROWS]
    ]
    columns = ("Run", "Teacher", "Settings", ">Epochs", Column("Reason", long=True))
    note = cut_note(rows, len(failed), "failed runs")
    return Section("Failures", table=table("Failed runs", columns, rows, note))


def importance_info(record: StudyRecord) -> Section:
    """Return the importance of each setting for the rung scores, in all and for each method, and the replicates."""
    parts = (replicates_info(record),)
    found = record.importance
    if found is None:
        return Section("What mattered", note="Importance was not computed.", parts=parts)
    shares = _shares(found.shares, found.shares_std)
    within = tuple(
        _share_table(
            f"Within {method_label(method)} (n = {found.within_method_n.get(method, 0)})",
            _shares(inner, found.within_method_std.get(method, {})),
        )
        for method, inner in sorted(found.within_method.items())
        if inner
    )
    if not shares:
        return Section("What mattered", tables=within, note=found.note, parts=parts)
    figure = Figure(
        "importance",
        finding=_importance_finding(shares, found.n),
        alt=f"Bars: the share of variance that each of {plural(len(shares), 'setting')} explains.",
        table=_share_table("Shares of the variance of the rung scores", shares),
        draw=partial(importance_chart, shares, found.n),
    )
    note = found.note
    if found.evaluator_seeds > 1:
        forests = f"{found.evaluator_seeds} random forests of different seeds, {plural(found.n, 'trial')} each"
        note = f"Means over {forests}; \N{PLUS-MINUS SIGN} is their standard deviation. {note}".strip()
    text = (
        "fANOVA over the rung scores, which every trial has. It describes the trials of this study and predicts "
        "nothing about others."
    )
    return Section("What mattered", text, figure=figure, tables=within, note=note, parts=parts)


def _shares(means: Mapping[str, float], spread: Mapping[str, float]) -> list[Share]:
    """Return the shares of the settings, largest first."""
    ordered = sorted(means.items(), key=lambda item: (-item[1], item[0]))
    return [Share(name, mean, spread.get(name)) for name, mean in ordered]


def _importance_finding(shares: Sequence[Share], n: int) -> str:
    first, *others = shares
    largest = f"{_per_cent(first)}, goes to {setting_name(first.setting)}"
    finding = f"The largest share of variance, {largest} (n = {n} rung scores)"
    if others:
        second = others[0]
        if first.mean - second.mean < 2 * math.hypot(first.std or 0.0, second.std or 0.0):
            finding += f"; {setting_name(second.setting)}, {_per_cent(second)}, is within the spread of the forests"
    return f"{finding}."


def _per_cent(share: Share) -> str:
    spread = "" if share.std is None else f" \N{PLUS-MINUS SIGN} {100 * share.std:.0f}"
    return f"{100 * share.mean:.0f}{spread} %"


def _share_table(caption: str, shares: Sequence[Share]) -> Table:
    rows = (row(setting_name(one.setting), _per_cent(one)) for one in shares[:MAX_ROWS])
    return table(caption, ("Setting", ">Share"), rows)

"""The verdict about the methods of a grid, with its sentences: a pure function of the record."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from autodistill import stats
from autodistill.formatting import listed, maybe, method_label, percent, plural, points, short, sure
from autodistill.records import (
    MethodContrast,
    MethodGrid,
    MethodVerdict,
    ScoreRow,
    SlopeRow,
    StudyRecord,
    TeacherRecord,
    TuningRow,
)
from autodistill.stats import grid as grids
from autodistill.stats.evidence import WIDEST, accuracy_ends, all_failed, ends

NO_TEACHER, LABEL_SMOOTHING = "no teacher", "label smoothing"
"""Names of the rows without a teacher."""
RUNNING = "The study is still running, so nothing is decided."
FAILED = "Too many runs failed: fewer than two methods have two finished seeds with the same teachers."
ALONE_FAILED = "Too many runs failed: the method has no finished seed with any teacher."
TOGETHER = "which holds for all pairs of methods together"


def judge_grid(record: StudyRecord, *, threshold: float) -> MethodVerdict:
    """Name the best method of a grid, or say that the methods cannot be told apart and how many seeds would tell.

    Args:
        record: A record with a grid. While the study runs, or with a single seed, nothing is decided.
        threshold: Smallest difference in accuracy that matters, a fraction.
    """
    found = record.grid
    assert found is not None
    if not found.cells:
        return _unconfirmed(record, RUNNING if record.state == "running" else _failed(found), threshold=threshold)
    names = [it.name for it in record.teachers]
    scores, controls = _tables(found, names)
    counted = [name for name, kept in zip(names, grids.counted_teachers(scores), strict=True) if kept]
    table = grids.method_scores(scores)
    step = 1 / record.data.test
    # The rounding errors of the accuracies in a mean over teachers are independent.
    mean_step = step / math.sqrt(max(1, len(counted)))
    judged = grids.judge(table, threshold=threshold, step=mean_step)
    if not counted:  # of a single seed the means are shown, though nothing can be compared
        counted, table = names, scores.mean(axis=1)
    order = _order(found.methods, table, judged)
    baselines = (_row(name, row, step=step) for name, row in zip((NO_TEACHER, LABEL_SMOOTHING), controls, strict=True))
    rows = {
        "teachers": tuple(counted),
        "methods": tuple(
            _row(found.methods[place], table[place], step=mean_step, method=found.methods[place]) for place in order
        ),
        "baselines": tuple(it for it in baselines if it.seeds),
        "cells": tuple(
            _row(
                cell.teacher,
                scores[found.methods.index(cell.method), names.index(cell.teacher)],
                step=step,
                method=cell.method,
            )
            for cell in found.cells
        ),
        "threshold": threshold,
    }
    open_ = _undecided(record, judged, table)
    if open_:
        return _unconfirmed(record, open_, **rows)
    only = len(found.methods) == 1
    slopes, slope_contrasts = _slopes(record.teachers, found.methods, scores)
    verdict = MethodVerdict(
        verdict="only_one" if only else "best_method" if judged.named else "no_clear_difference",
        method=found.methods[order[0]] if only or judged.named else None,
        sentence="",
        contrasts=_contrasts(grids.compare_methods(table, step=mean_step), found.methods, order),
        gains=_gains(scores, controls, found.methods, names, step=step),
        slopes=slopes,
        slope_contrasts=slope_contrasts,
        tuning=_tuning(found),
        detectable=None if only or (judged.smallest_difference or 0) > WIDEST else judged.smallest_difference,
        seeds_to_settle=judged.seeds_to_settle,
        noise=_noise(scores, controls),
        **rows,
    )
    sentence = _sentence(record, verdict, [found.methods[place] for place in judged.rivals])
    reasons = tuple(_reasons(record, verdict, [found.methods[place] for place in judged.left_out]))
    return verdict.model_copy(update={"sentence": sentence, "reasons": reasons})


def _unconfirmed(record: StudyRecord, sentence: str, **rows: Any) -> MethodVerdict:
    reasons = tuple(_failures(record))
    return MethodVerdict(verdict="unconfirmed", method=None, sentence=sentence, reasons=reasons, **rows)


def _order(methods: Sequence[str], table: grids.Table, judged: grids.Judgement) -> list[int]:
    """Return the places of the methods, the best mean first and those that were left out last."""
    means = np.nan_to_num(stats.adjusted_means(table), nan=-1.0)
    alone = len(methods) == 1
    return sorted(range(len(methods)), key=lambda place: (not alone and place in judged.left_out, -means[place]))


def _undecided(record: StudyRecord, judged: grids.Judgement, table: grids.Table) -> str:
    """Return why nothing is decided; empty if something is."""
    if record.state == "running":
        return RUNNING
    if table.shape[-1] == 1:
        return "One seed gives no interval, so the methods are not compared: set confirm.seeds to 2 or more."
    if not np.isfinite(table).any() or (judged.leader is None and len(table) > 1):
        assert record.grid is not None
        return _failed(record.grid)
    return ""


def _failed(found: MethodGrid) -> str:
    return ALONE_FAILED if len(found.methods) == 1 else FAILED


def _tables(
    found: MethodGrid, teachers: Sequence[str]
) -> tuple[Float[np.ndarray, "methods teachers seeds"], Float[np.ndarray, "controls seeds"]]:
    """Return the test accuracies of cells and controls; NaN where a run failed or is missing."""
    by_cell = {(cell.method, cell.teacher): cell.runs for cell in found.cells}
    cells = [by_cell.get((method, name), ()) for method in found.methods for name in teachers]
    rows = [found.no_teacher, found.label_smoothing, *cells]
    seeds = {run.seed for runs in rows for run in runs}
    table = stats.score_table([stats.scores_by_seed(runs) for runs in rows], seeds)
    return table[2:].reshape(len(found.methods), len(teachers), len(seeds)), table[:2]


def cell_name(method: str, teacher: str) -> str:
    """Return the name of a cell in contrasts."""
    return f"{method} / {teacher}"


def _limits(difference: float, half_width: float) -> dict[str, float]:
    """Return the ends of an interval as fields of a record; none if it is missing or too wide."""
    return {name: _rounded(end) for name, end in ends(difference, half_width).items()}


def _rounded(value: float) -> float:
    """Return a fraction without its rounding error, which would otherwise decide where all scores are equal."""
    return round(float(value), 12) + 0.0


def _row(name: str, scores: Float[np.ndarray, " seeds"], *, step: float, method: str | None = None) -> ScoreRow:
    """Return a mean with the Student-t interval of its own runs."""
    mean, half_width = stats.own_mean(scores, step=step)
    seeds = int((~np.isnan(scores)).sum())
    known = mean if seeds else None
    return ScoreRow(name=name, method=method, seeds=seeds, test_top1=known, **accuracy_ends(mean, half_width))


def _contrasts(compared: grids.MethodPairs, methods: Sequence[str], order: Sequence[int]) -> tuple[MethodContrast, ...]:
    """Return the larger value minus the smaller, for every two methods with shared seeds, in the given order."""
    half_width, at_least = compared.half_width(), compared.bounds().at_least
    found = []
    for one, other in combinations(order, 2):
        at = (one, other) if compared.pairs.difference[one, other] >= 0 else (other, one)
        difference = float(compared.pairs.difference[at])
        if not math.isnan(difference):
            pair = {"better": methods[at[0]], "worse": methods[at[1]], "difference": _rounded(difference)}
            limits = _limits(difference, float(half_width[at]))
            found.append(MethodContrast(**pair, **limits, at_least=_rounded(at_least[at])))
    return tuple(found)


def _gains(
    scores: grids.Grid,
    controls: Float[np.ndarray, "controls seeds"],
    methods: Sequence[str],
    teachers: Sequence[str],
    *,
    step: float,
) -> tuple[MethodContrast, ...]:
    """Return each cell minus no teacher and minus label smoothing."""
    pairs = grids.compare_cells(scores, controls, step=step)
    width = pairs.half_width()
    found = []
    for place, (method, teacher) in enumerate((it, name) for it in methods for name in teachers):
        for column, control in enumerate((NO_TEACHER, LABEL_SMOOTHING)):
            at = (len(controls) + place, column)
            difference, half = float(pairs.difference[at]), float(width[at])
            if not math.isnan(difference):
                pair = {"better": cell_name(method, teacher), "worse": control, "difference": _rounded(difference)}
                found.append(MethodContrast(**pair, **_limits(difference, half)))
    return tuple(found)


def _slopes(
    teachers: Sequence[TeacherRecord], methods: Sequence[str], scores: grids.Grid
) -> tuple[tuple[SlopeRow, ...], tuple[MethodContrast, ...]]:
    """Return the change of accuracy per doubling of the teacher's MACs, and its differences between methods.

    Both are empty for too few teachers of known size.
    """
    by_seed = grids.capacity_slopes(scores, np.array([it.cost.macs or math.nan for it in teachers], dtype=float))
    found = [stats.own_mean(row) for row in by_seed]
    slopes = np.array([0.0 if math.isnan(half_width) else slope for slope, half_width in found])
    rows = [
        SlopeRow(method=method, slope=_rounded(slope), **_limits(slope, half_width))
        for method, (slope, half_width) in zip(methods, found, strict=True)
        if not math.isnan(half_width)
    ]
    order = np.argsort(-slopes, kind="stable").tolist()
    return tuple(rows), _contrasts(grids.compare_methods(by_seed), methods, order) if rows else ()


def _noise(scores: grids.Grid, controls: Float[np.ndarray, "controls seeds"]) -> float | None:
    """Return the residual standard deviation of a run, with seed effects removed."""
    fitted = stats.fit(np.concatenate([controls, scores.reshape(-1, scores.shape[-1])]))
    dof = int(fitted.residual_dof)
    return math.sqrt(float(fitted.residual_ss) / dof) if dof > 0 else None


def _sentence(record: StudyRecord, verdict: MethodVerdict, rivals: Sequence[str]) -> str:
    first, *others = verdict.methods
    leader, task = method_label(first.name), f"{short(record.student.name)} on {short(record.data.name)}"
    teachers = plural(len(verdict.teachers), "teacher")
    reached = f"its students reach {maybe(first.test_top1)} on test, on average over {teachers}"
    if not others:
        return f"{leader} was measured alone for {task}: {reached}."
    leads = {it.worse: it for it in verdict.contrasts if it.better == first.name}
    if verdict.verdict == "best_method":
        second = leads[next(it.name for it in others if it.name in leads)]
        ahead = f"{points(second.difference)} points over {method_label(second.worse)}, the second"
        how = f"{_range(second)}, {TOGETHER}"
        return f"{leader} is the best of {len(verdict.methods)} methods for {task}: {reached}, {ahead} ({how})."
    nearest = min((leads[name] for name in rivals if name in leads), key=lambda it: it.difference, default=None)
    lead = ""
    if nearest is not None:
        lead = f", {points(nearest.difference)} points over {method_label(nearest.worse)} ({_range(nearest)})"
    names = listed([method_label(name) for name in rivals])
    return f"For {task}, {leader} cannot be told apart from {names}: {reached}{lead}{_settled(verdict, leads, rivals)}."


def _settled(verdict: MethodVerdict, leads: Mapping[str, MethodContrast], rivals: Sequence[str]) -> str:
    """Say how many seeds would tell the methods apart."""
    if verdict.seeds_to_settle is not None:
        return f"; about {verdict.seeds_to_settle} seeds would tell, at the measured differences and noise"
    within = [method_label(name) for name in rivals if name in leads and leads[name].difference <= verdict.threshold]
    if within:
        least = f"{100 * verdict.threshold:.1f} points that matter"
        return f"; the difference to {listed(within)} is within the {least}, so no number of seeds would tell"
    return "; more than 50 seeds would be needed to tell"


def _reasons(record: StudyRecord, verdict: MethodVerdict, left_out: Sequence[str]) -> Iterator[str]:
    if left_out and len(verdict.methods) > 1:
        yield f"Not compared, because too many of its runs failed: {listed([method_label(name) for name in left_out])}."
    yield from _failures(record)
    dropped = [short(it.name) for it in record.teachers if it.name not in verdict.teachers]
    if dropped:
        yield f"Left out of the means of all methods, because runs failed: {listed(dropped)}."
    behind = [it for it in verdict.contrasts if it.better == verdict.methods[0].name and (it.low or 0.0) > 0]
    if verdict.verdict != "best_method" and behind:
        each = [f"{method_label(it.worse)} ({points(it.difference)} points, {_range(it)})" for it in behind]
        yield f"{method_label(verdict.methods[0].name)} is ahead of {listed(each)}."
    if verdict.detectable is not None:
        yield (
            "At its noise, this grid tells two methods apart in 80 % of repetitions if they differ by "
            f"{100 * verdict.detectable:.1f} points or more."
        )
    yield from _at_chance(record, verdict)
    yield from _against_controls(record, verdict)
    if verdict.slopes:
        each = [f"{method_label(it.method)} {points(it.slope)} ({_range(it)})" for it in verdict.slopes]
        yield (
            f"Per doubling of the teacher's MACs, the students' accuracy changes by, in points: {listed(each)}. This "
            "holds for these teachers, which differ in more than their size."
        )
        told = [it for it in verdict.slope_contrasts if (it.low or 0.0) > 0]
        pairs = [f"{method_label(it.better)} over {method_label(it.worse)} by {points(it.difference)}" for it in told]
        if pairs:
            yield f"Methods whose slopes differ, in points per doubling: {listed(pairs)}."
        elif len(verdict.slopes) > 1:
            yield "No two methods can be told apart by how their students change with the size of the teacher."
    if verdict.tuning:
        each = [f"{method_label(it.method)} {points(it.gain)} ({_range(it)})" for it in verdict.tuning]
        yield f"A setting for each teacher in place of one for all teachers gains, in points: {listed(each)}."


def _at_chance(record: StudyRecord, verdict: MethodVerdict) -> Iterator[str]:
    """Say that students did not learn, where none is above the share of the largest class by its sampling error."""
    counts = record.data.counts[2] if record.data.counts else [1] * len(record.data.classes)
    chance = max(counts) / sum(counts)
    error = stats.accuracy_error(chance, images=record.data.test)
    known = [it.test_top1 for it in (*verdict.cells, *verdict.baselines) if it.test_top1 is not None]
    metric = record.space.get("search", {}).get("metric", "top1")
    if known and metric == "top1" and max(known) <= chance + 3 * error:
        yield (
            f"No student is above chance ({percent(chance)}): nothing was learned, and nothing can be compared. Raise "
            "training.epochs, or change training.lr."
        )


def _failures(record: StudyRecord) -> Iterator[str]:
    """Say why methods failed with every teacher."""
    assert record.grid is not None
    for method in record.grid.methods:
        trials = [trial for trial in record.trials if trial.params.method == method]
        yield from all_failed(method_label(method), trials)


def _range(row: MethodContrast | SlopeRow | TuningRow) -> str:
    return sure(row.low, row.high, enough=True)


def _against_controls(record: StudyRecord, verdict: MethodVerdict) -> Iterator[str]:
    """Say which cells are shown to be better than training without a teacher, and how the best cell compares."""
    for control, name in ((LABEL_SMOOTHING, "label smoothing"), (NO_TEACHER, "training on labels alone")):
        own = [it for it in verdict.gains if it.worse == control]
        ahead = {it.better for it in own if (it.low or 0.0) > 0}
        behind = sum((it.high or 0.0) < 0 for it in own)
        if own and not ahead:
            worse = f", {behind} {'is' if behind == 1 else 'are'} worse" if behind else ""
            yield f"No cell is shown to be better than {name} ({plural(len(own), 'cell')}){worse}."
        elif own:
            count = f"{len(ahead)} of {plural(len(own), 'cell')} {'is' if len(ahead) == 1 else 'are'}"
            worse = f", {behind} worse" if behind else ""
            yield f"{count} better than {name}{worse}, by intervals of each cell."
        if ahead and control == LABEL_SMOOTHING:
            measured = {it.name for it in verdict.cells}
            better = {it.name for it in verdict.cells if cell_name(str(it.method), it.name) in ahead}
            none = [short(it.name) for it in record.teachers if it.name in measured - better]
            if none:
                yield f"With {listed(none)}, no method is shown to be better than label smoothing."
    known = [(it.test_top1, it) for it in verdict.cells if it.test_top1 is not None]
    if known:
        accuracy, best = max(known, key=lambda pair: pair[0])
        gains = {it.better: it for it in verdict.gains if it.worse == LABEL_SMOOTHING}
        gain = gains.get(cell_name(str(best.method), best.name))
        over = f", {points(gain.difference)} points over label smoothing ({_range(gain)})" if gain else ""
        yield (
            f"The best cell is {method_label(str(best.method))} from {short(best.name)}: {percent(accuracy)}{over}. As "
            "the best of several it is partly luck."
        )


def _tuning(found: MethodGrid) -> tuple[TuningRow, ...]:
    """Compare a setting for each teacher with one for all teachers, paired by seed, where both were trained."""
    rows = []
    for method in found.methods:
        shared = {it.teacher: it for it in found.shared if it.method == method}
        own = {it.teacher: it for it in found.cells if it.method == method and it.teacher in shared}
        if all(cell.params == shared[teacher].params for teacher, cell in own.items()):
            continue  # one setting is the best of every cell: there is nothing to compare
        cells = [*own.values(), *(shared[teacher] for teacher in own)]
        seeds = {run.seed for cell in cells for run in cell.runs}
        table = stats.score_table([stats.scores_by_seed(cell.runs) for cell in cells], seeds)
        # NaN unless all teachers have both runs.
        by_seed = (table[: len(own)] - table[len(own) :]).mean(axis=0)
        gain, half_width = stats.own_mean(by_seed)
        if not math.isnan(gain):
            rows.append(TuningRow(method=method, gain=_rounded(gain), **_limits(gain, half_width)))
    return tuple(rows)

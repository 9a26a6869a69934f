"""The verdict about the methods of a grid, with its sentences: a pure function of the record."""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from autodistill import stats
from autodistill.formatting import listed, method_label, percent, plural, points, short, sure
from autodistill.records import (
    CellRecord,
    MethodContrast,
    MethodGrid,
    MethodVerdict,
    RunResult,
    ScoreRow,
    SlopeRow,
    StudyRecord,
)
from autodistill.stats import grid as grids
from autodistill.stats.evidence import WIDEST

NO_TEACHER, LABEL_SMOOTHING = "no teacher", "label smoothing"
"""Names of the rows without a teacher."""
TOGETHER = "which holds for all pairs of methods together"


def judge_grid(record: StudyRecord, *, threshold: float) -> MethodVerdict:
    """Name the best method of a grid, or say that the methods cannot be told apart and how many seeds would tell.

    Args:
        record: A record with a grid. While the study runs, or with a single seed, nothing is decided.
        threshold: Smallest difference in accuracy that matters, a fraction.
    """
    found = record.grid
    assert found is not None
    names = [it.name for it in record.teachers]
    scores, controls = _tables(found, names)
    table = grids.method_scores(scores)
    judged = grids.judge(table, threshold=threshold)
    if record.state == "running" or (judged.leader is None and len(found.methods) > 1) or not found.cells:
        missing = "No method has two finished runs over new seeds with every teacher, so nothing is decided."
        return MethodVerdict(verdict="unconfirmed", method=None, sentence=missing, threshold=threshold)
    means = np.nan_to_num(grids.method_means(table), nan=-1.0)
    order = sorted(range(len(found.methods)), key=lambda place: -means[place])
    contrasts = _contrasts(table, found.methods)
    gains = _gains(scores, controls, found.methods, names)
    slopes = _slopes(record, scores)
    only = len(found.methods) == 1
    best = found.methods[order[0]] if only or judged.named else None
    return MethodVerdict(
        verdict="only_one" if only else "best_method" if judged.named else "no_clear_difference",
        method=best,
        sentence=_sentence(record, judged, table, order, contrasts),
        reasons=tuple(_reasons(record, judged, gains, slopes, _cell_rows(found), threshold)),
        methods=tuple(_row(found.methods[place], table[place], method=found.methods[place]) for place in order),
        baselines=tuple(_row(name, row) for name, row in zip((NO_TEACHER, LABEL_SMOOTHING), controls, strict=True)),
        cells=tuple(_cell_rows(found)),
        contrasts=contrasts,
        gains=gains,
        slopes=slopes,
        detectable=None if only else judged.smallest_difference,
        seeds_to_settle=judged.seeds_to_settle,
        noise=_noise(scores, controls),
        threshold=threshold,
    )


def _tables(
    found: MethodGrid, teachers: Sequence[str]
) -> tuple[Float[np.ndarray, "methods teachers seeds"], Float[np.ndarray, "controls seeds"]]:
    """Return the test accuracies of cells and controls; NaN where a run failed or is missing."""
    runs = [*found.no_teacher, *found.label_smoothing, *(run for cell in found.cells for run in cell.runs)]
    seeds = sorted({run.seed for run in runs})

    def line(of: Sequence[RunResult]) -> list[float]:
        known = {run.seed: run.test_top1 for run in of if run.test_top1 is not None and math.isfinite(run.test_top1)}
        return [known.get(seed, math.nan) for seed in seeds]

    cells = {(cell.method, cell.teacher): line(cell.runs) for cell in found.cells}
    missing = [math.nan] * len(seeds)
    scores = [[cells.get((method, name), missing) for name in teachers] for method in found.methods]
    controls = [line(found.no_teacher), line(found.label_smoothing)]
    shape = (len(found.methods), len(teachers), len(seeds))
    return np.array(scores, dtype=float).reshape(shape), np.array(controls, dtype=float).reshape(2, len(seeds))


def _row(name: str, scores: Float[np.ndarray, " seeds"], *, method: str | None = None) -> ScoreRow:
    """Return a mean with the Student-t interval of its own runs."""
    known = scores[~np.isnan(scores)]
    count, low, high = len(known), None, None
    mean = float(known.mean()) if count else None
    if mean is not None and count > 1:
        width = float(stdtrit(count - 1, (1 + stats.STATED) / 2) * known.std(ddof=1) / math.sqrt(count))
        if 2 * width <= WIDEST:
            low, high = max(0.0, mean - width), min(1.0, mean + width)
    return ScoreRow(name=name, method=method, seeds=count, test_top1=mean, low=low, high=high)


def _cell_rows(found: MethodGrid) -> list[ScoreRow]:
    """Return the rows of the cells."""

    def scores(cell: CellRecord) -> Float[np.ndarray, " seeds"]:
        return np.array([run.test_top1 for run in cell.runs if run.test_top1 is not None], dtype=float)

    return [_row(cell.teacher, scores(cell), method=cell.method) for cell in found.cells]


def _contrasts(table: grids.Table, methods: Sequence[str]) -> tuple[MethodContrast, ...]:
    """Return the better method minus the worse, for every two methods with shared seeds."""
    compared = grids.compare_methods(table)
    bounds = compared.bounds()
    found = []
    for one, other in combinations(range(len(methods)), 2):
        if compared.pairs.difference[one, other] < 0:
            one, other = other, one
        if not np.isnan(compared.pairs.difference[one, other]):
            at = (one, other)
            difference = float(compared.pairs.difference[at])
            limits = {name: float(getattr(bounds, name)[at]) for name in ("low", "high", "at_least")}
            found.append(MethodContrast(better=methods[one], worse=methods[other], difference=difference, **limits))
    return tuple(found)


def _gains(
    scores: grids.Grid, controls: Float[np.ndarray, "controls seeds"], methods: Sequence[str], teachers: Sequence[str]
) -> tuple[MethodContrast, ...]:
    """Return each cell minus no teacher and minus label smoothing."""
    pairs = grids.compare_cells(scores, controls)
    width = pairs.half_width()
    found = []
    for place, (method, teacher) in enumerate((it, name) for it in methods for name in teachers):
        for column, control in enumerate((NO_TEACHER, LABEL_SMOOTHING)):
            at = (len(controls) + place, column)
            difference, half = float(pairs.difference[at]), float(width[at])
            if not math.isnan(difference):
                limits = {"low": difference - half, "high": difference + half}
                cell = f"{method} / {teacher}"
                found.append(MethodContrast(better=cell, worse=control, difference=difference, **limits))
    return tuple(found)


def _slopes(record: StudyRecord, scores: grids.Grid) -> tuple[SlopeRow, ...]:
    """Return the change of accuracy per doubling of the teacher's MACs; empty for too few teachers of known size."""
    assert record.grid is not None
    macs = np.array([it.cost.macs or math.nan for it in record.teachers], dtype=float)
    found = grids.capacity_slopes(scores, macs)
    rows = []
    for method, slope, width in zip(record.grid.methods, found.slope, found.half_width, strict=True):
        if not math.isnan(slope):
            value, half = float(slope), float(width)
            rows.append(SlopeRow(method=method, slope=value, low=value - half, high=value + half))
    return tuple(rows)


def _noise(scores: grids.Grid, controls: Float[np.ndarray, "controls seeds"]) -> float | None:
    """Return the residual standard deviation of a run, with seed effects removed."""
    fitted = stats.fit(np.concatenate([controls, scores.reshape(-1, scores.shape[-1])]))
    dof = int(fitted.residual_dof)
    return math.sqrt(float(fitted.residual_ss) / dof) if dof > 0 else None


def _sentence(
    record: StudyRecord,
    judged: grids.MethodVerdict,
    table: grids.Table,
    order: Sequence[int],
    contrasts: Sequence[MethodContrast],
) -> str:
    assert record.grid is not None
    methods, teachers = record.grid.methods, plural(len(record.teachers), "teacher")
    leader = methods[order[0]]
    mean = float(grids.method_means(table)[order[0]])
    task = f"{short(record.student.name)} on {short(record.data.name)}"
    reached = f"on average over {teachers}, its students reach {percent(mean)} on test"
    if len(methods) == 1:
        return f"{method_label(leader)} was measured alone for {task}: {reached}."
    leads = {it.worse: it for it in contrasts if it.better == leader}
    if judged.named:
        second = leads[next(methods[place] for place in order[1:] if methods[place] in leads)]
        ahead = f"{points(second.difference)} points over {method_label(second.worse)}, the second"
        how = sure(second.low, second.high)
        best = f"{method_label(leader)} is the best of {len(methods)} methods for {task}"
        return f"{best}: {reached}, {ahead} ({how}, {TOGETHER})."
    rivals = [methods[place] for place in judged.rivals]
    near = [leads[name] for name in rivals if name in leads]
    nearest = min(near, key=lambda it: it.difference) if near else None
    names = listed([method_label(name) for name in rivals])
    how = (
        f" ({points(nearest.difference)} points over {method_label(nearest.worse)}, {sure(nearest.low, nearest.high)})"
        if nearest
        else ""
    )
    return f"For {task}, {method_label(leader)} cannot be told apart from {names}: {reached}{how}."


def _reasons(
    record: StudyRecord,
    judged: grids.MethodVerdict,
    gains: Sequence[MethodContrast],
    slopes: Sequence[SlopeRow],
    cells: Sequence[ScoreRow],
    threshold: float,
) -> list[str]:
    assert record.grid is not None
    reasons = []
    if judged.left_out:
        names = listed([method_label(record.grid.methods[place]) for place in judged.left_out])
        reasons.append(f"Not compared, because too many of its runs failed: {names}.")
    if judged.rivals:
        number = judged.seeds_to_settle
        told = (
            f"{number} seeds would tell"
            if number
            else "50 seeds would not tell, or the difference is below what matters"
        )
        reasons.append(f"If difference and noise stay as measured, {told} ({points(threshold)[1:]} points matter).")
    if judged.smallest_difference is not None and len(record.grid.methods) > 1:
        reasons.append(
            f"At its noise, this grid tells two methods apart in 80 % of repetitions if they differ by "
            f"{100 * judged.smallest_difference:.1f} points or more."
        )
    reasons += _against_controls(gains, cells)
    if slopes:
        each = listed([f"{method_label(it.method)} {points(it.slope)} ({sure(it.low, it.high)})" for it in slopes])
        reasons.append(
            f"Per doubling of the teacher's MACs, the students' accuracy changes by, in points: {each}. This holds for "
            "these teachers, which differ in more than their size."
        )
    return [*reasons, *_tuning(record.grid)]


def _against_controls(gains: Sequence[MethodContrast], cells: Sequence[ScoreRow]) -> list[str]:
    """Say how many cells are better than training without a teacher, and how the best cell compares."""
    reasons = []
    for control in (LABEL_SMOOTHING, NO_TEACHER):
        own = [it for it in gains if it.worse == control]
        ahead = [it for it in own if (it.low or 0.0) > 0]
        behind = [it for it in own if (it.high or 0.0) < 0]
        if own and not ahead:
            reasons.append(f"No cell is better than {control}, which needs no teacher ({len(own)} cells).")
        elif own:
            number = f"{len(ahead)} of {len(own)} cells {'is' if len(ahead) == 1 else 'are'} better than {control}"
            worse = f", {len(behind)} worse" if behind else ""
            reasons.append(f"{number}{worse}, by intervals of each cell.")
    known = [(it.test_top1, it) for it in cells if it.test_top1 is not None]
    if known:
        accuracy, best = max(known, key=lambda pair: pair[0])
        name = f"{best.method} / {best.name}"
        gain = next((it for it in gains if (it.better, it.worse) == (name, LABEL_SMOOTHING)), None)
        over = ""
        if gain is not None:
            over = f", {points(gain.difference)} points against label smoothing ({sure(gain.low, gain.high)})"
        reasons.append(
            f"The best cell is {method_label(str(best.method))} from {short(best.name)}: {percent(accuracy)}{over}. As "
            "the best of several it is partly luck."
        )
    return reasons


def _tuning(found: MethodGrid) -> list[str]:
    """Say what a setting for each teacher gains over a setting for all teachers, where both were trained."""
    parts = []
    for method in found.methods:
        shared = {it.teacher: it for it in found.shared if it.method == method}
        own = {it.teacher: it for it in found.cells if it.method == method and it.teacher in shared}
        pairs = [
            (mine.test_top1, common.test_top1)
            for teacher, cell in own.items()
            for mine, common in zip(cell.runs, shared[teacher].runs, strict=False)
            if mine.test_top1 is not None and common.test_top1 is not None
        ]
        if pairs:
            parts.append(f"{method_label(method)} {points(float(np.mean([mine - common for mine, common in pairs])))}")
    if not parts:
        return []
    return [f"A setting for each teacher in place of one for all teachers gains, in points: {listed(parts)}."]

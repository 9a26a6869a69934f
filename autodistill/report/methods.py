"""Sections of a method grid: which method, the cells, capacity mismatch, what was done and what it cannot tell."""

import math
from collections.abc import Iterator, Sequence
from functools import partial

from autodistill.formatting import (
    EMPTY,
    METHOD_SOURCES,
    count,
    interval,
    maybe,
    method_label,
    percent,
    plural,
    points,
    recipe,
    short,
    sure,
)
from autodistill.records import CellRecord, MethodContrast, MethodGrid, MethodVerdict, ScoreRow, SlopeRow, StudyRecord
from autodistill.report.charts import capacity_chart
from autodistill.report.parts import (
    Answer,
    Cell,
    Column,
    Figure,
    Row,
    Section,
    Table,
    accuracy_cell,
    mean_test_top1,
    row,
    sampling_note,
    table,
)
from autodistill.stats.methods import LABEL_SMOOTHING, NO_TEACHER, cell_name, judge_grid
from autodistill.stats.verdict import threshold_of

HEADLINES = {
    "best_method": "A best method",
    "no_clear_difference": "No single best method",
    "only_one": "One method to judge",
    "unconfirmed": "Unconfirmed",
}


def grid_of(record: StudyRecord) -> tuple[MethodGrid, MethodVerdict]:
    """Return the grid of a record and its verdict."""
    assert record.grid is not None
    verdict = record.grid.verdict or judge_grid(record, threshold=threshold_of(record))
    return record.grid, verdict


def grid_answer(record: StudyRecord) -> Answer:
    """Return the answer of a method grid."""
    _, verdict = grid_of(record)
    colour = {"best_method": "winner"}.get(verdict.verdict, verdict.verdict)
    return Answer(colour, HEADLINES[verdict.verdict], verdict.sentence, tuple(_facts(verdict)))


def _facts(verdict: MethodVerdict) -> Iterator[tuple[str, str, str]]:
    if verdict.methods:
        first = verdict.methods[0]
        label = "Best method" if verdict.verdict == "best_method" else "Highest mean"
        yield label, method_label(first.name), f"{maybe(first.test_top1)}, mean of {plural(first.seeds, 'seed')}"
        leads = [it for it in verdict.contrasts if it.better == first.name]
        if leads:
            nearest = min(leads, key=lambda it: it.difference)
            value = f"{points(nearest.difference)} points"
            yield f"Over {method_label(nearest.worse)}", value, interval(nearest.low, nearest.high, enough=True)
    for line in verdict.baselines:
        yield line.name.capitalize(), maybe(line.test_top1), f"mean of {plural(line.seeds, 'seed')}"
    if verdict.detectable is not None:
        found = f"{100 * verdict.detectable:.1f} points"
        yield "Smallest difference", found, "that this grid finds in 80 % of repetitions"


def grid_why(record: StudyRecord) -> Section:
    """Return the reasons, the methods and their differences."""
    _, verdict = grid_of(record)
    if not any(it.seeds for it in (*verdict.methods, *verdict.baselines)):
        return Section("Why", verdict.sentence)
    means = table(
        f"Methods, mean over {plural(len(verdict.teachers), 'teacher')}",
        ("Method", ">Test accuracy", ">Seeds", Column("Source", long=True)),
        map(_score_row, (*verdict.methods, *verdict.baselines)),
        "Small figures are 95 % Student-t intervals of a row's own runs. They include what a seed does to all rows "
        "alike, so differences are more exact than these intervals.",
    )
    pairs = _contrast_table("Differences between methods", ">Difference, points", verdict.contrasts)
    return Section("Why", points=verdict.reasons, table=means, tables=(pairs,))


def _contrast_table(caption: str, difference: str, contrasts: Sequence[MethodContrast]) -> Table:
    rows = (
        row(f"{method_label(it.better)} - {method_label(it.worse)}", points(it.difference), interval(it.low, it.high))
        for it in contrasts
    )
    return table(caption, ("Methods", difference, ">95 % interval, all pairs together"), rows)


def _score_row(line: ScoreRow) -> Row:
    below = interval(line.low, line.high, lambda value: f"{100 * value:.1f}", enough=line.seeds > 1)
    name = line.name if line.method is None else method_label(line.method)
    where = METHOD_SOURCES.get(line.method or "", "the user's own function") if line.method else "labels alone"
    cells = (name, Cell(maybe(line.test_top1), below), str(line.seeds), where)
    return row(*cells, mark="" if line.method else "baseline")


def cells_info(record: StudyRecord) -> Section:
    """Return a table of the cells: setting, scores, and gains over training without a teacher."""
    found, verdict = grid_of(record)
    scores = {(it.method, it.name): it for it in verdict.cells}
    gains = {(it.better, it.worse): it for it in verdict.gains}
    rows = [_cell_row(cell, scores[cell.method, cell.teacher], gains) for cell in found.cells]
    if not rows:
        return Section()
    columns = (
        *("Method", "Teacher", Column("Best setting on validation", long=True), ">Validation", ">Test"),
        *(">Points over no teacher", ">Points over label smoothing"),
    )
    failed = [
        f"{method_label(method)} with {short(one.name)}"
        for method in found.methods
        for one in record.teachers
        if record.state == "complete" and (method, one.name) not in scores
    ]
    missing = f" No run of {', '.join(failed)} ended." if failed else ""
    note = (
        f"Each cell tried {plural(found.settings, 'setting')}. Validation is the score of the best, one run, and tends "
        "to be too high; test is the mean over new seeds. Small figures are 95 % intervals, each for itself." + missing
    )
    return Section("Cells: methods x teachers", table=table("Cells", columns, rows, note), nav="Cells")


def _cell_row(cell: CellRecord, score: ScoreRow, gains: dict[tuple[str, str], MethodContrast]) -> Row:
    name = cell_name(cell.method, cell.teacher)
    found = [gains.get((name, control)) for control in (NO_TEACHER, LABEL_SMOOTHING)]
    return row(
        method_label(cell.method),
        short(cell.teacher),
        recipe(cell.params),
        maybe(cell.search_val_top1),
        accuracy_cell(score.test_top1, score.low, score.high, score.seeds),
        *(Cell(points(it.difference), interval(it.low, it.high, enough=True)) if it else EMPTY for it in found),
    )


def capacity_info(record: StudyRecord) -> Section:
    """Return the accuracy of students against the capacity of their teachers, a line for each method."""
    found, verdict = grid_of(record)
    teachers = sorted((it for it in record.teachers if it.cost.macs), key=lambda it: (it.cost.macs or 0, it.name))
    scores = {(it.method, it.name): it.test_top1 for it in verdict.cells if it.test_top1 is not None}
    lines = {
        method_label(method): sorted(
            (it.cost.macs or 0, scores[method, it.name]) for it in teachers if (method, it.name) in scores
        )
        for method in found.methods
    }
    if len(teachers) < 2 or not any(lines.values()):
        note = "Capacity mismatch is shown for two or more teachers of known size with confirm runs."
        return Section("Capacity mismatch", note=note)
    columns = ("Teacher", ">Teacher MACs", ">Its own accuracy, validation", *(f">{it}" for it in lines))
    rows = [
        row(
            short(it.name),
            count(it.cost.macs),
            percent(it.val_top1),
            *(maybe(scores.get((method, it.name))) for method in found.methods),
        )
        for it in teachers
    ]
    seeds = [it.seeds for it in verdict.cells if it.seeds]
    note = f"Each point is a mean of up to {plural(max(seeds, default=0), 'seed')} on test."
    width = None
    if verdict.noise is not None and seeds:
        # The widest band serves for all: cells differ in seeds only where runs failed.
        width = 2 * verdict.noise / min(seeds) ** 0.5
        note += (
            " Bands are two standard errors of a cell's mean either way, from the noise between seeds without the "
            "effects of cells and seeds."
        )
    baselines = {it.name: it.test_top1 for it in verdict.baselines if it.test_top1 is not None}
    figure = Figure(
        "capacity",
        finding=_mismatch_words(verdict) or "Students' accuracy on test against the capacity of their teachers.",
        alt=f"Lines of {plural(len(found.methods), 'method')}: the student's accuracy against its teacher's MACs.",
        table=table("Students by teacher and method, test", columns, rows),
        draw=partial(capacity_chart, lines, baselines, width),
        in_markdown=True,
    )
    slopes = table(
        "Change per doubling of the teacher's MACs",
        ("Method", ">Points of accuracy", ">95 % interval, each for itself"),
        (
            row(method_label(it.method), points(it.slope), interval(it.low, it.high, enough=True))
            for it in verdict.slopes
        ),
        "A least-squares line for each seed, over the teachers of this grid, which differ in more than their size.",
    )
    heading = "Differences of these changes between methods"
    between = _contrast_table(heading, ">Points per doubling", verdict.slope_contrasts)
    return Section("Capacity mismatch", figure=figure, tables=(slopes, between), note=note)


def _mismatch_words(verdict: MethodVerdict) -> str:
    falls = [it for it in verdict.slopes if (it.high or 0.0) < 0]
    rises = [it for it in verdict.slopes if (it.low or 0.0) > 0]
    parts = {
        "students get worse as teachers grow, with": falls,
        "students get better as teachers grow, with": rises,
        "no trend can be told with": [it for it in verdict.slopes if it not in falls and it not in rises],
    }
    text = "; ".join(f"{words} {', '.join(map(_slope_words, rows))}" for words, rows in parts.items() if rows)
    return f"{text[0].upper()}{text[1:]}: points per doubling of the teacher's MACs." if text else ""


def _slope_words(line: SlopeRow) -> str:
    return f"{method_label(line.method)} ({points(line.slope)}, {sure(line.low, line.high, enough=True)})"


def shared_info(record: StudyRecord) -> Section:
    """Return the students with one setting of each method for all teachers, beside those with a setting for each."""
    found, verdict = grid_of(record)
    section = partial(Section, "The method, or its tuning?", nav="Method or tuning")
    if not found.shared:
        return section(
            "Not measured: what a setting for each teacher gains over one setting of a method for all teachers. "
            "--set grid.shared_settings=true trains both."
        )
    own = {(it.method, it.teacher): it for it in found.cells}
    rows = []
    for cell in found.shared:
        mine = own.get((cell.method, cell.teacher))
        shared, best = mean_test_top1(cell.runs), mean_test_top1(mine.runs) if mine else None
        gain = EMPTY if shared is None or best is None else points(best - shared)
        name, teacher, setting = method_label(cell.method), short(cell.teacher), recipe(cell.params)
        rows.append(row(name, teacher, setting, maybe(shared), maybe(best), gain))
    columns = ("Method", "Teacher", Column("Shared setting", long=True), ">Shared", ">Own", ">Own over shared, points")
    note = (
        "Means over the same seeds on test. The shared setting has the best mean score at the rung over all teachers."
    )
    gains = tuple(
        f"Gain of a setting for each teacher over one for all, {method_label(it.method)}: {points(it.gain)} points "
        f"({sure(it.low, it.high, enough=True)})."
        for it in verdict.tuning
    )
    return section(points=gains, table=table("One setting for all teachers", columns, rows, note))


def grid_terms(record: StudyRecord) -> Iterator[tuple[str, str]]:
    """Yield what was done in a grid beyond what every study does, as terms and explanations."""
    plan, (_, verdict) = record.plan, grid_of(record)
    search = record.space.get("search", {})
    wave, startup = math.ceil(search.get("eta", 3)), search.get("startup", 10)
    tried = "Every cell, a method with a teacher, was trained with the method's first setting"
    if (plan.settings or 1) > 1:
        tried = (
            f"Every cell, a method with a teacher, tried {plan.settings} settings, the same for all teachers: the "
            f"method's first setting and others that Optuna suggested, at random for the first {startup} of a method. "
            f"Each trained {plan.epochs_rung} of {plan.epochs_full} epochs; of up to {wave} settings the best of the "
            "cell on validation went on"
        )
    yield (
        "Tuning",
        f"{tried}. All cells are tuned at equal cost, and none is compared with another before its confirm runs. "
        "docs/methods.md names the source of each first setting.",
    )
    yield (
        "Comparison of methods",
        "A method's score at a seed is its mean over the teachers. Methods are compared over common seeds, with 95 % "
        "intervals that hold for all pairs of methods together (the largest of all t statistics, Tukey's studentised "
        "range; the noise variance is three quarters the pair's own). A method is named if it is better than every "
        "other: the interval excludes 0, and the lower end of a simultaneous 92.5 % interval reaches "
        f"{100 * verdict.threshold:.1f} points. By simulation, under 5 % of grids then name a method that is not "
        "better by that much.",
    )
    yield (
        "Comparison of cells",
        "Differences of a cell to no teacher and to label smoothing have 95 % intervals of their own, with a noise "
        "variance from both methods' rows. Of many such intervals some miss the true difference.",
    )


def grid_limits(record: StudyRecord) -> tuple[str, ...]:
    """Return what a grid cannot tell."""
    _, verdict = grid_of(record)
    found = [
        "Split and view noise are not in the intervals: one split and one pool of views served the whole study.",
        "The best settings were chosen from few, by one run each on validation. More tuning may change the order of "
        "the methods, most for methods with more parameters. A setting whose students start slowly can be pruned at "
        "its rung.",
        "The means are over the teachers of this grid. Other teachers, students, data sets or lengths of training may "
        "rank the methods differently.",
    ]
    best = verdict.methods[0].test_top1 if verdict.methods else None
    if best is not None:
        found.append(sampling_note(record, best))
    return tuple(found)

"""Sections on the study itself: budget, method and its limits, timing, environment and citations."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, get_args

import tomli_w

from autodistill.formatting import METHOD_SOURCES, count, duration, method_label, origin, plural, short
from autodistill.records import DataRecord, Phase, ReadingRecord, RunResult, StudyRecord
from autodistill.report.charts import budget_chart
from autodistill.report.methods import grid_limits, grid_terms
from autodistill.report.parts import (
    MAX_ROWS,
    Figure,
    Section,
    cut_note,
    plain_kd_confirmed,
    row,
    sampling_note,
    table,
    verdict_of,
)
from autodistill.stats.tuning import settings_of

PHASES = ("start-up", *get_args(Phase))
TIME_PARTS = {
    "teacher": "teachers over views that were not cached",
    "cache": "cached logits, read or waited for",
    "targets": "temperatures of soft targets",
    "student": "the student's training",
    "evaluation": "evaluation of the student",
}
LOSSES = {
    "dkd": "CE(label, f) + tau^2 x (alpha x KL of target against the rest + beta x KL among the other classes)",
    "dist": "CE(label, f) + tau^2 x (beta x (1 - correlation in samples) + gamma x (1 - correlation in classes))",
    "nkd": "CE(label, f) - p(label) x log q(label) + gamma x tau^2 x CE among the other classes",
    "ttm": "CE(label, f) + beta x KL(softmax(teacher / tau), softmax(f))",
    "wttm": "CE(label, f) + beta x U x KL(softmax(teacher / tau), softmax(f)), with U the sum of p^(1 / tau)",
}
"""Losses of the methods with weights of their own; p and q are the probabilities of teacher and student."""
MAX_SPACE, MAX_VALUE = 12_000, 300
MAX_NAMES = 8
"""Largest number of names in a sentence."""

OPTUNA = (
    "Optuna: Akiba, Sano, Yanase, Ohta, Koyama. Optuna: a next-generation hyperparameter optimization framework. "
    "KDD 2019."
)


def budget_info(record: StudyRecord) -> Section:
    """Return the planned and the spent budget in full-training equivalents of the student."""
    plan = record.plan
    runs_of: dict[str, tuple[float, Sequence[RunResult | None]]] = {
        "no teacher": (plan.no_teacher, [record.no_teacher]),
        "priors": (plan.priors, _trial_runs(record, "prior")),
        "plain KD": (plan.plain_kd, [record.plain_kd]),
        "search": (plan.search, _trial_runs(record, "search")),
        "reruns": (plan.reruns, record.reruns),
        "confirm": (plan.confirm, [run for one in record.finalists for run in one.runs]),
        "label smoothing": (plan.label_smoothing, record.label_smoothing),
        "controls": (plan.controls, [run for one in record.controls for run in one.runs]),
    }
    if record.grid is not None:
        grid, no_teacher = record.grid, len(record.grid.no_teacher)
        runs_of = {
            "tuning": (plan.priors + plan.search, _trial_runs(record, "prior", "search")),
            "confirm": (
                plan.confirm - (plan.no_teacher and no_teacher - 1),
                [run for one in grid.cells for run in one.runs],
            ),
            "no teacher": (float(no_teacher), grid.no_teacher),
            "label smoothing": (plan.label_smoothing, grid.label_smoothing),
            "controls": (plan.controls, [run for one in grid.shared for run in one.runs]),
        }
    parts: dict[str, tuple[float, float]] = {}
    seen: set[str] = set()
    for name, (planned, runs) in runs_of.items():
        # A run that two parts share counts for the earlier part.
        spent = {run.run: run.spent_epochs for run in runs if run is not None and run.run not in seen}
        seen |= spent.keys()
        if planned or spent or name not in ("plain KD", "reruns", "label smoothing", "controls"):
            parts[name] = (planned, sum(spent.values()) / plan.epochs_full)
    total = record.spent_epochs / plan.epochs_full
    summary = (
        f"Asked for {short(plan.requested)}: {plan.total_epochs:,} epochs, {plan.equivalents:.1f} full trainings of "
        f"{plan.epochs_full} epochs. Spent {record.spent_epochs:,} epochs, {total:.1f} full trainings. "
        f"Ladder training and teacher forwards are not counted{', nor is the audit' if record.audit else ''}."
    )
    rows = (
        *(row(name, *(f"{one:.2f}" for one in shares)) for name, shares in parts.items()),
        row("total", f"{plan.equivalents:.2f}", f"{total:.2f}", mark="pick"),
    )
    figure = Figure(
        "budget",
        finding=f"{total:.1f} of {plan.equivalents:.1f} full-training equivalents were spent.",
        alt="Paired bars: planned and spent full-training equivalents for each part of the study.",
        table=table("Budget, full-training equivalents", ("Part", ">Planned", ">Spent"), rows),
        draw=partial(budget_chart, parts),
        in_markdown=True,
    )
    return Section("Budget", summary, figure=figure)


def _trial_runs(record: StudyRecord, *kinds: str) -> list[RunResult | None]:
    return [run for one in record.trials if one.kind in kinds for run in (one.rung, one.full)]


def method_info(record: StudyRecord) -> Section:
    """Return what was done, as terms and explanations, and the limits."""
    if record.grid is not None:
        terms = (*_setup(record), *grid_terms(record))
    else:
        terms = (*_setup(record), *_search(record), *_inference(record))
    return Section("Method and limits", terms=terms, parts=(limits_info(record),), nav="Method")


BALANCED = (
    " In this study every accuracy of a student is balanced: the mean over the classes of the accuracy on each class "
    "(search.metric). The sampling errors of the test set are those of plain accuracy."
)


def _images(data: DataRecord, reading: ReadingRecord) -> str:
    """Describe the user's images: sizes, classes, images that occur twice, files that were not read."""
    small, large = (f"{width} x {height}" for width, height in (reading.smallest, reading.largest))
    text = f"Files of {small} to {large} pixels, " if reading.distinct > 1 else f"Files of {small} pixels, "
    text += f"{min(data.counts[0]):,} to {max(data.counts[0]):,} training images in a class."
    if reading.same_split or reading.across_splits:
        text += (
            f" Equal pixels: {plural(reading.same_split, 'image')} within a split, {reading.across_splits:,} across "
            f"splits, {reading.other_class:,} of them under another class."
        )
    return text + "".join(f" Not read: {line}." for line in reading.left_out)


def _setup(record: StudyRecord) -> Iterator[tuple[str, str]]:
    data, student = record.data, record.student
    channels, height, width = data.image_shape
    what = f"{student.architecture} at width {student.width:g}"
    shape = f"stem stride {student.stem_stride}, total stride {student.total_stride}"
    if student.foreign is not None:
        size, how = student.foreign.input_size, student.foreign.interpolation
        what = short(student.architecture)
        shape = f"input of {size} x {size} pixels ({how}), normalisation {student.foreign.normalisation}"
    yield (
        "Student",
        f"{student.name}: {what}, "
        f"{count(student.cost.params)} parameters, {count(student.cost.macs)} MACs per image, {shape}.",
    )
    if student.foreign is not None:
        notes = "".join(f" {note[0].upper()}{note[1:]}." for note in student.foreign.notes)
        yield ("Start of the student", f"{origin(student)}.{notes}")
    yield (
        "Data",
        f"{data.name}: {len(data.classes):,} classes, images of {channels} x "
        f"{height} x {width}; {data.train:,} train, {data.validation:,} validation and {data.test:,} test images, "
        f"stratified (split seed {data.split_seed}).",
    )
    if data.reading is not None:
        yield "Images", _images(data, data.reading)
    chosen = "Settings" if record.grid else "Teachers, methods, temperatures and weights"
    yield (
        "Selection",
        f"{chosen} were chosen on validation. Only confirm runs were evaluated on the test set, and the verdict comes "
        "from those runs alone.",
    )
    methods = record.space.get("search", {}).get("methods", {})
    own = [f"{method_label(name)}: {LOSSES[name]}" for name in methods if name in LOSSES]
    yield (
        "Loss",
        "TS, ATS and ISATS: (1 - soft weight) x CE(label, f) + soft weight x tau_student^2 x CE(teacher, softmax(f / "
        "tau_student)). tau_student is 1 for ATS and ISATS and tau for TS, unless the settings name it."
        f"{''.join(f' {line}.' for line in own)} Terms are summed over classes and averaged over the batch.",
    )
    metric = record.space.get("search", {}).get("metric", "top1")
    yield (
        "Score",
        "A run's score is the validation accuracy of its averaged weights after the last epoch, not after the best."
        + BALANCED * (metric == "balanced_top1"),
    )
    yield (
        "Views",
        f"Augmentation depends on (view seed {data.view_seed}, epoch, image) alone, from a pool of "
        f"{plural(data.views, 'view')} that the epochs cycle through: every trial sees the same images, and teacher "
        "logits are computed once for each view.",
    )


def _search(record: StudyRecord) -> Iterator[tuple[str, str]]:
    plan = record.plan
    if plan.asynchronous:
        yield (
            "Suggestions",
            "The search suggested a trial whenever a worker was free (asynchronous mode, removed since) and judged "
            "it by what was known at that moment. The trials therefore depend on the order in which runs ended.",
        )
    rung = (
        f"Each trial first trains {plan.epochs_rung} of its {plan.epochs_full} epochs. At this rung it is scored by "
        "its averaged weights. It goes on to the end"
    )
    if plan.rungs == "short schedule":
        rung = (
            f"Each trial first trains a complete short schedule of {plan.epochs_rung} epochs, its rung. It goes on to "
            f"a full run of {plan.epochs_full} epochs"
        )
    priors = [trial for trial in record.trials if trial.kind == "prior"]
    pruned = any(trial.state == "pruned" for trial in priors)
    among_priors = f" Of the {len(priors)} priors, only those with the best rung scores went on." if pruned else ""
    yield (
        "Pruning",
        f"{rung} unless its rung score falls behind other rung scores of the same teacher and method: teachers and "
        f"methods never prune each other.{among_priors}",
    )
    if record.reruns:
        yield "Reruns", _reruns(record)


def _reruns(record: StudyRecord) -> str:
    leaders = plural(len(record.reruns), "leading teacher")
    if any(settings_of(it.params) != settings_of(record.reruns[0].params) for it in record.reruns):
        return (  # a study by an older version
            f"After the search, the best settings of the {leaders} were trained once more with another seed, and the "
            "finalists were chosen by mean score. The best of many single scores owes part of its lead to luck."
        )
    return (
        f"After the search, the settings of its best run were trained with each of the {leaders}, with a new seed "
        "where they had been trained before. The finalists were then chosen by mean score: each teacher with the "
        "better of its own best settings and the shared settings. The best of many single scores owes part of its lead "
        "to luck or to its settings."
    )


def _inference(record: StudyRecord) -> Iterator[tuple[str, str]]:
    least = f"{100 * verdict_of(record).threshold:.1f}"
    yield (
        "Intervals",
        "95 % Student-t intervals. Differences are paired over the confirm seeds that both have; their noise "
        "variance is three quarters the pair's own and one quarter that of the rest of the finalists x seeds table, "
        "no teacher included, with Satterthwaite's degrees of freedom. An interval beside one accuracy uses that "
        "row's own runs alone. P(best) is a Monte Carlo over the table's Student-t posterior.",
    )
    yield (
        "Verdict",
        "A winner is named when its interval against every other teacher among the finalists excludes 0 and the "
        f"lower end of a 92.5 % interval reaches {least} points. By simulation, under 5 % of studies then name a "
        "teacher that is worse, or better by less than that. Otherwise the report takes the cheapest (MACs) of the "
        "teachers that cannot be told apart and help; if none helps, the cheapest whose students were on average no "
        "worse than without a teacher. A teacher helps when its interval over no teacher lies above 0, and does not "
        f"help when that interval ends below {least}.",
    )
    race = record.plan.race
    if race is not None and len(record.finalists) > 2:
        yield (
            "Racing",
            f"Every finalist was trained over {race.first} confirm seeds. Each further seed went to the best teacher "
            "and its nearest rival while they were not told apart, and to no teacher while it was open whether a "
            "teacher helps. All looks at the results but the last share a tenth of the error probability.",
        )


def limits_info(record: StudyRecord) -> Section:
    """Return what the report cannot tell."""
    if record.grid is not None:
        return Section("What this report cannot tell", points=grid_limits(record))
    seeds = "Seeds change initialisation and batch order"
    if record.student.foreign is not None and record.student.foreign.weights:
        seeds = f"The student starts from {origin(record.student)}"
    points = [
        "Split and view noise are not in the intervals: one split and one pool of views served the whole study. "
        f"{seeds}."
    ]
    ranking = [one.confirmed_test_top1 for one in verdict_of(record).ranking if one.confirmed_test_top1 is not None]
    if ranking:
        points.append(sampling_note(record, ranking[0]))
    points.append(
        "Each comparison has its own 95 % interval; the intervals are not corrected for multiple comparisons. The "
        "settings of the finalists were chosen among many scores on validation, so search scores have their own "
        "column."
    )
    if record.plain_kd is not None and not plain_kd_confirmed(record):
        points.append("Plain KD is one run and unconfirmed.")
    foreign = [short(teacher.name) for teacher in record.teachers if teacher.is_foreign]
    if foreign:
        more = f" and {len(foreign) - MAX_NAMES} more" if len(foreign) > MAX_NAMES else ""
        points.append(
            f"It is unknown whether the teachers that were trained elsewhere ({', '.join(foreign[:MAX_NAMES])}{more}) "
            "saw the validation images in their training. Their own accuracy there may be too high; the verdict rests "
            "on test."
        )
    points.append("Another student, data set or length of training may rank the teachers differently.")
    return Section("What this report cannot tell", points=tuple(points))


def timing_info(record: StudyRecord) -> Section:
    """Return wall time by phase and the sums over runs; the time of each run is in study.json."""
    timing = record.timing
    phases, runs, parts, planned = (timing.get(it, {}) for it in ("phases_s", "runs_s", "parts_s", "planned_s"))
    if not phases:
        return Section()
    total, planned_s, runs_s = (math.fsum(it.values()) for it in (phases, planned, runs))
    ordered = [*(it for it in PHASES if it in phases), *(it for it in phases if it not in PHASES)]
    rows = [row(it, duration(phases[it])) for it in ordered]
    rows.append(row("all phases", duration(total)))
    if planned:
        took_s, planned_s = total - phases.get("start-up", 0.0), planned_s - planned.get("report", 0.0)
        rows.append(row("planned before the first run", f"{duration(planned_s)}; took {duration(took_s)}"))
    rows.append(row(f"{plural(len(runs), 'training run')}, summed over the workers", duration(runs_s)))
    rows += [row(f"of these, {words}", duration(parts[part])) for part, words in TIME_PARTS.items() if part in parts]
    rows.append(row("teacher runs over a view of the data, all others cached", f"{timing.get('views_computed', 0)}"))
    return Section(table=table("Time by phase", ("What", "Wall time"), rows))


def environment_info(record: StudyRecord) -> Section:
    """Return times, a table of the environment, the search space as TOML, and citations."""
    space = tomli_w.dumps(_without_none(record.space)).strip()
    if len(space) > MAX_SPACE:
        space = f"{space[:MAX_SPACE]}\n# cut here; the whole space is in study.json"
    found = list(_flatten(record.environment))
    rows = [row(short(key.replace("_", " ")), _value(value)) for key, value in found[:MAX_ROWS]]
    environment = table("Environment", ("What", "Value"), rows, cut_note(rows, len(found), "entries"))
    parts = (
        timing_info(record),
        Section("Environment and versions", table=environment, folded=True) if found else Section(),
        Section("Search space, resolved", code=space, folded=True) if space else Section(),
        Section("How to reproduce", _reproduction(record)),
        Section("Citation", points=citations(record)),
    )
    return Section("Environment, timing and citation", parts=parts, nav="Environment")


def citations(record: StudyRecord) -> tuple[str, ...]:
    """Return the publications of the methods of a study, of plain KD and of Optuna."""
    methods = {**dict.fromkeys(record.space.get("search", {}).get("methods", ())), "ts": None}
    known = [name for name in METHOD_SOURCES if name in methods]
    return (*(f"{method_label(name)}: {METHOD_SOURCES[name]}." for name in known), OPTUNA)


def _reproduction(record: StudyRecord) -> str:
    repeats = "repeats this study run for run on the same machine and with the same versions."
    if record.plan.asynchronous:
        repeats = (
            "starts a similar study. It does not repeat this study run for run, because the trials of this study "
            "depend on the order in which its runs ended."
        )
    return f"The command at the top {repeats} The whole record lies beside this page as study.json."


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested mappings as dotted keys, sorted."""
    for key, value in sorted(values.items()):
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _value(value: Any) -> str:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return f"{value:g}"
    return short(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value), MAX_VALUE)


def _without_none(value: Any) -> Any:
    """Leave out keys without a value, because TOML has no null, and sort the others as in study.json."""
    if isinstance(value, Mapping):
        return {str(key): _without_none(one) for key, one in sorted(value.items()) if one is not None}
    if isinstance(value, list | tuple):
        return [_without_none(one) for one in value if one is not None]
    return value

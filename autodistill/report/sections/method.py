"""How it was measured, and what it cost."""

from collections.abc import Iterator
from dataclasses import dataclass

from autodistill.records import PlanRecord, RunRecord, StudyRecord
from autodistill.report.sections.parts import (
    Figure,
    Table,
    number_columns,
    plain_kd_confirmed,
    row,
    text_columns,
    verdict_of,
)
from autodistill.report.words import count, plural, short
from autodistill.stats.sampling import accuracy_error


@dataclass(frozen=True)
class BudgetPart:
    name: str
    planned: float
    """In full-training equivalents."""
    spent: float


@dataclass(frozen=True)
class BudgetInfo:
    parts: tuple[BudgetPart, ...]
    summary: str
    figure: Figure | None


@dataclass(frozen=True)
class MethodInfo:
    points: tuple[tuple[str, str], ...]
    """Term and explanation."""
    limits: tuple[str, ...]


def budget_info(record: StudyRecord) -> BudgetInfo:
    """The plan against what was spent, in full-training equivalents of the student."""
    plan, spent = record.plan, _spent(record)
    planned = {
        "no teacher": plan.no_teacher,
        "plain KD": plan.plain_kd,
        "priors": plan.priors,
        "search": plan.search,
        **({"second looks": plan.second_looks} if plan.second_looks else {}),
        "confirm": plan.confirm,
        **({"controls": plan.controls} if plan.controls else {}),
    }
    parts = tuple(BudgetPart(name, size, spent[name] / plan.epochs_full) for name, size in planned.items())
    total = record.spent_epochs / plan.epochs_full
    summary = (
        f"Asked for {short(plan.requested)}: {plan.total_epochs:,} epochs, {plan.equivalents:.1f} full trainings of "
        f"{plan.epochs_full} epochs. Spent {record.spent_epochs:,} epochs, {total:.1f} full trainings. "
        f"Ladder training and teacher forwards are not counted{', nor is the audit' if record.audit else ''}."
    )
    return BudgetInfo(parts, summary, _budget_figure(parts, total, plan.equivalents))


def method_info(record: StudyRecord) -> MethodInfo:
    """What was done, in words, and what it cannot tell."""
    return MethodInfo(tuple(_method(record)), tuple(_limits(record)))


def _spent(record: StudyRecord) -> dict[str, int]:
    """Epochs by part of the plan; a run that two parts share counts once, for the earlier part."""
    parts: dict[str, list[RunRecord | None]] = {
        "no teacher": [record.no_teacher],
        "plain KD": [record.plain_kd],
        "priors": [run for one in record.trials if one.kind == "prior" for run in (one.short, one.full)],
        "search": [run for one in record.trials if one.kind == "search" for run in (one.short, one.full)],
        "second looks": list(record.second_looks),
        "confirm": [run for one in record.finalists for run in one.runs],
        "controls": [run for one in record.controls for run in one.runs],
    }
    seen: set[str] = set()
    spent = dict.fromkeys(parts, 0)
    for part, runs in parts.items():
        for run in runs:
            if run is not None and run.run not in seen:
                seen.add(run.run)
                spent[part] += run.spent_epochs
    return spent


def _budget_figure(parts: tuple[BudgetPart, ...], spent: float, planned: float) -> Figure:
    rows = (
        *(row(part.name, f"{part.planned:.2f}", f"{part.spent:.2f}") for part in parts),
        row("total", f"{planned:.2f}", f"{spent:.2f}", mark="pick"),
    )
    return Figure(
        finding=f"{spent:.1f} of {planned:.1f} full-training equivalents were spent.",
        alt="Paired bars: planned and spent full-training equivalents for each part of the study.",
        table=Table(
            "Budget, full-training equivalents", (*text_columns("Part"), *number_columns("Planned", "Spent")), rows
        ),
    )


def _method(record: StudyRecord) -> Iterator[tuple[str, str]]:
    data, student = record.data, record.student
    channels, height, width = data.image_shape
    yield (
        "Student",
        f"{student.name}: {student.architecture} at width {student.width:g}, "
        f"{count(student.cost.params)} parameters, {count(student.cost.macs)} MACs per image, "
        f"stem stride {student.stem_stride}, total stride {student.total_stride}.",
    )
    yield (
        "Data",
        f"{data.name}: {len(data.classes):,} classes, images of {channels} x "
        f"{height} x {width}; {data.train:,} train, {data.validation:,} validation and {data.test:,} test images, "
        f"stratified (split seed {data.split_seed}).",
    )
    yield (
        "Selection",
        "Teachers, rules, temperatures and weights were chosen on validation. The test set was touched by the "
        "finalists' confirm runs only, and the verdict comes from those runs alone.",
    )
    yield (
        "Loss",
        "(1 - soft weight) x CE(label, f) + soft weight x tau_student^2 x CE(teacher, softmax(f / tau_student)): "
        "both cross-entropies are summed over classes and averaged over the batch. tau_student is 1 for ATS and "
        "ISATS and tau for TS, unless the settings name it.",
    )
    yield (
        "Score",
        "A run's score is the validation accuracy of its averaged weights after the last epoch, never the best one.",
    )
    yield (
        "Views",
        f"Augmentation depends on (view seed {data.view_seed}, epoch, image) alone, from a pool of "
        f"{plural(data.views, 'view')} that the epochs cycle through: every trial sees the same images, and teacher "
        "logits are computed once for each view.",
    )
    yield from _search(record)
    yield from _inference(record)


def _search(record: StudyRecord) -> Iterator[tuple[str, str]]:
    """How trials were asked for and judged, and the finalists chosen."""
    plan = record.plan
    if plan.asynchronous:
        yield (
            "Asking",
            "Trials were asked for whenever a worker was free (--async) and judged on what was known at that moment, "
            "so which ones were tried and went on depends on the order in which runs ended. Each trial's audit trail "
            "says what it was decided on.",
        )
    many = any(trial.kind == "prior" and trial.state == "pruned" for trial in record.trials)
    yield (
        "Pruning",
        f"{_short_run(plan)} unless its short score falls behind other short scores of the same teacher: "
        "teachers never prune each other"
        + (
            f", but that of the {len(record.teachers)} priors only those with the best short runs go on."
            if many
            else "."
        ),
    )
    if record.second_looks:
        yield (
            "Second looks",
            f"When the search ended, the best settings of the {plural(len(record.second_looks), 'leading teacher')} "
            "were trained once more with another seed, and the finalists chosen by mean score: the best of many "
            "single scores is lucky too.",
        )


def _short_run(plan: PlanRecord) -> str:
    short, full = plan.epochs_short, plan.epochs_full
    if plan.rungs == "short runs":
        return (
            f"Each trial first trains a complete short schedule of {short} epochs. "
            f"It goes on to a full run of {full} epochs"
        )
    return (
        f"Each trial first trains {short} of its {full} epochs, its short run, which is scored by its averaged "
        "weights. It goes on to the end"
    )


def _inference(record: StudyRecord) -> Iterator[tuple[str, str]]:
    least = f"{100 * verdict_of(record).threshold:.1f}"
    yield (
        "Intervals",
        "95 % Student-t intervals. Differences are paired over the confirm seeds that both have; their noise "
        "variance is three quarters the pair's own and one quarter that of the rest of the finalists x seeds layout, "
        "no teacher included, with Satterthwaite's degrees of freedom. An interval beside one accuracy uses that "
        "row's own runs alone. P(best) is a Monte Carlo over the layout's Student-t posterior.",
    )
    yield (
        "Verdict",
        "A winner is named when its interval against every other teacher among the finalists excludes 0 and the "
        f"lower end of a 92.5 % interval reaches {least} points: by simulation, under 5 % of studies then name one "
        "that is worse, or better by less than that. Otherwise, of the teachers that are not told apart, the "
        "cheapest (MACs) is taken of those that help, or else of those not behind no teacher. A teacher helps "
        f"when its interval over no teacher lies above 0, and does not when that interval ends below {least}.",
    )
    race = record.plan.race
    if race is not None and len(record.finalists) > 2:
        yield (
            "Racing",
            f"Every finalist was trained over {race.first} confirm seeds; each further seed went to the best teacher "
            "and its nearest rival while they were not told apart, and to no teacher while it was open whether a "
            "teacher helps. All looks but the last share a tenth of the error probability.",
        )


def _limits(record: StudyRecord) -> Iterator[str]:
    yield (
        "Split and view noise are not in the intervals: one split and one pool of views served the whole study. "
        "Seeds change initialisation and batch order."
    )
    ranking = [one.confirmed_test_top1 for one in verdict_of(record).ranking if one.confirmed_test_top1 is not None]
    if ranking:
        error = accuracy_error(ranking[0], images=record.data.test)
        yield (
            f"A test set of {record.data.test:,} images has a sampling error of its own: {100 * error:.1f} points "
            "(standard error of one accuracy), largely shared by the students, and in no interval."
        )
    yield (
        "Each comparison has its own 95 % interval; they are not corrected for being several. The settings of the "
        "finalists were chosen among many looks at validation, which is why search scores stand in their own column."
    )
    if record.plain_kd is not None and not plain_kd_confirmed(record):
        yield "Plain KD is one run and unconfirmed."
    yield "Another student, data set or length of training may rank the teachers otherwise."

"""The model card of an exported student, rendered from the record of its study."""

from typing import Any

from autodistill import __version__
from autodistill.formatting import (
    EMPTY,
    METHOD_SOURCES,
    contrast_words,
    count,
    duration,
    interval,
    maybe,
    method_label,
    origin,
    percent,
    plural,
    recipe,
    run_words,
    short,
    sure,
)
from autodistill.records import (
    Contrast,
    RankRow,
    Recommendation,
    Record,
    StudyRecord,
    TeacherRecord,
    TrainedRecord,
    TrialParams,
)
from autodistill.report import as_markdown
from autodistill.report.method import citations, limits_info
from autodistill.report.places import without_folders

CARD = "README.md"
MOST_CLASSES = 100


class ExportedFile(Record):
    format: str
    file: str
    about: str
    size_bytes: int
    max_difference: float
    """Largest absolute difference of its logits from those of the eager student on the test set."""
    changed: int
    """Number of test images whose predicted class differs."""


class Exported(Record):
    """Files and measurements of an export."""

    trained: TrainedRecord
    files: tuple[ExportedFile, ...]
    images: int
    """Number of test images."""
    test_top1: float
    """Test accuracy of the exported weights, in float32."""
    test_balanced_top1: float
    """Mean over the classes of the accuracy on each class."""
    tolerance: float
    """Largest allowed difference of logits."""
    pool: int
    """Side of the blocks of pixels that the graphs average into one pixel."""
    input: dict[str, Any]
    """The preprocessing, as the metadata of the files have it."""
    torch: str

    @property
    def source(self) -> str:
        """Origin of the weights in words."""
        trained = self.trained
        if trained.run:
            return f"the study's {run_words(trained.run)}"
        return f"a new training on {trained.trained_on.replace('+', ' + ')} (seed {trained.seed})"


def card(record: StudyRecord, found: Exported) -> str:
    """Render the model card as markdown with the front matter of model hubs. All text of users is escaped."""
    record = without_folders(record)
    params, verdict = found.trained.params, record.recommendation
    assert verdict is not None
    teacher = next((one for one in record.teachers if one.name == params.teacher), None)
    _, channels, height, width = found.input["shape"]
    phases = [value for value in record.timing.get("phases_s", {}).values() if isinstance(value, int | float)]
    return as_markdown(
        "model_card.md.j2",
        name=f"{record.student.name} on {record.data.name}",
        record=record,
        found=found,
        formats=[one.format for one in found.files],
        version=__version__,
        channels=channels,
        height=height,
        width=width,
        start=origin(record.student),
        teacher=_teacher(params, teacher),
        method=recipe(params),
        loss=_loss(params),
        confirmed=_confirmed(record, verdict, params),
        ranking=[_rank(row) for row in verdict.ranking],
        contrasts=[_contrast(one) for one in verdict.contrasts],
        plain_kd=_plain_kd(record),
        wall_time=duration(sum(phases)) if phases else "not recorded",
        machine=short(str(record.environment.get("device", "not recorded"))),
        taught_by=short(teacher.name) if teacher else "",
        limits=limits_info(record).points,
        classes=record.data.classes[:MOST_CLASSES],
        citations=citations(record),
        percent=percent,
        short=short,
    )


def _teacher(params: TrialParams, teacher: TeacherRecord | None) -> str:
    if params.teacher is None:
        return "none"
    if teacher is None:
        return short(params.teacher)
    cost = f"{count(teacher.cost.params)} parameters, {count(teacher.cost.macs)} MACs"
    return f"{short(teacher.name)}: {teacher.architecture}, {cost}, {percent(teacher.val_top1)} on validation"


def _loss(params: TrialParams) -> str:
    if params.teacher is None:
        return "CE(label, f), averaged over the batch"
    if params.soft_weight is None:
        source = METHOD_SOURCES.get(str(params.method), "the user's own function")
        return f"{method_label(str(params.method))}: {source}"
    weight, tau = f"{params.soft_weight:.3g}", f"{params.tau_student:.3g}"
    return (
        f"(1 - {weight}) x CE(label, f) + {weight} x {tau}^2 x CE(teacher, softmax(f / {tau})); both cross-entropies "
        "are summed over classes and averaged over the batch"
    )


def _confirmed(record: StudyRecord, verdict: Recommendation, params: TrialParams) -> str:
    row = next((one for one in verdict.ranking if one.params == params and one.seeds), None)
    if row is None or row.confirmed_test_top1 is None:
        return "this configuration has no confirm run"
    within = sure(row.low, row.high, percent, enough=row.seeds > 1)
    seeds = plural(row.seeds, "seed")
    return (
        f"{percent(row.confirmed_test_top1)} ({within}), {seeds}, trained on train alone for {record.plan.epochs_full}"
        " epochs"
    )


def _rank(row: RankRow) -> tuple[str, ...]:
    within = interval(row.low, row.high, percent, enough=row.seeds > 1) if row.seeds else EMPTY
    name = short(row.teacher or "no teacher")
    return name, recipe(row.params), maybe(row.confirmed_test_top1), within, str(row.seeds)


def _contrast(contrast: Contrast) -> str:
    versus = "" if contrast.versus is None else f" against {short(contrast.versus)}"
    return f"{short(contrast.teacher)}{versus}: {contrast_words(contrast)}"


def _plain_kd(record: StudyRecord) -> str:
    run = record.plain_kd
    if run is None or run.val_top1 is None:
        return ""
    teacher = short(run.params.teacher or EMPTY)
    return f"Plain KD from {teacher} ({recipe(run.params)}): {percent(run.val_top1)} on validation, one run."

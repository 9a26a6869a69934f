"""The model card of an exported student, rendered from the record of its study."""

from collections.abc import Mapping
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
    Record,
    StudentRecord,
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

Rows = list[tuple[str, str]]


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
    trained, verdict = found.trained, record.recommendation
    assert verdict is not None
    teacher = next((one for one in record.teachers if one.name == trained.params.teacher), None)
    confirmed = next((one for one in verdict.ranking if one.params == trained.params and one.seeds), None)
    channels, height, width = record.data.image_shape
    return as_markdown(
        "model_card.md.j2",
        name=f"{record.student.name} on {record.data.name}",
        record=record,
        found=found,
        formats=[one.format for one in found.files],
        version=__version__,
        shape=f"N x {channels} x {height * found.pool} x {width * found.pool}",
        preprocessing=_preprocessing(found.input),
        student=_student(record.student),
        training=_training(record, trained, teacher),
        accuracy=_accuracy(record, found, confirmed),
        ranking=[_rank(row) for row in verdict.ranking],
        contrasts=[_contrast(one) for one in verdict.contrasts],
        plain_kd=_plain_kd(record),
        cost=_cost(record),
        taught_by=short(teacher.name) if teacher else "",
        limits=limits_info(record).points,
        classes=record.data.classes[:MOST_CLASSES],
        citations=citations(record),
    )


def _preprocessing(images: Mapping[str, Any]) -> Rows:
    """Return the steps from an image file to the network, in their order."""
    _, channels, height, width = images["shape"]
    before, pool, resize = images["before"], images["pool"], images["resize"]
    grey = (
        "one, grey" if len(images["mean"]) == 1 else f"one, grey, repeated {len(images['mean'])} times (in the graph)"
    )
    rows = [("Channels", "red, green, blue (RGB), in this order" if channels == 3 else grey)]
    if before:
        cut = before["then_centre_crop"]
        crop = f"; then the centre {cut} x {cut} pixels" if cut != before["resize"] else ""
        rows += [
            (
                "Before the graph",
                f"turn the image {before['orientation']}; transparent parts are {before['transparent']}",
            ),
            (
                "Crop and resize",
                f"{before['crop']}, to {before['resize']} x {before['resize']} pixels, "
                f"{before['interpolation']} (Pillow's BILINEAR){crop}",
            ),
        ]
    else:
        rows.append(("Before the graph", f"nothing: images of {height} x {width} pixels, as the data set has them"))
    if pool > 1:
        rows.append(("Average", f"blocks of {pool} x {pool} pixels (in the graph)"))
    rows.append(("Scale", "levels 0 to 255 by 1/255 (in the graph)"))
    for key, name in (("mean", "Mean"), ("std", "Standard deviation")):
        rows.append((name, f"{', '.join(f'{value:.6g}' for value in images[key])} (in the graph)"))
    if resize:
        rows.append(
            ("Resize", f"to {resize['size']} x {resize['size']} pixels, {resize['interpolation']} (in the graph)")
        )
    return rows


def _student(student: StudentRecord) -> Rows:
    foreign = student.foreign
    if foreign is None:
        return [
            ("Architecture", f"{student.architecture}, width {student.width:g}"),
            ("Strides", f"stem {student.stem_stride}, total {student.total_stride}"),
        ]
    size = foreign.input_size
    statistics = "; ".join(", ".join(f"{it:.4g}" for it in numbers) for numbers in (foreign.mean, foreign.std))
    return [
        ("Architecture", short(student.architecture)),
        ("Input of the network", f"{size} x {size} pixels ({foreign.interpolation})"),
        ("Normalisation", f"{foreign.normalisation}: mean and standard deviation {statistics}"),
        ("Start", origin(student)),
    ]


def _training(record: StudyRecord, trained: TrainedRecord, teacher: TeacherRecord | None) -> Rows:
    params = trained.params
    source = f"run {trained.run} of study {record.name}" if trained.run else f"trained anew for study {record.name}"
    rows = [
        ("Weights", f"{source}, seed {trained.seed}"),
        (
            "Trained on",
            f"{trained.trained_on.replace('+', ' + ')}, {trained.images:,} images, {trained.epochs} epochs",
        ),
        ("Teacher", _teacher(params, teacher)),
        ("Method", recipe(params)),
    ]
    if trained.targets is not None:
        used = trained.targets
        wrong = "" if used.tau_wrong is None else f"; {used.tau_wrong:.3g} where the teacher is wrong"
        medians = f"target {used.tau_target:.3g}, other {used.tau_other:.3g} (medians over the training images{wrong})"
        rows.append(("Temperatures in use", medians))
    if params.teacher is None:
        rows.append(("Soft weight", "none: labels alone"))
    elif params.soft_weight is not None:
        rows.append(("Soft weight", f"{params.soft_weight:.3g}"))
    rows.append(("Loss", _loss(params)))
    return rows


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


def _accuracy(record: StudyRecord, found: Exported, confirmed: RankRow | None) -> Rows:
    trained = found.trained
    unscored = "none: the validation images were trained on"
    alone = f"{percent(found.test_top1)} of {record.data.test:,} images, measured at export"
    if trained.test_top1 is not None:
        alone += f" ({percent(trained.test_top1)} when it was trained)"
    mean = "this configuration has no confirm run"
    if confirmed is not None and confirmed.confirmed_test_top1 is not None:
        within = sure(confirmed.low, confirmed.high, percent, enough=confirmed.seeds > 1)
        mean = f"{percent(confirmed.confirmed_test_top1)} ({within}), {plural(confirmed.seeds, 'seed')}, "
        mean += f"trained on train alone for {record.plan.epochs_full} epochs"
    return [
        ("These weights, test", alone),
        ("These weights, test, mean over the classes", percent(found.test_balanced_top1)),
        ("These weights, validation", unscored if trained.val_top1 is None else percent(trained.val_top1)),
        ("This configuration, test, mean over new seeds", mean),
    ]


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


def _cost(record: StudyRecord) -> Rows:
    plan = record.plan
    full = record.spent_epochs / plan.epochs_full
    phases = [value for value in record.timing.get("phases_s", {}).values() if isinstance(value, int | float)]
    return [
        ("Epochs of the student", f"{record.spent_epochs:,}, the cost of {full:.1f} full trainings"),
        ("Wall time", duration(sum(phases)) if phases else "not recorded"),
        ("Machine", short(str(record.environment.get("device", "not recorded")))),
    ]

"""`train`: train one student in full. `export`: write the recommended student for deployment."""

from pathlib import Path

from autodistill.cli import console, show
from autodistill.cli.progress import Display, shown_loading
from autodistill.cli.search import describe_student
from autodistill.config import load
from autodistill.errors import ConfigError, StoreError
from autodistill.executors import CheckTask, TrainTeacherTask, WorkerContext, perform
from autodistill.export import chosen, export_student, left_out
from autodistill.formatting import count
from autodistill.methods import METHODS
from autodistill.records import EpochRecord, RunSpec, StudyRecord, TrainedRecord, TrialParams
from autodistill.search import prior_params
from autodistill.store import StudyFolder, write_text
from autodistill.study import KNOWN, SearchOptions, StudySpec, resolve
from autodistill.teachers.ladder import SCHEME
from autodistill.training import Supervision

EXPORTS = Path("exports")


def train(options: SearchOptions, *, run: str, seed: int, to: Path, with_validation: bool = False) -> None:
    """Train one student in full and write its weights; the file's metadata describe the training."""
    if to.exists():
        raise StoreError(f"{to}: exists already; nothing was trained", "name another file with --out, or remove this")
    params: TrialParams | None = None
    if run and (options.student or options.teachers or options.overrides):
        raise ConfigError(
            "--from: the study sets student, teacher and settings", "remove --student, --teacher and --set, or --from"
        )
    study = ""
    if run:
        folder, record = show.study_of(run)
        study = record.name
        options, params = _recommended(options, record, folder)
    if not options.student:
        raise ConfigError("--student: missing", "name a network, or a study with --from")
    with shown_loading() as load_data:
        spec = resolve(options.model_copy(update={"study": "train"}), planned=False, load_data=load_data)
    write_text(to.with_name(f".{to.name}.try"), "")  # a folder that cannot be written must show before the training
    to.with_name(f".{to.name}.try").unlink()
    params = params if params is not None else _prior(spec, teacher=bool(options.teachers))
    run_spec = RunSpec(
        run="train",
        params=params,
        seed=seed,
        epochs=spec.space.training.epochs,
        evaluate_on="test" if with_validation else "validation+test",
    )
    setup = spec.setup.model_copy(update={"with_validation": with_validation})
    curve: list[EpochRecord] = []
    with Display() as display:
        context = WorkerContext(setup, data=spec.data, on_event=display.show)
        if params.teacher is not None:
            _ready_teacher(context, params.teacher)
        with context.one_thread():
            supervision = context.supervision(run_spec)
            model, parts = context.fit(run_spec, supervision, curve=curve)
    trained = _trained(run_spec, curve[-1], context, supervision, study=study)
    trained = trained.model_copy(update={"micro_batches": parts})
    context.save_student(model, to, trained=trained)
    console.show_table("Trained", ("", ""), [("student", describe_student(spec)), *_rows(trained), ("weights", to)])
    if run:
        console.show_note(f"Next: autodistill export {run} --weights {to}")


def _trained(
    run_spec: RunSpec, last: EpochRecord, context: WorkerContext, supervision: Supervision | None, *, study: str
) -> TrainedRecord:
    labels = context.data.train.labels
    return TrainedRecord(
        study=study,
        run="",
        params=run_spec.params,
        seed=run_spec.seed,
        epochs=run_spec.epochs,
        trained_on="train+validation" if context.setup.with_validation else "train",
        images=len(labels),
        val_top1=last.val_top1,
        test_top1=last.test_top1,
        targets=supervision.summary(labels) if supervision else None,
    )


def _rows(trained: TrainedRecord) -> list[tuple[str, object]]:
    unscored = "not scored: trained on" if trained.trained_on == "train+validation" else None
    return [
        ("configuration", console.described(trained.params)),
        ("trained on", f"{trained.trained_on.replace('+', ' + ')}, {trained.images:,} images"),
        ("validation %", unscored or console.percent(trained.val_top1)),
        ("test %", console.percent(trained.test_top1)),
    ]


def _recommended(options: SearchOptions, record: StudyRecord, folder: StudyFolder) -> tuple[SearchOptions, TrialParams]:
    if record.recommendation is None:
        raise StoreError(
            f"study {record.name!r} has no recommendation yet", f"finish the study first: {record.command}"
        )
    uris = {teacher.name: teacher.uri for teacher in record.teachers}
    update = {"student": record.student.name, "space": str(folder.space), "teachers": tuple(uris.values())}
    return options.model_copy(update=update), record.recommendation.params


def _prior(spec: StudySpec, *, teacher: bool) -> TrialParams:
    if not teacher:
        return TrialParams()
    names = list(spec.teachers)
    if len(names) > 1:
        uris = ", ".join(spec.teachers.values())
        raise ConfigError(f"--teacher: a student has one teacher, not {len(names)}", f"name one of {uris}")
    return prior_params(spec.space, names[0], {name: method.tau_student_from for name, method in METHODS.items()})


def _ready_teacher(context: WorkerContext, name: str) -> None:
    uri = context.setup.teachers[name]
    if uri.startswith(SCHEME):
        perform(TrainTeacherTask(uri=uri), context)
    perform(CheckTask(name=name), context)


def export(run: str, *, weights: Path | None, formats: str, to: Path | None) -> None:
    """Export the recommended student of a study and print the files written."""
    names = chosen(formats)
    folder, record = show.study_of(run)
    to = to or EXPORTS / record.name
    space = load(str(folder.space), known=KNOWN)
    with shown_loading() as load_data:
        result = export_student(record, folder, space=space, to=to, formats=names, weights=weights, load_data=load_data)
    rows = [
        (file.file, count(file.size_bytes) + "B", f"{file.max_difference:.2g}", file.changed, file.about)
        for file in result.files
    ]
    columns = ("file", ">size", ">largest difference", ">other top-1", "what")
    title = f"Exported to {to} (logits against the student's on {record.data.test:,} test images)"
    console.show_table(title, columns, rows)
    console.show_text(f"test accuracy {console.percent(result.test_top1)} %, weights of {result.source}")
    if not formats:
        for name in left_out(names):
            console.show_note(f"{name} left out: pip install 'kd-autodistill[{name}]' and export again")
    console.show_note(f"Next: fill in the licences in {to / 'README.md'}")

"""`train`: train one student in full. `export`: write the recommended student for deployment."""

from pathlib import Path
from typing import Any

from autodistill.cli import console, show
from autodistill.cli.console import Display, percent
from autodistill.cli.flags import search_options
from autodistill.cli.search import describe_student, shown_loading
from autodistill.config import load
from autodistill.errors import ConfigError, StoreError
from autodistill.executors import CheckTask, TrainTeacherTask, WorkerContext, perform
from autodistill.export import chosen, export_student, left_out
from autodistill.formatting import count
from autodistill.methods import METHODS
from autodistill.records import TRAINED_HERE, EpochRecord, RunSpec, TrainedRecord, TrialParams
from autodistill.search import prior_params
from autodistill.store import write_text
from autodistill.study import KNOWN, SearchOptions, StudySpec, resolve

EXPORTS = Path("exports")


def train(*, run: str, seed: int, to: Path, with_validation: bool, teacher: str = "", **flags: Any) -> None:
    """Train one student in full and write its weights; the file's metadata describe the training."""
    options = search_options(teachers=[teacher] if teacher else (), **flags)
    if to.exists():
        raise StoreError(f"{to}: exists already; nothing was trained", "name another file with --out, or remove this")
    study, params = "", None
    if run:
        study, options, params = _recommended(options, run)
    if not options.student:
        raise ConfigError("--student: missing", "name a network, or a study with --from")
    with shown_loading() as load_data:
        spec = resolve(options.model_copy(update={"study": "train"}), planned=False, load_data=load_data)
    attempt = to.with_name(f".{to.name}.try")  # a folder that cannot be written must show before the training
    write_text(attempt, "")
    attempt.unlink()
    params = params or _prior(spec)
    run_spec = RunSpec(
        run="train",
        params=params,
        seed=seed,
        epochs=spec.space.training.epochs,
        evaluate_on="test" if with_validation else "validation+test",
    )
    curve: list[EpochRecord] = []
    with Display() as display:
        setup = spec.setup.model_copy(update={"with_validation": with_validation})
        context = WorkerContext(setup, data=spec.data, on_event=display.show)
        if params.teacher is not None:
            uri = spec.teachers[params.teacher]
            if uri.startswith(TRAINED_HERE):
                perform(TrainTeacherTask(uri=uri), context)
            perform(CheckTask(name=params.teacher), context)
        with context.one_thread():
            supervision = context.supervision(run_spec)
            model, parts = context.fit(run_spec, supervision, curve=curve)
    labels = context.data.train.labels
    trained = TrainedRecord(
        study=study,
        run="",
        params=params,
        seed=seed,
        epochs=run_spec.epochs,
        trained_on="train+validation" if with_validation else "train",
        images=len(labels),
        val_top1=curve[-1].val_top1,
        test_top1=curve[-1].test_top1,
        targets=supervision.summary(labels) if supervision else None,
        micro_batches=parts,
    )
    context.save_student(model, to, trained=trained)
    rows = [
        ("student", describe_student(spec)),
        ("configuration", console.described(params)),
        ("trained on", f"{trained.trained_on.replace('+', ' + ')}, {trained.images:,} images"),
        ("validation %", "not scored: trained on" if with_validation else percent(trained.val_top1)),
        ("test %", percent(trained.test_top1)),
        ("weights", to),
    ]
    console.show_table("Trained", ("", ""), rows)
    if run:
        console.show_note(f"Next: autodistill export {run} --weights {to}")


def _recommended(options: SearchOptions, run: str) -> tuple[str, SearchOptions, TrialParams]:
    """Return the name of a study, options with its student, space and teachers, and the recommended configuration."""
    if options.student or options.teachers or options.overrides:
        raise ConfigError(
            "--from: the study sets student, teacher and settings", "remove --student, --teacher and --set, or --from"
        )
    folder, record = show.study_of(run)
    if record.recommendation is None:
        raise StoreError(
            f"study {record.name!r} has no recommendation yet", f"finish the study first: {record.command}"
        )
    teachers = tuple(teacher.uri for teacher in record.teachers)
    update = {"student": record.student.name, "space": str(folder.space), "teachers": teachers}
    return record.name, options.model_copy(update=update), record.recommendation.params


def _prior(spec: StudySpec) -> TrialParams:
    """Return the space's prior for the teacher that the options name; without a teacher, labels alone."""
    if not spec.options.teachers:
        return TrialParams()
    names = list(spec.teachers)
    if len(names) > 1:
        uris = ", ".join(spec.teachers.values())
        raise ConfigError(f"--teacher: a student has one teacher, not {len(names)}", f"name one of {uris}")
    return prior_params(spec.space, names[0], {name: method.tau_student_from for name, method in METHODS.items()})


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
    console.show_text(f"test accuracy {percent(result.test_top1)} %, weights of {result.source}")
    if not formats:
        for name in left_out(names):
            console.show_note(f"{name} left out: pip install 'kd-autodistill[{name}]' and export again")
    console.show_note(f"Next: fill in the licences in {to / 'README.md'}")

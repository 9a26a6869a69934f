"""Train the recommended student of a study, export it, and compare a study with its data and teachers."""

from pathlib import Path

from autodistill import console
from autodistill.config import load
from autodistill.errors import ConfigError, InputError, StoreError
from autodistill.executors import CheckTask, WorkerContext, perform
from autodistill.export import Exported, export_student, no_recommendation
from autodistill.images_table import show_images
from autodistill.methods import shapes_of
from autodistill.models.students import changed
from autodistill.records import EpochRecord, RunSpec, StudyRecord, TrainedRecord, TrialParams
from autodistill.running import shown_loading
from autodistill.searching import prior_params
from autodistill.store import StudyFolder, write_text
from autodistill.studies import study_of
from autodistill.study import KNOWN, SearchOptions, StudySpec, check_unchanged, fingerprints_now, resolve
from autodistill.teachers.assistants import needs, with_needs

EXPORTS = Path("exports")


def changes(folder: StudyFolder, record: StudyRecord) -> list[str]:
    """Return what has changed about the data and the teachers of a study since it ran, or cannot be compared."""
    if not folder.space.exists():
        return []
    found: list[str] = []
    try:
        with shown_loading() as load_data:
            data = load_data(load(str(folder.space), known=KNOWN).data)
        names = [teacher.name for teacher in record.teachers]
        now = fingerprints_now(record, data, names=names, say=found.append)
        check_unchanged(record, data=data, teachers=now)
    except InputError as error:
        found.append(error.message)
    return found


def _warn(text: str) -> None:
    console.show_note(f"warning: {text}")


def train_student(
    options: SearchOptions, *, seed: int, to: Path, with_validation: bool, run: str = "", quiet: bool = False
) -> tuple[StudySpec, TrainedRecord]:
    """Train one student in full and write its weights; the file's metadata describe the training.

    Args:
        options: The student, its teacher and the space; with `run`, only where and how to train.
        seed: Seed of initialisation and batch order.
        to: New file.
        with_validation: Whether to train on the validation images too.
        run: Name or folder of the study whose recommendation is trained; empty: the space's prior.
        quiet: Whether to show no progress.

    Raises:
        ConfigError: The seed is out of range, or no student is named.
        StoreError: The file exists, or the study has no recommendation.
        DataError, TeacherError: The data or the teacher are not those of the study.
    """
    _check_seed_and_file(seed, to)
    record, params, named = None, None, None
    if run:
        record, options, params = _recommended(options, run)
        named = _needed(record, params)
    if not options.student:
        raise ConfigError("--student: missing", "name a network, or a study with --from")
    with shown_loading(quiet=quiet) as load_data:
        spec = resolve(options.model_copy(update={"study": "train"}), planned=False, named=named, load_data=load_data)
    if record is not None:
        check_unchanged(record, data=spec.data, teachers=spec.fingerprints)
        known, now = record.student.foreign, spec.student.foreign
        if known is not None and (now is None or now.fingerprint != known.fingerprint):
            raise changed(known)
    if not quiet:
        show_images(spec)
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
    with console.Display(quiet=quiet) as display:
        setup = spec.setup.model_copy(update={"with_validation": with_validation})
        context = WorkerContext(setup, data=spec.data, on_event=display.show)
        if params.teacher is not None:
            for task in spec.training_of([params.teacher]):
                perform(task, context)
            perform(CheckTask(name=params.teacher), context)
        with context.one_thread(), context.user_code(params):
            supervision = context.supervision(run_spec)
            model, parts = context.fit(run_spec, supervision, curve=curve)
    labels = context.data.train.labels
    trained = TrainedRecord(
        study=record.name if record else "",
        run="",
        params=params,
        seed=seed,
        epochs=run_spec.epochs,
        trained_on="train+validation" if with_validation else "train",
        images=len(labels),
        val_top1=curve[-1].val_top1,
        test_top1=curve[-1].test_top1,
        test_balanced_top1=curve[-1].test_balanced_top1,
        targets=supervision.summary(labels) if supervision else None,
        micro_batches=parts,
    )
    context.save_student(model, to, trained=trained)
    return spec, trained


def _check_seed_and_file(seed: int, to: Path) -> None:
    if not 0 <= seed < 2**31:
        raise ConfigError(f"--seed {seed}: must be at least 0 and below 2147483648")
    if to.exists():
        raise StoreError(f"{to}: exists already; nothing was trained", "name another file with --out, or remove this")


def _recommended(options: SearchOptions, run: str) -> tuple[StudyRecord, SearchOptions, TrialParams]:
    """Return a study, options with its student and space, and the recommended configuration."""
    if options.student or options.teachers or options.overrides:
        raise ConfigError(
            "--from: the study sets student, teacher and settings", "remove --student, --teacher and --set, or --from"
        )
    folder, record = study_of(run)
    if record.recommendation is None:
        raise no_recommendation(record)
    update = {"student": record.student.source, "space": str(folder.space)}
    return record, options.model_copy(update=update), record.recommendation.params


def _needed(record: StudyRecord, params: TrialParams) -> dict[str, str]:
    """Return the URIs of the teachers that a configuration needs, by their names in the study."""
    uris = {teacher.name: teacher.uri for teacher in record.teachers}
    if params.teacher is None:
        return {}
    return {name: uris[name] for name in with_needs([params.teacher], uris)}


def _prior(spec: StudySpec) -> TrialParams:
    """Return the space's prior for the teacher that the options name; without a teacher, labels alone."""
    if not spec.options.teachers:
        return TrialParams()
    # Members of an ensemble and the teacher of an assistant are only named for it.
    needed = {other for uri in spec.teachers.values() for other in needs(uri, spec.teachers)}
    names = [name for name in spec.teachers if name not in needed]
    if len(names) > 1:
        uris = ", ".join(spec.teachers.values())
        raise ConfigError(f"--teacher: a student has one teacher, not {len(names)}", f"name one of {uris}")
    return prior_params(spec.space, names[0], shapes_of(spec.space.search.methods))


def export_study(
    run: str, *, to: Path | None, formats: tuple[str, ...], weights: Path | None = None, quiet: bool = False
) -> tuple[Path, Exported]:
    """Export the recommended student of a study to a new folder; return the folder and what was written.

    Raises:
        StoreError, ConfigError, DataError, TeacherError, ExportError: As for `export_student`.
    """
    folder, record = study_of(run)
    to = to or EXPORTS / record.name
    space = load(str(folder.space), known=KNOWN)
    with shown_loading(quiet=quiet) as load_data:
        found = export_student(
            record, folder, space=space, to=to, formats=formats, weights=weights, load_data=load_data, say=_warn
        )
    return to, found

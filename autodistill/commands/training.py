"""`train`: one student in full."""

from pathlib import Path

from autodistill import console, showing
from autodistill.commands.loading import shown_loading
from autodistill.commands.searching import describe_student
from autodistill.commands.teaching import checked
from autodistill.errors import ConfigError, StoreError
from autodistill.ladder import SCHEME
from autodistill.methods import RULES
from autodistill.records import (
    EpochRecord,
    Note,
    RunRequest,
    StudyRecord,
    TaskProgress,
    TrainedRecord,
    TrialParams,
)
from autodistill.search import prior_params
from autodistill.store import RunFolder, write_text
from autodistill.study import Prepared, Request, prepare
from autodistill.training import Supervision
from autodistill.workers import LadderTask, Workplace


def train(request: Request, *, run: str, seed: int, to: Path, with_validation: bool = False) -> None:
    """Train one student in full and write it, with how it was made in the file's metadata."""
    if to.exists():
        raise StoreError(f"{to}: exists already; nothing was trained", "name another file with --out, or remove it")
    params: TrialParams | None = None
    if run and (request.student or request.teachers or request.overrides):
        raise ConfigError(
            "--from: the study says student, teacher and settings", "leave the other options out, or --from"
        )
    study = ""
    if run:
        folder, record = showing.study_of(run)
        study = record.name
        request, params = _recommended(request, record, folder)
    if not request.student:
        raise ConfigError("--student: missing", "name a network, or a study with --from")
    with shown_loading() as load_data:
        prepared = prepare(request.model_copy(update={"study": "train"}), planned=False, load_data=load_data)
    write_text(to.with_name(f".{to.name}.try"), "")
    to.with_name(f".{to.name}.try").unlink()
    place = Workplace(prepared.setup.model_copy(update={"with_validation": with_validation}), data=prepared.data)
    params = params if params is not None else _prior(prepared, teacher=bool(request.teachers))
    with console.Watch(quiet=False) as watch:
        if params.teacher is not None:
            _ready_teacher(place, params.teacher, watch)
        asked = RunRequest(
            run="train",
            params=params,
            seed=seed,
            epochs=prepared.space.training.epochs,
            evaluate_on="test" if with_validation else "validation+test",
        )
        supervision = place.supervision(asked)
        curve: list[EpochRecord] = []
        model, parts = watch.follow(place.fitted(asked, supervision, curve=curve))
    trained = _trained(asked, curve[-1], place, supervision, study=study)
    trained = trained.model_copy(update={"micro_batches": parts})
    place.keep(model, to, trained=trained)
    console.show_table(
        "Trained", ("", ""), [("student", describe_student(prepared)), *_rows(trained), ("weights", to)]
    )
    if run:
        console.show_note(f"Next: autodistill export {run} --weights {to}")


def _trained(
    asked: RunRequest, last: EpochRecord, place: Workplace, supervision: Supervision | None, *, study: str
) -> TrainedRecord:
    labels = place.data.train.labels
    return TrainedRecord(
        study=study,
        run="",
        params=asked.params,
        seed=asked.seed,
        epochs=asked.epochs,
        trained_on="train+validation" if place.setup.with_validation else "train",
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


def _recommended(request: Request, record: StudyRecord, folder: RunFolder) -> tuple[Request, TrialParams]:
    if record.recommendation is None:
        raise StoreError(f"study {record.name!r} has no recommendation yet", f"finish it first: {record.command}")
    chosen = record.recommendation.params
    uris = {teacher.name: teacher.uri for teacher in record.teachers}
    update = {
        "student": record.student.name,
        "space": str(folder.space),
        "teachers": tuple(uris.values()),
    }
    return request.model_copy(update=update), chosen


def _prior(prepared: Prepared, *, teacher: bool) -> TrialParams:
    if not teacher:
        return TrialParams()
    names = list(prepared.teachers)
    if len(names) > 1:
        uris = ", ".join(prepared.teachers.values())
        raise ConfigError(f"--teacher: one student has one teacher, not {len(names)}", f"name one of {uris}")
    return prior_params(prepared.space, names[0], {name: rule.tau_student_from for name, rule in RULES.items()})


def _ready_teacher(place: Workplace, name: str, watch: console.Watch) -> None:
    uri = place.setup.teachers[name]
    if uri.startswith(SCHEME):
        for message in place.do(LadderTask(uri=uri)):
            if isinstance(message, TaskProgress | Note):
                watch.show(message)
    checked(place, name)

"""`train`: one student in full."""

from pathlib import Path

from autodistill import console, showing
from autodistill.commands.searching import describe_student
from autodistill.commands.teaching import checked
from autodistill.errors import ConfigError, StoreError
from autodistill.ladder import SCHEME
from autodistill.records import Note, RunRequest, StudyRecord, TaskProgress, TrialParams, read_study
from autodistill.rules import RULES
from autodistill.search import prior_params
from autodistill.store import write_text
from autodistill.study import Prepared, Request, prepare
from autodistill.workers import LadderTask, Workplace


def train(request: Request, *, run: str, seed: int, to: Path) -> None:
    """Train one student in full and write it."""
    params: TrialParams | None = None
    if run and (request.student or request.teachers or request.overrides):
        raise ConfigError(
            "--from: the study says student, teacher and settings", "leave the other options out, or --from"
        )
    if run:
        record = read_study(showing.folder_of(run).record)
        request, params = _recommended(request, record, run)
    if not request.student:
        raise ConfigError("--student: missing", "name a network, or a study with --from")
    prepared = prepare(request.model_copy(update={"study": "train"}), planned=False)
    write_text(to.with_name(f".{to.name}.try"), "")
    to.with_name(f".{to.name}.try").unlink()
    place = Workplace(prepared.setup)
    params = params if params is not None else _prior(prepared, teacher=bool(request.teachers))
    with console.Watch(quiet=False) as watch:
        if params.teacher is not None:
            _ready_teacher(place, params.teacher, watch)
        asked = RunRequest(
            run="train",
            params=params,
            seed=seed,
            epochs=prepared.space.training.epochs,
            evaluate_on="validation+test",
        )
        model, supervision = place.student(seed), place.supervision(asked)
        for event in place.epochs(asked, model, supervision):
            watch.show(event)
    place.keep(model, to)
    rows = [
        ("configuration", console.described(params)),
        ("student", describe_student(prepared)),
        ("validation %", console.percent(event.record.val_top1)),
        ("test %", console.percent(event.record.test_top1)),
        ("weights", to),
    ]
    console.show_table("Trained", ("", ""), rows)


def _recommended(request: Request, record: StudyRecord, run: str) -> tuple[Request, TrialParams]:
    if record.recommendation is None:
        raise StoreError(f"study {run!r} has no recommendation yet", f"finish it first: {record.command}")
    chosen = record.recommendation.params
    uris = {teacher.name: teacher.uri for teacher in record.teachers}
    update = {
        "student": record.student.name,
        "space": str(showing.folder_of(run).space),
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

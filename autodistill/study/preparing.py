"""From a request to a study that can start: everything is checked, nothing but decoded images is written."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from autodistill import data as datasets
from autodistill import ladder, teachers
from autodistill.config import Space, load
from autodistill.data import Data, LoadData
from autodistill.errors import ConfigError, StoreError
from autodistill.models.cost import student_record
from autodistill.records import LatencyRecord, Record, StudentBudget, StudentRecord, StudyRecord, read_study
from autodistill.search import make_plan, parse_budget
from autodistill.store import RunFolder, cache_root, digest
from autodistill.study.fitting import (
    check_batch,
    check_crop,
    fit_to_cache,
    fit_to_classes,
    pinned,
    pins,
    teacher_names,
    view_count,
    with_kept_wave,
    with_precision,
)
from autodistill.study.known import KNOWN
from autodistill.study.places import check_places
from autodistill.study.sharing import Sharing, fit_to_device
from autodistill.study.trying import try_rules
from autodistill.workers import Setup

DEFAULT_CACHE_BYTES = 8 * 2**30


class Request(Record):
    """A search as asked for on the command line."""

    student: str
    space: str = "digits"
    teachers: tuple[str, ...] = ()
    data: str = ""
    budget: str = ""
    study: str = ""
    seed: int | None = None
    device: str = "cpu"
    workers: int = 2
    fill_gpu: bool = False
    """As many workers on each GPU as its memory holds, instead of one."""
    overrides: tuple[str, ...] = ()
    max_trials: int | None = None
    asynchronous: bool = False
    """Trials are asked for whenever a worker is free, not in waves."""
    audit_pruning: bool = False
    timeout_s: float | None = None
    cache_bytes: int = DEFAULT_CACHE_BYTES
    offline: bool = False
    limits: StudentBudget = StudentBudget()
    runs: str = "runs"
    storage: str = Field(default="", repr=False)
    """Address of the database; empty: a SQLite file in the run folder. No part of what a study is."""
    artifacts: str = ""
    """Address of the depot for workers that share no folder; empty: all share them."""
    command: str = ""


class Prepared(NamedTuple):
    """A request that was found valid, before anything was written."""

    request: Request
    space: Space
    data: Data
    student: StudentRecord
    teachers: dict[str, str]
    """Name to URI."""
    fingerprints: dict[str, str]
    """Name to fingerprint, of the teachers that were given: a ladder teacher's key says as much."""
    folder: RunFolder
    budget: str
    notes: tuple[str, ...]
    """What was chosen in the person's stead, and they should know."""
    pins: dict[str, object]
    """What followed from this machine, as keys of the space."""
    latency: LatencyRecord | None = None
    """Measured where a limit needs it."""
    sharing: Sharing = Sharing()

    @property
    def kept(self) -> StudyRecord | None:
        """The record as an earlier process left it; None where there is none, or only a damaged one."""
        try:
            return read_study(self.folder.record)
        except StoreError:
            return None

    @property
    def database(self) -> Path | str:
        """Where Optuna keeps the study: a file, or an address."""
        return self.request.storage or self.folder.database

    @property
    def expected_workers(self) -> int:
        """One at least, where all of them are to come from elsewhere."""
        return max(1, self.request.workers)

    @property
    def views(self) -> int:
        return view_count(self.space)

    @property
    def runnable_space(self) -> Space:
        """The space with the budget in force: what `run.toml` holds can be run as it is."""
        search = self.space.search.model_copy(update={"budget": self.budget})
        return self.space.model_copy(update={"search": search})

    @property
    def setup(self) -> Setup:
        return Setup(
            space=self.space,
            student=self.student.name,
            teachers=self.teachers,
            views=self.views,
            device=self.request.device,
            runs=str(self.folder.path.absolute()),
            cache=str(cache_root().absolute()),
            offline=self.request.offline,
            artifacts=self.request.artifacts,
            identity=digest(identity(self)) if self.request.artifacts else "",
            mode=self.sharing.mode,
            memory_share=self.sharing.memory_share,
        )

    @property
    def untrained(self) -> list[str]:
        """Ladder teachers that are not kept yet, strongest first."""
        uris = [uri for uri in self.teachers.values() if uri.startswith(ladder.SCHEME)]
        places = {uri: ladder.path_of(uri, root=cache_root(), data=self.data, space=self.space) for uri in uris}
        return [uri for uri in reversed(uris) if not places[uri].exists()]


def prepare(request: Request, *, planned: bool = True, load_data: LoadData = datasets.load) -> Prepared:
    """Check everything that can be checked without training; writes nothing but decoded images.

    Args:
        request: as asked for.
        planned: whether a study is to come: then its budget must hold its plan.
        load_data: `datasets.load`, or a function that also shows how far it is.

    Raises:
        ConfigError, DataError, TeacherError, StoreError: what does not hold, and what to do.
    """
    (prepared,) = prepare_all([request], planned=planned, load_data=load_data)
    return prepared


def prepare_all(
    requests: Sequence[Request], *, planned: bool = True, load_data: LoadData = datasets.load
) -> tuple[Prepared, ...]:
    """Check requests that differ in student, study and command only: data and teachers are loaded once for all.

    Raises:
        ConfigError, DataError, TeacherError, StoreError: as `prepare`; what is wrong with the students comes at once.
    """
    check_places([_folder(it) for it in requests] if planned else [], storage=requests[0].storage)
    common = _common(requests[0], load_data)
    students = _students(requests, common)
    return tuple(
        _prepared(request, common, student, planned=planned)
        for request, student in zip(requests, students, strict=True)
    )


class _Common(NamedTuple):
    """What all students of a search share."""

    asked: Space
    space: Space
    notes: tuple[str, ...]
    data: Data
    names: dict[str, str]
    fingerprints: dict[str, str]


def _common(request: Request, load_data: LoadData) -> _Common:
    asked = _space(request)
    data = load_data(asked.data)
    space, notes = fit_to_classes(asked, data)
    try_rules(space, data.num_classes)
    names = teacher_names(ladder.expand(space.teachers, space))
    given = {name: uri for name, uri in names.items() if not uri.startswith(ladder.SCHEME)}
    loaded = {name: teachers.load(uri, data=data, offline=request.offline, name=name) for name, uri in given.items()}
    check_batch(space, data)
    check_crop(space, data)
    return _Common(asked, space, notes, data, names, {name: teacher.fingerprint for name, teacher in loaded.items()})


def _students(requests: Sequence[Request], common: _Common) -> list[StudentRecord]:
    """Describe the students; what is wrong with several is said at once."""
    found, wrong = [], []
    for request in requests:
        try:
            found.append(
                student_record(
                    request.student,
                    num_classes=common.data.num_classes,
                    image_shape=common.data.image_shape,
                    default_width=common.space.student.width,
                    stem_stride=common.space.student.stem_stride,
                )
            )
        except ConfigError as error:
            wrong.append(error)
    if len(wrong) > 1:
        raise ConfigError("\n  ".join(error.message for error in wrong), wrong[0].hint)
    if wrong:
        raise wrong[0]
    often = Counter(student.name for student in found)
    if twice := [name for name in often if often[name] > 1]:
        raise ConfigError(f"--student {twice[0]}: named twice", "name each student once")
    return found


def _prepared(request: Request, common: _Common, student: StudentRecord, *, planned: bool) -> Prepared:
    folder = _folder(request)
    space = with_precision(common.space, folder, common.data, student=student.name, device=request.device)
    sharing = Sharing()
    if planned:
        each = None if request.fill_gpu else request.workers
        sharing = fit_to_device(space, common.data, student=student.name, device=request.device, workers=each)
        workers = request.workers * sharing.workers if request.fill_gpu else request.workers
        request = request.model_copy(update={"workers": workers})
    space = with_kept_wave(space, folder, request.workers)
    space = fit_to_cache(space, common.data, len(common.names), request.cache_bytes)
    budget = request.budget or space.search.budget
    if planned and parse_budget(budget).unit != "seconds":
        make_plan(space, teachers=len(common.names), requested=budget, max_trials=request.max_trials)
    found = pins(common.asked, space)
    if request.asynchronous:
        found.pop("search.wave", None)
    return Prepared(
        request=request.model_copy(update={"command": pinned(request.command, found)}),
        space=space,
        data=common.data,
        student=student,
        teachers=common.names,
        fingerprints=common.fingerprints,
        folder=folder,
        budget=budget,
        notes=common.notes,
        pins=found,
        sharing=sharing,
    )


def identity(prepared: Prepared) -> dict[str, object]:
    """What makes a study this study; flags that change no result, and the budget, are left out."""
    space = prepared.space.model_dump(mode="json", exclude={"purpose": True, "search": {"wave", "budget"}})
    return {
        "student": prepared.student.name,
        "space": space,
        "teachers": prepared.teachers,
        "fingerprints": prepared.fingerprints,
        "data": prepared.data.fingerprint,
        "version": 1,
        # Older folders, all of studies in waves, do not have the key.
        **({"asynchronous": True} if prepared.request.asynchronous else {}),
    }


def _space(request: Request) -> Space:
    overrides = list(request.overrides)
    if request.data:
        overrides.append(f"data.name={json.dumps(request.data)}")
    if request.seed is not None:
        overrides.append(f"search.seed={request.seed}")
    if request.teachers:
        overrides.append(f"teachers={json.dumps(list(request.teachers))}")
    return load(request.space, known=KNOWN, overrides=overrides)


def study_name(space: str, students: Sequence[str]) -> str:
    """The name of a study that was given none: `digits-mobilenetv2`."""
    return "-".join((Path(space).stem, *students)).replace(":", "-")


def _folder(request: Request) -> RunFolder:
    study = request.study or study_name(request.space, (request.student,))
    if Path(study).name != study or study == ".." or len(study) > 100:
        raise ConfigError(
            f"--study {study}: must be a plain name of up to 100 letters, it becomes a folder below {request.runs}"
        )
    return RunFolder(Path(request.runs) / study)

"""Resolve the options of a command into a checked study. Nothing is written but decoded images."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import Field, ValidationError

from autodistill import __version__, teachers
from autodistill import data as datasets
from autodistill.config import Dimension, Known, Range, Space, bounds, load
from autodistill.data import DATASETS, Data, LoadData
from autodistill.errors import ConfigError, StoreError
from autodistill.executors import Setup
from autodistill.methods import LOSSES, METHODS
from autodistill.models import MODELS
from autodistill.models.cost import student_record
from autodistill.records import (
    LatencyRecord,
    ParamValue,
    Record,
    SpecRecord,
    StudentBudget,
    StudentRecord,
    StudyRecord,
    read_study,
)
from autodistill.search import make_plan, parse_budget, refuse_foreign
from autodistill.store import StudyFolder, cache_root, check_folder, check_study_folder
from autodistill.study.fitting import (
    check_batch,
    check_crop,
    fit_to_cache,
    fit_to_classes,
    pinned,
    pins,
    teacher_names,
    view_count,
    with_precision,
)
from autodistill.study.gpu import Sharing, cluster_sharing, fit_to_device
from autodistill.study.measurements import Facts, keep, recall
from autodistill.study.runs import RESULT_VERSION
from autodistill.teachers import ladder

KNOWN = Known(
    datasets=tuple(DATASETS),
    architectures=tuple(MODELS),
    methods={name: method.params for name, method in METHODS.items()},
    losses=tuple(LOSSES),
)
"""Names that a search space may use."""
_OTHER_NAME = "give this study another name with --study, or remove the folder"
EXAMPLES = 8
"""Random examples on which methods are checked."""
DEFAULT_CACHE_BYTES = 8 * 2**30


class SearchOptions(Record):
    """The options of a search as given on the command line."""

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
    """Whether each GPU gets as many workers as its memory holds, instead of one."""
    overrides: tuple[str, ...] = ()
    max_trials: int | None = None
    audit_pruning: bool = False
    timeout_s: float | None = None
    cache_bytes: int = DEFAULT_CACHE_BYTES
    offline: bool = False
    limits: StudentBudget = StudentBudget()
    runs: str = "runs"
    """Folder of all studies."""
    ray: str = ""
    """Address of the Ray cluster that runs the tasks; empty: processes on this machine run them."""
    per_gpu: int = 1
    """Actors that share a GPU of the cluster."""
    storage: str = Field(default="", repr=False)
    """Address of the database for a copy of the trials; empty: a SQLite file in the study folder."""
    command: str = ""


class StudySpec(NamedTuple):
    """A study, resolved and checked."""

    options: SearchOptions
    space: Space
    data: Data
    student: StudentRecord
    teachers: dict[str, str]
    """URIs by name."""
    fingerprints: dict[str, str]
    """Fingerprints of the given teachers by name; data and space determine those of the default ladder."""
    folder: StudyFolder
    budget: str
    notes: tuple[str, ...]
    """Automatic choices that the user should know about."""
    pins: dict[str, object]
    """Values that followed from this machine, by key of the space."""
    latency: LatencyRecord | None = None
    """Measured only if a limit needs it."""
    sharing: Sharing = Sharing()

    @property
    def views(self) -> int:
        """Size of the pool of views that epochs cycle through."""
        return view_count(self.space)

    @property
    def runnable_space(self) -> Space:
        """The space with the budget of this study, which can be run as it is."""
        search = self.space.search.model_copy(update={"budget": self.budget})
        return self.space.model_copy(update={"search": search})

    @property
    def setup(self) -> Setup:
        """The study as workers need it."""
        return Setup(
            space=self.space,
            student=self.student.name,
            teachers=self.teachers,
            fingerprints=self.fingerprints,
            data=self.data.fingerprint,
            views=self.views,
            device=self.options.device,
            folder=str(self.folder.path.absolute()),
            cache=str(cache_root().absolute()),
            offline=self.options.offline,
            mode=self.sharing.mode,
            memory_share=self.sharing.memory_share,
        )

    @property
    def untrained(self) -> list[str]:
        """URIs of the untrained teachers of the default ladder, the strongest first."""
        root, data = cache_root(), self.data.fingerprint
        return [
            uri
            for uri in reversed(self.teachers.values())
            if uri.startswith(ladder.SCHEME)
            and not ladder.path_of(uri, root=root, data=data, space=self.space).exists()
        ]

    @property
    def record(self) -> SpecRecord:
        """The specification as `study.json` keeps it, beside the space."""
        return SpecRecord(
            student=self.student.name,
            teachers=self.teachers,
            fingerprints=self.fingerprints,
            data=self.data.fingerprint,
            result_version=RESULT_VERSION,
        )


def resolve(options: SearchOptions, *, planned: bool = True, load_data: LoadData = datasets.load) -> StudySpec:
    """Check everything that can be checked without training. Only decoded images are written.

    Args:
        options: Options of the command.
        planned: Whether a study follows. Then its budget must cover its plan.
        load_data: `datasets.load`, or a function that also shows its progress.

    Raises:
        ConfigError, DataError, TeacherError, StoreError: A check failed; the hint says what to do.
    """
    (spec,) = resolve_all([options], planned=planned, load_data=load_data)
    return spec


def resolve_all(
    options: Sequence[SearchOptions], *, planned: bool = True, load_data: LoadData = datasets.load
) -> tuple[StudySpec, ...]:
    """Check options that differ only in student, study and command. Data and teachers are loaded once.

    Raises:
        ConfigError, DataError, TeacherError, StoreError: As for `resolve`; errors of all students are raised together.
    """
    folders = [_folder(each) for each in options]
    if planned:
        check_places(folders, storage=options[0].storage)
    common = _common(options[0], load_data)
    students = _students([each.student for each in options], common)
    specs = tuple(
        _resolved(each, common, student, planned=planned) for each, student in zip(options, students, strict=True)
    )
    for each, student in zip(options, students, strict=True):
        keep(student, _student_facts(each.student, common))
    return specs


def check_places(folders: Sequence[StudyFolder], *, storage: str) -> None:
    """Check the cache, the study folders and the database before data and teachers are loaded; write nothing.

    The cache may be read-only if it holds everything that the study needs.

    Args:
        folders: Folders of the studies.
        storage: Address of the database that they share; empty: each study has its own SQLite file.

    Raises:
        ConfigError: The kind of address is unknown, or its driver is missing.
        StoreError: A folder or the database cannot be used, or holds something else.
    """
    for part in ("images", "ladder", "logits"):
        check_folder(cache_root() / part, writable=False)
    for folder in folders:
        check_study_folder(folder)
        kept_record(folder)
        if storage:
            refuse_foreign(storage, folder.path.name)


def kept_record(folder: StudyFolder) -> StudyRecord | None:
    """Return the record of an existing study; None for a new study.

    Raises:
        StoreError: The file is damaged, describes several students, or has a version that cannot be continued.
    """
    if not folder.record.exists():
        if folder.path.is_dir() and (folder.path / "identity.json").exists():
            raise StoreError(f"{folder.path}: holds a study of an older autodistill", _OTHER_NAME)
        return None
    record = read_study(folder.record)
    if record.spec is None:
        raise StoreError(
            f"{folder.record}: was made by an older autodistill: it can be shown and reported, not continued",
            _OTHER_NAME,
        )
    try:
        Space.model_validate(record.space)
    except ValidationError as error:
        raise StoreError(
            f"{folder.record}: space: damaged ({error.error_count()} wrong values)", _OTHER_NAME
        ) from error
    return record


class _Common(NamedTuple):
    """What all students of a search share."""

    requested: Space
    space: Space
    """The requested space, fitted to the data."""
    notes: tuple[str, ...]
    data: Data
    names: dict[str, str]
    fingerprints: dict[str, str]


def _common(options: SearchOptions, load_data: LoadData) -> _Common:
    requested = _space(options)
    data = load_data(requested.data)
    space, notes = fit_to_classes(requested, data)
    check_methods(space, data.num_classes)
    names = teacher_names(ladder.expand(space.teachers, space))
    given = {name: uri for name, uri in names.items() if not uri.startswith(ladder.SCHEME)}
    loaded = {name: teachers.load(uri, data=data, offline=options.offline, name=name) for name, uri in given.items()}
    check_batch(space, data)
    check_crop(space, data)
    fingerprints = {name: teacher.fingerprint for name, teacher in loaded.items()}
    return _Common(requested, space, notes, data, names, fingerprints)


def _students(names: Sequence[str], common: _Common) -> list[StudentRecord]:
    """Describe the students; errors of several students are raised together."""
    students, errors = [], []
    for name in names:
        try:
            students.append(_student(name, common))
        except ConfigError as error:
            errors.append(error)
    if len(errors) > 1:
        raise ConfigError("\n  ".join(error.message for error in errors), errors[0].hint)
    if errors:
        raise errors[0]
    counts = Counter(student.name for student in students)
    if duplicates := [name for name in counts if counts[name] > 1]:
        raise ConfigError(f"--student {duplicates[0]}: named twice", "name each student once")
    return students


def _student(name: str, common: _Common) -> StudentRecord:
    """Describe a student. The description is kept because building the network takes seconds, mostly for imports."""
    settings = {
        "num_classes": common.data.num_classes,
        "image_shape": common.data.image_shape,
        "default_width": common.space.student.width,
        "stem_stride": common.space.student.stem_stride,
    }
    student = recall(StudentRecord, _student_facts(name, common))
    return student or student_record(name, **settings)  # type: ignore[arg-type]


def _student_facts(name: str, common: _Common) -> Facts:
    data, settings = common.data, common.space.student.model_dump()
    shape = {"classes": data.num_classes, "image_shape": data.image_shape}
    return {"name": name, "torch": torch.__version__, "autodistill": __version__, **shape, **settings}


def _resolved(options: SearchOptions, common: _Common, student: StudentRecord, *, planned: bool) -> StudySpec:
    folder = _folder(options)
    kept = kept_record(folder) if planned else None
    kept_space = Space.model_validate(kept.space) if kept else None
    space = with_precision(common.space, kept_space, common.data, student=student.name, device=options.device)
    sharing = Sharing()
    if planned and options.ray:
        sharing = cluster_sharing(options.device, options.workers, per_gpu=options.per_gpu)
    elif planned:
        workers = None if options.fill_gpu else options.workers
        sharing = fit_to_device(space, common.data, student=student.name, device=options.device, workers=workers)
        if options.fill_gpu:
            options = options.model_copy(update={"workers": options.workers * sharing.workers})
    space = fit_to_cache(space, kept_space, common.data, len(common.names), options.cache_bytes)
    budget = options.budget or space.search.budget
    if planned and parse_budget(budget).unit != "seconds":
        make_plan(space, teachers=len(common.names), requested=budget, max_trials=options.max_trials)
    values = pins(common.requested, space)
    notes = common.notes
    if planned and space.search.wave < options.workers // 2:
        wave = space.search.wave
        notes += (
            f"search.wave is {wave}: about {2 * wave} runs train at once, on {options.workers} workers; "
            f"--set search.wave={options.workers // 2} uses all workers, and is another study",
        )
    return StudySpec(
        options=options.model_copy(update={"command": pinned(options.command, values)}),
        space=space,
        data=common.data,
        student=student,
        teachers=common.names,
        fingerprints=common.fingerprints,
        folder=folder,
        budget=budget,
        notes=notes,
        pins=values,
        sharing=sharing,
    )


def _space(options: SearchOptions) -> Space:
    overrides = list(options.overrides)
    if options.data:
        overrides.append(f"data.name={json.dumps(options.data)}")
    if options.seed is not None:
        overrides.append(f"search.seed={options.seed}")
    if options.teachers:
        overrides.append(f"teachers={json.dumps(list(options.teachers))}")
    return load(options.space, known=KNOWN, overrides=overrides)


def study_name(space: str, students: Sequence[str]) -> str:
    """Return the default name of a study: `digits-mobilenetv2`."""
    return "-".join((Path(space).stem, *students)).replace(":", "-")


def _folder(options: SearchOptions) -> StudyFolder:
    study = options.study or study_name(options.space, (options.student,))
    if Path(study).name != study or study == ".." or len(study) > 100:
        raise ConfigError(
            f"--study {study}: must be a plain name of up to 100 letters; it names a folder below {options.runs}"
        )
    return StudyFolder(Path(options.runs) / study)


def check_methods(space: Space, num_classes: int) -> None:
    """Run every method on random logits with the prior's parameters and at the corners of its search space.

    Otherwise the first trial with invalid parameters would fail.

    Raises:
        ConfigError: A method rejects parameters; the message has a line with the key for each such method.
    """
    lines = list(_refusals(space, num_classes))
    if lines:
        raise ConfigError("\n".join(lines), "`autodistill spaces show digits` prints a space that works")


def _refusals(space: Space, num_classes: int) -> Iterator[str]:
    for method, dimensions in space.search.methods.items():
        student = dimensions.get("tau_student")
        if student is not None and bounds(student) is None:
            yield f"search.methods.{method}.tau_student: must be a number above 0"
        ends = {name: _ends(dimension) for name, dimension in dimensions.items() if name != "tau_student"}
        corners = (dict(zip(ends, values, strict=True)) for values in itertools.product(*ends.values()))
        refused = filter(None, (_refusal(method, params, num_classes) for params in corners))
        yield from (f"search.methods.{method}: {reason}" for reason in itertools.islice(refused, 1))
    prior = space.prior
    fixed = {
        name: value for name, value in space.search.methods[prior.method].items() if isinstance(value, float | str)
    }
    params = {name: value for name, value in {**fixed, **prior.params}.items() if name != "tau_student"}
    reason = _refusal(prior.method, params, num_classes)
    if reason:
        yield f"prior.params: {prior.method}: {reason}"


def _ends(dimension: Dimension) -> tuple[ParamValue, ...]:
    """Return the extreme values of a dimension: both ends of an interval, or every choice."""
    if isinstance(dimension, Range):
        return dimension.low, dimension.high
    return dimension if isinstance(dimension, tuple) else (dimension,)


def _refusal(name: str, params: Mapping[str, ParamValue], num_classes: int) -> str:
    """Return why a method cannot run with these parameters; empty if it can."""
    logits = torch.randn(EXAMPLES, num_classes, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(EXAMPLES) % num_classes
    method = METHODS[name]
    try:
        extra = method.fit(logits, labels, **params) if method.fit else {}
        method.targets(logits, labels, **params, **extra)
    except (ValueError, TypeError) as error:
        return str(error).splitlines()[0]
    return ""

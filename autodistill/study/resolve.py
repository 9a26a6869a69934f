"""Resolve the options of a command into a checked study. Only decoded images and measurements are written."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from pydantic import Field, ValidationError

from autodistill import __version__, teachers
from autodistill import data as datasets
from autodistill.config import Dimension, GridSpec, Known, Range, Space, default_prior, load
from autodistill.data import DATASETS, Data, LoadData
from autodistill.errors import ConfigError, StoreError, TeacherError
from autodistill.executors import Setup, TrainTeacherTask
from autodistill.formatting import COSTS, excess_words, method_label, plural
from autodistill.methods import METHODS, OWN, code_of, method_named, parameters_of
from autodistill.models import MODELS
from autodistill.models.cost import latency_ms
from autodistill.models.students import check_student_name, is_foreign, student_network, student_record
from autodistill.models.uri import parse, student_name
from autodistill.records import (
    TRAINED_HERE,
    LatencyRecord,
    LeftOutRecord,
    PlanRecord,
    Record,
    SpecRecord,
    StudentBudget,
    StudentRecord,
    StudyRecord,
    costs_of,
    latency_of,
    read_study,
)
from autodistill.searching import make_grid_plan, make_plan, parse_budget, refuse_foreign
from autodistill.store import StudyFolder, cache_root, check_folder, check_study_folder
from autodistill.study.environment import device_name, processor
from autodistill.study.fitting import (
    cache_size,
    changed,
    check_methods,
    check_sizes,
    fit_to_cache,
    fit_to_classes,
    fit_to_images,
    teacher_names,
    view_count,
    with_precision,
    with_ranges,
)
from autodistill.study.gpu import Sharing, fit_to_device
from autodistill.study.measurements import facts, once
from autodistill.teachers import adaptation, assistants, ladder

T = TypeVar("T")
KNOWN = Known(
    datasets=DATASETS,
    architectures=MODELS,
    methods=METHODS,
    parameters_of=parameters_of,
    complete=with_ranges,
)
"""Names that a search space may use: those of the registries, also of lines that are added later."""
_OTHER_NAME = "give this study another name with --study, or remove the folder"
RESULT_VERSION = 1
"""Raised when the same specification gives another result."""
LARGEST_ADAMW_RATE = 0.01
"""Learning rate from which a command with AdamW gets a warning."""
WITHOUT_EFFECT = (
    *("prior.", "prior=", "search.budget=", "search.wave=", "search.reruns=", "confirm.teachers="),
    "confirm.label_smoothing=",
)
"""Beginnings of overrides that a method grid does not use."""
OWN_SPACE = "folder"
"""The default space of a user's images."""
DEFAULT_CACHE_BYTES = 8 * 2**30


class SearchOptions(Record):
    """The options of a search as given on the command line."""

    student: str
    space: str = "digits"
    teachers: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    """Methods of a method grid; empty: the study is a search."""
    default_methods: bool = False
    """Whether the methods are those that are compared where none is named."""
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
    download: bool = False
    """Whether the dataset may be downloaded."""
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
    sources: dict[str, str]
    """Fingerprints of the pretrained networks of adapted teachers, and what decides the weights of the teachers that
    assistants learn from, by URI."""
    left_out: dict[str, str]
    """Names of the files of a folder of teachers that cannot be loaded, with the reason."""
    folders: dict[str, str]
    """Folder or pattern of each teacher that comes from one, by name."""
    optional: frozenset[str]
    """Names of the teachers that are left out if they do not pass their check. Teachers that an ensemble or assistant
    needs are not among them."""
    folder: StudyFolder
    budget: str
    tried: int
    """Number of teachers that students learn from; all of them until a budget of time is measured."""
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
    def cache_size(self) -> int:
        """Bytes of the teacher logits."""
        return cache_size(self.space, self.data, self.teachers, tried=self.tried)

    @property
    def own_methods(self) -> dict[str, str]:
        """Hashes of the code of the user's methods, by their names."""
        return {name: code_of(name) for name in self.space.search.methods if name.startswith(OWN)}

    @property
    def runnable_space(self) -> Space:
        """The space with the budget of this study, which can be run as it is."""
        return changed(self.space, "search", budget=self.budget)

    @property
    def setup(self) -> Setup:
        """The study as workers need it."""
        return Setup(
            space=self.space,
            student=self.student.name,
            foreign=self.student.foreign,
            teachers=self.teachers,
            fingerprints=self.fingerprints,
            data=self.data.fingerprint,
            views=self.views,
            own_methods=self.own_methods,
            sources=self.sources,
            device=self.options.device,
            folder=str(self.folder.path.absolute()),
            cache=str(cache_root().absolute()),
            offline=self.options.offline,
            mode=self.sharing.mode,
            memory_share=self.sharing.memory_share,
        )

    @property
    def untrained(self) -> list[str]:
        """URIs of the teachers that autodistill has still to train, each after those that it learns from or continues.

        Apart from that the strongest of a ladder come first.
        """
        return [task.uri for task in self.training_of(list(reversed(self.teachers)))]

    def training_of(self, names: Sequence[str]) -> list[TrainTeacherTask]:
        """Return the tasks that train what is missing of teachers, each after those that it waits for."""
        tasks: dict[str, TrainTeacherTask] = {}

        def visit(name: str) -> list[str]:
            """Add the tasks of a teacher; return the URIs whose training must end before the teacher is usable."""
            uri = self.teachers[name]
            own = uri.startswith(TRAINED_HERE)
            if uri in tasks:
                return [uri]
            if own and self.path_of(uri).exists():
                return []
            after = list(dict.fromkeys(it for other in self.waits_for(name, names) for it in visit(other)))
            if not own:
                return after
            tasks[uri] = TrainTeacherTask(uri=uri, after=tuple(after))
            return [uri]

        for name in names:
            visit(name)
        return list(tasks.values())

    def waits_for(self, name: str, names: Sequence[str]) -> list[str]:
        """Return the teachers that are trained before a teacher: those that it is made of, and those it continues.

        Only teachers among `names` are trained to be continued.
        """
        uri = self.teachers[name]
        earlier = [other for other in names if ladder.continues(uri, self.teachers[other])]
        return [*assistants.needs(uri, self.teachers), *earlier]

    def path_of(self, uri: str) -> Path:
        """Return the file of a teacher that autodistill trains."""
        data, sources = self.data.fingerprint, self.sources
        return ladder.path_of(uri, root=cache_root(), data=data, space=self.space, sources=sources)

    @property
    def unready(self) -> set[str]:
        """Names of the teachers that cannot run yet: untrained, or an ensemble with an untrained member."""
        return {name for name in self.teachers if self.training_of([name])}

    @property
    def record(self) -> SpecRecord:
        """The specification as `study.json` keeps it, beside the space."""
        adapted = {name: uri for name, uri in self.teachers.items() if uri in self.sources}
        return SpecRecord(
            student=self.student.name,
            student_fingerprint=self.student.foreign.fingerprint if self.student.foreign else "",
            teachers=self.teachers,
            fingerprints=self.fingerprints | {name: self.path_of(uri).parent.name for name, uri in adapted.items()},
            data=self.data.fingerprint,
            methods=self.own_methods,
            result_version=RESULT_VERSION,
        )


def resolve(
    options: SearchOptions,
    *,
    planned: bool = True,
    named: Mapping[str, str] | None = None,
    load_data: LoadData = datasets.load,
) -> StudySpec:
    """Check everything that can be checked without training. Only decoded images and measurements are written.

    Args:
        options: Options of the command.
        planned: Whether a study follows. Then its budget must cover its plan.
        named: URIs of the teachers by name; None: the teachers are those of the options or of the space.
        load_data: `datasets.load`, or a function that also shows its progress.

    Raises:
        ConfigError, DataError, TeacherError, StoreError: A check failed; the hint says what to do.
    """
    (spec,) = resolve_all([options], planned=planned, named=named, load_data=load_data)
    return spec


def resolve_all(
    options: Sequence[SearchOptions],
    *,
    planned: bool = True,
    named: Mapping[str, str] | None = None,
    load_data: LoadData = datasets.load,
) -> tuple[StudySpec, ...]:
    """Check options that differ only in student, study and command. Data and teachers are loaded once.

    Options are checked first, then those that depend on the images, and teachers last, which can take minutes.
    The other arguments are those of `resolve`.

    Raises:
        ConfigError, DataError, TeacherError, StoreError: As for `resolve`; errors of all students are raised together.
    """
    first, names = options[0], [each.student for each in options]
    folders = [_folder(each) for each in options]
    asked = _asked(first, names, named, planned=planned)
    if planned:
        check_places(folders, storage=first.storage)
    asked, data = _fitted(asked, first, load_data)
    students = _students(names, asked.space, data, offline=first.offline)

    def described(loaded: _Loaded) -> tuple[StudySpec, ...]:
        return tuple(
            _resolved(each, asked, data, student, loaded, planned=planned)
            for each, student in zip(options, students, strict=True)
        )

    specs = described(_Loaded(names=asked.fewest))
    if first.limits.given:
        within(specs, first.limits)
    loaded = _load_teachers(asked, data, offline=first.offline)
    return tuple(_with_assistants(spec) for spec in described(loaded))


def _with_assistants(spec: StudySpec) -> StudySpec:
    """Add what decides the weights of the teachers that assistants learn from: part of the keys of their files.

    That is the fingerprint of a given teacher, and the name of the file of a teacher that autodistill trains, which is
    a hash of data and settings.
    """
    sources = dict(spec.sources)

    def source(name: str) -> str:
        uri = spec.teachers[name]
        if name in spec.fingerprints:
            return spec.fingerprints[name]
        if teachers.is_ensemble(uri):
            members = teachers.members_of(uri, spec.teachers)
            return teachers.ensemble_fingerprint([source(member) for member in members])
        if uri.startswith(assistants.SCHEME):
            sources[uri] = source(assistants.assistant_of(uri).teacher)
        return spec._replace(sources=sources).path_of(uri).relative_to(cache_root()).as_posix()

    for name, uri in spec.teachers.items():
        if uri.startswith(assistants.SCHEME):
            source(name)
    return spec._replace(sources=sources)


def check_places(folders: Sequence[StudyFolder], *, storage: str) -> None:
    """Check the cache, the study folders and the database `storage` before data and teachers are loaded.

    The cache may be read-only if it holds everything that the study needs.

    Raises:
        ConfigError: The kind of address is unknown, or its driver is missing.
        StoreError: A folder or the database cannot be used, or holds something else.
    """
    for part in ("images", "ladder", "adapted", "assistants", "logits"):
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


class _Asked(NamedTuple):
    """What can be known without an image."""

    space: Space
    teachers: dict[str, str]
    """URIs by name."""
    folders: dict[str, str]
    """The folder or pattern that a URI comes from, for each URI that comes from one."""
    notes: tuple[str, ...]

    @property
    def fewest(self) -> dict[str, str]:
        """The teachers that the study has at least: of a folder a single file."""
        first: dict[str, str] = {}
        for uri, folder in self.folders.items():
            first.setdefault(folder, uri)
        return {name: uri for name, uri in self.teachers.items() if first.get(self.folders.get(uri, ""), uri) == uri}


class _Loaded(NamedTuple):
    """What loading the teachers has shown; the fields of `StudySpec` describe it."""

    names: dict[str, str]
    fingerprints: dict[str, str] = {}
    sources: dict[str, str] = {}
    left_out: dict[str, str] = {}
    folders: dict[str, str] = {}
    optional: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def _asked(
    options: SearchOptions, students: Sequence[str], named: Mapping[str, str] | None, *, planned: bool
) -> _Asked:
    """Check what needs neither an image nor a teacher: the space, and the names of students and teachers."""
    flags: dict[str, tuple[str, object]] = {
        "data.name": ("--data", options.data or None),
        "search.seed": ("--seed", options.seed),
        "teachers": ("--teacher", list(options.teachers) or None),
    }
    given = {key: (flag, value) for key, (flag, value) in flags.items() if value is not None}
    space = load(options.space, known=KNOWN, overrides=options.overrides, flags=given)
    space = _as_grid(space, options, planned=planned)
    if options.download and options.offline:
        raise ConfigError("--download beside --offline", "leave one of them out")
    _raise_together(check_student_name, students)
    uris, folders, notes = _expanded(space) if named is None else (list(named.values()), {}, [])
    names = teacher_names(uris) if named is None else dict(named)
    for uri in uris:
        teachers.check_scheme(uri)
    assistants.check_needs(names)
    if not space.fit_to_data or "epochs" in space.ladder.model_fields_set:  # else it follows from the images
        ladder.check_epochs(uris, space.ladder.epochs)
    asked = _Asked(space, names, folders, tuple(notes))
    # Where the space is fitted to the data, the number of epochs follows from the images.
    if planned and not in_seconds(_budget(space, options)) and not space.fit_to_data:
        plan_of(space, options, teachers=len(asked.fewest))
    return asked


def plan_of(
    space: Space,
    options: SearchOptions,
    *,
    teachers: int,
    epochs_per_s: float | None = None,
    tried: int | None = None,
) -> PlanRecord:
    """Return the plan of a study; the arguments are those of `make_plan`.

    Raises:
        ConfigError: The budget is too small.
    """
    budget = _budget(space, options)
    if space.grid is not None:
        return make_grid_plan(space, teachers=teachers, requested=budget, epochs_per_s=epochs_per_s)
    return make_plan(
        space,
        teachers=teachers,
        requested=budget,
        epochs_per_s=epochs_per_s,
        max_trials=options.max_trials,
        tried=tried,
    )


def _budget(space: Space, options: SearchOptions) -> str:
    """Return the budget of a study; a method grid has a default of its own, which is empty here."""
    return options.budget or ("" if space.grid is not None else space.search.budget)


def in_seconds(budget: str) -> bool:
    """Return whether a budget is a time. Then its plan follows from measured seconds per epoch."""
    return bool(budget) and parse_budget(budget).unit == "seconds"


def _as_grid(space: Space, options: SearchOptions, *, planned: bool) -> Space:
    """Return the space of a method grid: the methods of the command with their ranges, changed as the space says.

    Raises:
        ConfigError: A search was given the space of a method grid, a method was named twice, or a setting has no effect
            in a method grid.
    """
    if not options.methods:
        if space.grid is not None and planned:
            raise ConfigError(
                f"{options.space}: has a table [grid], which only `autodistill compare` measures",
                "remove [grid], or run compare",
            )
        return space
    _check_grid(options)
    own, methods = space.search.methods, dict[str, dict[str, Dimension]]()
    # The order of the command does not matter: equal grids have equal trials.
    known = list(METHODS)
    for name in sorted(options.methods, key=lambda it: (known.index(it) if it in METHODS else len(known), it)):
        try:
            method = method_named(name)
        except ConfigError as error:
            message = error.message.removeprefix(f"method {name}: ")
            raise ConfigError(f"--method {name}: {message}", error.hint) from error
        given = own.get(name, {})
        ranges = {key: it for key, it in method.ranges.items() if method.replaced.get(key) not in given}
        methods[name] = {**ranges, **given}
    space = changed(space, "search", methods=methods)
    prior = default_prior(space.search, space.plain_kd)
    return space.model_copy(update={"prior": prior, "grid": space.grid or GridSpec()})


def _check_grid(options: SearchOptions) -> None:
    """Refuse methods that cannot be told apart, and settings without an effect in a method grid."""
    if twice := [name for name, times in Counter(options.methods).items() if times > 1]:
        raise ConfigError(f"--method {twice[0]}: named twice", "name each method once")
    for override in options.overrides:
        if override.startswith(WITHOUT_EFFECT):
            raise ConfigError(
                f"--set {override}: has no effect in a method grid",
                "each method starts from its own settings; docs/compare.md lists what a grid does",
            )
    prefixes = tuple(f"search.methods.{part}" for name in options.methods for part in (name, f'"{name}"'))
    for override in options.overrides:
        if override.startswith("search.methods.") and not override.startswith(prefixes):
            raise ConfigError(f"--set {override}: this method is not compared", "name it in --method too")
    labels = Counter(method_label(name) for name in options.methods)
    if alike := [name for name in options.methods if labels[method_label(name)] > 1]:
        raise ConfigError(
            f"--method {', '.join(alike)}: a report would call all of them {method_label(alike[0])}",
            "give the functions different names",
        )


def _grid_notes(space: Space) -> tuple[str, ...]:
    """Return a note for each method of a grid that has nothing to search."""
    fixed = [
        name
        for name, params in space.search.methods.items()
        if not any(isinstance(it, Range | tuple) for it in params.values())
        and not (method_named(name).shape.is_weighted and isinstance(space.search.soft_weight, Range | tuple))
    ]
    return tuple(
        f"{name} has nothing to search: all settings of its cells are equal. A range: --set "
        f"'search.methods.{json.dumps(name) if name.startswith(OWN) else name}.PARAMETER={{low=1, high=4}}'"
        for name in fixed
    )


def _without_default_methods(space: Space, classes: int) -> tuple[Space, tuple[str, ...]]:
    """Remove the default methods of a grid that need more classes than there are; return the space and notes."""
    methods = space.search.methods
    kept = {name: params for name, params in methods.items() if method_named(name).min_classes <= classes}
    if len(kept) == len(methods):
        return space, ()
    left_out = ", ".join(name for name in methods if name not in kept)
    fitted = changed(space, "search", methods=kept)
    fitted = fitted.model_copy(update={"prior": default_prior(fitted.search, space.plain_kd)})
    return fitted, (f"{left_out} left out, which need 3 classes; compared: {', '.join(kept)}",)


def _fitted(asked: _Asked, options: SearchOptions, load_data: LoadData) -> tuple[_Asked, Data]:
    """Load the images, and fit the space to them."""
    if options.download:
        datasets.download(asked.space.data)
    data = load_data(asked.space.data)
    space, left_out = fit_to_images(asked.space, data), tuple[str, ...]()
    if options.default_methods:
        space, left_out = _without_default_methods(space, data.num_classes)
    space, notes = fit_to_classes(space, data)
    notes = (*left_out, *notes, *(_grid_notes(space) if space.grid else ()))
    check_methods(space, data.num_classes)
    check_sizes(space, data)
    ladder.check_epochs(list(asked.teachers.values()), space.ladder.epochs)
    return asked._replace(space=space, notes=(*notes, *asked.notes)), data


def _expanded(space: Space) -> tuple[list[str], dict[str, str], list[str]]:
    """Return the URIs of all teachers, the folder of each that comes from one, and notes on files left out."""
    uris, folders, notes = list[str](), dict[str, str](), list[str]()
    for uri in ladder.expand(space.teachers, space):
        found, left_out = teachers.candidates(uri)
        uris += found
        folders |= {it: uri for it in found if found != [uri]}
        if left_out:
            notes.append(f"teacher {uri}: no checkpoints and left out: {', '.join(left_out)}")
    # A file that is also named by itself is no longer a file of a folder.
    return list(dict.fromkeys(uris)), {it: of for it, of in folders.items() if it not in space.teachers}, notes


def _load_teachers(asked: _Asked, data: Data, *, offline: bool) -> _Loaded:
    """Load the given teachers and the pretrained networks of adapted ones.

    Files of folders that cannot be loaded are left out.

    Raises:
        TeacherError: A teacher that is named by itself cannot be loaded, or no file of a folder.
    """
    names, sources, found = asked.teachers, dict[str, str](), dict[str, str]()
    left_out, notes = dict[str, TeacherError](), list[str]()
    ensembles = {name: teachers.members_of(uri, names) for name, uri in names.items() if teachers.is_ensemble(uri)}
    needed = {other for uri in names.values() for other in assistants.needs(uri, names)}
    for name, uri in names.items():
        try:
            if uri.startswith(adaptation.SCHEME):
                teacher = adaptation.pretrained(uri, data=data, offline=offline, name=name).teacher
                sources[uri] = teacher.fingerprint
            elif not uri.startswith(TRAINED_HERE) and name not in ensembles:
                found[name] = teachers.load(uri, data=data, offline=offline, name=name).fingerprint
        except TeacherError as error:
            if uri not in asked.folders or name in needed:
                raise
            left_out[uri] = error
    for folder in dict.fromkeys(asked.folders[uri] for uri in left_out):
        own = [uri for uri, of in asked.folders.items() if of == folder]
        failed = [left_out[uri] for uri in own if uri in left_out]
        lines = "".join(f"\n  {error.message.removeprefix('teacher ')}" for error in failed)
        if len(failed) == len(own):
            raise TeacherError(
                f"teacher {folder}: none of its {plural(len(own), 'checkpoint')} can be loaded:{lines}", failed[0].hint
            )
        notes.append(
            f"teacher {folder}: {len(failed)} of {len(own)} checkpoints cannot be loaded and are left out:{lines}\n"
            f"  name a file by itself to have its error stop the command: --teacher {next(iter(left_out))}"
        )
    for name, members in ensembles.items():
        if all(member in found for member in members):
            found[name] = teachers.ensemble_fingerprint([found[member] for member in members])
    kept = {name: uri for name, uri in names.items() if uri not in left_out}
    return _Loaded(
        names=kept,
        fingerprints={name: found[name] for name in kept if name in found},
        sources=sources,
        left_out={name: reason_of(left_out[uri].message, uri) for name, uri in names.items() if uri in left_out},
        folders={name: asked.folders[uri] for name, uri in kept.items() if uri in asked.folders},
        optional=frozenset(name for name, uri in kept.items() if uri in asked.folders and name not in needed),
        notes=tuple(notes),
    )


def reason_of(message: str, uri: str) -> str:
    """Return why a file cannot be used, from the message of an error, without its name and the folders of its path."""
    message = message.partition(f"({uri}): ")[2] or message
    uri = uri.removeprefix(adaptation.SCHEME)
    path = Path(parse(uri).target)
    return message.removeprefix(f"teacher {uri}: ").replace(str(path.expanduser()), path.name)


def _students(names: Sequence[str], space: Space, data: Data, *, offline: bool) -> list[StudentRecord]:
    """Describe the students; errors of several students are raised together.

    Descriptions are kept because building a network takes seconds, mostly for imports. Code and weights of a network
    from elsewhere may have changed since.
    """

    def described(name: str) -> StudentRecord:
        describe = partial(student_record, name, data, space.student, offline=offline)
        shape = {"classes": data.num_classes, "image_shape": data.image_shape}
        of = {"name": name, "torch": torch.__version__, "autodistill": __version__, **shape}
        return describe() if is_foreign(name) else once(StudentRecord, {**of, **space.student.model_dump()}, describe)

    students = _raise_together(described, names)
    counts = Counter(student.name for student in students)
    if duplicates := [name for name in counts if counts[name] > 1]:
        raise ConfigError(f"--student {duplicates[0]}: named twice", "name each student once, or add ?name=NAME")
    return students


def _raise_together(of: Callable[[str], T], names: Sequence[str]) -> list[T]:
    """Call a function with each student; raise the errors of all students as one."""
    found, errors = list[T](), list[ConfigError]()
    for name in names:
        try:
            found.append(of(name))
        except ConfigError as error:
            errors.append(error)
    if len(errors) > 1:
        raise ConfigError("\n  ".join(error.message for error in errors), errors[0].hint)
    if errors:
        raise errors[0]
    return found


def _resolved(
    options: SearchOptions, asked: _Asked, data: Data, student: StudentRecord, loaded: _Loaded, *, planned: bool
) -> StudySpec:
    folder = _folder(options)
    kept = kept_record(folder) if planned else None
    kept_space = Space.model_validate(kept.space) if kept else None
    space = with_precision(asked.space, kept_space, data, student=student, device=options.device)
    sharing = Sharing()
    if planned and options.ray:
        # Nothing is measured: this machine may have no GPU.
        on_gpu = options.device.startswith("cuda")
        sharing = Sharing(options.workers, "graph", 1 / options.per_gpu) if on_gpu else Sharing(options.workers)
    elif planned:
        workers = None if options.fill_gpu else options.workers
        sharing = fit_to_device(space, data, student=student, device=options.device, workers=workers)
        if options.fill_gpu:
            options = options.model_copy(update={"workers": options.workers * sharing.workers})
    budget, tried = _budget(space, options), len(loaded.names)
    if planned and not in_seconds(budget):
        plan = plan_of(space, options, teachers=len(loaded.names))
        budget, tried = plan.requested, plan.tried or tried
    if kept is not None and kept.trials:  # the choice of a study stays
        tried = sum(name not in {**kept.screened_out, **kept.left_out} for name in loaded.names)
    space = fit_to_cache(space, kept_space, data, loaded.names, options.cache_bytes, tried=tried)
    # Without the values that cache and processor decided, a command gives another study elsewhere.
    pins: dict[str, object] = {}
    if space.training.precision != asked.space.training.precision:
        pins["training.precision"] = space.training.precision
    if space.data.views != asked.space.data.views:
        pins["data.views"] = space.data.views
    notes = loaded.notes + asked.notes + (student.foreign.notes if student.foreign else ())
    if space.training.optimizer == "adamw" and space.training.lr > LARGEST_ADAMW_RATE:
        notes += (f"training.lr is {space.training.lr:g}, much for adamw: --set training.lr=0.001 is usual",)
    if planned and space.grid is None and space.search.wave < options.workers // 2:
        wave = space.search.wave
        notes += (
            f"search.wave is {wave}: about {2 * wave} runs train at once, on {options.workers} workers; "
            f"--set search.wave={options.workers // 2} uses all workers, and is another study",
        )
    return StudySpec(
        options=options.model_copy(update={"command": pinned(options.command, pins)}),
        space=space,
        data=data,
        student=student,
        teachers=loaded.names,
        fingerprints=loaded.fingerprints,
        sources=loaded.sources,
        left_out=loaded.left_out,
        folders=loaded.folders,
        optional=loaded.optional,
        folder=folder,
        budget=budget,
        tried=tried,
        notes=notes,
        pins=pins,
        sharing=sharing,
    )


def pinned(command: str, values: Mapping[str, object]) -> str:
    """Return a command that sets pinned values."""
    return command + "".join(f" --set {key}={value}" for key, value in values.items())


def study_name(space: str, students: Sequence[str], *, data: str = "", grid: bool = False) -> str:
    """Return the default name of a study: `digits-mobilenetv2`, and `photos-mobilenetv2` for `folder:/data/photos`.

    That of a method grid begins with `methods-`.
    """
    own = datasets.short_name(data) if space == OWN_SPACE else ""
    first = ["methods"] * grid
    return "-".join((*first, own or Path(space).stem, *map(label, students))).replace(":", "-")


def label(student: str) -> str:
    """Return the name of a student for the name of a folder: `mobilenetv2-0.5`."""
    return student_name(student) if is_foreign(student) else student.replace(":", "-")


def _folder(options: SearchOptions) -> StudyFolder:
    study = options.study or study_name(
        options.space, (options.student,), data=options.data, grid=bool(options.methods)
    )
    if Path(study).name != study or study == ".." or len(study) > 100:
        raise ConfigError(
            f"--study {study}: must be a plain name of up to 100 letters; it names a folder below {options.runs}"
        )
    return StudyFolder(Path(options.runs) / study)


def within(
    students: Sequence[StudySpec], limits: StudentBudget
) -> tuple[tuple[StudySpec, ...], tuple[LeftOutRecord, ...]]:
    """Separate the students that keep within the limits from those that break a limit.

    Raises:
        ConfigError: All students break a limit. The message says by how much, and which student comes nearest.
    """
    kept, left_out = [], []
    for spec in students:
        latency = student_latency(spec, kept_record(spec.folder)) if limits.latency_ms is not None else None
        excess = limits.excess(costs_of(spec.student.cost, latency))
        if excess:
            left_out.append(LeftOutRecord(student=spec.student, latency=latency, excess=excess))
        else:
            kept.append(spec._replace(latency=latency))
    if not kept:
        lines = [f"{excluded.student.name}: {excess_words(excluded, limits)}" for excluded in left_out]
        message = f"the student breaks its limits: {lines[0]}"
        if len(lines) > 1:
            nearest = min(left_out, key=lambda excluded: max(excluded.excess.values()))
            kind = max(nearest.excess, key=lambda cost: nearest.excess[cost])
            times = f"{nearest.excess[kind]:.2f} times the limit on {COSTS[kind]}"
            listed = "\n  ".join(lines)
            message = f"no student keeps within the limits; {nearest.student.name} comes nearest ({times}):\n  {listed}"
        raise ConfigError(message, "raise the limit, or name a smaller student or width")
    return tuple(kept), tuple(left_out)


def student_latency(spec: StudySpec, kept: StudyRecord | None) -> LatencyRecord | None:
    """Return the time of a forward pass of one image on the study's device; None if this machine lacks the device.

    A time in the study's record or among the kept measurements is used again, because times are noisy.
    """
    device = spec.options.device
    name = device_name(device) if device.startswith("cuda") else f"{processor()}, one thread"
    known = latency_of(kept) if kept else None
    if known is not None and known.device == name:
        return known
    if device.startswith("cuda") and not torch.cuda.is_available():
        return None

    def measured() -> LatencyRecord:
        model = student_network(spec.student.source, spec.data, spec.space.student, offline=True)
        latency = latency_ms(model, image_shape=spec.data.image_shape, device=torch.device(device))
        return LatencyRecord(median_ms=round(latency.median_ms, 4), iqr_ms=round(latency.iqr_ms, 4), device=name)

    of = facts(spec.data, spec.space, device=device, student=spec.student.model_dump(mode="json"))
    return once(LatencyRecord, of, measured)

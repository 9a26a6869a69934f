"""From a request to a study that can start: everything is checked, nothing is written."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from autodistill import data as datasets
from autodistill import ladder, teachers
from autodistill.cache import estimated_bytes
from autodistill.cost import student_record
from autodistill.data import DATASETS, Data
from autodistill.errors import ConfigError
from autodistill.losses import LOSSES
from autodistill.models import MODELS
from autodistill.records import Record, StudentRecord
from autodistill.rules import RULES
from autodistill.search import make_plan, parse_budget
from autodistill.space import Known, PlainKDSpec, Space, load
from autodistill.store import RunFolder, cache_root
from autodistill.study.trying import try_rules
from autodistill.workers import Setup

DEFAULT_CACHE_BYTES = 8 * 2**30


KNOWN = Known(
    datasets=tuple(DATASETS),
    architectures=tuple(MODELS),
    rules={name: rule.params for name, rule in RULES.items()},
    losses=tuple(LOSSES),
)


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
    overrides: tuple[str, ...] = ()
    max_trials: int | None = None
    timeout_s: float | None = None
    cache_bytes: int = DEFAULT_CACHE_BYTES
    offline: bool = False
    runs: str = "runs"
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

    @property
    def views(self) -> int:
        return _views(self.space)

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
        )

    @property
    def untrained(self) -> list[str]:
        """Ladder teachers that are not kept yet, strongest first."""
        uris = [uri for uri in self.teachers.values() if uri.startswith(ladder.SCHEME)]
        places = {uri: ladder.path_of(uri, root=cache_root(), data=self.data, space=self.space) for uri in uris}
        return [uri for uri in reversed(uris) if not places[uri].exists()]


def prepare(request: Request, *, planned: bool = True) -> Prepared:
    """Check everything that can be checked without training; writes nothing.

    Args:
        request: as asked for.
        planned: whether a study is to come: then its budget must hold its plan.

    Raises:
        ConfigError, DataError, TeacherError, StoreError: what does not hold, and what to do.
    """
    asked = _space(request)
    data = datasets.load(asked.data)
    space, notes = _fit_to_classes(asked, data)
    try_rules(space, data.num_classes)
    student = student_record(
        request.student,
        num_classes=data.num_classes,
        image_shape=data.image_shape,
        default_width=space.student.width,
        stem_stride=space.student.stem_stride,
    )
    names = _names(ladder.expand(space.teachers, space))
    given = {name: uri for name, uri in names.items() if not uri.startswith(ladder.SCHEME)}
    loaded = {name: teachers.load(uri, data=data, offline=request.offline, name=name) for name, uri in given.items()}
    _check_batch(space, data)
    _check_crop(space, data)
    folder = _folder(request)
    space = _with_kept_wave(space, folder, request.workers)
    space = _within_cache(space, data, len(names), request.cache_bytes)
    budget = request.budget or space.search.budget
    if planned and parse_budget(budget).unit != "seconds":
        make_plan(space, teachers=len(names), requested=budget, max_trials=request.max_trials)
    return Prepared(
        request=request.model_copy(update={"command": _pinned(request.command, asked, space)}),
        space=space,
        data=data,
        student=student,
        teachers=names,
        fingerprints={name: teacher.fingerprint for name, teacher in loaded.items()},
        folder=folder,
        budget=budget,
        notes=notes,
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


def _fit_to_classes(space: Space, data: Data) -> tuple[Space, tuple[str, ...]]:
    """Leave rules out that need more classes, unless the space names them; say so."""
    search, prior = space.search, space.prior
    too_few = [name for name in search.rules if RULES[name].min_classes > data.num_classes]
    if not too_few:
        return space, ()
    name = too_few[0]
    needs = f"needs at least {RULES[name].min_classes} classes; {data.name} has {data.num_classes}"
    key = "prior" if prior.rule == name and {"rule", "params"} & prior.model_fields_set else ""
    key = f"search.rules.{name}" if "rules" in search.model_fields_set else key
    if key:
        raise ConfigError(f"{key}: {name} {needs}", "name other rules, for example --set search.rules.ts.tau=4")
    rules = {rule: params for rule, params in search.rules.items() if rule not in too_few}
    if prior.rule in too_few:
        prior = prior.model_copy(update={"rule": "ts", "params": {"tau": PlainKDSpec().tau}})
    fitted = space.model_copy(update={"search": search.model_copy(update={"rules": rules}), "prior": prior})
    return fitted, (f"{', '.join(too_few)} left out ({needs}); searched: {', '.join(rules)}; prior: {prior.rule}",)


def _names(uris: Sequence[str]) -> dict[str, str]:
    """A name for each teacher; where several would share one, they are numbered."""
    wanted = [
        uri.removeprefix(ladder.SCHEME) if uri.startswith(ladder.SCHEME) else teachers.name_of(uri) for uri in uris
    ]
    often, seen = Counter(wanted), Counter[str]()
    names = {}
    for name, uri in zip(wanted, uris, strict=True):
        seen[name] += 1
        names[f"{name}#{seen[name]}" if often[name] > 1 else name] = uri
    return names


def _check_batch(space: Space, data: Data) -> None:
    size, images = space.training.batch_size, len(data.train.labels)
    if size > images:
        raise ConfigError(
            f"training.batch_size: {size} is more than the {images} training images",
            f"--set training.batch_size={min(64, images)}",
        )


def _check_crop(space: Space, data: Data) -> None:
    crop, size = space.data.crop, min(data.image_shape[1:])
    if crop >= size:
        raise ConfigError(
            f"data.crop: {crop} pixels of padding leave nothing of {size}x{size} images", "--set data.crop=1"
        )


def _folder(request: Request) -> RunFolder:
    study = request.study or f"{Path(request.space).stem}-{request.student}".replace(":", "-")
    if Path(study).name != study or study == ".." or len(study) > 100:
        raise ConfigError(
            f"--study {study}: must be a plain name of up to 100 letters, it becomes a folder below {request.runs}"
        )
    return RunFolder(Path(request.runs) / study)


def _views(space: Space) -> int:
    return min(space.data.views or space.training.epochs, space.training.epochs)


def _within_cache(space: Space, data: Data, teacher_count: int, cache_bytes: int) -> Space:
    """A pool of as many views as the cache may hold, where it cannot hold them all."""
    wanted = _views(space)
    one = estimated_bytes(teachers=teacher_count, views=1, examples=len(data.train.labels), classes=data.num_classes)
    if cache_bytes < one:
        raise ConfigError(
            f"--cache-size {cache_bytes}: one view of {teacher_count} teachers takes {one} bytes",
            f"--cache-size {one} holds one, {one * wanted} all {wanted}",
        )
    if cache_bytes >= wanted * one:
        return space
    return space.model_copy(update={"data": space.data.model_copy(update={"views": cache_bytes // one})})


def _with_kept_wave(space: Space, folder: RunFolder, workers: int) -> Space:
    """The wave is the study's, not the workers': as many as started it, and the same ever after."""
    wave = max(space.search.wave, workers)
    if folder.space.exists():
        wave = load(str(folder.space), known=KNOWN).search.wave
    return space.model_copy(update={"search": space.search.model_copy(update={"wave": wave})})


def _pinned(command: str, asked: Space, space: Space) -> str:
    """The command with what followed from the number of workers and the size of the cache, which it leaves out."""
    followed = {
        "search.wave": (asked.search.wave, space.search.wave),
        "data.views": (asked.data.views, space.data.views),
    }
    return command + "".join(f" --set {key}={new}" for key, (old, new) in followed.items() if new != old)

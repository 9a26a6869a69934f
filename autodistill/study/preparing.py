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
from autodistill.space import Known, Space, load
from autodistill.store import RunFolder, cache_root
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
    views: int
    folder: RunFolder
    budget: str

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


def prepare(request: Request) -> Prepared:
    """Check everything that can be checked without training; writes nothing.

    Raises:
        ConfigError, DataError, TeacherError, StoreError: what does not hold, and what to do.
    """
    space = _space(request)
    data = datasets.load(space.data)
    space = _fit_to_classes(space, data)
    student = student_record(
        request.student,
        num_classes=data.num_classes,
        image_shape=data.image_shape,
        default_width=space.student.width,
        stem_stride=space.student.stem_stride,
    )
    uris = ladder.expand(space.teachers, space)
    names = _names(uris)
    for name, uri in names.items():
        if not uri.startswith(ladder.SCHEME):
            teachers.load(uri, data=data, offline=request.offline, name=name)
    if space.training.batch_size > len(data.train.labels):
        raise ConfigError(
            f"training.batch_size: {space.training.batch_size} is more than the {len(data.train.labels)} "
            "training images",
            f"--set training.batch_size={min(64, len(data.train.labels))}",
        )
    study = request.study or f"{Path(request.space).stem}-{request.student}".replace(":", "-")
    folder = RunFolder(Path(request.runs) / study)
    space = _with_kept_wave(space, folder, request.workers)
    budget = request.budget or space.search.budget
    prepared = Prepared(
        request, space, data, student, names, _views(space, data, len(names), request), folder, budget
    )
    if parse_budget(budget).unit != "seconds":
        make_plan(space, teachers=len(names), requested=budget, max_trials=request.max_trials)
    return prepared


def identity(prepared: Prepared) -> dict[str, object]:
    space = prepared.space.model_dump(mode="json", exclude={"purpose": True, "search": {"wave", "budget"}})
    return {
        "student": prepared.student.name,
        "space": space,
        "teachers": prepared.teachers,
        "data": prepared.data.fingerprint,
        "views": prepared.views,
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


def _fit_to_classes(space: Space, data: Data) -> Space:
    """Leave rules out that need more classes, unless the space names them."""
    too_few = [name for name in space.search.rules if RULES[name].min_classes > data.num_classes]
    if not too_few:
        return space
    name = too_few[0]
    if "rules" in space.search.model_fields_set or "rule" in space.prior.model_fields_set:
        raise ConfigError(
            f"search.rules.{name}: needs at least {RULES[name].min_classes} classes; "
            f"{data.name} has {data.num_classes}",
            "name other rules, for example --set search.rules.ts.tau=4",
        )
    rules = {rule: params for rule, params in space.search.rules.items() if rule not in too_few}
    prior = space.prior.model_copy(update={"rule": "ts", "params": {"tau": space.plain_kd.tau}})
    return space.model_copy(update={"search": space.search.model_copy(update={"rules": rules}), "prior": prior})


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


def _views(space: Space, data: Data, teacher_count: int, request: Request) -> int:
    wanted = space.data.views or max(space.training.epochs, 1)
    one = estimated_bytes(teachers=teacher_count, views=1, examples=len(data.train.labels), classes=data.num_classes)
    fitting = request.cache_bytes // one
    if fitting < 1:
        raise ConfigError(
            f"--cache-size {request.cache_bytes}: one view of {teacher_count} teachers takes {one} bytes",
            f"--cache-size {one} holds one, {one * wanted} all {wanted}",
        )
    return min(wanted, fitting)


def _with_kept_wave(space: Space, folder: RunFolder, workers: int) -> Space:
    """The wave is the study's, not the workers': as many as started it, and the same ever after."""
    wave = max(space.search.wave, workers)
    if folder.space.exists():
        wave = load(str(folder.space), known=KNOWN).search.wave
    return space.model_copy(update={"search": space.search.model_copy(update={"wave": wave})})

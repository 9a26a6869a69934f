"""The search space: all scientific settings of a study.

A space is a shipped TOML file or a user's own, with `--set key=value` overrides. Unknown keys are errors, and all
mistakes are reported together.
"""

import json
import math
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import quote

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from autodistill.errors import ConfigError, near
from autodistill.records import Metric, Rungs

NEWER = {"optimizer": "sgd", "body_lr_factor": 0.1}
"""Defaults of training settings that studies of older versions do not have."""
RENAMED = {
    "search.rules": "search.methods",
    "search.second_looks": "search.reruns",
    "prior.rule": "prior.method",
    "training.short_epochs": "training.rung_epochs",
}
"""Keys of older versions."""
SET = "--set"
"""Flag of overrides."""

_PLAIN = "/:@+~,#"
"""Characters that stand for themselves in options of URIs."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1)]


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Range(Spec):
    """A searched interval; with `log` the search uses a logarithmic scale."""

    low: Annotated[float, Field(allow_inf_nan=False)]
    high: Annotated[float, Field(allow_inf_nan=False)]
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low:g} must be above 0 where log = true")
        return self


def _as_dimension(found: Any) -> Any:
    if isinstance(found, dict):
        return Range.model_validate(found)
    if isinstance(found, list):
        if not found:
            raise ValueError("a list of choices needs at least one")
        return tuple(found)
    if isinstance(found, int) and not isinstance(found, bool):
        return float(found)
    return found


def _as_uri(found: Any) -> Any:
    """Join a table of a URI and its options, as in `{uri = "file:a.pt", arch = "resnet20"}`, into one URI."""
    if not isinstance(found, dict):
        return found
    uri, options = found.get("uri"), {key: value for key, value in found.items() if key != "uri"}
    if not isinstance(uri, str):
        raise ValueError("a table needs uri, a text such as 'file:ckpt.safetensors'; its other keys are options")
    query = "&".join(f"{quote(key)}={quote(_as_option(key, value), safe=_PLAIN)}" for key, value in options.items())
    return f"{uri}{'&' if '?' in uri else '?'}{query}" if query else uri


def _as_option(key: str, value: object) -> str:
    """Return a TOML value as the text of an option in a URI."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and key in ("mean", "std", "classes"):
        return ",".join(map(str, value))
    if isinstance(value, list | int | float):
        return json.dumps(value, default=str)  # a list may hold dates
    raise ValueError(f"{key}: an option is a text, a number, true, false or a list")


Choice = float | str
Dimension = Annotated[Range | tuple[Choice, ...] | float | str, BeforeValidator(_as_dimension)]
"""A searched setting: a number or a name is a fixed value, a list a choice, `{low, high, log}` an interval."""


def bounds(dimension: Dimension) -> tuple[float, float] | None:
    """Return the smallest and the largest number of a dimension; None if it contains names."""
    if isinstance(dimension, Range):
        return dimension.low, dimension.high
    values = dimension if isinstance(dimension, tuple) else (dimension,)
    numbers = [value for value in values if not isinstance(value, str)]
    return (min(numbers), max(numbers)) if len(numbers) == len(values) else None


class DataSpec(Spec):
    name: str = "digits"
    """A registered dataset, `folder:PATH`, `arrays:FILE.npz`, `python:FILE.py:FACTORY` or `torchvision:NAME`."""
    root: str = ""
    """Folder of the files; empty: the default folder of the dataset."""
    train: Count | None = None
    """Number of training images; None: all that remain."""
    validation: Count | None = None
    """Number of validation images; None: the dataset's own validation set, or a fifth of the images outside test."""
    test: Count | None = None
    """Number of test images; None: the dataset's own test set, or a fifth of all images."""
    split_seed: Seed = 0
    pool: Count = 1
    """Side of the blocks of pixels that are averaged into one pixel: 2 turns 28x28 into 14x14."""
    image_size: Count | None = None
    """Height and width of the images of a study; None: it follows from the images. Photographs, images that are not
    square, are stored with a margin: their shorter side is resized to 1.15 times this size, and their centre is cut to
    a square. Other images are resized to this size."""
    view_seed: Seed = 0
    crop: Annotated[int, Field(ge=0)] = 0
    """Largest shift of a random crop of the image size, in pixels. Beyond the stored images, the crop shows black. Left
    open, it is the margin of photographs and 0 for other images."""
    flip: bool = False
    """Mirror half of the views."""
    views: Count | None = None
    """Number of views in the pool that epochs cycle through; None: one view for each epoch."""


class StudentSpec(Spec):
    width: Positive = 1.0
    """Channels relative to the published network, if the student's name has no `:WIDTH`."""
    stem_stride: Literal[1, 2] | None = None
    """Stride of the first layer; None: chosen by the image size."""


class TrainingSpec(Spec):
    """SGD with Nesterov momentum or AdamW, linear warm-up, cosine decay to zero, averaged weights."""

    epochs: Count = 30
    rung_epochs: Count | None = None
    """Epochs of the rung, after which a trial is compared with others; None: a third of `epochs`."""
    batch_size: Count = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """`adamw` needs a smaller `lr`, such as 0.001."""
    lr: Positive = 0.1
    body_lr_factor: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate of the tensors that a student got from pretrained weights, relative to `lr`, which is that of its
    new head. A student without such weights has one rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD; beta_1 of AdamW."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5e-4
    warmup: Fraction = 0.1
    """Share of the steps over which the learning rate rises from zero."""
    averaging: Positive = 0.75
    """Horizon of the exponential average of the weights, in epochs."""
    evaluate_every: Count = 1
    """Epochs between validations; the last epoch is always validated."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the student's passes. `auto` times a few steps at the start of a study, which keeps the faster
    format."""

    @model_serializer(mode="wrap")
    def _without_newer_defaults(self, dump: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Leave newer settings out where they have their defaults: keys and identities of older studies stay."""
        return {key: value for key, value in dump(self).items() if NEWER.get(key, ...) != value}

    @property
    def rung(self) -> int:
        return self.rung_epochs if self.rung_epochs is not None else max(1, round(self.epochs / 3))

    @model_validator(mode="after")
    def _short_is_shorter(self) -> "TrainingSpec":
        if self.rung >= self.epochs:
            least = f"at least {self.rung + 1} epochs"
            fits = f"{least}, or at most {self.epochs - 1} rung_epochs" if self.epochs > 1 else least
            raise ValueError(f"epochs = {self.epochs} leaves no room for a rung of {self.rung}: {fits}")
        return self


class LadderSpec(Spec):
    """The default ladder: teachers of `ladder:`, trained on the study's data with the study's optimiser."""

    architectures: tuple[str, ...] = ("resnet8:0.25", "resnet8:0.5", "resnet8", "resnet20:2")
    epochs: Count = 30
    lr: Positive = 0.1
    seed: Seed = 0


class AdaptSpec(Spec):
    """Fine-tuning of pretrained networks with a new head, for teachers of `adapt:`: first the head, then all weights.

    Both parts warm up linearly and decay by a cosine to zero.
    """

    imagenet: tuple[str, ...] = (
        "torchvision:mobilenet_v3_small@IMAGENET1K_V1",
        "torchvision:mobilenet_v3_large@IMAGENET1K_V2",
        "torchvision:resnet50@IMAGENET1K_V2",
        "torchvision:convnext_small@IMAGENET1K_V1",
    )
    """Networks of `ladder:imagenet`, by growing capacity."""
    head_epochs: Annotated[int, Field(ge=0)] = 2
    """Epochs in which only the new head is trained."""
    epochs: Count = 6
    """Epochs in which all weights are trained, after those of the head."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Positive | None = None
    """Peak learning rate of all weights; None: 0.0003 for AdamW, 0.01 for SGD."""
    head_lr: Positive | None = None
    """Peak learning rate while only the head is trained; None: ten times `lr`."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """None: 0.01 for AdamW, 0.0001 for SGD."""
    batch_size: Count = 32
    seed: Seed = 0


class SearchSpec(Spec):
    budget: str = "20"
    metric: Metric = "top1"
    """The accuracy that decides in search and verdict. `balanced_top1` is the mean of the accuracies on each class, for
    classes of different sizes."""
    seed: Seed = 0
    wave: Count = 2
    """Trials suggested together. The value belongs to the study and does not depend on the number of workers."""
    rungs: Rungs = "part-way"
    """How a trial reaches its rung. `part-way`: it trains the first epochs of the full run, is scored by the averaged
    weights, and continues from there. `short schedule`: it trains a complete schedule of the rung's length, and the
    full run starts again from the beginning."""
    eta: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 3.0
    """One in eta trials of a teacher and method continues after its rung."""
    startup: Annotated[int, Field(ge=0)] = 10
    """Trials, including priors, before the sampler uses its model."""
    reruns: bool = True
    """Whether the settings of the search's best run are trained with each leading teacher before finalists are chosen,
    if the budget allows it. The best of many single scores is partly luck, and the others may lack its settings."""
    soft_weight: Dimension = Range(low=0.1, high=0.9)
    methods: dict[str, dict[str, Dimension]] = {
        "isats": {
            "target_ratio": Range(low=0.8, high=4.0, log=True),
            "tau_student": Range(low=1.0, high=8.0, log=True),
        },
        "ts": {"tau": Range(low=1.0, high=16.0, log=True)},
        "ats": {
            "tau_target": Range(low=1.0, high=16.0, log=True),
            "tau_other": Range(low=1.0, high=16.0, log=True),
            "tau_student": Range(low=1.0, high=8.0, log=True),
        },
    }
    """Searched settings of each method. The student temperatures of ISATS and ATS are searched, because students of
    ISATS were on average 3.2 points better at 4 than at 1 (`docs/search.md`)."""

    @model_validator(mode="before")
    @classmethod
    def _drop_the_loss(cls, found: Any) -> Any:
        """Drop `loss`, a key of older spaces with a single allowed value."""
        if isinstance(found, dict) and found.get("loss") == "soft_cross_entropy":
            return {key: value for key, value in found.items() if key != "loss"}
        return found

    @field_validator("soft_weight")
    @classmethod
    def _weights_are_fractions(cls, found: Dimension) -> Dimension:
        limits = bounds(found)
        if limits is None or limits[0] < 0 or limits[1] > 1:
            raise ValueError("must lie in [0, 1]")
        return found


class PlainKDSpec(Spec):
    """Plain distillation from the most accurate teacher (Hinton et al. 2015), the usual baseline."""

    tau: Positive = 4.0
    soft_weight: Fraction = 0.9


class PriorSpec(Spec):
    """Configuration of the first trial of every teacher, equal for all, so that they are compared at equal tuning.

    A space that names no prior takes plain KD, or what is nearest to it in the search (`default_prior`).
    """

    method: str = "ts"
    params: dict[str, Choice] = {"tau": PlainKDSpec().tau}
    soft_weight: Fraction = PlainKDSpec().soft_weight


class ConfirmSpec(Spec):
    teachers: Annotated[int, Field(ge=1)] = 2
    seeds: Annotated[int, Field(ge=1)] = 3
    """Seeds per finalist. With 5 or more seeds and at least two teachers, every finalist gets 3 seeds, and finalists
    that are still undecided get the others."""
    threshold: Fraction = 0.002
    """Smallest difference in test accuracy that matters in practice."""
    label_smoothing: bool | None = None
    """Whether a student is trained on labels alone with label smoothing 0.1, over the confirm seeds, as a control
    without a teacher; None: from a budget of 23 full trainings on."""


class GridSpec(Spec):
    """A method grid, which `compare` measures: methods x teachers."""

    shared_settings: bool = False
    """Whether each method's best setting for all teachers together is trained with every teacher too. This tells the
    effect of a method from the effect of tuning it for each teacher."""


class Space(Spec):
    """A resolved search space. `space.toml` of a study contains one and can itself be used as a space."""

    purpose: str = ""
    fit_to_data: bool = False
    """Whether crop, epochs, batch size and learning rate follow from the images where the space leaves them open."""
    teachers: tuple[Annotated[str, BeforeValidator(_as_uri)], ...] = ("ladder:",)
    """URIs. In a file, a teacher may also be a table `[[teachers]]` of `uri` and its options."""
    data: DataSpec = DataSpec()
    student: StudentSpec = StudentSpec()
    training: TrainingSpec = TrainingSpec()
    ladder: LadderSpec = LadderSpec()
    adapt: AdaptSpec = AdaptSpec()
    search: SearchSpec = SearchSpec()
    prior: PriorSpec = PriorSpec()
    plain_kd: PlainKDSpec = PlainKDSpec()
    confirm: ConfirmSpec = ConfirmSpec()
    grid: GridSpec | None = None
    """Of `compare` only."""

    @model_validator(mode="after")
    def _choose_the_prior(self) -> "Space":
        if "prior" not in self.model_fields_set:
            object.__setattr__(self, "prior", default_prior(self.search, self.plain_kd))
        return self


def default_prior(search: SearchSpec, plain_kd: PlainKDSpec) -> PriorSpec:
    """Return the prior of a space that names none.

    It is plain KD where the search contains plain KD; otherwise the nearest values of TS, of ISATS with target ratio
    5/3 and soft weight 0.5, or of the first searched method. As the first trial of every teacher, plain KD led to
    better recommendations than ISATS in simulated studies on both recorded data sets (`tests/bench/policy.py`).
    """
    method = next((name for name in ("ts", "isats", *search.methods) if name in search.methods), "ts")
    known: dict[str, dict[str, Choice]] = {
        "ts": {"tau": plain_kd.tau, "soft_weight": plain_kd.soft_weight},
        "isats": {"target_ratio": 5 / 3},
    }
    return nearest_prior(search, method, {"tau_student": plain_kd.tau, "soft_weight": 0.5, **known.get(method, {})})


def nearest_prior(search: SearchSpec, method: str, wanted: Mapping[str, Choice]) -> PriorSpec:
    """Return the point of a method's search that is nearest to the wanted settings; others get a middle value."""
    params = {name: _nearest(it, wanted.get(name)) for name, it in search.methods.get(method, {}).items()}
    weight = _nearest(search.soft_weight, wanted.get("soft_weight"))
    return PriorSpec(
        method=method,
        params={name: value for name, value in params.items() if value is not None},
        soft_weight=float(search.soft_weight if weight is None else weight),  # type: ignore[arg-type]
    )


def _nearest(dimension: Dimension, wanted: Choice | None) -> Choice | None:
    """Return the searched value nearest to `wanted`, or a middle value; None for a fixed dimension."""
    number = wanted if isinstance(wanted, int | float) else None
    if isinstance(dimension, Range):
        middle = math.sqrt(dimension.low * dimension.high) if dimension.log else (dimension.low + dimension.high) / 2
        return min(max(middle if number is None else number, dimension.low), dimension.high)
    if isinstance(dimension, tuple):
        numbers = [it for it in dimension if isinstance(it, float)]
        if number is not None and numbers:
            return min(numbers, key=lambda it: abs(it - number))
        return wanted if wanted in dimension else dimension[0]
    return None


class MethodShape(NamedTuple):
    """What the search needs to know about a method to suggest its settings."""

    is_weighted: bool = True
    """Whether its loss is weighted by `soft_weight`."""
    tau_student_from: str | None = None
    """Parameter that the student temperature follows; None: the student temperature is 1."""


class Mistake(NamedTuple):
    """A mistake in a space: its key, what is wrong and what is allowed."""

    key: str
    text: str


class Known(NamedTuple):
    """What a space may name. The caller passes it in, because the registries belong to higher layers."""

    datasets: Collection[str]
    architectures: Collection[str]
    methods: Collection[str]
    parameters_of: Callable[[str], Sequence[str]]
    """Return the parameters of a method. Raise `ConfigError` if there is no such method."""
    complete: Callable[["Space"], "Space"] = lambda space: space
    """Return a space with the settings of the methods whose tables are empty."""


def shipped() -> dict[str, str]:
    """Return the TOML text of each shipped space by name."""
    folder = resources.files("autodistill.search_spaces")
    found = (entry for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return {entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8") for entry in found}


def load(
    name: str, *, known: Known, overrides: Sequence[str] = (), flags: Mapping[str, tuple[str, object]] = {}
) -> Space:
    """Load a search space.

    Args:
        name: Name of a shipped space, or path of a TOML file.
        known: Names that the space may use.
        overrides: `key=value` pairs that replace values of the file.
        flags: Further values by their key, each after the flag that gave it: `{"data.name": ("--data", "digits")}`.

    Raises:
        ConfigError: The space has mistakes. The message lists all of them, each with file or flag, key, value and the
            allowed values.
    """
    text, source = _read(name)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{source}: not valid TOML: {error}", "`autodistill spaces show digits` prints a valid space"
        ) from error
    given: dict[str, str] = {}
    mistakes = [mistake for override in overrides if (mistake := _apply(tree, override, given))]
    for key, (flag, value) in flags.items():
        _put(tree, _parts(key), value)
        given[key] = flag
    return parse(tree, source=source, known=known, mistakes=mistakes, given=given)


def parse(
    tree: Mapping[str, Any],
    *,
    source: str,
    known: Known,
    mistakes: Sequence[str] = (),
    given: Mapping[str, str] = {},
) -> Space:
    """Validate a space that was parsed from TOML.

    Args:
        tree: Tables and values.
        source: File name for error messages.
        known: Names that the space may use.
        mistakes: Mistakes found earlier, which are reported with the others.
        given: Keys that flags set, each with its flag.

    Raises:
        ConfigError: The space has mistakes; the message lists all of them.
    """
    space, wrong = _validated(tree)
    found = [*wrong, *_unknown_names(space, known)]
    if not (found or mistakes):
        space = known.complete(space)
        # The prior is checked last: a mistake in a method would be reported again as a prior outside the space.
        found = [*_prior_outside(space)]
    where = [_where(mistake.key, source, given) for mistake in found]
    lines = [*mistakes, *(f"{place}: {mistake.text}" for place, mistake in zip(where, found, strict=True))]
    if lines:
        count = f"{len(lines)} mistakes\n" if len(lines) > 1 else ""
        hint = "`autodistill spaces check FILE` checks a space without running it"
        if not any(place.startswith(f"{source}:") for place in where):
            hint = (
                "`autodistill spaces check SPACE` prints all keys with their values; `autodistill search --help` "
                "describes the flags"
            )
        raise ConfigError(count + "\n".join(lines), hint)
    return space


def _where(key: str, source: str, given: Mapping[str, str]) -> str:
    """Name what set a key: a flag, or the file, with the flags that changed other parts of the same setting."""
    beside = []
    for of, flag in given.items():
        if f"{key}.".startswith(f"{of}."):
            return f"{flag} {key}" if flag == SET else flag
        # A prior is compared with the search.
        if of.startswith(f"{key}.") or (key.startswith("prior.") and of.startswith(("prior.", "search."))):
            beside.append(f"{flag} {of}" if flag == SET else flag)
    return f"{source}{' with ' if beside else ''}{', '.join(beside)}: {key}"


def dump(space: Space) -> str:
    """Render a resolved space as TOML, from which `load` reads an equal space."""
    return tomli_w.dumps(space.model_dump(mode="json", exclude_none=True))


def _read(name: str) -> tuple[str, str]:
    spaces = shipped()
    if name in spaces:
        return spaces[name], f"search_spaces/{name}.toml"
    path = Path(name)
    if not path.suffix and not path.exists():
        raise ConfigError(f"unknown space {name!r} ({near(name, spaces)})", "or name a .toml file")
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        hint = "`autodistill spaces cp digits FILE` writes a valid space"
        raise ConfigError(f"{path}: cannot be read ({error})", hint) from error


def _apply(tree: dict[str, Any], override: str, given: dict[str, str]) -> str:
    """Replace a value of the tree and note its key in `given`; return the mistake if the override has one."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        return f"{SET} {override}: must be key=value, for example training.epochs=20"
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    path = _parts(key.strip())
    if parent := _put(tree, path, value):
        return f"{SET} {override}: {parent} is a value, not a table"
    given[".".join(path)] = SET
    return ""


def _parts(key: str) -> list[str]:
    """Return the parts of a dotted key. As in TOML, quotes protect dots: `search.methods."python:a.py:f".gamma`."""
    try:
        found: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return key.split(".")
    parts: list[str] = []
    while isinstance(found, dict) and len(found) == 1:
        ((part, found),) = found.items()
        parts.append(part)
    return parts


def _put(tree: dict[str, Any], path: Sequence[str], value: object) -> str:
    """Set a value of the tree, or return the part of its path that is a value, not a table."""
    *parents, leaf = path
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            return parent
    tree[leaf] = value
    return ""


def _validated(tree: Mapping[str, Any]) -> tuple[Space, list[Mistake]]:
    """Return the space without its mistaken keys, and the mistakes.

    Names can then be checked in the same pass as types and values.
    """
    kept, wrong = deepcopy(dict(tree)), list[Mistake]()
    while True:
        try:
            return Space.model_validate(kept), wrong
        except ValidationError as error:
            wrong += _readable(error, kept)
            for item in error.errors():
                _remove(kept, item["loc"])


def _remove(tree: dict[str, Any], loc: Sequence[int | str]) -> None:
    """Remove the deepest key of `loc` that exists, or the whole tree where the mistake has no key of its own."""
    node: Any = tree
    last: tuple[dict[str, Any], str] | None = None
    for part in loc:
        if not (isinstance(node, dict) and part in node):
            break
        last = node, str(part)
        node = node[part]
    if last is None:
        tree.clear()
    else:
        del last[0][last[1]]


def _readable(error: ValidationError, tree: Mapping[str, Any]) -> Iterator[Mistake]:
    seen: set[Mistake] = set()
    for item in error.errors():
        path = _path(item["loc"], tree, missing=item["type"] == "missing")
        key = ".".join(path) or "space"
        if key in RENAMED:
            text = f"is called {RENAMED[key]} now"
        elif item["type"] == "extra_forbidden":
            text = f"unknown key ({near(path[-1], _fields(path[:-1]))})"
        else:
            # The value of a table is not repeated: the message names the numbers that are wrong.
            got = "" if isinstance(item["input"], dict) else f" (got {item['input']!r:.80})"
            text = f"{item['msg'].removeprefix('Value error, ')}{got}"
        if (mistake := Mistake(key, text)) not in seen:
            seen.add(mistake)
            yield mistake


def _path(loc: Sequence[int | str], tree: Mapping[str, Any], *, missing: bool) -> list[str]:
    """Return the keys and places of `loc` that the tree has; of a missing key also its name.

    Pydantic adds the types that it tried for a union, which no file contains.
    """
    node: Any = tree
    path = []
    for part in loc:
        held = part in node if isinstance(node, dict) else isinstance(node, list) and isinstance(part, int)
        if held:
            node = node[part]
        if held or (missing and part == loc[-1]):
            path.append(str(part))
    return path


def _fields(path: Sequence[str]) -> list[str]:
    spec: type[Spec] = Space
    for part in path:
        field = spec.model_fields.get(part)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, Spec)):
            return list(Range.model_fields)
        spec = inner
    return list(spec.model_fields)


def _unknown_names(space: Space, known: Known) -> Iterator[Mistake]:
    data = space.data.name.split(":")[0]
    if data not in known.datasets:
        guess = f"a folder of images is named folder:{data}; " if Path(data).is_dir() else ""
        yield Mistake("data.name", f"unknown dataset {data!r} ({guess}{near(data, known.datasets)})")
    if not space.teachers:
        yield Mistake("teachers", "needs at least one URI, for example 'ladder:' or 'file:ckpt.safetensors'")
    for architecture in space.ladder.architectures:
        name = architecture.split(":")[0]
        if name not in known.architectures:
            yield Mistake("ladder.architectures", f"unknown architecture {name!r} ({near(name, known.architectures)})")
    if not space.search.methods:
        yield Mistake("search.methods", f"needs at least one of {', '.join(known.methods)}")
    wrong = set[str]()
    for method, params in space.search.methods.items():
        for mistake in _unknown_parameters(f"search.methods.{method}", method, params, known):
            wrong.add(mistake.key)
            yield mistake
    # A space without [prior] takes its prior from the method, and with it the method's unknown parameters.
    prior = space.prior
    params = {name: it for name, it in prior.params.items() if f"search.methods.{prior.method}.{name}" not in wrong}
    yield from _unknown_parameters("prior.params", prior.method, params, known)


def _prior_outside(space: Space) -> Iterator[Mistake]:
    """Check that the search could suggest the prior, which is the first trial of every teacher."""
    prior, methods = space.prior, space.search.methods
    if prior.method not in methods:
        yield Mistake("prior.method", f"{prior.method!r} is not searched (search.methods has {', '.join(methods)})")
        return
    method = methods[prior.method]
    names = {**method, **prior.params}
    wanted = [(f"params.{name}", method.get(name), prior.params.get(name)) for name in names]
    for key, dimension, value in [*wanted, ("soft_weight", space.search.soft_weight, prior.soft_weight)]:
        if dimension is None:
            yield Mistake(f"prior.{key}", f"not among search.methods.{prior.method}")
        elif not _holds(dimension, value):
            allowed = _described(dimension)
            text = (
                f"missing: set a value in {allowed}"
                if value is None
                else f"{value} is not in {allowed}: choose another value"
            )
            yield Mistake(f"prior.{key}", text)


def _holds(dimension: Dimension, value: Choice | None) -> bool:
    """Return whether a search over the dimension could suggest the value. None fits a fixed dimension."""
    if isinstance(dimension, Range):
        return isinstance(value, int | float) and dimension.low <= value <= dimension.high
    if isinstance(dimension, tuple):
        return value in dimension
    return value is None or value == dimension


def _described(dimension: Dimension) -> str:
    if isinstance(dimension, Range):
        return f"{dimension.low:g} to {dimension.high:g}{' (log)' if dimension.log else ''}"
    return ", ".join(map(str, dimension)) if isinstance(dimension, tuple) else str(dimension)


def _unknown_parameters(where: str, method: str, params: Mapping[str, object], known: Known) -> Iterator[Mistake]:
    try:
        allowed = known.parameters_of(method)
    except ConfigError as error:
        yield Mistake(where, error.message)
        return
    for name, value in params.items():
        if name not in allowed:
            yield Mistake(f"{where}.{name}", f"unknown parameter ({near(name, allowed)}){_place_of(name, known)}")
        limits = bounds(value) if isinstance(value, Range | tuple | float | int | str) else None
        is_temperature = name.partition("_")[0] == "tau" or name == "target_ratio"
        if limits is not None and is_temperature and limits[0] <= 0:
            yield Mistake(f"{where}.{name}", f"must be above 0 (got {limits[0]:g})")


def _place_of(name: str, known: Known) -> str:
    """Say where a setting belongs that is no parameter of a method; empty for an unknown setting."""
    if name == "soft_weight":
        return "; the weight of the soft term is search.soft_weight, for all methods that have it"
    methods = [method for method in known.methods if name in known.parameters_of(method)]
    return f"; it is a parameter of {', '.join(methods)}" if methods else ""

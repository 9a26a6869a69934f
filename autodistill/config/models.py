"""What a search space says: everything that is science, in TOML, closed and validated."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from autodistill.records import Rungs

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1)]


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Range(Spec):
    """A searched interval; `log` draws it on a logarithmic scale."""

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


Choice = float | str
Dimension = Annotated[
    Range | tuple[Choice, ...] | float | str,
    BeforeValidator(_as_dimension),
]
"""A number or a name is fixed, a list is a choice, `{low, high, log}` is an interval."""


def bounds(dimension: "Range | tuple[Choice, ...] | float | str") -> tuple[float, float] | None:
    """Smallest and largest number a dimension can take; None where it holds names."""
    if isinstance(dimension, Range):
        return dimension.low, dimension.high
    values = dimension if isinstance(dimension, tuple) else (dimension,)
    numbers = [value for value in values if not isinstance(value, str)]
    return (min(numbers), max(numbers)) if len(numbers) == len(values) else None


def holds(dimension: "Range | tuple[Choice, ...] | float | str", value: Choice | None) -> bool:
    """Whether a search over the dimension could suggest the value; a fixed dimension needs none."""
    if isinstance(dimension, Range):
        return isinstance(value, int | float) and dimension.low <= value <= dimension.high
    if isinstance(dimension, tuple):
        return value in dimension
    return value is None or value == dimension


def describe(dimension: "Range | tuple[Choice, ...] | float | str") -> str:
    """A dimension in words: `0.8 to 4 (log)`."""
    if isinstance(dimension, Range):
        return f"{dimension.low:g} to {dimension.high:g}{' (log)' if dimension.log else ''}"
    return ", ".join(map(str, dimension)) if isinstance(dimension, tuple) else str(dimension)


class DataSpec(Spec):
    name: str = "digits"
    """A registered dataset, or `folder:PATH`."""
    root: str = ""
    """Where the files lie, where that is not the dataset's own place."""
    train: Count | None = None
    """Images; None: what is left."""
    validation: Count | None = None
    """Images; None: a fifth of the training images."""
    test: Count | None = None
    """Images; None: the dataset's own test set, or a fifth."""
    split_seed: Seed = 0
    pool: Count = 1
    """Average this many pixels each way into one: 2 turns 28x28 into 14x14."""
    image_size: Count | None = None
    """Height and width that images of a folder are resized to."""
    view_seed: Seed = 0
    crop: Annotated[int, Field(ge=0)] = 0
    """Pixels of zero padding on every side before a random crop back to the image size."""
    flip: bool = False
    """Mirror half of the views."""
    views: Count | None = None
    """Size of the pool of views that epochs cycle through; None: one view an epoch."""


class StudentSpec(Spec):
    width: Positive = 1.0
    """Channels relative to the published network, where the student's name carries no `:WIDTH`."""
    stem_stride: Literal[1, 2] | None = None
    """None: chosen by the image size."""


class TrainingSpec(Spec):
    """SGD with Nesterov momentum, linear warm-up, cosine decay to zero, averaged weights."""

    epochs: Count = 30
    short_epochs: Count | None = None
    """Length of a trial's short run, after which it is compared; None: a third of `epochs`."""
    batch_size: Count = 64
    lr: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5e-4
    warmup: Fraction = 0.1
    """Share of the steps over which the rate rises from zero."""
    averaging: Positive = 0.75
    """Horizon of the exponential average of the weights, in epochs."""
    evaluate_every: Count = 1
    """Epochs between validations; the last epoch is always validated."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the student's passes; `auto` times a few steps at the start, and the study keeps what was faster."""

    @property
    def short(self) -> int:
        return self.short_epochs if self.short_epochs is not None else max(1, round(self.epochs / 3))

    @model_validator(mode="after")
    def _short_is_shorter(self) -> "TrainingSpec":
        if self.short >= self.epochs:
            least = f"at least {self.short + 1} epochs"
            fits = f"{least}, or at most {self.epochs - 1} short_epochs" if self.epochs > 1 else least
            raise ValueError(f"epochs = {self.epochs} leaves no room for a short run of {self.short}: {fits}")
        return self


class LadderSpec(Spec):
    """The teachers of `ladder:`, trained on the same data with the same optimiser."""

    architectures: tuple[str, ...] = ("resnet8:0.25", "resnet8:0.5", "resnet8", "resnet20:2")
    epochs: Count = 30
    lr: Positive = 0.1
    seed: Seed = 0


class SearchSpec(Spec):
    budget: str = "20"
    seed: Seed = 0
    wave: Count = 2
    """Trials asked for at once: part of the study, whatever the number of workers."""
    rungs: Rungs = "part-way"
    """What a short run is: the first epochs of the full run, scored by the averaged weights and gone on with, or a
    complete schedule of its own, after which the full run starts anew."""
    eta: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 3.0
    """One in eta short runs of a teacher goes on to a full run."""
    startup: Annotated[int, Field(ge=0)] = 10
    """Trials (priors included) before the sampler's model is used."""
    second_looks: bool = True
    """Whether those who lead when the search ends are trained once more before the finalists are chosen, where the
    budget has room for it: the best of many single scores is lucky too."""
    soft_weight: Dimension = Range(low=0.1, high=0.9)
    rules: dict[str, dict[str, Dimension]] = {
        "isats": {"target_ratio": Range(low=0.8, high=4.0, log=True)},
        "ts": {"tau": Range(low=1.0, high=16.0, log=True)},
        "ats": {"tau_target": Range(low=1.0, high=16.0, log=True), "tau_other": Range(low=1.0, high=16.0, log=True)},
    }
    loss: str = "soft_cross_entropy"

    @field_validator("soft_weight")
    @classmethod
    def _weights_are_fractions(cls, found: Dimension) -> Dimension:
        limits = bounds(found)
        if limits is None or limits[0] < 0 or limits[1] > 1:
            raise ValueError("must lie in [0, 1]")
        return found


class PriorSpec(Spec):
    """The configuration that every teacher is tried with first."""

    rule: str = "isats"
    params: dict[str, Choice] = {"target_ratio": 5 / 3}
    soft_weight: Fraction = 0.5


class PlainKDSpec(Spec):
    """Plain distillation from the most accurate teacher (Hinton et al. 2015): the baseline people know."""

    tau: Positive = 4.0
    soft_weight: Fraction = 0.9


class ConfirmSpec(Spec):
    teachers: Annotated[int, Field(ge=1)] = 2
    seeds: Annotated[int, Field(ge=1)] = 3
    """For each finalist. From 5 on, with two teachers or more, all get 3 and the rest goes to who is undecided."""
    threshold: Fraction = 0.002
    """Smallest difference in test accuracy that would matter in practice."""


class Space(Spec):
    """A search space, resolved: `run.toml` holds one and is itself a space."""

    purpose: str = ""
    teachers: tuple[str, ...] = ("ladder:",)
    data: DataSpec = DataSpec()
    student: StudentSpec = StudentSpec()
    training: TrainingSpec = TrainingSpec()
    ladder: LadderSpec = LadderSpec()
    search: SearchSpec = SearchSpec()
    prior: PriorSpec = PriorSpec()
    plain_kd: PlainKDSpec = PlainKDSpec()
    confirm: ConfirmSpec = ConfirmSpec()

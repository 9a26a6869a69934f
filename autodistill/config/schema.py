"""Schema of a search space: all scientific settings of a study. Unknown keys are errors."""

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


Choice = float | str
Dimension = Annotated[
    Range | tuple[Choice, ...] | float | str,
    BeforeValidator(_as_dimension),
]
"""A searched setting: a number or a name is a fixed value, a list a choice, `{low, high, log}` an interval."""


def bounds(dimension: "Range | tuple[Choice, ...] | float | str") -> tuple[float, float] | None:
    """Return the smallest and the largest number of a dimension; None if it contains names."""
    if isinstance(dimension, Range):
        return dimension.low, dimension.high
    values = dimension if isinstance(dimension, tuple) else (dimension,)
    numbers = [value for value in values if not isinstance(value, str)]
    return (min(numbers), max(numbers)) if len(numbers) == len(values) else None


def holds(dimension: "Range | tuple[Choice, ...] | float | str", value: Choice | None) -> bool:
    """Return whether a search over the dimension could suggest the value. None fits a fixed dimension."""
    if isinstance(dimension, Range):
        return isinstance(value, int | float) and dimension.low <= value <= dimension.high
    if isinstance(dimension, tuple):
        return value in dimension
    return value is None or value == dimension


def describe(dimension: "Range | tuple[Choice, ...] | float | str") -> str:
    """Describe a dimension in words: `0.8 to 4 (log)`."""
    if isinstance(dimension, Range):
        return f"{dimension.low:g} to {dimension.high:g}{' (log)' if dimension.log else ''}"
    return ", ".join(map(str, dimension)) if isinstance(dimension, tuple) else str(dimension)


class DataSpec(Spec):
    name: str = "digits"
    """Name of a registered dataset, or `folder:PATH`."""
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
    """Height and width to which the images of a folder are resized."""
    view_seed: Seed = 0
    crop: Annotated[int, Field(ge=0)] = 0
    """Pixels of zero padding on every side before a random crop back to the image size."""
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
    """SGD with Nesterov momentum, linear warm-up, cosine decay to zero, averaged weights."""

    epochs: Count = 30
    rung_epochs: Count | None = None
    """Epochs of the rung, after which a trial is compared with others; None: a third of `epochs`."""
    batch_size: Count = 64
    lr: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
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


class SearchSpec(Spec):
    budget: str = "20"
    seed: Seed = 0
    wave: Count = 2
    """Trials suggested together. The value belongs to the study and does not depend on the number of workers."""
    rungs: Rungs = "part-way"
    """How a trial reaches its rung. `part-way`: it trains the first epochs of the full run, is scored by the averaged
    weights, and continues from there. `short schedule`: it trains a complete schedule of the rung's length, and the
    full run starts again from the beginning."""
    eta: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 3.0
    """One in eta trials of a teacher continues after its rung."""
    startup: Annotated[int, Field(ge=0)] = 10
    """Trials, including priors, before the sampler uses its model."""
    reruns: bool = True
    """Whether the leaders at the end of the search are trained once more, with another seed, before finalists are
    chosen, if the budget allows it. The best of many single scores is partly luck."""
    soft_weight: Dimension = Range(low=0.1, high=0.9)
    methods: dict[str, dict[str, Dimension]] = {
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
    """Configuration of the first trial of every teacher."""

    method: str = "isats"
    params: dict[str, Choice] = {"target_ratio": 5 / 3}
    soft_weight: Fraction = 0.5


class PlainKDSpec(Spec):
    """Plain distillation from the most accurate teacher (Hinton et al. 2015), the usual baseline."""

    tau: Positive = 4.0
    soft_weight: Fraction = 0.9


class ConfirmSpec(Spec):
    teachers: Annotated[int, Field(ge=1)] = 2
    seeds: Annotated[int, Field(ge=1)] = 3
    """Seeds per finalist. With 5 or more seeds and at least two teachers, every finalist gets 3 seeds, and finalists
    that are still undecided get the others."""
    threshold: Fraction = 0.002
    """Smallest difference in test accuracy that matters in practice."""


class Space(Spec):
    """A resolved search space. `run.toml` of a study contains one and can itself be used as a space."""

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

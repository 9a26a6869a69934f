"""What a teacher's logits say about it, without training a student."""

from autodistill.records.base import Record
from autodistill.records.runs import ParamValue


class ScoresRecord(Record):
    """How sure and how right a teacher is, at temperature 1."""

    examples: int
    """Samples looked at: all, or a fixed draw from a large split."""
    top1: float
    nll: float
    """In nats."""
    ece: float
    """Expected calibration error, 15 bins."""
    target_probability: float
    """Mean probability of the label."""


class SpreadRecord(Record):
    """Means over the samples of softmax(z / tau): what the other classes get, and how unequally.

    An error is the standard error of the mean before it.
    """

    tau: float
    derived_average: float
    inherent_variance: float
    inherent_variance_error: float
    derived_variance: float
    derived_variance_error: float


class TauOtherRecord(Record):
    """Where ISATS puts tau_other. Shares in [0, 1] are of the samples whose label is on top, unless said."""

    params: dict[str, ParamValue]
    """The rule's own, where they are not its defaults."""
    teacher_right: float
    """Share of all samples whose label is on top in the teacher's logits."""
    edges: tuple[float, ...]
    """Of the bins: equal steps of log tau between the bounds of the search."""
    shares: tuple[float, ...]
    """By bin; all 0 where no label is on top."""
    median: float | None
    at_lower: float
    at_upper: float
    displaced: float
    """Share of all samples whose label is on top in the teacher's logits but not in the target."""


class ProfileRecord(Record):
    """The dark knowledge of a teacher: view 0 of the training split, from which a student learns, and validation."""

    train: ScoresRecord
    validation: ScoresRecord
    temperature: float
    """The one that makes the validation NLL smallest."""
    calibrated_nll: float
    """On validation at that temperature, which was fitted there."""
    calibrated_ece: float
    spread: tuple[SpreadRecord, ...]
    """On train, by rising tau."""
    tau_other: TauOtherRecord | None = None
    """On train; None with two classes."""


class AgreementRecord(Record):
    """How far teachers agree on the order of the other classes: means over samples of view 0 of train.

    The matrices are symmetric, in the order of `teachers`; None where no sample has an order on both sides.
    """

    examples: int
    teachers: tuple[str, ...]
    spearman: tuple[tuple[float | None, ...], ...]
    kendall: tuple[tuple[float | None, ...], ...]
    """Kendall's tau-b."""

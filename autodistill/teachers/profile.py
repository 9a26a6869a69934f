"""Profile of a teacher: properties of its logits that are known before any student is trained.

Pure functions from logits to records. Large splits are sampled, with rows that depend only on the sizes, so that all
teachers of a study are profiled on the same samples. Values are rounded to six digits, so that the order of additions
does not change a record.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autodistill import metrics
from autodistill.methods import METHODS, RAMP_EPOCHS
from autodistill.records import (
    AgreementRecord,
    ParamValue,
    ProfileRecord,
    ScoresRecord,
    SpreadRecord,
    TauOtherRecord,
)

TEMPERATURES = tuple(2 ** (half / 2 - 1) for half in range(13))
"""Half octaves from 0.5 to 32."""
BINS = 24
"""Number of bins of tau_other. With the default bounds, the edges of a bin differ by a factor of 1.19."""
TAU_MIN, TAU_MAX = 0.5, 30.0
"""Default bounds of tau_other in ISATS."""
FEWEST_ROWS, MOST_ROWS = 128, 10_000
"""Bounds of the number of samples. With 10,000 the standard error of a share is at most half a percentage point."""
LOGITS_LOOKED_AT, PAIRS_LOOKED_AT = 2**20, 2**24
"""Largest number of logits in a sample, and of pairs of classes in a sample for the agreement of teachers."""
COLDEST, HOTTEST = 0.01, 100.0
"""Bounds of the fitted temperature."""


def profile(
    logits: Float[Tensor, "examples classes"],
    labels: Int[Tensor, " examples"],
    validation_logits: Float[Tensor, "held classes"],
    validation_labels: Int[Tensor, " held"],
    *,
    isats_params: Mapping[str, ParamValue] | None = None,
) -> ProfileRecord:
    """Profile a teacher by its logits on view 0 of the training split and on the validation split.

    `isats_params` are those of a study's prior; None: the defaults. `tau_wrong` and `tau_student` among them have no
    effect: the profile shows searched temperatures of the targets.

    Raises:
        ValueError: ISATS refuses the parameters.
    """
    classes = logits.shape[1]
    rows = sample(len(labels), size=LOGITS_LOOKED_AT // classes)
    held = sample(len(validation_labels), size=LOGITS_LOOKED_AT // classes)
    z, y = logits[rows].double(), labels[rows]
    validation, answers = validation_logits[held].double(), validation_labels[held]
    tau = fit_temperature(validation, answers)
    return ProfileRecord(
        train=_scores(z, y),
        validation=_scores(validation, answers),
        temperature=_kept(tau),
        calibrated_nll=_kept(metrics.nll(validation / tau, answers)),
        calibrated_ece=_kept(metrics.expected_calibration_error(validation / tau, answers)),
        spread=tuple(_spread(z, y, tau) for tau in TEMPERATURES),
        tau_other=_tau_other(z, y, isats_params or {}) if classes >= METHODS["isats"].min_classes else None,
    )


def agreement(
    logits: Mapping[str, Float[Tensor, "examples classes"]], labels: Int[Tensor, " examples"]
) -> AgreementRecord | None:
    """Compute how far teachers agree on the order of the other classes, by their logits on the same images.

    Returns:
        The rank correlations; None if there are fewer than two teachers or fewer than three classes.
    """
    sizes = {one.shape[1] for one in logits.values()}
    if len(logits) < 2 or min(sizes) < 3:
        return None
    rows = sample(len(labels), size=PAIRS_LOOKED_AT // min(sizes) ** 2)
    found = metrics.rank_agreements(torch.stack([one[rows].float() for one in logits.values()]), labels[rows])
    return AgreementRecord(
        examples=len(rows), teachers=tuple(logits), spearman=_matrix(found.spearman), kendall=_matrix(found.kendall)
    )


def sample(examples: int, *, size: int) -> Int[Tensor, " rows"]:
    """Return the sampled rows in ascending order: all rows, or about `size` of them, equal in every call."""
    size = min(MOST_ROWS, max(FEWEST_ROWS, size))
    if examples <= size:
        return torch.arange(examples)
    return torch.randperm(examples, generator=torch.Generator().manual_seed(0))[:size].sort().values


def fit_temperature(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> float:
    """Return the temperature in [0.01, 100] that minimises the NLL (Guo et al., ICML 2017).

    The NLL is convex in 1 / tau. Its slope, the mean expected logit minus the mean logit of the labels, has one zero,
    which is found by bisection.
    """
    wide, right = logits.double(), metrics.take_target(logits.double(), labels).mean()
    low, high = math.log(COLDEST), math.log(HOTTEST)
    for _ in range(40):
        middle = (low + high) / 2
        expected = ((wide / math.exp(middle)).softmax(dim=1) * wide).sum(dim=1).mean()
        # The network is overconfident where the expected logits exceed those of the labels.
        low, high = (middle, high) if expected > right else (low, middle)
    return math.exp((low + high) / 2)


def _scores(logits: Tensor, labels: Tensor) -> ScoresRecord:
    return ScoresRecord(
        examples=len(labels),
        top1=_kept(metrics.top1(logits, labels)),
        nll=_kept(metrics.nll(logits, labels)),
        ece=_kept(metrics.expected_calibration_error(logits, labels)),
        target_probability=_kept(metrics.mean_target_probability(logits.softmax(dim=1), labels)),
        top_two_log_ratio=_kept(metrics.top_two_log_ratio(logits).median()),
    )


def _spread(logits: Tensor, labels: Tensor, tau: float) -> SpreadRecord:
    average = metrics.derived_average((logits / tau).softmax(dim=1), labels)
    inherent = metrics.inherent_variance(logits, labels, tau_other=tau)
    derived = (average * (logits.shape[1] - 1)).square() * inherent
    return SpreadRecord(
        tau=_kept(tau),
        derived_average=_kept(average.mean()),
        inherent_variance=_kept(inherent.mean()),
        inherent_variance_error=_error(inherent),
        derived_variance=_kept(derived.mean()),
        derived_variance_error=_error(derived),
    )


def _tau_other(logits: Tensor, labels: Tensor, params: Mapping[str, ParamValue]) -> TauOtherRecord:
    own = {name: value for name, value in params.items() if name not in ("tau_wrong", "tau_student", RAMP_EPOCHS)}
    targets = METHODS["isats"].targets(logits, labels, **own)
    assert targets.at_lower is not None
    assert targets.at_upper is not None
    low, high = math.log(float(own.get("tau_min", TAU_MIN))), math.log(float(own.get("tau_max", TAU_MAX)))
    right = metrics.on_top(logits, labels)
    found = targets.tau_other[right]
    bins = ((found.log() - low) / (high - low) * BINS).long().clamp(0, BINS - 1)
    count = max(1, len(found))
    return TauOtherRecord(
        params=own,
        teacher_right=_kept(len(found) / len(labels)),
        edges=tuple(_kept(math.exp(low + (high - low) * edge / BINS)) for edge in range(BINS + 1)),
        shares=tuple(_kept(number / count) for number in bins.bincount(minlength=BINS).tolist()),
        median=_kept(found.quantile(0.5)) if len(found) else None,
        at_lower=_kept(float(targets.at_lower[right].sum()) / count),
        at_upper=_kept(float(targets.at_upper[right].sum()) / count),
        displaced=_kept(targets.displaced.double().mean()),
    )


def _error(values: Tensor) -> float:
    """Return the standard error of the mean; 0 for a single sample, for which it is undefined."""
    return _kept(values.std() / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _matrix(values: Tensor) -> tuple[tuple[float | None, ...], ...]:
    return tuple(tuple(None if math.isnan(one) else _kept(one) for one in row) for row in values.tolist())


def _kept(value: float | Tensor) -> float:
    return float(f"{float(value):.6g}")

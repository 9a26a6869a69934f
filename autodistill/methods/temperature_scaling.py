"""The asymmetric softmax that computes the soft targets of every method, and methods with given temperatures.

Sources: TS, Hinton et al. 2015; ATS, Li et al., NeurIPS 2022.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autodistill.methods.loss import Loss, check_choice, distillation_loss
from autodistill.methods.standardisation import LOGITS
from autodistill.metrics import largest_other, on_top, take_target

ANCHORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "raw": lambda logits, labels: torch.zeros_like(logits[:, 0]),
    "mean": lambda logits, labels: logits.mean(dim=1),
    "other_max": largest_other,
    "target": take_target,
}
"""Functions of logits and labels to the value that is subtracted from all logits of a sample.

The soft targets of every method except TS depend on this value. `raw` is the anchor of the public ATS code.
"""


class Temperatures(NamedTuple):
    """Temperatures of each sample, in float64. Together with the logits they determine the soft targets."""

    target: Float[Tensor, " batch"]
    """Temperature of the target class."""
    other: Float[Tensor, " batch"]
    """Temperature of the other classes."""
    anchor: str
    """A name in `ANCHORS`."""
    bounds: tuple[float, float] | None = None
    """Bounds of the search for `other`; None: it is given."""


class Targets(NamedTuple):
    """Soft targets of a batch, with diagnostics."""

    probs: Float[Tensor, "batch classes"]
    """float32."""
    tau_target: Float[Tensor, " batch"]
    tau_other: Float[Tensor, " batch"]
    displaced: Bool[Tensor, " batch"]
    """The label is on top in the teacher's logits but not in the target."""
    at_lower: Bool[Tensor, " batch"] | None
    """tau_other is at most 1.01 times its lower bound; None: it is not searched."""
    at_upper: Bool[Tensor, " batch"] | None
    """tau_other is at least its upper bound / 1.01; None: it is not searched."""


def ts(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], *, tau: float) -> Temperatures:
    """Return the temperatures of temperature scaling, softmax(z / tau).

    With equal temperatures the anchor cancels out; `other_max` has the smallest rounding error.

    Raises:
        ValueError: `tau` is not positive and finite.
    """
    check_positive(tau=tau)
    each = torch.full_like(logits[:, 0], tau, dtype=torch.float64)
    return Temperatures(each, each, "other_max")


def ats(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    tau_target: float,
    tau_other: float,
    anchor: str = "raw",
) -> Temperatures:
    """Return the temperatures of asymmetric temperature scaling: one softmax with two given temperatures.

    Raises:
        ValueError: A temperature is not positive and finite. An unknown anchor is refused by `soften`.
    """
    check_positive(tau_target=tau_target, tau_other=tau_other)
    target, other = (torch.full_like(logits[:, 0], tau, dtype=torch.float64) for tau in (tau_target, tau_other))
    return Temperatures(target, other, anchor)


def soften(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], temperatures: Temperatures
) -> Float[Tensor, "batch classes"]:
    """Compute the softmax of (z_y - A) / tau_target for the target y and (z_j - A) / tau_other for j != y.

    A is the value of the anchor. The result is differentiable in the logits, also through the anchor. The computation
    is in float64, the result in float32.

    Raises:
        ValueError: The anchor is unknown.
    """
    wide, tau_other = logits.double(), temperatures.other
    # Subtracting a constant leaves a softmax unchanged. Subtracting the largest other logit keeps the differences
    # between the other classes exact, even where the anchor is far from them.
    top, anchors = top_and_anchors(wide, labels, temperatures.anchor)
    top = top.detach()
    target = (take_target(wide, labels) - anchors) / temperatures.target - (top - anchors) / tau_other
    others = (wide - top[:, None]) / tau_other[:, None]
    return others.scatter_(1, labels.long()[:, None], target[:, None]).softmax(dim=1).float()


def asymmetric_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    prepared: Mapping[str, Tensor],
    ramp: Float[Tensor, ""] | None,
    *,
    soft_weight: float,
    tau_student: float = 1.0,
    anchor: str = "other_max",
) -> Loss:
    """Compute the loss with the soft targets of `soften`, see `distillation_loss`.

    `prepared` holds `tau_target` and `tau_other` of the batch.

    Raises:
        ValueError: As for `soften` and `distillation_loss`.
    """
    temperatures = Temperatures(prepared["tau_target"], prepared["tau_other"], anchor)
    probs = soften(teacher_logits, labels, temperatures)
    return distillation_loss(student_logits, labels, probs, soft_weight=soft_weight, tau_student=tau_student, ramp=ramp)


def ts_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    prepared: Mapping[str, Tensor],
    ramp: Float[Tensor, ""] | None,
    *,
    soft_weight: float,
    tau_student: float = 1.0,
    logits: str = "raw",
) -> Loss:
    """Compute the loss of plain distillation (Hinton et al. 2015).

    With `logits="standardised"` the logits of teacher and student are standardised before the temperature (Sun et al.
    2024, Algorithm 1). Their weights 0.1 and 9 of hard and soft term have the ratio of `soft_weight` = 0.989, and their
    base temperature is 2. The other arguments are those of `asymmetric_loss`.

    Raises:
        ValueError: `logits` is unknown, or there are two classes, whose standardised logits are constant.
    """
    check_choice("logits", logits, LOGITS)
    if logits == "standardised" and teacher_logits.shape[1] < 3:
        raise ValueError("logits = 'standardised' needs at least 3 classes: of two, only the order remains")
    soft_logits = None
    if logits != "raw":
        teacher_logits, soft_logits = LOGITS[logits](teacher_logits), LOGITS[logits](student_logits)
    probs = soften(teacher_logits, labels, Temperatures(prepared["tau_target"], prepared["tau_other"], "other_max"))
    return distillation_loss(
        student_logits,
        labels,
        probs,
        soft_weight=soft_weight,
        tau_student=tau_student,
        ramp=ramp,
        soft_logits=soft_logits,
    )


def top_and_anchors(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], anchor: str
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return the largest other logit and the value of the anchor for each sample.

    Raises:
        ValueError: The anchor is unknown.
    """
    if anchor not in ANCHORS:
        raise ValueError(f"unknown anchor {anchor!r}; allowed: {', '.join(ANCHORS)}")
    top = largest_other(logits, labels)
    return top, top if ANCHORS[anchor] is largest_other else ANCHORS[anchor](logits, labels)


def targets_of(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], temperatures: Temperatures
) -> Targets:
    """Compute soft targets with their diagnostics; errors as for `soften`."""
    _, other, _, bounds = temperatures
    probs = soften(logits, labels, temperatures)
    displaced = on_top(logits, labels) & ~on_top(probs, labels)
    at_lower, at_upper = (other <= 1.01 * bounds[0], other >= bounds[1] / 1.01) if bounds else (None, None)
    return Targets(probs, temperatures.target, other, displaced, at_lower, at_upper)


def check_positive(**values: float | None) -> None:
    """Raise ValueError unless each value is None, or positive and finite."""
    for name, value in values.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} is {value}: it must be positive and finite")

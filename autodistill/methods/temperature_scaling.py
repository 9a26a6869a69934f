"""Methods with given temperatures (TS, ATS), and the asymmetric softmax that computes the soft targets of any method.

Sources: TS, Hinton et al. 2015; ATS, Li et al., NeurIPS 2022.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autodistill.metrics import largest_other, on_top, take_target

Tau = float | Float[Tensor, " batch"]

ANCHORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "raw": lambda logits, labels: torch.zeros_like(logits[:, 0]),
    "mean": lambda logits, labels: logits.mean(dim=1),
    "other_max": largest_other,
    "target": take_target,
}
"""Functions of logits and labels to the value that is subtracted from all logits of a sample.

The soft targets of every method except TS depend on this value.
"""


class Temperatures(NamedTuple):
    """Temperatures of each sample. Together with the logits they determine the soft targets."""

    target: Float[Tensor, " batch"]
    """Temperature of the target class, float64."""
    other: Float[Tensor, " batch"]
    """Temperature of the other classes, float64."""
    anchor: str
    """A name in `ANCHORS`."""


class Targets(NamedTuple):
    """Soft targets of a batch, with diagnostics. A diagnostic that a method does not have is None."""

    probs: Float[Tensor, "batch classes"]
    """float32."""
    tau_target: Float[Tensor, " batch"]
    tau_other: Float[Tensor, " batch"]
    displaced: Bool[Tensor, " batch"]
    """The label is on top in the teacher's logits but not in the target."""
    at_lower: Bool[Tensor, " batch"] | None = None
    """tau_other is at most 1.01 tau_min."""
    at_upper: Bool[Tensor, " batch"] | None = None
    """tau_other is at least tau_max / 1.01."""


def ts(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], *, tau: float) -> Targets:
    """Compute soft targets by temperature scaling, softmax(z / tau).

    Raises:
        ValueError: `tau` is not positive and finite.
    """
    return targets_of(logits, labels, ts_temperatures(logits, labels, tau=tau))


def ts_temperatures(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], *, tau: float
) -> Temperatures:
    """Return `tau` for the target class and for the other classes of every sample.

    With equal temperatures the anchor cancels out; `other_max` has the smallest rounding error.
    """
    check_positive("tau", tau)
    each = torch.full_like(logits[:, 0], tau, dtype=torch.float64)
    return Temperatures(each, each, "other_max")


def ats(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    tau_target: float,
    tau_other: float,
    anchor: str = "raw",
) -> Targets:
    """Compute soft targets by asymmetric temperature scaling: one softmax with two temperatures.

    Args:
        logits: Teacher logits.
        labels: Class indices.
        tau_target: Temperature of the target class.
        tau_other: Temperature of the other classes.
        anchor: A name in `ANCHORS`; `raw` is that of the public ATS code.

    Raises:
        ValueError: a temperature is not positive and finite, or the anchor is unknown.
    """
    given = ats_temperatures(logits, labels, tau_target=tau_target, tau_other=tau_other, anchor=anchor)
    return targets_of(logits, labels, given)


def ats_temperatures(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    tau_target: float,
    tau_other: float,
    anchor: str = "raw",
) -> Temperatures:
    """Return the two given temperatures for every sample; arguments and errors as for `ats`."""
    check_positive("tau_target", tau_target)
    check_positive("tau_other", tau_other)
    target, other = (torch.full_like(logits[:, 0], tau, dtype=torch.float64) for tau in (tau_target, tau_other))
    return Temperatures(target, other, anchor)


def asymmetric_softmax(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    tau_target: Tau,
    tau_other: Tau,
    anchor: str,
) -> Float[Tensor, "batch classes"]:
    """Compute the softmax of (z_y - A) / tau_target for the target y and (z_j - A) / tau_other for j != y.

    A is the value of the anchor. The result is differentiable in the logits, also through the anchor. The computation
    is in float64, the result in float32.

    Args:
        logits: Logits z of any float type.
        labels: Class indices y.
        tau_target: One temperature, or one for each sample.
        tau_other: One temperature, or one for each sample.
        anchor: A name in `ANCHORS`.

    Raises:
        ValueError: A temperature given as a number is not positive and finite (tensors are not checked), or the
            anchor is unknown.
    """
    for name, tau in (("tau_target", tau_target), ("tau_other", tau_other)):
        if not isinstance(tau, Tensor):
            check_positive(name, tau)
    wide = logits.double()
    # Subtracting a constant leaves a softmax unchanged. Subtracting the largest other logit keeps the differences
    # between the other classes exact, even where the anchor is far from them.
    top, anchors = top_and_anchors(wide, labels, anchor)
    top = top.detach()
    target = (take_target(wide, labels) - anchors) / tau_target - (top - anchors) / tau_other
    others = (wide - top[:, None]) / (tau_other[:, None] if isinstance(tau_other, Tensor) else tau_other)
    return others.scatter_(1, labels.long()[:, None], target[:, None]).softmax(dim=1).float()


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


def soften(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], temperatures: Temperatures
) -> Float[Tensor, "batch classes"]:
    """Compute soft targets from logits and temperatures, in float32."""
    target, other, anchor = temperatures
    return asymmetric_softmax(logits, labels, tau_target=target, tau_other=other, anchor=anchor)


def targets_of(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], temperatures: Temperatures
) -> Targets:
    """Compute soft targets with their temperatures and the samples whose label is displaced."""
    probs = soften(logits, labels, temperatures)
    displaced = on_top(logits, labels) & ~on_top(probs, labels)
    return Targets(probs, temperatures.target, temperatures.other, displaced)


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless `value` is positive and finite."""
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} is {value}: it must be positive and finite")

"""The rules whose temperatures are given (TS, ATS), and the asymmetric softmax that every rule but TS ends in."""

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
"""What is subtracted from a sample's logits, given them and the labels: all rules but TS depend on it."""


class Temperatures(NamedTuple):
    """What a rule gives each sample: all that its soft targets take beside the logits."""

    target: Float[Tensor, " batch"]
    """float64, as `other`."""
    other: Float[Tensor, " batch"]
    anchor: str


class Targets(NamedTuple):
    """What a rule gives for a batch; a diagnostic that a rule does not have is None."""

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
    """Temperature scaling, softmax(z / tau).

    Raises:
        ValueError: `tau` is not positive and finite.
    """
    return targets_of(logits, labels, ts_temperatures(logits, labels, tau=tau))


def ts_temperatures(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], *, tau: float
) -> Temperatures:
    """The same for both: the anchor, which then cancels out, is the one that rounds least."""
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
    """Asymmetric temperature scaling: one temperature for the target class, one for the others, one softmax.

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
    """Those that `ats` is given, for every sample."""
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
    """Softmax of (z_y - A) / tau_target at the target and (z_j - A) / tau_other at the others, A being the anchor.

    Differentiable in the logits, also through the anchor. Computed in float64, returned as float32.

    Args:
        logits: of any float type.
        labels: class indices.
        tau_target: one temperature, or one for each sample.
        tau_other: likewise.
        anchor: a name in `ANCHORS`.

    Raises:
        ValueError: a temperature is not positive and finite (tensors are not looked into), or the anchor is unknown.
    """
    for name, tau in (("tau_target", tau_target), ("tau_other", tau_other)):
        if not isinstance(tau, Tensor):
            check_positive(name, tau)
    wide = logits.double()
    # A softmax stays the same when a constant is subtracted: the largest other logit keeps the differences between
    # the other classes exact however far away the anchor is.
    top, anchors = top_and_anchors(wide, labels, anchor)
    top = top.detach()
    target = (take_target(wide, labels) - anchors) / tau_target - (top - anchors) / tau_other
    others = (wide - top[:, None]) / (tau_other[:, None] if isinstance(tau_other, Tensor) else tau_other)
    return others.scatter_(1, labels.long()[:, None], target[:, None]).softmax(dim=1).float()


def top_and_anchors(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], anchor: str
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Each sample's largest other logit, and what is subtracted from its logits.

    Raises:
        ValueError: the anchor is unknown.
    """
    if anchor not in ANCHORS:
        raise ValueError(f"unknown anchor {anchor!r}; allowed: {', '.join(ANCHORS)}")
    top = largest_other(logits, labels)
    return top, top if ANCHORS[anchor] is largest_other else ANCHORS[anchor](logits, labels)


def soften(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], temperatures: Temperatures
) -> Float[Tensor, "batch classes"]:
    """Soft targets, float32."""
    target, other, anchor = temperatures
    return asymmetric_softmax(logits, labels, tau_target=target, tau_other=other, anchor=anchor)


def targets_of(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], temperatures: Temperatures
) -> Targets:
    """Soft targets with their temperatures, displaced labels found."""
    probs = soften(logits, labels, temperatures)
    displaced = on_top(logits, labels) & ~on_top(probs, labels)
    return Targets(probs, temperatures.target, temperatures.other, displaced)


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless `value` is positive and finite."""
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} is {value}: it must be positive and finite")

"""ISATS: for every sample the temperature of the other classes that maximises their variance in the target."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autodistill.methods.softmax import Targets, Temperatures, check_positive, targets_of
from autodistill.methods.variance_search import argmax_dv, dv_curve
from autodistill.metrics import on_top

TARGET_RATIO = 5 / 3
"""tau_target / tau_other where neither is given: the ray (1.25 tau, 0.75 tau) of the ATS authors' plots."""

LITERAL = "literal"
"""How a space, which has no None, leaves tau_other as searched for the samples that the teacher gets wrong."""

NUMBERS_IN_MEMORY = 2**19
"""Logits searched at a time: a larger chunk leaves the cache, a smaller one costs more calls."""

NUMBERS_ON_GPU = 2**24
"""Likewise on a GPU, which wants as many as its memory holds: about 50 bytes for each."""


def isats(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    tau_min: float = 0.5,
    tau_max: float = 30.0,
    **params: Any,
) -> Targets:
    """Instance-specific ATS (Fan, Li and Zhan 2026).

    `isats_temperatures` (once per cached view) and `soften` (once per batch) in one call; arguments and errors are
    theirs.
    """
    found = isats_temperatures(logits, labels, tau_min=tau_min, tau_max=tau_max, **params)
    at_lower, at_upper = found.other <= 1.01 * tau_min, found.other >= tau_max / 1.01
    return targets_of(logits, labels, found)._replace(at_lower=at_lower, at_upper=at_upper)


def isats_temperatures(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    target_ratio: float | None = None,
    tau_target: float | None = None,
    tau_min: float = 0.5,
    tau_max: float = 30.0,
    anchor: str = "other_max",
    tau_wrong: float | str | None = None,
) -> Temperatures:
    """Each sample's `isats_tau_other`, and the target temperature that goes with it; arguments and errors are its."""
    other = isats_tau_other(
        logits,
        labels,
        target_ratio=target_ratio,
        tau_target=tau_target,
        tau_min=tau_min,
        tau_max=tau_max,
        anchor=anchor,
        tau_wrong=tau_wrong,
    )
    target = isats_tau_target(other, target_ratio=target_ratio, tau_target=tau_target)
    return Temperatures(target, other, anchor)


def isats_tau_target(
    tau_other: Float[Tensor, " batch"], *, target_ratio: float | None = None, tau_target: float | None = None
) -> Float[Tensor, " batch"]:
    """The target temperature that goes with a searched `tau_other`: on the ray, or fixed."""
    ratio, fixed = _ratio_or_fixed(target_ratio, tau_target)
    return tau_other * ratio if fixed is None else torch.full_like(tau_other, fixed)


def isats_tau_other(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    target_ratio: float | None = None,
    tau_target: float | None = None,
    tau_min: float = 0.5,
    tau_max: float = 30.0,
    anchor: str = "other_max",
    tau_wrong: float | str | None = None,
) -> Float[Tensor, " batch"]:
    """The temperature of the other classes that maximises each sample's derived variance.

    A grid in log tau that holds both bounds, then Newton's method around every peak of it. Where the variance
    does not depend on the temperature (all other logits equal) it is the geometric mean of the bounds. No gradient.

    Args:
        logits: finite, of any float type.
        labels: class indices.
        target_ratio: tau_target / tau_other, kept while tau_other is searched; 5/3 if `tau_target` is not given.
        tau_target: the target temperature, fixed.
        tau_min: lower bound of tau_other.
        tau_max: upper bound of tau_other.
        anchor: a name in `ANCHORS`.
        tau_wrong: tau_other for samples whose label is not on top; None or "literal": as searched.

    Returns:
        float64: float32 would round a temperature off its kink where logits are huge.

    Raises:
        ValueError: fewer than three classes, both `target_ratio` and `tau_target`, an unknown anchor, or a
            temperature, ratio or range that is not positive and finite.
    """
    classes = logits.shape[1]
    if classes < 3:
        raise ValueError(
            f"isats needs at least 3 classes, got {classes}: one other class has no variance, use ts or ats"
        )
    ratio, fixed = _ratio_or_fixed(target_ratio, tau_target)
    wrong = literal_as_none(tau_wrong)
    low, high = _log_bounds(tau_min, tau_max)
    logits, rows = logits.detach(), max(1, (NUMBERS_ON_GPU if logits.is_cuda else NUMBERS_IN_MEMORY) // classes)

    def searched(chosen: Tensor, targets: Tensor) -> Tensor:
        chunks = zip(chosen.split(rows), targets.split(rows), strict=True)
        curves = (dv_curve(z.double(), y, anchor, ratio=ratio, fixed=fixed) for z, y in chunks)
        return torch.cat([argmax_dv(curve, low, high) for curve in curves]).exp().clamp(tau_min, tau_max)

    if wrong is None:
        return searched(logits, labels)
    found = torch.full_like(labels, wrong, dtype=torch.float64)
    right = on_top(logits, labels)
    return found.masked_scatter(right, searched(logits[right], labels[right])) if right.any() else found


def fit_tau_wrong(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], **params: Any) -> float:
    """Median searched tau_other of the samples that the teacher gets right: the `tau_wrong` of a study.

    Args:
        logits: the teacher's, on view 0 of the training split.
        labels: class indices.
        **params: as for `isats_tau_other`; a `tau_wrong` among them has no effect.

    Returns:
        The geometric mean of the bounds where the teacher gets no sample right.
    """
    found = isats_tau_other(logits, labels, **params)
    right = found[on_top(logits, labels)]
    if len(right):
        return float(right.quantile(0.5))
    # Equal logits have a flat variance: the value for it is defined in one place.
    return float(isats_tau_other(torch.zeros_like(logits[:1]), labels[:1], **params))


def isats_fit(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], **params: Any
) -> dict[str, float]:
    """What a study adds to a space's parameters: `tau_wrong`, unless it is among them."""
    return {} if "tau_wrong" in params else {"tau_wrong": fit_tau_wrong(logits, labels, **params)}


def literal_as_none(tau_wrong: float | str | None) -> float | None:
    """`tau_wrong` as a temperature, or None for "as searched".

    Raises:
        ValueError: neither a positive finite number nor "literal".
    """
    if tau_wrong is None or tau_wrong == LITERAL:
        return None
    if isinstance(tau_wrong, str):
        raise ValueError(f"tau_wrong is {tau_wrong!r}: it must be a temperature or {LITERAL!r}")
    check_positive("tau_wrong", tau_wrong)
    return tau_wrong


def _ratio_or_fixed(target_ratio: float | None, tau_target: float | None) -> tuple[float, float | None]:
    """The ratio, and the fixed target temperature where it is to be used instead."""
    if target_ratio is not None and tau_target is not None:
        raise ValueError(
            f"target_ratio is {target_ratio} and tau_target is {tau_target}: give one; "
            "tau_target either keeps a ratio to tau_other or is fixed"
        )
    ratio = TARGET_RATIO if target_ratio is None else target_ratio
    check_positive("target_ratio", ratio)
    if tau_target is not None:
        check_positive("tau_target", tau_target)
    return ratio, tau_target


def _log_bounds(tau_min: float, tau_max: float) -> tuple[float, float]:
    check_positive("tau_min", tau_min)
    check_positive("tau_max", tau_max)
    if tau_min >= tau_max:
        raise ValueError(f"tau_min is {tau_min} and tau_max is {tau_max}: tau_min must be the smaller one")
    return math.log(tau_min), math.log(tau_max)

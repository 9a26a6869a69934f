"""ISATS: for every sample the temperature of the other classes that maximises their variance in the target.

With a = LSE_{j != y}(z_j / tau_other) of the anchored logits, 1 - p_y = sigmoid(a - z_y / tau_target) and
DV = (1 - p_y)^2 IV; the search works on ln DV, in float64, so that a variance too small for any float is still a
variance to compare.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from autodistill.metrics import largest_other, log_moments, on_top, other_gaps, take_target
from autodistill.rules.softmax import Targets, anchor_values, asymmetric_softmax, check_positive, with_temperatures

TARGET_RATIO = 5 / 3
"""tau_target / tau_other where neither is given: the ray (1.25 tau, 0.75 tau) of the ATS authors' plots."""

LITERAL = "literal"
"""How a space, which has no None, leaves tau_other as searched for the samples that the teacher gets wrong."""

GRID_SPACING = 0.13
"""In log tau. At twice that a narrow hump of the derived variance can fall between two candidates."""

GOLDEN_STEPS = 22
"""They leave under 1e-5 of log tau: with huge logits the optimum is a kink, beside which DV falls steeply."""

NUMBERS_IN_MEMORY = 2**18
"""Logits searched at a time: a chunk and its working copy stay in a core's cache."""

GOLDEN = (math.sqrt(5) - 1) / 2


def isats(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    target_ratio: float | None = None,
    tau_target: float | None = None,
    tau_min: float = 0.5,
    tau_max: float = 30.0,
    anchor: str = "other_max",
    tau_wrong: float | str | None = None,
) -> Targets:
    """Instance-specific ATS (Fan, Li and Zhan 2026).

    `isats_tau_other` (once per cached view) and `asymmetric_softmax` (once per batch) in one call; arguments and
    errors are theirs.
    """
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
    probs = asymmetric_softmax(logits, labels, tau_target=target, tau_other=other, anchor=anchor)
    targets = with_temperatures(probs, logits, labels, tau_target=target, tau_other=other)
    return targets._replace(at_lower=other <= 1.01 * tau_min, at_upper=other >= tau_max / 1.01)


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

    A grid in log tau that holds both bounds, then golden-section search around every peak of it. Where the variance
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
    rows = max(1, NUMBERS_IN_MEMORY // classes)
    chunks = zip(logits.detach().split(rows), labels.split(rows), strict=True)
    curves = (_curve(z.double(), y, anchor, ratio=ratio, fixed=fixed) for z, y in chunks)
    found = torch.cat([_argmax(curve, low, high) for curve in curves]).exp().clamp(tau_min, tau_max)
    return found if wrong is None else torch.where(on_top(logits, labels), found, wrong)


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


class _Curve(NamedTuple):
    """What ln DV of each sample needs at every temperature.

    The log-odds of the other classes against the target are ln S - pull / tau_other - offset, with S the sum of
    exp(gap / tau_other): whatever the anchor, on the ray (offset 0) and with tau_target fixed.
    """

    gaps: Float[Tensor, "classes batch"]
    pull: Float[Tensor, " batch"]
    offset: Float[Tensor, " batch"]


def _curve(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    anchor: str,
    *,
    ratio: float,
    fixed: float | None,
) -> _Curve:
    anchors = anchor_values(logits, labels, anchor)
    target, other = take_target(logits, labels) - anchors, largest_other(logits, labels) - anchors
    pull = target / ratio - other if fixed is None else -other
    offset = torch.zeros_like(target) if fixed is None else target / fixed
    return _Curve(other_gaps(logits, labels).T.contiguous(), pull, offset)


def _log_dv(curve: _Curve, log_tau: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    tau = log_tau.exp()
    log_sum, log_iv = log_moments(curve.gaps, tau)
    return 2 * logsigmoid(log_sum - curve.pull / tau - curve.offset) + log_iv


def _within_reach(curve: _Curve, low: float, high: float) -> _Curve:
    """The same argmax, with offsets that leave ln DV its digits.

    Where the target stays 50 above the other classes at every temperature, 1 - p_y is their odds to all digits, and
    the offset beyond that is a factor of DV which no temperature changes, but whose size would swallow those it does.
    """
    reach = math.log(len(curve.gaps) - 1) - torch.minimum(curve.pull / math.exp(low), curve.pull / math.exp(high))
    return curve._replace(offset=torch.minimum(curve.offset, reach + 50))


def _argmax(curve: _Curve, low: float, high: float) -> Float[Tensor, " batch"]:
    """log tau_other of the largest DV of each sample."""
    curve = _within_reach(curve, low, high)
    points = max(3, math.ceil((high - low) / GRID_SPACING) + 1)
    grid = torch.linspace(low, high, points, dtype=torch.float64, device=curve.pull.device)
    heights = torch.stack([_log_dv(curve, log_tau.expand_as(curve.pull)) for log_tau in grid])
    point, sample = _peaks(heights).nonzero(as_tuple=True)
    around = _Curve(*(field[..., sample] for field in curve))
    log_tau, height = _golden(around, grid[(point - 1).clamp(min=0)], grid[(point + 1).clamp(max=points - 1)])
    # Golden section comes close to a bound but never onto it.
    at_point = heights[point, sample]
    log_tau = torch.where(height > at_point, log_tau, grid[point])
    found = torch.full_like(heights, -torch.inf).index_put((point, sample), torch.maximum(height, at_point))
    places = torch.zeros_like(heights).index_put((point, sample), log_tau)
    best = places.gather(0, found.argmax(dim=0, keepdim=True))[0]
    # Not `<`: without variance both are -inf and their difference NaN.
    flat = ~(heights.amax(dim=0) - heights.amin(dim=0) > 1e-9)
    return torch.where(flat, (low + high) / 2, best)


def _peaks(heights: Float[Tensor, "points batch"]) -> Bool[Tensor, "points batch"]:
    """Grid points above their left neighbour and not below their right one; the bounds have one neighbour."""
    outside = torch.full_like(heights[:1], -torch.inf)
    rises = heights > torch.cat([outside, heights[:-1]])
    return rises & (heights >= torch.cat([heights[1:], outside]))


def _golden(
    curve: _Curve, low: Float[Tensor, " batch"], high: Float[Tensor, " batch"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Golden-section search for the peak between `low` and `high`: its place and its height."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = _log_dv(curve, left), _log_dv(curve, right)
    for _ in range(GOLDEN_STEPS):
        leftward = at_left > at_right
        low, high = torch.where(leftward, low, left), torch.where(leftward, right, high)
        probe = torch.where(leftward, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        at_probe = _log_dv(curve, probe)
        left, right = torch.where(leftward, probe, right), torch.where(leftward, left, probe)
        at_left, at_right = torch.where(leftward, at_probe, at_right), torch.where(leftward, at_left, at_probe)
    return torch.where(at_left > at_right, left, right), torch.maximum(at_left, at_right)

"""ISATS: for each sample, search the temperature of the other classes that maximises the derived variance (DV).

With e_j = exp(gap_j / tau_other), S the sum of e_j over the n = C-1 other classes and V their variance,
DV = V / (S + exp(w))^2, where ln S - w is the log-odds of the other classes against the target. The search maximises
ln DV, because a variance that underflows every float type still has a finite logarithm.

The search has three parts: a float32 grid in log tau that includes both bounds; Newton's method in float64 from each
peak of the grid, limited to the neighbouring grid points; golden-section search where Newton's method does not
converge, as at the kinks of very large logits.

Source: Fan, Li and Zhan, Front. Comput. Sci. 2026, 10.1007/s11704-025-41434-w (arXiv 2405.13078).
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autodistill.methods.temperature_scaling import Temperatures, check_positive, top_and_anchors
from autodistill.metrics import on_top, take_target

TARGET_RATIO = 5 / 3
"""Default of tau_target / tau_other: the ratio of (1.25 tau, 0.75 tau) in the plots of the ATS authors."""

LITERAL = "literal"
"""Value of `tau_wrong` that stands for None in TOML: samples that the teacher gets wrong keep the searched value."""

NUMBERS_IN_MEMORY = 2**19
"""Logits per chunk of the search on a CPU. Larger chunks exceed the processor's cache, smaller chunks cost calls."""

NUMBERS_ON_GPU = 2**24
"""Logits per chunk of the search on a GPU. The search needs about 50 bytes of memory per logit."""

POINTS_PER_OCTAVE = 5
"""Grid spacing of 0.139 in log tau. With twice the spacing, a narrow peak of DV can lie between two grid points."""

NEWTON_STEPS = 2
"""The search starts at the maximum of the quartic through five grid points, mostly within 1e-3 of the peak (log tau).
One step reduces this to 1e-6, two steps to 1e-12."""

SETTLED = 1e-5
"""Largest product of the last Newton step in log tau and the slope of w at which Newton's method has converged.
After a larger last step, ln DV can have fallen at a kink."""

GRID_ERROR = 5e-5
"""Rounding error of the float32 grid in ln DV with 1000 classes. Where Newton's method ends lower than its grid point
by more than this, it has missed the peak."""

FLAT = 1e-5
"""Range of ln DV over the grid below which DV counts as independent of the temperature."""

GOLDEN_STEPS = 22
"""Steps that leave an interval of less than 1e-5 in log tau. With very large logits the optimum is a kink, and DV
falls steeply beside it."""

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
) -> Temperatures:
    """Find the temperature of the other classes that maximises the derived variance of each sample.

    Where DV does not depend on the temperature (all other logits are equal) the result is the geometric mean of the
    bounds. The result has no gradient. It is in float64: in float32, rounding would move a temperature off its kink
    where logits are very large.

    Args:
        logits: Finite logits of any float type.
        labels: Class indices.
        target_ratio: tau_target / tau_other, constant during the search; 5/3 if `tau_target` is not given.
        tau_target: Fixed temperature of the target class; excludes `target_ratio`.
        tau_min: Lower bound of tau_other.
        tau_max: Upper bound of tau_other.
        anchor: A name in `ANCHORS`.
        tau_wrong: tau_other of samples whose label is not on top; None or "literal": the searched value.

    Raises:
        ValueError: There are fewer than three classes, both `target_ratio` and `tau_target` are given, the anchor is
            unknown, or a temperature, ratio or range is not positive and finite.
    """
    classes = logits.shape[1]
    if classes < 3:
        raise ValueError(
            f"isats needs at least 3 classes, got {classes}: one other class has no variance, use ts or ats"
        )
    if target_ratio is not None and tau_target is not None:
        raise ValueError(
            f"target_ratio is {target_ratio} and tau_target is {tau_target}: give one; "
            "tau_target either keeps a ratio to tau_other or is fixed"
        )
    ratio = TARGET_RATIO if target_ratio is None else target_ratio
    check_positive(target_ratio=ratio, tau_target=tau_target)
    wrong = literal_as_none(tau_wrong)
    check_positive(tau_min=tau_min, tau_max=tau_max)
    if tau_min >= tau_max:
        raise ValueError(f"tau_min is {tau_min} and tau_max is {tau_max}: tau_min must be smaller than tau_max")
    logits, rows = logits.detach(), max(1, (NUMBERS_ON_GPU if logits.is_cuda else NUMBERS_IN_MEMORY) // classes)

    def searched(chosen: Tensor, targets: Tensor) -> Tensor:
        chunks = zip(chosen.split(rows), targets.split(rows), strict=True)
        curves = (dv_curve(z.double(), y, anchor, ratio=ratio, fixed=tau_target) for z, y in chunks)
        places = torch.cat([argmax_dv(curve, math.log(tau_min), math.log(tau_max)) for curve in curves])
        return places.exp().clamp(tau_min, tau_max)

    if wrong is None:
        other = searched(logits, labels)
    else:
        other, right = torch.full_like(labels, wrong, dtype=torch.float64), on_top(logits, labels)
        if right.any():
            other = other.masked_scatter(right, searched(logits[right], labels[right]))
    target = other * ratio if tau_target is None else torch.full_like(other, tau_target)
    return Temperatures(target, other, anchor, (tau_min, tau_max))


def isats_fit(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], **params: Any) -> dict[str, float]:
    """Return the parameters that a study adds to those of the space: `tau_wrong`, unless the space sets it.

    The value is the median searched tau_other of the samples that the teacher gets right, or the geometric mean of the
    bounds where the teacher gets no sample right.
    """
    if "tau_wrong" in params:
        return {}
    found = isats(logits, labels, **params).other[on_top(logits, labels)]
    if not len(found):
        # Equal logits have a constant variance; `argmax_dv` defines the result for this case.
        found = isats(torch.zeros_like(logits[:1]), labels[:1], **params).other
    return {"tau_wrong": float(found.quantile(0.5))}


def literal_as_none(tau_wrong: float | str | None) -> float | None:
    """Return `tau_wrong` as a temperature; None for "literal", the searched value.

    Raises:
        ValueError: `tau_wrong` is neither a positive finite number nor "literal".
    """
    if tau_wrong is None or tau_wrong == LITERAL:
        return None
    if isinstance(tau_wrong, str):
        raise ValueError(f"tau_wrong is {tau_wrong!r}: it must be a temperature or {LITERAL!r}")
    check_positive(tau_wrong=tau_wrong)
    return tau_wrong


class Curve(NamedTuple):
    """Quantities from which ln DV of each sample follows at any temperature.

    For every anchor, w = pull / tau_other + offset, both with a constant ratio (offset 0) and a fixed tau_target.
    """

    gaps: Float[Tensor, "classes batch"]
    pull: Float[Tensor, " batch"]
    offset: Float[Tensor, " batch"]

    def take(self, samples: Int[Tensor, " some"]) -> "Curve":
        return Curve(*(field[..., samples] for field in self))


def dv_curve(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    anchor: str,
    *,
    ratio: float,
    fixed: float | None,
) -> Curve:
    """Build the curve of float64 logits. tau_target is `fixed`, or `ratio` times tau_other if `fixed` is None."""
    top, anchors = top_and_anchors(logits, labels, anchor)
    target, other = take_target(logits, labels) - anchors, top - anchors
    pull = target / ratio - other if fixed is None else -other
    offset = torch.zeros_like(target) if fixed is None else target / fixed
    gaps = (logits - top[:, None]).scatter_(1, labels.long()[:, None], 0.0)
    return Curve(gaps.T.contiguous(), pull, offset)


def argmax_dv(curve: Curve, low: float, high: float) -> Float[Tensor, " batch"]:
    """Return log tau_other of the largest DV of each sample, within the bounds `low` and `high` of log tau_other.

    Where DV does not depend on the temperature the result is the mean of the bounds.
    """
    curve = _within_reach(curve, low, high)
    log_taus, heights = _grid(curve, low, high)
    highest = heights.argmax(dim=0)
    place, height = _refine(curve, log_taus, heights, highest)
    # The highest grid point need not belong to the highest peak. A peak is above its left and not below its right
    # neighbour; a bound has one neighbour only.
    rises = heights[1:] > heights[:-1]
    end = torch.ones_like(rises[:1])
    peaks = torch.cat([end, rises]) & torch.cat([~rises, end])
    point, sample = peaks.scatter(0, highest[None], False).nonzero(as_tuple=True)
    other, at_other = _refine(curve.take(sample), log_taus, heights[:, sample], point)
    best = height.scatter_reduce(0, sample, at_other, "amax")
    other = torch.where(at_other == best[sample], other, torch.inf)
    place = torch.where(height == best, place, torch.inf).scatter_reduce(0, sample, other, "amin")
    # Not `<`: without variance both heights are -inf and their difference is NaN.
    flat = ~(heights.amax(dim=0) - heights.amin(dim=0) > FLAT)
    return torch.where(flat, (low + high) / 2, place)


def _within_reach(curve: Curve, low: float, high: float) -> Curve:
    """Return a curve with the same argmax whose ln DV is free of cancellation and underflow.

    Where the log-odds of the target exceed 50 at every temperature, 1 - p_y equals the odds of the other classes to
    all digits. A larger offset then multiplies DV by a factor that is independent of the temperature, but so large
    that rounding would hide the dependence on the temperature. The offset is therefore limited. Where gaps are so
    small that V is quadratic in them, their squares underflow in float32. The gaps are therefore scaled up.
    """
    reach = math.log(len(curve.gaps) - 1) - torch.minimum(curve.pull / math.exp(low), curve.pull / math.exp(high))
    widen = (-1e-7 * math.exp(low) / curve.gaps.amin(dim=0)).clamp(1, 1e300)
    return Curve(curve.gaps * widen, curve.pull, torch.minimum(curve.offset, reach + 50))


def _grid(curve: Curve, low: float, high: float) -> tuple[Float[Tensor, " points"], Float[Tensor, "points batch"]]:
    """Return grid points of log tau, ascending from `low` to `high`, and ln DV at each of them."""
    per_octave = max(POINTS_PER_OCTAVE, math.ceil(2 * math.log(2) / (high - low)))
    steps = math.ceil((high - low) / math.log(2) * per_octave - 1e-9)
    places = [low + step * math.log(2) / per_octave for step in range(steps)] + [high]
    log_taus = torch.tensor(places, dtype=torch.float64, device=curve.pull.device)
    sums = zip(log_taus.exp(), *_sums(curve.gaps.float(), places, per_octave), strict=True)
    return log_taus, torch.stack([_height(curve, *at_tau) for at_tau in sums])


def _sums(
    gaps: Float[Tensor, "classes batch"], places: list[float], per_octave: int
) -> Float[Tensor, "2 points batch"]:
    """Return the sums of e - 1 and of (e - 1)^2 over the classes at each grid point.

    Each octave follows from the octave above: with t = e - 1 at tau, e - 1 at tau / 2 is t^2 + 2 t. Nothing cancels.
    """
    last = len(places) - 1
    excess, square, sums = torch.empty_like(gaps), torch.empty_like(gaps), gaps.new_empty(2, last + 1, gaps.shape[1])
    for top in [last, *range(max(0, last - per_octave), last)]:
        torch.mul(gaps, math.exp(-places[top]), out=excess).expm1_()
        for step in [last] if top == last else range(top, -1, -per_octave):
            torch.sum(excess, dim=0, out=sums[0, step])
            torch.sum(torch.mul(excess, excess, out=square), dim=0, out=sums[1, step])
            torch.add(square, excess, alpha=2, out=excess)
    return sums


def _height(
    curve: Curve,
    tau: Float[Tensor, "*#batch"],
    total: Float[Tensor, "*batch"],
    squares: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch"]:
    """Compute ln DV from the sums of e - 1 and of (e - 1)^2 over the classes."""
    others = len(curve.gaps) - 1
    variance = torch.addcmul(squares, total, total, value=-1 / others).div_(others)
    w = torch.addcdiv(curve.offset, curve.pull, tau)
    return torch.sub(variance.log_(), torch.logaddexp((total + others).log_().double(), w), alpha=2)


def _refine(
    curve: Curve,
    log_taus: Float[Tensor, " points"],
    heights: Float[Tensor, "points batch"],
    point: Int[Tensor, " batch"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return log tau and ln DV of the peak next to the given grid point of each sample."""
    before, after = (point - 1).clamp(min=0), (point + 1).clamp(max=len(log_taus) - 1)
    left, middle, right = log_taus[before], log_taus[point], log_taus[after]
    place, height, settled = _newton(curve, _vertex(log_taus, heights, point), left, middle, right)
    settled &= height > heights.gather(0, point[None])[0] - GRID_ERROR
    (rest,) = (~settled).nonzero(as_tuple=True)
    if len(rest):
        found, at_found = _golden(curve.take(rest), left[rest], middle[rest], right[rest])
        place, height = place.index_copy(0, rest, found), height.index_copy(0, rest, at_found)
    return place, height


def _vertex(
    log_taus: Float[Tensor, " points"], heights: Float[Tensor, "points batch"], point: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Return log tau of the maximum of the quartic through five grid points.

    The result is the grid point itself where the grid has too few points, at the bounds, and where Newton's method
    for the quartic does not stay near the grid point.
    """
    last = len(log_taus) - 1
    if last < 5:
        return log_taus[point]
    # The last interval of the grid is narrower than the others.
    inner = point.clamp(2, last - 3)
    a, b, c, d, e = (heights.gather(0, (inner + shift)[None])[0] for shift in range(-2, 3))
    third, fourth = (e - 2 * d + 2 * b - a) / 2, e - 4 * d + 6 * c - 4 * b + a
    slope, bend = (d - b) / 2 - third / 6, d - 2 * c + b - fourth / 12
    start = away = (point - inner).double()
    for _ in range(3):
        away = away - (slope + away * (bend + away * (third / 2 + away * fourth / 6))) / (
            bend + away * (third + away * fourth / 2)
        )
    found = (point > 0) & (point < last) & ((away - start).abs() < 1)
    return torch.where(found, log_taus[inner] + away * (log_taus[1] - log_taus[0]), log_taus[point])


def _newton(
    curve: Curve,
    place: Float[Tensor, " batch"],
    left: Float[Tensor, " batch"],
    middle: Float[Tensor, " batch"],
    right: Float[Tensor, " batch"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Bool[Tensor, " batch"]]:
    """Run Newton's method from `place`, limited to [left, right].

    Returns:
        log tau, ln DV, and whether the method converged to a peak. A bound of the search, where `middle` equals
        `left` or `right`, is a peak if DV falls from there.
    """
    for _ in range(NEWTON_STEPS):
        here = place
        height, slope, bend = _slopes(curve, here)
        # Where ln DV is convex, go uphill to the end of the interval.
        place = (here + torch.where(bend < 0, -slope / bend, slope.sign())).clamp(left, right)
    moved = (place - here).abs() * (1 + (curve.pull / here.exp()).abs())
    at_bound = (place == middle) & ((left == middle) | (middle == right)) & (slope != 0)
    top = (bend < 0) & (left < place) & (place < right)
    return place, height, (moved < SETTLED) & (top | at_bound)


def _slopes(
    curve: Curve, log_tau: Float[Tensor, " batch"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Compute ln DV and its first two derivatives in log tau.

    With x = gap / tau, t = e^x - 1 has the derivatives -p and q, where p = x e^x and q = p + x p.
    """
    tau, others = log_tau.exp(), len(curve.gaps) - 1
    x = curve.gaps / tau
    t = x.expm1()
    p = torch.addcmul(x, x, t)
    q = torch.addcmul(p, p, x, out=x)
    sum_t, sum_p, sum_q = t.sum(dim=0), p.sum(dim=0), q.sum(dim=0)
    sum_tq_pp = q.mul_(t).addcmul_(p, p).sum(dim=0)
    sum_tp, sum_tt = p.mul_(t).sum(dim=0), t.square_().sum(dim=0)
    spread = sum_tt - sum_t.square() / others
    spread_1 = 2 * (sum_t * sum_p / others - sum_tp) / spread
    spread_2 = 2 * (sum_tq_pp - (sum_t * sum_q + sum_p.square()) / others) / spread - spread_1.square()
    total = sum_t + others
    total_1 = -sum_p / total
    total_2 = sum_q / total - total_1.square()
    pull = curve.pull / tau
    target = torch.sigmoid(pull + curve.offset - total.log())
    slope = spread_1 - 2 * torch.lerp(total_1, -pull, target)
    both_2 = torch.lerp(total_2, pull, target) + target * (1 - target) * (total_1 + pull).square()
    return _height(curve, tau, sum_t, sum_tt), slope, spread_2 - 2 * both_2


def _log_dv(curve: Curve, log_tau: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    tau = log_tau.exp()
    excess = torch.expm1(curve.gaps / tau)
    return _height(curve, tau, excess.sum(dim=0), excess.square_().sum(dim=0))


def _golden(
    curve: Curve, low: Float[Tensor, " batch"], start: Float[Tensor, " batch"], high: Float[Tensor, " batch"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Search the peak in [low, high] by golden sections; return log tau and ln DV, at least as high as at `start`."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = _log_dv(curve, left), _log_dv(curve, right)
    for _ in range(GOLDEN_STEPS):
        leftward = at_left > at_right
        low, high = torch.where(leftward, low, left), torch.where(leftward, right, high)
        probe = torch.where(leftward, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        at_probe = _log_dv(curve, probe)
        left, right = torch.where(leftward, probe, right), torch.where(leftward, left, probe)
        at_left, at_right = torch.where(leftward, at_probe, at_right), torch.where(leftward, at_left, at_probe)
    # A golden-section search approaches a bound but never reaches it.
    at_start = _log_dv(curve, start)
    place, height = torch.where(at_left > at_right, left, right), torch.maximum(at_left, at_right)
    return torch.where(height > at_start, place, start), torch.maximum(height, at_start)

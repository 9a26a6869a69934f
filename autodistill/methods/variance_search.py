"""The largest derived variance (DV) of each sample over a range of temperatures of the other classes.

With e_j = exp(gap_j / tau_other), S their sum over the n = C-1 other classes and V their variance,
DV = V / (S + exp(w))^2, where ln S - w is the log-odds of the other classes against the target. The search works on
ln DV, so that a variance too small for any float is still a variance to compare.

A float32 grid in log tau that holds both bounds; from each of its peaks Newton's method in float64 within the
neighbouring grid points; golden section where Newton's method does not settle, as at the kinks of huge logits.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autodistill.methods.softmax import top_and_anchors
from autodistill.metrics import take_target

POINTS_PER_OCTAVE = 5
"""0.139 in log tau. At twice that a narrow hump of the derived variance can fall between two candidates."""

NEWTON_STEPS = 2
"""From the top of the quartic through five grid points, mostly within 1e-3: then 1e-6, then 1e-12."""

SETTLED = 1e-5
"""The last Newton step in log tau, times the slope of w, beyond which ln DV can fall at a kink."""

GRID_ERROR = 5e-5
"""In ln DV, by rounding, with 1000 classes; a peak found lower than this below its grid point is not the peak."""

FLAT = 1e-5
"""In ln DV, lowest to highest."""

GOLDEN_STEPS = 22
"""They leave under 1e-5 of log tau: with huge logits the optimum is a kink, beside which DV falls steeply."""

GOLDEN = (math.sqrt(5) - 1) / 2


class Curve(NamedTuple):
    """What ln DV of each sample needs at every temperature.

    w = pull / tau_other + offset: whatever the anchor, on the ray (offset 0) and with tau_target fixed.
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
    """The curve of float64 logits, with tau_target `fixed`, or `ratio` times tau_other where that is None."""
    top, anchors = top_and_anchors(logits, labels, anchor)
    target, other = take_target(logits, labels) - anchors, top - anchors
    pull = target / ratio - other if fixed is None else -other
    offset = torch.zeros_like(target) if fixed is None else target / fixed
    gaps = (logits - top[:, None]).scatter_(1, labels.long()[:, None], 0.0)
    return Curve(gaps.T.contiguous(), pull, offset)


def argmax_dv(curve: Curve, low: float, high: float) -> Float[Tensor, " batch"]:
    """log tau_other of each sample's largest DV between the logarithms `low` and `high`.

    It is their mean where DV does not depend on the temperature.
    """
    curve = _within_reach(curve, low, high)
    log_taus, heights = _grid(curve, low, high)
    highest = heights.argmax(dim=0)
    place, height = _refine(curve, log_taus, heights, highest)
    # The highest grid point need not lie on the highest hump.
    point, sample = _peaks(heights).scatter(0, highest[None], False).nonzero(as_tuple=True)
    other, at_other = _refine(curve.take(sample), log_taus, heights[:, sample], point)
    best = height.scatter_reduce(0, sample, at_other, "amax")
    other = torch.where(at_other == best[sample], other, torch.inf)
    place = torch.where(height == best, place, torch.inf).scatter_reduce(0, sample, other, "amin")
    # Not `<`: without variance both are -inf and their difference NaN.
    flat = ~(heights.amax(dim=0) - heights.amin(dim=0) > FLAT)
    return torch.where(flat, (low + high) / 2, place)


def _within_reach(curve: Curve, low: float, high: float) -> Curve:
    """The same argmax, with numbers that leave ln DV its digits.

    Where the target stays 50 above the other classes at every temperature, 1 - p_y is their odds to all digits, and
    the offset beyond that is a factor of DV which no temperature changes, but whose size would swallow those it does.
    Likewise the width of gaps so small that V is quadratic in them, whose squares float32 could not hold.
    """
    reach = math.log(len(curve.gaps) - 1) - torch.minimum(curve.pull / math.exp(low), curve.pull / math.exp(high))
    widen = (-1e-7 * math.exp(low) / curve.gaps.amin(dim=0)).clamp(1, 1e300)
    return Curve(curve.gaps * widen, curve.pull, torch.minimum(curve.offset, reach + 50))


def _grid(curve: Curve, low: float, high: float) -> tuple[Float[Tensor, " points"], Float[Tensor, "points batch"]]:
    """log tau, rising from `low` to `high`, and ln DV there."""
    per_octave = max(POINTS_PER_OCTAVE, math.ceil(2 * math.log(2) / (high - low)))
    steps = math.ceil((high - low) / math.log(2) * per_octave - 1e-9)
    places = [low + step * math.log(2) / per_octave for step in range(steps)] + [high]
    log_taus = torch.tensor(places, dtype=torch.float64, device=curve.pull.device)
    sums = zip(log_taus.exp(), *_sums(curve.gaps.float(), places, per_octave), strict=True)
    return log_taus, torch.stack([_height(curve, *at_tau) for at_tau in sums])


def _sums(
    gaps: Float[Tensor, "classes batch"], places: list[float], per_octave: int
) -> Float[Tensor, "2 points batch"]:
    """Of e - 1 and of its square, over the classes.

    Each octave follows from the one above: with t = e - 1 at tau, e - 1 at tau / 2 is t^2 + 2 t: nothing cancels.
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
    """ln DV from the sums of e - 1 and of its square."""
    others = len(curve.gaps) - 1
    variance = torch.addcmul(squares, total, total, value=-1 / others).div_(others)
    w = torch.addcdiv(curve.offset, curve.pull, tau)
    return torch.sub(variance.log_(), torch.logaddexp((total + others).log_().double(), w), alpha=2)


def _peaks(heights: Float[Tensor, "points batch"]) -> Bool[Tensor, "points batch"]:
    """Grid points above their left neighbour and not below their right one; the bounds have one neighbour."""
    rises = heights[1:] > heights[:-1]
    end = torch.ones_like(rises[:1])
    return torch.cat([end, rises]) & torch.cat([~rises, end])


def _refine(
    curve: Curve,
    log_taus: Float[Tensor, " points"],
    heights: Float[Tensor, "points batch"],
    point: Int[Tensor, " batch"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Place and height of the peak next to a grid point of each sample."""
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
    """log tau of the top of the quartic through five grid points; the middle one where there are not five."""
    last = len(log_taus) - 1
    if last < 5:
        return log_taus[point]
    # The last interval is narrower than the others.
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
    """Newton's method between `left` and `right`: where it comes to, the height there, and whether that is a peak.

    A bound, where `middle` is one of the ends, is a peak where DV falls from there.
    """
    for _ in range(NEWTON_STEPS):
        here = place
        height, slope, bend = _slopes(curve, here)
        # Where DV is convex, uphill to the end.
        place = (here + torch.where(bend < 0, -slope / bend, slope.sign())).clamp(left, right)
    moved = (place - here).abs() * (1 + (curve.pull / here.exp()).abs())
    at_bound = (place == middle) & ((left == middle) | (middle == right)) & (slope != 0)
    top = (bend < 0) & (left < place) & (place < right)
    return place, height, (moved < SETTLED) & (top | at_bound)


def _slopes(
    curve: Curve, log_tau: Float[Tensor, " batch"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """ln DV and its first two derivatives in log tau.

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
    """Golden-section search for the peak between `low` and `high`, no lower than `start`: its place and height."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = _log_dv(curve, left), _log_dv(curve, right)
    for _ in range(GOLDEN_STEPS):
        leftward = at_left > at_right
        low, high = torch.where(leftward, low, left), torch.where(leftward, right, high)
        probe = torch.where(leftward, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        at_probe = _log_dv(curve, probe)
        left, right = torch.where(leftward, probe, right), torch.where(leftward, left, probe)
        at_left, at_right = torch.where(leftward, at_probe, at_right), torch.where(leftward, at_left, at_probe)
    # Golden section comes close to a bound but never onto it.
    at_start = _log_dv(curve, start)
    place, height = torch.where(at_left > at_right, left, right), torch.maximum(at_left, at_right)
    return torch.where(height > at_start, place, start), torch.maximum(height, at_start)

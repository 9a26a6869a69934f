"""Metrics of logits and probabilities: accuracy, calibration, spread and order of the other classes.

All functions are pure. Shares and scores are fractions in [0, 1]. Per-sample results are float64, because a variance
of probabilities can be far below the resolution of float32.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

CALIBRATION_BINS = 15
PAIRS_IN_MEMORY = 2**24
"""Class pairs that the rank agreements compare at a time. Each float32 buffer takes 64 MB, and there are several."""


class RankAgreement(NamedTuple):
    """Two rank correlations of each pair of teachers, each a mean over the samples in [-1, 1]."""

    spearman: Float[Tensor, "teachers teachers"]
    kendall: Float[Tensor, "teachers teachers"]


def top1(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Return the share of samples whose largest logit is the label's; the first of equal logits counts."""
    return (logits.argmax(dim=1) == labels).double().mean()


def balanced_top1(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> float:
    """Return the mean over the classes that occur of the share of samples whose largest logit is the label's."""
    counts = labels.bincount()
    hits = labels[logits.argmax(dim=1) == labels].bincount(minlength=len(counts))
    return float((hits.double() / counts)[counts > 0].mean())


def nll(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Return the mean negative log-likelihood of the labels under softmax(logits), in nats."""
    return F.cross_entropy(logits.double(), labels.long())


def expected_calibration_error(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Return the mean gap between confidence and accuracy over 15 bins of equal width, weighted by their samples.

    A confidence on the edge of two bins belongs to the lower bin. Source: Guo et al., ICML 2017, equation 3.
    """
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    surplus = confidence - (predicted == labels).double()
    bins = (confidence * CALIBRATION_BINS).ceil().long() - 1
    per_bin = surplus.new_zeros(CALIBRATION_BINS).index_add(0, bins.clamp(0, CALIBRATION_BINS - 1), surplus)
    return per_bin.abs().sum() / len(labels)


def top_two_log_ratio(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """Return the natural logarithm of the ratio of the two largest probabilities of each sample, at least 0.

    It is the difference of the two largest logits, and therefore finite for all finite logits.
    """
    first, second = logits.topk(2, dim=1).values.unbind(dim=1)
    return first - second


def mean_target_probability(probs: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Return the mean probability of the label."""
    return take_target(probs.double(), labels).mean()


def derived_average(probs: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Return the mean of the C-1 other probabilities of each sample (DA; Li et al., NeurIPS 2022)."""
    return fill_target(probs.double(), labels, 0.0).sum(dim=1) / (probs.shape[1] - 1)


def derived_variance(probs: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Return the population variance of the C-1 other probabilities of each sample (DV; Li et al., NeurIPS 2022)."""
    deviation = probs.double() - derived_average(probs, labels)[:, None]
    return fill_target(deviation, labels, 0.0).square().sum(dim=1) / (probs.shape[1] - 1)


def inherent_variance(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    tau_other: float | Float[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """Return the population variance of softmax(other logits / `tau_other`) of each sample (IV).

    IV = DV / (1 - p_y)^2 is the part of the derived variance that does not depend on the target class.
    """
    # With t = expm1(gap / tau) for the gap of each class to the largest other class, the sum of exp(gap / tau) is
    # n + sum t, and IV is var(t) / (n + sum t)^2 over the n = C-1 other classes. The target's gap is set to 0, so it
    # adds nothing. Because the largest class has t = 0, the mean square of t is at most n times its variance, so
    # nothing cancels, however close the logits are.
    others, wide = logits.shape[1] - 1, logits.double()
    gaps = fill_target(wide - largest_other(wide, labels)[:, None], labels, 0.0)
    excess = torch.expm1(gaps.T / tau_other)
    total = excess.sum(dim=0)
    variance = (excess.square_().sum(dim=0) - total.square() / others) / others
    return variance / (total + others).square()


def take_target(values: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Return the label's entry of each row."""
    return values.gather(1, labels.long()[:, None])[:, 0]


def fill_target(
    values: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], value: float
) -> Float[Tensor, "batch classes"]:
    """Return the rows with the label's entry set to `value`."""
    return values.scatter(1, labels.long()[:, None], value)


def largest_other(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Return the largest entry of each row, the label's excluded."""
    return fill_target(logits, labels, -torch.inf).amax(dim=1)


def on_top(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
    """Return whether the label's entry is the largest of its row, ties included."""
    return take_target(logits, labels) >= logits.amax(dim=1)


def rank_agreements(logits: Float[Tensor, "teachers batch classes"], labels: Int[Tensor, " batch"]) -> RankAgreement:
    """Return how far each pair of teachers agrees on the order of the other classes.

    The measures are Spearman's rho with mean ranks for ties and Kendall's tau-b, averaged over the samples. A sample
    without an order, because one teacher of the pair gives all other classes the same logit, is left out; a pair
    without any sample is NaN. Time and memory grow with the square of the number of classes. The order of each
    teacher is computed once.

    Returns:
        Two symmetric matrices of teachers x teachers.

    Raises:
        ValueError: there are fewer than three classes, so the other classes have no order.
    """
    teachers, _, classes = logits.shape
    if classes < 3:
        raise ValueError(f"rank_agreements needs at least 3 classes, got {classes}: one other class has no order")
    rows = max(1, PAIRS_IN_MEMORY // (teachers * classes**2))
    chunks = zip(logits.split(rows, dim=1), labels.split(rows), strict=True)
    spearman, kendall = [], []
    for some_logits, some_labels in chunks:
        orders = torch.stack([_orders(one, some_labels) for one in some_logits], dim=1)
        spearman.append(_cosines(orders.sum(dim=3).double()))  # half the row sum is the centred mean rank
        kendall.append(_cosines(orders.flatten(2)))
    return RankAgreement(torch.cat(spearman).nanmean(dim=0), torch.cat(kendall).nanmean(dim=0))


def _orders(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Float[Tensor, "batch classes classes"]:
    """Return the sign of z_i - z_j for each pair of other classes; 0 for pairs with the target."""
    other = fill_target(torch.ones_like(logits, dtype=torch.float32), labels, 0.0)
    above = logits[:, :, None] > logits[:, None, :]
    return (above.float() - above.mT.float()) * other[:, :, None] * other[:, None, :]


def _cosines(values: Float[Tensor, "batch teachers n"]) -> Float[Tensor, "batch teachers teachers"]:
    products = (values @ values.mT).double()
    squares = products.diagonal(dim1=1, dim2=2)
    return products / (squares[:, :, None] * squares[:, None, :]).sqrt()

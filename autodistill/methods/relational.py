"""DIST: the student's probabilities correlate with the teacher's, within each sample and within each class.

A correlation does not change when all values are multiplied by a positive constant or moved by a constant. The
student therefore need not match the sharpness of a much stronger teacher.

Sources: Huang et al., NeurIPS 2022, arXiv 2205.10536, and the public code hunto/image_classification_sota, to which
hunto/DIST_KD points.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from autodistill.methods.loss import Loss, add_terms, check_choice, check_weights
from autodistill.methods.temperature_scaling import check_positive

EPSILON = 1e-8
"""Number that the public code adds to the product of the norms."""

CONSTANT = 1e-6
"""Standard deviation, relative to the mean, up to which values count as equal. Rounding in float32 causes 1e-7."""

SCALINGS = ("tau_squared", "none")
"""Factors of both relations: tau^2, as in the code, or 1, as in the paper."""


def dist(  # noqa: PLR0913 - data and the method's parameters
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    prepared: Mapping[str, Tensor],
    ramp: Float[Tensor, ""] | None,
    *,
    tau: float = 4.0,
    beta: float = 2.0,
    gamma: float = 2.0,
    scaling: str = "tau_squared",
    hard_weight: float = 1.0,
) -> Loss:
    """Compute hard_weight CE(y, f) + ramp tau^2 (beta inter + gamma intra).

    With p and q the softmax of the teacher's and the student's logits / tau, inter is 1 minus the Pearson correlation
    of p and q over the classes, mean over the batch; intra is 1 minus their correlation over the batch, mean over the
    classes. Intra makes the loss of a sample depend on its batch, so the batch size changes the loss.

    The paper has no factor tau^2 and the code has it; `scaling` selects. The code adds 1e-8 to the product of the
    norms, which matters for classes that are improbable in the whole batch. Values that are all equal have no
    correlation: as in the code, it counts as 0. The code then has gradients of up to 1e8, which ruin a student whose
    last layer starts at zero; here the standard deviation of equal values counts as 1.

    Args:
        student_logits: f, of any float type.
        teacher_logits: Logits of any float type.
        labels: Class indices.
        prepared: Not used: the teacher's columns change with the batch.
        ramp: Factor of the soft term; None: 1 (code).
        tau: Temperature of teacher and student. 4 on CIFAR-100, 1 on ImageNet (code).
        beta: Weight of inter. 2 (the code's recipes: weight 2 of a loss whose own beta and gamma are 1).
        gamma: Weight of intra. 2 (as beta).
        scaling: "tau_squared" or "none", the factor of both relations.
        hard_weight: Weight of the cross-entropy. 1 (code).

    Raises:
        ValueError: `tau` is not positive and finite, a weight is negative or not finite, or `scaling` is unknown.
    """
    check_positive(tau=tau)
    check_weights(beta=beta, gamma=gamma, hard_weight=hard_weight)
    check_choice("scaling", scaling, SCALINGS)
    student, teacher = ((z.float() / tau).softmax(dim=1) for z in (student_logits, teacher_logits))
    factor = tau**2 if scaling == "tau_squared" else 1.0
    alike = beta * correlations(student, teacher, dim=1).mean() + gamma * correlations(student, teacher, dim=0).mean()
    soft = factor * (beta + gamma - alike)
    return add_terms(F.cross_entropy(student_logits.float(), labels.long()), soft, ramp, hard_weight=hard_weight)


def correlations(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], *, dim: int
) -> Float[Tensor, " rest"]:
    """Return the Pearson correlations along `dim`; 0 where values of the teacher or the student are all equal."""
    (own, own_norms), (given, given_norms) = (_centre(values, dim) for values in (student, teacher))
    return (own * given).sum(dim=dim) / (own_norms * given_norms + EPSILON)


def _centre(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the differences to the mean along `dim`, and their norm.

    The norm of equal values is the square root of their number, as if their standard deviation were 1.
    """
    # The gradient of a correlation sums to 0 along `dim`, so nothing of it passes through the mean.
    mean, count = values.detach().mean(dim=dim, keepdim=True), values.shape[dim]
    centred = values - mean
    norm = torch.linalg.vector_norm(centred, dim=dim)
    constant = norm <= mean.squeeze(dim) * (CONSTANT * math.sqrt(count))
    return centred, norm.masked_fill(constant, math.sqrt(count))

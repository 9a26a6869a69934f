"""The loss of a batch, and the loss of the methods that compute soft targets.

The meaning of a loss weight depends on the reduction. Here every cross-entropy is summed over classes and averaged
over the batch. All losses are computed in float32, whatever the type of the inputs and inside autocast too.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


class Loss(NamedTuple):
    """Loss of a batch and its terms: float32 scalars on the device of the logits."""

    total: Float[Tensor, ""]
    hard: Float[Tensor, ""]
    soft: Float[Tensor, ""]
    """The term that depends on the teacher, without the weights of hard and soft term and without the ramp."""


def hard_loss(
    student_logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], *, label_smoothing: float = 0.0
) -> Loss:
    """Compute the cross-entropy with the labels, the loss without a teacher. Mean over the batch, in nats.

    With label smoothing s, the target is (1 - s) one-hot + s / classes (Szegedy et al. 2016, section 7). `hard` is the
    cross-entropy with the labels themselves.
    """
    logits = student_logits.float()
    hard = F.cross_entropy(logits, labels.long())
    total = F.cross_entropy(logits, labels.long(), label_smoothing=label_smoothing) if label_smoothing else hard
    return Loss(total, hard, torch.zeros_like(hard))


def distillation_loss(
    student_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    target_probs: Float[Tensor, "batch classes"],
    *,
    soft_weight: float,
    tau_student: float,
    ramp: Float[Tensor, ""] | None = None,
) -> Loss:
    """Compute (1 - lambda) CE(y, f) + lambda tau_student^2 CE(p_teacher, softmax(f / tau_student)).

    lambda is `soft_weight`, multiplied by `ramp` where the weight rises over the first epochs. Both cross-entropies are
    summed over the classes and averaged over the batch, in nats. The factor tau_student^2 keeps the size of the soft
    term's gradients when the temperature changes (Hinton et al. 2015). The cross-entropy differs from the
    Kullback-Leibler divergence by the entropy of the targets, which does not depend on the student.

    `student_logits` are f, of any float type; `target_probs` are p_teacher.

    Raises:
        ValueError: `soft_weight` is outside [0, 1], or `tau_student` is not positive and finite.
    """
    if not 0 <= soft_weight <= 1:
        raise ValueError(f"soft_weight is {soft_weight}: it must lie in [0, 1]")
    if not (tau_student > 0 and math.isfinite(tau_student)):
        raise ValueError(f"tau_student is {tau_student}: a temperature must be positive and finite")
    logits = student_logits.float()
    hard = F.cross_entropy(logits, labels.long())
    log_probs = (logits / tau_student).log_softmax(dim=1)
    soft = -(target_probs.float() * log_probs).sum(dim=1).mean() * tau_student**2
    weight = soft_weight if ramp is None else soft_weight * ramp
    return Loss((1 - weight) * hard + weight * soft, hard, soft)

"""Losses of a student: a hard term from the labels and a soft term from the soft targets.

The meaning of a loss weight depends on the reduction. Here every cross-entropy is summed over classes and averaged
over the batch. All losses are computed in float32, whatever the type of the inputs and inside autocast too.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


class Loss(NamedTuple):
    """Loss of a batch and its terms: float32 scalars on the device of the logits."""

    total: Float[Tensor, ""]
    hard: Float[Tensor, ""]
    soft: Float[Tensor, ""] | None
    """Soft term, multiplied by tau_student^2 but not by its weight; None without a teacher."""


DistillationLoss = Callable[..., Loss]
"""A loss with the signature of `distillation_loss`."""


def hard_loss(student_logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Loss:
    """Compute the cross-entropy with the labels, the loss without a teacher. Mean over the batch, in nats."""
    hard = F.cross_entropy(student_logits.float(), labels.long())
    return Loss(hard, hard, None)


def distillation_loss(
    student_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    target_probs: Float[Tensor, "batch classes"],
    *,
    soft_weight: float,
    tau_student: float,
) -> Loss:
    """Compute (1 - soft_weight) CE(y, f) + soft_weight tau_student^2 CE(p_teacher, softmax(f / tau_student)).

    Both cross-entropies are summed over the classes and averaged over the batch, in nats. The factor tau_student^2
    keeps the size of the soft term's gradients when the temperature changes (Hinton et al. 2015). The cross-entropy
    differs from the Kullback-Leibler divergence by the entropy of the targets, which does not depend on the student.

    Args:
        student_logits: Outputs f of the student, of any float type.
        labels: Class indices y.
        target_probs: Soft targets p_teacher, `Targets.probs`.
        soft_weight: Weight of the soft term, in [0, 1]. The weight of the hard term is 1 - soft_weight.
        tau_student: Temperature of the student in the soft term.

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
    return Loss((1 - soft_weight) * hard + soft_weight * soft, hard, soft)


LOSSES: dict[str, DistillationLoss] = {"soft_cross_entropy": distillation_loss}

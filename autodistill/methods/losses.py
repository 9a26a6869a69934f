"""What a student minimises: the hard term from the labels, the soft term from a teacher's targets.

A weight means nothing without its reduction: here every cross-entropy is summed over classes and averaged over the
batch. Everything is computed in float32, whatever comes in and whatever autocast says.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


class Loss(NamedTuple):
    """One batch's loss and its parts, float32 scalars on the device of the logits."""

    total: Float[Tensor, ""]
    hard: Float[Tensor, ""]
    soft: Float[Tensor, ""] | None
    """The soft term with its tau_student^2, before its weight; None without a teacher."""


DistillationLoss = Callable[..., Loss]
"""The signature that every loss shares: that of `distillation_loss`."""


def hard_loss(student_logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Loss:
    """Cross-entropy with the labels alone: training without a teacher. Mean over the batch, in nats."""
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
    """(1 - soft_weight) CE(y, f) + soft_weight tau_student^2 CE(p_teacher, softmax(f / tau_student)).

    Both cross-entropies are summed over the classes and averaged over the batch, in nats. The factor tau_student^2
    keeps the soft gradients' size when the temperature changes (Hinton et al. 2015). The cross-entropy differs from
    the Kullback-Leibler divergence by the entropy of the targets, which the student has no hand in.

    Args:
        student_logits: raw outputs f, of any float type.
        labels: class indices.
        target_probs: soft targets of a rule, `Targets.probs`.
        soft_weight: weight of the soft term, in [0, 1]; the hard term has the rest.
        tau_student: temperature of the student in the soft term.

    Raises:
        ValueError: `soft_weight` outside [0, 1], or `tau_student` not positive and finite.
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

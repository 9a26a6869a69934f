"""The loss of a batch and its terms, the losses without a teacher and with given soft targets, and shared helpers.

All losses are computed in float32, whatever the type of the inputs and inside autocast too. No function reads a value
from the device: a training step is recorded in a CUDA graph.
"""

import math
from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

NUMBERS_AT_ONCE = 2**22
"""Logits per chunk in `in_chunks`. Each float32 buffer of a chunk takes 16 MB."""


class Loss(NamedTuple):
    """Loss of a batch and its terms: float32 scalars on the device of the logits."""

    total: Float[Tensor, ""]
    hard: Float[Tensor, ""]
    """Cross-entropy with the labels, without its weight."""
    soft: Float[Tensor, ""]
    """Distillation term with the weights inside of it, but without `soft_weight` and without the ramp; 0 without a
    teacher."""


def hard_loss(
    student_logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], *, label_smoothing: float = 0.0
) -> Loss:
    """Compute the cross-entropy with the labels, the loss without a teacher. Mean over the batch, in nats.

    With label smoothing s, `total` is the cross-entropy with the target (1 - s) one-hot + s / classes (Szegedy et al.
    2016, section 7).
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
    soft_logits: Float[Tensor, "batch classes"] | None = None,
) -> Loss:
    """Compute (1 - w) CE(y, f) + w tau_student^2 CE(p_teacher, softmax(g / tau_student)).

    The weight w is `soft_weight`, multiplied by `ramp` if that is given. Both cross-entropies are summed over the
    classes and averaged over the batch, in nats. The factor tau_student^2 keeps the size of the soft term's gradients
    when the temperature changes (Hinton et al. 2015). The cross-entropy differs from the Kullback-Leibler divergence by
    the entropy of the targets, which does not depend on the student.

    `student_logits` are f, of any float type; `target_probs` are p_teacher; `soft_logits` are g, or None for f.

    Raises:
        ValueError: `soft_weight` is outside [0, 1], or `tau_student` is not positive and finite.
    """
    if not 0 <= soft_weight <= 1:
        raise ValueError(f"soft_weight is {soft_weight}: it must lie in [0, 1]")
    if not (tau_student > 0 and math.isfinite(tau_student)):
        raise ValueError(f"tau_student is {tau_student}: a temperature must be positive and finite")
    logits = student_logits.float()
    hard = F.cross_entropy(logits, labels.long())
    softened = (logits if soft_logits is None else soft_logits.float()) / tau_student
    log_probs = softened.log_softmax(dim=1)
    soft = -(target_probs.float() * log_probs).sum(dim=1).mean() * tau_student**2
    weight = soft_weight if ramp is None else soft_weight * ramp
    return Loss((1 - weight) * hard + weight * soft, hard, soft)


def add_terms(
    hard: Float[Tensor, ""], soft: Float[Tensor, ""], ramp: Float[Tensor, ""] | None, *, hard_weight: float
) -> Loss:
    """Return the loss hard_weight * hard + ramp * soft. The factor `ramp` is 1 if it is None."""
    return Loss(hard_weight * hard + (soft if ramp is None else ramp * soft), hard, soft)


def in_chunks(
    compute: Callable[[Tensor, Tensor], dict[str, Tensor]],
    teacher_logits: Float[Tensor, "examples classes"],
    labels: Int[Tensor, " examples"],
) -> dict[str, Tensor]:
    """Apply `compute` to float32 logits and labels of some examples at a time, and join its per-example results.

    The temporary memory therefore does not grow with the number of examples.
    """
    rows = max(1, NUMBERS_AT_ONCE // teacher_logits.shape[1])
    chunks = zip(teacher_logits.split(rows), labels.split(rows), strict=True)
    parts = [compute(z.float(), y.long()) for z, y in chunks]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def check_weights(**values: float) -> None:
    """Raise ValueError unless each value is at least 0 and finite."""
    for name, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} is {value}: a weight must be at least 0 and finite")


def check_choice(name: str, value: str, allowed: Collection[str]) -> None:
    """Raise ValueError unless `value` is one of the allowed names."""
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; allowed: {', '.join(allowed)}")

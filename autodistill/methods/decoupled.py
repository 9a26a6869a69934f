"""DKD: the divergence of plain distillation in two parts with separate weights, target class and other classes.

Sources: Zhao et al., CVPR 2022, arXiv 2203.08679, and the public code megvii-research/mdistiller;
standardised logits: Sun et al., CVPR 2024, arXiv 2403.01427.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from autodistill.methods.loss import Loss, add_terms, check_choice, check_weights, in_chunks
from autodistill.methods.standardisation import LOGITS
from autodistill.methods.temperature_scaling import check_positive
from autodistill.metrics import fill_target, take_target

EXCLUDED = -1e30
"""Logit of the target class in the softmax over the other classes. Its probability is 0, and 0 times its logarithm is
0, not NaN as with minus infinity."""


def dkd(  # noqa: PLR0913 - data and the method's parameters
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    prepared: Mapping[str, Tensor],
    ramp: Float[Tensor, ""] | None,
    *,
    tau: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    logits: str = "raw",
    hard_weight: float = 1.0,
) -> Loss:
    """Compute hard_weight CE(y, f) + ramp tau^2 (alpha TCKD + beta NCKD).

    With p and q the softmax of the teacher's and the student's logits / tau, and y the target class:
    TCKD = KL((p_y, 1 - p_y) || (q_y, 1 - q_y)); NCKD = KL(p' || q'), where p' and q' are p and q without y,
    divided by their sum. Sums over the classes, means over the batch, in nats. `soft` is the term after `ramp`.

    The paper shows KL(p || q) = TCKD + (1 - p_y) NCKD. The computation therefore uses
    alpha TCKD + beta NCKD = alpha KL(p || q) + (beta - alpha (1 - p_y)) NCKD, which needs no logarithm of 1 - q_y.
    With two classes NCKD is 0.

    The factor tau^2 is the code's. The paper's formulas leave the temperature out, and its weights are the code's.

    Args:
        student_logits: f, of any float type.
        teacher_logits: Logits of any float type.
        labels: Class indices.
        prepared: Rows of `prepare_dkd` for these samples, with the same parameters.
        ramp: Factor of the soft term; None: 1. In the code it is min(epoch / 20, 1) with epochs from 1 to 240.
        tau: Temperature of teacher and student. 4 on CIFAR-100, 1 on ImageNet (code).
        alpha: Weight of TCKD. 1 (code).
        beta: Weight of NCKD. 8 by default on CIFAR-100, 2 or 6 for some pairs; 0.5 or 2 on ImageNet (code).
        logits: A name in `LOGITS`.
        hard_weight: Weight of the cross-entropy. 1 (code).

    Raises:
        ValueError: `tau` is not positive and finite, a weight is negative or not finite, or `logits` is unknown.
    """
    _check(tau=tau, alpha=alpha, beta=beta, logits=logits)
    check_weights(hard_weight=hard_weight)
    scale, labels = LOGITS[logits], labels.long()
    teacher, student = scale(teacher_logits) / tau, scale(student_logits) / tau
    targets, other_targets = teacher.softmax(dim=1), fill_target(teacher, labels, EXCLUDED).softmax(dim=1)
    whole = (targets * student.log_softmax(dim=1)).sum(dim=1)
    other = (other_targets * fill_target(student, labels, EXCLUDED).log_softmax(dim=1)).sum(dim=1)
    each = alpha * whole + prepared["other_weight"] * other
    soft = (prepared["entropy"] + each).mean() * -(tau**2)
    return add_terms(F.cross_entropy(student_logits.float(), labels), soft, ramp, hard_weight=hard_weight)


def prepare_dkd(
    teacher_logits: Float[Tensor, "examples classes"],
    labels: Int[Tensor, " examples"],
    *,
    tau: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    logits: str = "raw",
    hard_weight: float = 1.0,
) -> dict[str, Tensor]:
    """Compute what `dkd` needs of each example and the student does not change, in float32.

    `other_weight` is beta - alpha (1 - p_y), the weight of NCKD beside KL(p || q). `entropy` is alpha times the entropy
    of p plus `other_weight` times the entropy of p', in nats. Parameters and errors are those of `dkd`.
    """
    _check(tau=tau, alpha=alpha, beta=beta, logits=logits)
    check_weights(hard_weight=hard_weight)

    def compute(chunk: Tensor, targets: Tensor) -> dict[str, Tensor]:
        teacher = LOGITS[logits](chunk) / tau
        log_probs, log_others = teacher.log_softmax(dim=1), fill_target(teacher, targets, EXCLUDED).log_softmax(dim=1)
        weight = beta - alpha * (1 - take_target(log_probs, targets).exp())
        entropy = -alpha * (log_probs.exp() * log_probs).sum(dim=1)
        return {"other_weight": weight, "entropy": entropy - weight * (log_others.exp() * log_others).sum(dim=1)}

    return in_chunks(compute, teacher_logits, labels)


def _check(*, tau: float, alpha: float, beta: float, logits: str) -> None:
    check_positive(tau=tau)
    check_weights(alpha=alpha, beta=beta)
    check_choice("logits", logits, LOGITS)

"""NKD: the cross-entropy with the teacher's target probability, and that over the other classes, each normalised.

Sources: Yang et al., ICCV 2023, arXiv 2303.13005, and the public code yzd-v/cls_KD.
"""

from collections.abc import Mapping

from jaxtyping import Float, Int
from torch import Tensor

from autodistill.methods.decoupled import EXCLUDED
from autodistill.methods.loss import Loss, add_terms, check_weights, in_chunks
from autodistill.methods.temperature_scaling import check_positive
from autodistill.metrics import fill_target, take_target


def nkd(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    prepared: Mapping[str, Tensor],
    ramp: Float[Tensor, ""] | None,
    *,
    tau: float = 3.0,
    gamma: float = 3.5,
    hard_weight: float = 1.0,
) -> Loss:
    """Compute hard_weight CE(y, f) + ramp (-p_y ln q_y + gamma tau^2 CE(p', q')).

    p_y and q_y are the probabilities of the target class y without a temperature. p' and q' are the softmax of the
    teacher's and the student's logits / tau over the other classes. Sums over the classes, means over the batch, in
    nats. Both parts of the soft term are cross-entropies, so the soft term is not 0 where student and teacher agree.

    Paper and code agree. The paper calls the temperature lambda. Before October 2023 the code took the second part
    over all classes, by mistake. With two classes the second part is 0.

    Args:
        student_logits: f, of any float type.
        teacher_logits: Logits of any float type.
        labels: Class indices.
        prepared: Rows of `prepare_nkd` for these samples.
        ramp: Factor of the soft term; None: 1 (code).
        tau: Temperature of the second part. 3 on CIFAR-100, 1 on ImageNet (code).
        gamma: Weight of the second part. 3.5 on CIFAR-100, 1 or 1.5 on ImageNet (code).
        hard_weight: Weight of the cross-entropy. 1 (code).

    Raises:
        ValueError: `tau` is not positive and finite, or a weight is negative or not finite.
    """
    check_positive(tau=tau)
    check_weights(gamma=gamma, hard_weight=hard_weight)
    student, labels = student_logits.float(), labels.long()
    log_target = take_target(student.log_softmax(dim=1), labels)
    targets = fill_target(teacher_logits.float() / tau, labels, EXCLUDED).softmax(dim=1)
    log_others = fill_target(student / tau, labels, EXCLUDED).log_softmax(dim=1)
    others = (targets * log_others).sum(dim=1) * (gamma * tau**2)
    soft = -(prepared["target_probability"] * log_target + others).mean()
    return add_terms(-log_target.mean(), soft, ramp, hard_weight=hard_weight)


def prepare_nkd(
    teacher_logits: Float[Tensor, "examples classes"],
    labels: Int[Tensor, " examples"],
    *,
    tau: float = 3.0,
    gamma: float = 3.5,
    hard_weight: float = 1.0,
) -> dict[str, Tensor]:
    """Compute `target_probability`, the teacher's probability of each label without a temperature, in float32.

    It does not depend on the parameters, which are those of `nkd`, and so are the errors.
    """
    check_positive(tau=tau)
    check_weights(gamma=gamma, hard_weight=hard_weight)
    return in_chunks(
        lambda chunk, targets: {"target_probability": take_target(chunk.softmax(dim=1), targets)},
        teacher_logits,
        labels,
    )

"""TTM and WTTM: the student without a temperature matches the teacher's probabilities after a power transform.

The power transform with exponent 1 / tau divides the teacher's logits by tau. Compared with plain distillation, the
student's own temperature is missing, which adds a Renyi entropy to the loss.

Source: Zheng and Yang, ICLR 2024, arXiv 2402.11148, and the public code zkxufo/TTM. Paper and code agree.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from autodistill.methods.loss import Loss, add_terms, check_weights, in_chunks
from autodistill.methods.temperature_scaling import check_positive


def ttm(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    prepared: Mapping[str, Tensor],
    ramp: Float[Tensor, ""] | None,
    *,
    tau: float = 10.0,
    beta: float = 45.0,
    hard_weight: float = 1.0,
) -> Loss:
    """Compute hard_weight CE(y, f) + ramp beta KL(p || q).

    p is the softmax of the teacher's logits / tau and q the softmax of the student's logits. There is no factor tau^2.
    Sum over the classes, mean over the batch, in nats.

    Args:
        student_logits: f, of any float type.
        teacher_logits: Logits of any float type.
        labels: Class indices.
        prepared: Rows of `prepare_ttm` for these samples, with the same parameters.
        ramp: Factor of the soft term; None: 1 (code).
        tau: Temperature of the teacher. The code's parameter is the exponent 1 / tau; its example for VGG13 and VGG8
            on CIFAR-100 is 0.1, so tau 10. The authors choose it for each pair.
        beta: Weight of the divergence. 45 in the same example; the authors choose it for each pair.
        hard_weight: Weight of the cross-entropy. 1 (code).

    Raises:
        ValueError: `tau` is not positive and finite, or a weight is negative or not finite.
    """
    _check(tau=tau, beta=beta, hard_weight=hard_weight)
    hard, each = _divergences(student_logits, teacher_logits, labels, prepared, tau)
    return add_terms(hard, beta * each.mean(), ramp, hard_weight=hard_weight)


def wttm(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    prepared: Mapping[str, Tensor],
    ramp: Float[Tensor, ""] | None,
    *,
    tau: float = 5.0,
    beta: float = 4.0,
    hard_weight: float = 1.0,
) -> Loss:
    """Compute hard_weight CE(y, f) + ramp beta U KL(p || q).

    The divergence is that of `ttm`. U is the sum over the classes of the teacher's probabilities, without a
    temperature, to the power 1 / tau: for tau above 1 it lies between 1 (a sure teacher) and C^(1 - 1 / tau) (equal
    probabilities of C classes). The weights of a batch are not normalised. Sum over the classes, mean over the batch,
    in nats.

    Args:
        student_logits: f, of any float type.
        teacher_logits: Logits of any float type.
        labels: Class indices.
        prepared: Rows of `prepare_wttm` for these samples, with the same parameters.
        ramp: Factor of the soft term; None: 1 (code).
        tau: Temperature of the teacher. The code's example for VGG13 and VGG8 on CIFAR-100, together with a feature
            loss, has exponent 0.2, so tau 5. The authors choose it for each pair.
        beta: Weight of the divergence. 4 in the same example; the authors choose it for each pair.
        hard_weight: Weight of the cross-entropy. 1 (code).

    Raises:
        ValueError: `tau` is not positive and finite, or a weight is negative or not finite.
    """
    _check(tau=tau, beta=beta, hard_weight=hard_weight)
    hard, each = _divergences(student_logits, teacher_logits, labels, prepared, tau)
    return add_terms(hard, beta * (prepared["power_sum"] * each).mean(), ramp, hard_weight=hard_weight)


def prepare_ttm(
    teacher_logits: Float[Tensor, "examples classes"],
    labels: Int[Tensor, " examples"],
    *,
    tau: float = 10.0,
    beta: float = 45.0,
    hard_weight: float = 1.0,
) -> dict[str, Tensor]:
    """Compute `entropy`, the entropy of each example's p in nats, in float32. Parameters and errors as in `ttm`."""
    _check(tau=tau, beta=beta, hard_weight=hard_weight)
    return in_chunks(lambda chunk, targets: {"entropy": _entropy(chunk / tau)}, teacher_logits, labels)


def prepare_wttm(
    teacher_logits: Float[Tensor, "examples classes"],
    labels: Int[Tensor, " examples"],
    *,
    tau: float = 5.0,
    beta: float = 4.0,
    hard_weight: float = 1.0,
) -> dict[str, Tensor]:
    """Compute `entropy` as `prepare_ttm` does, and `power_sum`, the weight U. Parameters and errors as in `wttm`."""
    _check(tau=tau, beta=beta, hard_weight=hard_weight)

    def compute(chunk: Tensor, targets: Tensor) -> dict[str, Tensor]:
        log_powers = chunk.log_softmax(dim=1) / tau
        return {"entropy": _entropy(log_powers), "power_sum": log_powers.exp().sum(dim=1)}

    return in_chunks(compute, teacher_logits, labels)


def _divergences(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, prepared: Mapping[str, Tensor], tau: float
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy with the labels, and KL(p || q) of each sample."""
    log_probs = student_logits.float().log_softmax(dim=1)
    targets = (teacher_logits.float() / tau).softmax(dim=1)
    divergences = -(targets * log_probs).sum(dim=1) - prepared["entropy"]
    return F.nll_loss(log_probs, labels.long()), divergences


def _entropy(logits: Tensor) -> Tensor:
    """Return the entropy of softmax(logits) of each example, in nats."""
    log_probs = logits.log_softmax(dim=1)
    return -(log_probs.exp() * log_probs).sum(dim=1)


def _check(*, tau: float, beta: float, hard_weight: float) -> None:
    check_positive(tau=tau)
    check_weights(beta=beta, hard_weight=hard_weight)

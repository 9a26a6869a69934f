"""Distillation methods: how the logits of a teacher become the soft targets and the loss of a student.

A method is an entry in `METHODS` with a pure function of `(logits, labels, *, ...)` that returns `Temperatures`.
`tau_target` and `tau_other` are the temperatures of the target class and of the other classes. `anchor` names the
value that is subtracted from a sample's logits first: ATS and ISATS, unlike TS, change when a constant is added to all
logits.

The meaning of a loss weight depends on the reduction. Here every cross-entropy is summed over classes and averaged
over the batch. All losses are computed in float32, whatever the type of the inputs and inside autocast too.

Sources: TS, Hinton et al. 2015; ATS, Li et al., NeurIPS 2022; ISATS, Fan, Li and Zhan, Front. Comput. Sci. 2026,
10.1007/s11704-025-41434-w (arXiv 2405.13078).
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from autodistill.methods.instance_specific import isats, isats_fit, literal_as_none
from autodistill.methods.temperature_scaling import (
    ANCHORS,
    Targets,
    Temperatures,
    ats,
    soften,
    targets_of,
    ts,
)
from autodistill.metrics import on_top
from autodistill.records import TargetSummary

__all__ = [
    "ANCHORS",
    "METHODS",
    "Loss",
    "Method",
    "Targets",
    "Temperatures",
    "distillation_loss",
    "hard_loss",
    "soften",
    "summarise",
]


class Method(NamedTuple):
    """A distillation method."""

    temperatures: Callable[..., Temperatures]
    """`temperatures(logits, labels, **params)`: temperatures from which `soften` computes the soft targets."""
    fit: Callable[..., dict[str, float]] | None = None
    """`fit(logits, labels, **params)`: further parameters, computed once from the teacher's logits on view 0."""
    min_classes: int = 2
    """Smallest number of classes for which the method is defined."""
    tau_student_from: str | None = None
    """Parameter whose value `tau_student` takes unless the space sets it; None: `tau_student` is 1."""

    @property
    def params(self) -> tuple[str, ...]:
        """Names of the method's parameters, which a search space may set."""
        parameters = inspect.signature(self.temperatures).parameters.values()
        return tuple(it.name for it in parameters if it.kind is it.KEYWORD_ONLY)

    def targets(self, logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], **params: Any) -> Targets:
        """Compute soft targets with diagnostics.

        Raises:
            ValueError: The method refuses the parameters.
        """
        return targets_of(logits, labels, self.temperatures(logits, labels, **params))


METHODS: dict[str, Method] = {
    "ts": Method(ts, tau_student_from="tau"),
    "ats": Method(ats),
    "isats": Method(isats, isats_fit, min_classes=3),
}


def summarise(
    targets: Targets,
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    tau_wrong: float | str | None,
) -> TargetSummary:
    """Summarise the temperatures of a method: medians over the samples, shares in [0, 1].

    `targets` are computed from `teacher_logits` and `labels`. `tau_wrong` is the value of the method's parameter of
    this name; None for a method without this parameter.
    """
    right = on_top(teacher_logits, labels)
    return TargetSummary(
        tau_target=float(targets.tau_target.quantile(0.5)),
        tau_other=float(targets.tau_other.quantile(0.5)),
        tau_wrong=literal_as_none(tau_wrong),
        teacher_right=float(right.double().mean()),
        at_lower=_share(targets.at_lower, right),
        at_upper=_share(targets.at_upper, right),
        displaced=float(targets.displaced.double().mean()),
    )


def _share(flags: Tensor | None, among: Tensor) -> float:
    """Return the share of the samples in `among` that are flagged; 0 where `among` selects none."""
    return 0.0 if flags is None or not among.any() else float(flags[among].double().mean())


class Loss(NamedTuple):
    """Loss of a batch and its terms: float32 scalars on the device of the logits."""

    total: Float[Tensor, ""]
    hard: Float[Tensor, ""]
    soft: Float[Tensor, ""]
    """Soft term, multiplied by tau_student^2 but not by its weight; 0 without a teacher."""


def hard_loss(student_logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Loss:
    """Compute the cross-entropy with the labels, the loss without a teacher. Mean over the batch, in nats."""
    hard = F.cross_entropy(student_logits.float(), labels.long())
    return Loss(hard, hard, torch.zeros_like(hard))


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
    return Loss((1 - soft_weight) * hard + soft_weight * soft, hard, soft)

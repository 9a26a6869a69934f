"""Distillation methods: how the logits of a teacher become the soft targets of a student.

A method is an entry in `METHODS` with two pure functions of `(logits, labels, *, ...)`: one returns `Temperatures`,
the other `Targets` computed with these temperatures. `tau_target` and `tau_other` are the temperatures of the target
class and of the other classes. `anchor` names the value that is subtracted from a sample's logits first: ATS and
ISATS, unlike TS, change when a constant is added to all logits.

Sources: TS, Hinton et al. 2015; ATS, Li et al., NeurIPS 2022; ISATS, Fan, Li and Zhan, Front. Comput. Sci. 2026,
10.1007/s11704-025-41434-w (arXiv 2405.13078).
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from autodistill.methods.instance_specific import (
    fit_tau_wrong,
    isats,
    isats_fit,
    isats_tau_other,
    isats_tau_target,
    isats_temperatures,
    literal_as_none,
)
from autodistill.methods.temperature_scaling import (
    ANCHORS,
    Targets,
    Temperatures,
    asymmetric_softmax,
    ats,
    ats_temperatures,
    soften,
    ts,
    ts_temperatures,
)
from autodistill.metrics import on_top
from autodistill.records import TargetSummary

__all__ = [
    "ANCHORS",
    "METHODS",
    "Method",
    "Targets",
    "Temperatures",
    "asymmetric_softmax",
    "ats",
    "fit_tau_wrong",
    "isats",
    "isats_tau_other",
    "isats_tau_target",
    "soften",
    "summarise",
    "ts",
]


class Method(NamedTuple):
    """A distillation method."""

    targets: Callable[..., Targets]
    """`targets(logits, labels, **params)`: soft targets with diagnostics."""
    temperatures: Callable[..., Temperatures]
    """`temperatures(logits, labels, **params)`: temperatures from which `soften` computes the same soft targets."""
    fit: Callable[..., dict[str, float]] | None
    """`fit(logits, labels, **params)`: further parameters, computed once from the teacher's logits on view 0."""
    params: tuple[str, ...]
    """Names of the method's parameters, which a search space may set."""
    min_classes: int
    """Smallest number of classes for which the method is defined."""
    tau_student_from: str | None
    """Parameter whose value `tau_student` takes unless the space sets it; None: `tau_student` is 1."""


METHODS: dict[str, Method] = {
    "ts": Method(ts, ts_temperatures, None, ("tau",), min_classes=2, tau_student_from="tau"),
    "ats": Method(
        ats, ats_temperatures, None, ("tau_target", "tau_other", "anchor"), min_classes=2, tau_student_from=None
    ),
    "isats": Method(
        isats,
        isats_temperatures,
        isats_fit,
        ("target_ratio", "tau_target", "tau_min", "tau_max", "anchor", "tau_wrong"),
        min_classes=3,
        tau_student_from=None,
    ),
}


def summarise(
    targets: Targets,
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    tau_wrong: float | str | None,
) -> TargetSummary:
    """Summarise the temperatures of a method: medians over the samples, shares in [0, 1].

    Args:
        targets: Soft targets of all training samples on view 0.
        teacher_logits: The logits from which `targets` were computed.
        labels: Class indices.
        tau_wrong: The value of the method's parameter `tau_wrong`; None for a method without this parameter.
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

"""Soft-target rules: from a teacher's logits to the probabilities that a student is trained on.

Every rule is a line in `RULES` and two pure functions of `(logits, labels, *, ...)`: one gives `Temperatures`, the
other `Targets` made with them. `tau_target` and `tau_other` are the temperatures of the target class and of the other
classes; `anchor` names what is subtracted from a sample's logits first, because ATS and ISATS, unlike TS, change when
a constant is added to all logits.

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
from autodistill.methods.softmax import (
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
    "RULES",
    "Rule",
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


class Rule(NamedTuple):
    """A rule as a study sees it."""

    targets: Callable[..., Targets]
    """`targets(logits, labels, **params)`: soft targets with what is to be said of them."""
    temperatures: Callable[..., Temperatures]
    """Of the same arguments: what `soften` makes the same soft targets of."""
    fit: Callable[..., dict[str, float]] | None
    """`fit(logits, labels, **params)`: further parameters, from the teacher's logits on the training split."""
    params: tuple[str, ...]
    """The rule's own parameters, which a space may set."""
    min_classes: int
    tau_student_from: str | None
    """The parameter that tau_student follows unless a space names it; None: tau_student is 1."""


RULES: dict[str, Rule] = {
    "ts": Rule(ts, ts_temperatures, None, ("tau",), min_classes=2, tau_student_from="tau"),
    "ats": Rule(
        ats, ats_temperatures, None, ("tau_target", "tau_other", "anchor"), min_classes=2, tau_student_from=None
    ),
    "isats": Rule(
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
    """Where a rule put its temperatures: medians over the samples, shares in [0, 1].

    Args:
        targets: the rule's, on all training samples of view 0.
        teacher_logits: what they were made from.
        labels: class indices.
        tau_wrong: the rule's parameter of that name, None if it has none.
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
    """Share of the samples in `among` that are flagged; 0 where there are none."""
    return 0.0 if flags is None or not among.any() else float(flags[among].double().mean())

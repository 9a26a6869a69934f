"""The teacher's part of a training run: logits per view, and what the method computes from them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from autodistill.methods import RAMP_EPOCHS, Loss, Method, Targets, keyword_settings, method_named, summarise
from autodistill.records import TargetSummary, TrialParams

NUMBERS_AT_ONCE = 2**22
"""Logits per chunk when the soft targets of a whole view are summarised."""


class TeacherView(NamedTuple):
    """What a teacher says about one view, for all examples or for those of a batch."""

    logits: Float[Tensor, "examples classes"]
    prepared: Mapping[str, Tensor]
    """Tensors with a row per example, which the method computed once for the view."""

    @property
    def tensors(self) -> list[Tensor]:
        return [self.logits, *self.prepared.values()]

    def rows(self, batch: Integer[Tensor, " batch"]) -> "TeacherView":
        """Return the rows of some examples, given their indices."""
        return TeacherView(self.logits[batch], {name: values[batch] for name, values in self.prepared.items()})


class Supervision(NamedTuple):
    """What a training run needs of its teacher."""

    logits: Callable[[int], Float[Tensor, "examples classes"]]
    """Function of a view number that returns the teacher's logits on this view of the training split."""
    params: TrialParams
    """Method, method parameters and loss weights; the method is not None."""
    fitted: dict[str, float]
    """Further method parameters, computed from the teacher's logits on view 0."""

    @property
    def method(self) -> Method:
        return method_named(str(self.params.method))

    @property
    def settings(self) -> dict[str, Any]:
        """All settings of the method by name."""
        params = self.params
        common = {"soft_weight": params.soft_weight, "tau_student": params.tau_student}
        own = {name: value for name, value in common.items() if name in self.method.accepted}
        return {**own, **params.method_params, **self.fitted}

    def view(self, number: int, labels: Int[Tensor, " examples"]) -> TeacherView:
        """Load the logits of a view and prepare what the loss needs, on the device of `labels`."""
        # On a GPU always a copy: later views are written over it.
        logits = self.logits(number).to(labels.device, copy=labels.is_cuda)
        return TeacherView(logits, self.method.prepared(logits, labels, self.settings))

    def ramp(self, epoch: int, *, epochs: int) -> float | None:
        """Return the factor of the soft term's weight in an epoch, from 1; None where the weight is constant.

        `epochs` is the length of the schedule.
        """
        length = float(self.params.method_params.get(RAMP_EPOCHS, self.method.ramp * epochs))
        return min(1.0, epoch / length) if length else None

    @property
    def loss(self) -> Callable[..., Loss]:
        """The loss of the method with its settings: `loss(student_logits, teacher_logits, labels, prepared, ramp)`."""
        loss = self.method.loss
        return partial(loss, **keyword_settings(loss, self.settings))

    def summary(self, labels: Int[Tensor, " examples"]) -> TargetSummary | None:
        """Summarise the temperatures on view 0; None for a method without temperatures."""
        method = self.method
        if method.temperatures is None:
            return None
        logits, settings = self.logits(0).to(labels.device), keyword_settings(method.temperatures, self.settings)
        rows = max(1, NUMBERS_AT_ONCE // logits.shape[1])
        parts = [
            method.targets(z, y, **settings)._replace(probs=logits[:0].float())
            for z, y in zip(logits.split(rows), labels.split(rows), strict=True)
        ]
        fields = (torch.cat(it) if isinstance(it[0], Tensor) else None for it in zip(*parts, strict=True))
        targets = Targets(*fields)  # type: ignore[arg-type]
        return summarise(targets, logits, labels, tau_wrong=settings.get("tau_wrong"))


def supervise(
    params: TrialParams,
    *,
    logits: Callable[[int], Float[Tensor, "examples classes"]],
    labels: Int[Tensor, " examples"],
) -> Supervision:
    """Build the supervision of a run and fit the method's remaining parameters on view 0 (ISATS: tau_wrong).

    `labels` are the class indices of the training split; the other arguments are those of `Supervision`.
    """
    given = Supervision(logits, params, {})
    fit = given.method.fit
    if fit is None:
        return given
    first = logits(0)
    settings = {name: given.settings[name] for name in given.method.params if name in given.settings}
    return given._replace(fitted=fit(first, labels.to(first.device), **settings))

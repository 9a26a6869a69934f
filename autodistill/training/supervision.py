"""The teacher's part of a training run: logits per view, and the soft targets computed from them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from autodistill.methods import METHODS, Method, Targets, Temperatures, soften, summarise
from autodistill.records import ParamValue, TargetSummary, TrialParams

NUMBERS_AT_ONCE = 2**22
"""Logits per chunk when the soft targets of a whole view are summarised."""


class SoftTargets(NamedTuple):
    """The soft targets of one view, stored as logits and temperatures and computed batch by batch.

    The probabilities of a whole view would take twice the memory of its logits, which on a CPU are pages of a file
    that all workers share.
    """

    logits: Float[Tensor, "examples classes"]
    temperatures: Temperatures

    @property
    def tensors(self) -> list[Tensor]:
        return [self.logits, self.temperatures.target, self.temperatures.other]

    def probs(self, batch: Integer[Tensor, " batch"], labels: Int[Tensor, " batch"]) -> Float[Tensor, "batch classes"]:
        """Compute the soft targets of some examples from their indices and labels."""
        given = self.temperatures
        given = given._replace(target=given.target[batch], other=given.other[batch])
        return soften(self.logits[batch], labels, given)


class Supervision(NamedTuple):
    """What a training run needs of its teacher."""

    logits: Callable[[int], Float[Tensor, "examples classes"]]
    """Function of a view number that returns the teacher's logits on this view of the training split."""
    params: TrialParams
    """Method, method parameters and loss weights; the method is not None."""
    fitted: dict[str, float]
    """Further method parameters, computed from the teacher's logits on view 0."""

    @property
    def _method(self) -> Method:
        return METHODS[str(self.params.method)]

    @property
    def _method_params(self) -> dict[str, ParamValue]:
        return {**self.params.method_params, **self.fitted}

    def soft_targets(self, view: int, labels: Int[Tensor, " examples"]) -> SoftTargets:
        """Load the logits of a view and compute its temperatures, on the device of `labels`."""
        # On a GPU always a copy: later views are written over it.
        logits = self.logits(view).to(labels.device, copy=labels.is_cuda)
        return SoftTargets(logits, self._method.temperatures(logits, labels, **self._method_params))

    def summary(self, labels: Int[Tensor, " examples"]) -> TargetSummary:
        """Summarise the temperatures on view 0."""
        logits = self.logits(0).to(labels.device)
        rows = max(1, NUMBERS_AT_ONCE // logits.shape[1])
        parts = [
            self._method.targets(z, y, **self._method_params)._replace(probs=logits[:0].float())
            for z, y in zip(logits.split(rows), labels.split(rows), strict=True)
        ]
        fields = (torch.cat(it) if isinstance(it[0], Tensor) else None for it in zip(*parts, strict=True))
        targets = Targets(*fields)  # type: ignore[arg-type]
        return summarise(targets, logits, labels, tau_wrong=self._method_params.get("tau_wrong"))


def supervise(
    params: TrialParams,
    *,
    logits: Callable[[int], Float[Tensor, "examples classes"]],
    labels: Int[Tensor, " examples"],
) -> Supervision:
    """Build the supervision of a run and fit the method's remaining parameters on view 0 (ISATS: tau_wrong).

    `labels` are the class indices of the training split; the other arguments are those of `Supervision`.
    """
    fit, fitted = METHODS[str(params.method)].fit, {}
    if fit:
        first = logits(0)
        fitted = fit(first, labels.to(first.device), **params.method_params)
    return Supervision(logits, params, fitted)

"""What a teacher gives to a run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from autodistill.methods import RULES, Rule, Targets, Temperatures, soften, summarise
from autodistill.records import TargetSummary, TrialParams

NUMBERS_AT_ONCE = 2**22
"""Logits that a summary's soft targets are made of at a time."""


class Taught(NamedTuple):
    """What the soft targets of a view are made of."""

    logits: Float[Tensor, "examples classes"]
    temperatures: Temperatures

    @property
    def tensors(self) -> list[Tensor]:
        return [self.logits, self.temperatures.target, self.temperatures.other]

    def targets(
        self, batch: Integer[Tensor, " batch"], labels: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch classes"]:
        """Soft targets of some examples, given their labels."""
        target, other, anchor = self.temperatures
        return soften(self.logits[batch], labels, Temperatures(target[batch], other[batch], anchor))


class Supervision(NamedTuple):
    """What a teacher gives to a run: its logits per view and what is made of them."""

    logits: Callable[[int], Float[Tensor, "examples classes"]]
    """View number to the teacher's raw logits on the training split."""
    params: TrialParams
    extra: dict[str, float]
    """Rule parameters taken from the teacher's logits on view 0."""
    loss: str

    @property
    def _rule_params(self) -> dict[str, Any]:
        return {**self.params.rule_params, **self.extra}

    @property
    def _rule(self) -> Rule:
        assert self.params.rule is not None
        return RULES[self.params.rule]

    def taught(self, number: int, labels: Int[Tensor, " examples"]) -> Taught:
        """What the soft targets of a view are made of: temperatures once per epoch, the targets per batch.

        The targets of a whole view would take twice the memory of its logits, which on a CPU are a file's pages that
        all workers share.
        """
        # A copy on a GPU, also of what lies there already: later views take its place.
        logits = self.logits(number).to(labels.device, copy=labels.is_cuda)
        return Taught(logits, self._rule.temperatures(logits, labels, **self._rule_params))

    def summary(self, labels: Int[Tensor, " examples"]) -> TargetSummary:
        """Where the rule puts its temperatures on view 0."""
        logits = self.logits(0).to(labels.device)
        rows = max(1, NUMBERS_AT_ONCE // logits.shape[1])
        parts = [
            self._rule.targets(*part, **self._rule_params)._replace(probs=logits[:0].float())
            for part in zip(logits.split(rows), labels.split(rows), strict=True)
        ]
        fields = (torch.cat(it) if isinstance(it[0], Tensor) else None for it in zip(*parts, strict=True))
        found = Targets(*fields)  # type: ignore[arg-type]
        return summarise(found, logits, labels, tau_wrong=self._rule_params.get("tau_wrong"))


def supervise(
    params: TrialParams,
    *,
    logits: Callable[[int], Float[Tensor, "examples classes"]],
    labels: Int[Tensor, " examples"],
    loss: str,
) -> Supervision:
    """Take from the teacher's logits on view 0 what the rule needs once (ISATS: tau_wrong)."""
    assert params.rule is not None
    fit, extra = RULES[params.rule].fit, {}
    if fit:
        first = logits(0)
        extra = fit(first, labels.to(first.device), **params.rule_params)
    return Supervision(logits, params, extra, loss)

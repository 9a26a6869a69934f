"""What a teacher gives to a run."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from autodistill.records import TargetSummary, TrialParams
from autodistill.rules import RULES, Targets, summarise


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

    def targets(self, number: int, labels: Int[Tensor, " examples"]) -> Targets:
        """Soft targets of a whole view: computed once per epoch, then looked up per batch."""
        assert self.params.rule is not None
        rule = RULES[self.params.rule]
        logits = self.logits(number).to(labels.device)
        return rule.targets(logits, labels, **self._rule_params)

    def summary(self, labels: Int[Tensor, " examples"]) -> TargetSummary:
        """Where the rule puts its temperatures on view 0."""
        logits = self.logits(0).to(labels.device)
        return summarise(self.targets(0, labels), logits, labels, tau_wrong=self._rule_params.get("tau_wrong"))


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

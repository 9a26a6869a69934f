"""Optimisers by name, with a smaller learning rate for what a student got from pretrained weights."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from autodistill.config import TrainingSpec
from autodistill.models.students import Wrapped

RATE = "rate_factor"
"""Key of a parameter group: its learning rate relative to that of the schedule."""


def optimiser_of(model: nn.Module, spec: TrainingSpec) -> Optimizer:
    """Return the optimiser of a run, with the parameters of the pretrained body in a group of their own."""
    trained = {name: it for name, it in model.named_parameters() if it.requires_grad}
    body = set[str]()
    if isinstance(model, Wrapped) and model.pretrained:
        body = trained.keys() - model.fresh
    groups = [
        {"params": [trained[name] for name in trained if (name in body) == is_body], RATE: factor}
        for is_body, factor in ((False, 1.0), (True, spec.body_lr_factor))
    ]
    return OPTIMISERS[spec.optimizer]([group for group in groups if group["params"]], spec)


def _sgd(groups: Sequence[dict[str, Any]], spec: TrainingSpec) -> Optimizer:
    momentum = spec.momentum
    return SGD(groups, lr=spec.lr, momentum=momentum, weight_decay=spec.weight_decay, nesterov=momentum > 0, fused=True)


def _adamw(groups: Sequence[dict[str, Any]], spec: TrainingSpec) -> Optimizer:
    on_gpu = groups[0]["params"][0].is_cuda
    return AdamW(
        groups,
        lr=spec.lr,
        betas=(spec.momentum, 0.999),
        weight_decay=spec.weight_decay,
        fused=True,
        capturable=on_gpu,  # in a CUDA graph
    )


OPTIMISERS: dict[str, Callable[[Sequence[dict[str, Any]], TrainingSpec], Optimizer]] = {"sgd": _sgd, "adamw": _adamw}

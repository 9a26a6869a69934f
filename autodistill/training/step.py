"""A training step without arguments: what it reads and writes lies in tensors that stay where they are.

So the same function runs eagerly, compiled, and recorded in a CUDA graph. Nothing in it waits for the device.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Int32, Integer
from torch import Tensor

from autodistill.data import Data, normalise
from autodistill.data.views import draw, take_drawn
from autodistill.methods.losses import LOSSES, hard_loss
from autodistill.store import seed_from
from autodistill.training.checkpoints import Recipe, State
from autodistill.training.convolutions import backward_pass, cpu_network
from autodistill.training.precision import Precision, autocast
from autodistill.training.supervision import Supervision, Taught


@dataclass
class Inputs:
    """What the steps of one epoch read, in the narrowest types that hold it: it lasts as long as the run."""

    order: Int32[Tensor, "steps batch"]
    """Examples of every batch."""
    rates: Float[Tensor, " steps"]
    """Learning rates."""
    draws: Integer[Tensor, "examples 3"]
    """Of the epoch's view."""
    taught: Taught | None
    """None without a teacher."""

    def tensors(self) -> list[Tensor]:
        return [self.order, self.rates, self.draws, *(self.taught.tensors if self.taught else ())]


class Step:
    """One step of a run. `begin` an epoch, then call it as often as `inputs.order` has rows."""

    def __init__(self, state: State, data: Data, recipe: Recipe, supervision: Supervision | None) -> None:
        self.data, self.recipe, self.supervision = data, recipe, supervision
        self.model, self.optimiser = state.model, state.optimiser
        self.network = cpu_network(state.model)
        self._backward_pass = backward_pass(self.network)
        self.forward: Callable[[Tensor], Tensor] = self.network
        live = dict(state.model.state_dict(keep_vars=True))
        self._current, self._average = [live[key].detach() for key in state.average], list(state.average.values())
        self.device = data.train.labels.device
        self._place = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.sums = torch.zeros(3, device=self.device)
        """Total, hard and soft loss, added up over the epoch's steps so far."""
        self._rate = torch.zeros((), dtype=rate_type(self.device), device=self.device)
        state.optimiser.param_groups[0]["lr"] = self._rate
        self._inputs: Inputs | None = None

    def begin(self, inputs: Inputs) -> None:
        """Start an epoch: on a GPU, whose recordings know addresses, in the tensors that the step already reads."""
        if self._inputs is None or self.device.type == "cpu":
            self._inputs = inputs
        else:
            for kept, fresh in zip(self._inputs.tensors(), inputs.tensors(), strict=True):
                kept.copy_(fresh)
        self._keep = 1 - math.exp(-1 / (self.recipe.spec.averaging * len(inputs.order)))
        self._place.zero_()
        self.sums.zero_()

    def __call__(self) -> None:
        """Forward pass, loss, backward pass, optimiser and weight average of one batch."""
        assert self._inputs is not None
        batch = self._inputs.order.index_select(0, self._place)[0]
        self._rate.copy_(self._inputs.rates.index_select(0, self._place)[0])
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._backward(batch, self._inputs)
        self.optimiser.step()
        torch._foreach_lerp_(self._average, self._current, self._keep)
        self.sums += loss
        self._place += 1

    def _backward(self, batch: Tensor, inputs: Inputs) -> Tensor:
        """Losses of a batch; its gradient is left in the parameters, added up over the micro-batches."""
        parts = batch.chunk(self.recipe.micro_batches)
        if len(parts) == 1:
            loss = self._losses(batch, inputs)
            with self._backward_pass:
                loss[0].backward()
            return loss.detach()
        total = torch.zeros_like(self.sums)
        for part in parts:
            loss = self._losses(part, inputs) * (len(part) / len(batch))
            with self._backward_pass:
                loss[0].backward()
            total += loss.detach()
        return total

    def _losses(self, batch: Tensor, inputs: Inputs) -> Tensor:
        images, labels = self.data.train
        seen = take_drawn(images, batch, inputs.draws[batch], crop=self.recipe.view.crop)
        logits = predict(self.forward, seen, self.data, self.recipe.spec.precision)
        labels = labels[batch]
        probs = inputs.taught.targets(batch, labels) if inputs.taught else None
        return losses(logits, labels, probs, self.supervision)


def rate_type(device: torch.device) -> torch.dtype:
    """The fused optimiser reads a rate in float64 on a CPU, in float32 on a GPU."""
    return torch.float64 if device.type == "cpu" else torch.float32


def predict(model: Callable[[Tensor], Tensor], images: Tensor, data: Data, precision: Precision) -> Tensor:
    """Logits in float32 of images as they are."""
    inputs = normalise(images, mean=data.mean, std=data.std).contiguous(memory_format=torch.channels_last)
    with autocast(inputs.device, precision):
        return model(inputs).float()


def losses(logits: Tensor, labels: Tensor, probs: Tensor | None, supervision: Supervision | None) -> Tensor:
    """Total, hard and soft loss as one tensor of three."""
    if supervision is None or probs is None:
        loss = hard_loss(logits, labels)
    else:
        params = supervision.params
        weights = {"soft_weight": params.soft_weight, "tau_student": params.tau_student}
        loss = LOSSES[supervision.loss](logits, labels, probs, **weights)
    soft = loss.soft if loss.soft is not None else torch.zeros_like(loss.hard)
    return torch.stack([loss.total, loss.hard, soft])


def inputs_of(data: Data, recipe: Recipe, number: int, taught: Taught | None) -> Inputs:
    """What the steps of epoch `number`, from 0, read."""
    labels = data.train.labels
    order = batches(len(labels), recipe.spec.batch_size, seed_from(recipe.seed, number, 1))
    steps, spec = len(order), recipe.spec
    rates = [
        learning_rate(step, recipe.epochs * steps, peak=spec.lr, warmup=spec.warmup)
        for step in range(number * steps, (number + 1) * steps)
    ]
    draws = draw(torch.arange(len(labels), device=labels.device), view=recipe.view, epoch=number % recipe.views)
    return Inputs(
        order=order.to(labels.device, torch.int32),
        rates=torch.tensor(rates, dtype=torch.float64).to(labels.device, rate_type(labels.device)),
        draws=draws.to(torch.uint8 if 2 * recipe.view.crop < 256 else torch.int32),
        taught=taught,
    )


def batches(examples: int, size: int, seed: int) -> Int[Tensor, "steps batch"]:
    """Whole batches in random order; what is left over waits for another epoch's order."""
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(seed))
    size = min(size, examples)
    return order[: examples - examples % size].view(-1, size)


def learning_rate(step: int, steps: int, *, peak: float, warmup: float) -> float:
    """Rate of a step: linear from near zero over the first `warmup` of the steps, then a half cosine to zero."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

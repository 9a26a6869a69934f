"""Several students of one architecture as one network: grouped convolutions, wide batch norms, batched linears.

Student k owns channels [k C, (k + 1) C) of every map, so that nothing of one reaches another. Each has its own
initialisation, batch order, soft targets, soft weight, student temperature and learning rate; all are in the same
epoch of the same view. This is the third way that `gpu_many.py` measures to share a GPU; the package takes it only
where it is more than 1.5 times as fast as the others.
"""

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from autodistill.data import Data, normalise
from autodistill.data.views import take_drawn
from autodistill.methods import Temperatures, soften
from autodistill.training import Recipe, Supervision, TeacherView
from autodistill.training.convolutions import cpu_network
from autodistill.training.step import Step, autocast, inputs_of


class Linears(nn.Module):
    """A linear layer for each student: (batch, students x features) to (batch, students x outputs)."""

    def __init__(self, parts: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([part.weight.detach() for part in parts]))
        self.bias = nn.Parameter(torch.stack([part.bias.detach() for part in parts]))

    def forward(self, inputs: Tensor) -> Tensor:
        students = len(self.weight)
        split = inputs.view(len(inputs), students, -1).transpose(0, 1)
        return torch.baddbmm(self.bias[:, None], split, self.weight.transpose(1, 2)).transpose(0, 1).flatten(1)


def fuse(models: Sequence[nn.Module]) -> nn.Module:
    """One network of students' copies. Every parameter and buffer has the students along its first axis.

    Raises:
        ValueError: a layer that is not known to keep students apart.
    """
    fused = copy.deepcopy(models[0])
    for name, module in list(fused.named_modules()):
        parts = [model.get_submodule(name) for model in models]
        if isinstance(module, nn.Conv2d):
            fused.set_submodule(name, _convolution(module, parts))
        elif isinstance(module, nn.BatchNorm2d):
            fused.set_submodule(name, _norm(module, parts))
        elif isinstance(module, nn.Linear):
            fused.set_submodule(name, Linears(parts))
        elif not list(module.children()) and (next(module.parameters(), None) is not None):
            raise ValueError(f"{name}: {type(module).__name__} cannot be fused")
    return fused


def _convolution(one: nn.Conv2d, parts: Sequence[nn.Module]) -> nn.Conv2d:
    count = len(parts)
    wide = nn.Conv2d(
        count * one.in_channels,
        count * one.out_channels,
        one.kernel_size,
        one.stride,
        one.padding,
        one.dilation,
        count * one.groups,
        one.bias is not None,
        device=one.weight.device,
        dtype=one.weight.dtype,
    )
    _fill(wide, parts)
    return wide


def _norm(one: nn.BatchNorm2d, parts: Sequence[nn.Module]) -> nn.BatchNorm2d:
    wide = nn.BatchNorm2d(
        len(parts) * one.num_features, one.eps, one.momentum, device=one.weight.device, dtype=one.weight.dtype
    )
    _fill(wide, parts)
    return wide


def _fill(wide: nn.Module, parts: Sequence[nn.Module]) -> None:
    states = [part.state_dict() for part in parts]
    for name, value in wide.state_dict().items():
        value.copy_(torch.cat([state[name] for state in states]) if value.dim() else states[0][name])


def taken_apart(values: dict[str, Tensor], like: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """A fused network's values by student, in the shapes of one student's; counters are shared."""
    return [
        {
            name: value.reshape(count, -1)[k].view(like[name].shape) if value.dim() else value
            for name, value in values.items()
        }
        for k in range(count)
    ]


def in_memory_order(values: Tensor) -> Tensor:
    """Values of a parameter as they lie in channels_last memory: students first, in any case."""
    return values.permute(0, 2, 3, 1).reshape(-1) if values.dim() == 4 else values.reshape(-1)


def shaped(part: Tensor, like: Tensor) -> Tensor:
    """What `in_memory_order` made flat, as a view."""
    if like.dim() != 4:
        return part.view(like.shape)
    outputs, inputs, height, width = like.shape
    return part.view(outputs, height, width, inputs).permute(0, 3, 1, 2)


def soft_targets(view: TeacherView, labels: Tensor) -> Tensor:
    """The soft targets of a whole view of TS or ISATS."""
    prepared = view.prepared
    return soften(view.logits, labels, Temperatures(prepared["tau_target"], prepared["tau_other"], "other_max"))


class Reads(NamedTuple):
    """What the steps of one epoch read; the second axis of `order` and `rates`, the first of `probs`, are trials."""

    order: Tensor
    rates: Tensor
    draws: Tensor
    probs: Tensor


class Trial(NamedTuple):
    """One of the students that are trained together."""

    model: nn.Module
    recipe: Recipe
    supervision: Supervision


class Fused(Step):
    """A step of all trials at once; recipes differ in seed and learning rate at most."""

    def __init__(self, trials: Sequence[Trial], data: Data) -> None:
        self.trials, self.data, self.device = list(trials), data, data.train.labels.device
        self.recipe = trials[0].recipe
        self.like = {name: value.clone() for name, value in trials[0].model.state_dict().items()}
        self.model = fuse([trial.model for trial in trials]).to(memory_format=torch.channels_last).train()
        self.forward = self.network = cpu_network(self.model)
        self._flatten()
        floats = {name: it for name, it in self.model.state_dict().items() if it.is_floating_point()}
        self.average = {name: value.detach().clone() for name, value in floats.items()}
        self._current, self._average = list(floats.values()), list(self.average.values())
        self._place = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._weights = self._vector([trial.supervision.params.soft_weight for trial in trials])
        self._taus = self._vector([trial.supervision.params.tau_student for trial in trials])
        self.sums = torch.zeros(len(trials), device=self.device)
        self._inputs: Reads | None = None

    def _vector(self, numbers: Sequence[float]) -> Tensor:
        return torch.tensor(numbers, dtype=self._flat.dtype).to(self.device)

    def _flatten(self) -> None:
        """Lay all parameters into one vector: an update is then a few kernels, each student at its own rate."""
        held = list(self.model.parameters())
        self._flat = torch.cat([in_memory_order(it.detach()) for it in held])
        self._momentum = torch.zeros_like(self._flat)
        owners, start, count = [], 0, len(self.trials)
        for it in held:
            part = self._flat[start : start + it.numel()]
            it.data = shaped(part, it)
            owners.append(torch.arange(count, device=self.device).repeat_interleave(it.numel() // count))
            start += it.numel()
        self._owners = torch.cat(owners)

    def begin_epoch(self, number: int) -> int:
        """Load an epoch's inputs; returns its steps."""
        labels, views = self.data.train.labels, self.recipe.views
        found = [
            inputs_of(self.data, it.recipe, number, teacher=it.supervision.view(number % views, labels))
            for it in self.trials
        ]
        probs = torch.stack([soft_targets(it.teacher, labels) for it in found if it.teacher is not None])
        order, rates = torch.stack([it.order for it in found], 1), torch.stack([it.rates for it in found], 1)
        fresh = Reads(order, rates.to(self._flat.dtype), found[0].draws, probs)
        if self._inputs is None:
            self._inputs = fresh
        else:
            for kept, new in zip(self._inputs, fresh, strict=True):
                kept.copy_(new)
        self._keep = 1 - math.exp(-1 / (self.recipe.spec.averaging * len(order)))
        self._place.zero_()
        self.sums.zero_()
        return len(order)

    def __call__(self) -> None:
        assert self._inputs is not None
        inputs, spec = self._inputs, self.recipe.spec
        batch = inputs.order.index_select(0, self._place)[0]
        for parameter in self.model.parameters():
            parameter.grad = None
        losses = self._trial_losses(batch, inputs)
        losses.sum().backward()
        gradient = torch.cat([in_memory_order(it.grad) for it in self.model.parameters() if it.grad is not None])
        gradient.add_(self._flat, alpha=spec.weight_decay)
        self._momentum.mul_(spec.momentum).add_(gradient)
        gradient.add_(self._momentum, alpha=spec.momentum)
        rates = inputs.rates.index_select(0, self._place)[0]
        self._flat.addcmul_(gradient, rates[self._owners], value=-1)
        torch._foreach_lerp_(self._average, self._current, self._keep)
        self.sums += losses.detach()
        self._place += 1

    def _trial_losses(self, batch: Tensor, inputs: Reads) -> Tensor:
        """The loss of every trial on its own batch; `batch` holds trials x images."""
        images, labels = self.data.train
        count, size = batch.shape
        examples = batch.flatten()
        seen = take_drawn(images, examples, inputs.draws[examples], crop=self.recipe.view.crop)
        normalised = normalise(seen, mean=self.data.mean, std=self.data.std)
        side_by_side = normalised.view(count, size, *seen.shape[1:]).transpose(0, 1).flatten(1, 2)
        with autocast(self.device, self.recipe.spec.precision):
            output = self.forward(side_by_side.contiguous(memory_format=torch.channels_last))
        logits = output.float().view(size, count, -1).transpose(0, 1)
        return self._losses_of(logits, labels[batch], batch, inputs)

    def _losses_of(self, logits: Tensor, labels: Tensor, batch: Tensor, inputs: Reads) -> Tensor:
        count, size, classes = logits.shape
        hard = functional.cross_entropy(logits.reshape(-1, classes), labels.flatten().long(), reduction="none")
        rows = torch.arange(count, device=self.device)[:, None]
        log_probs = (logits / self._taus[:, None, None]).log_softmax(2)
        soft = -(inputs.probs[rows, batch] * log_probs).sum(2).mean(1) * self._taus**2
        return (1 - self._weights) * hard.view(count, size).mean(1) + self._weights * soft

    def states(self) -> list[dict[str, Tensor]]:
        """Averaged weights and statistics of every trial."""
        return taken_apart(self.average, self.like, len(self.trials))

    def compact(self, survivors: Sequence[int]) -> "Fused":
        """Some of the trials, in rising order, to go on with where they are: the others give up their place."""
        count, places = len(self.trials), torch.tensor(survivors, device=self.device)
        states = taken_apart(dict(self.model.state_dict()), self.like, count)
        kept = []
        for k in survivors:
            model = copy.deepcopy(self.trials[k].model)
            model.load_state_dict(states[k])
            kept.append(self.trials[k]._replace(model=model))
        left = Fused(kept, self.data)
        left._momentum.copy_(self._momentum[torch.isin(self._owners, places)])
        for name, value in left.average.items():
            value.copy_(self.average[name].reshape(count, -1)[places].view(value.shape))
        return left

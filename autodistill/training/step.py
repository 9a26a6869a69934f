"""A training step: forward pass, loss, backward pass, optimiser and weight average of one batch.

A step takes no arguments. It reads and writes tensors whose addresses do not change, and never waits for the device.
The same step therefore runs eagerly, compiled, and recorded in a CUDA graph. Where recording or compiling fails, the
steps are executed eagerly.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int, Int32, Integer
from torch import Tensor, nn

from autodistill.config import TrainingSpec
from autodistill.data import Data, normalise
from autodistill.data.views import View, draw, take_drawn
from autodistill.methods import hard_loss
from autodistill.records import EpochRecord, Mode
from autodistill.store import seed_from
from autodistill.training.convolutions import backward_pass, cpu_network
from autodistill.training.optimiser import RATE
from autodistill.training.supervision import Supervision, TeacherView

Precision = Literal["auto", "float32", "bfloat16"]

WARM_UP = 3
"""Steps before a recording. In these steps the optimiser creates its buffers, and cuDNN and cuBLAS choose kernels."""


class Recipe(NamedTuple):
    """Optimiser settings, views, length and seed of a run."""

    spec: TrainingSpec
    view: View
    views: int
    """Number of views in the pool that epochs cycle through."""
    epochs: int
    """Length of the schedule, at whose end the learning rate is zero."""
    seed: int
    """Seed of the batch order and of dropout. The caller initialises the network."""
    micro_batches: int = 1
    """Parts of a batch that pass through the network one after the other, with accumulated gradients. More parts need
    less memory, but BatchNorm computes its statistics over one part at a time."""
    rung: int | None = None
    """Epoch after which the network is scored, whatever `spec.evaluate_every` says."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes, in a run without a teacher."""


@dataclass
class State:
    """State of a run, as a checkpoint holds it."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    average: dict[str, Tensor]
    """Averaged copies of the floating-point entries of the model's state."""
    curve: list[EpochRecord] = field(default_factory=list)


@dataclass
class Inputs:
    """Inputs to the steps of one epoch, in narrow types: on a GPU they occupy memory for the whole run."""

    order: Int32[Tensor, "steps batch"]
    """Indices of the examples in each batch."""
    rates: Float[Tensor, " steps"]
    """Learning rates."""
    draws: Integer[Tensor, "examples 3"]
    """Random draws of the view of this epoch."""
    teacher: TeacherView | None
    """None without a teacher."""
    ramp: Float[Tensor, ""] | None
    """Factor of the soft term's weight; None: 1."""

    def tensors(self) -> list[Tensor]:
        ramp = [] if self.ramp is None else [self.ramp]
        return [self.order, self.rates, self.draws, *ramp, *(self.teacher.tensors if self.teacher else ())]


class Step:
    """The training step of a run. Call `begin` for each epoch, then the step once for each row of `inputs.order`."""

    def __init__(self, state: State, data: Data, recipe: Recipe, supervision: Supervision | None) -> None:
        self.data, self.recipe, self.supervision = data, recipe, supervision
        self._loss = supervision.loss if supervision else None
        self.model, self.optimiser = state.model, state.optimiser
        self.network = cpu_network(state.model)
        self._backward_pass = backward_pass(self.network)
        self.forward: Callable[[Tensor], Tensor] = self.network
        live = dict(state.model.state_dict(keep_vars=True))
        self._current, self._average = [live[key].detach() for key in state.average], list(state.average.values())
        self.device = data.train.labels.device
        self._place = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.sums = torch.zeros(3, device=self.device)
        """Sums of total, hard and soft loss over the steps of this epoch so far."""
        self._rates: list[tuple[Tensor, float]] = []
        """Learning rate of each group of parameters, and its factor."""
        for group in state.optimiser.param_groups:
            group["lr"] = torch.zeros((), dtype=rate_type(self.device), device=self.device)
            self._rates.append((group["lr"], group.get(RATE, 1.0)))
        self._inputs: Inputs | None = None

    def begin(self, inputs: Inputs) -> None:
        """Start an epoch. On a GPU copy the inputs to those of the first epoch, whose addresses are recorded."""
        if self._inputs is None or self.device.type == "cpu":
            self._inputs = inputs
        else:
            for kept, fresh in zip(self._inputs.tensors(), inputs.tensors(), strict=True):
                kept.copy_(fresh)
        self._keep = 1 - math.exp(-1 / (self.recipe.spec.averaging * len(inputs.order)))
        self._place.zero_()
        self.sums.zero_()

    def __call__(self) -> None:
        """Train on the next batch of the epoch."""
        assert self._inputs is not None
        batch = self._inputs.order.index_select(0, self._place)[0]
        rate = self._inputs.rates.index_select(0, self._place)[0]
        for own, factor in self._rates:
            own.copy_(rate if factor == 1 else rate * factor)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._backward(batch, self._inputs)
        self.optimiser.step()
        torch._foreach_lerp_(self._average, self._current, self._keep)
        self.sums += loss
        self._place += 1

    def _backward(self, batch: Tensor, inputs: Inputs) -> Tensor:
        """Compute the losses of a batch and accumulate its gradient over the micro-batches in the parameters."""
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
        seen = take_drawn(images, batch, inputs.draws[batch], crop=self.recipe.view.crop, margin=self.data.margin)
        logits = predict(self.forward, seen, self.data, self.recipe.spec.precision)
        labels = labels[batch]
        if self._loss is None or inputs.teacher is None:
            loss = hard_loss(logits, labels, label_smoothing=self.recipe.label_smoothing)
        else:
            rows = inputs.teacher.rows(batch)
            loss = self._loss(logits, rows.logits, labels, rows.prepared, inputs.ramp)
        return torch.stack(tuple(loss))


def rate_type(device: torch.device) -> torch.dtype:
    """Return the type of the learning rate that the fused optimiser reads: float64 on a CPU, float32 on a GPU."""
    return torch.float64 if device.type == "cpu" else torch.float32


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Return the context for a forward pass; `auto` is bfloat16 on CUDA and float32 elsewhere."""
    wanted = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16) if wanted else contextlib.nullcontext()


def predict(model: Callable[[Tensor], Tensor], images: Tensor, data: Data, precision: Precision) -> Tensor:
    """Normalise uint8 images and compute their logits, in float32."""
    inputs = normalise(images, mean=data.mean, std=data.std).contiguous(memory_format=torch.channels_last)
    with autocast(inputs.device, precision):
        return model(inputs).float()


def inputs_of(
    data: Data, recipe: Recipe, number: int, *, teacher: TeacherView | None = None, ramp: float | None = None
) -> Inputs:
    """Return the inputs to the steps of epoch `number`, counted from 0."""
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
        teacher=teacher,
        ramp=None if ramp is None else torch.tensor(ramp, device=labels.device),
    )


def batches(examples: int, size: int, seed: int) -> Int[Tensor, "steps batch"]:
    """Draw whole batches in random order; the examples that do not fill a batch are left out of this epoch."""
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(seed))
    size = min(size, examples)
    return order[: examples - examples % size].view(-1, size)


def learning_rate(step: int, steps: int, *, peak: float, warmup: float) -> float:
    """Return the learning rate of step `step`, from 0, of `steps`: a linear rise to `peak`, a half cosine to zero.

    `warmup` is the share of the steps over which the rate rises, in [0, 1].
    """
    rise = max(1, round(warmup * steps))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


class Execution(NamedTuple):
    """How the steps of a run are executed."""

    mode: Mode = "eager"
    """`graph` records the whole step in a CUDA graph. `compiled` compiles the network, and on a GPU also records."""
    say: Callable[[str], None] = lambda _: None
    """Called with a line of text when the mode does not work and the steps are executed in another way."""


EAGER = Execution()


class StepRunner:
    """Executes the steps of a run. The warm-up steps before a recording are steps of the run too."""

    def __init__(self, step: Step, execution: Execution) -> None:
        self._step, self._say, self._mode = step, execution.say, execution.mode
        self._take: Callable[[], None] = step
        self._on_gpu = step.device.type == "cuda"
        self._side = torch.cuda.Stream(step.device) if self._on_gpu and self._mode != "eager" else None
        self._first = 0 if self._mode == "eager" else WARM_UP if self._on_gpu else 1
        if self._mode == "graph" and not self._on_gpu:
            self._fall_back("no CUDA device")
        if self._mode == "compiled":
            step.forward = torch.compile(step.network, dynamic=False)

    def __call__(self, steps: int) -> None:
        """Execute the next `steps` steps."""
        for _ in range(steps):
            if self._first:
                self._warm_up()
            else:
                self._take()

    def _warm_up(self) -> None:
        self._first -= 1
        try:
            _on_stream(self._step, self._side)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if self._mode != "compiled":
                raise
            # The compiler fails before it computes anything, so this step still has to be executed.
            if self._on_gpu:  # where eager steps take several times as long as recorded steps
                self._say(f"training steps are recorded, not compiled: {_in_a_line(error)}")
                self._mode, self._first, self._step.forward = "graph", WARM_UP - 1, self._step.network
            else:
                self._fall_back(error)
            _on_stream(self._step, self._side)
        if self._on_gpu and self._first == 0 and self._mode != "eager":
            try:
                self._take = _recorded(self._step)
            except RuntimeError as error:  # also out of memory: a recording has a memory pool of its own
                self._step.model.zero_grad(set_to_none=True)
                self._fall_back(error)

    def _fall_back(self, reason: object) -> None:
        self._say(f"training steps are executed eagerly, not by {self._mode}: {_in_a_line(reason)}")
        self._mode, self._first, self._step.forward = "eager", 0, self._step.network


def _in_a_line(reason: object) -> str:
    return next(iter(str(reason).splitlines()), "") or type(reason).__name__


def _on_stream(step: Step, side: "torch.cuda.Stream | None") -> None:
    """Execute a step on a side stream.

    Autograd keeps the stream of its first passes. Passes on the default stream cannot be recorded later.
    """
    if side is None:
        step()
        return
    side.wait_stream(torch.cuda.current_stream(step.device))
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream(step.device).wait_stream(side)


def _recorded(step: Step) -> Callable[[], None]:
    """Record a step without executing it, and return the function that replays it."""
    graph = torch.cuda.CUDAGraph()
    # The gradients must be allocated in the memory pool of the recording: `step` first frees those of the last step.
    with torch.cuda.device(step.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    replay: Callable[[], None] = graph.replay
    return replay

"""The training loop: a student, optionally the logits of a teacher, one record per epoch.

SGD with Nesterov momentum, linear warm-up and cosine decay to zero. An exponential average of the weights is scored.
The host does not synchronise with the device inside an epoch.
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from autodistill import metrics
from autodistill.config import TrainingSpec
from autodistill.data import Data, Split, images_at_once
from autodistill.errors import DivergedError
from autodistill.records import EpochRecord, EvaluateOn
from autodistill.stopwatch import Stopwatch
from autodistill.store import seed_from
from autodistill.training.checkpoints import Recipe, State, key_of, resume, save
from autodistill.training.execution import EAGER, Execution, StepRunner
from autodistill.training.step import Precision, Step, inputs_of, predict
from autodistill.training.supervision import Supervision

GPU_EVALUATION_BATCH = 512
CHECKPOINT_EVERY_S = 5.0
"""Smallest number of seconds between two saves."""


def train(  # noqa: PLR0913
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    *,
    supervision: Supervision | None = None,
    evaluate_on: EvaluateOn = "validation",
    checkpoint: Path | None = None,
    until: int | None = None,
    watch: Stopwatch | None = None,
    execution: Execution = EAGER,
    urgent: Callable[[], bool] = lambda: False,
) -> Iterator[EpochRecord]:
    """Train `model` in place. After the last epoch of the schedule it holds the averaged weights.

    Args:
        model: A freshly initialised network on the device of `data`.
        data: The data, which train, validate and test the network.
        recipe: Optimiser settings, views, length and seed.
        supervision: The teacher's part of the run; None: train on labels alone.
        evaluate_on: The splits on which the last epoch is scored.
        checkpoint: File to save to and resume from, bit-exactly on a CPU; None: do neither. The epochs in the file
            are yielded again. A damaged file, or one of another run, counts as missing.
        until: Stop after this epoch with a checkpoint; the model then holds the weights of that epoch.
        watch: Measures the seconds spent on soft targets and on evaluation.
        execution: How the steps are executed. On a CPU only `compiled` changes results.
        urgent: Returns whether to save at the end of this epoch, however recent the last save is.

    Yields:
        The record of each epoch.

    Raises:
        DivergedError: The training loss, or the loss of the averaged weights on validation, is not finite.
        torch.OutOfMemoryError: A batch does not fit into memory. Try again with more `recipe.micro_batches`.
    """
    state, watch = _begin(model, recipe.spec), watch or Stopwatch()
    key = key_of(state, data, recipe, supervision)
    if checkpoint is not None:
        resume(state, checkpoint, key)
    yield from state.curve
    step = Step(state, data, recipe, supervision)
    runner = StepRunner(step, execution)
    saved, end = time.monotonic(), until or recipe.epochs
    while len(state.curve) < end:
        losses = _train_epoch(step, runner, len(state.curve), watch).tolist()
        with watch.part("evaluation"):
            scores = _scores(state, data, losses, recipe, evaluate_on=evaluate_on)
        total, hard, soft = losses
        soft_loss = {"soft_loss": soft} if supervision else {}
        epoch = len(state.curve) + 1
        state.curve.append(EpochRecord(epoch=epoch, train_loss=total, hard_loss=hard, **soft_loss, **scores))
        last = len(state.curve) == recipe.epochs
        due = epoch == end or urgent() or time.monotonic() - saved >= CHECKPOINT_EVERY_S
        if checkpoint is not None and not last and due:
            save(state, checkpoint, key)
            saved = time.monotonic()
        if last:
            model.load_state_dict(state.average, strict=False)
        yield state.curve[-1]


def evaluate(model: nn.Module, split: Split, data: Data, *, precision: Precision = "auto") -> tuple[float, float]:
    """Compute accuracy and mean negative log-likelihood of a model on a split.

    Args:
        model: The network; it is left in evaluation mode.
        split: Images and labels.
        data: The data of which `split` is a part; its mean and standard deviation normalise the images.
        precision: Number format of the forward passes.
    """
    model.eval()
    batches = split.images.split(images_at_once(split.images, on_gpu=GPU_EVALUATION_BATCH))
    with torch.inference_mode():
        logits = torch.cat([predict(model, images, data, precision) for images in batches])
        return float(metrics.top1(logits, split.labels)), float(metrics.nll(logits, split.labels))


def _begin(model: nn.Module, spec: TrainingSpec) -> State:
    model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=spec.lr,
        momentum=spec.momentum,
        weight_decay=spec.weight_decay,
        nesterov=spec.momentum > 0,
        fused=True,
    )
    floats = {key: value for key, value in model.state_dict().items() if value.is_floating_point()}
    return State(model, optimiser, {key: value.detach().clone() for key, value in floats.items()})


def _train_epoch(step: Step, runner: StepRunner, number: int, watch: Stopwatch) -> Tensor:
    """Train on every batch of an epoch, counted from 0; return the mean total, hard and soft loss over the steps."""
    data, recipe = step.data, step.recipe
    soft_targets = None
    if step.supervision:
        with watch.part("targets"):
            soft_targets = step.supervision.soft_targets(number % recipe.views, data.train.labels)
    inputs = inputs_of(data, recipe, number, soft_targets)
    steps = len(inputs.order)
    step.begin(inputs)
    del inputs, soft_targets  # on a GPU, `begin` has copied them
    step.model.train()
    with _isolated(seed_from(recipe.seed, number, 2), step.device):
        runner(steps)
    return step.sums / steps


@contextlib.contextmanager
def _isolated(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, from which dropout draws, inside the context; restore them afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # Not torch.manual_seed: it seeds the generators of all GPUs, which are not forked here.
        torch.default_generator.manual_seed(seed)
        for gpu in devices:
            torch.cuda.default_generators[gpu.index].manual_seed(seed)
        yield


def _scores(
    state: State, data: Data, losses: Sequence[float], recipe: Recipe, *, evaluate_on: EvaluateOn
) -> dict[str, float]:
    """Score the averaged weights at the end of an epoch; return an empty dict for an epoch that is not scored."""
    epoch = len(state.curve) + 1
    last = epoch == recipe.epochs
    _demand_finite(losses[0], "loss", epoch)
    scores: dict[str, float] = {}
    precision = recipe.spec.precision
    if last or epoch == recipe.rung or epoch % recipe.spec.evaluate_every == 0:
        averaged = copy.deepcopy(state.model)
        averaged.load_state_dict(state.average, strict=False)
        if evaluate_on != "test":
            scores["val_top1"], scores["val_nll"] = evaluate(averaged, data.validation, data, precision=precision)
            _demand_finite(scores["val_nll"], "validation loss", epoch)
        if last and evaluate_on != "validation":
            scores["test_top1"] = evaluate(averaged, data.test, data, precision=precision)[0]
    return scores


def _demand_finite(value: float, name: str, epoch: int) -> None:
    if not math.isfinite(value):
        raise DivergedError(f"the {name} became {value} in epoch {epoch}", "lower training.lr or search.soft_weight")

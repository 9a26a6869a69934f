"""One training run: a student, optionally a teacher's logits, one record per epoch.

SGD with Nesterov momentum, linear warm-up, cosine decay to zero, and an exponential average of the
weights, which is what gets scored. No Optuna, no printing, no host synchronisation inside an epoch.
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
from autodistill.errors import TrialError
from autodistill.records import EpochRecord, EvaluateOn
from autodistill.stopwatch import Stopwatch
from autodistill.store import seed_from
from autodistill.training.checkpoints import Recipe, State, key_of, resume, save
from autodistill.training.execution import EAGER, Execution, Executor
from autodistill.training.precision import Precision
from autodistill.training.step import Step, inputs_of, learning_rate, predict
from autodistill.training.supervision import Supervision, supervise

__all__ = ["Execution", "Recipe", "Supervision", "evaluate", "learning_rate", "supervise", "train"]

GPU_EVALUATION_BATCH = 512
CHECKPOINT_EVERY_S = 5.0
"""Least seconds between two saves."""


def train(  # noqa: PLR0913
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    *,
    supervision: Supervision | None = None,
    evaluate_on: EvaluateOn = "validation",
    checkpoint: Path | None = None,
    begun: Path | None = None,
    until: int | None = None,
    watch: Stopwatch | None = None,
    execution: Execution = EAGER,
    urgent: Callable[[], bool] = lambda: False,
) -> Iterator[EpochRecord]:
    """Train `model` in place; when the iterator ends it holds the averaged weights.

    Args:
        model: freshly initialised; on the device of `data`.
        supervision: what a teacher gives; None: labels alone.
        checkpoint: file to save to and resume from, bit-exactly on the CPU; None: neither. Epochs that it
            holds are yielded again. One that is damaged, or of another run, is as none.
        begun: a checkpoint of this very recipe to go on from where `checkpoint` holds none; it is left as it is.
        until: stop after this epoch, with a checkpoint; the model is then in the midst of its training.
        watch: told what soft targets and evaluations take.
        execution: how the steps are executed. On a CPU none but `compiled` changes a bit.
        urgent: whether to save at this epoch's end, however soon after the last time.

    Raises:
        TrialError: the loss is not finite, or that of the averaged weights on a split.
        torch.OutOfMemoryError: try again with `recipe.micro_batches`.
    """
    state, watch = _begin(model, recipe.spec), watch or Stopwatch()
    key = key_of(state, data, recipe, supervision)
    if checkpoint is not None:
        resume(state, checkpoint, key)
    if begun is not None and not state.curve:
        resume(state, begun, key)
    yield from state.curve
    step = Step(state, data, recipe, supervision)
    execute = Executor(step, execution)
    saved, end = time.monotonic(), until or recipe.epochs
    while len(state.curve) < end:
        losses = _train_epoch(step, execute, len(state.curve), watch).tolist()
        with watch.part("evaluation"):
            scores = _scores(state, data, losses, recipe, evaluate_on=evaluate_on)
        total, hard, soft = losses
        taught = {"soft_loss": soft} if supervision else {}
        epoch = len(state.curve) + 1
        state.curve.append(EpochRecord(epoch=epoch, train_loss=total, hard_loss=hard, **taught, **scores))
        last = len(state.curve) == recipe.epochs
        due = epoch == end or urgent() or time.monotonic() - saved >= CHECKPOINT_EVERY_S
        if checkpoint is not None and not last and due:
            save(state, checkpoint, key)
            saved = time.monotonic()
        if last:
            model.load_state_dict(state.average, strict=False)
        yield state.curve[-1]


def evaluate(model: nn.Module, split: Split, data: Data, *, precision: Precision = "auto") -> tuple[float, float]:
    """Accuracy and mean negative log-likelihood of a model on a split."""
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


def _train_epoch(step: Step, execute: Executor, number: int, watch: Stopwatch) -> Tensor:
    """One pass over the training split; returns the mean (total, hard, soft) losses over the steps."""
    data, recipe = step.data, step.recipe
    taught = None
    if step.supervision:
        with watch.part("targets"):
            taught = step.supervision.taught(number % recipe.views, data.train.labels)
    inputs = inputs_of(data, recipe, number, taught)
    steps = len(inputs.order)
    step.begin(inputs)
    del inputs, taught  # on a GPU they are copies by now
    step.model.train()
    with _isolated(seed_from(recipe.seed, number, 2), step.device):
        execute(steps)
    return step.sums / steps


@contextlib.contextmanager
def _isolated(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from torch's global generator: seed it inside, leave it as it was outside."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # Not torch.manual_seed, which would seed every GPU's generator, and those are not forked here.
        torch.default_generator.manual_seed(seed)
        for gpu in devices:
            torch.cuda.default_generators[gpu.index].manual_seed(seed)
        yield


def _scores(
    state: State, data: Data, losses: Sequence[float], recipe: Recipe, *, evaluate_on: EvaluateOn
) -> dict[str, float]:
    """What the averaged weights reach at the end of an epoch; nothing in an epoch that is not scored."""
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
        raise TrialError(f"the {name} became {value} in epoch {epoch}", "lower training.lr or search.soft_weight")

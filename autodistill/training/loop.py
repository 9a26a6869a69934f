"""The training loop: a student or a teacher of the default ladder, one record per epoch, checkpoints.

SGD with Nesterov momentum or AdamW, linear warm-up and cosine decay to zero. An exponential average of the weights is
scored. The host does not synchronise with the device inside an epoch.
"""

import contextlib
import copy
import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autodistill import metrics, teachers
from autodistill.config import Space
from autodistill.data import Data, Split, images_at_once
from autodistill.data.views import View
from autodistill.errors import DivergedError, StudyError, TrialError
from autodistill.records import EpochRecord, EvaluateOn, TaskProgress
from autodistill.stopwatch import Stopwatch
from autodistill.store import digest, locked, seed_from, write_bytes
from autodistill.teachers.ladder import checkpoints_of, lock_of, name_of, network, path_of, rung_of
from autodistill.tensors import seeded
from autodistill.training.optimiser import optimiser_of
from autodistill.training.step import EAGER, Execution, Precision, Recipe, State, Step, StepRunner, inputs_of, predict
from autodistill.training.supervision import Supervision

GPU_EVALUATION_BATCH = 512
CHECKPOINT_EVERY_S = 5.0
"""Smallest number of seconds between two saves."""
CHECKSUM_BYTES = 32


def train(  # noqa: PLR0913
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    *,
    supervision: Supervision | None = None,
    evaluate_on: EvaluateOn = "validation",
    checkpoint: Path | None = None,
    others: Sequence[Path] = (),
    until: int | None = None,
    averaged: bool = False,
    watch: Stopwatch | None = None,
    execution: Execution = EAGER,
    urgent: Callable[[], bool] = lambda: False,
) -> Iterator[EpochRecord]:
    """Train `model` in place. After the last epoch of the schedule it holds the averaged weights.

    Args:
        model: A freshly initialised network on the device of `data`. Parameters without gradients stay as they are.
        data: The data, which train, validate and test the network.
        recipe: Optimiser settings, views, length and seed.
        supervision: The teacher's part of the run; None: train on labels alone.
        evaluate_on: The splits on which the last epoch is scored.
        checkpoint: File to save to and resume from, bit-exactly on a CPU; None: do neither. The epochs in the file
            are yielded again. A damaged file, or one of another run, counts as missing.
        others: Further checkpoints of this training to resume from. The one with the most epochs counts.
        until: Stop after this epoch with a checkpoint; the model then holds the weights of that epoch. Checkpoints
            beyond it count as missing.
        averaged: Whether the model then holds the averaged weights instead.
        watch: Measures the seconds spent on soft targets and on evaluation.
        execution: How the steps are executed. On a CPU only `compiled` changes results.
        urgent: Returns whether to save at the end of this epoch, however recent the last save is.

    Yields:
        The record of each epoch.

    Raises:
        DivergedError: The training loss, or the loss of the averaged weights on validation, is not finite.
        torch.OutOfMemoryError: A batch does not fit into memory. Try again with more `recipe.micro_batches`.
    """
    model.to(memory_format=getattr(model, "memory_format", torch.channels_last))
    spec, watch = recipe.spec, watch or Stopwatch()
    average = {key: value.clone() for key, value in model.state_dict().items() if value.is_floating_point()}
    state = State(model, optimiser_of(model, spec), average)
    key = _key_of(state, data, recipe, supervision)
    end = until or recipe.epochs
    _resume(state, list(dict.fromkeys([*others, *([checkpoint] if checkpoint else [])])), key, end=end)
    yield from state.curve
    step = Step(state, data, recipe, supervision)
    runner = StepRunner(step, execution)
    saved = time.monotonic()
    for epoch in range(len(state.curve) + 1, end + 1):
        total, hard, soft = _train_epoch(step, runner, epoch - 1, watch).tolist()
        _demand_finite(total, "loss", epoch)
        with watch.part("evaluation"):
            scores = _scores(state, data, recipe, epoch, evaluate_on)
        soft_loss = {"soft_loss": soft} if supervision else {}
        state.curve.append(EpochRecord(epoch=epoch, train_loss=total, hard_loss=hard, **soft_loss, **scores))
        due = epoch == end or urgent() or time.monotonic() - saved >= CHECKPOINT_EVERY_S
        if epoch == recipe.epochs:
            model.load_state_dict(state.average, strict=False)
        elif checkpoint is not None and due:
            _save(state, checkpoint, key)
            saved = time.monotonic()
        yield state.curve[-1]
    if averaged:
        model.load_state_dict(state.average, strict=False)


class Scores(NamedTuple):
    """Scores of a model on a split."""

    top1: float
    nll: float
    """Mean negative log-likelihood, in nats."""
    balanced_top1: float
    """Mean over the classes of the accuracy on each class."""


def evaluate(model: nn.Module, split: Split, data: Data, *, precision: Precision = "auto") -> Scores:
    """Compute the scores of a model on a split of `data`.

    The model is left in evaluation mode. `precision` is the number format of the forward passes.
    """
    model.eval()
    size: int | None = getattr(model, "size", None)  # of networks that resize their input
    batches = split.images.split(images_at_once(split.images, on_gpu=GPU_EVALUATION_BATCH, size=size))
    with torch.inference_mode():
        logits = torch.cat([predict(model, images, data, precision) for images in batches])
        return Scores(
            float(metrics.top1(logits, split.labels)),
            float(metrics.nll(logits, split.labels)),
            metrics.balanced_top1(logits, split.labels),
        )


def train_teacher(
    uri: str,
    *,
    root: Path,
    data: Data,
    space: Space,
    execution: Execution = EAGER,
    urgent: Callable[[], bool] = lambda: False,
) -> Iterator[TaskProgress]:
    """Train a teacher of the default ladder unless its file exists in the cache folder `root`.

    A process that asks for a teacher while another process trains it waits, and finds the file. `execution` and
    `urgent` are those of `train`.

    `ladder:ARCHITECTURE@EPOCH` is the training of `ladder:ARCHITECTURE` after that epoch. It holds the averaged
    weights, those that are scored. Its checkpoint is kept, and the training of a later epoch continues from there.

    Yields:
        Progress after each epoch.

    Raises:
        StudyError: The loss became nan or infinite.
        StoreError: The cache folder cannot be written.
    """
    rung, path = rung_of(uri), path_of(uri, root=root, data=data.fingerprint, space=space)
    with locked(lock_of(path)):
        if path.exists():
            return
        recipe, whole = ladder_recipe(space), space.ladder.epochs
        end = whole if rung.epoch is None else min(rung.epoch, whole)
        model = network(rung.architecture, data, seed=recipe.seed).to(data.train.images.device)
        checkpoint = path.with_suffix(".checkpoint")
        epochs = train(
            model,
            data,
            recipe,
            checkpoint=checkpoint,
            others=[it for epoch, it in checkpoints_of(path).items() if epoch is None or epoch <= end],
            until=end,
            averaged=True,
            execution=execution,
            urgent=urgent,
        )
        with saved_teacher(path, model, data, uri=uri, architecture=rung.architecture, lr=space.ladder.lr):
            for record in epochs:
                yield TaskProgress(task=f"teacher {name_of(uri)}", done=record.epoch, total=end)
        if end == whole:
            checkpoint.unlink(missing_ok=True)


def ladder_recipe(space: Space, *, view: View | None = None, views: int | None = None) -> Recipe:
    """Return the recipe of the teachers that autodistill trains from the beginning.

    Args:
        space: The search space.
        view: The augmentation; None: that of the space.
        views: Number of views that the epochs cycle through; None: a view for each epoch.
    """
    epochs = space.ladder.epochs
    changes = {
        "lr": space.ladder.lr,
        "evaluate_every": epochs,
        "rung_epochs": None,
        "precision": "auto",
        "optimizer": "sgd",
    }
    own = View(space.data.view_seed, space.data.crop, space.data.flip)
    return Recipe(space.training.model_copy(update=changes), view or own, views or epochs, epochs, space.ladder.seed)


@contextlib.contextmanager
def saved_teacher(
    path: Path, model: nn.Module, data: Data, *, uri: str, architecture: str, lr: float
) -> Iterator[None]:
    """Save the network that is trained in the context as a teacher, at the end of the context.

    Args:
        path: File of the teacher.
        model: The network. It holds the averaged weights at the end.
        data: The data on which it is trained.
        uri: URI of the teacher, for the error.
        architecture: Name of the network, with its width.
        lr: The learning rate, for the error.

    Raises:
        StudyError: The loss became nan or infinite.
        StoreError: The cache folder cannot be written.
    """
    try:
        yield
    except TrialError as error:
        raise StudyError(
            f"{uri}: training this teacher failed: {error.message}",
            f"lower ladder.lr, which is {lr:g}: --set ladder.lr={min(0.05, lr / 10):g}; "
            "or name trained teachers with --teacher",
        ) from error
    teachers.save(path, model, architecture=architecture, data=data)


def _train_epoch(step: Step, runner: StepRunner, number: int, watch: Stopwatch) -> Tensor:
    """Train on every batch of an epoch, counted from 0; return the mean total, hard and soft loss over the steps."""
    data, recipe, supervision = step.data, step.recipe, step.supervision
    teacher, ramp = None, None
    if supervision:
        with watch.part("targets"):
            teacher = supervision.view(number % recipe.views, data.train.labels)
            ramp = supervision.ramp(number + 1, epochs=recipe.epochs)
    inputs = inputs_of(data, recipe, number, teacher=teacher, ramp=ramp)
    steps = len(inputs.order)
    step.begin(inputs)
    del inputs, teacher  # on a GPU, `begin` has copied them
    step.model.train()
    with seeded(seed_from(recipe.seed, number, 2), device=step.device):  # dropout draws from the generators
        runner(steps)
    return step.sums / steps


def _scores(state: State, data: Data, recipe: Recipe, epoch: int, evaluate_on: EvaluateOn) -> dict[str, float]:
    """Score the averaged weights at the end of an epoch; return an empty dict for an epoch that is not scored."""
    last, precision = epoch == recipe.epochs, recipe.spec.precision
    if not last and epoch != recipe.rung and epoch % recipe.spec.evaluate_every:
        return {}
    scores: dict[str, float] = {}
    averaged = copy.deepcopy(state.model)
    averaged.load_state_dict(state.average, strict=False)
    if evaluate_on != "test":
        found = evaluate(averaged, data.validation, data, precision=precision)
        scores |= {"val_top1": found.top1, "val_nll": found.nll, "val_balanced_top1": found.balanced_top1}
        _demand_finite(scores["val_nll"], "validation loss", epoch)
    if last and evaluate_on != "validation":
        found = evaluate(averaged, data.test, data, precision=precision)
        scores |= {"test_top1": found.top1, "test_balanced_top1": found.balanced_top1}
    return scores


def _demand_finite(value: float, name: str, epoch: int) -> None:
    if not math.isfinite(value):
        raise DivergedError(f"the {name} became {value} in epoch {epoch}", "lower training.lr or search.soft_weight")


def _key_of(state: State, data: Data, recipe: Recipe, supervision: Supervision | None) -> str:
    """Return the key of a run. A run resumes only from checkpoints with its own key."""
    shapes = {name: tuple(value.shape) for name, value in state.model.state_dict().items()}
    # The name of the loss is in the keys of older checkpoints.
    teaching = supervision and (supervision.params, supervision.fitted, "soft_cross_entropy")
    return digest(torch.__version__, data.fingerprint, recipe, teaching, shapes)


def _with_checksum(key: str, payload: bytes) -> bytes:
    """Prepend a checksum over key and content, by which damaged files and those of other runs are rejected."""
    return hashlib.sha256(key.encode() + payload).digest() + payload


def _save(state: State, path: Path, key: str) -> None:
    held = {
        "model": state.model.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "average": state.average,
        "curve": [record.model_dump() for record in state.curve],
    }
    buffer = io.BytesIO()
    torch.save(held, buffer)
    write_bytes(path, _with_checksum(key, buffer.getvalue()))


def _resume(state: State, paths: Sequence[Path], key: str, *, end: int) -> None:
    """Load the checkpoint with the most epochs, at most `end`, into `state`; leave `state` as it is without any."""
    device = next(state.model.parameters()).device
    usable = (it for path in paths if (it := _held(path, key, device)) is not None and len(it["curve"]) <= end)
    held = max(usable, key=lambda it: len(it["curve"]), default=None)
    if held is None:
        return
    state.model.load_state_dict(held["model"])
    state.optimiser.load_state_dict(held["optimiser"])
    state.average.update(held["average"])
    state.curve = [EpochRecord.model_validate(record) for record in held["curve"]]


def _held(path: Path, key: str, device: torch.device) -> dict[str, Any] | None:
    """Return the content of a checkpoint; None if the file is missing, damaged or of another run."""
    found = path.read_bytes() if path.exists() else b""
    payload = found[CHECKSUM_BYTES:]
    if found != _with_checksum(key, payload):
        return None
    held: dict[str, Any] = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    return held

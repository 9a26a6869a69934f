"""One training run: a student, optionally a teacher's logits, one record per epoch.

SGD with Nesterov momentum, linear warm-up, cosine decay to zero, and an exponential average of the
weights, which is what gets scored. No Optuna, no printing, no host synchronisation inside an epoch.
"""

import contextlib
import copy
import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autodistill import metrics
from autodistill.data import Data, Split, normalise
from autodistill.errors import TrialError
from autodistill.losses import LOSSES, hard_loss
from autodistill.records import EpochRecord, EvaluateOn, TargetSummary, TrialParams
from autodistill.rules import RULES, Targets, summarise
from autodistill.space import TrainingSpec
from autodistill.store import digest, seed_from, write_bytes
from autodistill.views import View, take_view

EVALUATION_BATCH = 512
CHECKPOINT_EVERY_S = 5.0
SEAL_BYTES = 32


class Recipe(NamedTuple):
    """What is trained how long, on which views, in which order."""

    spec: TrainingSpec
    view: View
    views: int
    """Size of the pool of views that epochs cycle through."""
    epochs: int
    """Length of the schedule, which is complete: the rate ends at zero."""
    seed: int
    """Decides the batch order and the noise of dropout; initialisation is the caller's."""


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
    fit = RULES[params.rule].fit
    extra = fit(logits(0), labels.cpu(), **params.rule_params) if fit else {}
    return Supervision(logits, params, extra, loss)


@dataclass
class _State:
    """What a checkpoint holds."""

    model: nn.Module
    optimiser: torch.optim.SGD
    average: dict[str, Tensor]
    """Averaged copies of the floating-point entries of the model's state."""
    curve: list[EpochRecord] = field(default_factory=list)


def train(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    *,
    supervision: Supervision | None = None,
    evaluate_on: EvaluateOn = "validation",
    checkpoint: Path | None = None,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    watch: Callable[[str], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Iterator[EpochRecord]:
    """Train `model` in place; when the iterator ends it holds the averaged weights.

    Args:
        model: freshly initialised; on the device of `data`.
        supervision: what a teacher gives; None: labels alone.
        checkpoint: file to save to and resume from, bit-exactly on the CPU; None: neither. Epochs that it
            holds are yielded again. One that is damaged, or of another run, is as none.
        checkpoint_every_s: least seconds between two saves; 0: after every epoch.
        watch: entered by the name of a part, `evaluation`, for as long as it takes.

    Raises:
        TrialError: the loss is not finite, or that of the averaged weights on a split.
    """
    state, distils = _begin(model, recipe.spec), supervision is not None
    key = _key(state, data, recipe, supervision)
    if checkpoint is not None:
        _resume(state, checkpoint, key)
    yield from state.curve
    saved = time.monotonic()
    while len(state.curve) < recipe.epochs:
        losses = _train_epoch(state, data, recipe, supervision).tolist()
        with watch("evaluation"):
            state.curve.append(_record(state, data, losses, recipe, evaluate_on=evaluate_on, distils=distils))
        last = len(state.curve) == recipe.epochs
        if checkpoint is not None and not last and time.monotonic() - saved >= checkpoint_every_s:
            _save(state, checkpoint, key)
            saved = time.monotonic()
        if last:
            model.load_state_dict(state.average, strict=False)
        yield state.curve[-1]


def learning_rate(step: int, steps: int, *, peak: float, warmup: float) -> float:
    """Rate of a step: linear from near zero over the first `warmup` of the steps, then a half cosine to zero."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def evaluate(model: nn.Module, split: Split, data: Data) -> tuple[float, float]:
    """Accuracy and mean negative log-likelihood of a model on a split."""
    model.eval()
    with torch.inference_mode():
        logits = torch.cat([_predict(model, images, data) for images in split.images.split(EVALUATION_BATCH)])
        return float(metrics.top1(logits, split.labels)), float(metrics.nll(logits, split.labels))


def _predict(model: nn.Module, images: Tensor, data: Data) -> Tensor:
    inputs = normalise(images, mean=data.mean, std=data.std).contiguous(memory_format=torch.channels_last)
    with _autocast(inputs.device):
        output: Tensor = model(inputs)
    return output.float()


def _autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    # bf16 pays on CUDA; on a CPU without bf16 units it costs, and depthwise convolutions lose even with them.
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()


def _begin(model: nn.Module, spec: TrainingSpec) -> _State:
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
    return _State(model, optimiser, {key: value.detach().clone() for key, value in floats.items()})


def _train_epoch(state: _State, data: Data, recipe: Recipe, supervision: Supervision | None) -> Tensor:
    """One pass over the training split; returns the mean (total, hard, soft) losses over the steps."""
    images, labels = data.train
    spec, number = recipe.spec, len(state.curve)
    view_number = number % recipe.views
    batches = _batches(len(labels), spec.batch_size, seed_from(recipe.seed, number, 1), images.device)
    probs = supervision.targets(view_number, labels).probs if supervision else None
    live = dict(state.model.state_dict(keep_vars=True))
    current, average = [live[key].detach() for key in state.average], list(state.average.values())
    weight = 1 - math.exp(-1 / (spec.averaging * len(batches)))
    sums = torch.zeros(3, device=images.device)
    steps = recipe.epochs * len(batches)
    state.model.train()
    with _isolated(seed_from(recipe.seed, number, 2), images.device):
        for step, batch in enumerate(batches, start=number * len(batches)):
            state.optimiser.param_groups[0]["lr"] = learning_rate(step, steps, peak=spec.lr, warmup=spec.warmup)
            logits = _predict(state.model, take_view(images, batch, view=recipe.view, epoch=view_number), data)
            loss = _loss(logits, labels[batch], probs[batch] if probs is not None else None, supervision)
            state.optimiser.zero_grad(set_to_none=True)
            loss[0].backward()
            state.optimiser.step()
            torch._foreach_lerp_(average, current, weight)
            sums += loss.detach()
    return sums / len(batches)


def _batches(examples: int, size: int, seed: int, device: torch.device) -> list[Tensor]:
    """Whole batches in random order; what is left over waits for another epoch's order."""
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(seed)).to(device)
    return list(order[: max(size, examples - examples % size)].split(size))


def _loss(logits: Tensor, labels: Tensor, probs: Tensor | None, supervision: Supervision | None) -> Tensor:
    """Total, hard and soft loss as one tensor of three."""
    if supervision is None or probs is None:
        loss = hard_loss(logits, labels)
    else:
        params = supervision.params
        weights = {"soft_weight": params.soft_weight, "tau_student": params.tau_student}
        loss = LOSSES[supervision.loss](logits, labels, probs, **weights)
    soft = loss.soft if loss.soft is not None else torch.zeros_like(loss.hard)
    return torch.stack([loss.total, loss.hard, soft])


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


def _record(
    state: _State, data: Data, losses: list[float], recipe: Recipe, *, evaluate_on: EvaluateOn, distils: bool
) -> EpochRecord:
    epoch = len(state.curve) + 1
    last = epoch == recipe.epochs
    total, hard, soft = losses
    _demand_finite(total, "loss", epoch)
    scores: dict[str, float] = {}
    if last or epoch % recipe.spec.evaluate_every == 0:
        averaged = copy.deepcopy(state.model)
        averaged.load_state_dict(state.average, strict=False)
        if evaluate_on != "test":
            scores["val_top1"], scores["val_nll"] = evaluate(averaged, data.validation, data)
            _demand_finite(scores["val_nll"], "validation loss", epoch)
        if last and evaluate_on != "validation":
            scores["test_top1"] = evaluate(averaged, data.test, data)[0]
    return EpochRecord(epoch=epoch, train_loss=total, hard_loss=hard, soft_loss=soft if distils else None, **scores)


def _demand_finite(value: float, name: str, epoch: int) -> None:
    if not math.isfinite(value):
        raise TrialError(f"the {name} became {value} in epoch {epoch}", "lower training.lr or search.soft_weight")


def _key(state: _State, data: Data, recipe: Recipe, supervision: Supervision | None) -> str:
    """What a run is: a checkpoint of another one must not be gone on with."""
    shapes = {name: tuple(value.shape) for name, value in state.model.state_dict().items()}
    taught = supervision and (supervision.params, supervision.extra, supervision.loss)
    return digest(torch.__version__, data.fingerprint, recipe, taught, shapes)


def _sealed(key: str, payload: bytes) -> bytes:
    return hashlib.sha256(key.encode() + payload).digest() + payload


def _save(state: _State, path: Path, key: str) -> None:
    held = {
        "model": state.model.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "average": state.average,
        "curve": [record.model_dump() for record in state.curve],
    }
    buffer = io.BytesIO()
    torch.save(held, buffer)
    write_bytes(path, _sealed(key, buffer.getvalue()))


def _resume(state: _State, path: Path, key: str) -> None:
    """Go on from a checkpoint; where its seal does not hold, the run starts again and ends the same."""
    found = path.read_bytes() if path.exists() else b""
    payload = found[SEAL_BYTES:]
    if found != _sealed(key, payload):
        return
    held = torch.load(io.BytesIO(payload), map_location=next(state.model.parameters()).device, weights_only=True)
    state.model.load_state_dict(held["model"])
    state.optimiser.load_state_dict(held["optimiser"])
    state.average.update(held["average"])
    state.curve = [EpochRecord.model_validate(record) for record in held["curve"]]

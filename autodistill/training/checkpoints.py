"""Checkpoints of a training run. A checksum over key and content rejects damaged files and those of other runs."""

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autodistill.config import TrainingSpec
from autodistill.data import Data
from autodistill.data.views import View
from autodistill.records import EpochRecord
from autodistill.store import digest, write_bytes
from autodistill.training.supervision import Supervision

SEAL_BYTES = 32


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


@dataclass
class State:
    """State of a run, as a checkpoint holds it."""

    model: nn.Module
    optimiser: torch.optim.SGD
    average: dict[str, Tensor]
    """Averaged copies of the floating-point entries of the model's state."""
    curve: list[EpochRecord] = field(default_factory=list)


def key_of(state: State, data: Data, recipe: Recipe, supervision: Supervision | None) -> str:
    """Return the key of a run. A run resumes only from checkpoints with its own key."""
    shapes = {name: tuple(value.shape) for name, value in state.model.state_dict().items()}
    teaching = supervision and (supervision.params, supervision.fitted, supervision.loss)
    return digest(torch.__version__, data.fingerprint, recipe, teaching, shapes)


def _sealed(key: str, payload: bytes) -> bytes:
    return hashlib.sha256(key.encode() + payload).digest() + payload


def save(state: State, path: Path, key: str) -> None:
    """Write a checkpoint atomically."""
    held = {
        "model": state.model.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "average": state.average,
        "curve": [record.model_dump() for record in state.curve],
    }
    buffer = io.BytesIO()
    torch.save(held, buffer)
    write_bytes(path, _sealed(key, buffer.getvalue()))


def resume(state: State, path: Path, key: str) -> None:
    """Load a checkpoint into `state`. Leave `state` as it is where the file is missing, damaged or of another run."""
    found = path.read_bytes() if path.exists() else b""
    payload = found[SEAL_BYTES:]
    if found != _sealed(key, payload):
        return
    held = torch.load(io.BytesIO(payload), map_location=next(state.model.parameters()).device, weights_only=True)
    state.model.load_state_dict(held["model"])
    state.optimiser.load_state_dict(held["optimiser"])
    state.average.update(held["average"])
    state.curve = [EpochRecord.model_validate(record) for record in held["curve"]]

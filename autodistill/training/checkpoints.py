"""A run's state on disk: sealed, so that it is gone on with whole and by its own run, or not at all."""

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
    """What is trained how long, on which views, in which order."""

    spec: TrainingSpec
    view: View
    views: int
    """Size of the pool of views that epochs cycle through."""
    epochs: int
    """Length of the schedule, which is complete: the rate ends at zero."""
    seed: int
    """Decides the batch order and the noise of dropout; initialisation is the caller's."""
    micro_batches: int = 1
    """Parts of a batch that pass through the network one after the other, their gradients added up: less memory, but
    BatchNorm sees a part at a time."""
    rung: int | None = None
    """An epoch that is scored whether or not its turn has come."""


@dataclass
class State:
    """What a checkpoint holds."""

    model: nn.Module
    optimiser: torch.optim.SGD
    average: dict[str, Tensor]
    """Averaged copies of the floating-point entries of the model's state."""
    curve: list[EpochRecord] = field(default_factory=list)


def key_of(state: State, data: Data, recipe: Recipe, supervision: Supervision | None) -> str:
    """What a run is: a checkpoint of another one must not be gone on with."""
    shapes = {name: tuple(value.shape) for name, value in state.model.state_dict().items()}
    taught = supervision and (supervision.params, supervision.extra, supervision.loss)
    return digest(torch.__version__, data.fingerprint, recipe, taught, shapes)


def _sealed(key: str, payload: bytes) -> bytes:
    return hashlib.sha256(key.encode() + payload).digest() + payload


def save(state: State, path: Path, key: str) -> None:
    """Write a checkpoint, whole or not at all."""
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

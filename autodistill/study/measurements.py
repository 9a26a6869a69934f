"""Measurements that this machine has made before: kept in the cache folder, so that no network is measured twice."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError

from autodistill.config import Space
from autodistill.data import Data
from autodistill.errors import StoreError
from autodistill.records.base import Record, to_json
from autodistill.store import cache_root, digest, write_text
from autodistill.study.environment import processor

FORMAT = 1

R = TypeVar("R", bound=Record)
Facts = Mapping[str, object]
"""What a measurement depends on: plain data."""


def facts(data: Data, space: Space, *, device: str, **more: object) -> Facts:
    """Collect what every measurement of a network depends on: images, batch, machine and libraries."""
    return {
        "format": FORMAT,
        "classes": data.num_classes,
        "image_shape": data.image_shape,
        "batch_size": min(space.training.batch_size, len(data.train.labels)),
        "torch": torch.__version__,
        **_machine(device),
        **more,
    }


def recall(kind: type[R], of: Facts) -> R | None:
    """Return a kept measurement; None where there is none, or its file is damaged: it is made again then."""
    try:
        return kind.model_validate_json(_path(kind, of).read_bytes())
    except (OSError, ValidationError):
        return None


def keep(found: Record, of: Facts) -> None:
    """Keep a measurement. A cache folder that cannot be written keeps none: the next command measures again."""
    try:
        write_text(_path(type(found), of), to_json(found))
    except StoreError:
        return


def forget(kind: type[Record], of: Facts) -> None:
    """Remove a kept measurement that turned out to be wrong; the next command makes it again."""
    with contextlib.suppress(OSError):
        _path(kind, of).unlink(missing_ok=True)


def _path(kind: type[Record], of: Facts) -> Path:
    return cache_root() / "measured" / f"{kind.__name__.lower()}-{digest(of)}.json"


def _machine(device: str) -> dict[str, object]:
    if device.startswith("cuda"):
        return {"device": torch.cuda.get_device_name(device)}
    # The instruction sets that libraries use can be limited by these variables.
    limits = {name: os.environ.get(name, "") for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")}
    return {"device": processor(), "capability": torch.backends.cpu.get_cpu_capability(), **limits}

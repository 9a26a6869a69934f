"""Measurements of networks on this machine, kept in the cache folder so that none is repeated."""

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError

from autodistill.config import Space
from autodistill.data import Data
from autodistill.errors import StoreError
from autodistill.records import Record, StudentRecord, to_json
from autodistill.store import cache_root, digest, write_text
from autodistill.study.environment import device_name, processor

FORMAT = 1
_unwritten: dict[Path, Record] = {}
"""Measurements of this process that a read-only cache folder could not take, by their path."""

R = TypeVar("R", bound=Record)
Facts = Mapping[str, object]
"""Everything that a measurement depends on, as JSON data."""


def facts(data: Data, space: Space, *, device: str, **more: object) -> Facts:
    """Return what a measurement of a network depends on: images, batch size, hardware, libraries, and `more`."""
    if device.startswith("cuda"):
        machine = {"device": device_name(device)}
    else:
        # These variables limit the instruction sets that libraries use.
        limits = {name: os.environ.get(name, "") for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")}
        machine = {"device": processor(), "capability": torch.backends.cpu.get_cpu_capability(), **limits}
    return {
        "format": FORMAT,
        "classes": data.num_classes,
        "image_shape": data.image_shape,
        "batch_size": min(space.training.batch_size, len(data.train.labels)),
        "torch": torch.__version__,
        **machine,
        **more,
    }


def student_facts(student: StudentRecord, space: Space) -> Facts:
    """Return what a measurement depends on besides `facts` if it builds the student."""
    built = {"student": student.source, "width": space.student.width, "stem_stride": space.student.stem_stride}
    return {**built, "fingerprint": student.foreign.fingerprint} if student.foreign else built


def once(kind: type[R], of: Facts, measure: Callable[[], R]) -> R:
    """Return a kept measurement, or measure now and keep the result."""
    found = recall(kind, of)
    if found is None:
        found = measure()
        keep(found, of)
    return found


def recall(kind: type[R], of: Facts) -> R | None:
    """Return a kept measurement; None if there is none or its file is damaged."""
    unwritten = _unwritten.get(_path(kind, of))
    if isinstance(unwritten, kind):
        return unwritten
    try:
        return kind.model_validate_json(_path(kind, of).read_bytes())
    except (OSError, ValidationError):
        return None


def keep(measurement: Record, of: Facts) -> None:
    """Keep a measurement. If the cache folder cannot be written, the next command measures again."""
    path = _path(type(measurement), of)
    try:
        write_text(path, to_json(measurement))
    except StoreError:
        _unwritten[path] = measurement


def forget(kind: type[Record], of: Facts) -> None:
    """Remove a kept measurement that proved wrong, so that the next command measures again."""
    path = _path(kind, of)
    _unwritten.pop(path, None)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _path(kind: type[Record], of: Facts) -> Path:
    return cache_root() / "measured" / f"{kind.__name__.lower()}-{digest(of)}.json"

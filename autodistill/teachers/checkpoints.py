"""Checkpoint files: only tensors are read. No checkpoint runs code."""

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from autodistill.data import Data
from autodistill.errors import TeacherError
from autodistill.models import MODELS
from autodistill.store import writing


class Checkpoint(NamedTuple):
    state: dict[str, Tensor]
    facts: dict[str, Any]
    """architecture, mean, std, classes, where the file states them."""


def save(path: Path, module: nn.Module, *, architecture: str, data: Data, stem_stride: int | None = None) -> None:
    """Write a network as safetensors with the facts that `load` needs in its metadata."""
    facts: dict[str, object] = {"architecture": architecture, "stem_stride": stem_stride}
    facts |= {"mean": data.mean, "std": data.std, "classes": data.classes}
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    with writing(path) as temporary:
        safetensors.torch.save_file(state, temporary, {key: json.dumps(value) for key, value in facts.items()})


def read(path: Path, uri: str) -> Checkpoint:
    if not path.is_file():
        raise TeacherError(
            f"teacher {uri}: no such file: {path}", "check the path, or leave --teacher out for the ladder"
        )
    readers: dict[str, Callable[[Path], Checkpoint]] = {
        ".safetensors": _read_safetensors,
        ".pt": _read_torch,
        ".pth": _read_torch,
        ".bin": _read_torch,
    }
    if path.suffix not in readers:
        raise TeacherError(f"teacher {uri}: unknown file type {path.suffix!r} (allowed: {', '.join(readers)})")
    try:
        return readers[path.suffix](path)
    except (
        safetensors.SafetensorError,
        pickle.UnpicklingError,
        BadZipFile,
        EOFError,
        RuntimeError,
        ValueError,
    ) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise TeacherError(
            f"teacher {uri}: cannot be read as plain tensors: {reason}",
            "a truncated file must be copied again; a pickle of whole objects is never run: "
            "save `model.state_dict()` as safetensors instead",
        ) from error


def _read_safetensors(path: Path) -> Checkpoint:
    with safetensors.safe_open(path, framework="pt") as file:
        facts = {key: _maybe_json(value) for key, value in (file.metadata() or {}).items()}
        return Checkpoint({key: file.get_tensor(key) for key in file.keys()}, facts)  # noqa: SIM118


def _maybe_json(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _read_torch(path: Path) -> Checkpoint:
    found = torch.load(path, map_location="cpu", weights_only=True)
    facts = dict(found) if isinstance(found, dict) else {}
    for wrapper in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(facts.get(wrapper), dict):
            found = facts[wrapper]
            break
    if not isinstance(found, dict) or not any(isinstance(value, Tensor) for value in found.values()):
        raise ValueError("it holds no state dict")
    state = {key.removeprefix("module."): value for key, value in found.items() if isinstance(value, Tensor)}
    return Checkpoint(state, {key: value for key, value in facts.items() if not isinstance(value, Tensor | dict)})


def fill(module: nn.Module, state: Mapping[str, Tensor], uri: str, architecture: str, data: Data) -> None:
    expected = module.state_dict()
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or extra:
        shown = ", ".join([f"missing {key}" for key in missing[:3]] + [f"unexpected {key}" for key in extra[:3]])
        raise TeacherError(
            f"teacher {uri}: is no {architecture}: {len(missing)} tensors missing, {len(extra)} unexpected ({shown})",
            f"name the architecture it was trained as: ?arch=NAME (one of {', '.join(MODELS)})",
        )
    other = [
        (key, tuple(state[key].shape), tuple(want.shape))
        for key, want in expected.items()
        if key in state and state[key].shape != want.shape
    ]
    if other and all(found[1:] == want[1:] and want[0] == data.num_classes for _, found, want in other):
        raise other_classes(uri, other[0][1][0], data)
    if other:
        key, found, want = other[0]
        raise TeacherError(
            f"teacher {uri}: is no {architecture} for {data.image_shape[0]}-channel images: "
            f"{key} is {found}, not {want}",
            "name its architecture with its width, for example ?arch=resnet20:2",
        )
    module.load_state_dict(state, strict=False)


def check_class_names(uri: str, facts: Mapping[str, Any], data: Data) -> None:
    classes = facts.get("classes")
    if not isinstance(classes, list | tuple):
        return
    if len(classes) != data.num_classes:
        raise other_classes(uri, len(classes), data)
    for index, (theirs, ours) in enumerate(zip(classes, data.classes, strict=True)):
        if str(theirs) != ours:
            raise TeacherError(
                f"teacher {uri}: class {index} is {theirs!r} there and {ours!r} in {data.name}",
                "a teacher must have been trained on the same classes in the same order",
            )


def other_classes(uri: str, found: int, data: Data) -> TeacherError:
    return TeacherError(
        f"teacher {uri}: {found} classes, but {data.name} has {data.num_classes}",
        "name a teacher trained on these classes",
    )

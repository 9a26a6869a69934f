"""Checkpoint files. Only tensors and metadata are read; code in a checkpoint is never run."""

import hashlib
import json
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from zipfile import BadZipFile

import safetensors
import safetensors.torch
import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from autodistill.data import Data
from autodistill.errors import TeacherError
from autodistill.models import MODELS
from autodistill.store import write_bytes

_SEAL = "autodistill:sha256"
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_DAMAGE = (
    safetensors.SafetensorError,
    pickle.UnpicklingError,
    BadZipFile,
    struct.error,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)
"""Errors of the two readers that were observed for truncated, flipped and random bytes, and related errors."""


class Facts(BaseModel):
    """Metadata of a checkpoint; None: the file does not contain the value."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    architecture: str | None = Field(None, validation_alias=AliasChoices("architecture", "arch"))
    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] | None = None
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    classes: tuple[str, ...] | None = None
    stem_stride: Literal[1, 2] | None = None
    image_size: Annotated[int, Field(ge=1)] | None = None
    """Height and width of the training images."""


class Checkpoint(NamedTuple):
    """Weights and metadata of a checkpoint."""

    state: dict[str, Tensor]
    facts: Facts


def save(
    path: Path,
    module: nn.Module,
    *,
    architecture: str,
    data: Data,
    stem_stride: int | None = None,
    more: Mapping[str, object] | None = None,
) -> None:
    """Write a network as safetensors, with the metadata that `load` needs.

    Args:
        path: The file.
        module: The network.
        architecture: Name of the network in the registry, with its width.
        data: The training data.
        stem_stride: Stride of the stem; None: chosen by the image size.
        more: Further metadata, as JSON values.

    Raises:
        StoreError: The folder is read-only, or the disk is full.
    """
    facts: dict[str, object] = {"architecture": architecture, "stem_stride": stem_stride}
    facts |= {"mean": data.mean, "std": data.std, "classes": data.classes, "image_size": data.image_shape[1]}
    facts |= more or {}
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    held = {key: json.dumps(value) for key, value in facts.items()}
    write_bytes(path, safetensors.torch.save(state, {**held, _SEAL: _sealed(state, held)}))


def read(path: Path, uri: str) -> Checkpoint:
    """Read a safetensors or torch file.

    Args:
        path: The file.
        uri: URI of the teacher, for error messages.

    Raises:
        TeacherError: The file is missing, unreadable, damaged or of another type, or contains more than tensors.
    """
    readers = {".safetensors": _read_safetensors, ".pt": _read_torch, ".pth": _read_torch, ".bin": _read_torch}
    try:
        if not path.is_file():
            found = "is a folder, not a file" if path.is_dir() else "no such file"
            raise TeacherError(
                f"teacher {uri}: {found}: {path}", "check the path, or leave --teacher out for the ladder"
            )
        if path.suffix not in readers:
            raise TeacherError(
                f"teacher {uri}: unknown file type {path.suffix!r} (allowed: {', '.join(readers)})",
                "save `model.state_dict()` as safetensors",
            )
        state, facts = readers[path.suffix](path)
    except _DAMAGE as error:
        raise TeacherError(
            f"teacher {uri}: {path} cannot be read as plain tensors: {_reason(error)}",
            "copy a damaged file again, or delete it if it is a ladder teacher, which is then trained again; "
            "from a file with more than tensors, save `model.state_dict()` as safetensors",
        ) from error
    return Checkpoint({_plain(key): value for key, value in state.items()}, _validated(facts, uri))


def fill(module: nn.Module, state: Mapping[str, Tensor], *, uri: str, architecture: str, data: Data) -> None:
    """Load weights into a network.

    Args:
        module: The network.
        state: The weights.
        uri: URI of the teacher, for error messages.
        architecture: Name of the network, for error messages.
        data: The study's data, for error messages.

    Raises:
        TeacherError: The weights belong to another architecture, width, number of classes or number of channels.
    """
    expected = module.state_dict()
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or extra:
        shown = ", ".join([f"missing {key}" for key in missing[:3]] + [f"unexpected {key}" for key in extra[:3]])
        raise TeacherError(
            f"teacher {uri}: not a {architecture}: {len(missing)} tensors missing, {len(extra)} unexpected ({shown})",
            f"the file holds another network; a file: URI can name it, ?arch=NAME (one of {', '.join(MODELS)})",
        )
    shapes = [(key, tuple(state[key].shape), tuple(want.shape)) for key, want in expected.items() if key in state]
    other = [(key, found, want) for key, found, want in shapes if found != want]
    if other:
        raise _misfit(other, uri=uri, architecture=architecture, data=data)
    module.load_state_dict(state, strict=False)


def check_class_names(uri: str, facts: Facts, data: Data) -> None:
    """Check that the classes in the metadata, if there are any, are those of the data in the same order.

    Raises:
        TeacherError: A class differs; the message names the first one.
    """
    if facts.classes is None:
        return
    if len(facts.classes) != data.num_classes:
        raise other_classes(uri, len(facts.classes), data)
    for index, (theirs, ours) in enumerate(zip(facts.classes, data.classes, strict=True)):
        if theirs != ours:
            raise TeacherError(
                f"teacher {uri}: class {index} is {theirs!r} there and {ours!r} in {data.name}",
                "a teacher must have been trained on the same classes in the same order",
            )


def other_classes(uri: str, found: int, data: Data) -> TeacherError:
    """Return the error for a teacher with `found` classes."""
    return TeacherError(
        f"teacher {uri}: {found} classes, but {data.name} has {data.num_classes}",
        "name a teacher trained on these classes",
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safetensors.safe_open(path, framework="pt") as file:
        held = dict(file.metadata() or {})
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    seal = held.pop(_SEAL, None)
    if seal is not None and seal != _sealed(state, held):
        raise ValueError("it was damaged since it was written (other checksum)")
    return state, {key: _maybe_json(value) for key, value in held.items()}


def _sealed(state: Mapping[str, Tensor], held: Mapping[str, str]) -> str:
    """Compute the SHA-256 of weights and metadata: safetensors has no checksum that would detect a flipped bit."""
    found = hashlib.sha256(json.dumps(dict(held), sort_keys=True).encode())
    for key, value in sorted(state.items()):
        found.update(f"{key}{value.dtype}{tuple(value.shape)}".encode())
        found.update(value.contiguous().view(-1).view(torch.uint8).numpy().data)
    return json.dumps(found.hexdigest())


def _maybe_json(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with warnings.catch_warnings():
        # For a newer pickle protocol, torch warns with a request to file an issue.
        warnings.simplefilter("ignore", UserWarning)
        found = torch.load(path, map_location="cpu", weights_only=True)
    held = found if isinstance(found, dict) else {}
    inner = next((held[key] for key in _WRAPPERS if isinstance(held.get(key), dict)), held)
    state = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError("it holds no state dict")
    return state, {str(key): value for key, value in held.items() if not isinstance(value, Tensor | dict)}


def _plain(key: str) -> str:
    """Remove the prefixes of DataParallel and `torch.compile` from the name of a tensor."""
    return key.removeprefix("module.").removeprefix("_orig_mod.")


def _reason(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, pickle.UnpicklingError):
        # torch's own message continues with instructions for running the code in the file.
        carried = re.search(r"GLOBAL ([\w.]+)", text)
        return f"it carries {carried[1]}, which is never run" if carried else "it is not a complete torch file"
    return text.splitlines()[0][:160] if text else type(error).__name__


def _validated(facts: Mapping[str, Any], uri: str) -> Facts:
    try:
        return Facts.model_validate(facts)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TeacherError(
            f"teacher {uri}: its metadata contain {where} = {first['input']!r:.80}: {first['msg']}",
            f"save it again with {first['loc'][0]} set right, or without it",
        ) from error


def _misfit(
    other: list[tuple[str, tuple[int, ...], tuple[int, ...]]], *, uri: str, architecture: str, data: Data
) -> TeacherError:
    """Return the error for tensors of wrong shape, given as (name, found shape, expected shape)."""
    key, found, want = other[0]
    channels = data.image_shape[0]
    if all(found[1:] == want[1:] and want[:1] == (data.num_classes,) and found for _, found, want in other):
        return other_classes(uri, found[0], data)
    if len(other) == 1 and len(found) == 4 and (found[0], *found[2:]) == (want[0], *want[2:]) and want[1] == channels:
        return TeacherError(
            f"teacher {uri}: takes images of {found[1]} channels, {data.name} has {channels}",
            f"name a teacher trained on {channels}-channel images",
        )
    return TeacherError(
        f"teacher {uri}: not a {architecture} for {channels}-channel images: {key} is {found}, not {want}",
        "name its architecture with its width, for example ?arch=resnet20:2",
    )

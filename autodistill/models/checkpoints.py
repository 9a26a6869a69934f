"""Checkpoint files. Only tensors and plain metadata are read; code in a checkpoint is never run.

A file is recognised by its first bytes, not by its suffix. Trainers wrap weights in dictionaries and put prefixes
before the names of tensors; `read` keeps every group of tensors of a file, and `models.matching` finds the fitting one.
"""

import argparse
import contextlib
import hashlib
import json
import pathlib
import pickle
import re
import struct
import types
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from zipfile import BadZipFile, ZipFile

import numpy as np
import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from autodistill.data import Data
from autodistill.models.uri import Uri, parse
from autodistill.store import write_bytes
from autodistill.tensors import raw_bytes
from autodistill.usercode import value as json_value

_SEAL = "autodistill:sha256"
DAMAGE = (
    safetensors.SafetensorError,
    pickle.UnpicklingError,
    BadZipFile,
    zlib.error,
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

_COPY_AGAIN = (
    "copy a damaged file again, or delete it if it is a ladder teacher, which is then trained again; "
    "from a file with more than tensors, save `model.state_dict()` as safetensors"
)
_NOT_CHECKPOINTS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "run `git lfs pull` in its repository"),
    (b"\x93NUMPY", "a NumPy array", "a table of logits is named as logits:FILE"),
    (b"\x89HDF", "an HDF5 file", "convert the weights to a torch state dict, or name exported logits as logits:FILE"),
    (b"\x08", "an ONNX or another protobuf file", "a network in ONNX format is named as onnx:FILE"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"<", "a web page", "download the file itself, not the page that shows it"),
    (b"{", "JSON text", "download the file itself: a server may have answered with a message"),
)
"""First bytes of files that people name by mistake, what the file is, and what to do."""
_PROGRAMS = (
    ("constants.pkl", "a TorchScript network", "torch.jit.load(...)"),
    ("archive_format", "a program of torch.export", "torch.export.load(...).module()"),
    ("serialized_exported_program.json", "a program of torch.export", "torch.export.load(...).module()"),
)
"""Members of zip files that hold a network with its code, what the file is, and how to load it."""

_NUMPY_FUNCTIONS = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.zeros(0).__reduce__()[0]}
_HARMLESS: list[Any] = [
    argparse.Namespace,
    types.SimpleNamespace,
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
    *((pathlib.PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((pathlib.PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
    *(
        (function, f"{module}.{name}")
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, function in _NUMPY_FUNCTIONS.items()
    ),
    *(kind for kind in vars(np.dtypes).values() if isinstance(kind, type)),
    np.dtype,
    np.ndarray,
]
"""Types in the metadata of checkpoints whose construction runs no code of the file."""

_AVERAGED = re.compile(
    r"(^|[._/])(?!no|wo)([a-z]+_)?(ema|swa|avg|averaged?|polyak|shadow)(_\w+)?([._/]|$)", re.IGNORECASE
)
_MOST_NESTED = 5


class Facts(BaseModel):
    """Metadata of a checkpoint; None: the file does not contain the value."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    architecture: str | None = None
    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] | None = None
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    """Mean and standard deviation as the file states them, of levels from 0 to 1 or from 0 to 255."""
    classes: tuple[str, ...] | None = None
    stem_stride: Literal[1, 2] | None = None
    image_size: Annotated[int, Field(ge=1)] | None = None
    """Height and width of the training images."""


class Weights(NamedTuple):
    """A group of tensors in a checkpoint."""

    place: str
    """Keys of the dictionaries that hold it, joined by dots; empty: the outermost."""
    state: dict[str, Tensor]


class Checkpoint(NamedTuple):
    """Weights and metadata of a file."""

    groups: tuple[Weights, ...]
    facts: Facts


def is_averaged(name: str) -> bool:
    """Return whether a place or a prefix in a checkpoint names averaged weights."""
    return bool(_AVERAGED.search(name))


def save(
    path: Path,
    module: nn.Module,
    *,
    architecture: str,
    data: Data,
    stem_stride: int | None = None,
    more: Mapping[str, object] | None = None,
) -> None:
    """Write a network as safetensors, with the metadata that `load` needs, and `more` metadata as JSON values.

    Raises:
        StoreError: The folder is read-only, or the disk is full.
    """
    facts: dict[str, object] = {
        "architecture": architecture,
        "stem_stride": stem_stride,
        "mean": data.mean,
        "std": data.std,
        "classes": data.classes,
        "image_size": data.image_shape[1],
        **(more or {}),
    }
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    held = {key: json.dumps(value) for key, value in facts.items()}
    write_bytes(path, safetensors.torch.save(state, {**held, _SEAL: _sealed(state, held)}))


def read(path: Path, uri: Uri) -> Checkpoint:
    """Read a safetensors or torch file of any suffix; `uri` is that of the network, for error messages.

    Raises:
        AutodistillError: The file is missing, unreadable, damaged or something else than a checkpoint, or contains more
            than tensors and harmless metadata.
    """
    try:
        if not path.is_file():
            raise uri.no_file(path)
        with path.open("rb") as file:
            start = file.read(64)
        is_safetensors = len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 40
        held, metadata = _read_safetensors(path) if is_safetensors else (_read_torch(path, uri, start), {})
        groups = tuple(_groups(held))
        if not groups:
            raise ValueError("it holds no state dict")
    except DAMAGE as error:
        raise uri.refused(f"{path} cannot be read as plain tensors: {_reason(error)}", _COPY_AGAIN) from error
    inner = _facts(_nested_values(held))
    outer = _facts({**held, **metadata})
    facts = {key: it for key, it in inner.items() if _is_fact(key, it)} | outer
    for option in _STATED.keys() & uri.options.keys():
        for key in _STATED[option]:
            facts.pop(key, None)
    return Checkpoint(groups, _validated(facts, uri))


def saved_state(path: Path) -> dict[str, Tensor]:
    """Return the weights in a file that `save` wrote; errors as for `read`."""
    return read(path, parse(f"file:{path}")).groups[0].state


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    seal = metadata.pop(_SEAL, None)
    if seal is not None and seal != _sealed(state, metadata):
        raise ValueError("it was damaged since it was written (other checksum)")
    return state, {key: json_value(text) for key, text in metadata.items()}


def _sealed(state: Mapping[str, Tensor], held: Mapping[str, str]) -> str:
    """Compute the SHA-256 of weights and metadata: safetensors has no checksum that would detect a flipped bit."""
    found = hashlib.sha256(json.dumps(dict(held), sort_keys=True).encode())
    for key, value in sorted(state.items()):
        found.update(f"{key}{value.dtype}{tuple(value.shape)}".encode())
        found.update(raw_bytes(value))
    return json.dumps(found.hexdigest())


def _read_torch(path: Path, uri: Uri, start: bytes) -> dict[str, Any]:
    for magic, what, hint in _NOT_CHECKPOINTS:
        if start.lstrip().startswith(magic):
            raise uri.refused(f"{path} is {what}", hint)
    if start.startswith(b"PK\x03\x04"):
        _check_archive(path, uri)
    with warnings.catch_warnings(), torch.serialization.safe_globals(_HARMLESS):
        # For a newer pickle protocol, torch warns with a request to file an issue.
        warnings.simplefilter("ignore", UserWarning)
        # As a stream: torch reads a path that ends in .safetensors as such a file.
        with path.open("rb") as file:
            found = torch.load(file, map_location="cpu", weights_only=True)
    return _as_mapping(found) or {}


def _check_archive(path: Path, uri: Uri) -> None:
    """Refuse a zip file of another kind than torch.save writes, or with a damaged member; torch checks no checksums."""
    with ZipFile(path) as archive:
        members = {name.rpartition("/")[2] for name in archive.namelist()}
        for member, what, call in _PROGRAMS:
            if member in members:
                hint = f"name a function that returns {call}: python:FILE.py:FACTORY"
                raise uri.refused(f"{path} is {what}, not a file of weights", hint)
        # torch writes zeros with set_crc32_options(False).
        damaged = archive.testzip() if any(it.CRC for it in archive.infolist()) else None
        if damaged:
            raise ValueError(f"its member {damaged!r} is damaged (other CRC-32)")


def _as_mapping(value: Any) -> dict[str, Any] | None:
    if isinstance(value, argparse.Namespace | types.SimpleNamespace):
        value = vars(value)
    return {str(key): it for key, it in value.items()} if isinstance(value, Mapping) else None


def _groups(held: Any, place: str = "", depth: int = 0) -> Iterator[Weights]:
    """Yield every dictionary that holds tensors, the outermost first."""
    found = _as_mapping(held)
    if found is None or depth > _MOST_NESTED:
        return
    state = {key: value for key, value in found.items() if isinstance(value, Tensor) and _is_plain(value)}
    if state:
        yield Weights(place, state)
    for key, value in found.items():
        yield from _groups(value, f"{place}.{key}".lstrip("."), depth + 1)


def _is_plain(value: Tensor) -> bool:
    return value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized


def _nested_values(held: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Return the values in dictionaries that hold no tensors, such as the arguments of a training script."""
    values: dict[str, Any] = {}
    for value in held.values():
        inner = _as_mapping(value) or {}
        if depth < _MOST_NESTED and not any(isinstance(it, Tensor) for it in inner.values()):
            values = {**_nested_values(inner, depth + 1), **inner, **values}
    return values


_STATED = {
    "norm": ("mean", "std"),
    "mean": ("mean", "std"),
    "std": ("mean", "std"),
    "classes": ("classes",),
    "size": ("image_size",),
    "arch": ("architecture",),
}
"""Facts that options of the URI replace."""
_NAMES: dict[str, tuple[str, ...]] = {
    "architecture": ("architecture", "arch", "model_name", "backbone_name"),
    "mean": ("mean", "image_mean", "img_mean", "pixel_mean", "norm_mean"),
    "std": ("std", "image_std", "img_std", "pixel_std", "norm_std"),
    "classes": ("classes", "class_names", "categories", "label_names", "idx_to_class", "id2label", "class_to_idx"),
    "stem_stride": ("stem_stride",),
    "image_size": ("image_size", "img_size", "input_size", "crop_size"),
}
"""Keys under which trainers write each fact, in order of precedence."""


def _facts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts in the metadata of a file, in the form that `Facts` has."""
    found: dict[str, Any] = {}
    for fact, names in _NAMES.items():
        given = {name: values[name] for name in names if values.get(name) is not None}
        if fact == "classes":  # not their number, which the head shows
            given = {name: it for name, it in given.items() if not isinstance(it, int)}
        if given:
            name = next(iter(given))
            found[fact] = _plain(given[name])
            if fact == "classes" and isinstance(found[fact], dict):
                found[fact] = class_names(found[fact], key=name)
    size = found.get("image_size")
    if isinstance(size, dict):
        size = [size[key] for key in ("shortest_edge", "height", "width") if key in size]
    if isinstance(size, list) and size:
        sides = [it for it in size if it not in (1, 3)] or size
        found["image_size"] = sides[-1]
    for name in ("mean", "std"):
        if isinstance(found.get(name), int | float):
            found[name] = [found[name]]
    return found


def _is_fact(name: str, value: Any) -> bool:
    """Return whether a value of a training script has the form of a fact: `mean` may be something else there."""
    try:
        Facts.model_validate({name: value})
    except ValidationError:
        return False
    return True


def class_names(classes: Sequence[Any] | Mapping[Any, Any], *, key: str = "") -> list[str]:
    """Return class names in the order of their indices, from a list, or from a dictionary in either direction.

    Args:
        classes: Names, or a dictionary.
        key: Where the dictionary was found. Names of classes may be numbers too; then the key tells the direction.
    """
    if isinstance(classes, Mapping):
        classes = {_plain(one): _plain(other) for one, other in classes.items()}
        indices_first, indices_last = (all(str(it).isdecimal() for it in side) for side in (classes, classes.values()))
        by_name = key == "class_to_idx" or not indices_first
        if key not in ("class_to_idx", "idx_to_class", "id2label"):
            by_name |= all(isinstance(it, int) for it in classes.values())
        if indices_last and by_name:
            classes = {index: name for name, index in classes.items()}
        with contextlib.suppress(ValueError):
            classes = [classes[index] for index in sorted(classes, key=int)]
    # Keras writes {"0": ["n01440764", "tench"]}.
    return [str(it[0] if isinstance(it, list) and it else it) for it in classes]


def _plain(value: Any) -> Any:
    """Return tensors, arrays and tuples as lists; nested lists of a single number per channel become flat."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        keys = [str(key).lower() for key in value]
        return list(value.values()) if keys in (["r", "g", "b"], ["red", "green", "blue"]) else dict(value)
    if isinstance(value, list | tuple):
        flat = [_plain(it) for it in value]
        while len(flat) == 1 and isinstance(flat[0], list):
            flat = flat[0]
        return [it[0] if isinstance(it, list) and len(it) == 1 else it for it in flat]
    return value


def _reason(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, pickle.UnpicklingError | BadZipFile):
        # torch's own message continues with instructions for running the code in the file.
        carried = re.search(r"GLOBAL ([\w.]+)", text)
        return f"it carries {carried[1]}, which is never run" if carried else "it is not a complete torch file"
    return text.splitlines()[0][:160] if text else type(error).__name__


def _validated(facts: Mapping[str, Any], uri: Uri) -> Facts:
    try:
        return Facts.model_validate(facts)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        options = ", ".join(f"{option}=" for option, replaced in _STATED.items() if first["loc"][0] in replaced)
        hint = f"replace it in the URI by {options}; or " if options else ""
        raise uri.refused(
            f"its metadata contain {where} = {first['input']!r:.80}: {first['msg']}",
            f"{hint}save it again with {first['loc'][0]} set right, or without it",
        ) from error

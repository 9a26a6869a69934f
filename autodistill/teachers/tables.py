"""Tables of logits: npy, npz and safetensors files with a row per example of a dataset."""

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import torch
from torch import Tensor, nn

from autodistill.data import Data
from autodistill.data.splits import Examples
from autodistill.local_files import local_path
from autodistill.models.preprocessing import Normalisation, class_columns, stated_classes
from autodistill.models.uri import Uri
from autodistill.records import TeacherCostRecord
from autodistill.teachers.teacher import ONE_VIEW, Teacher
from autodistill.tensors import log_probabilities

FORMS = (
    "allowed are: one array with a row per example, in the order of the data's own files, training files first; the "
    "same beside an array `names` of file names; arrays `train`, `validation`, `test`; or one array per file name"
)
PART_ARRAYS = ("train", "validation", "test")
"""Names of arrays that hold the examples of one part of a dataset each."""


class Table(NamedTuple):
    """Rows of logits as a file holds them."""

    rows: Tensor
    names: tuple[str, ...] | None = None
    """File name of each row; None: rows are in the order of the data's own files."""
    classes: tuple[str, ...] | None = None


def load_table(uri: Uri, data: Data, *, name: str) -> Teacher:
    """Load a teacher that is a table of logits.

    Raises:
        AutodistillError: The file is missing or damaged, has another number of rows or classes than the data, lacks
            an example, or holds numbers that are not finite.
    """
    path = local_path(uri.target)
    if not path.is_file():
        raise uri.no_file(path)
    if data.examples is None:
        raise uri.refused(f"{data.name} does not number its images", "name another teacher for these data")
    table = _read(path, uri)
    rows = _by_name(table, data.examples, uri) if table.names is not None else _in_order(table.rows, data.examples, uri)
    columns = class_columns(uri, stated_classes(uri) or table.classes, rows.shape[1], data)
    rows = rows if columns is None else rows[:, list(columns)]
    used = torch.cat([data.examples.train, data.examples.validation])
    bad = used[~rows[used].isfinite().all(dim=1)]
    if len(bad):
        files, first = data.examples.file_names(), int(bad.min())
        place = files[first] if files is not None else f"row {first}"
        raise uri.refused(
            f"logits are not finite for {len(bad)} of {len(used)} images of {data.name}, the first is {place}",
            "compute the table again",
        )
    notes: tuple[str, ...] = (ONE_VIEW,)
    sums = rows[used].sum(dim=1)
    if float(rows[used].min()) >= 0 and bool(((sums - 1).abs() < 1e-2).all()):
        rows = log_probabilities(rows)
        notes += ("its rows are probabilities: their logarithms are used as logits",)
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return Teacher(
        name=name,
        uri=uri.text,
        architecture="table of logits",
        module=nn.Identity().eval(),
        normalisation=Normalisation("none", (), ()),
        fingerprint=hashlib.sha256(repr(("logits of the plain view", content, columns)).encode()).hexdigest(),
        channels=data.image_shape[0],
        accepted=uri.choice("accept", ("yes", "no")) == "yes",
        notes=notes,
        cost=TeacherCostRecord(params=None, macs=None, size_bytes=None),
        table=rows,
    )


def _read(path: Path, uri: Uri) -> Table:
    """Read a file, which its first bytes identify."""
    with path.open("rb") as file:
        begin = file.read(9)
    try:
        if begin.startswith(b"\x93NUMPY"):
            return Table(_logits(np.load(path, allow_pickle=False), uri))
        if begin.startswith(b"PK"):
            with np.load(path, allow_pickle=False) as arrays:
                held = {key: arrays[key] for key in arrays.files}
            if not all(isinstance(it, np.ndarray) for it in held.values()):
                raise ValueError("it holds other things than arrays")
            return _arranged(held, {}, uri)
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return _arranged(tensors, file.metadata() or {}, uri)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        text = " ".join(str(error).split())[:120]
        raise uri.refused(
            f"{path} cannot be read as a table of logits ({type(error).__name__}: {text})",
            "write it with numpy.save, numpy.savez or safetensors, without Python objects",
        ) from error


def _arranged(arrays: Mapping[str, Any], metadata: Mapping[str, str], uri: Uri) -> Table:
    """Find the table among the arrays of a file."""
    listed = {key: tuple(json.loads(metadata[key])) for key in ("names", "classes") if key in metadata}
    listed |= {key: tuple(map(str, arrays[key].tolist())) for key in ("names", "classes") if key in arrays}
    names, classes = listed.get("names"), listed.get("classes")
    held = {key: it for key, it in arrays.items() if key not in ("names", "classes")}
    if len(held) == 1 and next(iter(held.values())).ndim == 2:
        rows = _logits(next(iter(held.values())), uri)
        if names is not None and len(names) != len(rows):
            raise uri.refused(f"{len(names)} names for {len(rows)} rows", "write a name per row")
        return Table(rows, names, classes)
    if held and set(held) <= set(PART_ARRAYS) and all(it.ndim == 2 for it in held.values()):
        parts = [held[key] for key in PART_ARRAYS if key in held]
        return Table(torch.cat([_logits(it, uri) for it in parts]), None, classes)
    if held and all(it.ndim == 1 for it in held.values()) and len({len(it) for it in held.values()}) == 1:
        return Table(torch.stack([_logits(it, uri) for it in held.values()]), tuple(held), classes)
    shapes = ", ".join(f"{key} {tuple(it.shape)}" for key, it in list(held.items())[:4])
    raise uri.refused(f"holds {shapes or 'no array'}", FORMS)


def _logits(array: Any, uri: Uri) -> Tensor:
    found = array if isinstance(array, Tensor) else torch.from_numpy(array) if array.dtype.kind == "f" else None
    if found is None or not found.is_floating_point():
        raise uri.refused(f"holds numbers of type {array.dtype}", "logits are floating-point numbers")
    if array.ndim not in (1, 2):
        raise uri.refused(f"holds an array of shape {tuple(array.shape)}", FORMS)
    return found.float()


def _in_order(rows: Tensor, examples: Examples, uri: Uri) -> Tensor:
    """Return rows that are in the order of the data's own files. The test part may be missing."""
    total = sum(examples.parts.values())
    without_test = total - examples.parts.get("test", 0)
    if rows.ndim != 2 or len(rows) not in (total, without_test):
        counts = " + ".join(f"{name} {count}" for name, count in examples.parts.items())
        allowed = f"{total}" if total == without_test else f"{total}, or {without_test} without test"
        raise uri.refused(
            f"{len(rows)} rows; allowed are {allowed} ({counts})",
            "write a row for every image of the data's own files, in their order, or name the rows by file",
        )
    return rows


def _by_name(table: Table, examples: Examples, uri: Uri) -> Tensor:
    """Return rows by number of the example. A row belongs to the file whose path ends with its name."""
    assert table.names is not None
    files = examples.file_names()
    if files is None:
        raise uri.refused(
            "its rows have names, and the data's files hold many images each", "write a row per image in their order"
        )
    place = {name.removeprefix("./"): row for row, name in enumerate(table.names)}
    if len(place) < len(table.names):
        raise uri.refused("a name occurs twice", "write one row per file")
    rows, owner = [0] * len(files), dict[int, str]()
    for number in torch.cat([examples.train, examples.validation]).sort().values.tolist():
        file = files[number]
        found = next((place[ending] for ending in _endings(file) if ending in place), None)
        if found is None:
            raise uri.refused(f"no row for {file}", f"name the rows as the files are named: {_endings(file)[-2]}")
        if found in owner:
            raise uri.refused(
                f"{table.names[found]!r} names both {owner[found]} and {file}", "name the rows with their folder"
            )
        rows[number], owner[found] = found, file
    return table.rows[rows]


def _endings(file: str) -> Sequence[str]:
    """Return a path and its endings, the longest first: `/a/b.jpg`, `a/b.jpg`, `b.jpg`."""
    parts = file.split("/")
    return [file, *("/".join(parts[place:]) for place in range(1, len(parts)))]

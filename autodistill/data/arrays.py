"""Images and labels in the arrays of an .npz file, in the forms in which people keep them.

Arrays of objects are never read, because that would run code of the file.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, Shaped, UInt8
from numpy.lib.npyio import NpzFile

from autodistill.data.folders import SPLITS
from autodistill.errors import DataError, near

KINDS = {"images": ("images", "image", "x", "data"), "labels": ("labels", "label", "y", "targets")}
NAMES = ("classes", "class_names", "label_names", "target_names", "categories")
"""Arrays that name the classes."""
NEEDED = (
    "needed are images and labels, or x_train, y_train, x_test, y_test, or train_images, train_labels, ...; "
    "write them with numpy.savez(FILE, images=..., labels=...)"
)
UNREADABLE = (OSError, ValueError, AttributeError, EOFError, KeyError, zipfile.BadZipFile)
"""Errors of NumPy for damaged files, for other files, and for arrays of objects."""

Array = Shaped[np.ndarray, "..."]
Pixels = UInt8[np.ndarray, "images height width *channels"] | Shaped[np.ndarray, "images height width *channels"]


@dataclass(frozen=True)
class Part:
    """A split: pairs of image and label. Images are bytes, or numbers from 0 to 1."""

    images: Pixels
    labels: Int64[np.ndarray, " images"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Array, Any]:
        return self.images[row], self.labels[row]


class Keys(NamedTuple):
    """Which arrays of a file are used."""

    parts: dict[str, dict[str, str]]
    """Split and kind (`images`, `labels`) to the key."""
    names: str | None
    """Key of the names of the classes."""
    unused: tuple[str, ...]


def find_keys(path: Path) -> Keys:
    """Find the arrays of images and labels by their names; the arrays themselves are not read.

    A name is that of a kind, alone or with that of a split: `images`, `x_train`, `test_labels`. Other arrays, such as
    `image_ids`, never stand for them.

    Raises:
        DataError: The file is no .npz file, lacks an array, or two arrays would do.
    """
    try:
        file = np.load(path, allow_pickle=False)
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read as .npz ({error})", NEEDED) from error
    if not isinstance(file, NpzFile):
        raise DataError(f"{path}: a single array (.npy), not an .npz file", NEEDED)
    with file:
        held = list(file.files)
    parts: dict[str, dict[str, str]] = {}
    for key in held:
        words = key.lower().split("_")
        split = next((split for split, names in SPLITS.items() if {*names} & {*words}), "train")
        rest = "_".join(word for word in words if word not in SPLITS[split])
        kind = next((kind for kind, names in KINDS.items() if rest in names), None)
        if kind is None:
            continue
        if kind in parts.setdefault(split, {}):
            raise DataError(
                f"{path}: {parts[split][kind]} and {key} could both be the {kind} of {split}", "remove or rename one"
            )
        parts[split][kind] = key
    if "train" not in parts or not all(len(part) == len(KINDS) for part in parts.values()):
        raise DataError(f"{path}: holds {', '.join(held) or 'no arrays'}", NEEDED)
    names = next((key for name in NAMES for key in held if key.lower() == name), None)
    used = {key for part in parts.values() for key in part.values()} | {names}
    return Keys(parts, names, tuple(key for key in held if key not in used))


def read_arrays(path: Path, keys: Keys) -> tuple[dict[str, Part], tuple[str, ...] | None]:
    """Read the images and labels of each split, and the names of the classes, if the file shows them.

    Raises:
        DataError: An array is damaged, is of another kind than images or labels, or the arrays do not fit together.
    """
    flat = [key for part in keys.parts.values() for key in part.values()]
    found = {key: _read(path, key) for key in [*flat, *([keys.names] if keys.names else [])]}
    pixels = _scaled({part["images"]: found[part["images"]] for part in keys.parts.values()}, path)
    labels = {split: _labels(found[part["labels"]], path, split) for split, part in keys.parts.items()}
    stated = None if keys.names is None else tuple(map(text, found[keys.names].ravel().tolist()))
    numbers, classes = _numbered(labels, stated, path)
    parts = {}
    for split, part in keys.parts.items():
        images, own = _channels_last(pixels[part["images"]], path, part["images"]), numbers[split]
        if len(images) != len(own):
            raise DataError(
                f"{path}: {len(own)} labels for {len(images)} {split} images ({part['labels']}, {part['images']})",
                "give each image a label",
            )
        parts[split] = Part(images, own)
    return parts, classes


def _read(path: Path, key: str) -> Array:
    try:
        with np.load(path, allow_pickle=False) as file:
            array: Array = file[key]
    except UNREADABLE as error:
        hint = "write it again"
        if "pickle" in str(error).lower() or "object" in str(error).lower():
            hint = "arrays of objects are never read: they can hold code; write numbers or texts, numpy.stack(list)"
        raise DataError(f"{path}: {key}: cannot be read as .npz ({error})", hint) from error
    return array


def _scaled(arrays: Mapping[str, Array], path: Path) -> dict[str, Array]:
    """Return images by key as bytes or as numbers from 0 to 1. If some have values from 0 to 255, all do."""
    bytes_everywhere = False
    for key, it in arrays.items():
        if it.dtype.kind not in "buif":
            raise DataError(f"{path}: {key}: values of {it.dtype}", "images are bytes, or numbers from 0 to 1 or 255")
        if not it.size:
            raise DataError(f"{path}: {key}: no image, its shape is {it.shape}", "give each class some images")
        low, high = float(it.min()), float(it.max())
        if not (low >= 0 and high <= 255):  # nan fails every comparison
            raise DataError(
                f"{path}: {key}: values of {it.dtype} from {low:g} to {high:g}",
                "allowed are bytes, and numbers from 0 to 1 or 0 to 255: save images before their normalisation",
            )
        bytes_everywhere |= it.dtype.kind in "ui" or high > 1
    if not bytes_everywhere:
        return dict(arrays)
    kept = (np.uint8, np.bool_)
    return {key: it if it.dtype in kept else np.rint(it).astype(np.uint8) for key, it in arrays.items()}


def _channels_last(images: Array, path: Path, key: str) -> Pixels:
    if images.ndim == 4 and images.shape[3] not in (1, 3, 4) and images.shape[1] in (1, 3, 4):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim not in (3, 4):
        shapes = "(N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels"
        raise DataError(f"{path}: {key}: images have the shape {images.shape}", f"allowed are {shapes}")
    return images


def _labels(labels: Array, path: Path, split: str) -> Array:
    """Return the labels of a split as a vector of integers or of texts."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        one_hot = labels.dtype.kind in "buif" and bool(((labels == 0) | (labels == 1)).all())
        wrong = np.flatnonzero((labels != 0).sum(axis=1) != 1) if one_hot else np.arange(1)
        if len(wrong):
            raise DataError(
                f"{path}: {split} labels have the shape {labels.shape}; row {wrong[0]} is {labels[wrong[0]]!s:.60}",
                "allowed are a number or name for each image, or one-hot rows: a single 1 among zeros",
            )
        labels = labels.argmax(axis=1)
    labels = labels.reshape(-1)
    if labels.dtype.kind == "f":
        broken = np.flatnonzero(~(np.isfinite(labels) & (labels == np.rint(labels))))
        if len(broken):
            raise _wrong_label(labels, int(broken[0]), path, split)
        return labels.astype(np.int64)
    if labels.dtype.kind in "bui":
        return labels.astype(np.int64)
    if labels.dtype.kind in "SU":
        return np.array([text(it) for it in labels.tolist()], dtype=str)
    raise DataError(f"{path}: {split} labels of {labels.dtype}", "allowed are integers from 0, or names")


def text(name: object) -> str:
    """Return the name of a class as text; bytes are UTF-8."""
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _wrong_label(labels: Array, row: int, path: Path, split: str) -> DataError:
    return DataError(
        f"{path}: row {row} of {split} has the label {labels[row]!s:.60}",
        "labels must be integers from 0 to the number of classes - 1, or names",
    )


def _numbered(
    labels: Mapping[str, Array], stated: tuple[str, ...] | None, path: Path
) -> tuple[dict[str, Int64[np.ndarray, " images"]], tuple[str, ...] | None]:
    """Return labels as numbers of classes, and the names of the classes; None: the numbers are their names.

    Args:
        labels: Labels of each split.
        stated: Names of the classes in the file.
        path: The file, for errors.
    """
    kinds = {it.dtype.kind == "U" for it in labels.values()}
    if len(kinds) > 1:
        raise DataError(f"{path}: some labels are numbers, others names", "write numbers or names for all splits")
    values = sorted({it for array in labels.values() for it in np.unique(array).tolist()})
    return (_by_name if kinds == {True} else _by_number)(labels, values, stated, path)


def _by_name(
    labels: Mapping[str, Array], values: list[str], stated: tuple[str, ...] | None, path: Path
) -> tuple[dict[str, Int64[np.ndarray, " images"]], tuple[str, ...]]:
    """Number names in their sorted order, as numbers where all are numbers, or in the order that the file states."""
    if all(it.isdecimal() for it in values):
        values.sort(key=int)
    order = {name: number for number, name in enumerate(stated or values)}
    for split, array in labels.items():
        for row, name in enumerate(array.tolist()):
            if name not in order:
                raise DataError(
                    f"{path}: row {row} of {split} has the label {name!r}, which names no class ({near(name, order)})",
                    "write the label as the class is named, or add the name",
                )
    return {split: _mapped(it, order) for split, it in labels.items()}, stated or tuple(values)


def _by_number(
    labels: Mapping[str, Array], values: list[int], stated: tuple[str, ...] | None, path: Path
) -> tuple[dict[str, Int64[np.ndarray, " images"]], tuple[str, ...] | None]:
    """Number labels from 0, if they do not begin there: from 1 to K, or any others, in their order."""
    for split, array in labels.items():
        if (negative := np.flatnonzero(array < 0)).size:
            raise _wrong_label(array, int(negative[0]), path, split)
    from_one = stated is not None and values[0] == 1 and values[-1] == len(stated)
    if values[0] == 0 or (stated and not from_one):
        return dict(labels), stated
    order = {number: place for place, number in enumerate(range(1, values[-1] + 1) if stated else values)}
    return {split: _mapped(it, order) for split, it in labels.items()}, stated or tuple(map(str, values))


def _mapped(labels: Array, order: Mapping[Any, int]) -> Int64[np.ndarray, " images"]:
    return np.array([order[it] for it in labels.tolist()], dtype=np.int64)

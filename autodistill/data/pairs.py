"""Datasets of (image, label) pairs: arrays in a file, the user's own code, torchvision's classification sets.

Their images are read once into a store. The rows of a sample are read at every start: they find the store, and two
reads of them must agree.
"""

import hashlib
import inspect
import math
import mmap
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from http.client import HTTPException
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from autodistill import usercode
from autodistill.config import DataSpec
from autodistill.data.arrays import find_keys, read_arrays, text
from autodistill.data.decoding import ImageHeader, Progress, kind_of, square, write_at
from autodistill.data.folders import SPLITS, decoders, stamp
from autodistill.data.reading import reading_of, stored_size
from autodistill.data.splits import Content, Files, Labels, Numbers, short_name
from autodistill.errors import AutodistillError, ConfigError, DataError, StoreError, lookup
from autodistill.formatting import plural
from autodistill.store import cache_root, digest
from autodistill.usercode import errors_as, said

FORMAT = 3
"""Version of the reading of pairs. Increase it when equal pairs give other pixels, classes or descriptions."""
ARRAYS = 5
"""The same for arrays."""
SAMPLED = 32
"""Rows of each split that are read at every start, evenly spaced."""

Rows = Any
"""A dataset with `len(rows)` and `rows[i]`, a pair of image and label."""

FLAG = {"train": {"train": True}, "test": {"train": False}}
TWO = {"train": {"split": "train"}, "test": {"split": "test"}}
THREE = {"train": {"split": "train"}, "validation": {"split": "val"}, "test": {"split": "test"}}
VALIDATED = {"train": {"split": "train"}, "test": {"split": "val"}}
WHOLE: dict[str, dict[str, object]] = {"train": {}}
TORCHVISION: dict[str, Mapping[str, Mapping[str, object]]] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "EMNIST", "FashionMNIST", "KMNIST", "MNIST", "QMNIST", "USPS"), FLAG),
    **dict.fromkeys(("Food101", "GTSRB", "STL10", "SVHN", "StanfordCars"), TWO),
    **dict.fromkeys(("DTD", "FGVCAircraft", "Flowers102", "PCAM", "RenderedSST2"), THREE),
    **dict.fromkeys(("ImageNet", "Imagenette"), VALIDATED),
    **dict.fromkeys(("Caltech101", "Caltech256", "EuroSAT", "SEMEION", "SUN397"), WHOLE),
    "Country211": {"train": {"split": "train"}, "validation": {"split": "valid"}, "test": {"split": "test"}},
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
}
"""Classification sets of torchvision, and the arguments that give their splits."""


def arrays(spec: DataSpec) -> Files:
    """Find the arrays of `arrays:FILE.npz`: `images` and `labels`, or such a pair for each split.

    Names of arrays are those of torchvision, Keras and MedMNIST: `x_train` and `y_train`, `train_images` and
    `train_labels`. Images are (N, H, W), (N, H, W, C) or (N, C, H, W), of bytes or of numbers in [0, 1] or [0, 255].
    Optional `classes` names the classes.

    Raises:
        DataError: The file is missing or damaged, or its arrays do not fit together.
    """
    target = unquote(spec.name.partition(":")[2])
    path = Path(spec.root, target).expanduser()
    if not path.is_file():
        what = f"{path} is a folder, not a file" if path.exists() else f"{path}: no such file"
        raise _refused(
            spec,
            what if target else "names no file",
            "write arrays:FILE.npz with the path of a file of NumPy arrays, as in --data arrays:images.npz",
        )
    keys = find_keys(path)

    def read() -> tuple[dict[str, Rows], tuple[str, ...] | None]:
        parts, classes = read_arrays(path, keys)
        return _in_order(parts), classes

    found = _files(
        spec, place=str(path.resolve()), read=read, index=lambda: digest(ARRAYS, decoders(), "arrays", stamp(path))
    )
    unused = f"arrays of the file that are not used: {', '.join(keys.unused)}"
    return replace(found, left_out=(unused,)) if keys.unused else found


def user_code(spec: DataSpec) -> Files:
    """Find the dataset of `python:FILE.py:FACTORY?key=value`: a function that returns a dataset, or one for each split.

    A dataset has `len(dataset)` and `dataset[i]`, an image and an integer label. Images are those of Pillow, arrays
    (H, W, C) or tensors (C, H, W) of bytes or of numbers in [0, 1]. `dataset.classes` names the classes.

    Raises:
        DataError: The code cannot be imported or fails, or returns something else.
    """
    target, arguments = _target(spec)
    refused = partial(_refused, spec)
    factory, code = usercode.function(target, refused)
    found = usercode.call(target, factory, arguments, refused)
    parts = _parts(found, spec)
    source = hashlib.sha256(code).hexdigest(), target.rpartition(":")[2], sorted(arguments.items())
    return _files(
        spec,
        place=target,
        read=lambda: (parts, _class_names(parts, spec)),
        index=lambda: digest(FORMAT, decoders(), source, _sampled(parts, spec)),
    )


def code_place(spec: DataSpec) -> str:
    """Return the file or the module of a dataset of the user's code; empty for another dataset."""
    return _target(spec)[0].rpartition(":")[0] if spec.name.startswith("python:") else ""


def torchvision_set(spec: DataSpec) -> Files:
    """Find a classification set of torchvision: `torchvision:NAME?key=value`, below `data.root` (default: `data`).

    Raises:
        ConfigError: The name is unknown.
        DataError: Its files are not there.
    """
    target, _ = _target(spec)
    parts = _torchvision_parts(spec, download=False)

    def read() -> tuple[dict[str, Rows], tuple[str, ...] | None]:
        if target != "ImageNet":
            return parts, _class_names(parts, spec)
        from torchvision.models import ResNet18_Weights

        return parts, tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])  # the dataset has two classes "crane"

    return _files(
        spec,
        place=f"{target} {Path(spec.root or 'data').resolve()}",
        read=read,
        index=lambda: digest(FORMAT, decoders(), spec.name, _sampled(parts, spec)),
    )


def download(spec: DataSpec) -> None:
    """Download a dataset with torchvision, which compares the published checksums; nothing if it is there.

    Raises:
        ConfigError: torchvision does not have the dataset.
        DataError: The download failed.
    """
    names = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion-mnist": "FashionMNIST"}
    if spec.name in names:
        spec = spec.model_copy(update={"name": f"torchvision:{names[spec.name]}"})
    if not spec.name.startswith("torchvision:"):
        allowed = ", ".join([*names, "torchvision:NAME"])
        raise ConfigError(f"--download: {spec.name!r} cannot be downloaded", f"leave it out; it works for {allowed}")
    _torchvision_parts(spec, download=True)


def _refused(spec: DataSpec, message: str, hint: str = "") -> AutodistillError:
    return DataError(f"data.name = {spec.name!r}: {message}", hint)


def _target(spec: DataSpec) -> tuple[str, dict[str, Any]]:
    """Return the target of a dataset's URI, and its options."""
    target, _, query = spec.name.partition(":")[2].partition("?")
    pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)
    return unquote(target), {key: usercode.value(text) for key, text in pairs}


def _torchvision_parts(spec: DataSpec, *, download: bool) -> dict[str, Rows]:
    from torchvision import datasets

    name, options = _target(spec)
    splits = lookup("dataset of torchvision", name, TORCHVISION)
    root, make = Path(spec.root or "data").expanduser(), getattr(datasets, name)
    own = {"root", "download", "transform", "target_transform"}.union(*splits.values())
    if refused := sorted(own & {*options}):
        raise _refused(
            spec,
            f"the option {refused[0]!r} cannot be set",
            "leave it out: the splits are read as torchvision has them, data.root is the folder, --download downloads,"
            " and a study augments the images itself",
        )
    can_download = any("download" in inspect.signature(of).parameters for of in make.__mro__[:-1])
    if download and not can_download:
        raise _refused(spec, "torchvision cannot download this dataset", f"put its files below {root}")
    # Some sets would download without being asked.
    more = {"download": download} if can_download else {}
    try:
        return {split: make(root, **arguments, **options, **more) for split, arguments in splits.items()}
    except (RuntimeError, OSError, HTTPException) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        hint = f"get it with --download, where this machine may, or put its files below {root}, or set data.root"
        doing = "the download failed" if download else f"not found below {root}"
        raise _refused(spec, f"{doing} ({reason})", hint) from error
    except (TypeError, ValueError) as error:
        raise _refused(spec, f"{error}", f"options are arguments of torchvision.datasets.{name}") from error


def _parts(found: Any, spec: DataSpec) -> dict[str, Rows]:
    """Return the dataset of each split that a user's function returns."""
    parts = {"train": found}
    if isinstance(found, Mapping):
        keys = {name: split for split, names in SPLITS.items() for name in names}
        unknown = [key for key in found if str(key).lower() not in keys]
        if unknown:
            raise _refused(spec, f"returns a dict with {unknown[0]!r}", f"allowed are {', '.join(keys)}")
        parts = {keys[str(key).lower()]: it for key, it in found.items()}
        if "train" not in parts:
            raise _refused(spec, "returns a dict without 'train'", "add the training split")
        parts = _in_order(parts)
    for split, rows in parts.items():
        if isinstance(rows, tuple) or not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
            raise _refused(
                spec,
                f"returns a {type(rows).__name__} for {split}",
                "return a dataset with len() and [i], or a dict such as {'train': ..., 'test': ...}",
            )
        if len(rows) == 0:
            raise _refused(spec, f"the {split} split is empty", "return at least one image of each class")
    return parts


def _in_order(parts: Mapping[str, Rows]) -> dict[str, Rows]:
    """Return the splits in their order. As for folders, a validation split is for test where there is no test split."""
    found = {split: parts[split] for split in SPLITS if split in parts}
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
    return found


def _class_names(parts: Mapping[str, Rows], spec: DataSpec) -> tuple[str, ...] | None:
    """Return the names of the classes that the training split states; None: it states none.

    Raises:
        DataError: Another split states other names, or another order.
    """
    stated = {split: _names_of(rows) for split, rows in parts.items()}
    names = stated["train"]
    for split, other in stated.items():
        if names is None or other is None or other == names:
            continue
        differing = [
            f"label {label} is {one!r} in train and {two!r} in {split}"
            for label, (one, two) in enumerate(zip(names, other, strict=False))
            if one != two
        ]
        said = differing[0] if differing else f"train has {len(names)} and {split} has {len(other)}"
        raise _refused(
            spec, f"train and {split} name other classes: {said}", "let `classes` of every split be the same list"
        )
    return names


def _names_of(rows: Rows) -> tuple[str, ...] | None:
    found = getattr(rows, "classes", None)
    if isinstance(found, np.ndarray):
        found = found.tolist()
    if not isinstance(found, list | tuple) or not found:
        return None
    # Some sets of torchvision give a class several names.
    return tuple(text(it[0] if isinstance(it, list | tuple) and it else it) for it in found)


def _files(
    spec: DataSpec,
    *,
    place: str,
    read: Callable[[], tuple[dict[str, Rows], tuple[str, ...] | None]],
    index: Callable[[], str],
) -> Files:
    return Files(
        name=short_name(spec.name)[:40] or "pairs",
        place=(place, spec.name, f"image_size {spec.image_size}"),
        index=index,
        read=lambda progress: _content(spec, *read(), progress),
    )


def _sample(rows: Rows) -> list[int]:
    return sorted({int(it) for it in np.linspace(0, len(rows) - 1, min(SAMPLED, len(rows)))})


def _sampled(parts: Mapping[str, Rows], spec: DataSpec) -> str:
    """Return a digest of the numbers of rows and of a sample of them.

    Raises:
        DataError: Two reads of a row differ.
    """
    found = hashlib.sha256()
    for split, rows in parts.items():
        found.update(f"{split} {len(rows)};".encode())
        for number in _sample(rows):
            one, other = (_row_digest(rows, number, split, spec) for _ in range(2))
            if one != other:
                raise _refused(
                    spec,
                    f"two reads of row {number} of {split} differ",
                    "return images without random augmentation: a study augments them itself, the same way for "
                    "every trial (data.crop, data.flip)",
                )
            found.update(one)
    return found.hexdigest()


def _row_digest(rows: Rows, number: int, split: str, spec: DataSpec) -> bytes:
    image, label = _pair(rows, number, split, spec)
    return hashlib.sha256(f"{image.mode} {image.size} {label};".encode() + image.tobytes()).digest()


def _pair(rows: Rows, number: int, split: str, spec: DataSpec) -> tuple[Any, int]:
    """Return a row's image, as Pillow's, and its label."""
    where = f"row {number} of {split}"
    with errors_as(lambda error: _refused(spec, f"{where} cannot be read: {said(error)}", "check the dataset")):
        pair = rows[number]
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise _refused(spec, f"{where} is a {type(pair).__name__}", "each row must be a pair: image, integer label")
    image, label = pair
    if isinstance(label, Tensor | np.ndarray | np.generic) and math.prod(label.shape) == 1:
        label = label.item()
    if not isinstance(label, int) or isinstance(label, bool) or label < 0:
        raise _refused(
            spec, f"{where} has the label {label!r:.60}", "labels must be integers from 0 to the number of classes - 1"
        )
    return _as_image(image, where, spec), label


def _as_image(image: Any, where: str, spec: DataSpec) -> Any:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, Tensor):
        image = image.detach().cpu().numpy()
        image = image.transpose(1, 2, 0) if image.ndim == 3 else image
    if not isinstance(image, np.ndarray):
        raise _refused(spec, f"{where}: the image is a {type(image).__name__}", "return an image of Pillow or an array")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise _refused(
            spec,
            f"{where}: an image of the shape {image.shape}",
            "allowed are (H, W, C) arrays and (C, H, W) tensors with 1, 3 or 4 channels",
        )
    return Image.fromarray(_bytes(image, where, spec))


def _bytes(image: np.ndarray, where: str, spec: DataSpec) -> UInt8[np.ndarray, "..."]:
    if not image.size:
        raise _refused(spec, f"{where}: an image of the shape {image.shape}", "return images with pixels")
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    if image.dtype.kind == "b":
        return image.astype(np.uint8) * 255
    if image.dtype.kind == "f" and image.min() >= 0 and image.max() <= 1:
        return np.asarray(np.rint(image * 255), dtype=np.uint8)
    low, high = image.min(), image.max()
    advice = "return images before their normalisation"
    if low >= 0 and high <= 255:
        advice = "return image.astype(np.uint8)"
    raise _refused(
        spec,
        f"{where}: values of {image.dtype} from {low:g} to {high:g}",
        f"allowed are bytes, and floats from 0 to 1: {advice}",
    )


def _header(image: Any) -> ImageHeader:
    return ImageHeader(image.width, image.height, kind_of(image), False, False)


def _content(spec: DataSpec, parts: Mapping[str, Rows], classes: tuple[str, ...] | None, progress: Progress) -> Content:
    sample = [_header(_pair(rows, number, split, spec)[0]) for split, rows in parts.items() for number in _sample(rows)]
    stored, margin = stored_size(sample, spec.image_size)
    channels = 1 if all(header.kind == "grey" for header in sample) else 3
    headers: list[ImageHeader] = []
    total, done = sum(map(len, parts.values())), 0
    labels = {split: np.empty(len(rows), dtype=np.int64) for split, rows in parts.items()}
    try:
        cache_root().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_root(), buffering=0) as file:
            for split, rows in parts.items():
                for number in range(len(rows)):
                    image, labels[split][number] = _pair(rows, number, split, spec)
                    headers.append(_header(image))
                    pixels = _pixels(image, stored, channels, f"row {number} of {split}", spec)
                    write_at(file, done * len(pixels), pixels)
                    done += 1
                    progress(done, total)
            spool = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise StoreError(
            f"{cache_root()}: cannot be written ({error.strerror or error})",
            "let AUTODISTILL_CACHE name a folder on a disk with more space",
        ) from error
    size = stored * stored * channels
    _check_names(spec, labels, classes)
    names, absent = _without_absent(classes, labels)
    if len(names) < 2:
        raise _refused(spec, "one class, at least 2 are needed", "add images of another class")
    reading = reading_of(headers, stored=stored)
    if reading is not None and absent:
        reading = reading.model_copy(update={"left_out": (absent,)})

    def write(target: Path, offset: int, places: Numbers, progress: Progress) -> None:
        with target.open("r+b", buffering=0) as file:
            for number, place in enumerate(places.tolist()):
                write_at(file, offset + place * size, spool[number * size : (number + 1) * size])

    return Content(Labels(names, labels), (channels, stored, stored), write, margin=margin, reading=reading)


def _pixels(image: Any, size: int, channels: int, where: str, spec: DataSpec) -> bytes:
    kind = kind_of(image)
    try:
        upright = square(image, size=size)
    except ValueError as error:
        raise _refused(spec, f"{where}: {error}", "convert the image to 8 bits a channel") from error
    if channels == 3:
        return bytes(upright.tobytes())
    if kind != "grey":
        raise _refused(spec, f"{where} is {kind}, images before it are grey", "return images of one kind")
    return bytes(upright.getchannel(0).tobytes())


def _check_names(spec: DataSpec, labels: Mapping[str, Numbers], classes: tuple[str, ...] | None) -> None:
    if classes is None:
        return
    if twice := [it for it, count in Counter(classes).items() if count > 1]:
        raise _refused(spec, f"two classes are called {twice[0]!r}", "give every class a name of its own")
    most = max(int(it.max()) for it in labels.values())
    if most >= len(classes):
        raise _refused(spec, f"label {most}, but {len(classes)} classes are named", "name every class")


def _without_absent(classes: tuple[str, ...] | None, labels: dict[str, Numbers]) -> tuple[tuple[str, ...], str]:
    """Renumber labels in place, without classes that no split has; return the names of the others, and a line on these.

    Without names, the labels are the names, which may be large numbers.
    """
    present = np.unique(np.concatenate([*labels.values()])).tolist()
    for split, own in labels.items():
        labels[split] = np.searchsorted(present, own)
    total, kept = len(classes) if classes else present[-1] + 1, {*present}

    def name(label: int) -> str:
        return classes[label] if classes else str(label)

    shown = [*islice((name(label) for label in range(total) if label not in kept), 3)]
    absent = total - len(present)
    line = f"{plural(absent, 'class')} without images: {', '.join(shown)}{', ...' * (absent > 3)}"
    return tuple(map(name, present)), line if absent else ""

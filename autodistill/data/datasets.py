"""Datasets: scikit-learn's digits, Fashion-MNIST, CIFAR-10, CIFAR-100, and folders of images.

Nothing is downloaded. `folder:PATH` is a folder with one folder of images per class, as in torchvision's ImageFolder.
Its images are decoded as RGB.
"""

import contextlib
import gzip
import math
import os
import re
import stat
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.exceptions import VisibleDeprecationWarning
from torch import Tensor

from autodistill.config import DataSpec
from autodistill.data.decoding import Job, Progress, decode_files, opened
from autodistill.data.images import write_rows
from autodistill.data.splits import Content, Files, Labels, Numbers, Source, Split, chunks
from autodistill.errors import ConfigError, DataError
from autodistill.store import digest

DEFAULT_ROOT = "data"
DEBIAN_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
FASHION_FILES = tuple(
    f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
)
FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

FORMAT = 1
"""Version of the decoding of image folders. Increase it when equal files give other pixels."""


def digits(spec: DataSpec) -> Source:
    """Load scikit-learn's 1,797 handwritten digits of 8x8 pixels; grey levels 0 to 16 become 0 to 240."""
    from sklearn.datasets import load_digits

    _refuse(spec, "root", "image_size")
    found = load_digits()
    images = torch.from_numpy((found.images * 15).astype(np.uint8))[:, None]
    train = Split(images, torch.from_numpy(found.target).long())
    return Source(tuple(str(digit) for digit in range(10)), {"train": train})


def fashion_mnist(spec: DataSpec) -> Files:
    """Find Fashion-MNIST (Xiao, Rasul and Vollgraf 2017) in four idx files, gzipped or not.

    The files may be in `spec.root` (default: the folder of Debian's package) or in torchvision's folder below it
    (default: below `data`).
    """
    _refuse(spec, "image_size")
    looked = []
    own = Path(spec.root or DEBIAN_FASHION_MNIST).expanduser()
    for folder in (own, Path(spec.root or DEFAULT_ROOT).expanduser() / "FashionMNIST" / "raw"):
        paths = [folder / name if (folder / name).is_file() else folder / f"{name}.gz" for name in FASHION_FILES]
        missing = [name for name, path in zip(FASHION_FILES, paths, strict=True) if not path.is_file()]
        if not missing:
            break
        looked.append(f"{folder}: missing {', '.join(missing)}")
    else:
        raise DataError(
            f"Fashion-MNIST not found (each file may end in .gz): {'; '.join(looked)}",
            "install Debian's package dataset-fashion-mnist, or run: python -c "
            f'"from torchvision.datasets import FashionMNIST as d; d({DEFAULT_ROOT!r}, download=True)"; or set'
            " data.root",
        )

    def read() -> Source:
        train, test = _idx_split(*paths[:2]), _idx_split(*paths[2:])
        return Source(FASHION_CLASSES, {"train": train, "test": test})

    return _files("fashion-mnist", folder, paths, read)


def cifar(spec: DataSpec, *, classes: int) -> Files:
    """Find CIFAR-10, or CIFAR-100 with its 100 fine labels, in torchvision's layout below the root."""
    from torchvision import datasets

    _refuse(spec, "image_size")
    dataset: Any = datasets.CIFAR10 if classes == 10 else datasets.CIFAR100
    root = Path(spec.root or DEFAULT_ROOT).expanduser()
    folder = root / dataset.base_folder
    names = [name for name, _ in (*dataset.train_list, *dataset.test_list)] + [dataset.meta["filename"]]
    missing = [name for name in names if not (folder / name).is_file()]
    call = f'python -c "from torchvision.datasets import {dataset.__name__} as d; d({str(root)!r}, download=True)"'
    if missing:
        raise DataError(f"{folder}: missing {', '.join(missing)}", f"get them with: {call}, or set data.root")

    def read() -> Source:
        try:
            with warnings.catch_warnings():
                # NumPy 2.4.0 to 2.4.4 warns about dtypes in the published pickles; later versions do not (numpy#31177).
                warnings.simplefilter("ignore", VisibleDeprecationWarning)
                found = {part: dataset(str(root), train=part == "train", download=False) for part in ("train", "test")}
        except RuntimeError as error:
            # torchvision compares checksums before it unpickles, so only the published files are unpickled.
            raise DataError(f"{folder}: a file is damaged (other checksum than published)", f"renew: {call}") from error
        parts = {
            part: Split(torch.from_numpy(one.data).permute(0, 3, 1, 2), torch.tensor(one.targets))
            for part, one in found.items()
        }
        return Source(tuple(found["train"].classes), parts)

    return _files(dataset.__name__.lower(), folder, [folder / name for name in names], read)


def _refuse(spec: DataSpec, *keys: str) -> None:
    """Refuse settings that have no effect on this dataset, and a path in its name."""
    kind, _, path = spec.name.partition(":")
    if path:
        raise ConfigError(f"data.name = {spec.name!r}: {kind} takes no path", f"write {kind}, or folder:{path}")
    for key in keys:
        if value := getattr(spec, key):
            raise ConfigError(f"data.{key} = {value!r} has no effect on {kind}", f"remove data.{key}")


def _files(name: str, folder: Path, paths: Sequence[Path], read: Callable[[], Source]) -> Files:
    """Describe a dataset whose files are read into memory as a whole when its images are first decoded."""

    def content() -> Content:
        source = read()
        channels, height, width = source.parts["train"].images.shape[1:]
        return Content(source.labels, (channels, height, width), partial(_write, source))

    def index() -> str:
        return digest(name, [(path.name, *_stamp(path)) for path in paths])

    return Files(name=name, place=(str(folder.resolve()), name), index=index, read=content)


def _write(source: Source, target: Path, offset: int, places: Numbers, progress: Progress) -> None:
    done = 0
    with target.open("r+b", buffering=0) as file:
        for part in source.parts.values():
            for chunk in chunks(part.images):
                write_rows(file, offset, chunk, places[done : done + len(chunk)])
                done += len(chunk)
                progress(done, len(places))


def _stamp(path: str | Path) -> tuple[int, int]:
    """Return size and modification time (ns) of a file; zeros if it does not exist."""
    try:
        about = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return about.st_size, about.st_mtime_ns


def _idx_split(images_path: Path, labels_path: Path) -> Split:
    images, labels = read_idx(images_path, axes=3), read_idx(labels_path, axes=1)
    if len(images) != len(labels):
        raise DataError(f"{labels_path}: {len(labels)} labels for {len(images)} images", "get all four files again")
    most = len(FASHION_CLASSES) - 1
    if labels.max() > most:
        raise DataError(f"{labels_path}: label {int(labels.max())}, allowed 0 to {most}", "get the file again")
    return Split(images[:, None], labels.long())


def read_idx(path: Path, *, axes: int) -> UInt8[Tensor, "..."]:
    """Read an idx file of unsigned bytes: magic number, big-endian shape, values (LeCun's MNIST page).

    Args:
        path: The file, gzipped if its name ends in .gz.
        axes: Number of axes that it must have.

    Raises:
        DataError: The file is not a complete idx file of bytes with this number of axes.
    """
    hint = "get the file again"
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})", hint) from error
    header = 4 * (1 + axes)
    if len(content) < header or content[:4] != bytes([0, 0, 8, axes]):
        raise DataError(f"{path}: not an idx file of bytes with {axes} axes", hint)
    shape = [int(size) for size in np.frombuffer(content, dtype=">i4", count=axes, offset=4)]
    if len(content) != header + math.prod(shape) or not all(shape):
        raise DataError(f"{path}: {len(content) - header} values, its header says {shape}", hint)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).view(shape)


def image_folder(spec: DataSpec) -> Files:
    """Find the images of `folder:PATH`.

    PATH contains class folders, or `train` and at least one of `val` and `test`, each with class folders. If only one
    of `val` and `test` exists, it is the test set. A relative PATH starts at `spec.root`.

    Raises:
        DataError: Folders are missing, empty or inconsistent. Reading the images raises this error for files that are
            not images and for sizes that differ.
        ConfigError: PATH is missing.
    """
    path = Path(spec.root, spec.name.partition(":")[2]).expanduser()
    if not spec.name.partition(":")[2]:
        raise ConfigError("data.name = 'folder' names no folder", "write folder:PATH")
    if not path.is_dir():
        raise DataError(f"{path}: no such folder", "write folder:PATH with the folder that holds the class folders")
    found = _images(path)
    return Files(
        name=re.sub(r"[^A-Za-z0-9._-]", "-", path.resolve().name)[:40] or "folder",
        place=(str(path.resolve()), f"image_size {spec.image_size}"),
        index=lambda: _index(found),
        read=lambda: _content(found, size=spec.image_size),
        again=partial(_decoded, found),
    )


def _images(path: Path) -> dict[str, Any]:
    """Return torchvision's ImageFolder of the training, validation and test part."""
    found = {part: _scan(place) for part, place in _parts(path).items()}
    _check_classes(path, {part: tuple(images.classes) for part, images in found.items()})
    for file, _ in (sample for images in found.values() for sample in images.samples):
        with contextlib.suppress(FileNotFoundError):  # a dangling link: decoding reports it with its reason
            if not stat.S_ISREG(os.stat(file).st_mode):  # opening a named pipe, for example, would wait for ever
                raise DataError(f"{file}: not a regular file", "remove it, or put an image in its place")
    if "test" not in found and "val" in found:
        found["test"] = found.pop("val")
    keys = {"train": "train", "validation": "val", "test": "test"}
    return {part: found[key] for part, key in keys.items() if key in found}


def _index(found: dict[str, Any]) -> str:
    """Compute the digest of names, sizes and times of the files, and of the versions of the decoders."""
    import PIL
    import torchvision
    from PIL import features

    decoders = ("RGB, bilinear", PIL.__version__, features.version("jpg"), torchvision.__version__)
    files = [
        (part, file[len(images.root) :], label, *_stamp(file))
        for part, images in found.items()
        for file, label in images.samples
    ]
    return digest(FORMAT, decoders, [tuple(images.classes) for images in found.values()], files)


def _parts(path: Path) -> dict[str, Path]:
    """Return the folder of each split. Without `train`, `val` or `test`, `path` itself is the training split."""
    folders = {entry.name: entry for entry in sorted(path.iterdir()) if entry.is_dir()}
    parts: dict[str, Path] = {
        name: folders[name]
        for name in ("train", "val", "test")
        if name in folders and any(entry.is_dir() for entry in folders[name].iterdir())
    }
    if not parts:
        return {"train": path}
    others = sorted(set(folders) - set(parts))
    if others:
        raise DataError(
            f"{path}: {', '.join(others)} beside {', '.join(parts)}: class folders and splits are mixed up",
            "either only class folders, or only train, val and test with class folders in each",
        )
    if "train" not in parts:
        raise DataError(f"{path}: {', '.join(parts)} without train", f"add {path / 'train'} with class folders")
    return parts


def _scan(path: Path) -> Any:
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import is_image_file

    loose = sorted(entry.name for entry in path.iterdir() if entry.is_file() and is_image_file(entry.name))
    if loose:
        raise DataError(
            f"{path}: {len(loose)} images lie beside the class folders, the first is {loose[0]}",
            "move each into the folder of its class: the folder's name is the class",
        )
    try:
        return ImageFolder(str(path))
    except FileNotFoundError as error:
        raise DataError(f"{path}: {error}", "put the images of each class into a folder of its own") from error


def _check_classes(path: Path, classes: dict[str, tuple[str, ...]]) -> None:
    if len(classes["train"]) < 2:
        raise DataError(f"{path}: one class ({classes['train'][0]}), at least 2 are needed", "add another class folder")
    for part, names in classes.items():
        for name in names:
            if (shown := name.encode(errors="backslashreplace").decode()) != name:
                raise DataError(f"{path}: the name of class folder {shown} is not UTF-8", "rename the folder")
        missing, extra = (
            ", ".join(sorted(set(a) - set(b))) for a, b in ((classes["train"], names), (names, classes["train"]))
        )
        if missing or extra:
            raise DataError(
                f"{path}: the class folders of {part} differ from those of train (missing: {missing or 'none'};"
                f" only in {part}: {extra or 'none'})",
                "give every split the same class folders",
            )


def _content(found: dict[str, Any], *, size: int | None) -> Content:
    samples = [sample for images in found.values() for sample in images.samples]
    side = size or _common_size(path for path, _ in samples)
    labels = {part: np.array([label for _, label in images.samples]) for part, images in found.items()}

    def write(target: Path, offset: int, places: Numbers, progress: Progress) -> None:
        job = Job(str(target), offset, side, resize=size is not None)
        rows = [(place, file) for place, (file, _) in zip(places.tolist(), samples, strict=True)]
        decode_files(rows, [_stamp(file)[0] for file, _ in samples], job=job, progress=progress)

    return Content(Labels(tuple(found["train"].classes), labels), (3, side, side), write)


def _decoded(found: dict[str, Any], numbers: Numbers, size: int) -> UInt8[Tensor, "examples 3 height width"]:
    """Decode examples by their numbers, resized to `size`."""
    samples = [sample for images in found.values() for sample in images.samples]
    rows = [(row, samples[number][0]) for row, number in enumerate(numbers.tolist())]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "images")
        target.touch()
        job = Job(str(target), 0, size, resize=True)
        decode_files(rows, [_stamp(file)[0] for _, file in rows], job=job, progress=lambda done, total: None)
        pixels = np.fromfile(target, dtype=np.uint8).reshape(len(rows), size, size, 3)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _common_size(paths: Iterable[str]) -> int:
    """Return the side of the first image that can be opened; 1 if none can, which decoding then reports."""
    for path in paths:
        with contextlib.suppress(DataError), opened(path) as image:
            width, height = image.size
            break
    else:
        return 1
    if width != height:
        raise DataError(f"{path}: {width}x{height} is not square", "set data.image_size: images are resized to it")
    return int(width)

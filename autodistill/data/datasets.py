"""Datasets that are known by name: scikit-learn's digits, Fashion-MNIST, CIFAR-10 and CIFAR-100."""

import gzip
import math
import warnings
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.exceptions import VisibleDeprecationWarning
from torch import Tensor

from autodistill.config import DataSpec
from autodistill.data.decoding import Progress
from autodistill.data.folders import stamp
from autodistill.data.images import write_images
from autodistill.data.splits import Content, Files, Source, Split, chunks
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
            " data.root, or add --download",
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
        raise DataError(
            f"{folder}: missing {', '.join(missing)}", f"get them with --download, or with: {call}, or set data.root"
        )

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

    def content(_: Progress) -> Content:
        source = read()
        channels, height, width = source.parts["train"].images.shape[1:]
        images = [chunk for part in source.parts.values() for chunk in chunks(part.images)]
        return Content(source.labels, (channels, height, width), partial(write_images, images))

    return Files(
        name=name,
        place=(str(folder.resolve()), name),
        index=lambda: digest(name, [(path.name, *stamp(path)) for path in paths]),
        read=content,
    )


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

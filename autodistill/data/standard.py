"""The standard sets: scikit-learn's digits, Fashion-MNIST, CIFAR-10 and CIFAR-100. Nothing is downloaded."""

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

from autodistill.config.models import DataSpec
from autodistill.data.content import chunks
from autodistill.data.decoders import Progress
from autodistill.data.image_store import write_rows
from autodistill.data.source import Content, Files, Numbers, Source, Split, refuse, stamp
from autodistill.errors import DataError
from autodistill.store import digest

DEFAULT_ROOT = "data"
DEBIAN_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
FASHION_PARTS = ("train", "t10k")
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def digits(spec: DataSpec) -> Source:
    """Scikit-learn's 1,797 handwritten digits at their real 8x8; grey levels 0 to 16 become 0 to 240."""
    from sklearn.datasets import load_digits

    refuse(spec, "root", "image_size")
    found = load_digits()
    images = torch.from_numpy((found.images * 15).astype(np.uint8))[:, None]
    return Source(tuple(str(digit) for digit in range(10)), Split(images, torch.from_numpy(found.target).long()))


def fashion_mnist(spec: DataSpec) -> Files:
    """Fashion-MNIST (Xiao, Rasul and Vollgraf 2017) from four idx files, gzipped or not.

    They are looked for in the root itself, in torchvision's place below it, and in that of Debian's package.
    """
    refuse(spec, "image_size")
    torchvision_place = Path(spec.root or DEFAULT_ROOT).expanduser() / "FashionMNIST" / "raw"
    own_place = Path(spec.root).expanduser() if spec.root else Path(DEBIAN_FASHION_MNIST)
    folder = _fashion_folder(own_place, torchvision_place)
    paths = [path for part in FASHION_PARTS for path in _fashion_paths(folder, part)]

    def read() -> Source:
        train, test = (_idx_split(folder, part, classes=len(FASHION_CLASSES)) for part in FASHION_PARTS)
        return Source(FASHION_CLASSES, train=train, test=test)

    return _files("fashion-mnist", folder, paths, read)


def cifar10(spec: DataSpec) -> Files:
    """CIFAR-10 in torchvision's layout below the root."""
    from torchvision.datasets import CIFAR10

    return _cifar(spec, CIFAR10)


def cifar100(spec: DataSpec) -> Files:
    """CIFAR-100 in torchvision's layout below the root, with its 100 fine labels."""
    from torchvision.datasets import CIFAR100

    return _cifar(spec, CIFAR100)


def _files(name: str, folder: Path, paths: Sequence[Path], read: Callable[[], Source]) -> Files:
    """Files that are read into memory all at once, the first time."""

    def content() -> Content:
        source = read()
        channels, height, width = source.train.images.shape[1:]
        return Content(source.labels, (channels, height, width), partial(_write, source))

    def index() -> str:
        return digest(name, [(path.name, *stamp(path)) for path in paths])

    return Files(name=name, place=(str(folder.resolve()), name), index=index, read=content)


def _write(source: Source, target: Path, offset: int, places: Numbers, progress: Progress) -> None:
    done = 0
    with target.open("r+b", buffering=0) as file:
        for part in (source.train, source.validation, source.test):
            for chunk in chunks(part.images) if part is not None else ():
                write_rows(file, offset, chunk, places[done : done + len(chunk)])
                done += len(chunk)
                progress(done, len(places))


def _cifar(spec: DataSpec, dataset: Any) -> Files:
    refuse(spec, "image_size")
    root = Path(spec.root or DEFAULT_ROOT).expanduser()
    folder = root / dataset.base_folder
    names = [name for name, _ in (*dataset.train_list, *dataset.test_list)] + [dataset.meta["filename"]]
    missing = [name for name in names if not (folder / name).is_file()]
    call = f'python -c "from torchvision.datasets import {dataset.__name__} as d; d({str(root)!r}, download=True)"'
    if missing:
        raise DataError(f"{folder}: missing {', '.join(missing)}", f"get them with: {call}, or set data.root")

    def read() -> Source:
        return _cifar_source(dataset, root, folder, call)

    return _files(dataset.__name__.lower(), folder, [folder / name for name in names], read)


def _cifar_source(dataset: Any, root: Path, folder: Path, call: str) -> Source:
    try:
        with warnings.catch_warnings():
            # NumPy 2.4.0 to 2.4.4 warns of how the published pickles spell a dtype; later ones do not (numpy#31177).
            warnings.simplefilter("ignore", VisibleDeprecationWarning)
            train, test = (dataset(str(root), train=train, download=False) for train in (True, False))
    except RuntimeError as error:
        # torchvision compares checksums before it unpickles: only the published files are ever opened.
        raise DataError(f"{folder}: a file is damaged (other checksum than published)", f"renew: {call}") from error
    return Source(tuple(train.classes), train=_cifar_split(train), test=_cifar_split(test))


def _cifar_split(dataset: Any) -> Split:
    return Split(torch.from_numpy(dataset.data).permute(0, 3, 1, 2), torch.tensor(dataset.targets))


def _fashion_paths(folder: Path, part: str) -> list[Path]:
    return [path for name in _fashion_files(part) if (path := _found(folder, name)) is not None]


def _fashion_files(part: str) -> tuple[str, str]:
    return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"


def _fashion_folder(*folders: Path) -> Path:
    names = [name for part in FASHION_PARTS for name in _fashion_files(part)]
    missing = {folder: [name for name in names if _found(folder, name) is None] for folder in folders}
    for folder in folders:
        if not missing[folder]:
            return folder
    looked = "; ".join(f"{folder}: missing {', '.join(missing[folder])}" for folder in folders)
    raise DataError(
        f"Fashion-MNIST not found (each file may end in .gz): {looked}",
        "install Debian's package dataset-fashion-mnist, or run: python -c "
        f'"from torchvision.datasets import FashionMNIST as d; d({DEFAULT_ROOT!r}, download=True)"; or set data.root',
    )


def _found(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _idx_split(folder: Path, part: str, *, classes: int) -> Split:
    paths = _fashion_paths(folder, part)
    images, labels = (read_idx(path, axes=axes) for path, axes in zip(paths, (3, 1), strict=True))
    if len(images) != len(labels):
        raise DataError(f"{paths[1]}: {len(labels)} labels for {len(images)} images", "get all four files again")
    if labels.max() >= classes:
        raise DataError(f"{paths[1]}: label {int(labels.max())}, allowed 0 to {classes - 1}", "get the file again")
    return Split(images[:, None], labels.long())


def read_idx(path: Path, *, axes: int) -> UInt8[Tensor, "..."]:
    """Read an idx file of unsigned bytes: magic number, big-endian shape, values (LeCun's MNIST page).

    Args:
        path: The file; gzipped where its name ends in .gz.
        axes: How many axes it must have.

    Raises:
        DataError: the file is no whole idx file of this kind.
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

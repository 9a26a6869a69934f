"""Tiny datasets in the file formats of the real ones."""

import gzip
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.exceptions import VisibleDeprecationWarning
from PIL import Image

FASHION = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def forbid_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes() + array.tobytes()


def write_fashion(folder: Path, *, zipped: bool = True, train: int = 60, test: int = 30) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for part, count in zip(("train", "t10k"), (train, test), strict=True):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            content = idx(array)
            (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(content, 1) if zipped else content)
    return folder


class WarnsWhenRead:
    """Unpickling it warns as the published files do under NumPy 2.4.0 to 2.4.4."""

    def __reduce__(self) -> Any:
        return warnings.warn, (
            "dtype(): align should be passed as Python or NumPy boolean",
            VisibleDeprecationWarning,
        )


def write_cifar(root: Path, *, classes: int, per_class: int = 6) -> None:
    """Write CIFAR-10 or -100 as torchvision expects them; image i of a file has i as its first red pixel."""
    fine = classes == 100
    folder = root / ("cifar-100-python" if fine else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    batches = ("train", "test") if fine else (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
    for name in batches:
        count = classes * (per_class if fine else 2)
        data = rng.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)
        data[:, 0] = np.arange(count) % 256
        labels = [i % classes for i in range(count)]
        entry = {"data": data, "fine_labels" if fine else "labels": labels, "note": WarnsWhenRead()}
        (folder / name).write_bytes(pickle.dumps(entry))
    names = [f"class {i}" for i in range(classes)]
    meta = ("meta", "fine_label_names") if fine else ("batches.meta", "label_names")
    (folder / meta[0]).write_bytes(pickle.dumps({meta[1]: names}))


def accept_any_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny files cannot have the published checksums; that they exist is still checked."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file())


def write_images(
    folder: Path, classes: Sequence[str], *, count: int = 6, size: tuple[int, int] = (10, 10), mode: str = "RGB"
) -> Path:
    rng = np.random.default_rng(2)
    for label in classes:
        (folder / label).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / label / f"{i}.png")
    return folder


def write_arrays(path: Path, **more: Any) -> Path:
    """Write 60 training and 30 test images of 12x12 pixels and three classes."""
    rng = np.random.default_rng(3)
    arrays = {
        "x_train": rng.integers(0, 256, (60, 12, 12, 3), dtype=np.uint8),
        "y_train": np.arange(60) % 3,
        "x_test": rng.integers(0, 256, (30, 12, 12, 3), dtype=np.uint8),
        "y_test": np.arange(30) % 3,
    }
    np.savez(path, **{**arrays, **more})
    return path


DATASET = """
import numpy as np
from PIL import Image


class Photos:
    classes = ["cat", "dog"]

    def __init__(self, rows, size):
        self.rows, self.size = rows, size

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        rng = np.random.default_rng(self.rows[row])
        return Image.fromarray(rng.integers(0, 256, (self.size, self.size, 3), dtype=np.uint8)), row % 2


def make(count=40, size=12):
    return {"train": Photos(range(count), size), "Valid": Photos(range(900, 910), size)}
"""


def write_dataset(path: Path, code: str = DATASET) -> Path:
    path.write_text(code)
    return path

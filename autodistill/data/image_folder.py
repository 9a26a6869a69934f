"""`folder:PATH`: one folder of images per class, as torchvision's ImageFolder reads them, resident as RGB."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from autodistill.data.source import Source, Split
from autodistill.errors import ConfigError, DataError
from autodistill.machine import memory_bytes
from autodistill.space.models import DataSpec

MEMORY_SHARE = 0.5
"""Of the machine's memory: cutting the splits needs the images twice for a moment."""


def folder(spec: DataSpec) -> Source:
    """Read PATH, which holds class folders, or `train` and `val` or `test` (or all three) with class folders each.

    With `train` and one other, that other is the test set. A relative PATH starts at the root.

    Raises:
        DataError: folders that are empty or mixed up, files that are no images, sizes that differ, too many images
            for the memory.
    """
    path = Path(spec.root, spec.name.partition(":")[2]).expanduser()
    if not spec.name.partition(":")[2]:
        raise ConfigError("data.name = 'folder' names no folder", "write folder:PATH")
    if not path.is_dir():
        raise DataError(f"{path}: no such folder", "write folder:PATH with the folder that holds the class folders")
    found = {part: _scan(place) for part, place in _parts(path).items()}
    _check_classes(path, {part: tuple(images.classes) for part, images in found.items()})
    total = sum(len(images.samples) for images in found.values())
    size = spec.image_size or _common_size(found["train"].samples[0][0])
    _check_memory(path, total=total, size=size)
    splits = {
        part: _read(images.samples, size=size, resize=spec.image_size is not None) for part, images in found.items()
    }
    if "test" not in splits and "val" in splits:
        splits["test"] = splits.pop("val")
    return Source(tuple(found["train"].classes), splits["train"], splits.get("val"), splits.get("test"))


def _parts(path: Path) -> dict[str, Path]:
    """Where the splits lie: `path` itself is the training images unless it holds folders of class folders."""
    folders = {entry.name: entry for entry in sorted(path.iterdir()) if entry.is_dir()}
    parts: dict[str, Path] = {
        name: folders[name] for name in ("train", "val", "test") if name in folders and _holds_folders(folders[name])
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


def _holds_folders(path: Path) -> bool:
    return any(entry.is_dir() for entry in path.iterdir())


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
        raise DataError(
            f"{path}: one class ({classes['train'][0]}), at least 2 are needed", "add another class folder"
        )
    for part, names in classes.items():
        missing, extra = (
            ", ".join(sorted(set(a) - set(b))) for a, b in ((classes["train"], names), (names, classes["train"]))
        )
        if missing or extra:
            raise DataError(
                f"{path}: the class folders of {part} differ from those of train (missing: {missing or 'none'};"
                f" only in {part}: {extra or 'none'})",
                "give every split the same class folders",
            )


def _common_size(first: str) -> int:
    with _opened(first) as image:
        width, height = image.size
    if width != height:
        raise DataError(f"{first}: {width}x{height} is not square", "set data.image_size: images are resized to it")
    return int(width)


def _check_memory(path: Path, *, total: int, size: int) -> None:
    needed, limit = total * 3 * size * size, MEMORY_SHARE * memory_bytes()
    if needed > limit:
        raise DataError(
            f"{path}: {total} images of {size}x{size} need {needed / 1e9:.1f} GB, allowed {limit / 1e9:.1f} GB"
            f" ({MEMORY_SHARE:.0%} of this machine's memory)",
            "set a smaller data.image_size, or name a folder with fewer images",
        )


def _read(samples: list[tuple[str, int]], *, size: int, resize: bool) -> Split:
    images = torch.empty((len(samples), 3, size, size), dtype=torch.uint8, memory_format=torch.channels_last)
    for row, (path, _) in enumerate(samples):
        images[row] = _pixels(path, size=size, resize=resize)
    return Split(images, torch.tensor([label for _, label in samples]))


def _pixels(path: str, *, size: int, resize: bool) -> UInt8[Tensor, "3 size size"]:
    import numpy as np
    from PIL import Image

    with _opened(path) as image:
        if not resize and image.size != (size, size):
            raise DataError(
                f"{path}: {image.width}x{image.height}, images before it are {size}x{size}",
                "set data.image_size: images are resized to it",
            )
        resized = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Open an image of 8 bits a channel; that it cannot be read, now or by what is done with it, is a DataError."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{path}: pixels of mode {image.mode}, allowed are 8 bits a channel", "convert it")
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        hint = "remove the file, or put a whole one in its place"
        raise DataError(f"{path}: not a whole image ({error})", hint) from error

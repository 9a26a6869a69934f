"""`folder:PATH`: one folder of images per class, as torchvision's ImageFolder finds them, decoded as RGB."""

import contextlib
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from autodistill.config.models import DataSpec
from autodistill.data.decoders import Progress, decode_files
from autodistill.data.source import Content, Files, Labels, Numbers, stamp
from autodistill.decoding import Job, opened
from autodistill.errors import ConfigError, DataError
from autodistill.store import digest

PARTS = {"train": "train", "validation": "val", "test": "test"}
"""Part of a dataset, and the folder that holds it."""

FORMAT = 1
"""Of what is decoded: another one when equal files give other pixels."""


def folder(spec: DataSpec) -> Files:
    """Find the images of PATH: class folders, or `train` and `val` or `test` (or all three) with class folders each.

    With `train` and one other, that other is the test set. A relative PATH starts at the root.

    Raises:
        DataError: folders that are empty or mixed up. Reading the files raises it for those that are no images, and
            for sizes that differ.
    """
    path = Path(spec.root, spec.name.partition(":")[2]).expanduser()
    if not spec.name.partition(":")[2]:
        raise ConfigError("data.name = 'folder' names no folder", "write folder:PATH")
    if not path.is_dir():
        raise DataError(f"{path}: no such folder", "write folder:PATH with the folder that holds the class folders")
    found = _images(path)

    def read() -> Content:
        return _content(found, size=spec.image_size)

    return Files(
        name=re.sub(r"[^A-Za-z0-9._-]", "-", path.resolve().name)[:40] or "folder",
        place=(str(path.resolve()), f"image_size {spec.image_size}"),
        index=lambda: _index(found),
        read=read,
    )


def _images(path: Path) -> dict[str, Any]:
    """The images of the training, validation and test part, as torchvision's ImageFolder lists them."""
    found = {part: _scan(place) for part, place in _parts(path).items()}
    _check_classes(path, {part: tuple(images.classes) for part, images in found.items()})
    _check_regular(file for images in found.values() for file, _ in images.samples)
    if "test" not in found and "val" in found:
        found["test"] = found.pop("val")
    return {part: found[key] for part, key in PARTS.items() if key in found}


def _index(found: dict[str, Any]) -> str:
    """Digest of names, sizes and times of the files, and of what decodes them."""
    import PIL
    import torchvision
    from PIL import features

    decoders = ("RGB, bilinear", PIL.__version__, features.version("jpg"), torchvision.__version__)
    files = [
        (part, file[len(images.root) :], label, *stamp(file))
        for part, images in found.items()
        for file, label in images.samples
    ]
    return digest(FORMAT, decoders, [tuple(images.classes) for images in found.values()], files)


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


def _check_regular(files: Iterable[str]) -> None:
    """Refuse what is named like an image and is no file: to open a named pipe, for example, waits for ever."""
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # a dangling link, which decoding names with its reason
            if not stat.S_ISREG(os.stat(file).st_mode):
                raise DataError(f"{file}: not a regular file", "remove it, or put an image in its place")


def _content(found: dict[str, Any], *, size: int | None) -> Content:
    samples = [sample for images in found.values() for sample in images.samples]
    side = size or _common_size(path for path, _ in samples)
    labels = {part: np.array([label for _, label in images.samples]) for part, images in found.items()}

    def write(target: Path, offset: int, places: Numbers, progress: Progress) -> None:
        job = Job(str(target), offset, side, resize=size is not None)
        rows = [(place, file) for place, (file, _) in zip(places.tolist(), samples, strict=True)]
        decode_files(rows, [stamp(file)[0] for file, _ in samples], job=job, progress=progress)

    classes = tuple(found["train"].classes)
    return Content(Labels(classes, **labels), (3, side, side), write)


def _common_size(paths: Iterable[str]) -> int:
    """Height and width of the first image that can be opened; 1 where none can, which decoding will tell."""
    for path in paths:
        with contextlib.suppress(DataError), opened(path) as image:
            width, height = image.size
            break
    else:
        return 1
    if width != height:
        raise DataError(f"{path}: {width}x{height} is not square", "set data.image_size: images are resized to it")
    return int(width)

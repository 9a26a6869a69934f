"""Folders of images, with one folder for each class, as people have them."""

import os
import re
import tempfile
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import PIL
import torch
from PIL import Image, features

from autodistill.config import DataSpec
from autodistill.data.decoding import Job, Progress, decode_files, read_headers
from autodistill.data.reading import reading_of, stored_size
from autodistill.data.splits import Content, Files, Images, Labels, Numbers
from autodistill.errors import ConfigError, DataError, printable
from autodistill.store import digest

FORMAT = 2
"""Version of the decoding of image folders. Increase it when equal files give other pixels."""

SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Names of the folders of each split, in any case."""
UNREADABLE = ("EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF", "PDF", "PALM")
"""Formats of Pillow that it cannot decode by itself."""
CAMERA = (".heic", ".heif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".jxl", ".svg")
"""Suffixes of images in formats that Pillow does not read."""
SYSTEM = ("__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information")
"""Files and folders that operating systems make; those whose names begin with a dot are left out too."""


class Part(NamedTuple):
    """The images of a split."""

    root: str
    classes: tuple[str, ...]
    samples: list[tuple[str, int]]
    """Path and label of each image."""


class LeftOut:
    """Collects the files and folders that are not read, with the reason."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_reason: dict[str, dict[str, None]] = {}

    def add(self, path: str | Path, reason: str) -> None:
        self._by_reason.setdefault(reason, {})[os.path.relpath(path, self._root)] = None

    @property
    def lines(self) -> tuple[str, ...]:
        """A line for each reason: `2 hidden: .DS_Store, cat/._1.jpg`."""
        lines = []
        for reason, names in sorted(self._by_reason.items()):
            shown = ", ".join([*names][:3]) + (", ..." if len(names) > 3 else "")
            lines.append(printable(f"{len(names)} {reason}: {shown}"))
        return tuple(lines)


def image_folder(spec: DataSpec) -> Files:
    """Find the images of `folder:PATH`.

    PATH contains class folders, or a training folder and at least one of a validation and a test folder, each with
    class folders; `SPLITS` has their names. If only one of validation and test exists, it is the test set. A folder
    that holds nothing but another folder stands for that folder. A relative PATH starts at `spec.root`.

    Raises:
        DataError: Folders are missing, empty or inconsistent. Reading the images raises this error for all files that
            are damaged.
        ConfigError: PATH is missing.
    """
    path = Path(spec.root, spec.name.partition(":")[2]).expanduser()
    if not spec.name.partition(":")[2]:
        raise ConfigError("data.name = 'folder' names no folder", "write folder:PATH, as in --data folder:photos")
    if not path.is_dir():
        reason = f"{path} is a file, not a folder" if path.exists() else f"{path}: no such folder"
        raise DataError(
            f"data.name = {spec.name!r}: {reason}",
            "write folder:PATH with the folder that holds the class folders, as in --data folder:photos",
        )
    left_out = LeftOut(path)
    found = _parts(path, left_out)
    return Files(
        name=re.sub(r"[^A-Za-z0-9._-]", "-", path.resolve().name)[:40] or "folder",
        place=(str(path.resolve()), f"image_size {spec.image_size}"),
        index=lambda: _index(found),
        read=lambda _: _content(found, size=spec.image_size),
        names=lambda: [os.path.relpath(file, path) for part in found.values() for file, _ in part.samples],
        folder=path,
        left_out=left_out.lines,
        again=partial(_decoded, found),
    )


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of all formats that Pillow decodes by itself."""
    Image.init()
    found = Image.registered_extensions().items()
    return frozenset({".mpo", *(it for it, kind in found if kind in Image.OPEN and kind not in UNREADABLE)})


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM


def _entries(path: Path, left_out: LeftOut) -> list[Path]:
    """Return the entries of a folder that are not hidden, sorted by name."""
    try:
        found = sorted(path.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        _refuse_unreadable(error)
    for entry in found:
        if _is_hidden(entry.name):
            left_out.add(entry, "hidden")
    return [entry for entry in found if not _is_hidden(entry.name)]


def _refuse_unreadable(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror})", "give it back its permissions") from error


def _folders(path: Path, left_out: LeftOut) -> list[Path]:
    return [entry for entry in _entries(path, left_out) if entry.is_dir()]


def _parts(path: Path, left_out: LeftOut) -> dict[str, Part]:
    """Return the training, validation and test part of a folder."""
    root = _unwrapped(path)
    folders = _split_folders(root, left_out)
    found = {name: _scan(folder, left_out) for name, folder in folders.items()}
    _check_classes(root, found, left_out)
    classes = tuple(label for label, files in found["train"].items() if files)
    parts = {}
    for name, folder in folders.items():
        samples = [(file, number) for number, label in enumerate(classes) for file in found[name][label]]
        parts[name] = Part(str(folder), classes, samples)
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
    return parts


def _unwrapped(path: Path) -> Path:
    """Return the folder itself, or the only folder in it, if that holds folders and no images, and so on."""
    while True:
        ignored = LeftOut(path)
        entries = _entries(path, ignored)
        folders = [entry for entry in entries if entry.is_dir()]
        if len(folders) != 1 or any(_is_image(entry.name) for entry in entries) or _split_of(folders[0]):
            return path
        inside = _entries(folders[0], ignored)
        if not any(it.is_dir() for it in inside) or any(it.is_file() and _is_image(it.name) for it in inside):
            return path
        path = folders[0]


def _split_of(path: Path) -> str:
    """Return the split that a folder's name means; empty: none."""
    return next((split for split, names in SPLITS.items() if path.name.lower() in names), "")


def _split_folders(path: Path, left_out: LeftOut) -> dict[str, Path]:
    """Return the folder of each split. Without folders of splits, `path` itself is the training split."""
    folders = _folders(path, left_out)
    named = [(split, folder) for folder in folders if (split := _split_of(folder))]
    parts: dict[str, Path] = {}
    for split, folder in named:
        if not _folders(folder, LeftOut(path)):
            continue
        if split in parts:
            raise DataError(
                f"{path}: {parts[split].name} and {folder.name} are both the {split} split", "keep one of them"
            )
        parts[split] = folder
    if not parts:
        return {"train": path}
    others = [folder.name for folder in folders if not _split_of(folder)]
    if others:
        raise DataError(
            f"{path}: {', '.join(others)} beside {', '.join(parts[it].name for it in SPLITS if it in parts)}: class"
            " folders and splits are mixed up",
            "either only class folders, or only train, val and test with class folders in each",
        )
    if "train" not in parts:
        raise DataError(
            f"{path}: {', '.join(it.name for it in parts.values())} without train",
            f"add {path / 'train'} with class folders",
        )
    _leave_out([folder for _, folder in named if folder not in parts.values()], left_out)
    for entry in _entries(path, left_out):
        if not entry.is_dir():
            left_out.add(entry, "beside the folders of the splits")
    return {split: parts[split] for split in SPLITS if split in parts}


def _leave_out(folders: Sequence[Path], left_out: LeftOut) -> None:
    """Note folders of splits without class folders, and the images in them."""
    for folder in folders:
        images = [entry for entry in _entries(folder, left_out) if _is_image(entry.name)]
        for entry in images:
            left_out.add(entry, f"images of {folder.name} without class folders, so that their classes are unknown")
        if not images:
            left_out.add(folder, "folders of a split without class folders")


def _scan(path: Path, left_out: LeftOut) -> dict[str, list[str]]:
    """Return the images of each class folder, in the order of torchvision's ImageFolder."""
    entries = _entries(path, left_out)
    loose = [entry.name for entry in entries if entry.is_file() and _is_image(entry.name)]
    if loose:
        raise DataError(
            f"{path}: {len(loose)} images lie beside the class folders, the first is {loose[0]}",
            "move each into the folder of its class: the folder's name is the class",
        )
    classes = []
    for entry in entries:
        if not entry.is_dir():
            left_out.add(entry, "beside the class folders")
        elif entry.is_symlink() and _repeats(path.resolve(), entry.resolve()):
            left_out.add(entry, "links to folders of this dataset")
        else:
            classes.append(entry)
    return {entry.name: _images_below(entry, left_out) for entry in classes}


def _repeats(dataset: Path, target: Path) -> bool:
    """Return whether a link to `target` among the class folders repeats images: those of a class, or of all classes."""
    inside = target.is_relative_to(dataset) and target != dataset
    return dataset.is_relative_to(target) or (inside and not _is_hidden(target.relative_to(dataset).parts[0]))


def _images_below(folder: Path, left_out: LeftOut) -> list[str]:
    """Return the images in a folder and in the folders below it."""
    found = []
    for root, folders, names in os.walk(folder, followlinks=True, onerror=_refuse_unreadable):
        found += [(root, name) for name in names]
        for name in list(folders):
            path = os.path.join(root, name)
            linked = os.path.islink(path) and _links_back(path, dataset=folder.parent)
            if linked or _is_hidden(name):
                left_out.add(path, "links to folders of this dataset" if linked else "hidden")
                folders.remove(name)
    images = []
    for root, name in sorted(found):
        file = os.path.join(root, name)
        suffix = os.path.splitext(name)[1].lower()
        if _is_hidden(name):
            left_out.add(file, "hidden")
        elif suffix not in suffixes():
            advice = ", convert to JPEG" if suffix in CAMERA else ""
            left_out.add(file, f"not read as images ({suffix or 'no suffix'}{advice})")
        elif os.path.exists(file) and not os.path.isfile(file):  # opening a named pipe would wait for ever
            raise DataError(f"{file}: not a regular file", "remove it, or put an image in its place")
        else:
            images.append(file)
    return images


def _links_back(link: str, *, dataset: Path) -> bool:
    """Return whether a link leads to a folder of the dataset: its images would count twice, or os.walk never end."""
    folder = Path(link).parent.resolve()
    targets = Path(link).resolve(), folder / os.readlink(link)
    return any(target.is_relative_to(dataset.resolve()) or folder.is_relative_to(target) for target in targets)


def _check_classes(path: Path, found: dict[str, dict[str, list[str]]], left_out: LeftOut) -> None:
    """Compare the classes of the splits; note folders that are empty in every split.

    Raises:
        DataError: There are fewer than two classes, or a class has images in some of the splits only.
    """
    names = sorted({name for part in found.values() for name in part})
    for name in names:
        if printable(name) != name:
            raise DataError(f"{path}: the name of class folder {printable(name)} is not UTF-8", "rename the folder")
    filled = {split: {name for name, files in part.items() if files} for split, part in found.items()}
    for name in names:
        if not any(name in part for part in filled.values()):
            left_out.add(path / name, "class folders without images")
    train = filled["train"]
    if not train:
        raise DataError(
            f"{path}: no class folder with images{_reasons(left_out)}",
            "put the images of each class into a folder of its own; Pillow reads "
            + ", ".join(sorted(suffixes() & {".jpg", ".jpeg", ".png", ".webp", ".tif", ".bmp", ".gif"})),
        )
    if len(train) < 2:
        one = f"{path}: one class ({next(iter(train))}), at least 2 are needed"
        raise DataError(one + _reasons(left_out), "add another class folder")
    for split, classes in filled.items():
        missing, extra = (", ".join(sorted(it)) for it in (train - classes, classes - train))
        if missing or extra:
            raise DataError(
                f"{path}: the class folders of {split} differ from those of train (missing:"
                f" {missing or 'none'}; only in {split}: {extra or 'none'})",
                "give every split images of the same classes",
            )


def _reasons(left_out: LeftOut) -> str:
    return "".join(f"\n  left out: {line}" for line in left_out.lines)


def stamp(path: str | Path) -> tuple[int, int]:
    """Return size and modification time (ns) of a file; zeros if it does not exist."""
    try:
        about = os.stat(path)
    except OSError:  # such as a link that leads to no file, or to itself
        return 0, 0
    return about.st_size, about.st_mtime_ns


def decoders() -> tuple[str, ...]:
    """Return the versions of the decoders, and how images are decoded."""
    import torchvision

    return "RGB, bilinear", PIL.__version__, str(features.version("jpg")), torchvision.__version__


def _index(found: dict[str, Part]) -> str:
    """Compute the digest of names, sizes and times of the files, and of the versions of the decoders."""
    files = [
        (split, file[len(part.root) :], label, *stamp(file))
        for split, part in found.items()
        for file, label in part.samples
    ]
    return digest(FORMAT, decoders(), [part.classes for part in found.values()], files)


def _content(found: dict[str, Part], *, size: int | None) -> Content:
    samples = [sample for part in found.values() for sample in part.samples]
    sizes = [stamp(file)[0] for file, _ in samples]
    headers = [header for header in read_headers([file for file, _ in samples], sizes) if header is not None]
    stored, margin = stored_size(headers, size)
    labels = {split: np.array([label for _, label in part.samples]) for split, part in found.items()}

    def write(target: Path, offset: int, places: Numbers, progress: Progress) -> None:
        rows = [(place, file) for place, (file, _) in zip(places.tolist(), samples, strict=True)]
        decode_files(rows, sizes, job=Job(str(target), offset, stored), progress=progress)

    reading = reading_of(headers, stored=stored)
    return Content(Labels(found["train"].classes, labels), (3, stored, stored), write, margin=margin, reading=reading)


def _decoded(found: dict[str, Part], numbers: Numbers, stored: int) -> Images:
    """Decode examples by their numbers, as `_content` does for images that are stored at `stored` x `stored` pixels."""
    samples = [sample for part in found.values() for sample in part.samples]
    rows = [(row, samples[number][0]) for row, number in enumerate(numbers.tolist())]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "images")
        target.touch()
        job = Job(str(target), 0, stored)
        decode_files(rows, [stamp(file)[0] for _, file in rows], job=job, progress=lambda done, total: None)
        pixels = np.fromfile(target, dtype=np.uint8).reshape(len(rows), stored, stored, 3)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)

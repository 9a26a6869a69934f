"""Images and labels of a dataset: their types, splits, pooling, channel statistics and fingerprint."""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from autodistill.config import DataSpec
from autodistill.data.decoding import Progress
from autodistill.errors import DataError
from autodistill.formatting import plural
from autodistill.records import ReadingRecord
from autodistill.tensors import raw_bytes

Numbers = Int[np.ndarray, " examples"]
Images = UInt8[Tensor, "examples channels height width"]

CHUNK_BYTES = 2**22
"""Bytes of images that are processed together, so that no second copy of all images is needed."""


class Split(NamedTuple):
    """Images and their labels. Images are in channels_last memory, in which augmentation is fastest."""

    images: UInt8[Tensor, "examples channels height width"]
    labels: Int[Tensor, " examples"]


class Splits(NamedTuple):
    train: Split
    validation: Split
    test: Split


class Examples(NamedTuple):
    """Which examples of a dataset the images of the splits are, by their numbers in the order of its own files."""

    train: Int[Tensor, " train"]
    validation: Int[Tensor, " validation"]
    test: Int[Tensor, " test"]
    parts: dict[str, int]
    """Number of examples in each part: `train`, and `validation` and `test` if the dataset has them itself."""
    file_names: Callable[[], list[str] | None]
    """Returns the path of the file of each example by number; None: files hold many examples."""


class Cut(NamedTuple):
    """How many images a split takes from a part of the dataset, and how many are left for it."""

    split: str
    size: int
    available: int


class Labels(NamedTuple):
    """The labels of a dataset, by part: `train`, and `validation` and `test` if the dataset has these parts itself.

    Examples are numbered consecutively through the parts, which are in this order.
    """

    classes: tuple[str, ...]
    parts: dict[str, Numbers]


class Source(NamedTuple):
    """A dataset in memory. Its parts are as in `Labels`."""

    classes: tuple[str, ...]
    parts: dict[str, Split]

    @property
    def labels(self) -> Labels:
        return Labels(self.classes, {name: part.labels.numpy() for name, part in self.parts.items()})


class Content(NamedTuple):
    """Labels that were read from files, and a function that reads the images."""

    labels: Labels
    shape: tuple[int, int, int]
    """Channels, height, width."""
    write: Callable[[Path, int, Numbers, Progress], None]
    """`write(path, offset, rows, progress)`: write the image of each example to its row of an existing file, whose
    rows start at byte `offset`. Channels of a pixel are adjacent (height, width, channels)."""
    margin: int = 0
    """Pixels on every side by which the stored images exceed the image size."""
    reading: ReadingRecord | None = None
    """What was found in the files; None for datasets that are known by name."""


@dataclass(frozen=True)
class Files:
    """A dataset in files that are not read yet."""

    name: str
    """Short name, which is part of the name of a cache folder."""
    place: tuple[str, ...]
    """Location of the files and settings of their decoding."""
    index: Callable[[], str]
    """Returns a digest of names, sizes and modification times of the files and of the versions of decoders. Equal
    digests mean unchanged files. Each call looks at the files again."""
    read: Callable[[Progress], Content]
    """Reads the labels, and where it must also the images; shows its progress."""
    names: Callable[[], Sequence[str]] | None = None
    """Returns the path of the file of each example, relative to `folder`; None: files hold many examples."""
    folder: Path = Path()
    left_out: tuple[str, ...] = ()
    """Files and folders that are not read, a line for each reason."""
    again: Callable[[Numbers, int], Images] | None = None
    """`again(numbers, side)` decodes examples again as squares of another side; None: the files hold images of one
    size, or cannot be read row by row."""


def short_name(name: str) -> str:
    """Return the last part of the name of a user's dataset, for names of studies; empty for registered datasets.

    `folder:/data/my photos` gives `my-photos`, `python:data.py:flowers?size=64` gives `flowers`.
    """
    scheme, _, target = name.partition(":")
    if scheme == "folder":
        target = Path(target).expanduser().resolve().name
    elif scheme == "arrays":
        target = Path(target).stem
    else:
        target = target.partition("?")[0].rpartition(":")[2]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", target).strip("-.")


def split(source: Source, spec: DataSpec) -> Splits:
    """Split a dataset in memory by `split_rows`; the splits are copies."""
    images, labels = map(torch.cat, zip(*source.parts.values(), strict=True))
    chosen = [torch.from_numpy(rows) for rows in split_rows(source.labels, spec)]
    return Splits(*(Split(images[rows].contiguous(memory_format=torch.channels_last), labels[rows]) for rows in chosen))


def split_rows(labels: Labels, spec: DataSpec) -> tuple[Numbers, ...]:
    """Split a dataset into disjoint train, validation and test splits, stratified by label.

    The dataset's own validation and test sets stay separate, whole or in part. Default sizes:

    - test: the dataset's own test set, or a fifth of all images
    - validation: the dataset's own validation set, or a fifth of the images outside test
    - train: all remaining images

    Returns:
        The numbers of the examples of each of the three splits.

    Raises:
        DataError: There are fewer images than asked for, or too few for every class to be in every split.
    """
    left = len(labels.parts["train"])
    shared: list[Cut] = []  # splits that are cut from the training part
    cuts = {"train": shared}
    for part, asked in (("test", spec.test), ("validation", spec.validation)):
        if (own := labels.parts.get(part)) is not None:
            cuts[part] = [Cut(part, asked or len(own), len(own))]
        else:
            shared.append(Cut(part, asked or round(left / 5), left))
            left -= shared[-1].size
    shared.append(Cut("train", spec.train or left, left))
    begin = dict(zip(labels.parts, np.cumsum([0, *map(len, labels.parts.values())]), strict=False))
    found: dict[str, Numbers] = {}
    for part, of_part in cuts.items():
        rest = np.arange(len(labels.parts[part]))
        for cut in of_part:
            rows, rest = _chosen(labels, part, rest, cut, of_part, spec)
            found[cut.split] = rows + begin[part]
    return found["train"], found["validation"], found["test"]


def _chosen(
    labels: Labels, part: str, rows: Int[np.ndarray, " rows"], cut: Cut, cuts: Sequence[Cut], spec: DataSpec
) -> tuple[Int[np.ndarray, " chosen"], Int[np.ndarray, " rest"]]:
    """Choose the images of a split from the `rows` of a part that are left; return them and the remaining rows."""
    size, own = cut.size, labels.parts[part]
    classes = len(labels.classes)
    if size > len(rows):
        asked = ", ".join(f"{key} {getattr(spec, key) or 'not set'}" for key in ("train", "validation", "test"))
        raise DataError(
            f"data.{cut.split} = {size}: {len(rows)} of {spec.name}'s {len(own)} images are left for it (asked for:"
            f" {asked})",
            f"set data.{cut.split} to at most {len(rows)}, or make the other splits smaller",
        )
    if size < classes:
        raise DataError(
            f"data.{cut.split}: {size} of {len(rows)} images cannot show each of {classes} classes of {spec.name}",
            "every split needs at least one image of each class: change the sizes, or add images",
        )
    others = len(rows) - size
    counts = np.bincount(own[rows], minlength=classes)
    if counts.min() < (2 if others else 1):
        raise _too_few(labels, part, int(counts.argmin()), cuts, spec)
    if not others:
        return rows, rows[:0]
    from sklearn.model_selection import train_test_split

    # scikit-learn stratifies only if both parts can contain every class. If fewer rows remain, draw without strata.
    strata = own[rows] if others >= classes else None
    chosen, rest = train_test_split(
        rows, train_size=size, test_size=others, stratify=strata, random_state=spec.split_seed % 2**32
    )
    counts = np.bincount(own[chosen], minlength=classes)
    if not counts.min():
        raise _too_few(labels, part, int(counts.argmin()), cuts, spec)
    return chosen, rest


def _too_few(labels: Labels, part: str, rarest: int, cuts: Sequence[Cut], spec: DataSpec) -> DataError:
    """Return the error for a class that has too few images for the splits that are cut from a part."""
    own = int((labels.parts[part] == rarest).sum())
    sizes = ", ".join(f"{cut.split} gets {cut.size} of {cut.available} images" for cut in cuts)
    counts = range(1, len(labels.parts[part]) + 1)
    enough = next((count for count in counts if _suffices(count, cuts, classes=len(labels.classes))), None)
    smaller = [f"data.{cut.split}" for cut in cuts if cut.size < cut.available]
    hint = "add images of this class, or leave the class out"
    if smaller and own >= len(cuts):
        hint = f"add images of this class, leave the class out, or set {' and '.join(smaller)} to more images"
    return DataError(
        f"class {labels.classes[rarest]!r} of {spec.name} has {plural(own, 'image')}, too few for an image in every"
        f" split: {sizes}" + (f"; {enough} images of a class always suffice" if enough else ""),
        hint,
    )


def _suffices(count: int, cuts: Sequence[Cut], *, classes: int) -> bool:
    """Return whether every split gets an image of a class with `count` images: its share, rounded down or up."""
    for cut in cuts:
        others = cut.available - cut.size
        if others < 0 or 0 < others < classes or count * cut.size < cut.available:
            return False
        count -= math.ceil(count * cut.size / cut.available)
    return True


def fingerprint(splits: Iterable[Split]) -> str:
    """Compute the SHA-256 over images (channels, height, width) and labels of each split."""
    digest = hashlib.sha256()
    for images, labels in splits:
        digest.update(f"{tuple(images.shape)};".encode())
        for chunk in chunks(images):
            digest.update(raw_bytes(chunk))
        digest.update(raw_bytes(labels.to(torch.int64)))
    return digest.hexdigest()


def statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and population standard deviation per channel, in [0, 1], from counts of the 256 levels."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for chunk in chunks(images):
        counts += torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in chunk.unbind(1)])
    levels = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, dtype=torch.float64)[:, None]
    mean = share @ levels
    std = (share * (levels - mean[:, None]) ** 2).sum(1).sqrt()
    # A constant channel has a standard deviation of 0; one grey level instead keeps the normalised values finite.
    return tuple(mean.tolist()), tuple(std.clamp(min=1 / 255).tolist())


def demand_pool(size: int, *, height: int, width: int, margin: int = 0) -> None:
    """Check that images can be averaged over blocks of `size` x `size` pixels.

    Raises:
        DataError: `size` does not divide height and width, or the images have a margin.
    """
    if size > 1 and margin:
        raise DataError(f"data.pool = {size}: photographs are not pooled", "set a smaller data.image_size instead")
    if height % size or width % size:
        divisors = ", ".join(str(n) for n in range(1, min(height, width) + 1) if height % n == 0 and width % n == 0)
        raise DataError(f"data.pool = {size} does not divide {height}x{width} images", f"allowed: {divisors}")


def average_pool(images: Images, *, size: int) -> UInt8[Tensor, "examples channels pooled_height pooled_width"]:
    """Average images over blocks of `size` x `size` pixels, rounded to the nearest level, halves up.

    Raises:
        DataError: `size` does not divide height and width.
    """
    height, width = images.shape[2:]
    demand_pool(size, height=height, width=width)
    blocks = images.reshape(*images.shape[:2], height // size, size, width // size, size)
    total: Tensor = blocks.sum((3, 5), dtype=torch.int32)
    return ((total + size * size // 2) // (size * size)).to(torch.uint8)


def chunks(images: Images) -> tuple[Tensor, ...]:
    """Divide images into chunks of about `CHUNK_BYTES`, without copies."""
    return torch.split(images, max(1, CHUNK_BYTES // max(1, images[:1].nbytes)))

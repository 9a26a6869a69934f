"""Images and labels of a dataset: their types, splits, pooling, channel statistics and fingerprint."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from autodistill.config import DataSpec
from autodistill.data.decoding import Progress
from autodistill.errors import ConfigError, DataError

Numbers = Int[np.ndarray, " examples"]
Rows = Int[np.ndarray, " rows"]
Images = UInt8[Tensor, "examples channels height width"]

CHUNK_BYTES = 2**22
"""Bytes of images that are processed together, so that no second copy of all images is needed."""


class Split(NamedTuple):
    """Images and their labels. Images are in channels_last memory, in which augmentation is fastest."""

    images: UInt8[Tensor, "examples channels height width"]
    labels: Int[Tensor, " examples"]


class Labels(NamedTuple):
    """The labels of a dataset. `validation` and `test` are those of the dataset's own splits, if it has them.

    Examples are numbered consecutively through train, validation and test.
    """

    classes: tuple[str, ...]
    train: Numbers
    validation: Numbers | None = None
    test: Numbers | None = None

    @property
    def parts(self) -> dict[str, Numbers]:
        """The labels of each part that the dataset has."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: labels for name, labels in found.items() if labels is not None}


class Source(NamedTuple):
    """A dataset in memory. `validation` and `test` are the dataset's own splits, if it has them."""

    classes: tuple[str, ...]
    train: Split
    validation: Split | None = None
    test: Split | None = None

    @property
    def labels(self) -> Labels:
        found = (part and part.labels.numpy() for part in (self.train, self.validation, self.test))
        train, validation, test = found
        assert train is not None
        return Labels(self.classes, train, validation, test)


class Content(NamedTuple):
    """Labels that were read from files, and a function that reads the images."""

    labels: Labels
    shape: tuple[int, int, int]
    """Channels, height, width."""
    write: Callable[[Path, int, Numbers, Progress], None]
    """`write(path, offset, rows, progress)`: write the image of each example to its row of an existing file, whose
    rows start at byte `offset`. Channels of a pixel are adjacent (height, width, channels)."""


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
    read: Callable[[], Content]
    """Reads the labels."""


class Splits(NamedTuple):
    train: Split
    validation: Split
    test: Split


class SplitRows(NamedTuple):
    """Numbers of the examples of each split, among all examples of a dataset."""

    train: Rows
    validation: Rows
    test: Rows


def split(source: Source, spec: DataSpec) -> Splits:
    """Split a dataset in memory by `split_rows`; the splits are copies."""
    begin = _begins(source.labels)

    def taken(part: str, own: Split | None, rows: Rows) -> Split:
        whole, offset = (source.train, 0) if own is None else (own, begin[part])
        chosen = torch.from_numpy(rows - offset)
        return Split(whole.images[chosen].contiguous(memory_format=torch.channels_last), whole.labels[chosen])

    train, validation, test = split_rows(source.labels, spec)
    return Splits(
        taken("train", None, train),
        taken("validation", source.validation, validation),
        taken("test", source.test, test),
    )


def split_rows(labels: Labels, spec: DataSpec) -> SplitRows:
    """Split a dataset into disjoint train, validation and test splits, stratified by label.

    The dataset's own validation and test sets stay separate, whole or in part. Default sizes:

    - test: the dataset's own test set, or a fifth of all images
    - validation: the dataset's own validation set, or a fifth of the images outside test
    - train: all remaining images

    Raises:
        DataError: There are fewer images than asked for, or too few for every class to be in every split.
    """
    begin = _begins(labels)
    rest = np.arange(len(labels.train))
    found: dict[str, Rows] = {}
    for part, own, asked in (("test", labels.test, spec.test), ("validation", labels.validation, spec.validation)):
        if own is None:
            size = asked or round(len(rest) / 5)
            found[part], rest = _cut(labels.train, rest, part=part, size=size, spec=spec, classes=labels.classes)
        else:
            every = np.arange(len(own))
            rows, _ = _cut(own, every, part=part, size=asked or len(every), spec=spec, classes=labels.classes)
            found[part] = rows + begin[part]
    size = spec.train or len(rest)
    train, _ = _cut(labels.train, rest, part="train", size=size, spec=spec, classes=labels.classes)
    return SplitRows(train, found["validation"], found["test"])


def _begins(labels: Labels) -> dict[str, int]:
    """Return the number of the first example of each part."""
    sizes = [len(own) for own in labels.parts.values()]
    return dict(zip(labels.parts, np.cumsum([0, *sizes]).tolist(), strict=False))


def _cut(
    labels: Numbers, rows: Rows, *, part: str, size: int, spec: DataSpec, classes: Sequence[str]
) -> tuple[Int[np.ndarray, " chosen"], Int[np.ndarray, " rest"]]:
    """Choose `size` of `rows`, stratified by label; return them and the remaining rows."""
    _check_size(part, size=size, left=len(rows), total=len(labels), spec=spec, classes=len(classes))
    _check_counts(labels[rows], at_least=1 if size == len(rows) else 2, part=part, classes=classes)
    if size == len(rows):
        return rows, rows[:0]
    chosen, rest = _stratified(rows, labels[rows], size=size, seed=spec.split_seed, classes=len(classes))
    _check_counts(labels[chosen], at_least=1, part=part, classes=classes)
    return chosen, rest


def _stratified(
    rows: Rows, labels: Int[np.ndarray, " rows"], *, size: int, seed: int, classes: int
) -> tuple[Int[np.ndarray, " chosen"], Int[np.ndarray, " rest"]]:
    from sklearn.model_selection import train_test_split

    others = len(rows) - size
    # scikit-learn stratifies only if both parts can contain every class. If fewer rows remain, draw without strata.
    by = labels if others >= classes else None
    chosen, rest = train_test_split(rows, train_size=size, test_size=others, stratify=by, random_state=seed % 2**32)
    return chosen, rest


def _check_size(part: str, *, size: int, left: int, total: int, spec: DataSpec, classes: int) -> None:
    if size > left:
        asked = ", ".join(f"{key} {getattr(spec, key) or 'open'}" for key in ("train", "validation", "test"))
        raise DataError(
            f"data.{part} = {size}: {left} of {spec.name}'s {total} images are left for it (asked for: {asked})",
            f"set data.{part} to at most {left}, or make the other splits smaller",
        )
    if size < classes:
        raise DataError(
            f"data.{part}: {size} of {left} images cannot show each of {classes} classes of {spec.name}",
            "every split needs at least one image of each class: change the sizes, or add images",
        )


def _check_counts(labels: Int[np.ndarray, " rows"], *, at_least: int, part: str, classes: Sequence[str]) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    rarest = int(counts.argmin())
    if counts[rarest] < at_least:
        raise DataError(
            f"class {classes[rarest]!r} has too few images for a stratified split: {counts[rarest]} left when"
            f" {part} is cut, at least {at_least} needed",
            "every split needs at least one image of each class: add images, or leave the class out",
        )


def fingerprint(splits: Iterable[Split]) -> str:
    """Compute the SHA-256 over images (channels, height, width) and labels of each split."""
    digest = hashlib.sha256()
    for images, labels in splits:
        digest.update(f"{tuple(images.shape)};".encode())
        for chunk in chunks(images):
            digest.update(chunk.contiguous().numpy().data)
        digest.update(labels.to(torch.int64).numpy().data)
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


def demand_pool(size: int, *, height: int, width: int) -> None:
    """Check that images can be averaged over blocks of `size` x `size` pixels.

    Raises:
        DataError: `size` does not divide height and width.
    """
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


def chunks(images: Images) -> Iterator[Tensor]:
    """Iterate over images in chunks of about `CHUNK_BYTES`."""
    count = max(1, CHUNK_BYTES // max(1, images[:1].nbytes))
    return (images[start : start + count] for start in range(0, len(images), count))


def stamp(path: str | Path) -> tuple[int, int]:
    """Return size and modification time (ns) of a file; zeros if it does not exist."""
    try:
        about = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return about.st_size, about.st_mtime_ns


def refuse(spec: DataSpec, *keys: str) -> None:
    """Refuse settings that have no effect on this dataset.

    Raises:
        ConfigError: One of `keys` is set, or the name contains a path.
    """
    kind, _, path = spec.name.partition(":")
    if path:
        raise ConfigError(f"data.name = {spec.name!r}: {kind} takes no path", f"write {kind}, or folder:{path}")
    for key in keys:
        if value := getattr(spec, key):
            raise ConfigError(f"data.{key} = {value!r} has no effect on {kind}", f"remove data.{key}")

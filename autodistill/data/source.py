"""What a dataset is before it is split: images and labels in memory, or files to read them from."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor

from autodistill.config.models import DataSpec
from autodistill.data.decoders import Progress
from autodistill.errors import ConfigError

Numbers = Int[np.ndarray, " examples"]


class Split(NamedTuple):
    """Images and their labels. Images lie in channels_last memory, where views are cheapest."""

    images: UInt8[Tensor, "examples channels height width"]
    labels: Int[Tensor, " examples"]


class Labels(NamedTuple):
    """The labels of a dataset. `validation` and `test`: those of its own splits, where it has them.

    Examples are numbered through the three parts in this order.
    """

    classes: tuple[str, ...]
    train: Numbers
    validation: Numbers | None = None
    test: Numbers | None = None

    @property
    def parts(self) -> dict[str, Numbers]:
        """The parts that there are."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: labels for name, labels in found.items() if labels is not None}


class Source(NamedTuple):
    """A dataset in memory. `validation` and `test`: its own, where it has them."""

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
    """Labels that were read from files, and how to get at the images."""

    labels: Labels
    shape: tuple[int, int, int]
    """Channels, height, width."""
    write: Callable[[Path, int, Numbers, Progress], None]
    """Write the images into a file, from a byte on: the row of each example comes third. An image lies as rows of
    pixels of channels."""


@dataclass(frozen=True)
class Files:
    """A dataset as files that are not read yet."""

    name: str
    """Short and plain: part of a folder's name."""
    place: tuple[str, ...]
    """Where they lie, and how they are decoded."""
    index: Callable[[], str]
    """Digest of what tells unchanged files apart from others without reading them: names, sizes, modification times,
    versions of decoders. Computed anew at each call."""
    read: Callable[[], Content]


def stamp(path: str | Path) -> tuple[int, int]:
    """Size and modification time (ns) of a file; zeros where it is gone."""
    try:
        about = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return about.st_size, about.st_mtime_ns


def refuse(spec: DataSpec, *keys: str) -> None:
    """Refuse keys that would change nothing for this dataset.

    Raises:
        ConfigError: one of `keys` is set, or the name carries a path.
    """
    kind, _, path = spec.name.partition(":")
    if path:
        raise ConfigError(f"data.name = {spec.name!r}: {kind} takes no path", f"write {kind}, or folder:{path}")
    for key in keys:
        if value := getattr(spec, key):
            raise ConfigError(f"data.{key} = {value!r} means nothing to {kind}", f"remove data.{key}")

"""Stratified, disjoint train, validation and test splits."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int

from autodistill.config.models import DataSpec
from autodistill.data.source import Labels, Numbers, Source, Split
from autodistill.errors import DataError

Rows = Int[np.ndarray, " rows"]


class Splits(NamedTuple):
    train: Split
    validation: Split
    test: Split


class SplitRows(NamedTuple):
    """The examples of each split, by their number among all examples of a dataset."""

    train: Rows
    validation: Rows
    test: Rows


def split(source: Source, spec: DataSpec) -> Splits:
    """Split a dataset in memory as `split_rows` says; the splits are copies."""
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
    """Split a dataset, stratified by label; a set that the dataset brings along is kept apart, whole or in part.

    Sizes left open: test, the dataset's own or a fifth of all; validation, the dataset's own or a fifth of the images
    that are not test; train, the rest.

    Raises:
        DataError: more images asked for than there are, or too few for every class to be in every split.
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
    """Number of each part's first example."""
    sizes = [len(own) for own in labels.parts.values()]
    return dict(zip(labels.parts, np.cumsum([0, *sizes]).tolist(), strict=False))


def _cut(
    labels: Numbers, rows: Rows, *, part: str, size: int, spec: DataSpec, classes: Sequence[str]
) -> tuple[Int[np.ndarray, " chosen"], Int[np.ndarray, " rest"]]:
    """Choose `size` of `rows`, stratified; return them and the others."""
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
    # scikit-learn stratifies only if both parts can hold every class; fewer than that left over, any will do.
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

"""Stratified, disjoint train, validation and test splits."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int

from autodistill.data.source import Source, Split
from autodistill.errors import DataError
from autodistill.space.models import DataSpec

Rows = Int[np.ndarray, " rows"]


class Splits(NamedTuple):
    train: Split
    validation: Split
    test: Split


def split(source: Source, spec: DataSpec) -> Splits:
    """Cut a dataset, stratified by label; a set that the dataset brings along is kept apart, whole or in part.

    Sizes left open: test, the dataset's own or a fifth of all; validation, the dataset's own or a fifth of the images
    that are not test; train, the rest.

    Raises:
        DataError: more images asked for than there are, or too few for every class to be in every split.
    """
    rest = np.arange(len(source.train.labels))
    cut: dict[str, Split] = {}
    for part, own, asked in (("test", source.test, spec.test), ("validation", source.validation, spec.validation)):
        if own is None:
            rows, rest = _cut(
                source.train, rest, part=part, size=asked or round(len(rest) / 5), spec=spec, source=source
            )
            cut[part] = _take(source.train, rows)
        else:
            every = np.arange(len(own.labels))
            rows, _ = _cut(own, every, part=part, size=asked or len(every), spec=spec, source=source)
            cut[part] = _take(own, rows)
    rows, _ = _cut(source.train, rest, part="train", size=spec.train or len(rest), spec=spec, source=source)
    return Splits(_take(source.train, rows), cut["validation"], cut["test"])


def _take(whole: Split, rows: Rows) -> Split:
    chosen = torch.from_numpy(rows)
    return Split(whole.images[chosen].contiguous(memory_format=torch.channels_last), whole.labels[chosen])


def _cut(
    whole: Split, rows: Rows, *, part: str, size: int, spec: DataSpec, source: Source
) -> tuple[Int[np.ndarray, " chosen"], Int[np.ndarray, " rest"]]:
    """Choose `size` of `rows`, stratified; return them and the others."""
    labels = whole.labels.numpy()
    _check_size(part, size=size, left=len(rows), total=len(labels), spec=spec, classes=len(source.classes))
    _check_counts(labels[rows], at_least=1 if size == len(rows) else 2, part=part, source=source)
    if size == len(rows):
        return rows, rows[:0]
    chosen, rest = _stratified(rows, labels[rows], size=size, seed=spec.split_seed, classes=len(source.classes))
    _check_counts(labels[chosen], at_least=1, part=part, source=source)
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


def _check_counts(labels: Int[np.ndarray, " rows"], *, at_least: int, part: str, source: Source) -> None:
    counts = np.bincount(labels, minlength=len(source.classes))
    rarest = int(counts.argmin())
    if counts[rarest] < at_least:
        raise DataError(
            f"class {source.classes[rarest]!r} has too few images for a stratified split: {counts[rarest]} left when"
            f" {part} is cut, at least {at_least} needed",
            "every split needs at least one image of each class: add images, or leave the class out",
        )

"""Datasets. `load(spec)` returns a split dataset of uint8 images, mapped from a file that all processes share."""

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from autodistill.config import DataSpec
from autodistill.data.datasets import cifar, digits, fashion_mnist
from autodistill.data.decoding import Progress
from autodistill.data.folders import image_folder
from autodistill.data.images import DamagedStore, Say, Stored, mapped, open_store
from autodistill.data.pairs import arrays, download, torchvision_set, user_code
from autodistill.data.reading import margin_at
from autodistill.data.splits import (
    Examples,
    Files,
    Source,
    Split,
    average_pool,
    fingerprint,
    short_name,
    split,
    split_rows,
    statistics,
)
from autodistill.errors import DataError, lookup
from autodistill.records import DataRecord, ReadingRecord

__all__ = [
    "DATASETS",
    "Data",
    "LoadData",
    "SharedFile",
    "Split",
    "at_size",
    "average_pool",
    "download",
    "file_names",
    "from_worker",
    "images_at_once",
    "load",
    "normalise",
    "record",
    "short_name",
    "to_worker",
    "with_validation",
]

DATASETS: dict[str, Callable[[DataSpec], Source | Files]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": partial(cifar, classes=10),
    "cifar100": partial(cifar, classes=100),
    "folder": image_folder,
    "arrays": arrays,
    "python": user_code,
    "torchvision": torchvision_set,
}

PIXELS_AT_ONCE, FEWEST_AT_ONCE, MOST_AT_ONCE = 2**17, 16, 512
"""Size of a forward pass without training on a CPU: pixels, and smallest and largest number of images. The maps of
more pixels exceed the processor's caches: networks are 1.3 to 2.2 times as fast as with 512 images of 3x32x32."""


@dataclass(frozen=True)
class Data:
    """A split dataset. `mean` and `std` are those of the training images per channel, in [0, 1]."""

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    """SHA-256 of images and labels of each split. Caches of derived values use it as a key."""
    file: Path | None = None
    """File from which the images are mapped; None: the images are in the memory of this process."""
    examples: Examples | None = None
    """Numbers of the images in the dataset; None: the images are not those of a dataset of DATASETS."""
    margin: int = 0
    """Pixels on every side by which the training images exceed the image size; crops of a view show them. Validation
    and test images are cut to the image size."""
    reading: ReadingRecord | None = None
    """What was found in the user's files; None for datasets that are known by name."""

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height - 2 * self.margin, width - 2 * self.margin

    def train_images(self, count: int) -> UInt8[Tensor, "examples channels height width"]:
        """Return the first training images, cut to the image size."""
        return centre(self.train.images[:count], margin=self.margin)

    def to(self, device: torch.device | str) -> "Data":
        """Return the same data on another device.

        Raises:
            DataError: The images do not fit into the free memory of the GPU.
        """
        device = torch.device(device)
        if device == self.train.images.device:
            return self
        train, *cut = (self.train, self.validation, self.test)
        splits = [train, *(Split(_with_margin(images, margin=self.margin), labels) for images, labels in cut)]
        if device.type == "cuda":
            needed, (free, _) = sum(part.images.nbytes for part in splits), torch.cuda.mem_get_info(device)
            if needed > free:
                raise DataError(
                    f"{self.name}: the images need {needed / 1e9:.2f} GB on {device}, {free / 1e9:.2f} GB are free"
                    " there",
                    "set a smaller data.image_size or data.train, use fewer --workers, or train with --device cpu",
                )
        train, *cut = (Split(images.to(device), labels.to(device)) for images, labels in splits)
        validation, test = (Split(centre(images, margin=self.margin), labels) for images, labels in cut)
        return replace(self, train=train, validation=validation, test=test, file=None)


LoadData = Callable[[DataSpec], Data]
"""A function with the signature `load(spec)`, which may also show progress."""


class SharedFile(NamedTuple):
    """A file of images that other processes of this machine can map. It is sent to workers in place of the images."""

    file: Path
    fingerprint: str


def load(spec: DataSpec, *, progress: Progress = lambda done, total: None, say: Say = lambda text: None) -> Data:
    """Load, pool and split a dataset.

    Datasets in files are decoded once and kept in the cache folder, see `images`.

    Args:
        spec: Name and settings of the dataset.
        progress: Called with the number of decoded images and of all images.
        say: Called with a line of text when cached images are damaged, or when another process decodes the images.

    Raises:
        ConfigError: The name is unknown, or a setting has no effect on this dataset.
        DataError: Files are missing, damaged or inconsistent, or the sizes of the splits are impossible.
        StoreError: The cache folder is read-only, or its disk is full.
    """
    source = _source(spec)
    if isinstance(source, Files):
        data = _of_file(spec, mapped(source, spec, progress=progress, say=say))
        if data.reading is None:
            return data
        left_out = (*source.left_out, *data.reading.left_out)
        return replace(data, reading=data.reading.model_copy(update={"left_out": left_out}))
    if spec.pool > 1:
        parts = source.parts.items()
        pooled = {name: Split(average_pool(images, size=spec.pool), labels) for name, (images, labels) in parts}
        source = source._replace(parts=pooled)
    splits = split(source, spec)
    mean, std = statistics(splits.train.images)
    train, validation, test = map(torch.from_numpy, split_rows(source.labels, spec))
    sizes = {name: len(part.labels) for name, part in source.parts.items()}
    examples = Examples(train, validation, test, sizes, partial(file_names, spec))
    return Data(spec.name, source.classes, *splits, mean, std, fingerprint(splits), examples=examples)


def _source(spec: DataSpec) -> Source | Files:
    return lookup("dataset", spec.name.partition(":")[0], DATASETS)(spec)


def file_names(spec: DataSpec) -> list[str] | None:
    """Return the path of the file of each example, in the order of their numbers; None: files hold many examples.

    Raises:
        ConfigError, DataError: As for `load`.
    """
    source = _source(spec)
    if not isinstance(source, Files) or source.names is None:
        return None
    return [str(source.folder / name) for name in source.names()]


def to_worker(data: Data) -> Data | SharedFile:
    """Return what to send to another process of this machine: the data's file, or the data if they have no file."""
    return data if data.file is None else SharedFile(data.file, data.fingerprint)


def from_worker(given: Data | SharedFile | None, spec: DataSpec) -> Data:
    """Return the data for a result of `to_worker`. Load them if nothing was sent, or if the file no longer exists.

    Raises:
        DataError: The dataset's files have changed since `to_worker` was called.
        AutodistillError: As for `load`.
    """
    if isinstance(given, Data):
        return given
    if given is None:
        return load(spec)
    with contextlib.suppress(FileNotFoundError, DamagedStore):
        # The process that sent the file has just verified it.
        data = _of_file(spec, open_store(given.file, verify=False))
        if data.fingerprint == given.fingerprint:
            return data
    data = load(spec)
    if data.fingerprint != given.fingerprint:
        raise DataError(
            f"data.name = {spec.name!r}: the images or labels were changed since this command was started",
            "run the command again",
        )
    return data


def at_size(
    data: Data, spec: DataSpec, rows: Int[Tensor, " rows"], size: int
) -> UInt8[Tensor, "rows channels height width"] | None:
    """Decode validation images again from their files in another size, and cut them as those of that size are cut.

    Args:
        data: Data that were loaded from `spec`.
        spec: Name and settings of the dataset.
        rows: Rows of the validation split.
        size: Height and width in pixels.

    Returns:
        The images; None if the dataset has no files of images, or they were changed or removed.
    """
    if data.file is None or spec.pool > 1:
        return None
    try:
        source = _source(spec)
        stored = open_store(data.file, verify=False)
        if not isinstance(source, Files) or source.again is None or source.index() != stored.header.index:
            return None
        margin = margin_at(size) if data.margin else 0
        numbers = stored.numbers[stored.header.splits[0] + rows.cpu()].numpy()
        return centre(source.again(numbers, size + 2 * margin), margin=margin)
    except (DataError, OSError, DamagedStore):
        return None


def with_validation(data: Data) -> Data:
    """Return the same data with the validation images appended to the training split.

    `mean` and `std` are unchanged, because the normalisation is part of a student's configuration. The validation
    split is unchanged too, but its images are then training images. Mapped images are not copied.
    """
    validation = _with_margin(data.validation.images, margin=data.margin)
    joined = Split(_joined(data.train.images, validation), _joined(data.train.labels, data.validation.labels))
    found = hashlib.sha256(f"train+validation {data.fingerprint}".encode()).hexdigest()
    examples = data.examples and data.examples._replace(
        train=torch.cat([data.examples.train, data.examples.validation])
    )
    return replace(data, train=joined, fingerprint=found, examples=examples, file=None)


def centre(images: Tensor, *, margin: int) -> UInt8[Tensor, "examples channels height width"]:
    """Cut a margin from images, without a copy."""
    height, width = images.shape[2:]
    return images[:, :, margin : height - margin, margin : width - margin]


def _with_margin(images: Tensor, *, margin: int) -> Tensor:
    """Return images from which `centre` has cut a margin, without a copy."""
    if not margin:
        return images
    (count, channels, height, width), strides = images.shape, images.stride()
    begin = images.storage_offset() - margin * (strides[2] + strides[3])
    return images.as_strided((count, channels, height + 2 * margin, width + 2 * margin), strides, begin)


def _joined(first: Tensor, second: Tensor) -> Tensor:
    """Concatenate two tensors, without a copy if `second` follows `first` in memory."""
    together = (len(first) + len(second), *first.shape[1:])
    one_block = first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    if one_block and second.storage_offset() == first.storage_offset() + first.numel():
        return first.as_strided(together, first.stride(), first.storage_offset())
    whole = torch.cat([first, second])
    return whole.contiguous(memory_format=torch.channels_last) if whole.dim() == 4 else whole


def record(data: Data, *, spec: DataSpec, views: int) -> DataRecord:
    """Return the record of data that were loaded from `spec` and are augmented by a pool of `views` views."""
    splits = (data.train, data.validation, data.test) if data.reading else ()
    return DataRecord(
        name=data.name,
        classes=data.classes,
        image_shape=data.image_shape,
        train=len(data.train.labels),
        validation=len(data.validation.labels),
        test=len(data.test.labels),
        split_seed=spec.split_seed,
        view_seed=spec.view_seed,
        views=views,
        fingerprint=data.fingerprint,
        counts=tuple(tuple(part.labels.bincount(minlength=data.num_classes).tolist()) for part in splits),
        reading=data.reading,
    )


def normalise(
    images: UInt8[Tensor, "batch channels height width"], *, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "batch channels height width"]:
    """Scale images to [0, 1], subtract `mean` and divide by `std` per channel. The memory format is unchanged."""
    scale, shift = _scale_and_shift(mean, std, images.device)
    return images.to(torch.float32).mul_(scale).add_(shift)


def images_at_once(
    images: UInt8[Tensor, "examples channels height width"], *, on_gpu: int, size: int | None = None
) -> int:
    """Return the number of images in a forward pass without training.

    Args:
        images: All images; their device and size decide.
        on_gpu: The result on a GPU.
        size: Height and width to which the network resizes the images; None: it does not.
    """
    if images.device.type != "cpu":
        return on_gpu
    pixels = size**2 if size is not None else images.shape[2] * images.shape[3]
    return max(FEWEST_AT_ONCE, min(MOST_AT_ONCE, PIXELS_AT_ONCE // pixels))


@cache
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    # Cached: otherwise every batch would copy two tensors to the device and wait for both copies.
    centre, spread = (torch.tensor(numbers, dtype=torch.float64)[:, None, None] for numbers in (mean, std))
    scale, shift = 1 / (255 * spread), -centre / spread
    return scale.to(device, torch.float32), shift.to(device, torch.float32)


def _of_file(spec: DataSpec, found: Stored) -> Data:
    header, (train, validation, test) = found.header, found.splits
    validation, test = (Split(centre(it.images, margin=header.margin), it.labels) for it in (validation, test))
    outside = len(found.numbers) - sum(header.splits)
    rows = found.numbers.split([*header.splits, outside])
    return Data(
        spec.name,
        header.classes,
        train,
        validation,
        test,
        header.mean,
        header.std,
        header.fingerprint,
        file=found.path,
        examples=Examples(rows[0], rows[1], rows[2], dict(header.parts), partial(file_names, spec)),
        margin=header.margin,
        reading=header.reading,
    )

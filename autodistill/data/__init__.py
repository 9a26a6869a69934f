"""Datasets, split, resident: `load(spec)` gives uint8 images that live on the device as one tensor each."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from autodistill.data.image_folder import folder
from autodistill.data.source import Source, Split
from autodistill.data.splits import Splits, split
from autodistill.data.standard import cifar10, cifar100, digits, fashion_mnist
from autodistill.errors import DataError, lookup
from autodistill.records import DataRecord
from autodistill.space.models import DataSpec

__all__ = [
    "DATASETS",
    "Data",
    "Split",
    "average_pool",
    "images_at_once",
    "load",
    "normalise",
    "record",
    "with_validation",
]

DATASETS: dict[str, Callable[[DataSpec], Source]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "folder": folder,
}

PIXELS_AT_ONCE, FEWEST_AT_ONCE, MOST_AT_ONCE = 2**17, 16, 512
"""Images in a forward pass on a CPU: the maps of more pixels leave its caches. On one core of an AMD EPYC, against
512 images of 3x32x32 at once: MobileNetV2 x0.5 2.2, ResNet-110 1.35, VGG8 1.3 times as fast, and the same to the bit;
images of 8x8 take as long by 256 as by 512, and longer by fewer. Of images above 32x32 nothing was measured."""

_CHUNK = 4096
"""Images looked at together, so that looking at all needs no second copy of them."""


@dataclass(frozen=True)
class Data:
    """A dataset, split. `mean` and `std` are the training images' per channel, scaled to [0, 1]."""

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    """SHA-256 over the images and labels of each split: what a cache of anything computed from them is keyed by."""

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def to(self, device: torch.device | str) -> "Data":
        """Return the same data on another device."""
        train, validation, test = (
            Split(images.to(device), labels.to(device)) for images, labels in (self.train, self.validation, self.test)
        )
        return replace(self, train=train, validation=validation, test=test)


def load(spec: DataSpec) -> Data:
    """Load, pool and split the dataset that `spec` names.

    Raises:
        ConfigError: an unknown name, or a key that means nothing to this dataset.
        DataError: files that are missing, damaged or mixed up, or sizes that cannot be had.
    """
    source = lookup("dataset", spec.name.partition(":")[0], DATASETS)(spec)
    if spec.pool > 1:
        source = _pooled(source, size=spec.pool)
    splits = split(source, spec)
    mean, std = _statistics(splits.train.images)
    return Data(
        name=spec.name,
        classes=source.classes,
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        mean=mean,
        std=std,
        fingerprint=_fingerprint(splits),
    )


def with_validation(data: Data) -> Data:
    """Return the same data with the validation images in the training split too, after its own.

    `mean` and `std` stay those of the training split: what a student is fed is part of its configuration. The
    validation split stays in its place, but a score on it is one on training images.
    """
    pairs = zip(data.train, data.validation, strict=True)
    images, labels = (torch.cat(pair) for pair in pairs)
    joined = Split(images.contiguous(memory_format=torch.channels_last), labels)
    fingerprint = hashlib.sha256(f"train+validation {data.fingerprint}".encode()).hexdigest()
    return replace(data, train=joined, fingerprint=fingerprint)


def record(data: Data, *, spec: DataSpec, views: int) -> DataRecord:
    """Describe `data`, loaded from `spec` and seen through a pool of `views` views, for the study's record."""
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
    )


def normalise(
    images: UInt8[Tensor, "batch channels height width"], *, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "batch channels height width"]:
    """Scale images to [0, 1], subtract `mean` and divide by `std`, per channel; memory format as the images'."""
    scale, shift = _scale_and_shift(mean, std, images.device)
    return images.to(torch.float32).mul_(scale).add_(shift)


def images_at_once(
    images: UInt8[Tensor, "examples channels height width"], *, on_gpu: int, size: int | None = None
) -> int:
    """How many images a network is shown at once where nothing is trained.

    Args:
        size: height and width that the images are resized to.
    """
    if images.device.type != "cpu":
        return on_gpu
    pixels = size**2 if size is not None else images.shape[2] * images.shape[3]
    return max(FEWEST_AT_ONCE, min(MOST_AT_ONCE, PIXELS_AT_ONCE // pixels))


@cache
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    # Kept: two copies to the device in every batch would each wait for it.
    centre, spread = (torch.tensor(numbers, dtype=torch.float64)[:, None, None] for numbers in (mean, std))
    scale, shift = 1 / (255 * spread), -centre / spread
    return scale.to(device, torch.float32), shift.to(device, torch.float32)


def average_pool(
    images: UInt8[Tensor, "examples channels height width"], *, size: int
) -> UInt8[Tensor, "examples channels pooled_height pooled_width"]:
    """Average blocks of `size` x `size` pixels, rounded to the nearest level, halves up.

    Raises:
        DataError: `size` does not divide the image size.
    """
    height, width = images.shape[2:]
    if height % size or width % size:
        divisors = ", ".join(str(n) for n in range(1, min(height, width) + 1) if height % n == 0 and width % n == 0)
        raise DataError(f"data.pool = {size} does not divide {height}x{width} images", f"allowed: {divisors}")
    blocks = images.reshape(*images.shape[:2], height // size, size, width // size, size)
    total: Tensor = blocks.sum((3, 5), dtype=torch.int32)
    return ((total + size * size // 2) // (size * size)).to(torch.uint8)


def _pooled(source: Source, *, size: int) -> Source:
    train, validation, test = (
        part and Split(average_pool(part.images, size=size), part.labels)
        for part in (source.train, source.validation, source.test)
    )
    assert train is not None
    return Source(source.classes, train, validation, test)


def _statistics(
    images: UInt8[Tensor, "examples channels height width"],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation per channel, from exact counts of the 256 levels."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for chunk in _chunks(images):
        counts += torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in chunk.unbind(1)])
    levels = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, dtype=torch.float64)[:, None]
    mean = share @ levels
    std = (share * (levels - mean[:, None]) ** 2).sum(1).sqrt()
    # A channel without contrast has none to scale to: one grey level keeps it finite.
    return tuple(mean.tolist()), tuple(std.clamp(min=1 / 255).tolist())


def _fingerprint(splits: Splits) -> str:
    digest = hashlib.sha256()
    for images, labels in splits:
        digest.update(f"{tuple(images.shape)};".encode())
        for chunk in _chunks(images):
            digest.update(chunk.contiguous().numpy().data)
        digest.update(labels.to(torch.int64).numpy().data)
    return digest.hexdigest()


def _chunks(images: UInt8[Tensor, "examples channels height width"]) -> Iterator[Tensor]:
    return (images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK))

"""What is computed from images and labels: fingerprint, channel statistics, pooled pixels."""

import hashlib
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import UInt8
from torch import Tensor

from autodistill.data.source import Split
from autodistill.errors import DataError

CHUNK_BYTES = 2**22
"""Pixels looked at together, so that looking at all of them needs no second copy."""

Images = UInt8[Tensor, "examples channels height width"]


def fingerprint(splits: Iterable[Split]) -> str:
    """SHA-256 over the images, as channels of rows of pixels, and the labels of each split."""
    digest = hashlib.sha256()
    for images, labels in splits:
        digest.update(f"{tuple(images.shape)};".encode())
        for chunk in chunks(images):
            digest.update(chunk.contiguous().numpy().data)
        digest.update(labels.to(torch.int64).numpy().data)
    return digest.hexdigest()


def statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation per channel, from exact counts of the 256 levels."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for chunk in chunks(images):
        counts += torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in chunk.unbind(1)])
    levels = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, dtype=torch.float64)[:, None]
    mean = share @ levels
    std = (share * (levels - mean[:, None]) ** 2).sum(1).sqrt()
    # A channel of one value has a standard deviation of 0; one grey level in its place keeps the division finite.
    return tuple(mean.tolist()), tuple(std.clamp(min=1 / 255).tolist())


def demand_pool(size: int, *, height: int, width: int) -> None:
    """Check that images can be averaged in blocks of `size` x `size` pixels.

    Raises:
        DataError: `size` does not divide the image size.
    """
    if height % size or width % size:
        divisors = ", ".join(str(n) for n in range(1, min(height, width) + 1) if height % n == 0 and width % n == 0)
        raise DataError(f"data.pool = {size} does not divide {height}x{width} images", f"allowed: {divisors}")


def average_pool(images: Images, *, size: int) -> UInt8[Tensor, "examples channels pooled_height pooled_width"]:
    """Average blocks of `size` x `size` pixels, rounded to the nearest level, halves up.

    Raises:
        DataError: `size` does not divide the image size.
    """
    height, width = images.shape[2:]
    demand_pool(size, height=height, width=width)
    blocks = images.reshape(*images.shape[:2], height // size, size, width // size, size)
    total: Tensor = blocks.sum((3, 5), dtype=torch.int32)
    return ((total + size * size // 2) // (size * size)).to(torch.uint8)


def chunks(images: Images) -> Iterator[Tensor]:
    """Consecutive images, some `CHUNK_BYTES` at a time."""
    count = max(1, CHUNK_BYTES // max(1, images[:1].nbytes))
    return (images[start : start + count] for start in range(0, len(images), count))

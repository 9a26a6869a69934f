"""Where a network halves its feature map: strides that suit the size of the images."""

import math

from autodistill.errors import ConfigError


def largest_stride(image_size: int) -> int:
    """The largest power of two that leaves a final map of at least 2x2, rounding up: 4 at 8x8, 16 at 32x32.

    Raises:
        ValueError: `image_size` is below 1.
    """
    if image_size < 1:
        raise ValueError(f"image_size {image_size} must be at least 1")
    return 1 << max(0, (image_size - 1).bit_length() - 1)


def fit(published: tuple[int, ...], *, image_size: int, stem_stride: int | None) -> tuple[int, ...]:
    """Drop strides, the earliest first, until the total suits the image size.

    Args:
        published: The strides, 1 or 2, at the places where the published network may have one, the stem first.
        image_size: Height and width of the images.
        stem_stride: None: what is left of the published one. 1 or 2: that one, in place of the earliest other stride;
            the total stays, unless too few places are left for it.

    Raises:
        ConfigError: the images are too small for `stem_stride`.
    """
    total = min(math.prod(published), largest_stride(image_size))
    if stem_stride is None:
        return _drop_earliest(published, total)
    if stem_stride > total:
        raise ConfigError(
            f"student.stem_stride = {stem_stride}: {image_size}x{image_size} images allow a total stride of {total}",
            "set student.stem_stride = 1, or take larger images",
        )
    return stem_stride, *_drop_earliest(published[1:], total // stem_stride)


def _drop_earliest(strides: tuple[int, ...], total: int) -> tuple[int, ...]:
    kept = list(strides)
    for place in range(len(kept)):
        if math.prod(kept) > total:
            kept[place] = 1
    return tuple(kept)

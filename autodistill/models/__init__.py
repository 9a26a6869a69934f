"""Registry of networks by the names of the literature, with a stem and strides that suit the image size."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import nn

from autodistill.errors import ConfigError, lookup
from autodistill.models.literature import (
    mobilenetv2_literature,
    resnet_option_a,
    shufflenet_v1,
    shufflenet_v2,
)
from autodistill.models.networks import Shape, mobilenetv2, resnet, vgg, wide_resnet
from autodistill.tensors import seeded

__all__ = ["MODELS", "Architecture", "Layout", "build", "lay_out", "parse_name"]

LARGEST_WIDTH = 16.0
_SMALL_IMAGE = 32


class Architecture(NamedTuple):
    """A function that builds a network, and the published strides."""

    build: Callable[[Shape], nn.Module]
    strides: tuple[int, ...]
    """Stride, 1 or 2, of each layer that may be strided, the stem first."""
    small: tuple[int, ...] | None = None
    """The published strides for images of at most 32x32 (CIFAR), if they differ."""


_CIFAR = (1, 2, 2)
_IMAGENET = (2, 2, 2, 2, 2)
_IMAGENET_ON_CIFAR = (1, 1, 2, 2, 2)
_VGG = (1, 2, 2, 2, 2)
_VGG_ON_CIFAR = (1, 2, 2, 2, 1)
_X4 = (32, 64, 128, 256)
_RESNET = (64, 64, 128, 256, 512)
_DEPTHS = {8: (1, 1, 1), 14: (2, 2, 2), 20: (3, 3, 3), 32: (5, 5, 5), 44: (7, 7, 7), 56: (9, 9, 9), 110: (18, 18, 18)}
"""Blocks of the CIFAR ResNets by depth."""
_VGG_CONVOLUTIONS = {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}

MODELS: dict[str, Architecture] = {
    "mobilenetv2": Architecture(mobilenetv2, _IMAGENET),
    **{f"resnet{depth}": Architecture(partial(resnet, blocks=blocks), _CIFAR) for depth, blocks in _DEPTHS.items()},
    "resnet8x4": Architecture(partial(resnet, blocks=(1, 1, 1), channels=_X4), _CIFAR),
    "resnet32x4": Architecture(partial(resnet, blocks=(5, 5, 5), channels=_X4), _CIFAR),
    "resnet18": Architecture(partial(resnet, blocks=(2, 2, 2, 2), channels=_RESNET), _IMAGENET, _IMAGENET_ON_CIFAR),
    "resnet34": Architecture(partial(resnet, blocks=(3, 4, 6, 3), channels=_RESNET), _IMAGENET, _IMAGENET_ON_CIFAR),
    "resnet50": Architecture(
        partial(resnet, blocks=(3, 4, 6, 3), channels=_RESNET, bottleneck=True), _IMAGENET, _IMAGENET_ON_CIFAR
    ),
    **{
        f"wrn_{depth}_{widen}": Architecture(partial(wide_resnet, depth=depth, widen=widen), _CIFAR)
        for depth, widen in ((16, 1), (16, 2), (40, 1), (40, 2), (28, 10))
    },
    **{
        name: Architecture(partial(vgg, convolutions=convolutions), _VGG, _VGG_ON_CIFAR)
        for name, convolutions in _VGG_CONVOLUTIONS.items()
    },
    "mobilenetv2_literature": Architecture(mobilenetv2_literature, (2, 1, 2, 2, 2)),
    "shufflenet_v1": Architecture(shufflenet_v1, (1, 2, 2, 2)),
    "shufflenet_v2": Architecture(shufflenet_v2, (1, 2, 2, 2)),
    **{
        f"resnet{depth}_option_a": Architecture(partial(resnet_option_a, blocks=blocks), _CIFAR)
        for depth, blocks in _DEPTHS.items()
    },
}
"""Networks by name. Where a checkpoint fits several, the first counts."""


class Layout(NamedTuple):
    """Architecture, width and strides of a network for one image size."""

    architecture: str
    width: float
    strides: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name with its width: `mobilenetv2:0.25`."""
        return f"{self.architecture}:{self.width:.15g}"

    @property
    def stem_stride(self) -> int:
        return self.strides[0]


def parse_name(name: str, default_width: float = 1.0) -> tuple[str, float]:
    """Split `mobilenetv2:0.5` into architecture and width; without `:WIDTH`, the width is `default_width`.

    Raises:
        ConfigError: The architecture is unknown (the message names near matches), or the width is outside (0, 16].
    """
    architecture, colon, written = name.partition(":")
    lookup("network", architecture, MODELS)
    try:
        width = float(written) if colon else default_width
    except ValueError:
        width = math.nan
    if not 0 < width <= LARGEST_WIDTH:
        shown = repr(written) if colon else f"{default_width:g}"
        raise ConfigError(
            f"network {name!r}: width {shown}, allowed is a number above 0 and at most {LARGEST_WIDTH:g}",
            f"write for example {architecture}:0.5, or {architecture} alone for the default width",
        )
    return architecture, width


def lay_out(name: str, *, image_size: int, default_width: float = 1.0, stem_stride: int | None = None) -> Layout:
    """Resolve the name of a network, with or without `:WIDTH`, and choose strides that suit the image size.

    The total stride is the published total stride, but at most the largest power of two that leaves a final map of
    2x2, rounded up: 4 for 8x8 images, 16 for 32x32. The earliest strides are removed first. With `stem_stride`, later
    strides are chosen so that the total stride stays the same, if there are enough of them.

    Raises:
        ConfigError: The name is unknown, the width is wrong, or the images are too small for `stem_stride`.
    """
    architecture, width = parse_name(name, default_width)
    _, published, small = MODELS[architecture]
    if small is not None and image_size <= _SMALL_IMAGE:
        published = small
    total = min(math.prod(published), 1 << max(0, (image_size - 1).bit_length() - 1))
    if stem_stride is None:
        return Layout(architecture, width, _drop_earliest(published, total))
    if stem_stride > total:
        raise ConfigError(
            f"student.stem_stride = {stem_stride}: {image_size}x{image_size} images allow a total stride of {total}",
            "set student.stem_stride = 1, or take larger images",
        )
    return Layout(architecture, width, (stem_stride, *_drop_earliest(published[1:], total // stem_stride)))


def _drop_earliest(strides: tuple[int, ...], total: int) -> tuple[int, ...]:
    kept = list(strides)
    for place in range(len(kept)):
        if math.prod(kept) > total:
            kept[place] = 1
    return tuple(kept)


def build(
    name: str,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    seed: int,
    default_width: float = 1.0,
    stem_stride: int | None = None,
) -> nn.Module:
    """Build a network on the current default device. Its weights depend on `seed` only.

    The state of torch's global generator is restored. Stem and strides, the other arguments and the errors are those
    of `lay_out`.
    """
    layout = lay_out(name, image_size=image_size, default_width=default_width, stem_stride=stem_stride)
    shape = Shape(num_classes, in_channels, layout.width, layout.strides)
    with seeded(seed):
        return MODELS[layout.architecture].build(shape)

"""Students and teachers by the field's names, with a stem and strides that suit the image size."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from autodistill.config import StudentSpec
from autodistill.data import Data
from autodistill.errors import ConfigError, lookup
from autodistill.models.layout import fit
from autodistill.models.networks import mobilenetv2, resnet_cifar, resnet_imagenet, vgg, wide_resnet
from autodistill.models.parts import Shape

__all__ = ["MODELS", "Architecture", "Layout", "build", "lay_out", "parse_name", "student_network"]

LARGEST_WIDTH = 16.0
_SMALL_IMAGE = 32


class Architecture(NamedTuple):
    """How to build a network, and its published strides: 1 or 2 at each place that may have one, the stem first."""

    build: Callable[[Shape], nn.Module]
    strides: tuple[int, ...]
    small: tuple[int, ...] | None = None
    """The published strides on images of at most CIFAR's 32x32, where they are other ones."""


_CIFAR = (1, 2, 2)
_IMAGENET = (2, 2, 2, 2, 2)
_IMAGENET_ON_CIFAR = (1, 1, 2, 2, 2)
_VGG = (1, 2, 2, 2, 2)
_VGG_ON_CIFAR = (1, 2, 2, 2, 1)
_X4 = (32, 64, 128, 256)

MODELS: dict[str, Architecture] = {
    "mobilenetv2": Architecture(mobilenetv2, _IMAGENET),
    "resnet8": Architecture(partial(resnet_cifar, depth=8), _CIFAR),
    "resnet14": Architecture(partial(resnet_cifar, depth=14), _CIFAR),
    "resnet20": Architecture(partial(resnet_cifar, depth=20), _CIFAR),
    "resnet32": Architecture(partial(resnet_cifar, depth=32), _CIFAR),
    "resnet56": Architecture(partial(resnet_cifar, depth=56), _CIFAR),
    "resnet110": Architecture(partial(resnet_cifar, depth=110), _CIFAR),
    "resnet8x4": Architecture(partial(resnet_cifar, depth=8, channels=_X4), _CIFAR),
    "resnet32x4": Architecture(partial(resnet_cifar, depth=32, channels=_X4), _CIFAR),
    "resnet18": Architecture(partial(resnet_imagenet, blocks=(2, 2, 2, 2)), _IMAGENET, _IMAGENET_ON_CIFAR),
    "resnet34": Architecture(partial(resnet_imagenet, blocks=(3, 4, 6, 3)), _IMAGENET, _IMAGENET_ON_CIFAR),
    "resnet50": Architecture(
        partial(resnet_imagenet, blocks=(3, 4, 6, 3), bottleneck=True), _IMAGENET, _IMAGENET_ON_CIFAR
    ),
    "wrn_16_2": Architecture(partial(wide_resnet, depth=16, widen=2), _CIFAR),
    "wrn_40_2": Architecture(partial(wide_resnet, depth=40, widen=2), _CIFAR),
    "vgg8": Architecture(partial(vgg, convolutions=1), _VGG, _VGG_ON_CIFAR),
    "vgg13": Architecture(partial(vgg, convolutions=2), _VGG, _VGG_ON_CIFAR),
}


class Layout(NamedTuple):
    """What a name means for images of one size."""

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

    @property
    def total_stride(self) -> int:
        return math.prod(self.strides)


def parse_name(name: str, default_width: float = 1.0) -> tuple[str, float]:
    """Split `mobilenetv2:0.5` into architecture and width; without one, the width is `default_width`.

    Raises:
        ConfigError: an unknown architecture (with near matches) or a width outside (0, 16].
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
    """Resolve a name, and the strides that suit the image size.

    The total stride is the published one, but at most the largest power of two that leaves a final map of 2x2,
    rounding up; the earliest strides are dropped first. `stem_stride` puts one into the stem or keeps it out.

    Raises:
        ConfigError: an unknown name, a wrong width, images too small for `stem_stride`.
    """
    architecture, width = parse_name(name, default_width)
    published, small = MODELS[architecture].strides, MODELS[architecture].small
    if small is not None and image_size <= _SMALL_IMAGE:
        published = small
    return Layout(architecture, width, fit(published, image_size=image_size, stem_stride=stem_stride))


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
    """Build a network on the current default device, initialised from `seed` alone.

    Args:
        name: A key of MODELS, with a width after a colon or without.
        num_classes: Logits that it returns.
        in_channels: Of the images.
        image_size: Height and width of the images; decides stem and strides.
        seed: Of the initialisation; torch's global generator stays as it was.
        default_width: Where the name carries none.
        stem_stride: None: chosen by the image size.

    Raises:
        ConfigError: an unknown name, a wrong width, images too small for `stem_stride`.
    """
    layout = lay_out(name, image_size=image_size, default_width=default_width, stem_stride=stem_stride)
    shape = Shape(num_classes, in_channels, layout.width, layout.strides)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the GPUs' generators too, and those are not forked here.
        torch.default_generator.manual_seed(seed)
        return MODELS[layout.architecture].build(shape)


def student_network(name: str, data: Data, spec: StudentSpec, *, seed: int = 0) -> nn.Module:
    """A student as a study builds it, freshly initialised."""
    return build(
        name,
        num_classes=data.num_classes,
        in_channels=data.image_shape[0],
        image_size=data.image_shape[1],
        seed=seed,
        default_width=spec.width,
        stem_stride=spec.stem_stride,
    )

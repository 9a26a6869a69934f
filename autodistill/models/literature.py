"""CIFAR networks of the distillation literature that differ from ours in more than the names of their tensors.

RepDistiller (Tian et al. 2020) and mdistiller (Zhao et al. 2022) publish checkpoints of these networks. The functions
build them with the published names of tensors, except those of the ResNets with shortcuts of option A.
"""

from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from autodistill.models.networks import GlobalAverage, Shape, initialise, mobilenetv2_stages, resnet, scaled

Maps = Float[Tensor, "batch channels height width"]
Out = Float[Tensor, "batch out_channels out_height out_width"]
_GROUPS = 3
"""Groups of ShuffleNet's convolutions."""


def resnet_option_a(shape: Shape, *, blocks: tuple[int, ...]) -> nn.Module:
    """Build a CIFAR ResNet whose shortcuts have no parameters: option A of He et al. 2016, section 4.2.

    Where the shape changes, the shortcut takes every second pixel and pads the channels with zeros on both sides.
    """
    net = resnet(shape, blocks=blocks)
    for block in net.modules():
        project = getattr(block, "downsample", None)
        if isinstance(project, nn.Sequential):
            old = project[0]
            assert isinstance(old, nn.Conv2d)
            block.downsample = PaddedShortcut(old.in_channels, old.out_channels, old.stride[0])
    return net


class PaddedShortcut(nn.Module):
    """Subsample the pixels and pad the channels with zeros."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before
        self.stride = stride

    def forward(self, maps: Maps) -> Out:
        return F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def mobilenetv2_literature(shape: Shape) -> nn.Module:
    """Build the MobileNetV2 that the distillation literature uses at half width.

    It differs from the paper's: channels are cut to whole numbers instead of rounded to multiples of 8, the first
    block has an expansion layer too, the activations are ReLU, and the second stage has stride 1.
    """
    before = max(1, int(32 * shape.width))
    first = _convolution(shape.in_channels, before, kernel=3, stride=shape.strides[0])
    stages = []
    for expansion, published, count, stride in mobilenetv2_stages(shape):
        channels = max(1, int(published * shape.width))
        rest = (_InvertedResidual(channels, channels, stride=1, expansion=expansion) for _ in range(count - 1))
        stages.append(nn.Sequential(_InvertedResidual(before, channels, stride=stride, expansion=expansion), *rest))
        before = channels
    last = max(1280, int(1280 * shape.width))
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=first,
        blocks=nn.Sequential(*stages),
        conv2=_convolution(before, last, kernel=1),
        avgpool=GlobalAverage(),
        flatten=nn.Flatten(),
        classifier=nn.Sequential(nn.Linear(last, shape.num_classes)),
    )
    return initialise(nn.Sequential(layers))


class _InvertedResidual(nn.Module):
    def __init__(self, in_channels: int, channels: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.conv = nn.Sequential(
            *_convolution(in_channels, hidden, kernel=1),
            *_convolution(hidden, hidden, kernel=3, stride=stride, groups=hidden),
            *_convolution(hidden, channels, kernel=1)[:2],
        )
        self.adds = stride == 1 and in_channels == channels

    def forward(self, maps: Maps) -> Out:
        found: Tensor = self.conv(maps)
        return maps + found if self.adds else found


def shufflenet_v1(shape: Shape) -> nn.Module:
    """Build ShuffleNet (Zhang et al. 2018) with 3 groups and the 1x1 stem of CIFAR versions."""
    stem, *strides = shape.strides
    # Stem and stages need channels for a quarter of each group.
    step = 4 * _GROUPS
    before = step * max(1, round(24 * shape.width / step))
    layers = _shuffle_stem(shape.in_channels, before, stride=stem)
    for number, (published, count, stride) in enumerate(zip((240, 480, 960), (4, 8, 4), strides, strict=True), start=1):
        channels = step * max(number + 1, round(published * shape.width / step))
        first_groups = 1 if number == 1 else _GROUPS
        first = _ShuffleV1Block(before, channels - before, stride=stride, joins=True, first_groups=first_groups)
        rest = (_ShuffleV1Block(channels, channels, stride=1, joins=False) for _ in range(count - 1))
        layers[f"layer{number}"] = nn.Sequential(first, *rest)
        before = channels
    layers.update(avgpool=GlobalAverage(), flatten=nn.Flatten(), linear=nn.Linear(before, shape.num_classes))
    return initialise(nn.Sequential(layers))


class _ShuffleV1Block(nn.Module):
    def __init__(
        self, in_channels: int, channels: int, *, stride: int, joins: bool, first_groups: int = _GROUPS
    ) -> None:
        super().__init__()
        hidden = channels // 4
        hidden -= hidden % first_groups
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, channels, 1, groups=_GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.first_groups = first_groups
        self.joins = joins
        """Whether input and output are concatenated, as in the first block of a stage."""
        self.shrink = nn.AvgPool2d(3, stride, 1) if joins else nn.Identity()

    def forward(self, maps: Maps) -> Out:
        found = F.relu(self.bn1(self.conv1(maps)))
        found = F.relu(self.bn2(self.conv2(shuffled(found, self.first_groups))))
        found = self.bn3(self.conv3(found))
        shortcut = self.shrink(maps)
        return F.relu(torch.cat([found, shortcut], 1) if self.joins else found + shortcut)


def shufflenet_v2(shape: Shape) -> nn.Module:
    """Build ShuffleNetV2 x1 (Ma et al. 2018) with the 1x1 stem of CIFAR versions."""
    stem, *strides = shape.strides
    before = scaled(24, shape.width)
    layers = _shuffle_stem(shape.in_channels, before, stride=stem)
    for number, (published, count, stride) in enumerate(zip((116, 232, 464), (3, 7, 3), strides, strict=True), start=1):
        channels = 2 * scaled(published // 2, shape.width)
        rest = (_ShuffleV2Block(channels) for _ in range(count))
        layers[f"layer{number}"] = nn.Sequential(_ShuffleV2Down(before, channels, stride=stride), *rest)
        before = channels
    last = scaled(1024, shape.width)
    layers.update(
        conv2=nn.Conv2d(before, last, 1, bias=False),
        bn2=nn.BatchNorm2d(last),
        relu2=nn.ReLU(inplace=True),
        avgpool=GlobalAverage(),
        flatten=nn.Flatten(),
        linear=nn.Linear(last, shape.num_classes),
    )
    return initialise(nn.Sequential(layers))


class _ShuffleV2Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, maps: Maps) -> Out:
        kept, found = maps.chunk(2, dim=1)
        found = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(found)))))
        return shuffled(torch.cat([kept, F.relu(self.bn3(self.conv3(found)))], 1), 2)


class _ShuffleV2Down(nn.Module):
    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, stride, 1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, maps: Maps) -> Out:
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(maps)))))
        right = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(maps)))))
        return shuffled(torch.cat([left, F.relu(self.bn5(self.conv5(right)))], 1), 2)


def shuffled(maps: Maps, groups: int) -> Maps:
    """Interleave the channels of groups."""
    batch, channels, height, width = maps.shape
    return maps.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(maps.shape)


def _convolution(before: int, channels: int, *, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


def _shuffle_stem(in_channels: int, channels: int, *, stride: int) -> "OrderedDict[str, nn.Module]":
    return OrderedDict(
        conv1=nn.Conv2d(in_channels, channels, 1, stride, bias=False),
        bn1=nn.BatchNorm2d(channels),
        relu=nn.ReLU(inplace=True),
    )

"""What the networks are made of, beside torchvision's blocks."""

from collections import OrderedDict
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Shape(NamedTuple):
    """What a builder is given. `strides`: 1 or 2 for each of the architecture's strided places, the stem first."""

    num_classes: int
    in_channels: int
    width: float
    strides: tuple[int, ...]


def scaled(channels: int, width: float) -> int:
    """Channels at a width: rounded to the nearest, at least one."""
    return max(1, round(channels * width))


def initialise(net: nn.Module) -> nn.Module:
    """Draw convolutions from He's normal distribution over the outputs (He et al. 2015); the rest as torch has it."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def classifier(channels: int, num_classes: int) -> "OrderedDict[str, nn.Module]":
    """Average over the map, then one linear layer."""
    return OrderedDict(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, num_classes))


class GlobalAverage(nn.Module):
    """Average over the map, such that the gradient comes in channels_last.

    That of `adaptive_avg_pool2d` does not, and `avg_pool2d` copies; behind 1280 channels a MobileNetV2 step on small
    images takes 12 to 14 % longer for it on a CPU.
    """

    def forward(self, maps: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels 1 1"]:
        return maps.permute(0, 2, 3, 1).flatten(1, 2).mean(1)[:, :, None, None]


class PreActivationBlock(nn.Module):
    """Residual block with BatchNorm and ReLU before each 3x3 convolution (He et al. 2016, arXiv:1603.05027).

    Where the number of channels or the stride changes, the shortcut is a 1x1 convolution of the activated input.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        same = stride == 1 and in_channels == channels
        self.shortcut = None if same else nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(
        self, images: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch channels out_height out_width"]:
        active = F.relu(self.bn1(images))
        residual: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        shortcut: Tensor = images if self.shortcut is None else self.shortcut(active)
        return shortcut + residual

"""The networks, assembled from torchvision's blocks where it has them.

Each function returns a network of raw logits for images of shape (batch, in_channels, height, width).
"""

from collections import OrderedDict
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Shape(NamedTuple):
    """Arguments of the functions that build networks."""

    num_classes: int
    in_channels: int
    width: float
    """Factor of the published numbers of channels."""
    strides: tuple[int, ...]
    """Stride, 1 or 2, of each layer that may be strided, the stem first."""


def mobilenetv2(shape: Shape) -> nn.Module:
    """Build torchvision's MobileNetV2 (Sandler et al. 2018) with 17 inverted-residual blocks.

    As in torchvision, channels are rounded to multiples of 8, and the head has 1280 channels at widths below 1 too;
    `mobilenetv2_literature` differs.

    There is no dropout: a training step then draws no random numbers, and a resumed run equals an uninterrupted run.
    """
    from torchvision.models import MobileNetV2

    stem, stages = shape.strides[0], mobilenetv2_stages(shape)
    net: Any = MobileNetV2(shape.num_classes, shape.width, inverted_residual_setting=stages, dropout=0.0)
    old = net.features[0][0]
    if (shape.in_channels, stem) != (old.in_channels, old.stride[0]):
        net.features[0][0] = nn.Conv2d(shape.in_channels, old.out_channels, 3, stem, 1, bias=False)
        nn.init.kaiming_normal_(net.features[0][0].weight, mode="fan_out")
    net.features.append(GlobalAverage())
    for part in net.modules():
        if isinstance(part, nn.ReLU6):
            # In place saves no memory here: autograd first copies the input.
            part.inplace = False
    module: nn.Module = net
    return module


def mobilenetv2_stages(shape: Shape) -> list[list[int]]:
    """Return expansion, channels, blocks and stride of the first block of each stage (Sandler et al. 2018, table 2)."""
    _, second, third, fourth, sixth = shape.strides
    return [
        [1, 16, 1, 1],
        [6, 24, 2, second],
        [6, 32, 3, third],
        [6, 64, 4, fourth],
        [6, 96, 3, 1],
        [6, 160, 3, sixth],
        [6, 320, 1, 1],
    ]


def resnet(
    shape: Shape,
    *,
    blocks: tuple[int, ...],
    channels: tuple[int, ...] = (16, 16, 32, 64),
    bottleneck: bool = False,
) -> nn.Module:
    """Build a ResNet (He et al. 2016), with projections where the shape changes and torchvision's names of weights.

    With four stages, the second stride is that of a max pool, as in torchvision. If it is 1, or with the three stages
    of a CIFAR ResNet (section 4.2), there is no max pool and the stem is a 3x3 convolution.

    `blocks` counts the blocks of each stage, and `channels` are those of the stem and of each stage. A `bottleneck` has
    three convolutions instead of two.
    """
    from torchvision.models.resnet import BasicBlock, Bottleneck

    block: Any = Bottleneck if bottleneck else BasicBlock
    stem_stride, *strides = shape.strides
    pooled = len(strides) == len(blocks) and strides.pop(0) == 2
    before, *planes = (scaled(count, shape.width) for count in channels)
    kernel = 7 if pooled else 3
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(shape.in_channels, before, kernel, stem_stride, kernel // 2, bias=False),
        bn1=nn.BatchNorm2d(before),
        relu=nn.ReLU(inplace=True),
    )
    if pooled:
        layers["maxpool"] = nn.MaxPool2d(3, 2, 1)
    for stage, (inner, count, stride) in enumerate(zip(planes, blocks, (1, *strides), strict=True), start=1):
        out = inner * block.expansion
        project = None
        if stride != 1 or before != out:
            project = nn.Sequential(nn.Conv2d(before, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        rest = (block(out, inner) for _ in range(count - 1))
        layers[f"layer{stage}"] = nn.Sequential(block(before, inner, stride, project), *rest)
        before = out
    layers.update(classifier(before, shape.num_classes))
    return initialise(nn.Sequential(layers))


def wide_resnet(shape: Shape, *, depth: int, widen: int) -> nn.Module:
    """Build a Wide ResNet of 6n + 4 layers (Zagoruyko and Komodakis 2016, arXiv:1605.07146), without dropout."""
    stem, *planes = (scaled(count, shape.width) for count in (16, 16 * widen, 32 * widen, 64 * widen))
    strides = (1, *shape.strides[1:])
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(shape.in_channels, stem, 3, shape.strides[0], 1, bias=False)
    )
    before = stem
    for stage, (channels, stride) in enumerate(zip(planes, strides, strict=True), start=1):
        rest = (PreActivationBlock(channels, channels, stride=1) for _ in range((depth - 4) // 6 - 1))
        layers[f"layer{stage}"] = nn.Sequential(PreActivationBlock(before, channels, stride=stride), *rest)
        before = channels
    layers.update(bn=nn.BatchNorm2d(before), relu=nn.ReLU(inplace=True), **classifier(before, shape.num_classes))
    return initialise(nn.Sequential(layers))


def vgg(shape: Shape, *, convolutions: tuple[int, int, int, int, int]) -> nn.Module:
    """Build VGG (Simonyan and Zisserman 2015) with BatchNorm and one linear layer, as in the distillation literature.

    There are five blocks of 3x3 convolutions, as many as `convolutions` lists, and a max pool after each block whose
    stride is 2. The convolutions have no bias, because the following BatchNorm would cancel it.
    """
    stem_stride, *pools = shape.strides
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before = shape.in_channels
    for place, (count, depth) in enumerate(zip((64, 128, 256, 512, 512), convolutions, strict=True)):
        channels = scaled(count, shape.width)
        block: list[nn.Module] = []
        for stride in [stem_stride if place == 0 else 1] + [1] * (depth - 1):
            convolution = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
            block += [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            before = channels
        layers[f"block{place + 1}"] = nn.Sequential(*block)
        if place < len(pools) and pools[place] == 2:
            # Rounded up: a map of odd size keeps its last row, as with the strided convolutions of other networks.
            layers[f"pool{place + 1}"] = nn.MaxPool2d(2, 2, ceil_mode=True)
    layers.update(classifier(before, shape.num_classes))
    return initialise(nn.Sequential(layers))


class GlobalAverage(nn.Module):
    """Average over the map with a gradient in channels_last memory.

    The gradient of `adaptive_avg_pool2d` is not in channels_last memory, and `avg_pool2d` copies its input. With 1280
    channels, a MobileNetV2 step on small images then takes 12 to 14 % longer on a CPU.
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


def scaled(channels: int, width: float) -> int:
    """Return the number of channels at a width, rounded to the nearest integer, at least one."""
    return max(1, round(channels * width))


def initialise(net: nn.Module) -> nn.Module:
    """Initialise convolutions by He's normal distribution, fan-out mode (He et al. 2015), and return the network."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # drawing no values takes long there
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def classifier(channels: int, num_classes: int) -> "OrderedDict[str, nn.Module]":
    """Return the layers of a classifier: an average over the map and a linear layer."""
    return OrderedDict(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, num_classes))

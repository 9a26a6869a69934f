"""The published networks, assembled from torchvision's blocks where it has them."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from torch import nn

from autodistill.models.parts import GlobalAverage, PreActivationBlock, Shape, classifier, initialise, scaled


def mobilenetv2(shape: Shape) -> nn.Module:
    """torchvision's MobileNetV2 (Sandler et al. 2018), 17 inverted-residual blocks, strides as asked.

    Channels are rounded to multiples of 8 and the head stays 1280 wide below width 1, as torchvision has it; the
    CIFAR student of the distillation literature (width 0.5) rounds nothing, so that its second stage has 12 channels
    where this one has 16, and it expands in its first block too.

    No dropout: a training step then draws no random number, so that a resumed run repeats an unbroken one exactly.
    """
    from torchvision.models import MobileNetV2

    stem, second, third, fourth, sixth = shape.strides
    setting = [  # expansion, channels, blocks, stride of the first block
        [1, 16, 1, 1],
        [6, 24, 2, second],
        [6, 32, 3, third],
        [6, 64, 4, fourth],
        [6, 96, 3, 1],
        [6, 160, 3, sixth],
        [6, 320, 1, 1],
    ]
    net: Any = MobileNetV2(shape.num_classes, shape.width, inverted_residual_setting=setting, dropout=0.0)
    old = net.features[0][0]
    if (shape.in_channels, stem) != (old.in_channels, old.stride[0]):
        net.features[0][0] = nn.Conv2d(shape.in_channels, old.out_channels, 3, stem, 1, bias=False)
        nn.init.kaiming_normal_(net.features[0][0].weight, mode="fan_out")
    net.features.append(GlobalAverage())
    for part in net.modules():
        if isinstance(part, nn.ReLU6):
            # In place it saves nothing: autograd keeps a copy of the input, made first.
            part.inplace = False
    module: nn.Module = net
    return module


def resnet_cifar(shape: Shape, *, depth: int, channels: tuple[int, int, int, int] = (16, 16, 32, 64)) -> nn.Module:
    """CIFAR ResNet of 6n + 2 layers (He et al. 2016, section 4.2), projections where the shape changes.

    Args:
        shape: What to build.
        depth: 6n + 2.
        channels: Of the stem and the three stages; (32, 64, 128, 256) is the `x4` of the distillation literature.
    """
    from torchvision.models.resnet import BasicBlock

    stem, *planes = (scaled(count, shape.width) for count in channels)
    layers = _resnet_stem(shape.in_channels, stem, kernel=3, stride=shape.strides[0])
    blocks = [(depth - 2) // 6] * 3
    return _resnet(layers, BasicBlock, stem, list(zip(planes, blocks, (1, *shape.strides[1:]), strict=True)), shape)


def resnet_imagenet(shape: Shape, *, blocks: tuple[int, int, int, int], bottleneck: bool = False) -> nn.Module:
    """torchvision's ResNet (He et al. 2016), names and weights interchangeable with it.

    Without a stride left for the max pool there is none, and the stem is 3x3, as is usual on small images.
    """
    from torchvision.models.resnet import BasicBlock, Bottleneck

    stem_stride, pool_stride, *stage_strides = shape.strides
    stem, *planes = (scaled(count, shape.width) for count in (64, 64, 128, 256, 512))
    layers = _resnet_stem(shape.in_channels, stem, kernel=7 if pool_stride == 2 else 3, stride=stem_stride)
    if pool_stride == 2:
        layers["maxpool"] = nn.MaxPool2d(3, 2, 1)
    stages = list(zip(planes, blocks, (1, *stage_strides), strict=True))
    return _resnet(layers, Bottleneck if bottleneck else BasicBlock, stem, stages, shape)


def wide_resnet(shape: Shape, *, depth: int, widen: int) -> nn.Module:
    """Wide ResNet of 6n + 4 layers (Zagoruyko and Komodakis 2016, arXiv:1605.07146), without dropout."""
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


def vgg(shape: Shape, *, convolutions: int) -> nn.Module:
    """VGG (Simonyan and Zisserman 2015) with BatchNorm and one linear layer, as the distillation literature has it.

    Five blocks of `convolutions` 3x3 convolutions; a max pool after a block where its stride is 2. Convolutions have
    no bias, which the BatchNorm behind them would take away again.
    """
    stem_stride, *pools = shape.strides
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before = shape.in_channels
    for place, count in enumerate((64, 128, 256, 512, 512)):
        channels = scaled(count, shape.width)
        strides = [stem_stride if place == 0 else 1] + [1] * (convolutions - 1)
        layers[f"block{place + 1}"] = nn.Sequential(*_plain_convolutions(before, channels, strides))
        if place < len(pools) and pools[place] == 2:
            # Rounding up: an odd map keeps its last row, as the strided convolutions of the other networks do.
            layers[f"pool{place + 1}"] = nn.MaxPool2d(2, 2, ceil_mode=True)
        before = channels
    layers.update(classifier(before, shape.num_classes))
    return initialise(nn.Sequential(layers))


def _plain_convolutions(before: int, channels: int, strides: Iterable[int]) -> Iterable[nn.Module]:
    for stride in strides:
        yield nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        yield nn.BatchNorm2d(channels)
        yield nn.ReLU(inplace=True)
        before = channels


def _resnet_stem(in_channels: int, channels: int, *, kernel: int, stride: int) -> "OrderedDict[str, nn.Module]":
    return OrderedDict(
        conv1=nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False),
        bn1=nn.BatchNorm2d(channels),
        relu=nn.ReLU(inplace=True),
    )


def _resnet(
    layers: "OrderedDict[str, nn.Module]", block: Any, before: int, stages: list[tuple[int, int, int]], shape: Shape
) -> nn.Module:
    """Add stages of (planes, blocks, stride) and the classifier to a stem, under torchvision's names."""
    for number, (planes, count, stride) in enumerate(stages, start=1):
        out = planes * block.expansion
        project = None
        if stride != 1 or before != out:
            project = nn.Sequential(nn.Conv2d(before, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        rest = (block(out, planes) for _ in range(count - 1))
        layers[f"layer{number}"] = nn.Sequential(block(before, planes, stride, project), *rest)
        before = out
    layers.update(classifier(before, shape.num_classes))
    return initialise(nn.Sequential(layers))

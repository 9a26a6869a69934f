"""Convolutions of small maps, slow on a CPU, by operators that give the same but for rounding."""

import copy

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

SMALL_MAP = 16
"""Pixels. Up to here a matrix product is faster than a 1x1 convolution (2x2: 1.2 to 9 times, 4x4: 1.3 to 3.5;
forward, 64 images, one thread with AVX-512); on larger maps it is now faster, now slower."""
SMALLEST_MAP = 2
"""Pixels along a side. On such maps oneDNN takes the weights' gradient of a depthwise convolution by a kernel that is
not made for it, 3 to 9 times slower than with the padding written out."""


class Pointwise(nn.Module):
    """A 1x1 convolution, computed as a matrix product where the map is small."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(
        self, maps: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        if maps.shape[2] * maps.shape[3] > SMALL_MAP:
            return functional.conv2d(maps, self.weight, self.bias)
        return functional.linear(maps.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class Depthwise(nn.Module):
    """A depthwise 3x3 convolution of stride 1, its padding written out where the map is smallest."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(
        self, maps: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        padding = 1
        if max(maps.shape[2:]) <= SMALLEST_MAP:
            maps, padding = functional.pad(maps, (1, 1, 1, 1)), 0
        return functional.conv2d(maps, self.weight, self.bias, padding=padding, groups=len(self.weight))


def quick(model: nn.Module) -> nn.Module:
    """What to train a network through: a twin of its parameters and buffers, or itself where that is no gain."""
    held = [*model.parameters(), *model.buffers()]
    replacements = {name: found for name, module in model.named_modules() if name and (found := _replacement(module))}
    if not replacements or any(tensor.device.type != "cpu" for tensor in held):
        return model
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in held})
    for name, replacement in replacements.items():
        twin.set_submodule(name, replacement)
    return twin.train()


def _replacement(module: nn.Module) -> nn.Module | None:
    if type(module) is not nn.Conv2d or module.padding_mode != "zeros" or module.stride != (1, 1):
        return None
    if module.kernel_size == (1, 1) and module.groups == 1 and module.padding == (0, 0):
        return Pointwise(module)
    depthwise = module.groups == module.in_channels == module.out_channels
    same = module.kernel_size == (3, 3) and module.padding == module.dilation == (1, 1)
    return Depthwise(module) if depthwise and same else None

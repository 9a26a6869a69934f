"""Replacements for convolutions that oneDNN computes wrongly or slowly when training on a CPU.

oneDNN's weight gradient of a 1x1 convolution with a stride writes past its workspace
(https://github.com/uxlfoundation/oneDNN/issues/6035): the process crashes or hangs, or the gradient is silently wrong.
In torch 2.14 this happens in channels_last memory, without padding and groups, where the stride divides the sides of
the map and the input channels are fewer than a SIMD block (8 with AVX2; 16 with AVX-512, from 56 pixels a side on), in
float32 and bfloat16. The same kernel computes the weight gradient of a transposed 1x1 convolution, with input and
output swapped: there the error strikes where the output channels are few and an output padding makes the stride divide
the sides of the output. `tests/bench/kernels.py` shows the state of the installed torch.

Subsampling the map first and convolving with stride 1 is the same function. `cpu_network` does that for every
`nn.Conv2d` of a network. A network may convolve in other ways too: by transposed convolutions, by subclasses, by
`functional.conv2d`, by scripted modules. Its backward pass runs within `backward_pass`, which intercepts the operator
itself. Contiguous memory does not suffice: a network that permutes its maps may still convolve in channels_last
memory.
"""

import contextlib
import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode

SMALL_MAP = 16
"""Pixels. Up to this size a matrix product is faster than a 1x1 convolution (2x2: 1.2 to 9 times, 4x4: 1.3 to 3.5;
forward, 64 images, one thread with AVX-512); on larger maps either may be faster."""
SMALLEST_MAP = 2
"""Pixels along a side. On such maps oneDNN computes the weight gradient of a depthwise convolution 3 to 9 times
slower than with the padding written out."""
MODULE_PACKAGES = ("torch.nn.", "torchvision.models.", "torchvision.ops.", "autodistill.models.")
"""Their modules convolve through the convolutions of torch.nn only, never by a function."""
UNCOPYABLE = (RuntimeError, TypeError, copy.Error)
"""What `copy.deepcopy` raises for a computed tensor (RuntimeError), and for a lock or an open file (TypeError)."""


class Pointwise(nn.Conv2d):
    """A 1x1 convolution that first selects the pixels of its stride, and is a matrix product on small maps."""

    def forward(
        self, maps: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch channels out_height out_width"]:
        if max(self.stride) > 1:
            # Sliced with the channels last: autograd then makes the gradient in channels_last memory too.
            pixels = maps.permute(0, 2, 3, 1)[:, :: self.stride[0], :: self.stride[1]]
            maps = pixels.contiguous().permute(0, 3, 1, 2)
        if self.groups > 1 or maps.shape[2] * maps.shape[3] > SMALL_MAP:
            return functional.conv2d(maps, self.weight, self.bias, groups=self.groups)
        return functional.linear(maps.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class Depthwise(nn.Conv2d):
    """A depthwise 3x3 convolution of stride 1 that pads the smallest maps explicitly."""

    def forward(
        self, maps: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        padding = 1
        if max(maps.shape[2:]) <= SMALLEST_MAP:
            maps, padding = functional.pad(maps, (1, 1, 1, 1)), 0
        return functional.conv2d(maps, self.weight, self.bias, padding=padding, groups=self.groups)


class SafeGradients(TorchDispatchMode):
    """Computes gradients of strided 1x1 convolutions, transposed or not, from the pixels that the stride leaves."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False. With torch's default, the first backward pass imports the compiler, which takes a second."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            _, _, weight, _, stride, padding, *_ = args
            if max(weight.shape[2:]) == 1 and max(stride) > 1 and not any(padding):
                return _subsampled_gradients(args)
        return func(*args, **(kwargs or {}))


def cpu_network(model: nn.Module) -> nn.Module:
    """Return a network with replaced convolutions through which to train `model` on a CPU.

    The result computes the same function of the same parameters and buffers, which it shares with `model`. It is
    `model` itself on another device, if no convolution needs replacing, and if the model cannot be copied
    (`torch.nn.utils.weight_norm`, for example, keeps a computed weight in its module). `backward_pass` corrects the
    gradients of such a model too.
    """
    held = [*model.parameters(), *model.buffers()]
    if not any(_kind(module) for module in model.modules()) or any(it.device.type != "cpu" for it in held):
        return model
    try:
        twin = copy.deepcopy(model, {id(tensor): tensor for tensor in held})
    except UNCOPYABLE:
        return model
    replace_convolutions(twin)
    return twin.train()


def replace_convolutions(network: nn.Module) -> None:
    """Change the classes of a network's convolutions to `Pointwise` and `Depthwise` in place, where they apply.

    Everything else of a module is unchanged: its tensors, its hooks, and the attributes that other code may read.
    """
    for module in network.modules():
        if kind := _kind(module):
            module.__class__ = kind


def backward_pass(network: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Return the context for the backward passes of a network that `cpu_network` returned.

    The context may be entered any number of times. `SafeGradients` costs some microseconds per operator of the
    backward pass. On other devices the context does nothing, nor for a network of known modules, which has no strided
    1x1 convolution left.
    """
    if any(it.device.type != "cpu" for it in network.parameters()) or all(map(_is_safe, network.modules())):
        return contextlib.nullcontext()
    return SafeGradients()  # type: ignore[no-untyped-call]


def _kind(module: nn.Module) -> type[nn.Conv2d] | None:
    """Return the class that replaces the class of a module; None if the module is not replaced."""
    if type(module) is not nn.Conv2d or "forward" in vars(module):
        return None
    strided = max(module.stride) > 1
    # With padding, oneDNN does not use its kernels for 1x1 convolutions.
    unpadded = module.padding in ((0, 0), "valid")
    if module.kernel_size == (1, 1) and unpadded and (strided or module.groups == 1):
        return Pointwise
    depthwise = module.groups == module.in_channels == module.out_channels and not strided
    same = module.kernel_size == (3, 3) and module.padding == module.dilation == (1, 1)
    return Depthwise if depthwise and same and module.padding_mode == "zeros" else None


def _is_safe(module: nn.Module) -> bool:
    """Return whether a module is known to call no strided 1x1 convolution itself."""
    kind = type(module)
    if kind in (Pointwise, Depthwise):
        return True
    if isinstance(module, _ConvNd) and max(module.kernel_size) == 1 and max(module.stride) > 1:
        return False
    # torch.nn creates the class of a parametrised module, whatever its base class is.
    known = all(base.__module__.startswith(MODULE_PACKAGES) for base in kind.__mro__ if base is not object)
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return known and not hooked


def _subsampled_gradients(args: tuple[Any, ...]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Compute the result of `aten.convolution_backward(*args)` for a 1x1 convolution without padding.

    A convolution reads, and a transposed convolution writes, every stride-th pixel of its larger map.
    """
    gradient, maps, weight, _, stride, padding, dilation, transposed, output_padding, groups, wanted = args
    axes = range(2, maps.dim())
    steps = stride if len(stride) > 1 else stride * len(axes)
    smaller = maps if transposed else gradient
    # The bounds matter with an output padding of a stride or more, which a dilation permits.
    bounds = [(smaller.shape[axis] - 1) * step + 1 for axis, step in zip(axes, steps, strict=True)]
    pixels = (slice(None), slice(None), *(slice(0, end, step) for end, step in zip(bounds, steps, strict=True)))
    at_pixels, of_weight, _ = torch.ops.aten.convolution_backward(
        gradient[pixels] if transposed else gradient,
        maps if transposed else maps[pixels],
        weight,
        None,
        [1] * len(stride),
        padding,
        dilation,
        transposed,
        [0] * len(output_padding),
        groups,
        [*wanted[:2], False],
    )
    of_bias = gradient.sum((0, *axes)) if wanted[2] else None
    if transposed or not wanted[0]:
        return at_pixels, of_weight, of_bias
    of_maps = torch.zeros_like(maps)
    of_maps[pixels] = at_pixels
    return of_maps, of_weight, of_bias

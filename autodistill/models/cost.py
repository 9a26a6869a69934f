"""Cost of a network: parameters, MACs, size, latency."""

import copy
import logging
from itertools import chain
from typing import NamedTuple

import torch
from torch import nn

from autodistill.errors import ConfigError
from autodistill.records import CostRecord

ImageShape = tuple[int, int, int]
"""Channels, height, width."""


class Latency(NamedTuple):
    """Median and interquartile range of the time of a forward pass of one image, in milliseconds."""

    median_ms: float
    iqr_ms: float


def measure(model: nn.Module, *, image_shape: ImageShape) -> CostRecord:
    """Count parameters, MACs per image, and the bytes of parameters and buffers in float32.

    MACs are those of convolutions and matrix products, as is usual. `model` is not changed. It is executed only if it
    cannot run on the meta device, as networks that look at values of tensors.
    """
    twin = copy.deepcopy(model).eval()
    if not is_scripted(twin):
        twin = twin.to("meta")
    macs = _macs(twin, image_shape)
    if macs is None:
        macs = _macs(copy.deepcopy(model).eval(), image_shape)
    if macs is None:
        raise ConfigError(f"the network cannot take an image of {' x '.join(map(str, image_shape))}")
    state = twin.state_dict().values()
    return CostRecord(
        params=sum(parameter.numel() for parameter in twin.parameters()),
        macs=macs,
        size_bytes=sum(t.numel() * (4 if t.is_floating_point() else t.element_size()) for t in state),
    )


def is_scripted(model: nn.Module) -> bool:
    """Return whether a network is, or contains, TorchScript, which cannot be moved to the meta device."""
    return any(isinstance(it, torch.jit.ScriptModule) for it in model.modules())


_NOT_COUNTED = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError, ArithmeticError)
"""Errors of networks that read values of tensors, which have none on the meta device."""


def _macs(model: nn.Module, image_shape: ImageShape) -> int | None:
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton, which takes half a second

    counter = FlopCounterMode(display=False)
    device = next(chain(model.parameters(), model.buffers()), torch.empty(0)).device
    try:
        with torch.no_grad(), counter:
            model(torch.zeros(1, *image_shape, device=device))
    except _NOT_COUNTED:
        return None
    return int(counter.get_total_flops() // 2)


def latency_ms(
    model: nn.Module, *, image_shape: ImageShape, device: torch.device | str, min_run_time_s: float = 0.2
) -> Latency:
    """Time the forward pass of one image on one thread of `device`, for `min_run_time_s` or longer in total.

    `model` is not changed.
    """
    # The import looks for a CUDA toolkit, and warns if there is a toolkit but no device.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.benchmark import Timer

    twin = copy.deepcopy(model).to(device).eval()
    image = torch.zeros(1, *image_shape, device=device)
    timer = Timer("twin(image)", globals={"twin": twin, "image": image}, num_threads=1)
    with torch.inference_mode():
        found = timer.blocked_autorange(min_run_time=min_run_time_s)
    return Latency(1e3 * found.median, 1e3 * found.iqr)

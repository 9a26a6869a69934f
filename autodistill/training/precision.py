"""In which number format a step is computed: float32, or bfloat16 where that is faster for this very model."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autodistill.training.convolutions import backward_pass, cpu_network

Precision = Literal["auto", "float32", "bfloat16"]

STEPS = 3
GAIN = 1.25
"""By how much bfloat16 must be faster: float32 is exact to more digits, and timings are noisy. Of six students on a
CPU that has it, bfloat16 was 0.59 to 0.97 times as fast for three (MobileNetV2, a ResNet-8 on 8x8 images) and 1.43 to
2.19 times for the others (VGG-8, ResNet-8)."""
IMAGES, PIXELS, FEWEST = 32, 2**15, 2
"""At most 32 images, fewer of more than 32x32 pixels, and the two that BatchNorm needs. For those six students, 32
images say what a batch of 128 says."""
CLEAR = 1.5
"""A gain that is so far from `GAIN`, either way, is not measured again."""
LONG_S = 0.5
"""Where the first step takes this long, it counts, and there is no second."""


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """The context of a forward pass; `auto` is bfloat16 on CUDA and float32 elsewhere."""
    wanted = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16) if wanted else contextlib.nullcontext()


def gpu_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """What `auto` is on a GPU: bfloat16, unless its hardware lacks it.

    It is not tried. Steps of small students take what launching their kernels takes, until a CUDA graph holds them.
    """
    with torch.cuda.device(device):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def faster_precision(
    build: Callable[[], nn.Module], images: Float[Tensor, "batch channels height width"]
) -> Literal["float32", "bfloat16"]:
    """Time a few steps of a model on a CPU in both formats, in turns, on one thread; a second or two at most.

    Depthwise convolutions are slower in bfloat16 on processors that have it (0.6 times the speed, MobileNetV2), plain
    convolutions up to three times faster: only trying tells.

    Args:
        build: makes the model.
        images: a training batch, normalised.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "float32"
    count = max(FEWEST, min(IMAGES, PIXELS // (images.shape[2] * images.shape[3])))
    batch = images[:count].contiguous(memory_format=torch.channels_last)
    model = cpu_network(build().to(memory_format=torch.channels_last)).train()
    taken: dict[Precision, list[float]] = {"float32": [], "bfloat16": []}
    with _one_thread():
        for precision in taken:  # the first pass of a process loads libraries
            _step_s(nn.Conv2d(images.shape[1], 1, 1), batch[:FEWEST], precision)
        for step in range(STEPS):
            for precision, seconds in taken.items():
                seconds.append(_step_s(model, batch, precision))
            long = taken["float32"][0] >= LONG_S
            if long or (step and not 1 / CLEAR < _gain(taken) / GAIN < CLEAR):
                break
    return "bfloat16" if _gain(taken) >= GAIN else "float32"


def _gain(taken: Mapping[Precision, Sequence[float]]) -> float:
    """Return how many times faster bfloat16 is; the first of several steps does not count."""
    plain, half = (statistics.median(seconds[1:] or seconds) for seconds in taken.values())
    return plain / half


def _step_s(model: nn.Module, batch: Tensor, precision: Precision) -> float:
    begun = time.perf_counter()
    with autocast(batch.device, precision):
        output = model(batch)
    loss = output.float().logsumexp(1).mean()
    with backward_pass(model):
        loss.backward()
    loss.item()
    return time.perf_counter() - begun


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """As a worker computes on a CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

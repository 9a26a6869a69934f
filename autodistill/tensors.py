"""Bytes and memory formats of tensors, logits of probabilities, and seeds of torch's generators."""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor


def raw_bytes(tensor: Tensor) -> memoryview:
    """Return the values of a tensor of any type, shape and memory format as bytes, in row-major order.

    The bytes are not copied if the tensor is contiguous and in the memory of this process.
    """
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Return logits whose softmax is the probabilities. They are finite for probabilities of zero too."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def kind_of(outputs: Tensor) -> Literal["softmax", "sigmoid", "logits"]:
    """Return what outputs (batch, classes) look like: probabilities of a softmax or a sigmoid, or logits."""
    sums = outputs.double().sum(dim=1)
    if (outputs < 0).any() or not outputs.isfinite().all():
        return "logits"
    if torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        return "softmax"
    # All zeros are the outputs of a head that is still to be trained.
    return "sigmoid" if outputs.max() <= 1 and outputs.any() else "logits"


@contextlib.contextmanager
def seeded(seed: int = 0, *, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's generators inside the context, and restore them afterwards.

    Args:
        seed: The seed.
        device: A GPU whose generator is seeded too.
    """
    gpus = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        # Not torch.manual_seed: it seeds the generators of all GPUs, which are not forked here.
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu.index].manual_seed(seed)
        yield


def laid_out(images: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Return images in a memory format. The strides of images of one channel are set too: convolutions follow them."""
    if memory_format is torch.contiguous_format:
        return images.clone(memory_format=memory_format)
    return images.contiguous(memory_format=memory_format)

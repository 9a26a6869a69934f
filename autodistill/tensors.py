"""Bytes of tensors, for hashes."""

import torch
from torch import Tensor


def raw_bytes(tensor: Tensor) -> memoryview:
    """Return the values of a tensor of any type, shape and memory format as bytes, in row-major order.

    The bytes are not copied if the tensor is contiguous and in the memory of this process.
    """
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data

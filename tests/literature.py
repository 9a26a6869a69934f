"""Weights for networks of the literature that any implementation can make: a function of name and shape only."""

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def filled(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return a state of float32 tensors: draws of NumPy's generator that depend on the name and the shape."""
    state = {}
    for name, shape in shapes.items():
        draws = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
        elif name.endswith("running_var"):
            state[name] = torch.from_numpy(draws.uniform(0.5, 1.5, shape)).float()
        elif len(shape) == 1:
            centre = 1.0 if name.endswith("weight") else 0.0
            state[name] = torch.from_numpy(draws.uniform(-0.3, 0.3, shape) + centre).float()
        else:
            scale = math.sqrt(1 / math.prod(shape[1:]))
            state[name] = torch.from_numpy(draws.uniform(-1.7, 1.7, shape) * scale).float()
    return state


def image() -> Tensor:
    """Return one RGB image of 32x32."""
    return torch.from_numpy(np.random.default_rng(7).integers(0, 256, (1, 3, 32, 32), dtype=np.uint8))

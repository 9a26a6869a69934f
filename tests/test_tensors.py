import struct

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autodistill.objects import Passed
from autodistill.tensors import raw_bytes, seeded

COUNTED = torch.arange(6, dtype=torch.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (COUNTED, struct.pack("=6f", 0, 1, 2, 3, 4, 5)),
        (COUNTED.t(), struct.pack("=6f", 0, 3, 1, 4, 2, 5)),
        (COUNTED[:, 1:], struct.pack("=4f", 1, 2, 4, 5)),
        (COUNTED[0].expand(2, 3), struct.pack("=6f", 0, 1, 2, 0, 1, 2)),
        (nn.Parameter(COUNTED), struct.pack("=6f", 0, 1, 2, 3, 4, 5)),
        (torch.tensor(258), struct.pack("=q", 258)),
        (torch.zeros(0, 3), b""),
        (torch.tensor([True, False]), b"\1\0"),
        (torch.tensor([1.0, -2.0], dtype=torch.bfloat16), np.array([0x3F80, 0xC000], np.uint16).tobytes()),
        (torch.tensor(1.0, dtype=torch.bfloat16), np.array(0x3F80, np.uint16).tobytes()),
    ],
    ids=["plain", "transposed", "cut", "expanded", "parameter", "no dimension", "empty", "bool", "bfloat16", "both"],
)
def test_the_bytes_of_a_tensor_are_its_values_in_row_major_order(tensor: Tensor, expected: bytes) -> None:
    assert bytes(raw_bytes(tensor)) == expected


def test_images_in_channels_last_memory_have_the_bytes_of_plain_images() -> None:
    images = torch.arange(48, dtype=torch.uint8).reshape(2, 3, 2, 4)
    assert raw_bytes(images.contiguous(memory_format=torch.channels_last)) == bytes(range(48))


def test_a_network_in_bfloat16_has_a_name_by_its_weights() -> None:
    def name(weight: float) -> str:
        network = nn.Linear(1, 1, dtype=torch.bfloat16)
        nn.init.constant_(network.weight, weight)
        nn.init.zeros_(network.bias)
        return Passed(anything=True).network(network, "teacher")

    assert name(1.0) == name(1.0) != name(2.0)


def test_equal_seeds_give_equal_numbers_and_leave_the_generator_as_it_was() -> None:
    before = torch.get_rng_state()
    drawn = []
    for seed in (1, 1, 2):
        with seeded(seed):
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), before)

"""Convolutions of the shipped networks, as they are trained, against float64 under several instruction sets."""

import os

import pytest
from bench.kernels import FAULTY, Convolution, convolutions_of, expected, fault, is_replaced, tried

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
NETWORKS = (("mobilenetv2:0.25", 8), ("resnet8:0.25", 64), ("resnet50:0.125", 14), ("wrn_16_2:0.125", 28))


@pytest.mark.slow
def test_convolutions_are_right_as_they_are_trained() -> None:
    shipped = set.union(*(convolutions_of(name, image_size=size) for name, size in NETWORKS))
    assert len(shipped) > 50
    found = list(tried([*FAULTY, *sorted(shipped)], ["native", "AVX2"], ways=["trained"]))
    assert len(found) == 2 * (len(FAULTY) + len(shipped))
    assert [(isa, one) for isa, one in found if one.fault] == []


def test_every_faulty_convolution_is_replaced() -> None:
    assert all(map(is_replaced, FAULTY))


def test_a_wrong_kernel_is_found() -> None:
    convolution = Convolution(3, 4, (3, 3), (1, 1), (1, 1), 1, (8, 8))
    arrays = expected(convolution)
    assert fault(convolution, "channels_last", arrays) is None
    arrays["weight"][0, 0, 0, 0] += 0.1 * arrays["weight"].std()
    assert fault(convolution, "channels_last", arrays) == "weight off by 0.1"

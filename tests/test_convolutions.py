"""The twin that a network is trained through: the same function of the same parameters, by other operators."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autodistill.models import build
from autodistill.trainer.convolutions import Depthwise, Pointwise, quick

NAMES = ["mobilenetv2:0.25", "resnet8:0.5", "vgg8:0.25", "resnet50:0.25", "wrn_16_2:0.25"]


def gradients(model: nn.Module, images: Tensor) -> list[Tensor]:
    functional.cross_entropy(model(images), torch.arange(len(images)) % 7).backward()
    return [parameter.grad for parameter in model.parameters()]


def replaced(model: nn.Module) -> list[nn.Module]:
    return [module for module in quick(model).modules() if isinstance(module, Pointwise | Depthwise)]


@pytest.mark.parametrize("size", [8, 14, 32])
@pytest.mark.parametrize("name", NAMES)
def test_logits_gradients_and_statistics_are_those_of_the_network_itself(name: str, size: int) -> None:
    plain = build(name, num_classes=7, in_channels=3, image_size=size, seed=0).double()
    plain.to(memory_format=torch.channels_last).train()
    trained = copy.deepcopy(plain)
    images = torch.randn(6, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    gradients(quick(trained), images)
    for expected, found in zip(gradients(plain, images), trained.parameters(), strict=True):
        assert torch.allclose(found.grad, expected, rtol=1e-7, atol=1e-9)
    for (key, expected), found in zip(plain.state_dict().items(), trained.state_dict().values(), strict=True):
        assert torch.allclose(found, expected, rtol=1e-9), key


def test_the_networks_own_tensors_are_trained_and_nothing_of_it_is_replaced() -> None:
    model = build("mobilenetv2:0.25", num_classes=7, in_channels=1, image_size=8, seed=0)
    kinds, keys = [type(module) for module in model.modules()], list(model.state_dict())
    twin = quick(model)
    shared = {id(tensor) for tensor in (*twin.parameters(), *twin.buffers())}
    assert shared == {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    assert [type(module) for module in model.modules()] == kinds
    assert list(twin.state_dict()) == keys


def test_a_mobilenet_has_all_but_its_stem_and_strided_convolutions_replaced() -> None:
    model = build("mobilenetv2:0.25", num_classes=7, in_channels=1, image_size=32, seed=0)
    strided = sum(isinstance(it, nn.Conv2d) and it.stride != (1, 1) for it in model.modules())
    kinds = [type(module) for module in replaced(model)]
    assert strided == 4
    assert (kinds.count(Pointwise), kinds.count(Depthwise)) == (34, 17 - strided)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 4, 1, stride=2),
        nn.Conv2d(4, 4, 1, padding=1),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 8, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 5, padding=2, groups=4),
        nn.Conv2d(4, 4, 3, padding=1),
    ],
    ids=str,
)
def test_any_other_convolution_stays(convolution: nn.Conv2d) -> None:
    assert not replaced(nn.Sequential(convolution))


@pytest.mark.parametrize("side", [1, 2, 3, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_each_replacement_computes_what_torch_does_on_maps_of_any_size(*, side: int, bias: bool) -> None:
    maps = torch.randn(3, 4, side, side, generator=torch.Generator().manual_seed(side)).double()
    for convolution in (nn.Conv2d(4, 6, 1, bias=bias), nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=bias)):
        (replacement,) = replaced(nn.Sequential(convolution.double()))
        assert torch.allclose(replacement(maps), convolution(maps))


def test_where_there_is_no_gain_a_network_is_trained_as_it_is() -> None:
    with torch.device("meta"):
        elsewhere = build("mobilenetv2:0.25", num_classes=7, in_channels=1, image_size=8, seed=0)
    assert quick(elsewhere) is elsewhere
    without = build("vgg8:0.25", num_classes=7, in_channels=1, image_size=8, seed=0)
    assert quick(without) is without

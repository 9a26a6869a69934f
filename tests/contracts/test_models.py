"""What holds for every registered network."""

import math

import pytest
import torch
from torch import Tensor, nn

from autodistill.models import MODELS, build, lay_out
from autodistill.models.networks import GlobalAverage

LARGEST_STRIDE = {4: 2, 8: 4, 14: 8, 28: 16, 32: 16, 64: 32, 224: 32}
"""Image size to the most that leaves 2x2, rounding up, or 32, the most that any network has."""
DEEP = ("resnet56", "resnet110", "wrn_40_2", "resnet50")
"""They differ from their shallower kin in the number of blocks alone."""


@pytest.fixture(params=sorted(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def final_map(model: nn.Module, *, image_size: int) -> tuple[int, int]:
    """Height and width of the last map that a module of `model` puts out."""
    maps: list[tuple[int, int]] = []

    def look(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        if output.ndim == 4:
            maps.append((output.shape[2], output.shape[3]))

    for module in model.modules():
        if not isinstance(module, nn.AdaptiveAvgPool2d | nn.Sequential | GlobalAverage):
            module.register_forward_hook(look)
    model(torch.empty(2, 3, image_size, image_size, device="meta"))
    return maps[-1]


def test_the_total_stride_leaves_two_by_two(name: str) -> None:
    for image_size, largest in LARGEST_STRIDE.items():
        for stem_stride in (None, 1, 2):
            layout = lay_out(name, image_size=image_size, stem_stride=stem_stride)
            assert math.prod(layout.strides) <= largest
            assert stem_stride in (None, layout.stem_stride)


@pytest.mark.slow
def test_the_total_stride_is_the_real_one_on_small_images(name: str) -> None:
    check_final_map(name, image_size=32, stem_stride=None)


@pytest.mark.parametrize(("image_size", "stem_stride"), [(8, None), (14, 2), (64, 1)])
@pytest.mark.parametrize("name", sorted(it for it in MODELS if it.removesuffix("_option_a") not in DEEP))
def test_the_total_stride_is_the_real_one_at_every_size(name: str, image_size: int, stem_stride: int | None) -> None:
    check_final_map(name, image_size=image_size, stem_stride=stem_stride)


def check_final_map(name: str, *, image_size: int, stem_stride: int | None) -> None:
    with torch.device("meta"):
        model = build(name, num_classes=5, in_channels=3, image_size=image_size, seed=0, stem_stride=stem_stride)
    total = math.prod(lay_out(name, image_size=image_size, stem_stride=stem_stride).strides)
    side = math.ceil(image_size / total)
    assert side >= 2
    assert final_map(model, image_size=image_size) == (side, side)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32)])
def test_every_parameter_learns_and_logits_are_finite(name: str, channels: int, size: int) -> None:
    model = build(f"{name}:0.25", num_classes=7, in_channels=channels, image_size=size, seed=0)
    images = torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(0))
    logits = model(images)
    assert logits.shape == (4, 7)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 6])).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    model.eval()
    assert model(images[:1]).isfinite().all()


def test_initialisation_depends_on_the_seed_alone(name: str) -> None:
    def state(seed: int) -> list[Tensor]:
        model = build(f"{name}:0.25", num_classes=3, in_channels=1, image_size=8, seed=seed)
        return list(model.state_dict().values())

    before = torch.get_rng_state()
    first, again, other = state(1), state(1), state(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_convolutions_start_from_hes_normal_distribution(name: str) -> None:
    model = build(f"{name}:0.25", num_classes=3, in_channels=3, image_size=8, seed=0)
    large = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 1000]
    assert large
    for convolution in large:
        fan_out = convolution.out_channels * math.prod(convolution.kernel_size)
        assert float(convolution.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.15)


def test_a_width_in_the_name_is_the_default_width_given(name: str) -> None:
    def params(asked: str, default_width: float = 1.0) -> int:
        with torch.device("meta"):
            model = build(asked, num_classes=9, in_channels=3, image_size=32, seed=0, default_width=default_width)
        return sum(parameter.numel() for parameter in model.parameters())

    narrow = params(f"{name}:0.5")
    assert params(name, default_width=0.5) == narrow
    assert params(f"{name}:0.5", default_width=2.0) == narrow
    assert narrow < 0.6 * params(name)
    assert lay_out(name, image_size=32, default_width=0.5).name == f"{name}:0.5"

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual

from autodistill.errors import ConfigError
from autodistill.models import build, lay_out, parse_name
from autodistill.models.cost import measure
from autodistill.models.networks import PreActivationBlock


def on_meta(
    name: str, *, num_classes: int, size: int, in_channels: int = 3, stem_stride: int | None = None
) -> nn.Module:
    with torch.device("meta"):
        return build(
            name, num_classes=num_classes, in_channels=in_channels, image_size=size, seed=0, stem_stride=stem_stride
        )


@pytest.mark.parametrize(
    ("name", "num_classes", "size", "params"),
    [
        # torchvision's documentation
        ("mobilenetv2", 1000, 224, 3_504_872),
        ("resnet18", 1000, 224, 11_689_512),
        ("resnet34", 1000, 224, 21_797_672),
        ("resnet50", 1000, 224, 25_557_032),
        # He et al. 2016, table 6 (0.27, 0.46, 0.85, 1.7 million), exact, and the two projections that those lack
        ("resnet20", 10, 32, 269_722 + 2_752),
        ("resnet32", 10, 32, 464_154 + 2_752),
        ("resnet56", 10, 32, 853_018 + 2_752),
        ("resnet110", 10, 32, 1_727_962 + 2_752),
        # CIFAR-100 tables of the distillation literature, in millions
        ("resnet8", 100, 32, 0.08),
        ("resnet8x4", 100, 32, 1.23),
        ("resnet32x4", 100, 32, 7.43),
        ("wrn_16_2", 100, 32, 0.70),
        ("wrn_40_2", 100, 32, 2.26),
        ("vgg8", 100, 32, 3.96),
        ("vgg13", 100, 32, 9.46),
        ("resnet50", 100, 32, 23.71),
    ],
)
def test_parameters_are_the_published_number(name: str, num_classes: int, size: int, params: float) -> None:
    found = sum(p.numel() for p in on_meta(name, num_classes=num_classes, size=size).parameters())
    assert params == (found if isinstance(params, int) else round(found / 1e6, 2))


def test_mobilenetv2_at_half_width_is_the_literatures_student_but_for_rounding() -> None:
    found = sum(p.numel() for p in on_meta("mobilenetv2:0.5", num_classes=100, size=32).parameters())
    # 812,836 in the literature: 12 channels in the second stage, where torchvision rounds to 16.
    assert found == 815_780
    assert found == pytest.approx(812_836, rel=0.004)


@pytest.mark.parametrize(
    ("name", "num_classes", "size", "macs", "digits"),
    [
        ("mobilenetv2", 1000, 224, 300.8e6, 3),
        ("resnet18", 1000, 224, 1.814e9, 3),
        ("resnet50", 1000, 224, 4.089e9, 3),
        ("resnet20", 10, 32, 41e6, 2),  # the paper's; the others are torchvision's
    ],
)
def test_macs_are_the_published_number(name: str, num_classes: int, size: int, macs: float, digits: int) -> None:
    model = on_meta(name, num_classes=num_classes, size=size)
    assert measure(model, image_shape=(3, size, size)).macs == pytest.approx(macs, rel=10**-digits)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "resnet50"])
def test_torchvision_weights_give_torchvisions_logits(name: str) -> None:
    torch_net = torchvision.models.get_model(name, num_classes=4).eval()
    ours = build(name.replace("_", ""), num_classes=4, in_channels=3, image_size=64, seed=0).eval()
    ours.load_state_dict(torch_net.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(ours(images), torch_net(images))


@pytest.mark.parametrize(("channels", "stride"), [(4, 1), (4, 2), (6, 1)])
def test_a_pre_activation_block_follows_its_paper(channels: int, stride: int) -> None:
    block = PreActivationBlock(4, channels, stride=stride).eval()
    images = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    unit = (1 + block.bn1.eps) ** -0.5  # BatchNorm as it starts: running mean 0 and variance 1
    active = (images * unit).relu()
    inner = nn.functional.conv2d(active, block.conv1.weight, stride=stride, padding=1)
    residual = nn.functional.conv2d((inner * unit).relu(), block.conv2.weight, padding=1)
    if (channels, stride) == (4, 1):
        expected = images + residual
    else:
        assert block.shortcut is not None
        expected = nn.functional.conv2d(active, block.shortcut.weight, stride=stride) + residual
    assert torch.allclose(block(images), expected, atol=1e-6)


def test_mobilenetv2_is_the_real_one_at_every_size() -> None:
    for size in (8, 14, 32, 224):
        model = on_meta("mobilenetv2:0.25", num_classes=10, size=size)
        blocks = [module for module in model.modules() if isinstance(module, InvertedResidual)]
        assert len(blocks) == 17
        assert all(module.p == 0 for module in model.modules() if isinstance(module, nn.Dropout))


@pytest.mark.parametrize(
    ("name", "size", "stem_stride", "strides"),
    [
        ("mobilenetv2", 224, None, (2, 2, 2, 2, 2)),
        ("mobilenetv2", 33, None, (2, 2, 2, 2, 2)),
        ("mobilenetv2", 32, None, (1, 2, 2, 2, 2)),
        ("mobilenetv2", 14, None, (1, 1, 2, 2, 2)),
        ("mobilenetv2", 8, None, (1, 1, 1, 2, 2)),
        ("mobilenetv2", 32, 2, (2, 1, 2, 2, 2)),  # the distillation literature's
        ("mobilenetv2", 14, 2, (2, 1, 1, 2, 2)),
        ("mobilenetv2", 8, 2, (2, 1, 1, 1, 2)),
        ("mobilenetv2", 224, 1, (1, 2, 2, 2, 2)),
        ("mobilenetv2", 4, 2, (2, 1, 1, 1, 1)),
        ("mobilenetv2", 2, None, (1, 1, 1, 1, 1)),
        ("resnet20", 224, None, (1, 2, 2)),
        ("resnet20", 8, None, (1, 2, 2)),
        ("resnet20", 4, None, (1, 1, 2)),
        ("resnet20", 32, 2, (2, 1, 2)),
        ("resnet18", 224, None, (2, 2, 2, 2, 2)),
        ("resnet18", 32, None, (1, 1, 2, 2, 2)),
        ("resnet18", 8, None, (1, 1, 1, 2, 2)),
        ("resnet18", 224, 1, (1, 2, 2, 2, 2)),
        ("vgg8", 32, None, (1, 2, 2, 2, 1)),
        ("vgg8", 64, None, (1, 2, 2, 2, 2)),
        ("vgg8", 8, None, (1, 1, 2, 2, 1)),
    ],
)
def test_strides(name: str, size: int, stem_stride: int | None, strides: tuple[int, ...]) -> None:
    assert lay_out(name, image_size=size, stem_stride=stem_stride).strides == strides


def test_images_too_small_for_a_stem_stride_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"stem_stride = 2: 2x2 images allow a total stride of 1"):
        lay_out("mobilenetv2", image_size=2, stem_stride=2)


def test_one_channel_and_another_stem_are_initialised_as_torchvisions_stem() -> None:
    model = build("mobilenetv2", num_classes=10, in_channels=1, image_size=8, seed=0)
    stem = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    assert (stem.in_channels, stem.stride) == (1, (1, 1))
    # He's fan-out: sqrt(2 / (3 * 3 * 32)) over 288 weights.
    assert float(stem.weight.detach().std()) == pytest.approx((2 / 288) ** 0.5, rel=0.15)


def test_names_carry_the_width() -> None:
    assert parse_name("mobilenetv2:0.5", 0.25) == ("mobilenetv2", 0.5)
    assert parse_name("mobilenetv2", 0.25) == ("mobilenetv2", 0.25)
    assert parse_name("resnet20:2") == ("resnet20", 2.0)
    third = lay_out("resnet8", image_size=8, default_width=1 / 3)
    assert parse_name(third.name) == ("resnet8", pytest.approx(1 / 3, abs=1e-15))
    assert lay_out("resnet8", image_size=8).name == "resnet8:1"


@pytest.mark.parametrize(
    "name", ["resnet8:0", "resnet8:-1", "resnet8:nan", "resnet8:inf", "resnet8:", "resnet8:a", "resnet8:25"]
)
def test_a_wrong_width_says_what_is_allowed(name: str) -> None:
    with pytest.raises(ConfigError, match="above 0 and at most 16") as caught:
        parse_name(name)
    assert repr(name) in caught.value.message
    with pytest.raises(ConfigError, match="width -1"):
        parse_name("resnet8", -1.0)


@pytest.mark.parametrize(
    ("name", "near"), [("mobilenet_v2", "mobilenetv2"), ("resnet21:0.5", "resnet20"), ("", "allowed")]
)
def test_an_unknown_name_gets_near_matches(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=near):
        parse_name(name)

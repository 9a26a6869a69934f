"""Folding batch norms: the same function to within the rounding of what is kept, or the plain network."""

from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from teacher_files import ready
from torch import Tensor, nn

from autodistill import logit_cache as cache_module
from autodistill import teachers
from autodistill.config import DataSpec
from autodistill.data import load
from autodistill.data.views import View
from autodistill.logit_cache import LogitCache
from autodistill.models import build
from autodistill.teachers.teacher import Normalisation, Teacher, computed_as, folded, logits_of

NOISE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
PLAIN = Normalisation("none", (0.0,), (1.0,))


def settled(name: str) -> nn.Module:
    """An untrained network whose batch norms hold the statistics of a batch."""
    net = build(name, num_classes=10, in_channels=1, image_size=8, seed=0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        net.train()(torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    return net.eval()


def seeded(kind: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().eval()


@pytest.fixture
def unchecked() -> Iterator[None]:
    """The tests' checks of shapes at run time, which take a tracer's stand-ins for wrong arguments, are off."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "left"), [("resnet20", 0), ("mobilenetv2:0.25", 0), ("vgg8:0.25", 0), ("wrn_16_2:0.25", 6)]
)
def test_a_folded_network_is_the_same_function_to_two_units_of_float16(name, left):
    """A Wide ResNet keeps the batch norms behind a sum: of five blocks, and the last."""
    net, images = settled(name), torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    other = folded(net, images)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in other.modules()) == left
    with torch.inference_mode():
        one, two = net(images).half().float(), other(images).half().float()
    unit = torch.finfo(torch.float16).eps * one.abs().clamp_min(0.1)
    assert float(((one - two).abs() / unit).max()) <= 2
    assert float((one == two).double().mean()) > 0.8
    assert sum(isinstance(module, nn.BatchNorm2d) for module in net.modules()) > left, "the original was changed"


def teacher_of(net: nn.Module) -> Teacher:
    return ready(net, name="t", uri="t", architecture="", normalisation=PLAIN, channels=1)


def test_a_network_in_training_is_not_folded():
    with pytest.raises(ValueError, match="evaluation mode"):
        folded(settled("resnet8").train(), NOISE)


class Layers(nn.Module):
    """A convolution, two BatchNorms with other statistics, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.norm, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 10)
        nn.init.constant_(self.norm.running_mean, 0.3)
        nn.init.constant_(self.other.running_var, 9.0)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)))

    def features(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images))


class OnValues(Layers):
    def features(self, images: Tensor) -> Tensor:
        return super().features(images) if images.sum() > 0 else super().features(-images)


class OnType(Layers):
    """A tracer's stand-in is no tensor."""

    def features(self, images: Tensor) -> Tensor:
        return super().features(images if isinstance(images, Tensor) else images["images"])


class OnTypeInSilence(Layers):
    """The other branch can be traced, and computes something else."""

    def features(self, images: Tensor) -> Tensor:
        return super().features(images if isinstance(images, Tensor) else images + 1)


class Counting(Layers):
    def features(self, images: Tensor) -> Tensor:
        return super().features(images)[: len(images)]


class Shared(Layers):
    def features(self, images: Tensor) -> Tensor:
        return super().features(images) + self.other(self.conv(images))


class UsedTwice(Layers):
    def features(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        return self.norm(maps) + maps


class Functional(Layers):
    """The weights of a convolution are used without the convolution too."""

    def features(self, images: Tensor) -> Tensor:
        return super().features(images) + nn.functional.conv2d(images, self.conv.weight)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "kind", [OnValues, OnType, OnTypeInSilence, Counting, Shared, UsedTwice, Functional], ids=lambda kind: kind.__name__
)
def test_a_network_that_folding_breaks_or_changes_keeps_its_logits(kind):
    teacher = teacher_of(seeded(kind))
    images = load(DataSpec(train=80, validation=100, test=100)).train.images
    with torch.inference_mode():
        expected = seeded(kind)(images / 255)
        torch.testing.assert_close(teacher.quick(images)(images), expected)
        torch.testing.assert_close(teacher(images), expected)


@pytest.mark.usefixtures("unchecked")
def test_layers_in_a_row_are_folded():
    """Otherwise the networks above would prove nothing."""
    assert not torch.equal(folded(seeded(Layers), NOISE).conv.weight, seeded(Layers).conv.weight)


@pytest.mark.usefixtures("unchecked")
def test_a_teacher_folds_once_for_a_size_and_leaves_its_own_network():
    teacher = teacher_of(settled("resnet8"))
    images = load(DataSpec(train=80, validation=100, test=100)).train.images
    quick = teacher.quick(images)
    assert quick is teacher.quick(images[:3])
    assert quick.fingerprint == teacher.fingerprint
    assert [sum(isinstance(it, nn.BatchNorm2d) for it in one.module.modules()) for one in (quick, teacher)] == [0, 9]
    torch.testing.assert_close(logits_of(quick, images), logits_of(teacher, images), rtol=1e-4, atol=1e-4)


def test_logits_of_one_way_of_computing_are_not_taken_for_another_s(tmp_path: Path, monkeypatch):
    data = load(DataSpec(train=80, validation=100, test=100))
    teacher = teacher_of(settled("resnet8"))
    cache = LogitCache(tmp_path, data=data, view=View(0, 0, False), say=print)
    cache.training(teacher, 0), cache.training(teacher, 0)
    assert cache.computed == 1
    monkeypatch.setattr(cache_module, "computed_as", lambda device: "float32, BatchNorm folded, on cuda")
    cache.training(teacher, 0)
    assert cache.computed == 2


def test_each_device_says_how_it_computes(monkeypatch):
    assert teachers.computed_as(torch.device("cpu")) == "float32, on cpu"
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with_tf32 = computed_as(torch.device("cuda:1"))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert with_tf32 == "float32, TF32 convolutions, BatchNorm folded, on cuda"
    assert computed_as(torch.device("cuda")) == "float32, BatchNorm folded, on cuda"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_about_the_logits_of_a_cpu():
    """TF32 keeps the ten bits that float16 keeps, through 8 layers."""
    images = load(DataSpec(train=80, validation=100, test=100)).train.images
    here = logits_of(teacher_of(settled("resnet8")), images)
    there = logits_of(teacher_of(settled("resnet8").to("cuda")), images.to("cuda"))
    torch.testing.assert_close(there.cpu(), here, rtol=0.02, atol=0.02)

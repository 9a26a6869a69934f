"""Folding batch norms: the same function to within the rounding of what is kept, and never another file's logits."""

from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from autodistill import logit_cache as cache_module
from autodistill import teachers
from autodistill.config import DataSpec
from autodistill.data import load
from autodistill.data.views import View
from autodistill.logit_cache import LogitCache
from autodistill.models import build
from autodistill.teachers.teacher import Normalisation, Teacher, computed_as, folded, logits_of, ready

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
    other = folded(net)
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
        folded(settled("resnet8").train())


class Branching(nn.Module):
    """Nothing that can be traced."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :10] if images.sum() > 0 else images.flatten(1)[:, 10:20]


def test_a_network_that_cannot_be_traced_stays_as_it_is():
    net = Branching().eval()
    assert folded(net) is net


def test_a_teacher_folds_once_and_leaves_its_own_network(monkeypatch):
    teacher = teacher_of(settled("resnet8"))
    quick = teacher.quick
    assert quick is teacher.quick
    assert quick.fingerprint == teacher.fingerprint
    images = load(DataSpec(train=80, validation=100, test=100)).train.images
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

import time
from dataclasses import replace

import pytest
import torch
from teacher_files import digits
from torch import Tensor, nn

from autodistill.config import StudentSpec
from autodistill.data import Split
from autodistill.models import build
from autodistill.models.cost import latency_ms, measure
from autodistill.models.students import student_network, student_record


def small_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


class Sleeps(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        time.sleep(0.004)
        return images


def test_costs_are_those_counted_by_hand() -> None:
    found = measure(small_net(), image_shape=(3, 6, 4))
    assert found.params == 3 * 8 * 9 + 2 * 8 + 8 * 5 + 5
    assert found.macs == 6 * 4 * 3 * 8 * 9 + 8 * 5
    # Running mean and variance, and the int64 counter of batches.
    assert found.size_bytes == 4 * (found.params + 2 * 8) + 8


def test_size_is_that_of_float32_whatever_the_weights_are() -> None:
    assert measure(small_net().half(), image_shape=(3, 6, 6)) == measure(small_net(), image_shape=(3, 6, 6))


@pytest.mark.parametrize(
    "look",
    [measure, lambda net, image_shape: latency_ms(net, image_shape=image_shape, device="cpu", min_run_time_s=0.01)],
)
def test_looking_at_a_network_leaves_it_as_it_is(look: object) -> None:
    net, threads = small_net().train(), torch.get_num_threads()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    look(net, image_shape=(3, 6, 6))  # type: ignore[operator]
    assert net.training
    assert torch.get_num_threads() == threads
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_latency_is_the_time_of_one_image() -> None:
    found = latency_ms(Sleeps(), image_shape=(1, 2, 2), device="cpu", min_run_time_s=0.05)
    assert 4 <= found.median_ms < 400  # a wrong unit is off by a thousand; a busy machine is not
    assert 0 <= found.iqr_ms < 400


def test_a_student_is_described_without_its_weights() -> None:
    found = student_record("mobilenetv2", digits(), StudentSpec(width=0.25, stem_stride=2))
    assert (found.name, found.architecture, found.width) == ("mobilenetv2:0.25", "mobilenetv2", 0.25)
    assert (found.stem_stride, found.total_stride) == (2, 4)
    built = build("mobilenetv2:0.25", num_classes=10, in_channels=1, image_size=8, seed=3, stem_stride=2)
    assert found.cost == measure(built, image_shape=(1, 8, 8))


def test_the_cost_of_a_student_is_that_of_the_network_that_is_trained_on_tall_images() -> None:
    images = torch.zeros(2, 1, 32, 8, dtype=torch.uint8)
    data = replace(digits(), train=Split(images, digits().train.labels[:2]))
    found = student_record("mobilenetv2:0.25", data, StudentSpec())
    trained = student_network("mobilenetv2:0.25", data, StudentSpec())
    assert found.cost == measure(trained, image_shape=(1, 32, 8))

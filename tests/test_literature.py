"""Checkpoints of published CIFAR networks: found by the names of their tensors, and equal in their numbers.

`files/literature.json` holds the names and shapes of the tensors of each public implementation, and the logits in
float64 of one image under the weights of `literature.filled`. ResNets, Wide ResNets, VGG, MobileNetV2 and ShuffleNets
are those of RepDistiller; those with shortcuts of option A follow section 4.2 of He et al. 2016.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from literature import filled, image

from autodistill.data import Data, Split
from autodistill.teachers import load

PUBLISHED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "files" / "literature.json").read_text())
SMALL = {"resnet20", "resnet20_option_a", "resnet8x4", "wrn_16_1", "vgg8", "mobilenetv2_literature:0.5"}
"""Networks of the quick tests."""


def ten_classes() -> Data:
    split = Split(image().repeat(10, 1, 1, 1), torch.arange(10))
    names = tuple("abcdefghij")
    return Data("images", names, split, split, split, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "fingerprint")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SMALL else pytest.mark.slow) for name in PUBLISHED]
)
def test_a_published_network_is_identified_and_gives_its_logits(name: str, tmp_path: Path) -> None:
    shapes = {
        key: [int(size) for size in shape.split("x") if size]
        for key, _, shape in (it.rpartition(":") for it in PUBLISHED[name]["tensors"].split())
    }
    torch.save({"model": filled(shapes), "best_acc": torch.tensor(0.5), "epoch": 240}, tmp_path / "ckpt_epoch_240.pth")
    teacher = load(f"file:{tmp_path}/ckpt_epoch_240.pth", data=ten_classes())
    assert teacher.architecture == name
    assert teacher.notes == (f"identified as {name} by its tensors",)
    expected = torch.tensor(PUBLISHED[name]["logits"], dtype=torch.float64)
    assert torch.allclose(teacher(image())[0].double(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))

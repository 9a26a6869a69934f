"""From four published CIFAR-10 ResNets and a folder of images to a report, and mistakes in checkpoints on the way.

The files lie beside the repository, in ../shared/data; without them the tests are skipped.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from autodistill.config import DataSpec
from autodistill.data import Data
from autodistill.data import load as load_data
from autodistill.errors import TeacherError
from autodistill.models.uri import parse
from autodistill.records import TeacherRecord, read_study
from autodistill.teachers import check, load, logits_of

SHARED = Path(__file__).parents[2] / "shared" / "data"
FILES = {
    "resnet20": "resnet20-12fca82f.th",
    "resnet32": "resnet32-d509ac18.th",
    "resnet44": "resnet44-014dd654.th",
    "resnet56": "resnet56-4bfd9763.th",
}
NETS = """\
import torch.nn as nn, torch.nn.functional as F

class Block(nn.Module):
    def __init__(self, i, o, s):
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, s, 1, bias=False); self.bn1 = nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False); self.bn2 = nn.BatchNorm2d(o)
        self.p = (o - i) // 2
    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.p: x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.p, self.p))
        return F.relu(x + y)

class Net(nn.Module):
    def __init__(self, n, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False); self.bn1 = nn.BatchNorm2d(16)
        def stage(i, o, s): return nn.Sequential(Block(i, o, s), *[Block(o, o, 1) for _ in range(n - 1)])
        self.layer1, self.layer2, self.layer3 = stage(16, 16, 1), stage(16, 32, 2), stage(32, 64, 2)
        self.linear = nn.Linear(64, classes)
    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))

def resnet20(classes=10): return Net(3, classes)
def resnet32(): return Net(5)
def resnet44(): return Net(7)
def resnet56(): return Net(9)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SHARED / "cifar10-jpeg.npz").is_file(), reason="needs the data in ../shared/data"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images in `cifar` and the networks in `nets.py`."""
    folder = tmp_path_factory.mktemp("published")
    unpack = [sys.executable, str(SHARED / "unpack_cifar10.py"), "cifar", "--train", "100", "--test", "20"]
    subprocess.run(unpack, cwd=folder, check=True, capture_output=True)
    (folder / "nets.py").write_text(NETS)
    return folder


def autodistill(place: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "AUTODISTILL_CACHE": str(place / "cache"), "COLUMNS": "200"}
    command = [sys.executable, "-m", "autodistill", *arguments]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)


SEARCH = (
    *("search", "--student", "mobilenetv2:0.5", "--data", "folder:cifar", "--study", "cifar", "--budget", "11"),
    *("--set", "data.train=300", "--set", "data.validation=200", "--set", "data.test=100"),
    *("--set", "training.epochs=2", "--set", "training.rung_epochs=1"),
    *("--set", "confirm.seeds=2", "--set", "confirm.teachers=1"),
)


def test_a_search_over_published_networks_ends_in_a_report(place: Path) -> None:
    assert len(NETS.splitlines()) <= 30
    teachers = [f"python:nets.py:{name}?weights={SHARED / file}&norm=imagenet" for name, file in FILES.items()]
    ended = autodistill(place, *SEARCH, *(text for uri in teachers for text in ("--teacher", uri)))
    assert ended.returncode == 0, ended.stderr
    record = read_study(place / "runs" / "cifar" / "study.json")
    assert record.state == "complete"
    assert [it.name for it in record.teachers] == [file.removesuffix(".th") for file in FILES.values()]
    assert all(it.val_top1 > 0.8 for it in record.teachers)
    assert record.recommendation is not None
    assert record.no_teacher is not None
    report = (place / "reports" / "cifar" / "report.md").read_text()
    assert "It is unknown whether the teachers that were trained elsewhere" in report


class Mistake(NamedTuple):
    """What is wrong with a checkpoint."""

    change: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    facts: dict[str, Any]
    query: str
    """Options of the URI."""
    found: str
    """A part of the error."""
    mend: str
    """The option that the error names."""


ORDER = [3, 1, 2, 0, 4, 5, 6, 8, 7, 9]
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def same(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state


def permuted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, **{key: state[key][ORDER] for key in ("linear.weight", "linear.bias")}}


def two_more(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, **{key: torch.cat([state[key], state[key][:2] - 9]) for key in ("linear.weight", "linear.bias")}}


MISTAKES = {
    "another normalisation": Mistake(same, {}, "norm=none", "with the normalisation 'imagenet'", "norm=imagenet"),
    "another order of the classes": Mistake(
        permuted, {}, "norm=imagenet", "with the order of its classes", f"classes={','.join(NAMES[it] for it in ORDER)}"
    ),
    "another size": Mistake(same, {"image_size": 64}, "norm=imagenet", "with images of 32x32", "size=32"),
    "another number of classes": Mistake(
        two_more, {}, "norm=imagenet&classes=12", "12 classes, but folder:cifar has 10", "classes=FILE"
    ),
}


def weights(file: str) -> dict[str, Tensor]:
    found = torch.load(SHARED / file, weights_only=True, map_location="cpu")["state_dict"]
    return {key.removeprefix("module."): value for key, value in found.items()}


def wrapped(place: Path, mistake: Mistake | None) -> list[str]:
    """Write three checkpoints in three wrappings, one of which may hold a mistake; return the URIs of all."""
    change, facts, query = (mistake.change, mistake.facts, mistake.query) if mistake else (same, {}, "norm=imagenet")
    first = {key if key else "": value for key, value in change(weights(FILES["resnet20"])).items()}
    torch.save({"net": {"state_dict": first}, "epoch": 9, **facts}, place / "one.ckpt")
    second = {f"module._orig_mod.{key}": value for key, value in weights(FILES["resnet32"]).items()}
    torch.save({"model": second, "optimizer": {"state": {}}}, place / "two.pth.tar")
    third = {f"model.backbone.{key}": value for key, value in weights(FILES["resnet44"]).items()}
    torch.save({"state_dict": third, "hyper_parameters": {"lr": 0.1}}, place / "three")
    # An argument of the factory is not an option of the teacher.
    query = query.replace("&classes=12", "&arg.classes=12")
    return [
        f"python:{place}/nets.py:resnet20?weights={place}/one.ckpt&{query}",
        f"python:{place}/nets.py:resnet32?weights={place}/two.pth.tar&norm=imagenet",
        f"python:{place}/nets.py:resnet44?weights={place}/three&norm=imagenet",
    ]


@pytest.fixture(scope="module")
def data(place: Path) -> Data:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTODISTILL_CACHE", str(place / "cache"))
        found = load_data(DataSpec(name="folder:cifar", root=str(place), train=500, validation=300, test=200))
    return found


def checked(uri: str, data: Data) -> TeacherRecord:
    teacher = load(uri, data=data)
    return check(teacher, data, logits_of(teacher, data.validation.images))


def test_three_wrappings_are_read(place: Path, data: Data) -> None:
    for uri in wrapped(place, None):
        record = checked(uri, data)
        assert record.val_top1 > 0.8
        assert record.notes == ()


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_checkpoint_is_named_with_the_option_that_mends_it(name: str, place: Path, data: Data) -> None:
    mistake = MISTAKES[name]
    uri = wrapped(place, mistake)[0]
    with pytest.raises(TeacherError) as caught:
        checked(uri, data)
    assert uri in caught.value.message
    assert mistake.found in caught.value.message
    assert mistake.mend in caught.value.hint
    (place / "FILE").write_text("\n".join((*NAMES, "plane", "lorry")))
    named = mistake.mend.replace("FILE", str(place / "FILE"))
    mended = f"{uri.replace('&norm=none', '').replace('norm=none', '')}&{named}"
    assert parse(mended).options.keys() >= {named.partition("=")[0]}
    assert checked(mended, data).val_top1 > 0.8


def test_a_mistake_ends_a_search_before_its_first_trial(place: Path) -> None:
    uris = wrapped(place, MISTAKES["another normalisation"])
    search = [text if text != "cifar" else "mistaken" for text in SEARCH]
    ended = autodistill(place, *search, *(text for uri in uris for text in ("--teacher", uri)))
    assert ended.returncode == 2, ended.stderr
    assert f"state it: {uris[0].replace('norm=none', 'norm=imagenet')}" in ended.stderr.replace("\n", "")

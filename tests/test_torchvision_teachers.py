import re
import urllib.error
from http.client import IncompleteRead
from pathlib import Path

import pytest
import torch
from teacher_files import Touch, digits, network, refused, tiny_torchvision
from torch import nn

from autodistill.models import foreign
from autodistill.teachers import Normalisation, load


@pytest.fixture(autouse=True)
def _no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a test tried to download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("torchvision:resnt50@IMAGENET1K_V2", "no 'resnt50' (did you mean 'resnet50'"),
        ("torchvision:resnet50@IMAGENET1K_V3", "unknown weights 'IMAGENET1K_V3' (did you mean 'IMAGENET1K_V"),
        ("torchvision:resnet50", "unknown weights '' (allowed: IMAGENET1K_V1, IMAGENET1K_V2)"),
        ("torchvision:", "no ''"),
        ("torchvision:fasterrcnn_resnet50_fpn@COCO_V1", "no 'fasterrcnn_resnet50_fpn'"),
        ("torchvision:resnet50@IMAGENET1K_V2", "class '0' of digits is not among its 1000 classes"),
        ("torchvision:resnet50@IMAGENET1K_V2?nrom=half", "unknown option 'nrom' (did you mean 'norm'"),
    ],
)
def test_a_wrong_torchvision_teacher(uri: str, found: str) -> None:
    assert found in refused(uri).message


def test_weights_that_lie_in_their_place_are_used_as_torchvision_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, _, module = tiny_torchvision(monkeypatch, tmp_path)
    before = torch.get_rng_state()
    teacher = load(uri, data=digits())
    assert torch.equal(torch.get_rng_state(), before)
    assert (teacher.name, teacher.input_size, teacher.channels) == ("shufflenet_v2_x0_5", 40, 3)
    assert teacher.normalisation == Normalisation("stated", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert not teacher.module.training
    images = digits().validation.images[:9]
    mean, std = (torch.tensor(it, dtype=torch.float64)[:, None, None] for it in ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    resized = nn.functional.interpolate(images.double() / 255, size=(40, 40), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = module.double().eval()((resized.expand(-1, 3, -1, -1) - mean) / std)
    assert torch.allclose(teacher(images).double(), expected, rtol=1e-3, atol=1e-4)
    assert load(f"{uri}?name=small", data=digits(), offline=True).name == "small"


def test_offline_names_the_file_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, file, _ = tiny_torchvision(monkeypatch, tmp_path)
    file.unlink()
    error = refused(uri, offline=True)
    assert "--offline" in error.message
    assert str(file) in error.message
    assert f"copy the weights to {file} (https://weights.invalid/" in error.hint


def test_weights_that_are_missing_are_downloaded_once_and_their_hash_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, file, _ = tiny_torchvision(monkeypatch, tmp_path)
    content, calls = file.read_bytes(), []

    def download(url: str, place: str, *, hash_prefix: str, progress: bool) -> None:
        calls.append((url, hash_prefix, progress))
        Path(place).write_bytes(content)

    file.unlink()
    file.parent.rmdir()
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    first, again = load(uri, data=digits()), load(uri, data=digits())
    assert calls == [(f"https://weights.invalid/{file.name}", "0badcafe", False)]
    assert first.fingerprint == again.fingerprint


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route"), RuntimeError("invalid hash value"), IncompleteRead(b"")]
)
def test_a_download_that_fails(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    uri, file, _ = tiny_torchvision(monkeypatch, tmp_path)
    file.unlink()
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    found = refused(uri)
    assert f"cannot be downloaded ({error})" in found.message
    assert str(file) in found.hint


def test_a_torchvision_file_that_is_damaged_foreign_or_carries_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, file, _ = tiny_torchvision(monkeypatch, tmp_path)
    file.write_bytes(file.read_bytes()[:5000])
    assert "cannot be read as plain tensors" in refused(uri).message
    torch.save(network().state_dict(), file)
    assert "not a shufflenet_v2_x0_5" in refused(uri).message
    torch.save({"state_dict": Touch(tmp_path / "sign")}, file)
    assert "never run" in refused(uri).message
    assert not (tmp_path / "sign").exists()


def test_densenets_old_names_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import DenseNet

    def small(name: str, *, weights: None, num_classes: int) -> nn.Module:
        assert name == "densenet121"
        return DenseNet(4, (2, 1), 8, num_classes=num_classes)

    monkeypatch.setattr("torchvision.models.get_model", small)
    module = small("densenet121", weights=None, num_classes=10)
    uri, file, _ = tiny_torchvision(monkeypatch, tmp_path, architecture="densenet121", module=module)
    old = {}
    for key, value in module.state_dict().items():
        block, dot, rest = key.partition(".denselayer")
        old[block + dot + re.sub(r"(norm|conv)([12])", r"\1.\2", rest)] = value
    assert "features.denseblock1.denselayer2.norm.2.running_var" in old
    torch.save(old, file)
    teacher = load(uri, data=digits())
    assert all(torch.equal(it, teacher.module.state_dict()[key]) for key, it in module.state_dict().items())


@pytest.mark.parametrize(
    ("architecture", "attribute", "value"),
    [
        ("vit_b_16", "image_size", 384),
        ("inception_v3", "transform_input", True),
        ("googlenet", "transform_input", True),
    ],
)
def test_networks_are_built_as_torchvision_builds_them_for_weights(
    architecture: str, attribute: str, value: object
) -> None:
    with torch.device("meta"):
        module = foreign._torchvision_model(architecture, classes=10, image_size=384)
    assert getattr(module, attribute) == value

"""What holds for every registered teacher source."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from teacher_files import ARCHITECTURE, Touch, digits, flip, network, refused, tiny_torchvision, write_onnx
from torch import nn

from autodistill.errors import TeacherError
from autodistill.teachers import SOURCES, Teacher, load, logits_of


class Written(NamedTuple):
    """A teacher as somebody has it."""

    uri: str
    file: Path
    module: nn.Module
    study: dict[str, str] = {}
    """Other teachers of its study."""

    def load(self, options: str = "", **more: Any) -> Teacher:
        separator = "&" if "?" in self.uri else "?"
        return load(self.uri + (options and separator + options), data=digits(), study=self.study, **more)

    def refused(self, options: str = "", **more: Any) -> TeacherError:
        separator = "&" if "?" in self.uri else "?"
        return refused(self.uri + (options and separator + options), study=self.study, **more)


def a_file(_: pytest.MonkeyPatch, folder: Path, classes: int) -> Written:
    module = network(classes=classes)
    torch.save(module.state_dict(), folder / "t.pt")
    return Written(f"file:{folder}/t.pt?arch={ARCHITECTURE}", folder / "t.pt", module)


def torchvision_weights(monkeypatch: pytest.MonkeyPatch, folder: Path, classes: int) -> Written:
    return Written(*tiny_torchvision(monkeypatch, folder, classes=classes))


NETS = """
from autodistill.models import build


def small(classes, image_size=8):
    return build("{architecture}", num_classes=classes, in_channels=1, image_size=image_size, seed=1)
"""


def a_network_of_the_user(_: pytest.MonkeyPatch, folder: Path, classes: int) -> Written:
    module = network(classes=classes)
    (folder / "nets.py").write_text(NETS.format(architecture=ARCHITECTURE))
    torch.save({"model": module.state_dict()}, folder / "t.ckpt")
    uri = f"python:{folder}/nets.py:small?weights={folder}/t.ckpt&norm=none&arg.classes={classes}"
    return Written(uri, folder / "t.ckpt", module)


def timm_weights(_: pytest.MonkeyPatch, folder: Path, classes: int) -> Written:
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module = timm.create_model("test_resnet", num_classes=classes, in_chans=3)
    config = {
        "architecture": "test_resnet",
        "num_classes": classes,
        "label_names": [str(number) for number in range(classes)],
        "pretrained_cfg": {"input_size": [3, 40, 40], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(module.state_dict(), folder / "model.safetensors")
    return Written(f"timm:local-dir:{folder}", folder / "model.safetensors", module)


def an_onnx_file(_: pytest.MonkeyPatch, folder: Path, classes: int) -> Written:
    module = write_onnx(folder / "t.onnx", classes=classes)
    return Written(f"onnx:{folder}/t.onnx?norm=none", folder / "t.onnx", module)


def a_table(_: pytest.MonkeyPatch, folder: Path, classes: int) -> Written:
    module = nn.Linear(classes, 1797)
    np.save(folder / "t.npy", module.weight.detach().numpy())
    return Written(f"logits:{folder}/t.npy", folder / "t.npy", module)


def an_ensemble(_: pytest.MonkeyPatch, folder: Path, classes: int) -> Written:
    written = a_file(_, folder, classes)
    torch.save(network(classes=classes, seed=1).state_dict(), folder / "other.pt")
    study = {"b": written.uri, "a": f"file:{folder}/other.pt?arch={ARCHITECTURE}"}
    return Written("ensemble:a+b", written.file, written.module, study)


WRITERS: dict[str, Callable[[pytest.MonkeyPatch, Path, int], Written]] = {
    "file": a_file,
    "torchvision": torchvision_weights,
    "python": a_network_of_the_user,
    "timm": timm_weights,
    "onnx": an_onnx_file,
    "logits": a_table,
    "ensemble": an_ensemble,
}
"""For each source, how to write a tiny teacher for it."""


def test_every_source_has_a_teacher_to_test_it_with() -> None:
    assert set(WRITERS) == set(SOURCES)


@pytest.fixture(params=sorted(SOURCES))
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def written(scheme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Written:
    return WRITERS[scheme](monkeypatch, tmp_path, 10)


def weight_byte(written: Written) -> int:
    """Where in the file the last layer's weights begin."""
    last = list(written.module.state_dict().values())[-2]
    assert last.ndim == 2
    content, wanted = written.file.read_bytes(), last.numpy().tobytes()
    assert content.count(wanted) == 1
    return content.find(wanted)


def flip_weight(written: Written) -> None:
    """Flip a bit of the last layer's weights; in a zip file, as another program would have written it."""
    where, file = weight_byte(written), written.file
    if not zipfile.is_zipfile(file):
        flip(file, where)
        return
    weights = file.read_bytes()[where : where + 64]
    with zipfile.ZipFile(file) as archive:
        members = {it: archive.read(it) for it in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(weights, bytes([weights[0] ^ 1]) + weights[1:]))


def test_a_teacher_is_ready_to_run(written: Written) -> None:
    before = torch.get_rng_state()
    teacher = written.load(offline=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert teacher.uri == written.uri
    assert not any(module.training for module in teacher.module.modules())
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())
    images = digits().validation.images[:3]
    logits = logits_of(teacher, images) if teacher.table is None else teacher.table[:3]
    assert logits.shape == (3, 10)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_the_fingerprint_changes_with_one_bit_of_one_weight(written: Written) -> None:
    first, again = (written.load().fingerprint for _ in range(2))
    assert first == again
    assert len(first) == 64
    content = written.file.read_bytes()
    flip_weight(written)
    assert written.load().fingerprint != first
    written.file.write_bytes(content)
    assert written.load().fingerprint == first


def test_the_fingerprint_does_not_depend_on_the_name_or_the_place(written: Written) -> None:
    named = written.load("name=other")
    assert named.name == "other"
    assert named.fingerprint == written.load().fingerprint


def test_an_unknown_option_is_an_error(written: Written) -> None:
    found = written.refused("nane=x").message
    assert "unknown option 'nane' (did you mean 'name'" in found or "unexpected keyword argument 'nane'" in found


def test_other_classes_are_an_error(scheme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "7 classes, but digits has 10" in WRITERS[scheme](monkeypatch, tmp_path, 7).refused().message


def test_a_missing_file_is_an_error_that_names_it(written: Written) -> None:
    written.file.unlink()
    assert str(written.file.parent) in written.refused(offline=True).message


def test_a_damaged_file_is_an_error(written: Written) -> None:
    content = written.file.read_bytes()
    for cut in (0, 100, len(content) // 2, len(content) - 30):
        written.file.write_bytes(content[:cut])
        message = written.refused().message
        assert "cannot be read as" in message or "cannot be loaded" in message


def test_no_code_is_run(written: Written, tmp_path: Path) -> None:
    torch.save({**written.module.state_dict(), "x": Touch(tmp_path / "sign")}, written.file)
    message = written.refused().message
    reasons = ("carries posix.mkdir, which is never run", "cannot be loaded", "cannot be read as")
    assert any(reason in message for reason in reasons)
    assert not (tmp_path / "sign").exists()

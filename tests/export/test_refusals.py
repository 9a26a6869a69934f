"""Nothing is overwritten, nothing half written, and what cannot be exported says why."""

import json
import re

import pytest
import torch
from safetensors import safe_open
from small_exports import EXTRA, STUDENT
from torch import nn

from autodistill.errors import ConfigError, DataError, ExportError, StoreError
from autodistill.export import chosen, export_student, formats, pick
from autodistill.export.formats import Deployed

pytestmark = pytest.mark.slow


def test_a_folder_that_exists_is_left_alone(folder, record, study, tmp_path):
    to = tmp_path / "there"
    to.mkdir()
    (to / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match="exists already"):
        export_student(record, folder, space=study[0].space, to=to, formats=("safetensors",))
    assert [it.name for it in tmp_path.rglob("*")] == ["there", "mine.txt"]


class Branching(nn.Module):
    """Decides by a value: no graph can hold it."""

    def forward(self, images):
        logits = images.mean((2, 3)).expand(-1, 10)
        return logits if images.sum() > 0 else -logits


class Eigenvalues(nn.Module):
    """An operator that ONNX does not have."""

    def forward(self, images):
        return torch.linalg.eigvals(images.mean(1)).real.repeat(1, 3)[:, :10]


@pytest.mark.parametrize(
    ("module", "name"), [(Branching, "pt2"), pytest.param(Eigenvalues, "onnx", marks=EXTRA)], ids=["pt2", "onnx"]
)
def test_an_unsupported_operator_leaves_nothing_behind(folder, record, study, tmp_path, monkeypatch, module, name):
    picked = pick(record, folder)._replace(module=module())
    monkeypatch.setattr("autodistill.export.pick", lambda *_, **__: picked)
    with pytest.raises(ExportError, match=rf"student\.{name}: this network cannot be written") as error:
        export_student(record, folder, space=study[0].space, to=tmp_path / "new", formats=(name,))
    assert "--format" in error.value.hint
    assert error.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [0.01, float("nan")])
def test_a_file_that_computes_something_else_is_an_error(folder, record, study, tmp_path, monkeypatch, wrong):
    forward = Deployed.forward
    monkeypatch.setattr(Deployed, "forward", lambda self, images: forward(self, images) + wrong)
    with pytest.raises(ExportError, match=r"differ from the student's by (0\.01|nan)"):
        export_student(record, folder, space=study[0].space, to=tmp_path / "new", formats=("safetensors",))
    assert list(tmp_path.iterdir()) == []


def test_a_study_without_recommendation_has_no_student(folder, record):
    with pytest.raises(StoreError, match="no recommendation yet") as error:
        pick(record.model_copy(update={"recommendation": None}), folder)
    assert record.command in error.value.hint
    failed = next(record.runs()).model_copy(update={"state": "failed", "error": "KeyError: 'a' (b.py, line 3)"})
    nothing = {
        "recommendation": None,
        "trials": (),
        "finalists": (),
        "plain_kd": None,
        "reruns": (),
        "controls": (),
        "label_smoothing": (),
    }
    with pytest.raises(StoreError, match=r"runs failed, the first with: KeyError: 'a' \(b\.py, line 3\)") as error:
        pick(record.model_copy(update={**nothing, "no_teacher": failed}), folder)
    assert "start a new study with --study" in error.value.hint


def test_an_unconfirmed_study_has_no_weights_of_its_own(folder, record):
    with pytest.raises(StoreError, match="confirmed no run") as error:
        pick(record.model_copy(update={"finalists": ()}), folder)
    assert "train --from digits-small" in error.value.hint


@pytest.mark.parametrize(
    ("update", "error", "match"),
    [
        (
            {"architecture": "resnet14:0.25"},
            ConfigError,
            "belongs to another student: it is a resnet14:0.25; study 'digits-small' is about resnet8:0.25",
        ),
        ({"architecture": "mine", "fingerprint": "f"}, ConfigError, "belongs to another student: it is a mine; study"),
        ({"classes": ["cat", "dog"]}, ConfigError, "2 classes"),
        ({"stem_stride": 2}, ConfigError, "its stem has stride 2"),
        ({"mean": [0.5, 0.5, 0.5]}, ConfigError, "3 channels"),
        ({"architecture": None}, StoreError, "metadata architecture"),
        ({}, ConfigError, "does not say how it was trained"),
    ],
    ids=["architecture", "elsewhere", "classes", "stride", "channels", "nothing", "unknown"],
)
def test_weights_of_another_network_are_refused(folder, record, tmp_path, update, error, match):
    from safetensors.torch import save_file

    with safe_open(folder.weights(record.finalists[0].runs[0].key), framework="pt") as file:
        told = {key: json.loads(value) for key, value in file.metadata().items()}
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    path = tmp_path / "other.safetensors"
    save_file(state, path, {key: json.dumps(value) for key, value in (told | update).items()})
    with pytest.raises(error, match=re.escape(match)):
        pick(record, folder, weights=path)


@pytest.mark.parametrize("content", [None, b"", b"no safetensors at all", "truncated"])
def test_broken_weights_are_refused(folder, record, tmp_path, content):
    path = tmp_path / "broken.safetensors"
    if content == "truncated":
        content = folder.weights(record.finalists[0].runs[0].key).read_bytes()[:-100]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=re.escape(str(path))):
        pick(record, folder, weights=path)


def test_weights_that_hold_another_network_than_they_say(folder, record, tmp_path):
    from safetensors.torch import save_file

    told = {"architecture": STUDENT, "mean": [0.0], "std": [1.0], "classes": record.data.classes}
    path = tmp_path / "other.safetensors"
    save_file({"fc.weight": torch.zeros(10, 3)}, path, {key: json.dumps(value) for key, value in told.items()})
    with pytest.raises(StoreError, match=f"not a {STUDENT} for images of 1 x 4 x 4"):
        pick(record, folder, weights=path)


def test_data_that_changed_since_the_study_are_refused(folder, record, study, tmp_path):
    other = record.model_copy(update={"data": record.data.model_copy(update={"fingerprint": "0" * 64})})
    with pytest.raises(DataError, match="not those that study"):
        export_student(other, folder, space=study[0].space, to=tmp_path / "new", formats=("safetensors",))
    assert list(tmp_path.iterdir()) == []


def test_formats_by_name(monkeypatch):
    assert chosen("pt2, safetensors,pt2") == ("pt2", "safetensors")
    with pytest.raises(ConfigError, match="did you mean 'onnx'"):
        chosen("onx")
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    assert chosen("") == ("safetensors", "pt2")
    with pytest.raises(ConfigError, match="not installed here: onnx, onnxscript, onnxruntime") as error:
        chosen("onnx")
    assert error.value.hint == "pip install 'kd-autodistill[onnx]'"

"""A student from elsewhere is exported with its preprocessing, and its file is a teacher again."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small_exports import EXTRA, SMALL, WRITTEN, raw_images, write_study
from student_files import NETS
from torch import nn

from autodistill import teachers
from autodistill.cli.train import export, train
from autodistill.errors import ConfigError
from autodistill.export import chosen, export_student
from autodistill.export.formats import FORMATS
from autodistill.models.students import bare, student_network
from autodistill.records import read_study, to_json
from autodistill.store import StudyFolder, write_text
from autodistill.study import SearchOptions, resolve

pytestmark = pytest.mark.slow
MEAN, STD, SIZE = 0.4, 0.3, 6


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of a pretrained student with its own size and normalisation."""
    place = tmp_path_factory.mktemp("study")
    (place / "nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTODISTILL_CACHE", str(place / "cache"))
        options = SearchOptions(student="", space="smoke", study="own", runs=str(place), overrides=SMALL)
        uri = f"python:{place}/nets.py:colour"
        fresh = resolve(options.model_copy(update={"student": uri}), planned=False)
        state = bare(student_network(uri, fresh.data, fresh.space.student, seed=8)).state_dict()
        state |= {"head.weight": torch.zeros(3, 4), "head.bias": torch.zeros(3)}
        torch.save(state, place / "w.pt")
        query = f"weights={place}/w.pt&mean={MEAN}&std={STD}&size={SIZE}&interpolation=bicubic&name=mine"
        spec = resolve(options.model_copy(update={"student": f"{uri}?{query}"}))
        write_study(spec)
    return spec, place


@pytest.fixture
def record(study, monkeypatch):
    spec, place = study
    monkeypatch.setenv("AUTODISTILL_CACHE", str(place / "cache"))
    return read_study(spec.folder.record)


@pytest.fixture
def exported(study, record, tmp_path):
    spec, _ = study
    export_student(record, spec.folder, space=spec.space, to=tmp_path / "out", formats=chosen(""))
    return tmp_path / "out"


def by_hand(study, file):
    """Logits from the weights in a file: pooling, scaling, three channels, normalisation, resizing, network."""
    _, place = study
    found = {}
    exec(compile((place / "nets.py").read_text(), "nets", "exec"), found)
    module = found["colour"](10).eval()
    module.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    blocks = raw_images(study).double().unfold(2, 2, 2).unfold(3, 2, 2)
    images = (((blocks.mean((-1, -2)) + 0.5).floor() / 255 - MEAN) / STD).expand(-1, 3, -1, -1)
    images = nn.functional.interpolate(images, size=(SIZE, SIZE), mode="bicubic", antialias=True)
    with torch.inference_mode():
        return module.double()(images)


def test_weights_are_the_users_tensors_with_the_facts_about_the_input(study, record, exported):
    with safe_open(exported / "student.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(torch.load(study[1] / "w.pt"))
        told = {key: json.loads(value) for key, value in file.metadata().items()}
    assert (told["architecture"], told["mean"], told["std"]) == ("mine", [MEAN] * 3, [STD] * 3)
    assert (told["image_size"], told["interpolation"]) == (SIZE, "bicubic")
    assert told["input"]["resize"] == {"size": SIZE, "interpolation": "bicubic"}
    assert str(study[1]) not in json.dumps(told)


@pytest.mark.parametrize("name", WRITTEN)
def test_every_format_computes_the_logits_by_hand(name, study, record, exported):
    with safe_open(exported / "student.safetensors", framework="pt") as file:
        expected = by_hand(study, file)
    predict = FORMATS[name].read(exported / FORMATS[name].file, record, 2)
    with torch.inference_mode():
        for images, logits in zip(raw_images(study).split(40), expected.split(40), strict=True):
            assert torch.allclose(predict(images.contiguous()).double(), logits, atol=1e-4)


def test_the_file_is_a_teacher_with_the_same_logits(study, record, exported):
    spec, place = study
    with safe_open(exported / "student.safetensors", framework="pt") as file:
        expected = by_hand(study, file)
    uri = f"python:{place}/nets.py:colour?weights={exported}/student.safetensors&interpolation=bicubic"
    with torch.inference_mode():
        found = teachers.load(uri, data=spec.data)(spec.data.test.images)
    assert torch.allclose(found.double(), expected, atol=1e-4)


def test_the_card_says_what_the_student_is(study, exported):
    card = (exported / "README.md").read_text()
    for part in (
        "| Architecture | colour |",
        "| Input of the network | 6 x 6 pixels (bicubic) |",
        "| Normalisation | stated: mean and standard deviation 0.4, 0.4, 0.4; 0.3, 0.3, 0.3 |",
        "| Start | pretrained weights (w.pt); seeds vary the order of the batches and the new head only |",
        "| Resize | to 6 x 6 pixels, bicubic (in the graph) |",
        "The student starts from pretrained weights (w.pt); seeds vary the order of the batches and the new head only.",
    ):
        assert part in card
    assert "Seeds change initialisation" not in card
    assert "stem" not in card


def test_train_and_export_of_changed_code_are_refused(study, record, tmp_path):
    spec, place = study
    train(device="cpu", run=str(spec.folder.path), seed=5, to=tmp_path / "t.safetensors", with_validation=True)
    more = {"space": spec.space, "to": tmp_path / "out", "formats": ("safetensors",)}
    export_student(record, spec.folder, weights=tmp_path / "t.safetensors", **more)
    more["to"] = tmp_path / "renamed"
    with safe_open(tmp_path / "t.safetensors", framework="pt") as file:
        told = file.metadata() | {"architecture": '"another name"'}
        save_file({key: file.get_tensor(key) for key in file.keys()}, tmp_path / "u.safetensors", told)  # noqa: SIM118
    export_student(record, spec.folder, weights=tmp_path / "u.safetensors", **more)
    more["to"] = tmp_path / "other"
    try:
        (place / "nets.py").write_text(NETS + "\n# changed\n")
        for work in (
            lambda: train(device="cpu", run=str(spec.folder.path), seed=5, to=Path("t"), with_validation=False),
            lambda: export_student(record, spec.folder, **more),
        ):
            with pytest.raises(ConfigError, match="its code, its weights or its library changed since the study began"):
                work()
    finally:
        (place / "nets.py").write_text(NETS)
    assert not (tmp_path / "other").exists()


def test_a_note_in_other_words_changes_no_student(study, record, tmp_path):
    """A later version may word a note of the record in another way."""
    spec, _ = study
    again = StudyFolder(Path(shutil.copytree(spec.folder.path, tmp_path / spec.folder.path.name)))
    foreign = record.student.foreign.model_copy(update={"notes": ("the same in other words",)})
    student = record.student.model_copy(update={"foreign": foreign})
    write_text(again.record, to_json(record.model_copy(update={"student": student})))
    train(device="cpu", run=str(again.path), seed=5, to=tmp_path / "t.safetensors", with_validation=False)
    export(str(again.path), weights=tmp_path / "t.safetensors", formats="safetensors", to=tmp_path / "out")
    assert (tmp_path / "out" / "student.safetensors").exists()


@EXTRA
def test_onnx_metadata_hold_the_input(exported):
    import onnxruntime

    session = onnxruntime.InferenceSession(exported / "student.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["autodistill"])["input"]["resize"]["size"] == SIZE

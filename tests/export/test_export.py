"""Every format computes what the student computes, with its preprocessing inside."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from small_exports import EXTRA, STUDENT, TEACHER, WRITTEN, eager, raw_images

from autodistill import data as datasets
from autodistill.cli.train import export, train
from autodistill.errors import StoreError
from autodistill.executors import WorkerContext
from autodistill.export import FORMATS
from autodistill.export.formats import Deployed, Facts
from autodistill.models import build
from autodistill.records import RunSpec

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", WRITTEN)
def test_a_format_agrees_with_the_network_by_hand_at_any_batch(study, folder, record, exported, name):
    place, found = exported
    images, expected = raw_images(study), eager(study, folder, record)
    predict = FORMATS[name].read(place / FORMATS[name].file, record, 2)
    for size in (1, 7, 90):
        with torch.inference_mode():
            logits = predict(images[:size].contiguous())
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits.double(), expected[:size], atol=1e-5, rtol=1e-5)
    (file,) = (it for it in found.files if it.format == name)
    assert 0 <= file.max_difference <= found.tolerance
    assert file.changed == 0
    assert file.size_bytes == (place / file.file).stat().st_size


def test_the_best_run_on_validation_is_taken_and_scored_once_more(folder, record, exported):
    _, found = exported
    best = max(record.finalists[1].runs, key=lambda it: it.val_top1)
    assert found.trained.run == best.run
    assert found.test_top1 == pytest.approx(best.test_top1, abs=1e-6)


def test_class_names_and_preprocessing_are_in_every_file(record, exported):
    place, _ = exported
    extra = {"autodistill.json": ""}
    torch.export.load(place / "student.pt2", extra_files=extra)
    inside = json.loads(extra["autodistill.json"])
    with safe_open(place / "student.safetensors", framework="pt") as file:
        weights = {key: json.loads(value) for key, value in file.metadata().items()}
    for found in (inside, weights):
        assert tuple(found["classes"]) == record.data.classes
        assert found["input"]["shape"] == ["batch", 1, 8, 8]
        assert found["trained"]["study"] == record.name
    assert weights["architecture"] == STUDENT


@EXTRA
def test_onnx_carries_the_same_metadata(record, exported):
    import onnxruntime

    place, _ = exported
    session = onnxruntime.InferenceSession(place / "student.onnx")
    inside = json.loads(session.get_modelmeta().custom_metadata_map["autodistill"])
    assert tuple(inside["classes"]) == record.data.classes
    assert session.get_inputs()[0].shape == ["batch", 1, 8, 8]


def test_a_wide_resnet_exports_too(record, tmp_path):
    """The one network with a block of our own in it."""
    facts = Facts(architecture="wrn_16_2:0.25", mean=(0.5,), std=(0.2,), classes=record.data.classes)
    net = build(facts.architecture, num_classes=10, in_channels=1, image_size=8, seed=0).eval()
    deployed = Deployed(net, facts=facts, pool=1)
    images = torch.randint(0, 256, (7, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = torch.export.Dim("batch")
    graph = torch.export.export(deployed, (images[:2],), dynamic_shapes={"images": {0: batch}}).module()
    with torch.inference_mode():
        torch.testing.assert_close(graph(images), net((images / 255 - 0.5) / 0.2), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("with_validation", [False, True], ids=["train", "train+validation"])
def test_train_from_a_study_then_export_it(folder, record, capsys, with_validation):
    before = folder.record.read_bytes()
    place, to = Path("mine.safetensors"), Path("shipped")
    train(device="cpu", run=str(folder.path), seed=5, to=place, with_validation=with_validation)
    shown = capsys.readouterr()
    export(str(folder.path), weights=place, formats="safetensors", to=to)
    text = (to / "README.md").read_text()
    with safe_open(to / "student.safetensors", framework="pt") as file:
        trained = json.loads(file.metadata()["trained"])
    assert (trained["study"], trained["run"], trained["seed"], trained["epochs"]) == (record.name, "", 5, 3)
    assert trained["images"] == (180 if with_validation else 120)
    assert (trained["val_top1"] is None) == with_validation
    assert shown.out.count("\ntest % ") == 1
    assert ("not scored: trained on" in shown.out) == with_validation
    assert ("| Trained on | train + validation, 180 images" in text) == with_validation
    assert f"{100 * trained['test_top1']:.1f} % when it was trained" in text
    assert folder.record.read_bytes() == before


def test_the_joined_split_is_train_then_validation(study):
    spec, _ = study
    data = spec.data
    whole = datasets.with_validation(data)
    assert torch.equal(whole.train.images[:120], data.train.images)
    assert torch.equal(whole.train.images[120:], data.validation.images)
    assert torch.equal(whole.train.labels, torch.cat([data.train.labels, data.validation.labels]))
    assert whole.train.images.is_contiguous(memory_format=torch.channels_last)
    assert whole.fingerprint != data.fingerprint
    assert (whole.mean, whole.std) == (data.mean, data.std)


def test_the_teachers_logits_cover_the_validation_rows(study, folder):
    spec, _ = study
    whole = WorkerContext(spec.setup.model_copy(update={"with_validation": True}))
    asked = RunSpec(run="train", params=TEACHER, seed=0, epochs=3, evaluate_on="test")
    supervision, curve = whole.supervision(asked), []
    assert supervision.logits(0).shape == (180, 10)
    whole.fit(asked, supervision, curve=curve)
    last = curve[-1]
    assert last.val_top1 is None
    assert last.test_top1 is not None


def test_export_from_the_command_line(folder, capsys):
    from autodistill.cli import app

    asked = ["export", str(folder.path), "--format", "safetensors"]
    app([*asked, "--out", "new"], standalone_mode=False)
    shown = capsys.readouterr()
    assert "student.safetensors" in shown.out
    assert shown.err.strip().splitlines()[-1] == "Next: fill in the licences in new/README.md"
    assert sorted(it.name for it in Path("new").iterdir()) == ["README.md", "student.safetensors"]
    app(asked, standalone_mode=False)
    assert Path("exports/digits-small/README.md").is_file()
    with pytest.raises(StoreError, match="exists already"):
        app(asked, standalone_mode=False)

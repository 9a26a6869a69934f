"""The exported student: every format agrees with the network as trained, and the card with the record."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
from factories import HOSTILE
from safetensors import safe_open
from torch import nn

from autodistill import commands
from autodistill import data as datasets
from autodistill.errors import AutodistillError, ConfigError, DataError, ExportError, StoreError
from autodistill.export import FORMATS, chosen, export_student, formats
from autodistill.export.card import LOSSES, card
from autodistill.export.deployed import Deployed
from autodistill.export.weights import Facts, pick
from autodistill.losses import LOSSES as TRAINED_LOSSES
from autodistill.models import build
from autodistill.recommend import recommend
from autodistill.records import (
    FinalistRecord,
    PlanRecord,
    RunEnded,
    RunRequest,
    StudyRecord,
    TeacherRecord,
    TrialParams,
    read_study,
    to_json,
)
from autodistill.store import RunFolder, write_text
from autodistill.study import Request, prepare
from autodistill.workers import CheckTask, LadderTask, Workplace

STUDENT = "resnet8:0.25"
TEACHER_NAME = "resnet8"
TEACHER = TrialParams(teacher=TEACHER_NAME, rule="ts", rule_params={"tau": 4.0}, tau_student=4.0, soft_weight=0.5)
SMALL = (
    "data.train=120",
    "data.validation=60",
    "data.test=90",
    "data.pool=2",
    "training.epochs=3",
    "ladder.epochs=20",
    "training.evaluate_every=3",
    f'ladder.architectures=["{TEACHER_NAME}"]',
)
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
EXTRA = pytest.mark.skipif(not HAS_ONNX, reason="the extra [onnx] is not installed")
WRITTEN = [*("safetensors", "pt2"), pytest.param("onnx", marks=EXTRA)]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of two confirmed finalists, trained for real: its prepared request and its run folder."""
    place = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTODISTILL_CACHE", str(place / "cache"))
        request = Request(student=STUDENT, space="smoke", study="digits-small", runs=str(place), overrides=SMALL)
        prepared = prepare(request.model_copy(update={"command": "autodistill search --student resnet8:0.25"}))
        write_study(prepared)
    return prepared, place / "cache"


def write_study(prepared):
    from autodistill.space import dump

    work = Workplace(prepared.setup)
    list(work.do(LadderTask(uri=f"ladder:{TEACHER_NAME}")))
    (teacher,) = (it for it in work.do(CheckTask(name=TEACHER_NAME)) if isinstance(it, TeacherRecord))
    finalists = [finalist(work, "baselines/no-teacher", TrialParams()), finalist(work, "confirm/0000", TEACHER)]
    space, data = prepared.space, datasets.record(prepared.data, spec=prepared.space.data, views=prepared.views)
    parts = {"no_teacher": 1.0, "plain_kd": 1.0, "priors": 1.0, "confirm": 4.0, "search": 1.0}
    record = StudyRecord(
        name=prepared.folder.path.name,
        state="complete",
        command=prepared.request.command,
        student=prepared.student,
        data=data,
        space=space.model_dump(mode="json", exclude_none=True),
        plan=PlanRecord(requested="8", epochs_full=3, epochs_short=1, total_epochs=24, wave=1, **parts),
        spent_epochs=12,
        teachers=(teacher,),
        finalists=tuple(finalists),
        timing={"phases_s": {"confirm": 65.0}},
    )
    # Trained this little, no teacher helps: the study is told to recommend the one that it has.
    verdict = recommend(record).model_copy(update={"verdict": "only_one", "teacher": TEACHER_NAME, "params": TEACHER})
    write_text(prepared.folder.record, to_json(record.model_copy(update={"recommendation": verdict})))
    write_text(prepared.folder.space, dump(space))


def finalist(work, name, params):
    seeds = (1000, 1001)
    asked = [
        RunRequest(run=f"{name}-{seed}", params=params, seed=seed, epochs=3, evaluate_on="validation+test")
        for seed in seeds
    ]
    runs = tuple(it.record for one in asked for it in work.do(one) if isinstance(it, RunEnded))
    return FinalistRecord(teacher=params.teacher, params=params, runs=runs)


@pytest.fixture
def folder(study, monkeypatch):
    prepared, cache = study
    monkeypatch.setenv("AUTODISTILL_CACHE", str(cache))
    return prepared.folder


@pytest.fixture
def record(folder):
    return read_study(folder.record)


@pytest.fixture(scope="module")
def exported(study, tmp_path_factory):
    """What `export` made of the study, in every format that can be had here."""
    prepared, _ = study
    place = tmp_path_factory.mktemp("export") / "student"
    record = read_study(prepared.folder.record)
    found = export_student(record, prepared.folder, space=prepared.space, to=place, formats=chosen(""))
    return place, found


def raw_images(study):
    """The test images as they are before the study averages 2 x 2 pixels."""
    prepared, _ = study
    return datasets.load(prepared.space.data.model_copy(update={"pool": 1})).test.images


def eager(study, folder, record):
    """Logits by hand, in float64, from the kept weights: averaging, scaling, normalisation, network."""
    prepared, _ = study
    run = max(record.finalists[1].runs, key=lambda it: it.val_top1)
    with safe_open(folder.weights(run.run), framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    module = build(STUDENT, num_classes=10, in_channels=1, image_size=4, seed=3).eval()
    module.load_state_dict(state)
    blocks = raw_images(study).double().unfold(2, 2, 2).unfold(3, 2, 2)
    pooled = (blocks.mean((-1, -2)) + 0.5).floor()
    (mean,), (std,) = prepared.data.mean, prepared.data.std
    with torch.inference_mode():
        return module.double()((pooled / 255 - mean) / std)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_format_agrees_with_the_network_by_hand_at_any_batch(study, folder, record, exported, name):
    place, found = exported
    images, expected = raw_images(study), eager(study, folder, record)
    predict = FORMATS[name].read(place / FORMATS[name].file, record.data, 2)
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


def test_the_cards_examples_run(study, exported):
    place, _ = exported
    blocks = re.findall(r"```python\n(.*?)```", (place / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 1 + HAS_ONNX
    for code in blocks:
        names = {"images": raw_images(study)[:3].contiguous()}
        exec(code.replace('"student', f'"{place}/student'), names)
        assert tuple(names["logits"].shape) == (3, 10)
        assert names["classes"][3] == "3"


def test_the_card_says_what_the_record_says(record, exported):
    place, found = exported
    text = (place / "README.md").read_text()
    row = next(it for it in record.recommendation.ranking if it.params == TEACHER)
    for expected in (
        f"| Parameters | {record.student.cost.params:,} |",
        f"| MACs per image | {record.student.cost.macs:,} |",
        f"{100 * row.confirmed_test_top1:.1f} % (95 % interval {100 * row.low:.1f} % to {100 * row.high:.1f} %)",
        "2 seeds, trained on train alone for 3 epochs",
        f"{100 * found.test_top1:.1f} % of 90 images, measured at export",
        "TS (tau 4, tau student 4), soft weight 0.5",
        "(1 - 0.5) x CE(label, f) + 0.5 x 4^2 x CE(teacher, softmax(f / 4))",
        "averaged over the batch",
        "12, the cost of 4.0 full trainings",
        "| Wall time | 1 min 05 s |",
        f"| Teacher {TEACHER_NAME} | to be filled in |",
        "| Data digits | to be filled in |",
        "averaging over blocks of 2 x 2 pixels",
        "N x 1 x 8 x 8",
        "arXiv:2405.13078",
    ):
        assert expected in text


def test_the_front_matter_is_yaml_whatever_the_names(record, exported):
    yaml = pytest.importorskip("yaml")
    _, found = exported
    for name in HOSTILE:
        hostile = record.model_copy(update={"data": record.data.model_copy(update={"name": name})})
        head = card(hostile, found).split("---\n")[1]
        (entry,) = yaml.safe_load(head)["model-index"]
        assert entry["results"][0]["metrics"][0]["value"] == pytest.approx(found.test_top1, abs=1e-6)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_from_users_are_escaped(record, exported, name):
    _, found = exported
    classes = (name, *record.data.classes[1:])
    student = record.student.model_copy(update={"name": name})
    data = record.data.model_copy(update={"name": name, "classes": classes})
    verdict = record.recommendation.model_copy(update={"sentence": name})
    update = {"student": student, "data": data, "recommendation": verdict, "command": name, "name": name}
    text = card(record.model_copy(update=update), found)
    plain = card(record, found)
    assert text.startswith("---\n")
    body = "\n".join(line for line in text.split("---\n", 2)[2].splitlines() if not line.startswith("    "))
    assert not re.search(r"<(script|img|/style|!--)", body)
    assert not re.search(r"(?<!\\)\[link", body)
    assert "\x00" not in text
    assert "\x1b" not in text
    # A name can add no line, and so no heading, list, fence or table row.
    assert text.count("\n") == plain.count("\n")


def test_every_loss_is_put_into_words():
    assert LOSSES.keys() == TRAINED_LOSSES.keys()


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
            "is a resnet14:0.25; study 'digits-small' is about resnet8:0.25",
        ),
        ({"classes": ["cat", "dog"]}, ConfigError, "2 classes"),
        ({"stem_stride": 2}, ConfigError, "its stem has stride 2"),
        ({"mean": [0.5, 0.5, 0.5]}, ConfigError, "3 channels"),
        ({"architecture": None}, StoreError, "metadata architecture"),
        ({}, ConfigError, "says nothing of how it was trained"),
    ],
    ids=["architecture", "classes", "stride", "channels", "nothing", "unknown"],
)
def test_weights_of_another_network_are_refused(folder, record, tmp_path, update, error, match):
    from safetensors.torch import save_file

    with safe_open(folder.weights(record.finalists[0].runs[0].run), framework="pt") as file:
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
        content = folder.weights(record.finalists[0].runs[0].run).read_bytes()[:-100]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=re.escape(str(path))):
        pick(record, folder, weights=path)


def test_weights_that_hold_another_network_than_they_say(folder, record, tmp_path):
    from safetensors.torch import save_file

    told = {"architecture": STUDENT, "mean": [0.0], "std": [1.0], "classes": record.data.classes}
    path = tmp_path / "other.safetensors"
    save_file({"fc.weight": torch.zeros(10, 3)}, path, {key: json.dumps(value) for key, value in told.items()})
    with pytest.raises(StoreError, match=f"is no {STUDENT} for images of 1 x 4 x 4"):
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
    request = commands.search_request(device="cpu")
    commands.train(request, run=str(folder.path), seed=5, to=place, with_validation=with_validation)
    shown = capsys.readouterr()
    commands.export(str(folder.path), weights=place, formats="safetensors", to=to)
    text = (to / "README.md").read_text()
    with safe_open(to / "student.safetensors", framework="pt") as file:
        trained = json.loads(file.metadata()["trained"])
    assert (trained["study"], trained["run"], trained["seed"], trained["epochs"]) == (record.name, "", 5, 3)
    assert trained["images"] == (180 if with_validation else 120)
    assert (trained["val_top1"] is None) == with_validation
    assert shown.out.count("test %") == 1
    assert ("not scored: trained on" in shown.out) == with_validation
    assert ("| Trained on | train + validation, 180 images" in text) == with_validation
    assert f"{100 * trained['test_top1']:.1f} % when it was trained" in text
    assert folder.record.read_bytes() == before


def test_the_joined_split_is_train_then_validation(study):
    prepared, _ = study
    data = prepared.data
    whole = datasets.with_validation(data)
    assert torch.equal(whole.train.images[:120], data.train.images)
    assert torch.equal(whole.train.images[120:], data.validation.images)
    assert torch.equal(whole.train.labels, torch.cat([data.train.labels, data.validation.labels]))
    assert whole.train.images.is_contiguous(memory_format=torch.channels_last)
    assert whole.fingerprint != data.fingerprint
    assert (whole.mean, whole.std) == (data.mean, data.std)


def test_the_teachers_logits_cover_the_validation_rows(study, folder):
    prepared, _ = study
    whole = Workplace(prepared.setup.model_copy(update={"with_validation": True}))
    asked = RunRequest(run="train", params=TEACHER, seed=0, epochs=3, evaluate_on="test")
    supervision = whole.supervision(asked)
    assert supervision.logits(0).shape == (180, 10)
    (last,) = (it.record for it in whole.epochs(asked, whole.student(0), supervision) if it.record.epoch == 3)
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


def test_export_errors_are_the_projects_own():
    assert issubclass(ExportError, AutodistillError)
    assert ExportError.exit_code == 1
    assert isinstance(RunFolder(Path("x")).weights("confirm/0000-1000"), Path)

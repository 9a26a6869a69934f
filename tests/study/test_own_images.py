"""A user's own images: default space, name of the study, the table before training, balanced accuracy, one command."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_files import write_arrays, write_dataset, write_images
from PIL import Image
from record_parts import teacher
from small_studies import drive, fake, idle, options, without_workers
from toy_runs import toy
from typer.testing import CliRunner

from autodistill.cli import app
from autodistill.config import DataSpec, Space, dump
from autodistill.data import Data, Split, load, record
from autodistill.errors import StoreError
from autodistill.images_table import class_rows, facts_of, show_images
from autodistill.options import search_options
from autodistill.records import EpochRecord, KeptResult, RunResult, RunSpec, TrialParams, read_study
from autodistill.study import StudySpec, resolve, study_name
from autodistill.study.fitting import fit_to_images
from autodistill.training.loop import evaluate


def resolved(data: str, *overrides: str) -> StudySpec:
    sets = ("training.precision=float32", *overrides)
    asked = search_options(student="mobilenetv2:0.25", data=data, device="cpu", workers=1, overrides=sets)
    return resolve(asked, planned=False)


def photographs(folder: Path, *, count: int = 30, classes: tuple[str, ...] = ("blue", "green", "red")) -> str:
    """Write JPEGs of different sizes; the class is the strongest channel."""
    rng = np.random.default_rng(4)
    for number, label in enumerate(classes):
        (folder / label).mkdir(parents=True)
        for row in range(count):
            width, height = rng.integers(36, 70, 2)
            image = rng.integers(0, 150, (height, width, 3))
            image[..., 2 - number % 3] += 100
            Image.fromarray(image.astype(np.uint8)).save(folder / label / f"{row}.jpg")
    return f"folder:{folder}"


def made(count: int, *, size: int = 32, margin: int = 0) -> Data:
    """Return data of zeros with `count` training images."""
    side = size + 2 * margin
    images, cut = torch.zeros(1, 3, side, side, dtype=torch.uint8), torch.zeros(4, 3, size, size, dtype=torch.uint8)
    train = Split(images.expand(count, -1, -1, -1), torch.arange(count) % 2)
    held = Split(cut, torch.arange(4) % 2)
    return Data("folder:x", ("a", "b"), train, held, held, (0.5,) * 3, (0.2,) * 3, "f", margin=margin)


# Defaults


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs", "lr"),
    [
        (6, 6, 30, 0.0047),
        (100, 8, 30, 0.0063),
        (400, 16, 30, 0.0125),
        (1_000, 32, 30, 0.025),
        (3_000, 64, 30, 0.05),
        (10_000, 64, 19, 0.05),
        (60_000, 128, 15, 0.05),
    ],
)
def test_epochs_and_batch_suit_the_number_of_images(images: int, batch_size: int, epochs: int, lr: float) -> None:
    space = fit_to_images(Space(fit_to_data=True), made(images))
    training = space.training
    assert (training.batch_size, training.epochs, training.lr) == (batch_size, epochs, lr)
    assert (space.ladder.epochs, space.ladder.lr) == (epochs, lr)
    assert (space.data.crop, space.data.flip, space.data.validation) == (4, False, None)


def test_what_the_user_sets_stays() -> None:
    asked = {
        "fit_to_data": True,
        "data": {"crop": 0},
        "training": {"epochs": 7, "batch_size": 20},
        "ladder": {"lr": 0.2},
    }
    space = fit_to_images(Space.model_validate(asked), made(500))
    assert (space.data.crop, space.training.epochs, space.training.batch_size) == (0, 7, 20)
    assert (space.training.lr, space.ladder.epochs, space.ladder.lr) == (0.0156, 7, 0.2)
    assert fit_to_images(space, made(50_000)) == space
    assert fit_to_images(Space.model_validate(tomllib.loads(dump(space))), made(50_000)) == space


def test_other_spaces_get_the_crop_of_photographs_and_nothing_else() -> None:
    assert fit_to_images(Space(), made(100)) == Space()
    photographs = fit_to_images(Space(), made(100, margin=2))
    assert photographs.data.crop == 2
    assert photographs.training == Space().training
    kept = Space.model_validate({"data": {"crop": 0}})
    assert fit_to_images(kept, made(100, margin=2)) == kept


def test_a_folder_alone_is_enough(tmp_path: Path) -> None:
    spec = resolved(photographs(tmp_path / "my photos"))
    assert spec.options.space == "folder"
    assert [len(part.labels) for part in (spec.data.train, spec.data.validation, spec.data.test)] == [58, 14, 18]
    assert spec.data.image_shape == (3, 32, 32)
    assert (spec.space.data.crop, spec.space.data.flip) == (2, False)
    assert (spec.space.training.epochs, spec.space.training.batch_size) == (30, 8)
    assert spec.folder.path.name == "my-photos-mobilenetv2-0.25"


def test_studies_are_named_after_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for data, name in (
        ("folder:/data/Photos 2024/", "Photos-2024-m"),
        ("folder:.", f"{tmp_path.name}-m"),
        ("arrays:sets/pneumonia.npz", "pneumonia-m"),
        ("python:data.py:flowers?size=64", "flowers-m"),
        ("torchvision:Flowers102", "Flowers102-m"),
    ):
        assert study_name("folder", ("m",), data=data) == name
        assert search_options(student="m", data=data, device="cpu").space == "folder"
    assert study_name("digits", ("m",), data="folder:/data/photos") == "digits-m"
    assert search_options(student="m", data="cifar10", device="cpu").space == "cifar100"


def test_arrays_and_code_get_the_same_defaults(tmp_path: Path) -> None:
    for data in (f"arrays:{write_arrays(tmp_path / 'a.npz')}", f"python:{write_dataset(tmp_path / 'd.py')}:make"):
        spec = resolved(data)
        assert (spec.space.training.batch_size, spec.space.data.crop) == (8, 1)


# The table before training


def facts(spec: StudySpec) -> dict[str, str]:
    assert spec.data.reading is not None
    return dict(facts_of(spec, spec.data.reading))


def test_the_table_shows_what_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = photographs(tmp_path / "p")
    for number in range(20):
        (tmp_path / "p" / "red" / f"{number}.jpg").unlink()
    Image.new("L", (50, 60), 9).save(tmp_path / "p" / "green" / "grey.png")
    (tmp_path / "p" / "blue" / "copy.jpg").write_bytes((tmp_path / "p" / "blue" / "1.jpg").read_bytes())
    (tmp_path / "p" / "blue" / "list.txt").write_text("words")
    spec = resolved(data)
    rows = class_rows(spec.data)
    assert [row[0] for row in rows] == ["blue", "green", "red", "all"]
    assert [sum(row[1:]) for row in rows] == [31, 31, 10, 72]
    found = facts(spec)
    assert found["colours"] == "71 colour, 1 grey; read as RGB"
    assert "different; width x height" in found["sizes"]
    assert found["image size"].startswith("32x32, cut from the centre square of each image at 36x36 (follows")
    assert "1 within a split" in found["equal images"] or "1 across splits" in found["equal images"]
    assert {"blue/1.jpg", "blue/copy.jpg"} <= set(found["equal images"].replace("(", " ").replace(")", " ").split())
    assert found["left out"] == "1 not read as images (.txt): blue/list.txt"
    assert "training images of red" not in found["balance"]
    assert "of red" in found["balance"]
    assert "balanced_top1" in found["balance"]
    assert found["augmentation"].startswith(
        "random crop, shifted by up to 2 pixels (inside the stored images), no mirr"
    )
    assert found["training"] == "30 epochs, batches of 8, learning rate 0.0063"
    show_images(spec)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "What was read" in shown.err


def test_grey_arrays_are_all_counted_and_not_read_as_rgb(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(50) % 2)
    spec = resolved(f"arrays:{tmp_path / 'a.npz'}")
    assert spec.data.image_shape == (1, 16, 16)
    assert facts(spec)["colours"] == "50 grey"


def test_the_table_says_what_was_asked_for(tmp_path: Path) -> None:
    write_images(tmp_path / "p", ("cat", "dog"), count=20, size=(16, 16))
    found = facts(resolved(f"folder:{tmp_path / 'p'}", "data.image_size=8", "data.flip=true", "data.crop=0"))
    assert found["sizes"] == "all 16x16"
    assert found["image size"].startswith("8x8, resized (data.image_size")
    assert found["augmentation"].startswith("no crop, half of the images mirrored")
    cropped = facts(resolved(f"folder:{tmp_path / 'p'}", "data.image_size=16", "data.crop=2"))
    assert cropped["augmentation"].startswith("random crop, shifted by up to 2 pixels (padded with black), ")
    assert (
        found["balance"] == "13 training images a class"
        or "12 to 13" in found["balance"]
        or "13 to" in found["balance"]
    )


def test_many_classes_are_shown_by_the_largest_and_the_smallest(tmp_path: Path) -> None:
    labels = np.concatenate([np.arange(40).repeat(10), np.zeros(30, int)])
    np.savez(tmp_path / "a.npz", images=np.random.default_rng(0).integers(0, 256, (430, 8, 8), np.uint8), labels=labels)
    rows = class_rows(load(DataSpec(name=f"arrays:{tmp_path / 'a.npz'}")))
    assert len(rows) == 32
    assert rows[0][0] == "0"
    assert rows[15][0] == "... 10 more"
    assert rows[-1][0] == "all"


def test_datasets_that_are_known_by_name_have_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    show_images(resolve(options(), planned=False))
    assert capsys.readouterr().err == ""


def test_the_record_has_the_counts_of_the_classes(tmp_path: Path) -> None:
    data = load(DataSpec(name=photographs(tmp_path / "p")))
    found = record(data, spec=DataSpec(), views=1)
    assert [sum(column) for column in zip(*found.counts, strict=True)] == [30, 30, 30]
    assert found.reading == data.reading


# Balanced accuracy


def test_balanced_accuracy_is_the_mean_over_the_classes() -> None:
    class Always(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([1.0, 0.0, 0.0]).expand(len(images), 3)

    data = toy()
    images = data.validation.images[:1].expand(10, -1, -1, -1)
    scores = evaluate(Always(), Split(images, torch.tensor([0] * 7 + [1, 1, 2])), data)
    assert scores.top1 == pytest.approx(0.7)
    assert scores.balanced_top1 == pytest.approx(1 / 3)


def ended(metric: str, **more: Any) -> RunResult:
    scores = {"val_top1": 0.9, "val_balanced_top1": 0.5, "test_top1": 0.8, "test_balanced_top1": 0.4, **more}
    curve = (EpochRecord(epoch=1, train_loss=1, hard_loss=1, **scores),)
    return RunResult(run="r", params=TrialParams(), seed=0, epochs=1, state="complete", curve=curve, metric=metric)


def test_the_metric_of_the_study_is_a_run_s_score() -> None:
    assert (ended("top1").val_top1, ended("top1").test_top1) == (0.9, 0.8)
    assert (ended("balanced_top1").val_top1, ended("balanced_top1").test_top1) == (0.5, 0.4)
    one = teacher("t", val_top1=0.9, size=1).model_copy(update={"val_balanced_top1": 0.6})
    assert (one.score("top1"), one.score("balanced_top1")) == (0.9, 0.6)


def test_a_kept_result_serves_both_metrics_if_it_has_both_scores() -> None:
    asked = {
        metric: RunSpec(run="s", params=TrialParams(), seed=0, epochs=1, evaluate_on="validation+test", metric=metric)
        for metric in ("top1", "balanced_top1")
    }
    kept = KeptResult(result=ended("top1"))
    answers = {metric: kept.answer(spec) for metric, spec in asked.items()}
    assert {metric: it.result.test_top1 for metric, it in answers.items() if it} == {"top1": 0.8, "balanced_top1": 0.4}
    older = KeptResult(result=ended("top1", val_balanced_top1=None, test_balanced_top1=None))
    assert older.answer(asked["top1"]) is not None
    assert older.answer(asked["balanced_top1"]) is None


@pytest.mark.slow
def test_a_study_decides_by_balanced_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = drive(
        options(
            'search.metric="balanced_top1"', 'ladder.architectures=["resnet8:0.25"]', "training.epochs=2", budget="7"
        )
    )
    assert {run.metric for run in found.runs()} == {"balanced_top1"}
    assert found.recommendation is not None
    for row in found.recommendation.ranking:
        runs = next(one.runs for one in found.finalists if one.teacher == row.teacher)
        own = [run.curve[-1].test_balanced_top1 for run in runs]
        assert row.confirmed_test_top1 == pytest.approx(sum(own) / len(own))
        assert row.confirmed_test_balanced_top1 == pytest.approx(sum(own) / len(own))


# One command


NETWORK = """
import torch
from torch import nn


class Colours(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(20 * torch.eye(3).flip(0))

    def forward(self, images):
        return self.head(images.mean(dim=(2, 3)))
"""


@pytest.mark.slow
def test_one_command_leads_from_a_folder_of_jpegs_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs(tmp_path / "photos", count=15)
    (tmp_path / "nets.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    teacher = "python:nets.py:Colours?norm=none"
    command = f"search --student mobilenetv2:0.1 --data folder:photos --teacher {teacher} --budget 9"
    without_workers(monkeypatch)
    ended = CliRunner().invoke(app, [*command.split(), "--set", "training.epochs=8"], catch_exceptions=False)
    assert ended.exit_code == 0, ended.stderr
    assert "cut from the centre square" in ended.stderr
    study = read_study(tmp_path / "runs" / "photos-mobilenetv2-0.1" / "study.json")
    assert study.state == "complete"
    assert study.recommendation is not None
    assert study.data.counts
    assert (tmp_path / "reports" / "photos-mobilenetv2-0.1" / "report.html").exists()


def test_a_study_from_before_the_metric_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finished = fake(options())
    path = Path("runs") / finished.name / "study.json"
    older = json.loads(path.read_text(encoding="utf-8"))
    del older["space"]["fit_to_data"], older["space"]["search"]["metric"]
    path.write_text(json.dumps(older), encoding="utf-8")
    assert fake(options(), executor_for=idle).recommendation == finished.recommendation
    with pytest.raises(StoreError, match=r"space\.search\.metric"):
        fake(options('search.metric="balanced_top1"'))

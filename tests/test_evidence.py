"""What a check finds out about a teacher beside mends, how long that takes, and what the report says of it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_files import write_images
from factories import study
from PIL import Image
from record_parts import profile
from teacher_files import coloured, digits, ready, trained
from torch import Tensor, nn

from autodistill.config import DataSpec
from autodistill.data import Data, Split, at_size
from autodistill.data import load as load_data
from autodistill.models.preprocessing import Normalisation
from autodistill.records import StudyRecord, TeacherRecord
from autodistill.report.method import limits_info
from autodistill.report.teachers import notes_info
from autodistill.report.verdict import leaderboard_info
from autodistill.teachers import Teacher, check, checks, logits_of
from autodistill.teachers.checks import may_have_seen_validation

# Time


class Clock:
    """A monotonic clock that moves when a network runs."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Slow(nn.Module):
    """A network that takes its time for each pixel of its input."""

    def __init__(self, clock: Clock, *, pixel_s: float, inner: nn.Module) -> None:
        super().__init__()
        self.clock, self.pixel_s, self.inner, self.images = clock, pixel_s, inner, 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.images += len(inputs)
        self.clock.now += self.pixel_s * len(inputs) * inputs.shape[-1] * inputs.shape[-2]
        return self.inner(inputs)


def answers(data: Data, right: float) -> Tensor:
    labels = data.validation.labels
    rows = torch.arange(len(labels))
    found = torch.where(rows % 10 < 10 * right, labels, (labels + 1 + rows % 9) % 10)
    return nn.functional.one_hot(found, 10).float()


@pytest.mark.parametrize("image_s", [1e-5, 1e-3, 0.01, 0.1, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("right", [0.3, 0.9])
@pytest.mark.parametrize("input_size", [None, 16])
def test_a_check_takes_a_minute_at_most(
    image_s: float, right: float, input_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other reading is as good as the best: it passes its screening, and is tried on all images."""
    clock, data, size = Clock(), coloured(digits()), input_size or 8
    images, labels = data.validation
    data = replace(data, validation=Split(images, torch.where(torch.arange(len(labels)) % 10 > 0, 9, labels)))

    class Constant(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.zeros(len(inputs), 10) + torch.arange(10)

    module = Slow(clock, pixel_s=image_s / size**2, inner=Constant())
    own = Normalisation("data", data.mean, data.std, assumed=True)
    teacher = ready(
        module, name="t", uri="file:t.pt", architecture="x", normalisation=own, channels=3, input_size=input_size
    )
    teacher = replace(teacher, accepted=True)
    monkeypatch.setattr(checks.time, "monotonic", clock)
    monkeypatch.setattr(checks, "measure", lambda *args, **kwargs: digits_cost())
    began = clock.now

    def blank(rows: Tensor, size: int) -> Tensor:
        return torch.zeros(len(rows), 3, size, size, dtype=torch.uint8)

    check(teacher, data, answers(data, right), originals=blank)
    took = clock.now - began
    assert took <= 60
    if image_s <= 0.001 and right > 0.8:
        assert took <= 6


def digits_cost() -> Any:
    return study(20).teachers[0].cost


def test_a_screening_needs_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """A good teacher under other normalisations is at chance: that takes a few images each."""
    clock, data = Clock(), digits()
    module = Slow(clock, pixel_s=0.0, inner=trained())
    own = Normalisation("data", data.mean, data.std)
    teacher = ready(module, name="t", uri="file:t.pt", architecture="x", normalisation=own, channels=1)
    logits = logits_of(teacher, data.validation.images).clone()
    labels = data.validation.labels
    logits[:20] = nn.functional.one_hot((labels[:20] + 1) % 10, 10).float()
    module.images = 0
    monkeypatch.setattr(checks.time, "monotonic", clock)
    monkeypatch.setattr(checks, "measure", lambda *args, **kwargs: digits_cost())
    check(teacher, data, logits)
    assert 0 < module.images < 3 * len(labels)


# Images in the teacher's own size


def striped(folder: Path, part: str, *, count: int, size: int = 24) -> None:
    """Write images of two classes, with stripes across or down; brightness tells the class of four in five."""
    draws = np.random.default_rng(len(part))
    for label, name in enumerate(("across", "down")):
        (folder / part / name).mkdir(parents=True)
        for number in range(count):
            bright = label if number % 5 else 1 - label
            lines = np.arange(size) % 2 * 60 - 30
            pixels = 100 + 40 * bright + (lines[:, None] if label == 0 else lines[None, :])
            pixels = np.broadcast_to(pixels, (size, size)) + draws.integers(-3, 4, (size, size))
            image = Image.fromarray(np.stack([pixels] * 3, axis=2).astype(np.uint8))
            image.save(folder / part / name / f"{number}.png")


class Stripes(nn.Module):
    """Reads the direction of stripes, and the brightness where there are none."""

    def forward(self, inputs: Tensor) -> Tensor:
        grey = 255 * inputs.mean(dim=1)
        across = (grey[:, 1:] - grey[:, :-1]).abs().mean((1, 2))
        down = (grey[:, :, 1:] - grey[:, :, :-1]).abs().mean((1, 2))
        score = (down - across) + 0.1 * (grey.mean((1, 2)) - 120)
        return torch.stack([-score, score], dim=1)


def reader(input_size: int | None, uri: str = "file:t.pt") -> Teacher:
    plain = Normalisation("none", (0.0,) * 3, (1.0,) * 3)
    return ready(Stripes(), name="t", uri=uri, architecture="x", normalisation=plain, channels=3, input_size=input_size)


@pytest.fixture
def stripes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataSpec:
    monkeypatch.setenv("AUTODISTILL_CACHE", str(tmp_path / "cache"))
    for part, count in (("train", 12), ("val", 40), ("test", 10)):
        striped(tmp_path / "images", part, count=count)
    return DataSpec(name=f"folder:{tmp_path}/images", image_size=8)


def noted(teacher: Teacher, data: Data, spec: DataSpec) -> tuple[str, ...]:
    logits = logits_of(teacher, data.validation.images)
    notes = check(teacher, data, logits, originals=partial(at_size, data, spec)).notes
    return tuple(note for note in notes if not note.startswith("it may be read wrongly"))


def test_a_gain_at_the_teachers_own_size_is_said(stripes: DataSpec) -> None:
    data = load_data(stripes)
    assert noted(reader(24), data, stripes) == (
        "100.0 % of 80 validation images right if they are read from their files at its own size of 24x24, 80.0 % as "
        "they are stored at 8x8: --set data.image_size=24",
    )
    assert noted(reader(None), data, stripes) == ()
    assert noted(reader(24, "ladder:x"), data, stripes) == ()
    large = stripes.model_copy(update={"image_size": 24})
    assert noted(reader(24), load_data(large), large) == ()


def test_no_gain_is_said_where_there_are_no_files(stripes: DataSpec, tmp_path: Path) -> None:
    data = load_data(stripes)
    assert noted(reader(24), replace(data, file=None), stripes) == ()
    (tmp_path / "images" / "train" / "down" / "0.png").unlink()
    assert noted(reader(24), data, stripes) == ()
    assert at_size(digits(), DataSpec(name="digits"), torch.arange(3), 8) is None


@pytest.mark.parametrize("parts", [("",), ("train/", "test/"), ("train/", "val/", "test/")])
def test_originals_are_the_images_of_the_rows(
    parts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTODISTILL_CACHE", str(tmp_path / "cache"))
    for part in parts:
        write_images(tmp_path / "images" / part, ["a", "b"], count=10, size=(12, 12))
    if len(parts) > 1:  # no two images alike
        for number, file in enumerate(sorted((tmp_path / "images").rglob("*.png"))):
            pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file)
    spec = DataSpec(name=f"folder:{tmp_path}/images")
    data = load_data(spec)
    rows = torch.tensor([2, 0, 1])
    found = at_size(data, spec, rows, 12)
    assert found is not None
    assert torch.equal(found, data.validation.images[rows])


def test_originals_of_photographs_are_cut_as_images_of_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTODISTILL_CACHE", str(tmp_path / "cache"))
    for label, size in (("a", (90, 70)), ("b", (61, 83))):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(10):
            pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{number}.jpg")
    spec = DataSpec(name=f"folder:{tmp_path}/images", image_size=8)
    data, large = load_data(spec), load_data(spec.model_copy(update={"image_size": 24}))
    assert (data.margin, large.margin) == (1, 2)
    rows = torch.tensor([2, 0, 1])
    found = at_size(data, spec, rows, 24)
    assert found is not None
    assert torch.equal(found, large.validation.images[rows])


# Validation images that a teacher has seen


@pytest.mark.parametrize(
    ("train", "held", "nlls", "said"),
    [
        (1.0, 1.0, (0.001, 0.001), True),
        (0.9995, 0.999, (0.002, 0.0022), True),
        (1.0, 1.0, (0.001, 0.004), False),
        (1.0, 0.998, (0.01, 0.01), False),
        (0.998, 1.0, (0.01, 0.01), False),
    ],
)
def test_a_teacher_that_may_have_seen_the_validation_images(
    train: float, held: float, nlls: tuple[float, float], said: bool
) -> None:
    found = profile(1)
    scores = found.train.model_copy(update={"top1": train, "nll": nlls[0]})
    of = found.model_copy(
        update={"train": scores, "validation": scores.model_copy(update={"top1": held, "nll": nlls[1]})}
    )
    note = may_have_seen_validation(of)
    assert note.endswith("it may have been trained on the validation images") == said
    assert bool(note) == said


# The report


def changed(record: StudyRecord, change: Callable[[TeacherRecord], dict[str, Any]]) -> StudyRecord:
    teachers = tuple(it.model_copy(update=change(it)) for it in record.teachers)
    return record.model_copy(update={"teachers": teachers})


def test_the_report_says_that_foreign_teachers_may_have_seen_the_validation_images() -> None:
    record = study(20)
    names = [it.name for it in record.teachers]

    def said(schemes: str) -> list[str]:
        found = changed(record, lambda it: {"uri": f"{schemes.split()[names.index(it.name) % 2]}{it.name}"})
        return [point for point in limits_info(found).points if "saw the validation images" in point]

    assert said("ladder: adapt:torchvision:") == []
    (point,) = said("ladder: file:")
    assert f"trained elsewhere ({', '.join(names[1::2])}) saw" in point
    assert point.startswith("It is unknown whether")
    assert point.endswith("the verdict rests on test.")


def test_the_report_shows_the_notes_about_a_teacher() -> None:
    record = study(20)
    name = record.teachers[0].name
    found = changed(record, lambda it: {"notes": ("averaged weights are used",) if it.name == name else ()})
    section = notes_info(found)
    assert section.table is not None
    assert [[cell.text for cell in row.cells] for row in section.table.rows] == [[name, "averaged weights are used"]]


def test_the_leaderboard_marks_a_poor_teacher() -> None:
    record = study(20)
    assert record.no_teacher is not None
    alone = record.no_teacher.val_top1
    assert alone is not None
    poor = record.teachers[0].name
    found = changed(record, lambda it: {"val_top1": 0.16 if it.name == poor else alone})
    table = leaderboard_info(found).table
    assert table is not None
    cells = {row.cells[0].text: row.cells[1] for row in table.rows}
    assert (cells[poor].text, cells[poor].below) == ("16.0 %", "below no teacher")
    assert all(not cells[it.name].below for it in record.teachers[1:])

"""Folders of images: split, resized, and refused where they are mixed up."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_files import forbid_network, write_images
from PIL import Image

from autodistill.config import DataSpec
from autodistill.data import load
from autodistill.errors import AutodistillError


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forbid_network(monkeypatch)
    monkeypatch.chdir(tmp_path)


def error_of(spec: DataSpec) -> AutodistillError:
    with pytest.raises(AutodistillError) as caught:
        load(spec)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value


def test_a_folder_of_class_folders_is_split_in_three(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat", "dog"), count=10)
    data = load(DataSpec(name=f"folder:{tmp_path}"))
    assert data.classes == ("cat", "dog")
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [13, 3, 4]
    files = {np.asarray(Image.open(path)).tobytes(): path.parent.name for path in tmp_path.glob("*/*.png")}
    for part in (data.train, data.validation, data.test):
        for image, label in zip(part.images, part.labels, strict=True):
            assert files[image.permute(1, 2, 0).numpy().tobytes()] == data.classes[int(label)]


@pytest.mark.parametrize("other", ["val", "test"])
def test_a_folder_with_train_and_one_other_tests_on_the_other(tmp_path: Path, other: str) -> None:
    write_images(tmp_path / "train", ("cat", "dog"), count=10)
    write_images(tmp_path / other, ("cat", "dog"), count=3)
    data = load(DataSpec(name="folder:.", root=str(tmp_path)))
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [16, 4, 6]


def test_a_folder_with_train_val_and_test_keeps_all_three(tmp_path: Path) -> None:
    for part, count in (("train", 10), ("val", 2), ("test", 3)):
        write_images(tmp_path / part, ("cat", "dog"), count=count)
    data = load(DataSpec(name=f"folder:{tmp_path}"))
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [20, 4, 6]


def test_images_of_a_folder_are_resized_and_grey_becomes_rgb(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat",), size=(12, 20))
    write_images(tmp_path, ("dog",), size=(7, 7), mode="L")
    spec = DataSpec(name=f"folder:{tmp_path}", image_size=8)
    data = load(spec)
    assert data.image_shape == (3, 8, 8)
    grey = data.train.images[data.train.labels == 1]
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert load(spec.model_copy(update={"pool": 2})).image_shape == (3, 4, 4)


def test_sizes_that_differ_need_an_image_size(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat",), size=(12, 12))
    write_images(tmp_path, ("dog",), size=(7, 7))
    error = error_of(DataSpec(name=f"folder:{tmp_path}"))
    assert "7x7, images before it are 12x12" in error.message
    assert "data.image_size" in error.hint
    shutil.rmtree(tmp_path / "cat")
    write_images(tmp_path, ("cat",), size=(12, 9))
    assert "12x9 is not square" in error_of(DataSpec(name=f"folder:{tmp_path}")).message


def test_an_empty_folder_and_an_empty_class_are_named(tmp_path: Path) -> None:
    spec = DataSpec(name=f"folder:{tmp_path}")
    assert "any class folder" in error_of(spec).message
    write_images(tmp_path, ("cat", "dog"))
    (tmp_path / "emu").mkdir()
    assert "classes emu" in error_of(spec).message
    assert "no such folder" in error_of(DataSpec(name="folder:nowhere")).message
    assert "names no folder" in error_of(DataSpec(name="folder")).message


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat",))
    assert "one class (cat), at least 2" in error_of(DataSpec(name=f"folder:{tmp_path}")).message


def test_mixed_up_folders_are_refused(tmp_path: Path) -> None:
    spec = DataSpec(name=f"folder:{tmp_path}")
    write_images(tmp_path / "test", ("cat", "dog"))
    assert "test without train" in error_of(spec).message
    write_images(tmp_path / "train", ("cat", "emu"))
    message = error_of(spec).message
    assert "missing: emu" in message
    assert "only in test: dog" in message
    write_images(tmp_path, ("cow",))
    assert "cow beside train, test" in error_of(spec).message


def test_images_beside_the_class_folders_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat", "dog"))
    shutil.copy(tmp_path / "cat" / "0.png", tmp_path / "stray.png")
    assert (
        "1 images lie beside the class folders, the first is stray.png"
        in error_of(DataSpec(name=f"folder:{tmp_path}")).message
    )


def test_files_that_are_no_whole_images_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat", "dog"))
    bad = tmp_path / "dog" / "3.png"
    whole = bad.read_bytes()
    for content in (b"words", b"", whole[: len(whole) // 2], whole[:40] + bytes(20) + whole[60:]):
        bad.write_bytes(content)
        assert error_of(DataSpec(name=f"folder:{tmp_path}")).message.startswith(f"{bad}: not a complete image")


def test_sixteen_bit_images_are_refused_not_clipped(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat", "dog"))
    bad = tmp_path / "cat" / "1.png"
    Image.fromarray(np.full((10, 10), 40_000, np.uint16)).save(bad)
    assert f"{bad}: pixels of mode I;16" in error_of(DataSpec(name=f"folder:{tmp_path}")).message


def test_too_few_images_of_a_class_in_a_folder(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat",), count=10)
    write_images(tmp_path, ("dog",), count=1)
    assert "class 'dog' has too few images" in error_of(DataSpec(name=f"folder:{tmp_path}")).message


def test_all_damaged_files_are_named_at_once_up_to_a_dozen(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat", "dog"), count=20)
    spec = DataSpec(name=f"folder:{tmp_path}")
    bad = [tmp_path / label / f"{number}.png" for label in ("cat", "dog") for number in range(7)]
    for count in (2, 12, 14):
        for path in bad[:count]:
            path.write_bytes(b"words")
        error = error_of(spec)
        lines = error.message.splitlines()
        assert {line.strip().split(": not")[0] for line in lines[:12]} <= {str(path) for path in bad}
        assert len(lines) == min(count, 12) + (count > 12)
        assert error.hint.count("replace it by a complete image") == 1
    assert lines[-1].strip() == "and 2 more files"


def test_files_of_several_kinds_of_damage_get_all_hints(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat", "dog"))
    (tmp_path / "cat" / "0.png").write_bytes(b"words")
    Image.fromarray(np.full((10, 10), 40_000, np.uint16)).save(tmp_path / "dog" / "1.png")
    error = error_of(DataSpec(name=f"folder:{tmp_path}"))
    assert "not a complete image" in error.message
    assert "pixels of mode I;16" in error.message
    assert "remove the file" in error.hint
    assert "convert it" in error.hint


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat", "dog"), count=10)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    assert error_of(DataSpec(name=f"folder:{tmp_path}")).message == f"{tmp_path}/cat/pipe.png: not a regular file"


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode on this system")
def test_a_class_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat", "dog"), count=10)
    os.rename(os.fsencode(tmp_path / "cat"), os.fsencode(tmp_path) + b"/c\xff")
    message = error_of(DataSpec(name=f"folder:{tmp_path}")).message
    assert message == f"{tmp_path}: the name of class folder c\\udcff is not UTF-8"

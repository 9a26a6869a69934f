"""Datasets: what they hold, how they are read, split, pooled and normalised, and when they are refused."""

import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_files import FASHION, accept_any_checksum, forbid_network, idx, write_cifar, write_fashion, write_images
from PIL import Image
from sklearn.datasets import load_digits

from autodistill.config import DataSpec
from autodistill.data import DATASETS, average_pool, images_at_once, load, normalise
from autodistill.data.datasets import DEBIAN_FASHION_MNIST, read_idx
from autodistill.data.splits import Source, Split, split
from autodistill.errors import AutodistillError, ConfigError, DataError


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


def folder_error(path: Path) -> str:
    return error_of(DataSpec(name=f"folder:{path}")).message


def numbered(labels: list[int]) -> Split:
    """Images that carry their own row number in two pixels."""
    rows = np.arange(len(labels))
    pixels = np.stack([rows // 256, rows % 256], axis=1).astype(np.uint8)
    return Split(torch.from_numpy(pixels)[:, None, None], torch.tensor(labels))


def numbers(found: Split) -> list[int]:
    return [int(high) * 256 + int(low) for high, low in found.images.flatten(1)]


def test_digits_are_scikit_learns_at_8x8_times_15() -> None:
    data = load(DataSpec(train=600, validation=400, test=797))
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [600, 400, 797]
    assert data.image_shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    found = torch.cat([part.images.flatten(1) for part in (data.train, data.validation, data.test)])
    labels = torch.cat([part.labels for part in (data.train, data.validation, data.test)])
    published = load_digits()
    assert sorted(zip(found.tolist(), labels.tolist(), strict=True)) == sorted(
        zip((published.data * 15).astype(int).tolist(), published.target.tolist(), strict=True)
    )


def test_an_unknown_dataset_gets_near_matches_and_a_setting_without_effect_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fashion-mnist'"):
        load(DataSpec(name="fashion_mnist"))
    assert "data.root = 'x' has no effect on digits" in error_of(DataSpec(root="x")).message


def test_pooling_is_the_mean_of_each_channel_and_rounds_halves_up() -> None:
    assert load(DataSpec(pool=2)).image_shape == (1, 4, 4)
    image = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 1], [255, 255, 2, 3], [255, 254, 2, 3]], dtype=torch.uint8)
    found = average_pool(image[None, None], size=2)
    assert found.tolist() == [[[[1, 0], [255, 3]]]]  # 0.5, 0.25, 254.75, 2.5
    images = torch.randint(0, 256, (5, 3, 6, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = average_pool(images.contiguous(memory_format=torch.channels_last), size=3)
    means = images.double().reshape(5, 3, 2, 3, 3, 3).mean((3, 5))
    assert torch.equal(found.double(), (means + 0.5).floor())


def test_a_pool_that_does_not_divide_the_image_lists_what_does() -> None:
    error = error_of(DataSpec(pool=3))
    assert "data.pool = 3 does not divide 8x8" in error.message
    assert error.hint == "allowed: 1, 2, 4, 8"


def test_normalise_follows_its_definition_per_channel() -> None:
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 1.5)
    with torch.inference_mode():
        normalise(images, mean=mean, std=std)
    found = normalise(images.contiguous(memory_format=torch.channels_last), mean=mean, std=std)
    expected = (images.double() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.allclose(found.double(), expected, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)
    weight = torch.ones((), requires_grad=True)
    (found * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize(
    ("shape", "size", "count"),
    [
        ((1, 8, 8), None, 512),
        ((1, 28, 28), None, 167),
        ((3, 32, 32), None, 128),
        ((3, 224, 224), None, 16),
        ((3, 32, 32), 64, 32),
    ],
)
def test_as_many_images_at_once_as_a_cpu_is_fast_with(shape, size, count) -> None:
    images = torch.zeros(2, *shape, dtype=torch.uint8)
    assert images_at_once(images, on_gpu=256, size=size) == count
    assert images_at_once(images.to("meta"), on_gpu=256, size=size) == 256


def test_a_channel_without_contrast_stays_finite(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(5):
            Image.new("RGB", (4, 4), (i, 7, 0)).save(tmp_path / label / f"{i}.png")
    data = load(DataSpec(name=f"folder:{tmp_path}"))
    assert data.std[1] == pytest.approx(1 / 255)
    assert normalise(data.train.images, mean=data.mean, std=data.std)[:, 1].abs().max() < 1e-5


def test_to_moves_every_split_and_keeps_the_rest() -> None:
    data = load(DataSpec())
    moved = data.to("meta")
    assert {tensor.device.type for part in (moved.train, moved.validation, moved.test) for tensor in part} == {"meta"}
    assert (moved.fingerprint, moved.mean, moved.classes) == (data.fingerprint, data.mean, data.classes)
    assert data.train.images.device.type == "cpu"


@pytest.mark.parametrize(
    ("asked", "sizes"),
    [
        ({}, (640, 160, 200)),
        ({"train": 100}, (100, 160, 200)),
        ({"train": 300, "validation": 300, "test": 400}, (300, 300, 400)),
        ({"train": 300, "validation": 300, "test": 399}, (300, 300, 399)),
        ({"test": 50}, (760, 190, 50)),
    ],
)
def test_splits_are_disjoint_stratified_and_of_the_size_asked_for(
    asked: dict[str, int], sizes: tuple[int, int, int]
) -> None:
    labels = [0] * 500 + [1] * 300 + [2] * 200
    found = split(Source(("a", "b", "c"), {"train": numbered(labels)}), DataSpec(**asked))
    assert tuple(len(part.labels) for part in found) == sizes
    every = [number for part in found for number in numbers(part)]
    assert len(set(every)) == len(every)
    for part in found:
        assert part.labels.tolist() == [labels[number] for number in numbers(part)]
        shares = torch.bincount(part.labels) / len(part.labels)
        assert shares.tolist() == pytest.approx([0.5, 0.3, 0.2], abs=2 / len(part.labels))


def test_own_validation_and_test_sets_are_kept_apart() -> None:
    train, validation, test = numbered([0, 1] * 50), numbered([0, 1] * 10), numbered([0, 1] * 20)
    moved = validation._replace(images=validation.images + 100)
    source = Source(("a", "b"), {"train": train, "validation": moved, "test": test})
    found = split(source, DataSpec(test=10, validation=8))
    assert [len(part.labels) for part in found] == [100, 8, 10]
    assert min(int(image[0, 0, 0]) for image in found.validation.images) == 100
    assert torch.bincount(found.test.labels).tolist() == [5, 5]
    whole = split(Source(("a", "b"), {"train": train, "test": test}), DataSpec())
    assert [len(part.labels) for part in whole] == [80, 20, 40]
    assert numbers(whole.test) == list(range(40))


def test_a_split_does_not_disturb_the_global_generators() -> None:
    before, state = np.random.get_state()[1].tolist(), torch.get_rng_state()
    load(DataSpec(split_seed=7))
    assert np.random.get_state()[1].tolist() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_sizes_that_cannot_be_had_are_told_with_numbers() -> None:
    error = error_of(DataSpec(train=1500, validation=400, test=100))
    assert "data.train = 1500: 1297 of digits's 1797 images are left" in error.message
    assert "train 1500, validation 400, test 100" in error.message
    assert "at most 1297" in error.hint
    assert "(asked for: train not set, validation not set, test 2000)" in error_of(DataSpec(test=2000)).message
    assert "data.train: 0 of 0 images" in error_of(DataSpec(validation=1000, test=797)).message
    assert (
        "data.validation: 9 of 1438 images cannot show each of 10 classes" in error_of(DataSpec(validation=9)).message
    )


def few(labels: list[int], spec: DataSpec | None = None, **more: Split) -> DataError:
    with pytest.raises(DataError) as caught:
        split(Source(("many", "few"), {"train": numbered(labels), **more}), spec or DataSpec(name="arrays:v.npz"))
    return caught.value


def test_a_class_with_too_few_images_is_named_with_its_number_and_the_number_that_suffices() -> None:
    error = few([0] * 57 + [1] * 3)
    assert error.message == (
        "class 'few' of arrays:v.npz has 3 images, too few for an image in every split: test gets 12 of 60 "
        "images, validation gets 10 of 48 images, train gets 38 of 38 images; 7 images of a class always suffice"
    )
    assert error.hint.endswith("or set data.test and data.validation to more images")
    split(Source(("many", "few"), {"train": numbered([0] * 57 + [1] * 3)}), DataSpec(test=20, validation=20))
    for seed in range(20):
        split(Source(("many", "few"), {"train": numbered([0] * 53 + [1] * 7)}), DataSpec(split_seed=seed))
    error = few([0] * 50 + [1] * 2)
    assert "'few' of arrays:v.npz has 2 images" in error.message
    assert error.hint == "add images of this class, or leave the class out"
    error = few([0, 1] * 20, test=numbered([0] * 9))
    assert "'few' of arrays:v.npz has 0 images" in error.message
    assert "test gets 9 of 9 images; 1 images of a class always suffice" in error.message
    error = few([0] * 50 + [1] * 10, DataSpec(name="arrays:v.npz", train=2))
    assert "has 10 images" in error.message
    assert "train gets 2 of 38 images; " in error.message


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("field", ["images", "labels"])
def test_the_fingerprint_covers_images_and_labels_of_every_split(
    monkeypatch: pytest.MonkeyPatch, part: str, field: str
) -> None:
    parts = {name: numbered([0, 1] * count) for name, count in (("train", 4), ("validation", 3), ("test", 2))}
    source = Source(("a", "b"), parts)
    swapped = parts[part]._replace(**{field: getattr(parts[part], field).flip(0)})
    fingerprints = []
    for found in (source, source, Source(("a", "b"), {**parts, part: swapped})):
        monkeypatch.setitem(DATASETS, "made", lambda _, found=found: found)
        fingerprints.append(load(DataSpec(name="made")).fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


# Fashion-MNIST and CIFAR, whole, missing and damaged


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", [".", "FashionMNIST/raw"])
def test_fashion_mnist_is_found_zipped_or_not_in_both_layouts(tmp_path: Path, zipped: bool, place: str) -> None:
    folder = write_fashion(tmp_path / "root" / place, zipped=zipped)
    data = load(DataSpec(name="fashion-mnist", root=str(tmp_path / "root"), pool=2))
    assert data.image_shape == (1, 14, 14)
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [48, 12, 30]
    path = folder / ("t10k-images-idx3-ubyte" + ".gz" * zipped)
    content = gzip.decompress(path.read_bytes()) if zipped else path.read_bytes()
    expected = torch.from_numpy(np.frombuffer(content, np.uint8, offset=16).reshape(30, 1, 28, 28).copy())
    assert torch.equal(data.test.images, average_pool(expected, size=2))
    assert data.test.labels.tolist() == [i % 10 for i in range(30)]


def test_missing_fashion_files_are_listed_with_the_ways_to_get_them(tmp_path: Path) -> None:
    folder = write_fashion(tmp_path / "root")
    (folder / f"{FASHION[3]}.gz").unlink()
    error = error_of(DataSpec(name="fashion-mnist", root=str(folder)))
    assert f"{folder}: missing {FASHION[3]};" in error.message
    assert f"{folder / 'FashionMNIST' / 'raw'}: missing {', '.join(FASHION)}" in error.message
    assert "dataset-fashion-mnist" in error.hint
    assert "torchvision.datasets import FashionMNIST" in error.hint


def test_damaged_idx_files_are_named(tmp_path: Path) -> None:
    whole = idx(np.arange(12, dtype=np.uint8).reshape(3, 2, 2))
    assert read_idx(written(tmp_path / "whole", whole), axes=3).flatten().tolist() == list(range(12))
    for name, content, axes, words in (
        ("rung", whole[:-1], 3, "11 values"),
        ("long", whole + b"x", 3, "13 values"),
        ("other", whole, 1, "not an idx file of bytes with 1 axes"),
        ("stub", whole[:6], 3, "not an idx file"),
        ("none", idx(np.zeros((0, 2, 2), np.uint8)), 3, "0 values"),
        ("cut.gz", gzip.compress(whole)[:-12], 3, "cannot be read"),
        ("plain.gz", whole, 3, "cannot be read"),
        ("bits.gz", gzip.compress(whole)[:10] + b"\xff" * 20, 3, "cannot be read"),
    ):
        path = written(tmp_path / name, content)
        with pytest.raises(DataError, match=words) as caught:
            read_idx(path, axes=axes)
        assert str(path) in caught.value.message


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_fashion_labels_must_fit_images_and_classes(tmp_path: Path) -> None:
    folder = write_fashion(tmp_path, zipped=False)
    spec = DataSpec(name="fashion-mnist", root=str(folder))
    written(folder / FASHION[1], idx(np.zeros(59, np.uint8)))
    assert "59 labels for 60 images" in error_of(spec).message
    written(folder / FASHION[1], idx(np.full(60, 10, np.uint8)))
    assert "label 10, allowed 0 to 9" in error_of(spec).message


@pytest.mark.skipif(not Path(DEBIAN_FASHION_MNIST).is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist_has_its_published_statistics() -> None:
    data = load(DataSpec(name="fashion-mnist"))
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [48_000, 12_000, 10_000]
    assert torch.bincount(data.train.labels).tolist() == [4800] * 10
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    # 0.2860 and 0.3530 over all 60,000 training images, as people normalise with.
    assert data.mean[0] == pytest.approx(0.2860, abs=5e-4)
    assert data.std[0] == pytest.approx(0.3530, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "classes", "sizes"), [("cifar10", 10, (80, 20, 20)), ("cifar100", 100, (480, 120, 600))]
)
def test_cifar_is_read_from_torchvisions_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, classes: int, sizes: tuple[int, int, int]
) -> None:
    accept_any_checksum(monkeypatch)
    write_cifar(tmp_path / "data", classes=classes)
    data = load(DataSpec(name=name))
    assert data.image_shape == (3, 32, 32)
    assert data.classes == tuple(f"class {i}" for i in range(classes))
    assert tuple(len(part.labels) for part in (data.train, data.validation, data.test)) == sizes
    assert data.test.images[:, 0, 0, 0].tolist() == [i % 256 for i in range(sizes[2])]
    assert data.test.labels.tolist() == [i % classes for i in range(sizes[2])]


def test_missing_cifar_files_are_listed_and_other_checksums_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path, classes=10)
    spec = DataSpec(name="cifar10", root=str(tmp_path))
    error = error_of(spec)
    assert "checksum" in error.message
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    error = error_of(spec)
    assert "missing data_batch_3" in error.message
    assert f"from torchvision.datasets import CIFAR10 as d; d({str(tmp_path)!r}, download=True)" in error.hint


# Folders of images


def test_a_folder_of_class_folders_is_split_in_three(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat", "dog"), count=10)
    data = load(DataSpec(name=f"folder:{tmp_path}"))
    assert data.classes == ("cat", "dog")
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [13, 3, 4]
    files = {np.asarray(Image.open(path)).tobytes(): path.parent.name for path in tmp_path.glob("*/*.png")}
    for part in (data.train, data.validation, data.test):
        for image, label in zip(part.images, part.labels, strict=True):
            assert files[image.permute(1, 2, 0).numpy().tobytes()] == data.classes[int(label)]


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        ({"train": 10, "val": 3}, [16, 4, 6]),
        ({"train": 10, "test": 3}, [16, 4, 6]),
        ({"train": 10, "val": 2, "test": 3}, [20, 4, 6]),
    ],
)
def test_a_folder_keeps_its_own_parts_and_tests_on_the_last(
    tmp_path: Path, parts: dict[str, int], sizes: list[int]
) -> None:
    for part, count in parts.items():
        write_images(tmp_path / part, ("cat", "dog"), count=count)
    data = load(DataSpec(name="folder:.", root=str(tmp_path)))
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == sizes


def test_images_of_a_folder_are_resized_and_grey_becomes_rgb(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat",), size=(12, 12))
    write_images(tmp_path, ("dog",), size=(7, 7), mode="L")
    spec = DataSpec(name=f"folder:{tmp_path}", image_size=8)
    data = load(spec)
    assert data.image_shape == (3, 8, 8)
    grey = data.train.images[data.train.labels == 1]
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert load(spec.model_copy(update={"pool": 2})).image_shape == (3, 4, 4)


def test_an_empty_folder_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    assert "no class folder with images" in folder_error(tmp_path)
    missing = error_of(DataSpec(name="folder:nowhere"))
    assert missing.message == "data.name = 'folder:nowhere': nowhere: no such folder"
    assert "--data folder:" in missing.hint
    (tmp_path / "a.zip").write_bytes(b"")
    assert "a.zip is a file, not a folder" in error_of(DataSpec(name=f"folder:{tmp_path / 'a.zip'}")).message
    assert "names no folder" in error_of(DataSpec(name="folder")).message


def test_one_class_is_not_enough_and_neither_is_one_image(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat",), count=10)
    assert "one class (cat), at least 2" in folder_error(tmp_path)
    write_images(tmp_path, ("dog",), count=1)
    assert f"class 'dog' of folder:{tmp_path} has 1 image, too few" in folder_error(tmp_path)


def test_mixed_up_folders_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "test", ("cat", "dog"))
    assert "test without train" in folder_error(tmp_path)
    write_images(tmp_path / "train", ("cat", "emu"))
    message = folder_error(tmp_path)
    assert "missing: emu" in message
    assert "only in test: dog" in message
    write_images(tmp_path, ("cow",))
    assert "cow beside train, test" in folder_error(tmp_path)
    for part in ("train", "test"):
        shutil.rmtree(tmp_path / part)
    shutil.copy(tmp_path / "cow" / "0.png", tmp_path / "stray.png")
    assert "1 images lie beside the class folders, the first is stray.png" in folder_error(tmp_path)


def test_files_that_are_no_whole_images_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat", "dog"))
    bad = tmp_path / "dog" / "3.png"
    whole = bad.read_bytes()
    for content in (b"words", b"", whole[: len(whole) // 2], whole[:40] + bytes(20) + whole[60:]):
        bad.write_bytes(content)
        assert folder_error(tmp_path).startswith(f"{bad}: not a complete image")


def test_complete_images_of_floats_are_not_called_damaged(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat", "dog"))
    Image.fromarray(np.zeros((10, 10), np.float32)).save(tmp_path / "dog" / "f.tif")
    error = error_of(DataSpec(name=f"folder:{tmp_path}"))
    assert error.message == (
        f"{tmp_path / 'dog' / 'f.tif'}: pixels are floats (mode F), allowed are 8 or 16 bits a channel"
    )
    assert error.hint == "convert the image to 8 bits a channel, or remove the file"


def test_all_damaged_files_are_named_at_once(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat", "dog"), count=20)
    spec = DataSpec(name=f"folder:{tmp_path}")
    bad = [tmp_path / label / f"{number}.png" for label in ("cat", "dog") for number in range(15)]
    for path in bad:
        path.write_bytes(path.read_bytes()[:-30] if path.name == "3.png" else b"words")
    error = error_of(spec)
    assert {line.strip().split(": not")[0] for line in error.message.splitlines()} == {str(path) for path in bad}
    assert error.hint.count("replace it by a complete image") == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat", "dog"), count=10)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    assert folder_error(tmp_path) == f"{tmp_path}/cat/pipe.png: not a regular file"


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode on this system")
def test_a_class_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat", "dog"), count=10)
    os.rename(os.fsencode(tmp_path / "cat"), os.fsencode(tmp_path) + b"/c\xff")
    message = folder_error(tmp_path)
    assert message == f"{tmp_path}: the name of class folder c\\udcff is not UTF-8"


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode on this system")
def test_equal_images_are_named_whatever_bytes_their_names_have(tmp_path: Path) -> None:
    write_images(tmp_path, ("cat", "dog"), count=10)
    image = tmp_path / "cat" / "0.png"
    (tmp_path / "cat" / os.fsdecode(b"caf\xe9.png")).write_bytes(image.read_bytes())
    reading = load(DataSpec(name=f"folder:{tmp_path}")).reading
    assert reading is not None
    (pair,) = reading.examples
    assert set(pair) == {"cat/0.png", "cat/caf\\udce9.png"}

"""Fashion-MNIST and CIFAR from files in their own formats, whole, missing and damaged."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_files import FASHION, accept_any_checksum, forbid_network, idx, write_cifar, write_fashion

from autodistill.config import DataSpec
from autodistill.data import average_pool, load
from autodistill.data.datasets import DEBIAN_FASHION_MNIST, read_idx
from autodistill.errors import AutodistillError, DataError


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

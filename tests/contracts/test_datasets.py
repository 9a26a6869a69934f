"""What holds for every registered dataset."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dataset_files import (
    accept_any_checksum,
    forbid_network,
    write_arrays,
    write_cifar,
    write_dataset,
    write_fashion,
    write_images,
)

from autodistill.config import DataSpec
from autodistill.data import DATASETS, Data, load, normalise, record
from autodistill.errors import AutodistillError


def fashion_files(root: Path) -> DataSpec:
    return DataSpec(name="fashion-mnist", root=str(write_fashion(root)))


def cifar10_files(root: Path) -> DataSpec:
    write_cifar(root, classes=10)
    return DataSpec(name="cifar10", root=str(root))


def cifar100_files(root: Path) -> DataSpec:
    write_cifar(root, classes=100)
    return DataSpec(name="cifar100", root=str(root))


def folder_files(root: Path) -> DataSpec:
    return DataSpec(name=f"folder:{write_images(root, ('cat', 'dog'), count=10)}")


def array_files(root: Path) -> DataSpec:
    return DataSpec(name=f"arrays:{write_arrays(root / 'a.npz')}")


def user_files(root: Path) -> DataSpec:
    return DataSpec(name=f"python:{write_dataset(root / 'data.py')}:make")


def torchvision_files(root: Path) -> DataSpec:
    write_fashion(root / "KMNIST" / "raw", zipped=False)
    return DataSpec(name="torchvision:KMNIST", root=str(root))


FILES: dict[str, Callable[[Path], DataSpec]] = {
    "digits": lambda _: DataSpec(name="digits"),
    "fashion-mnist": fashion_files,
    "cifar10": cifar10_files,
    "cifar100": cifar100_files,
    "folder": folder_files,
    "arrays": array_files,
    "python": user_files,
    "torchvision": torchvision_files,
}
"""For each dataset, how to write a tiny one of its format."""


def test_every_dataset_has_files_to_test_it_with() -> None:
    assert set(FILES) == set(DATASETS)


@pytest.fixture(params=sorted(DATASETS))
def spec(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataSpec:
    accept_any_checksum(monkeypatch)
    forbid_network(monkeypatch)
    return FILES[request.param](tmp_path)


def rows(data: Data) -> set[bytes]:
    return {image.numpy().tobytes() for split in (data.train, data.validation, data.test) for image in split.images}


def test_a_dataset_is_resident_split_and_described(spec: DataSpec) -> None:
    data = load(spec)
    channels, height, width = data.image_shape
    for split in (data.train, data.validation, data.test):
        assert split.images.dtype == torch.uint8
        assert split.images.shape == (len(split.labels), channels, height, width)
        assert split.images.is_contiguous(memory_format=torch.channels_last)
        assert split.labels.dtype == torch.int64
        assert set(split.labels.tolist()) == set(range(data.num_classes))
    sizes = [len(split.labels) for split in (data.train, data.validation, data.test)]
    assert len(rows(data)) == sum(sizes), "an image is in two splits"
    described = record(data, spec=spec, views=3)
    assert [described.train, described.validation, described.test] == sizes
    assert (described.classes, described.image_shape, described.views) == (data.classes, data.image_shape, 3)
    assert described.fingerprint == data.fingerprint


def test_statistics_are_those_of_the_training_images(spec: DataSpec) -> None:
    data = load(spec)
    scaled = data.train.images.double() / 255
    assert data.mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert data.std == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist(), abs=1e-12)
    normalised = normalise(data.train.images, mean=data.mean, std=data.std)
    assert normalised.dtype == torch.float32
    assert normalised.mean((0, 2, 3)).abs().max() < 1e-4
    assert (normalised.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-4


def test_equal_specs_give_equal_data_and_another_split_seed_other_splits(spec: DataSpec) -> None:
    once, again, other = load(spec), load(spec), load(spec.model_copy(update={"split_seed": 1}))
    assert once.fingerprint == again.fingerprint
    assert torch.equal(once.train.images, again.train.images)
    assert torch.equal(once.validation.labels, again.validation.labels)
    assert other.fingerprint != once.fingerprint
    assert rows(other) == rows(once)


def test_keys_that_mean_nothing_and_sizes_that_do_not_fit_are_errors(spec: DataSpec) -> None:
    with pytest.raises(AutodistillError, match=r"data\.train = 99999"):
        load(spec.model_copy(update={"train": 99_999}))
    with pytest.raises(AutodistillError, match=r"data\.pool = 97 does not divide"):
        load(spec.model_copy(update={"pool": 97}))
    if ":" not in spec.name:
        with pytest.raises(AutodistillError, match=r"data\.image_size = 16 has no effect"):
            load(spec.model_copy(update={"image_size": 16}))
        with pytest.raises(AutodistillError, match="takes no path"):
            load(spec.model_copy(update={"name": f"{spec.name}:x"}))

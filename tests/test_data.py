"""Datasets: what they hold, how they are split, pooled and normalised, and when they are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_files import forbid_network
from PIL import Image
from sklearn.datasets import load_digits

from autodistill.config import DataSpec
from autodistill.data import DATASETS, average_pool, images_at_once, load, normalise
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


def test_digits_pool_to_4x4() -> None:
    assert load(DataSpec(pool=2)).image_shape == (1, 4, 4)


def test_an_unknown_dataset_gets_near_matches() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fashion-mnist'"):
        load(DataSpec(name="fashion_mnist"))


def test_root_means_nothing_to_digits() -> None:
    assert "data.root = 'x' has no effect on digits" in error_of(DataSpec(root="x")).message


def test_pooling_averages_and_rounds_halves_up() -> None:
    image = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 1], [255, 255, 2, 3], [255, 254, 2, 3]], dtype=torch.uint8)
    found = average_pool(image[None, None], size=2)
    assert found.tolist() == [[[[1, 0], [255, 3]]]]  # 0.5, 0.25, 254.75, 2.5


def test_pooling_by_three_is_the_rounded_mean_of_each_channel() -> None:
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
    assert "data.train: 0 of 0 images" in error_of(DataSpec(validation=1000, test=797)).message
    assert (
        "data.validation: 9 of 1438 images cannot show each of 10 classes" in error_of(DataSpec(validation=9)).message
    )


def test_a_class_with_too_few_images_is_named() -> None:
    source = Source(("many", "few"), {"train": numbered([0] * 50 + [1] * 2)})
    with pytest.raises(DataError, match="class 'few' has too few images for a stratified split"):
        split(source, DataSpec())
    with pytest.raises(DataError, match=r"class 'few' .* 0 left when test is cut"):
        split(Source(("many", "few"), {"train": numbered([0, 1] * 20), "test": numbered([0] * 9)}), DataSpec())


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

"""Folders of photographs as people have them: names, sizes, kinds of colours, stray files, images that occur twice."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ImageOps import exif_transpose

from autodistill.config import DataSpec
from autodistill.data import Data, load, with_validation
from autodistill.data.views import View, draw, take_view
from autodistill.errors import DataError

RNG = np.random.default_rng(5)


def pixels(width: int, height: int) -> np.ndarray[Any, Any]:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def gradient(width: int, height: int) -> Image.Image:
    """Return a smooth image: red grows from left to right, green from top to bottom."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 0] = np.linspace(0, 255, width)[None, :]
    image[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(image)


def photographs(
    folder: Path, classes: tuple[str, ...] = ("cat", "dog"), *, count: int = 10, suffix: str = "png"
) -> Path:
    """Write images of two classes of different sizes and shapes."""
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            width, height = RNG.integers(40, 90, 2)
            Image.fromarray(pixels(int(width), int(height))).save(folder / label / f"{number}.{suffix}")
    return folder


def squares(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), *, count: int = 10, size: int = 16) -> Path:
    for label in classes:
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(pixels(size, size)).save(folder / label / f"{number}.png")
    return folder


def of(folder: Path, **more: Any) -> Data:
    return load(DataSpec(name=f"folder:{folder}", **more))


def refusal(folder: Path, **more: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        of(folder, **more)
    return caught.value


def sizes(data: Data) -> list[int]:
    return [len(part.labels) for part in (data.train, data.validation, data.test)]


def first(folder: Path, image: Image.Image, name: str = "x.png", **saved: Any) -> np.ndarray[Any, Any]:
    """Return the stored pixels of one image of class `a`, which is the only image of its class in test."""
    for part in ("train", "test"):
        squares(folder / part, ("b",), count=8, size=image.width if image.width == image.height else 16)
        (folder / part / "a").mkdir(parents=True, exist_ok=True)
    squares(folder / "train", ("a",), count=8)
    image.save(folder / "test" / "a" / name, **saved)
    data = of(folder, image_size=16)
    found = data.test.images[data.test.labels == 0]
    assert len(found) == 1
    return found[0].permute(1, 2, 0).numpy().astype(int)


# Names of splits


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "validation", "test"),
        ("Training", "VALID", "Testing"),
        ("TRAIN", "Val", "TEST"),
        ("train", "dev", "test"),
    ],
)
def test_splits_have_their_usual_names_in_any_case(tmp_path: Path, train: str, validation: str, test: str) -> None:
    for name, count in ((train, 10), (validation, 3), (test, 4)):
        photographs(tmp_path / name, count=count)
    assert sizes(of(tmp_path)) == [20, 6, 8]


def test_a_fifth_is_for_validation_where_there_is_none(tmp_path: Path) -> None:
    photographs(tmp_path / "train", count=20)
    photographs(tmp_path / "testing", count=4)
    assert sizes(of(tmp_path)) == [32, 8, 8]


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("train", "val", "Validation"):
        squares(tmp_path / name)
    assert "Validation and val are both the validation split" in refusal(tmp_path).message


def test_images_of_a_split_without_class_folders_are_left_out_and_named(tmp_path: Path) -> None:
    squares(tmp_path / "train")
    (tmp_path / "test").mkdir()
    for name in ("1.png", "2.png"):
        Image.fromarray(pixels(16, 16)).save(tmp_path / "test" / name)
    data = of(tmp_path)
    assert sizes(data) == [13, 3, 4]
    assert data.reading is not None
    assert data.reading.left_out == (
        "2 images of test without class folders, so that their classes are unknown: test/1.png, test/2.png",
    )


def test_files_beside_the_splits_are_left_out_and_named(tmp_path: Path) -> None:
    squares(tmp_path / "train")
    Image.fromarray(pixels(16, 16)).save(tmp_path / "loose.png")
    (tmp_path / "labels.csv").write_text("1.png,cat")
    data = of(tmp_path)
    assert sizes(data) == [13, 3, 4]
    assert data.reading is not None
    assert data.reading.left_out == ("2 beside the folders of the splits: labels.csv, loose.png",)


def test_an_empty_split_is_left_out_and_a_class_may_be_called_train(tmp_path: Path) -> None:
    squares(tmp_path / "data" / "train")
    (tmp_path / "data" / "test").mkdir()
    data = of(tmp_path / "data")
    assert sizes(data) == [13, 3, 4]
    assert data.reading is not None
    assert data.reading.left_out == ("1 folders of a split without class folders: test",)
    squares(tmp_path / "vehicles", ("train", "bus", "tram"))
    assert of(tmp_path / "vehicles").classes == ("bus", "train", "tram")


def test_a_folder_around_the_folder_is_entered(tmp_path: Path) -> None:
    squares(tmp_path / "archive" / "pets" / "Train")
    squares(tmp_path / "archive" / "pets" / "Test", count=4)
    (tmp_path / "__MACOSX").mkdir()
    assert sizes(of(tmp_path)) == [16, 4, 8]


# Sizes and shapes


def test_photographs_are_stored_at_1_15_times_their_size_and_cut_to_their_centre(tmp_path: Path) -> None:
    for label, size in (("wide", (300, 150)), ("tall", (120, 240))):
        (tmp_path / label).mkdir()
        for number in range(10):
            gradient(*size).save(tmp_path / label / f"{number}.png")
    data = of(tmp_path, image_size=100)
    margin = 8  # 7.5 pixels, rounded
    assert (data.image_shape, data.margin) == ((3, 100, 100), margin)
    assert data.train.images.shape[2:] == (116, 116)
    assert data.test.images.shape[2:] == data.validation.images.shape[2:] == (100, 100)
    for label, size in ((1, (300, 150)), (0, (120, 240))):
        # Independently: resize the shorter side, then cut the centre.
        scale = 116 / min(size)
        whole = gradient(*size).resize((round(size[0] * scale), round(size[1] * scale)), Image.Resampling.BILINEAR)
        left, top = (whole.width - 116) // 2, (whole.height - 116) // 2
        expected = np.asarray(whole.crop((left, top, left + 116, top + 116))).astype(int)
        stored = data.train.images[data.train.labels == label][0].permute(1, 2, 0).numpy().astype(int)
        assert abs(stored - expected).max() <= 2
        shown = data.test.images[data.test.labels == label][0].permute(1, 2, 0).numpy().astype(int)
        assert abs(shown - expected[8:-8, 8:-8]).max() <= 2


def test_training_takes_a_keyed_crop_of_the_stored_image_and_no_crop_is_the_centre(tmp_path: Path) -> None:
    data = of(photographs(tmp_path), image_size=32)
    stored, margin = data.train.images, data.margin
    assert margin == 2
    everything = torch.arange(len(stored))
    centre = take_view(stored, everything, view=View(1, 0, False), epoch=0, margin=margin)
    assert torch.equal(centre, stored[:, :, 2:-2, 2:-2])
    view = View(1, margin, True)
    crops, draws = (
        take_view(stored, everything, view=view, epoch=3, margin=margin),
        draw(everything, view=view, epoch=3),
    )
    for image, crop, (top, left, mirror) in zip(stored, crops, draws.tolist(), strict=True):
        expected = image[:, top : top + 32, left : left + 32]
        assert torch.equal(crop, expected.flip(2) if mirror else expected)
    wide = take_view(stored, everything, view=View(1, 5, False), epoch=0, margin=margin)
    padded = torch.nn.functional.pad(stored, (3, 3, 3, 3))
    for image, crop, (top, left, _) in zip(
        padded, wide, draw(everything, view=View(1, 5, False), epoch=0).tolist(), strict=True
    ):
        assert torch.equal(crop, image[:, top : top + 32, left : left + 32])


def test_validation_images_get_their_margin_back_when_they_are_trained_on(tmp_path: Path) -> None:
    data = of(photographs(tmp_path), image_size=32)
    whole = with_validation(data)
    assert len(whole.train.images) == len(data.train.images) + len(data.validation.images)
    added = whole.train.images[len(data.train.images) :]
    assert added.shape[2:] == (36, 36)
    assert torch.equal(added[:, :, 2:-2, 2:-2], data.validation.images)
    moved = data.to("cpu")
    assert torch.equal(with_validation(moved).train.images, whole.train.images)


@pytest.mark.parametrize(
    ("shapes", "size"),
    [
        ([(500, 400), (400, 300), (640, 480)], 224),  # the median of the shorter sides holds 258 pixels
        ([(260, 250), (250, 300)], 192),  # 250 pixels hold 192 + 2 x 14, not 224 + 2 x 17
        ([(40, 60), (50, 38)], 32),
        ([(60, 80)], 48),  # 60 pixels hold 48 + 2 x 4, not 64 + 2 x 5
        ([(20, 30)], 17),  # below 32 + 2 x 2: the size for which 20 is 1.15 times as large
        ([(28, 28)], 28),  # square images of one size keep it
        ([(100, 100), (64, 64), (70, 70)], 64),  # square images need no margin
    ],
)
def test_the_size_follows_from_the_images(tmp_path: Path, shapes: list[tuple[int, int]], size: int) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(12):
            Image.new("RGB", shapes[number % len(shapes)], (number, 0, 0)).save(tmp_path / label / f"{number}.png")
    assert of(tmp_path).image_shape == (3, size, size)


def test_photographs_cannot_be_pooled_and_another_margin_is_another_dataset(tmp_path: Path) -> None:
    photographs(tmp_path / "p")
    assert "photographs are not pooled" in refusal(tmp_path / "p", pool=2).message
    assert of(tmp_path / "p", image_size=32).fingerprint != of(tmp_path / "p", image_size=33).fingerprint


def test_large_jpegs_are_decoded_at_a_fraction_of_their_size_to_nearly_the_same_pixels(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(5):
            gradient(1000, 800).save(tmp_path / label / f"{number}.jpg", quality=95)
    data = of(tmp_path, image_size=40)
    whole = gradient(1000, 800).crop((100, 0, 900, 800)).resize((46, 46), Image.Resampling.BILINEAR)
    expected = np.asarray(whole).astype(int)[3:-3, 3:-3]
    assert abs(data.test.images[0].permute(1, 2, 0).numpy().astype(int) - expected).max() <= 4


# Orientation and kinds of colours


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    image, exif = gradient(32, 32), Image.Exif()
    exif[0x0112] = orientation
    found = first(tmp_path, image, "x.png", exif=exif)
    turned = Image.open(tmp_path / "test" / "a" / "x.png")
    expected = exif_transpose(turned).convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(found, np.asarray(expected))
    assert not np.array_equal(found, np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)))


def test_an_upside_down_photograph_of_a_camera_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(6):
            gradient(60, 40).save(tmp_path / label / f"{number}.jpg", exif=exif, quality=95)
    data = of(tmp_path, image_size=24)
    assert data.reading is not None
    assert data.reading.rotated == 12
    red, green, _ = data.test.images[0].float()
    assert red[:, 0].mean() > red[:, -1].mean() + 50
    assert green[0].mean() > green[-1].mean() + 50


def half_transparent() -> Image.Image:
    rgba = np.zeros((16, 16, 4), dtype=np.uint8)
    rgba[:, :8] = (200, 0, 0, 255)
    rgba[:, 8:] = (0, 0, 0, 0)
    return Image.fromarray(rgba)


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.full((16, 16), 40_000, dtype=np.uint16))


KINDS: dict[str, tuple[Callable[[], Image.Image], str, tuple[int, int, int]]] = {
    "grey": (lambda: Image.new("L", (16, 16), 77), "x.png", (77, 77, 77)),
    "one bit": (lambda: Image.new("1", (16, 16), 1), "x.png", (255, 255, 255)),
    "palette": (lambda: Image.new("RGB", (16, 16), (9, 99, 199)).quantize(4), "x.png", (9, 99, 199)),
    "CMYK": (lambda: Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "x.tif", (255, 0, 0)),
    "16 bit": (sixteen_bits, "x.png", (156, 156, 156)),
    "16 bit TIFF": (sixteen_bits, "x.TIFF", (156, 156, 156)),
    "transparent": (lambda: half_transparent().crop((8, 0, 16, 8)).resize((16, 16)), "x.png", (255, 255, 255)),
    "opaque": (lambda: half_transparent().crop((0, 0, 8, 8)).resize((16, 16)), "x.png", (200, 0, 0)),
    "grey and transparent": (lambda: Image.new("LA", (16, 16), (0, 0)), "x.png", (255, 255, 255)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_colours_becomes_rgb(tmp_path: Path, kind: str) -> None:
    make, name, colour = KINDS[kind]
    found = first(tmp_path, make(), name)
    assert (found == colour).all()


def test_grey_of_16_bits_with_a_transparent_value_keeps_its_upper_bits(tmp_path: Path) -> None:
    values = np.full((16, 16), 0x9C07, np.uint16)
    values[0, :3] = (0x9C08, 0x0042, 0xFFFF)
    image = Image.fromarray(values)
    found = first(tmp_path / "some", image, transparency=0x9C08)
    assert found[0, :4].tolist() == [[255] * 3, [0] * 3, [255] * 3, [0x9C] * 3]
    assert (found[1:] == 0x9C).all()
    assert (first(tmp_path / "all", image, transparency=0x9C07)[1:] == 255).all()


def test_a_palette_with_a_transparent_colour_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert (first(tmp_path / "one", image, transparency=1) == 255).all()
    assert (first(tmp_path / "other", image, transparency=0)[0, 0] == (40, 50, 60)).all()
    assert (first(tmp_path / "bytes", image, transparency=b"\xff\x00")[0, 0] == 255).all()


def test_kinds_of_colours_are_counted(tmp_path: Path) -> None:
    squares(tmp_path)
    Image.new("L", (16, 16), 77).save(tmp_path / "cat" / "grey.png")
    half_transparent().save(tmp_path / "dog" / "half.png")
    sixteen_bits().save(tmp_path / "dog" / "deep.png")
    reading = of(tmp_path).reading
    assert reading is not None
    assert reading.kinds == {"16 bit": 1, "colour": 20, "grey": 1, "transparent": 1}


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "bmp", "gif", "tif", "webp", "ppm", "jfif", "tga", "jp2"])
def test_every_suffix_of_the_decoder_is_read(tmp_path: Path, suffix: str) -> None:
    squares(tmp_path)
    Image.new("RGB", (16, 16), (10, 200, 90)).save(tmp_path / "cat" / f"extra.{suffix}")
    data = of(tmp_path)
    assert sum(sizes(data)) == 21
    images = torch.cat([data.train.images, data.validation.images, data.test.images]).float()
    away = (images - torch.tensor([10.0, 200, 90])[:, None, None]).abs().amax(dim=(1, 2, 3))
    assert away.min() <= 12  # JPEG is not exact


def test_only_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    squares(tmp_path)
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "cat" / "moving.gif", save_all=True, append_images=frames[1:])
    data = of(tmp_path)
    images = torch.cat([data.train.images, data.validation.images, data.test.images])
    assert data.reading is not None
    assert data.reading.frames == 1
    assert (images == torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]).all(dim=3).all(dim=2).all(
        1
    ).sum() == 1


# Stray files, links, empty and nested folders


def test_hidden_files_and_other_files_are_left_out_and_named(tmp_path: Path) -> None:
    squares(tmp_path)
    for name in (".DS_Store", "cat/._1.png", "cat/Thumbs.db", ".git/config", ".ipynb_checkpoints/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    for name in ("labels.csv", "cat/notes.txt", "dog/IMG_1.HEIC", "dog/readme"):
        (tmp_path / name).write_text("no image")
    data = of(tmp_path)
    assert data.classes == ("cat", "dog")
    assert sizes(data) == [13, 3, 4]
    assert data.reading is not None
    assert data.reading.left_out == (
        "1 beside the class folders: labels.csv",
        "5 hidden: .DS_Store, .git, .ipynb_checkpoints, ...",
        "1 not read as images (.heic, convert to JPEG): dog/IMG_1.HEIC",
        "1 not read as images (.txt): cat/notes.txt",
        "1 not read as images (no suffix): dog/readme",
    )


@pytest.mark.skipif(os.name == "nt", reason="links need rights on this system")
def test_links_are_followed_and_a_loop_is_left_out(tmp_path: Path) -> None:
    squares(tmp_path / "pets", ("cat",))
    squares(tmp_path / "elsewhere", ("hounds",))
    (tmp_path / "pets" / "dog").symlink_to(tmp_path / "elsewhere" / "hounds")
    Image.fromarray(pixels(16, 16)).save(tmp_path / "one.png")
    (tmp_path / "pets" / "cat" / "linked.png").symlink_to(tmp_path / "one.png")
    (tmp_path / "pets" / "cat" / "again").symlink_to(tmp_path / "pets")
    (tmp_path / "pets" / "kitten").symlink_to("cat")
    data = of(tmp_path / "pets")
    assert data.classes == ("cat", "dog")
    assert sum(sizes(data)) == 21
    assert data.reading is not None
    assert data.reading.left_out == ("2 links to folders of this dataset: kitten, cat/again",)
    (tmp_path / "pets" / "cat" / "dogs").symlink_to(tmp_path / "pets" / "dog")
    (tmp_path / "pets" / "self").symlink_to(tmp_path / "pets")
    assert of(tmp_path / "pets").classes == ("cat", "dog")
    assert sum(sizes(of(tmp_path / "pets"))) == 21
    (tmp_path / "pets" / "cat" / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    assert "dangling.png" in refusal(tmp_path / "pets").message


def test_an_empty_class_is_left_out_and_named(tmp_path: Path) -> None:
    for part in ("train", "test"):
        squares(tmp_path / part, ("cat", "dog"))
        (tmp_path / part / "emu").mkdir()
    data = of(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.reading is not None
    assert data.reading.left_out == ("1 class folders without images: emu",)


def test_a_class_that_is_empty_in_one_split_is_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        squares(tmp_path / part, ("cat", "dog", "emu"))
    for file in (tmp_path / "test" / "emu").iterdir():
        file.unlink()
    assert "test differ from those of train (missing: emu;" in refusal(tmp_path).message


def test_images_in_folders_of_a_class_belong_to_it(tmp_path: Path) -> None:
    squares(tmp_path)
    squares(tmp_path / "cat", ("2024", "2025"), count=3)
    data = of(tmp_path)
    assert sum(sizes(data)) == 26
    everything = torch.cat([part.labels for part in (data.train, data.validation, data.test)])
    assert everything.bincount().tolist() == [16, 10]


def test_all_damaged_files_are_named_whatever_their_damage(tmp_path: Path) -> None:
    photographs(tmp_path, suffix="jpg")
    whole = (tmp_path / "cat" / "0.jpg").read_bytes()
    (tmp_path / "cat" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cat" / "1.jpg").write_bytes(b"")
    (tmp_path / "dog" / "2.jpg").write_text("<html>404</html>")
    Image.fromarray(np.zeros((9, 9), np.float32)).save(tmp_path / "dog" / "deep.tif")
    error = refusal(tmp_path)
    assert [line.split(": ")[0].strip() for line in error.message.splitlines()] == [
        str(tmp_path / name) for name in ("cat/0.jpg", "cat/1.jpg", "dog/2.jpg", "dog/deep.tif")
    ]


# Images that occur twice


def test_images_that_occur_twice_are_counted_within_and_across_splits(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        squares(tmp_path / part)

    def copied(source: str, target: str) -> None:
        (tmp_path / target).write_bytes((tmp_path / source).read_bytes())

    copied("train/cat/1.png", "train/cat/copy.png")
    copied("train/cat/2.png", "train/dog/wrong.png")
    copied("train/dog/3.png", "test/dog/leaked.png")
    Image.open(tmp_path / "val" / "dog" / "5.png").save(tmp_path / "test" / "cat" / "other format.bmp")
    reading = of(tmp_path).reading
    assert reading is not None
    assert (reading.same_split, reading.across_splits, reading.other_class) == (2, 2, 2)
    assert set(reading.examples) == {
        ("train/cat/1.png", "train/cat/copy.png"),
        ("train/cat/2.png", "train/dog/wrong.png"),
        ("train/dog/3.png", "test/dog/leaked.png"),
        ("val/dog/5.png", "test/cat/other format.bmp"),
    }


def test_the_description_is_kept_with_the_images_and_follows_the_split(tmp_path: Path) -> None:
    squares(tmp_path)
    (tmp_path / "dog" / "copy.png").write_bytes((tmp_path / "dog" / "1.png").read_bytes())
    found = [of(tmp_path, split_seed=seed).reading for seed in range(6)]
    again = [of(tmp_path, split_seed=seed).reading for seed in range(6)]
    assert found == again
    twice = {(it.same_split, it.across_splits) for it in found if it is not None}
    assert twice == {(1, 0), (0, 1)}

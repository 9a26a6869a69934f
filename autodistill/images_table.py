"""The table of a user's images that is shown before any training."""

from collections.abc import Iterator

import torch

from autodistill import console
from autodistill.data import Data
from autodistill.formatting import plural
from autodistill.records import ReadingRecord
from autodistill.study import StudySpec

MOST_CLASSES = 30
"""More classes are shown by the largest and the smallest."""
IMBALANCED = 1.5
"""From this ratio of the largest to the smallest class on, the balanced accuracy is mentioned."""

Row = tuple[object, ...]


def show_images(spec: StudySpec) -> None:
    """Print what was read of a user's images, on stderr; nothing for datasets that are known by name."""
    if spec.data.reading is None:
        return
    shown = class_rows(spec.data)
    console.show_table("Images", ("class", ">train", ">validation", ">test"), shown, to=console.err())
    console.show_table("What was read", ("", ""), facts_of(spec, spec.data.reading), to=console.err())


def class_rows(data: Data) -> list[Row]:
    """Return the number of images of each class in each split, then their sums."""
    splits = (data.train, data.validation, data.test)
    counts = torch.stack([part.labels.cpu().bincount(minlength=data.num_classes) for part in splits], dim=1)
    rows = list(zip(data.classes, counts.tolist(), strict=True))
    if len(rows) > MOST_CLASSES:
        rows.sort(key=lambda row: -row[1][0])
        half = MOST_CLASSES // 2
        rows = [*rows[:half], (f"... {len(rows) - 2 * half} more", [None] * 3), *rows[-half:]]
    return [*((name, *numbers) for name, numbers in rows), ("all", *counts.sum(dim=0).tolist())]


def facts_of(spec: StudySpec, reading: ReadingRecord) -> Iterator[tuple[str, str]]:
    """Yield what a user should know about the images before a study, as name and text."""
    data, space = spec.data, spec.space
    yield "sizes", _sizes(reading)
    yield "image size", _image_size(spec, reading)
    if reading.enlarged:
        yield "enlarged", f"{plural(reading.enlarged, 'image')} with a shorter side below {reading.stored} pixels"
    colours = ", ".join(f"{count:,} {kind}" for kind, count in reading.kinds.items())
    yield "colours", colours + ("; read as RGB" if data.image_shape[0] == 3 else "")
    if reading.rotated:
        yield "rotated", f"{plural(reading.rotated, 'image')}, as EXIF says"
    if reading.frames:
        yield "several frames", f"{plural(reading.frames, 'image')}; the first frame is read"
    yield "balance", _balance(data)
    twice = reading.same_split + reading.across_splits
    if twice:
        yield "equal images", _duplicates(reading)
    for line in reading.left_out:
        yield "left out", line
    yield "augmentation", _augmentation(spec)
    training = space.training
    yield "training", f"{training.epochs} epochs, batches of {training.batch_size}, learning rate {training.lr:g}"


def _sizes(reading: ReadingRecord) -> str:
    sizes = (reading.smallest, reading.median, reading.largest)
    small, middle, large = (f"{width}x{height}" for width, height in sizes)
    if reading.distinct == 1:
        return f"all {small}"
    return f"{small} to {large}, median {middle} ({reading.distinct:,} different; width x height)"


def _image_size(spec: StudySpec, reading: ReadingRecord) -> str:
    size = spec.data.image_shape[1]
    text = f"{size}x{size}"
    if spec.data.margin:
        text += f", cut from the centre square of each image at {reading.stored}x{reading.stored}"
    elif reading.distinct > 1 or reading.smallest != (size, size):
        text += ", resized"
    asked = "data.image_size" if spec.space.data.image_size else "follows from the images"
    return f"{text} ({asked}; another: --set data.image_size=N)"


def _balance(data: Data) -> str:
    counts = data.train.labels.cpu().bincount(minlength=data.num_classes)
    most, least = int(counts.max()), int(counts.min())
    names = data.classes[int(counts.argmax())], data.classes[int(counts.argmin())]
    if most < IMBALANCED * least:
        return f"{least:,} to {most:,} training images a class" if least < most else f"{most:,} training images a class"
    return (
        f"{most / least:.1f} to 1: {most:,} training images of {names[0]}, {least:,} of {names[1]}; always guessing "
        f"{names[0]} gives {100 * most / int(counts.sum()):.1f} %. To choose by balanced accuracy: "
        '--set search.metric="balanced_top1"'
    )


def _duplicates(reading: ReadingRecord) -> str:
    text = f"{reading.same_split:,} within a split, {reading.across_splits:,} across splits"
    if reading.other_class:
        text += f", {reading.other_class:,} of them under another class"
    if reading.across_splits:
        text += "; accuracy on images that were trained on is too high"
    examples = "; ".join(f"{one} = {other}" for one, other in reading.examples)
    return f"{text} ({examples})" if examples else text


def _augmentation(spec: StudySpec) -> str:
    data = spec.space.data
    inside = min(data.crop, spec.data.margin)
    crop = "no crop"
    if data.crop:
        padded = f"padded with black beyond {inside} pixels" if inside else "padded with black"
        where = "inside the stored images" if data.crop <= spec.data.margin else padded
        crop = f"random crop, shifted by up to {data.crop} pixels ({where})"
    flip = "half of the images mirrored" if data.flip else "no mirroring (--set data.flip=true if classes allow it)"
    return f"{crop}, {flip}; {plural(spec.views, 'view')}"

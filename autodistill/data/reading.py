"""What was found when the images of a user were read: sizes, kinds of colours, images that occur twice."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from autodistill.data.decoding import ImageHeader
from autodistill.data.splits import Images, Numbers, Splits, chunks
from autodistill.errors import printable
from autodistill.records import ReadingRecord

MARGIN = 0.075
"""Margin of a stored photograph on each side, relative to the image size: its side is 1.15 times that size."""
SIZES = (224, 192, 160, 128, 96, 64, 48, 32)
"""Default image sizes; the largest that the median image fills is taken."""
EXAMPLES = 5
"""Pairs of equal images that are named."""


def stored_size(headers: Sequence[ImageHeader], requested: int | None) -> tuple[int, int]:
    """Return the side of the stored images, and the pixels on each side by which it exceeds the image size.

    Args:
        headers: Headers of all readable image files.
        requested: `data.image_size`; None: it follows from the images. Square images of one size keep it. Other images
            get the largest of `SIZES` that the median of their shorter sides fills, with the margin of photographs.
    """
    ragged = any(header.width != header.height for header in headers)

    def margin(size: int) -> int:
        return margin_at(size) if ragged else 0

    if requested is not None or not headers:
        size = requested or 1
    elif len({header[:2] for header in headers}) == 1 and not ragged:
        size = headers[0].width
    else:
        typical = int(median(min(header.width, header.height) for header in headers))
        fitting = (size for size in SIZES if size + 2 * margin(size) <= typical)
        size = next(fitting, max(1, round(typical / (1 + 2 * MARGIN)) if ragged else typical))
    return size + 2 * margin(size), margin(size)


def margin_at(size: int) -> int:
    """Return the margin of photographs of an image size."""
    return round(MARGIN * size)


def reading_of(headers: Sequence[ImageHeader], *, stored: int) -> ReadingRecord | None:
    """Describe image files; None if none can be read. `stored` is the side of the stored images."""
    if not headers:
        return None
    sizes = [header[:2] for header in headers]
    widths, heights = (sorted(it) for it in zip(*sizes, strict=True))
    return ReadingRecord(
        images=len(headers),
        smallest=min(sizes, key=lambda it: it[0] * it[1]),
        median=(widths[len(widths) // 2], heights[len(heights) // 2]),
        largest=max(sizes, key=lambda it: it[0] * it[1]),
        distinct=len(set(sizes)),
        kinds=dict(sorted(Counter(header.kind for header in headers).items())),
        rotated=sum(header.rotated for header in headers),
        frames=sum(header.frames for header in headers),
        enlarged=sum(min(size) < stored for size in sizes),
        stored=stored,
    )


def with_duplicates(reading: ReadingRecord, splits: Splits, numbers: Numbers, names: Sequence[str]) -> ReadingRecord:
    """Add the images that occur twice, by their stored pixels.

    Args:
        reading: The description of the files.
        splits: The stored images.
        numbers: Number of each image in the dataset, through the splits.
        names: Name of each image by its number.
    """
    first: dict[bytes, tuple[int, str, int]] = {}
    place = same = across = other_class = 0
    examples: list[tuple[str, str]] = []
    for part, (images, labels) in zip(splits._fields, splits, strict=True):
        for key, label in zip(_hashes(images), labels.tolist(), strict=True):
            earlier, seen_in, other = first.setdefault(key, (place, part, label))
            if earlier != place:
                same += seen_in == part
                across += seen_in != part
                other_class += other != label
                if len(examples) < EXAMPLES:
                    pair = (names[int(numbers[earlier])], names[int(numbers[place])])
                    examples.append((printable(pair[0]), printable(pair[1])))
            place += 1
    found = {"same_split": same, "across_splits": across, "other_class": other_class, "examples": tuple(examples)}
    return reading.model_copy(update=found)


def _hashes(images: Images) -> Iterator[bytes]:
    for chunk in chunks(images):
        rows = chunk.permute(0, 2, 3, 1).contiguous().numpy().reshape(len(chunk), -1)
        for row in rows:
            yield hashlib.blake2b(row.data, digest_size=16).digest()

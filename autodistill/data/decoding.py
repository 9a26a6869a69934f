"""Decoding of image files by threads: Pillow releases the interpreter lock while it decodes and resizes an image."""

import contextlib
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps

from autodistill.errors import DataError
from autodistill.machine import usable_cores

T = TypeVar("T")
Found = TypeVar("Found")

CHUNK_FILES = 4
"""Files that a thread takes at a time."""

Progress = Callable[[int, int], None]
"""Function of the number of images that are done and the number of all images."""

Row = tuple[int, str]
"""Number of a row in a file of images, and the path of the image file for this row."""


class PixelsError(ValueError):
    """The pixels of a complete image are of a kind that is not read."""


class ImageHeader(NamedTuple):
    """What the header of an image file says."""

    width: int
    """As stored; a rotation by the EXIF orientation is not applied."""
    height: int
    kind: str
    """Kind of colours: colour, grey, palette, transparent, CMYK, 16 bit, or Pillow's name of another mode."""
    rotated: bool
    """Whether an EXIF orientation rotates or mirrors the image."""
    frames: bool
    """Whether it has several frames."""


def decode_files(files: Sequence[Row], *, target: Path, offset: int, size: int, progress: Progress) -> None:
    """Decode image files to RGB into the rows of a file.

    Args:
        files: Row and path of each file.
        target: An existing file, in which row r starts at byte `offset + r * 3 * size * size`.
        offset: First byte of row 0.
        size: Height and width of the image in a row. The centre square of an image is resized to it.
        progress: Called with the number of decoded images and of all images.

    Raises:
        DataError: Files cannot be decoded. The message names all of them.
        OSError: The target cannot be written.
    """

    def decode_to_row(file: Row) -> tuple[str, str] | None:
        row, path = file
        try:
            pixels = decode(path, size=size)
        except DataError as error:
            return error.message, error.hint  # the error itself would keep the image in memory
        with target.open("r+b", buffering=0) as rows:
            write_at(rows, offset + row * len(pixels), pixels)
        return None

    problems = [problem for problem in in_threads(decode_to_row, files, progress) if problem is not None]
    if problems:
        messages, hints = zip(*problems, strict=True)
        raise DataError("\n  ".join(messages), "; ".join(dict.fromkeys(hints)))


def in_threads(
    function: Callable[[T], Found], items: Sequence[T], progress: Progress = lambda done, total: None
) -> list[Found]:
    """Call a function with each item, in one thread for each usable core; return the results in the order of items."""
    chunks = [items[begin : begin + CHUNK_FILES] for begin in range(0, len(items), CHUNK_FILES)]
    found: list[Found] = []
    stop = threading.Event()

    def call(chunk: Sequence[T]) -> list[Found]:
        return [function(item) for item in chunk if not stop.is_set()]

    with warnings.catch_warnings(), ThreadPoolExecutor(usable_cores()) as pool:
        warnings.simplefilter("ignore")  # of Pillow, about unusual metadata
        try:
            for results in pool.map(call, chunks):
                found += results
                progress(len(found), len(items))
        finally:  # after Ctrl-C or an error, each thread ends with its image
            stop.set()
            pool.shutdown(cancel_futures=True)
    return found


def write_at(file: BinaryIO, offset: int, content: bytes | memoryview) -> None:
    """Write all of `content` to an unbuffered file, which may take only a part at a time."""
    file.seek(offset)
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def decode(path: str, *, size: int) -> bytes:
    """Decode an image file to RGB, its centre square resized to `size` x `size` pixels.

    Raises:
        DataError: The file is not a complete image, or its pixels are of a kind that is not read.
    """
    with opened(path) as image:
        if image.width != image.height:  # square images are decoded in full, as they always were
            image.draft(None, (2 * size, 2 * size))  # a JPEG of many pixels is decoded at a half, quarter or eighth
        pixels: bytes = square(image, size=size).tobytes()
    return pixels


def read_header(path: str) -> ImageHeader | None:
    """Read the header of an image file; None if the file cannot be read, which decoding then reports."""
    try:
        with opened(path) as image:
            # Pillow would decode a PNG without EXIF data to look for them at its end.
            rotated = image.format != "PNG" or "exif" in image.info
            frames = image.format in ("GIF", "PNG", "TIFF", "WEBP") and getattr(image, "is_animated", False)
            return ImageHeader(
                image.width, image.height, kind_of(image), rotated and _orientation(image) != 1, bool(frames)
            )
    except DataError:
        return None


@contextlib.contextmanager
def opened(path: str) -> Iterator[Any]:
    """Open an image.

    Raises:
        DataError: The file is not a complete image, or its pixels are of a kind that is not read. Some files turn out
            to be damaged only when the caller reads pixels inside the context.
    """
    try:
        with Image.open(path) as image:
            yield image
    except PixelsError as error:
        raise DataError(f"{path}: {error}", "convert the image to 8 bits a channel, or remove the file") from error
    except (OSError, SyntaxError, ValueError, RuntimeError, struct.error, Image.DecompressionBombError) as error:
        hint = "remove the file, or replace it by a complete image"
        raise DataError(f"{path}: not a complete image ({error})", hint) from error


def square(image: Any, *, size: int) -> Any:
    """Return an image of Pillow upright, as RGB, its centre square resized to `size` x `size` pixels.

    Transparent pixels are laid over white. Of 16 bits per channel, the upper 8 are kept.
    """
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    rgb = _as_rgb(image)
    if rgb.size == (size, size):
        return rgb
    side: int = min(rgb.size)
    left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
    return rgb.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def _as_rgb(image: Any) -> Any:
    kind = kind_of(image)
    if kind == "transparent" and image.mode.startswith("I"):
        # A PNG states one grey value that is transparent. Pillow would cut values above 255, not divide them.
        opaque = image.copy()
        transparent = opaque.info.pop("transparency")
        rgb = _as_rgb(opaque)
        rgb.paste("white", mask=Image.fromarray(np.asarray(opaque) == transparent))
        return rgb
    if kind == "transparent":
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if kind == "16 bit":
        wide = image.convert("I")
        low, high = wide.getextrema()
        if low < 0 or high > 65_535:
            raise PixelsError(f"pixel values from {low} to {high}, allowed are 8 or 16 bits a channel")
        image = wide.point(lambda value: value * (1 / 256)).convert("L")
    elif image.mode == "F":
        raise PixelsError("pixels are floats (mode F), allowed are 8 or 16 bits a channel")
    # Conversions that change nothing would copy the image.
    return image if image.mode == "RGB" else image.convert("RGB")


def kind_of(image: Any) -> str:
    """Return the kind of colours of an image of Pillow, as in `ImageHeader`."""
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        return "transparent"
    known = {"RGB": "colour", "L": "grey", "1": "grey", "P": "palette"}
    return "16 bit" if image.mode.startswith("I") else known.get(image.mode, image.mode)


def _orientation(image: Any) -> int:
    """Return the EXIF orientation of an image; 1, upright, if the metadata are absent or damaged."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1
    return found if found in range(2, 9) else 1

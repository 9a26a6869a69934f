"""Decode image files into the rows of a file. Imports Pillow only, so that a decoding process starts quickly."""

import errno
import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from autodistill.errors import DataError

BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.stdin.readline()); "
    "from autodistill.decoding import serve; serve(sys.stdin, sys.stdout)"
)
"""Code of a decoding process. Its first line of input is the module search path of the process that started it."""


class Job(NamedTuple):
    """Where decoded images go, and how they are decoded."""

    target: str
    """A file that is there already; row r starts at byte `offset + r * 3 * size * size`."""
    offset: int
    size: int
    """Height and width of a row."""
    resize: bool
    """Whether images of another size are resized; otherwise they are refused."""


class Problem(NamedTuple):
    """An image file that was not decoded."""

    message: str
    hint: str
    ends: bool
    """Whether decoding the other files is pointless."""


class SizeError(DataError):
    """An image that differs in size from the others."""


def serve(requests: Any, answers: Any) -> None:
    """Read requests, a JSON line each; decode their files and write a line each: the problems found, or an errno."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks: it closes the pipe
    job = Job(*json.loads(requests.readline()))
    for line in requests:
        try:
            answer: object = decode_rows(job, json.loads(line))
        except OSError as error:
            answer = error.errno or errno.EIO  # Python raises some errors without a number
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def decode_rows(job: Job, rows: Sequence[tuple[int, str]]) -> list[Problem]:
    """Decode image files into the target's rows; returns what is wrong with those that were not.

    Args:
        rows: row and path of each file.

    Raises:
        OSError: the target cannot be written.
    """
    problems = []
    with Path(job.target).open("r+b", buffering=0) as target:
        for row, path in rows:
            try:
                pixels = decode(path, size=job.size, resize=job.resize)
            except DataError as error:
                problems.append(Problem(error.message, error.hint, isinstance(error, SizeError)))
                continue
            _write(target, job.offset + row * len(pixels), pixels)
    return problems


def decode(path: str, *, size: int, resize: bool) -> bytes:
    """Decode an image file to RGB, rows of pixels from the top, resized bilinearly where `resize` allows it.

    Raises:
        DataError: the file is not a whole image of 8 bits a channel, or has another size and must not be resized.
    """
    from PIL import Image

    with opened(path) as image:
        if not resize and image.size != (size, size):
            raise SizeError(
                f"{path}: {image.width}x{image.height}, images before it are {size}x{size}",
                "set data.image_size: images are resized to it",
            )
        # Conversions that change nothing would copy the image.
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        resized = rgb if rgb.size == (size, size) else rgb.resize((size, size), Image.Resampling.BILINEAR)
        pixels: bytes = resized.tobytes()
    return pixels


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """Open an image of 8 bits a channel.

    Raises:
        DataError: the file is no whole image, which can also turn out while the caller reads pixels.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{path}: pixels of mode {image.mode}, allowed are 8 bits a channel", "convert it")
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        hint = "remove the file, or put a whole one in its place"
        raise DataError(f"{path}: not a whole image ({error})", hint) from error


def _write(target: BinaryIO, place: int, content: bytes) -> None:
    target.seek(place)
    left = memoryview(content)
    while left:
        left = left[target.write(left) :]

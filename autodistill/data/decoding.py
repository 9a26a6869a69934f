"""Decoding of image files into the rows of a file, by processes that each start quickly.

A decoding process runs this module as a script. The module therefore imports nothing but the standard library and a
few small modules; Pillow is imported when the first image is opened. A process reads one JSON line per request and
answers each with one JSON line.
"""

import contextlib
import errno
import json
import os
import queue
import signal
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from autodistill.errors import DataError
from autodistill.machine import exit_cause, free_memory_bytes, oom_kills, usable_cores

BOOT = (
    "import json, runpy, sys; sys.path[:] = json.loads(sys.stdin.readline()); "
    "runpy.run_path(sys.argv[1], run_name='__main__')"
)
"""Code of a decoding process. The first line of its input is the module search path of the parent process. A package
import would load torch, which takes seconds, so the process runs this file by its path."""

FEW_FILES, FEW_BYTES = 2_000, 8 * 2**20
"""Fewer files with fewer bytes in total are decoded in this process; decoding them takes about as long as starting
another process."""

CHUNK_FILES, CHUNK_BYTES = 128, 4 * 2**20
"""Limits of a request."""

ORIENTATION = 0x0112
"""EXIF tag: how a camera was held."""

Progress = Callable[[int, int], None]
"""Function of the number of images that are done and the number of all images."""

Row = tuple[int, str]
"""Number of a row in the target, and the path of the image file for this row."""


class Job(NamedTuple):
    """How images are decoded, and where to."""

    target: str = ""
    """Path of an existing file, in which row r starts at byte `offset + r * 3 * size * size`; empty: the files are
    looked at, not decoded."""
    offset: int = 0
    size: int = 0
    """Height and width of the image in a row. The centre square of an image is resized to it."""


class Problem(NamedTuple):
    """Why an image file could not be decoded."""

    message: str
    hint: str


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


def decode_files(files: Sequence[Row], sizes: Sequence[int], *, job: Job, progress: Progress) -> None:
    """Decode image files into the rows of a file, with one process for each usable core.

    Args:
        files: Row and path of each file.
        sizes: Size of each file in bytes.
        job: How images are decoded, and where to.
        progress: Called after each chunk.

    Raises:
        DataError: Files cannot be decoded. The message names all of them.
        OSError: The target cannot be written.
    """
    few = len(files) < FEW_FILES and sum(sizes) < FEW_BYTES
    problems: list[Problem] = []
    done = 0
    with contextlib.ExitStack() as stack:
        for chunk, found in _answered(_chunks(files, sizes), job, stack, few=few):
            problems += [Problem(*problem) for problem in found]
            done += len(chunk)
            progress(done, len(files))
    if problems:
        hints = "; ".join(dict.fromkeys(problem.hint for problem in problems))
        raise DataError("\n  ".join(problem.message for problem in problems), hints)


def read_headers(files: Sequence[str], sizes: Sequence[int]) -> list[ImageHeader | None]:
    """Read the headers of image files; None for a file that cannot be read, which decoding then reports.

    Args:
        files: Path of each file.
        sizes: Size of each file in bytes.
    """
    few = len(files) < FEW_FILES
    headers: list[ImageHeader | None] = []
    with contextlib.ExitStack() as stack:
        for _, found in _answered(_chunks([*enumerate(files)], sizes), Job(), stack, few=few):
            headers += [None if header is None else ImageHeader(*header) for header in found]
    return headers


def serve(requests: Any, answers: Any) -> None:
    """Decode the files of each request; answer with the problems found, or with an error number of the system.

    Args:
        requests: Text stream; its first line is a `Job`, each further line a list of rows.
        answers: Text stream.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent process, which then closes the pipe
    job = Job(*json.loads(requests.readline()))
    for line in requests:
        try:
            answer: object = _answer(job, [(row, path) for row, path in json.loads(line)])
        except OSError as error:
            answer = error.errno or errno.EIO  # Python raises some errors without a number
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(job: Job, rows: Sequence[Row]) -> Sequence[object]:
    with warnings.catch_warnings():  # of Pillow, about unusual metadata
        warnings.simplefilter("ignore")
        return decode_rows(job, rows) if job.target else [_header(path) for _, path in rows]


def decode_rows(job: Job, rows: Sequence[Row]) -> list[Problem]:
    """Decode image files to RGB into the rows of the target; return the problems of files that cannot be decoded.

    Raises:
        OSError: The target cannot be written.
    """
    problems = []
    with Path(job.target).open("r+b", buffering=0) as target:
        for row, path in rows:
            try:
                pixels = _decode(path, size=job.size)
            except DataError as error:
                problems.append(Problem(error.message, error.hint))
                continue
            write_at(target, job.offset + row * len(pixels), pixels)
    return problems


def write_at(file: BinaryIO, offset: int, content: bytes | memoryview) -> None:
    """Write all of `content` to an unbuffered file, which may take only a part at a time."""
    file.seek(offset)
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _decode(path: str, *, size: int) -> bytes:
    with opened(path) as image:
        if image.width != image.height:  # square images are decoded in full, as they always were
            image.draft(None, (2 * size, 2 * size))  # a JPEG of many pixels is decoded at a half, quarter or eighth
        pixels: bytes = square(image, size=size).tobytes()
    return pixels


def square(image: Any, *, size: int) -> Any:
    """Return an image of Pillow upright, as RGB, its centre square resized to `size` x `size` pixels.

    Transparent pixels are laid over white. Of 16 bits per channel, the upper 8 are kept.
    """
    from PIL import Image, ImageOps

    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    rgb = _as_rgb(image)
    if rgb.size == (size, size):
        return rgb
    side: int = min(rgb.size)
    left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
    return rgb.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def _as_rgb(image: Any) -> Any:
    from PIL import Image

    kind = kind_of(image)
    if kind == "transparent" and image.mode.startswith("I"):
        # A PNG states one grey value that is transparent. Pillow would cut values above 255, not divide them.
        opaque = image.copy()
        transparent = opaque.info.pop("transparency")
        rgb = _as_rgb(opaque)
        rgb.paste("white", mask=_equal(opaque, transparent))
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


def _equal(image: Any, value: int) -> Any:
    """Return a mask of the pixels of an image of 16 bits that have a value."""
    import numpy as np  # needed for few images; a decoding process starts faster without it
    from PIL import Image

    return Image.fromarray(np.asarray(image) == value)


def kind_of(image: Any) -> str:
    """Return the kind of colours of an image of Pillow, as in `ImageHeader`."""
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        return "transparent"
    known = {"RGB": "colour", "L": "grey", "1": "grey", "P": "palette"}
    return "16 bit" if image.mode.startswith("I") else known.get(image.mode, image.mode)


def _orientation(image: Any) -> int:
    """Return the EXIF orientation of an image; 1, upright, if the metadata are absent or damaged."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except (SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1
    return found if found in range(2, 9) else 1


def _header(path: str) -> ImageHeader | None:
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
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except PixelsError as error:
        raise DataError(f"{path}: {error}", "convert the image to 8 bits a channel, or remove the file") from error
    except (OSError, SyntaxError, ValueError, RuntimeError, struct.error, Image.DecompressionBombError) as error:
        hint = "remove the file, or replace it by a complete image"
        raise DataError(f"{path}: not a complete image ({error})", hint) from error


def _chunks(files: Sequence[Row], sizes: Sequence[int]) -> list[list[Row]]:
    chunks: list[list[Row]] = [[]]
    held = 0
    for file, size in zip(files, sizes, strict=True):
        if len(chunks[-1]) == CHUNK_FILES or held > CHUNK_BYTES:
            chunks.append([])
            held = 0
        chunks[-1].append(file)
        held += size
    return chunks


def _answered(
    chunks: list[list[Row]], job: Job, stack: contextlib.ExitStack, *, few: bool
) -> Iterator[tuple[list[Row], Sequence[Any]]]:
    """Decode chunks or read their headers; return them in their order with the problems or headers of their files."""
    count = min(usable_cores(), len(chunks))
    if few or count == 1:
        return ((chunk, _answer(job, chunk)) for chunk in chunks)
    idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
    for _ in range(count):
        idle.put(stack.enter_context(_decoder(job)))

    def answered(chunk: list[Row]) -> Sequence[Any]:
        process = idle.get()
        try:
            return _request(process, chunk)
        finally:
            idle.put(process)

    pool = ThreadPoolExecutor(count)
    stack.callback(pool.shutdown, cancel_futures=True)
    return zip(chunks, pool.map(answered, chunks), strict=True)


@contextlib.contextmanager
def _decoder(job: Job) -> Iterator["subprocess.Popen[str]"]:
    """Start a decoding process, and end it when the context ends.

    A `multiprocessing.Process` would not do: workers are daemonic processes, which must not start processes of this
    kind, and it would import the script of the caller again.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", BOOT, __file__],  # -P: modules in the current folder replace no others
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="ascii",
        start_new_session=True,  # Ctrl-C reaches every process of a terminal's group
    )
    try:
        _send(process, sys.path)
        _send(process, job)
        yield process
    finally:
        with contextlib.suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _request(process: "subprocess.Popen[str]", chunk: list[Row]) -> Sequence[Any]:
    """Have a process decode a chunk or read its headers, and return its answer."""
    assert process.stdout is not None
    kills = oom_kills()
    _send(process, chunk)
    line = process.stdout.readline()
    if not line.endswith("\n"):  # no answer or an incomplete answer: the process has died
        code, oom_killed, free = process.wait(), oom_kills() > kills, free_memory_bytes()
        known = "" if free is None else f"; {free / 1e9:.1f} GB of memory were free"
        raise DataError(
            f"a process that decodes images died ({exit_cause(code, oom_killed=oom_killed)}) at one of {len(chunk)}"
            f" files from {chunk[0][1]} to {chunk[-1][1]}{known}",
            "give this machine or container more memory"
            if oom_killed
            else "what the process wrote to stderr is shown above; if one of these files is bad, remove it",
        )
    answer: Any = json.loads(line)
    if isinstance(answer, int):
        raise OSError(answer, os.strerror(answer))
    found: Sequence[Any] = answer
    return found


def _send(process: "subprocess.Popen[str]", message: object) -> None:
    """Send a line. If the process has died, reading its answer reports this."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)

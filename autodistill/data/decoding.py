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
import subprocess
import sys
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

SHOWN = 12
"""Largest number of files that an error message names."""

Progress = Callable[[int, int], None]
"""Function of the number of images that are done and the number of all images."""

Row = tuple[int, str]
"""Number of a row in the target, and the path of the image file for this row."""


class Job(NamedTuple):
    """How images are decoded, and where to."""

    target: str
    """Path of an existing file, in which row r starts at byte `offset + r * 3 * size * size`."""
    offset: int
    size: int
    """Height and width of the image in a row."""
    resize: bool
    """Whether images of another size are resized; otherwise they are errors."""


class Problem(NamedTuple):
    """Why an image file could not be decoded."""

    message: str
    hint: str
    ends: bool
    """Whether no other file need be decoded."""


class SizeError(DataError):
    """An image differs in size from the others."""


def decode_files(files: Sequence[Row], sizes: Sequence[int], *, job: Job, progress: Progress) -> None:
    """Decode image files into the rows of a file, with one process for each usable core.

    Args:
        files: Row and path of each file.
        sizes: Size of each file in bytes.
        job: How images are decoded, and where to.
        progress: Called after each chunk.

    Raises:
        DataError: Files cannot be decoded. The message names up to a dozen of them.
        OSError: The target cannot be written.
    """
    few = len(files) < FEW_FILES and sum(sizes) < FEW_BYTES
    problems: list[Problem] = []
    done = 0
    with contextlib.ExitStack() as stack:
        for chunk, found in _decoded(_chunks(files, sizes), job, stack, few=few):
            problems += found
            done += len(chunk)
            progress(done, len(files))
            if ending := [problem for problem in found if problem.ends]:
                raise DataError(ending[0].message, ending[0].hint)
    if problems:
        lines = [problem.message for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"and {len(problems) - SHOWN} more files")
        raise DataError("\n  ".join(lines), "; ".join(dict.fromkeys(problem.hint for problem in problems)))


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
            answer: object = decode_rows(job, json.loads(line))
        except OSError as error:
            answer = error.errno or errno.EIO  # Python raises some errors without a number
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def decode_rows(job: Job, rows: Sequence[Row]) -> list[Problem]:
    """Decode image files to RGB into the rows of the target; return the problems of files that cannot be decoded.

    Raises:
        OSError: The target cannot be written.
    """
    problems = []
    with Path(job.target).open("r+b", buffering=0) as target:
        for row, path in rows:
            try:
                pixels = _decode(path, size=job.size, resize=job.resize)
            except DataError as error:
                problems.append(Problem(error.message, error.hint, isinstance(error, SizeError)))
                continue
            write_at(target, job.offset + row * len(pixels), pixels)
    return problems


def write_at(file: BinaryIO, offset: int, content: bytes | memoryview) -> None:
    """Write all of `content` to an unbuffered file, which may take only a part at a time."""
    file.seek(offset)
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _decode(path: str, *, size: int, resize: bool) -> bytes:
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


@contextlib.contextmanager
def opened(path: str) -> Iterator[Any]:
    """Open an image of 8 bits per channel.

    Raises:
        DataError: The file is not a complete image. Some files turn out to be damaged only when the caller reads
            pixels inside the context.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{path}: pixels of mode {image.mode}, allowed are 8 bits a channel", "convert it")
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
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


def _decoded(
    chunks: list[list[Row]], job: Job, stack: contextlib.ExitStack, *, few: bool
) -> Iterator[tuple[list[Row], list[Problem]]]:
    """Decode chunks; return them in their order, each with the problems of its files."""
    count = min(usable_cores(), len(chunks))
    if few or count == 1:
        return ((chunk, decode_rows(job, chunk)) for chunk in chunks)
    idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
    for _ in range(count):
        idle.put(stack.enter_context(_decoder(job)))

    def decoded(chunk: list[Row]) -> list[Problem]:
        process = idle.get()
        try:
            return _request(process, chunk)
        finally:
            idle.put(process)

    pool = ThreadPoolExecutor(count)
    stack.callback(pool.shutdown, cancel_futures=True)
    return zip(chunks, pool.map(decoded, chunks), strict=True)


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


def _request(process: "subprocess.Popen[str]", chunk: list[Row]) -> list[Problem]:
    """Have a process decode a chunk, and return the problems."""
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
    return [Problem(*problem) for problem in answer]


def _send(process: "subprocess.Popen[str]", message: object) -> None:
    """Send a line. If the process has died, reading its answer reports this."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)

"""Decode many image files at once, in processes of their own."""

import contextlib
import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from autodistill.decoding import BOOT, Job, Problem, decode_rows
from autodistill.errors import DataError
from autodistill.machine import exit_cause, free_memory_bytes, oom_kills, usable_cores

Progress = Callable[[int, int], None]
"""Told how many images are done, and how many there are."""

Row = tuple[int, str]
"""A row of the target, and the image file that belongs there."""

FEW_FILES, FEW_BYTES = 2_000, 8 * 2**20
"""Fewer files, of fewer bytes together, are decoded here: about the time that a process takes to start."""

CHUNK_FILES, CHUNK_BYTES = 128, 4 * 2**20
"""Most that a process is given at a time."""

SHOWN = 12
"""Files that an error names."""


def decode_files(files: Sequence[Row], sizes: Sequence[int], *, job: Job, progress: Progress) -> None:
    """Decode image files into the rows of a file, with a process for each usable core.

    Args:
        sizes: bytes of each file.

    Raises:
        DataError: files that cannot be decoded; all of them are named, up to a dozen.
        OSError: the target cannot be written.
    """
    problems: list[Problem] = []
    done = 0
    with contextlib.ExitStack() as stack:
        for chunk, found in _decoded(_chunks(files, sizes), job, stack, few=_are_few(sizes)):
            problems += found
            done += len(chunk)
            progress(done, len(files))
            if any(problem.ends for problem in found):
                break
    if problems:
        raise _error(problems)


def _are_few(sizes: Sequence[int]) -> bool:
    return len(sizes) < FEW_FILES and sum(sizes) < FEW_BYTES


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
    """Chunks in their order, each with the problems of its files."""
    count = min(usable_cores(), len(chunks))
    if few or count == 1:
        return ((chunk, decode_rows(job, chunk)) for chunk in chunks)
    idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
    for _ in range(count):
        idle.put(stack.enter_context(_decoder(job)))

    def decoded(chunk: list[Row]) -> list[Problem]:
        process = idle.get()
        try:
            return _asked(process, chunk)
        finally:
            idle.put(process)

    pool = ThreadPoolExecutor(count)
    stack.callback(pool.shutdown, cancel_futures=True)
    return zip(chunks, pool.map(decoded, chunks), strict=True)


@contextlib.contextmanager
def _decoder(job: Job) -> Iterator["subprocess.Popen[str]"]:
    """Start a decoding process.

    It is no `multiprocessing.Process`: workers are daemonic, which may have none, and a caller's script need not be
    importable.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", BOOT],  # -P: no module of the current folder takes the place of another
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


def _asked(process: "subprocess.Popen[str]", chunk: list[Row]) -> list[Problem]:
    assert process.stdout is not None
    kills = oom_kills()
    _send(process, chunk)
    line = process.stdout.readline()
    if not line.endswith("\n"):  # nothing, or half a line: the process has died
        code = process.wait()
        raise _death(code, chunk, oom_killed=oom_kills() > kills)
    answer: Any = json.loads(line)
    if isinstance(answer, int):
        raise OSError(answer, os.strerror(answer))
    return [Problem(*problem) for problem in answer]


def _death(code: int, chunk: list[Row], *, oom_killed: bool) -> DataError:
    free = free_memory_bytes()
    known = "" if free is None else f"; {free / 1e9:.1f} GB of memory were free"
    return DataError(
        f"a process that decodes images died ({exit_cause(code, oom_killed=oom_killed)}) at one of {len(chunk)} files"
        f" from {chunk[0][1]} to {chunk[-1][1]}{known}",
        "give this machine or container more memory"
        if oom_killed
        else "what the process wrote to stderr is shown above; if one of these files is bad, remove it",
    )


def _send(process: "subprocess.Popen[str]", message: object) -> None:
    """Send a line; that the process has died is noticed when its answer is read."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()


def _error(problems: Sequence[Problem]) -> DataError:
    ending = [problem for problem in problems if problem.ends]
    if ending:
        return DataError(ending[0].message, ending[0].hint)
    lines = [problem.message for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"and {len(problems) - SHOWN} more files")
    return DataError("\n  ".join(lines), "; ".join(dict.fromkeys(problem.hint for problem in problems)))

"""Memory: a worker's share of a GPU's, what becomes of a run that does not fit, what is kept of what was freed."""

import contextlib
import ctypes
import gc
import os
from collections.abc import Callable, Generator, Iterator

import torch

from autodistill.errors import AutodistillError, TrialError
from autodistill.records import EpochEvent

CONTEXT_BYTES = 700 * 2**20
"""What a process takes beside torch's own memory: CUDA context, loaded kernels. An estimate; drivers differ."""

USED = 0.9
"""Share of the free memory that is given out."""

MALLOPT = {-4: 0, -1: 2**31 - 1, -2: 2**28}
"""glibc's M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD: what the environment tells processes that the search starts."""


FEWER_PROCESSES = "fewer processes on the device (--workers), in a new study (--study)"
"""A new one, as a study keeps what failed: what it decided next rests on that."""


def within_memory(
    attempt: Callable[[int], Generator[EpochEvent, None, None]],
    *,
    batch_size: int,
    images_that_fit: Callable[[], int],
    say: Callable[[str], None],
) -> Generator[EpochEvent, None, int]:
    """Train; where the memory is not enough, start again with half a batch at a time.

    Args:
        attempt: trains from the start, or from its own checkpoint, a batch passing in so many parts.
        images_that_fit: tries, once both attempts failed, how many images at a time would fit.
        say: told of the fall-back.

    Returns:
        The parts that a batch passed in.

    Raises:
        TrialError: not even half a batch fits; with the number that would.
    """
    halves = f"2 x {(batch_size + 1) // 2}"
    for parts in (1, 2):
        try:
            yield from attempt(parts)
            return parts
        except torch.OutOfMemoryError:
            pass
        release()
        if parts == 1:
            say(
                f"batches of {batch_size} do not fit into memory: trained with {halves} images, gradients added up; "
                "BatchNorm sees half a batch at a time, so such runs differ a little from others"
            )
    fits = images_that_fit()
    way = f"--set training.batch_size={fits} would fit" if fits else "not even 2 images fit"
    raise TrialError(
        f"out of memory with batches of {batch_size} and with {halves} images; {way}, or {FEWER_PROCESSES}"
    )


@contextlib.contextmanager
def out_of_memory_as(error: AutodistillError) -> Iterator[None]:
    """Raise `error` where memory runs out."""
    try:
        yield
        return
    except torch.OutOfMemoryError:
        pass
    release()
    raise error


def memory_share(free: int, total: int, *, workers: int) -> float:
    """The part of a GPU's memory that each process may reserve; 1 where one has it for itself."""
    return 1.0 if workers == 1 else max(0.0, USED * free / workers - CONTEXT_BYTES) / total


def keep_freed_memory() -> bool:
    """Have this process keep freed memory instead of giving it back after every step; False where it cannot."""
    if os.name == "nt":  # where `None` names no library, and there is no glibc
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) for name, value in MALLOPT.items())


def release() -> None:
    """Give back what a failed run held: its frames keep their tensors until they are collected."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

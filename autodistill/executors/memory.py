"""Memory of workers: their shares of a GPU, runs that do not fit, and the allocator's freed memory."""

import contextlib
import ctypes
import gc
import os
from collections.abc import Callable, Iterator

import torch

from autodistill.errors import AutodistillError, TrialError

CONTEXT_BYTES = 700 * 2**20
"""GPU memory of a process outside torch's allocator: CUDA context and kernels. An estimate; drivers differ."""

USED = 0.9
"""Share of the free memory that workers may reserve together."""

MALLOPT = {-4: 0, -1: 2**31 - 1, -2: 2**28}
"""glibc's M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD, as `local.ALLOCATOR` sets them for new processes."""

FEWER_PROCESSES = "fewer processes on the device (--workers), in a new study (--study)"
"""A new study is necessary because a study keeps its failed trials: later decisions depend on them."""


def within_memory(
    attempt: Callable[[int], None],
    *,
    batch_size: int,
    images_that_fit: Callable[[], int],
    say: Callable[[str], None],
) -> int:
    """Train; if memory runs out, train again with each batch in two parts.

    Args:
        attempt: Trains from the start or from a checkpoint; its argument is the number of parts of a batch.
        batch_size: Images per batch.
        images_that_fit: Returns how many images fit at a time; called after both attempts have failed.
        say: Receives a message about the second attempt.

    Returns:
        The number of parts of each batch.

    Raises:
        TrialError: Half a batch does not fit either. The message names the number of images that fit.
    """
    halves = f"2 x {(batch_size + 1) // 2}"
    for parts in (1, 2):
        try:
            attempt(parts)
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
    """Return the fraction of a GPU's memory that each worker may reserve; 1 for a single worker."""
    return 1.0 if workers == 1 else max(0.0, USED * free / workers - CONTEXT_BYTES) / total


def keep_freed_memory() -> bool:
    """Make this process keep freed memory instead of returning it to the system; return whether this is supported."""
    if os.name == "nt":  # no glibc, and `CDLL(None)` fails
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) for name, value in MALLOPT.items())


def release() -> None:
    """Release the memory of a failed run: its frames keep their tensors until they are collected."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

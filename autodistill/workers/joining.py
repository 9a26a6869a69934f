"""Joining a study: what its setup is on this machine, when to leave, a worker process beside the search."""

import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

import torch

from autodistill.errors import StoreError
from autodistill.queue.messages import Setup
from autodistill.queue.serving import Tools, serve
from autodistill.store import RunFolder, cache_root
from autodistill.workers.carrying import place_for
from autodistill.workers.memory import memory_share


def adapted(setup: Setup, *, device: str, runs: Path | None = None, per_gpu: int = 1) -> Setup:
    """A study's setup as it is on this machine; with a depot, the run folder may be this machine's own.

    Args:
        runs: where the folder of all run folders lies here; None: where it lies for the search.
        per_gpu: workers that share the device.

    Raises:
        StoreError: the study's run folder is not here.
    """
    folder = Path(setup.runs)
    if runs is not None:
        folder = (runs / folder.name).absolute()
    shared = RunFolder(folder).identity.exists()
    cache = os.environ.get("AUTODISTILL_CACHE") or setup.cache
    if setup.artifacts and not shared:
        folder = (runs or Path("runs")).absolute() / folder.name
        cache = str(cache_root().absolute())
    elif not shared:
        raise StoreError(
            f"{folder}: the study's run folder is not on this machine",
            "mount it here under the same path, say with --runs where its `runs` folder lies, or give the search a "
            "depot, --artifacts s3://BUCKET/PREFIX",
        )
    # The setup's own share is that of the workers that the search started beside it.
    here = {"device": device, "memory_share": share_of(device, per_gpu)}
    return setup.model_copy(update={"runs": str(folder), "cache": cache, **here})


def share_of(device: str, per_gpu: int) -> float:
    """The part of a GPU's memory that each of its workers keeps to: of all of it, as they start one after another."""
    if per_gpu == 1 or not device.startswith("cuda"):
        return 1.0
    total = torch.cuda.mem_get_info(device)[1]
    return memory_share(total, total, workers=per_gpu)


def leave_on_signals(stop: threading.Event) -> None:
    """Make SIGTERM and SIGUSR1, by which clusters announce an end, ask for one at the next epoch's end.

    Windows has no SIGUSR1.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        stop.set()

    for name in ("SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), leave)


def work_here(pipe: Connection, url: str, study: str, device: str, threads: int) -> None:
    """A local worker process: as one elsewhere, but it ends with its parent."""
    stop = threading.Event()
    leave_on_signals(stop)
    torch.set_num_threads(threads)
    tools = Tools(
        furnish=place_for,
        adapt=lambda setup: setup.model_copy(update={"device": device}),
        say=lambda _: None,
        stop=stop,
    )
    serve(url, study, tools)

"""Workers as tasks of a Ray cluster. Names, paths and the database's address cross; no object of ours does."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autodistill.errors import ConfigError
from autodistill.queue.serving import Tools, serve


def run(url: str, study: str, *, workers: int, gpus: int, cpus: int, address: str, cache: Path) -> Iterator[str]:
    """Start workers and yield the line that each ends with; one whose node dies is started again elsewhere.

    Args:
        gpus, cpus: of each worker.
        address: of the cluster; `auto`: the one that this machine belongs to; `local`: one of its own.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster.
    """
    ray = _ray()
    try:
        ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
    except ConnectionError as error:
        raise ConfigError(
            f"launch ray: no cluster at {address}", "start one with `ray start --head`, or give --address"
        ) from error
    task = ray.remote(num_gpus=gpus, num_cpus=cpus, max_retries=-1)(work)
    left = [task.remote(url, study, bool(gpus), str(cache)) for _ in range(workers)]
    while left:
        done, left = ray.wait(left)
        yield from ray.get(done)


def work(url: str, study: str, gpu: bool, cache: str) -> str:
    """A worker, on whichever node it is started."""
    os.environ["AUTODISTILL_CACHE"] = cache
    from autodistill.workers.tasks import Workplace

    device = "cuda" if gpu else "cpu"
    tools = Tools(
        furnish=Workplace,
        adapt=lambda setup: setup.model_copy(update={"device": device}),
        say=lambda _: None,
        stop=threading.Event(),
    )
    return serve(url, study, tools)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("launch ray: Ray is not installed", "pip install 'kd-autodistill[ray]'") from error
    return ray

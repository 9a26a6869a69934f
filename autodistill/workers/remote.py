"""Workers as tasks of a Ray cluster. Names, paths and the database's address cross; no object of ours does."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autodistill.errors import AutodistillError, ConfigError, StudyError
from autodistill.queue.serving import Tools, serve
from autodistill.queue.wire import from_wire, to_wire
from autodistill.records import Note


def run(
    url: str, study: str, *, workers: int, gpus: int, cpus: int, per_gpu: int, address: str, cache: Path
) -> Iterator[str]:
    """Start workers and yield the line that each ends with; one whose node dies is started again elsewhere.

    Args:
        gpus, cpus: of each worker.
        per_gpu: workers that share a GPU.
        address: of the cluster; `auto`: the one that this machine belongs to; `local`: one of its own.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster.
        AutodistillError: what ended every one of them.
    """
    ray = _ray()
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, ignore_reinit_error=True, **own)
    except ConnectionError as error:
        raise ConfigError(
            f"launch ray: no cluster at {address}", "start one with `ray start --head`, or give --address"
        ) from error
    task = ray.remote(num_gpus=gpus / per_gpu, num_cpus=cpus, max_retries=-1)(work)
    left = [task.remote(url, study, "cuda" if gpus else "cpu", per_gpu, str(cache)) for _ in range(workers)]
    failures: list[AutodistillError] = []
    while left:
        (done, *_), left = ray.wait(left)
        end = _end(ray, done)
        if isinstance(end, AutodistillError):
            failures.append(end)
            yield f"a worker failed: {end.message}"
        else:
            yield end
    if len(failures) == workers:
        raise failures[0]


def work(url: str, study: str, device: str, per_gpu: int, cache: str) -> str:
    """A worker, on whichever node it is started; returns the line or the error that it ends with, as it travels."""
    os.environ["AUTODISTILL_CACHE"] = cache
    from autodistill.workers.carrying import place_for
    from autodistill.workers.joining import adapted, leave_on_signals
    from autodistill.workers.memory import keep_freed_memory

    keep_freed_memory()
    tools = Tools(
        furnish=place_for,
        adapt=lambda setup: adapted(setup, device=device, per_gpu=per_gpu),
        say=lambda _: None,
        stop=threading.Event(),
    )
    leave_on_signals(tools.stop)
    try:
        return to_wire(Note(text=serve(url, study, tools)))
    except AutodistillError as error:
        return to_wire(error)


def _end(ray: Any, done: Any) -> str | AutodistillError:
    try:
        told = from_wire(ray.get(done))
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        return StudyError(f"Ray could not run it ({reason})", "see what `ray status` and Ray's own logs say")
    return told.text if isinstance(told, Note) else told  # type: ignore[return-value]


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("launch ray: Ray is not installed", "pip install 'kd-autodistill[ray]'") from error
    return ray

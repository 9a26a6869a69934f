"""An actor that sleeps instead of training. Its process never imports torch, so that many fit into memory.

The package `autodistill.executors` imports torch; here an empty package with the same modules takes its place.
"""

import sys
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import autodistill

if "autodistill.executors" not in sys.modules:
    package = types.ModuleType("autodistill.executors")
    package.__path__ = [str(Path(autodistill.__file__).parent / "executors")]
    sys.modules["autodistill.executors"] = package

from autodistill.executors.base import STARTED, Done, TrainTask
from autodistill.records import KeptResult, RunResult

SECONDS = 5.0
"""Duration of a run."""


class IdleNode(NamedTuple):
    """As `ray.Node`, as far as the driver looks at it."""

    node: str = ""
    process: str = ""
    host: str = "here"
    torch: str = ""
    device: str = "cpu"
    computed_as: str = ""
    shares: tuple[str, ...] = ("study", "cache")
    missing: tuple[str, ...] = ()


def no_work(task: object, context: object) -> None:
    """Take the place of the work function, whose module imports torch."""


class IdleActor:
    """As `ray.Worker`."""

    def __init__(self, *_: object) -> None:
        pass

    def describe(self, version: str) -> IdleNode:
        return IdleNode()

    def perform(self, task: TrainTask, files: Mapping[str, Any]) -> Iterator[object]:
        yield STARTED
        time.sleep(SECONDS)
        if "torch" in sys.modules:
            raise RuntimeError("torch was imported")
        result = RunResult(**task.spec.kept(), key=task.key, state="complete")
        yield Done(KeptResult(result=result, wall_s=SECONDS))

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass

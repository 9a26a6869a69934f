"""Choose how a student's steps are executed on this machine, by trying."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from autodistill.data import Data, Split
from autodistill.errors import TrialError
from autodistill.records import EpochRecord, Mode
from autodistill.training import Execution, Recipe, train
from autodistill.training.execution import WARM_UP

STEPS = 2 * WARM_UP + 2
"""In an epoch of a probe: the first one holds the warm-up and the recording, the second is timed."""

COMPILED_FROM_S = 600.0
"""Seconds of a recorded run from which its network is compiled too. That is not tried, because it takes too long.

On an H100, compiling took 9 to 44 s, and the steps of MobileNetV2 x0.5, VGG8 and ResNet8x4 took 0.75 to 0.84 times as
long as recorded steps (50,000 images of 32x32, batches of 128; torch 2.11, n = 3)."""


class Timing(NamedTuple):
    """What a way of executing steps takes."""

    setup_s: float
    """Once a run: recording, compiling."""
    step_s: float

    def run_s(self, steps: int) -> float:
        return self.setup_s + steps * self.step_s


def faster_step(measure: Callable[[Mode], Timing | None], *, steps: int) -> Mode:
    """Choose how a run's steps are executed on a GPU, its own setup counted in.

    Args:
        measure: times eager or recorded execution; None where it does not work here.
        steps: of one full run.
    """
    eager, graph = measure("eager"), measure("graph")
    if graph is None or (eager is not None and eager.run_s(steps) <= graph.run_s(steps)):
        return "eager"
    return "compiled" if graph.run_s(steps) >= COMPILED_FROM_S else "graph"


def measured(build: Callable[[], nn.Module], data: Data, recipe: Recipe, *, mode: Mode) -> Timing | None:
    """Train a few steps of a new model; None where they failed or fell back to another way.

    Args:
        build: makes the model, on the device of `data`.
        recipe: of the run that is to come.
    """
    size = min(len(data.train.labels), STEPS * recipe.spec.batch_size)
    part = replace(data, train=Split(data.train.images[:size], data.train.labels[:size]))
    steps = max(1, size // recipe.spec.batch_size)
    fell_back: list[str] = []
    spec = recipe.spec.model_copy(update={"evaluate_every": 3})
    epochs = train(build(), part, recipe._replace(spec=spec, epochs=3), execution=Execution(mode, fell_back.append))
    try:
        first_s, later_s = _next_s(epochs), _next_s(epochs)
    except torch.OutOfMemoryError:
        raise
    except (TrialError, RuntimeError):
        return None  # where a run fails and is recorded, a try ends nothing
    return None if fell_back else Timing(max(0.0, first_s - later_s), later_s / steps)


def images_that_fit(build: Callable[[], nn.Module], data: Data, recipe: Recipe) -> int:
    """How many images at a time a training step has memory for: tried downwards from a quarter of a batch.

    Returns:
        0 where two do not fit; BatchNorm needs that many.
    """
    size = recipe.spec.batch_size // 4
    while size >= 2:
        part = replace(data, train=Split(data.train.images[:size], data.train.labels[:size]))
        spec = recipe.spec.model_copy(update={"batch_size": size, "evaluate_every": 2})
        with contextlib.suppress(torch.OutOfMemoryError):
            next(train(build(), part, recipe._replace(spec=spec, epochs=2, micro_batches=1)))
            return size
        size //= 2
    return 0


def _next_s(epochs: Iterator[EpochRecord]) -> float:
    begun = time.perf_counter()
    next(epochs)
    return time.perf_counter() - begun

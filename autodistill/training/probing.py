"""Choose execution mode, number format and micro-batch size for a student on this machine, by timing and trying."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autodistill.data import Data, Split
from autodistill.errors import TrialError
from autodistill.records import EpochRecord, Mode
from autodistill.training.convolutions import backward_pass, cpu_network
from autodistill.training.loop import train
from autodistill.training.step import WARM_UP, Execution, Precision, Recipe, autocast
from autodistill.usercode import errors_as, run_failed

ROUNDS = 3
"""Largest number of timed steps in each number format."""
GAIN = 1.25
"""Factor by which bfloat16 must be faster to be chosen: float32 is more exact, and timings are noisy. Of six students
on a CPU with bfloat16 instructions, bfloat16 was 0.59 to 0.97 times as fast for three (MobileNetV2, a ResNet-8 on 8x8
images) and 1.43 to 2.19 times as fast for the others (VGG-8, ResNet-8)."""
IMAGES, PIXELS, FEWEST = 32, 2**15, 2
"""Images, pixels and fewest images of a timed step: 32 images, fewer if they are larger than 32x32 pixels, and at
least two, which BatchNorm needs. For those six students, 32 images gave the same choice as a batch of 128."""
CLEAR = 1.5
"""Timing stops where the measured gain differs from `GAIN` by this factor or more."""
LONG_S = 0.5
"""Where the first step takes this many seconds, it is the only step that is timed."""

STEPS = 2 * WARM_UP + 2
"""Steps in an epoch of a probe. The first epoch includes warm-up and recording; the second epoch is timed."""

COMPILED_FROM_S = 600.0
"""Seconds of a recorded run from which its network is compiled too. Compiling is not tried: a trial takes too long.

On an H100, compiling took 9 to 44 s, and the steps of MobileNetV2 x0.5, VGG8 and ResNet8x4 took 0.75 to 0.84 times as
long as recorded steps (50,000 images of 32x32, batches of 128; torch 2.11, n = 3)."""


class Timing(NamedTuple):
    """Seconds that an execution mode takes."""

    setup_s: float
    """Seconds of recording and compiling, once per run."""
    step_s: float
    """Seconds per step."""

    def run_s(self, steps: int) -> float:
        return self.setup_s + steps * self.step_s


def faster_step(measure: Callable[[Mode], Timing | None], *, steps: int) -> Mode:
    """Choose the fastest execution mode for a run on a GPU, including the time of its setup.

    Args:
        measure: Returns the timing of `eager` or `graph`; None where the mode does not work on this machine.
        steps: Number of steps of a full run.
    """
    eager, graph = measure("eager"), measure("graph")
    if graph is None or (eager is not None and eager.run_s(steps) <= graph.run_s(steps)):
        return "eager"
    return "compiled" if graph.run_s(steps) >= COMPILED_FROM_S else "graph"


def measured(build: Callable[[], nn.Module], data: Data, recipe: Recipe, *, mode: Mode) -> Timing | None:
    """Time a few training steps of a run in a mode; return None where they fail or fall back to another mode.

    `build` returns a new model on the device of `data`.
    """
    size = min(len(data.train.labels), STEPS * recipe.spec.batch_size)
    part = replace(data, train=Split(data.train.images[:size], data.train.labels[:size]))
    steps = max(1, size // recipe.spec.batch_size)
    fell_back: list[str] = []
    spec = recipe.spec.model_copy(update={"evaluate_every": 3})
    epochs = train(build(), part, recipe._replace(spec=spec, epochs=3), execution=Execution(mode, fell_back.append))
    try:
        with errors_as(run_failed):
            first_s, later_s = _next_s(epochs), _next_s(epochs)
    except torch.OutOfMemoryError:
        raise
    except (TrialError, RuntimeError):
        return None  # a failed probe does not end the study; a run that fails in the same way is recorded
    return None if fell_back else Timing(max(0.0, first_s - later_s), later_s / steps)


def images_that_fit(build: Callable[[], nn.Module], data: Data, recipe: Recipe) -> int:
    """Find how many images of a micro-batch of a run fit into memory, by halving from a quarter of a batch.

    `build` returns a new model on the device of `data`. The result is 0 where two images, the fewest for BatchNorm, do
    not fit.
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


def gpu_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return the number format of `auto` on a GPU: bfloat16, unless the hardware lacks it.

    The formats are not timed: before they are recorded in a CUDA graph, steps of small students take as long as
    launching their kernels.
    """
    with torch.cuda.device(device):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def faster_precision(
    build: Callable[[], nn.Module], images: Float[Tensor, "batch channels height width"]
) -> Literal["float32", "bfloat16"]:
    """Choose the faster number format of a model on a CPU by timing a few steps, on one thread, in a second or two.

    On processors with bfloat16 instructions, depthwise convolutions are slower in bfloat16 (0.6 times the speed,
    MobileNetV2) and plain convolutions up to three times faster, so the result depends on the network.

    Args:
        build: Returns a new model.
        images: A training batch, normalised.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "float32"
    count = max(FEWEST, min(IMAGES, PIXELS // (images.shape[2] * images.shape[3])))
    batch = images[:count].contiguous(memory_format=torch.channels_last)
    model = build()
    model = cpu_network(model.to(memory_format=getattr(model, "memory_format", torch.channels_last))).train()
    plain, half = list[float](), list[float]()
    with _one_thread():
        for precision in ("float32", "bfloat16"):  # not counted: the first pass of a process loads libraries
            _step_s(nn.Conv2d(images.shape[1], 1, 1), batch[:FEWEST], precision)
        for step in range(ROUNDS):
            plain.append(_step_s(model, batch, "float32"))
            try:
                half.append(_step_s(model, batch, "bfloat16"))
            except RuntimeError:  # an operator of the user's network has no bfloat16
                return "float32"
            # The first step counts only if it is the only one.
            gain = statistics.median(plain[1:] or plain) / statistics.median(half[1:] or half)
            if plain[0] >= LONG_S or (step and not 1 / CLEAR < gain / GAIN < CLEAR):
                break
    return "bfloat16" if gain >= GAIN else "float32"


def _next_s(epochs: Iterator[EpochRecord]) -> float:
    begun = time.perf_counter()
    next(epochs)
    return time.perf_counter() - begun


def _step_s(model: nn.Module, batch: Tensor, precision: Precision) -> float:
    begun = time.perf_counter()
    with autocast(batch.device, precision):
        output = model(batch)
    loss = output.float().logsumexp(1).mean()
    with backward_pass(model):
        loss.backward()
    loss.item()
    return time.perf_counter() - begun


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread inside the context, as a worker does on a CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

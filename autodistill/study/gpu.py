"""Choose how many workers share a GPU, and how each executes its training steps."""

import math
from typing import NamedTuple

import torch
from torch import nn

from autodistill.config import Space
from autodistill.data import Data
from autodistill.data.views import View
from autodistill.errors import ConfigError
from autodistill.executors.worker import CONTEXT_BYTES, USED, memory_share, release
from autodistill.logit_cache import estimated_bytes
from autodistill.machine import usable_cores
from autodistill.models.students import student_network
from autodistill.records import Mode, Record, StudentRecord
from autodistill.study.measurements import facts, once, student_facts
from autodistill.training import Recipe
from autodistill.training.probing import Timing, faster_step, measured

MOST = 4
"""Workers on one GPU, at most: enough for the rests of a wave of two trials and the rungs of the next wave.

Kernels of different processes take turns on a GPU, unless NVIDIA's MPS is running. Without MPS, 8 processes trained 8
students on an H100 in the time of 8 sequential trainings (MobileNetV2 x0.5, VGG8, ResNet8x4; n = 2)."""

HEADROOM = 2.0
"""Memory of a worker in units of a training step's peak: for evaluation, a teacher's pass, the temperature search."""


class Sharing(NamedTuple):
    """How the workers of a study share a device and execute their steps."""

    workers: int = 1
    """Workers per device."""
    mode: Mode = "eager"
    memory_share: float = 1.0
    """Fraction of the device's memory for each worker."""


def fit_to_device(space: Space, data: Data, *, student: StudentRecord, device: str, workers: int | None) -> Sharing:
    """Measure the student's training steps on the device, and divide the device among workers.

    The workers are distributed over the GPUs in turn; None: as many per GPU as its free memory holds.

    Raises:
        ConfigError: The device has too little memory for these workers.
    """
    if not device.startswith("cuda"):
        return Sharing(workers or 1)
    try:
        steps = measure_steps(space, data, student=student, device=torch.device(device))
    except torch.OutOfMemoryError:
        return Sharing(workers or 1)
    release()
    # A worker holds a teacher's logits of two views while the next view replaces the current one.
    peak = steps.peak_bytes + estimated_bytes(
        teachers=1, views=2, examples=len(data.train.labels), classes=data.num_classes
    )
    free, total = torch.cuda.mem_get_info(device)
    gpus = 1 if ":" in device else max(1, torch.cuda.device_count())
    fitting = workers_that_fit(free, peak=peak, cores=usable_cores() // gpus)
    here = math.ceil(workers / gpus) if workers else fitting
    share = memory_share(free, total, workers=here)
    if share * total < peak:
        raise ConfigError(
            f"--workers {workers}: {here} on one GPU have {share * total / 1e9:.2g} GB each of its free memory, "
            f"training {student.source} takes {peak / 1e9:.2g} GB",
            f"--workers {fitting * gpus} fit; so does a smaller training.batch_size",
        )
    return Sharing(here, steps.mode, share)


def workers_that_fit(free: int, *, peak: int, cores: int) -> int:
    """Return how many workers fit on one GPU, with at least one core for each.

    `free` are free bytes of the GPU, `peak` the bytes that torch reserves for a training step.
    """
    need = CONTEXT_BYTES + int(HEADROOM * peak)
    return max(1, min(MOST, cores, int(USED * free) // need))


class StepMeasurement(Record):
    """Measurement of a student's training steps on a GPU."""

    mode: Mode
    """The fastest way to execute the steps."""
    peak_bytes: int
    """Bytes reserved by torch, at most."""


def measure_steps(space: Space, data: Data, *, student: StudentRecord, device: torch.device) -> StepMeasurement:
    """Measure a student's training steps on a GPU, or return the measurement that this machine has kept."""
    spec = space.training
    steps = spec.epochs * max(1, len(data.train.labels) // spec.batch_size)
    of = facts(
        data,
        space,
        device=str(device),
        precision=spec.precision,
        steps=steps,
        image_bytes=sum(part.images.nbytes for part in (data.train, data.validation, data.test)),
        **student_facts(student, space),
    )

    def measured_now() -> StepMeasurement:
        on_device, view = data.to(device), View(space.data.view_seed, space.data.crop, space.data.flip)
        peaks: dict[Mode, int] = {}

        def build() -> nn.Module:
            return student_network(student.source, on_device, space.student, offline=True).to(device)

        def timed(mode: Mode) -> Timing | None:
            release()
            torch.cuda.reset_peak_memory_stats(device)
            timing = measured(build, on_device, Recipe(spec, view, 1, spec.epochs, 0), mode=mode)
            peaks[mode] = torch.cuda.max_memory_reserved(device)
            return timing

        mode = faster_step(timed, steps=steps)
        # A compiled step runs as a CUDA graph too. On an H100 it reserved 1.05 to 1.2 times as much as the uncompiled.
        peak_bytes = peaks[mode] if mode in peaks else math.ceil(1.2 * peaks["graph"])
        return StepMeasurement(mode=mode, peak_bytes=peak_bytes)

    return once(StepMeasurement, of, measured_now)

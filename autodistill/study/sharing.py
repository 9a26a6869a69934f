"""A GPU and the processes of a study: how many share it, and how each executes its steps."""

import math
from typing import NamedTuple

import torch
from torch import nn

from autodistill.config import Space
from autodistill.data import Data
from autodistill.data.views import View
from autodistill.errors import ConfigError
from autodistill.logit_cache import estimated_bytes
from autodistill.machine import usable_cores
from autodistill.models import student_network
from autodistill.records import Mode
from autodistill.records.base import Record
from autodistill.study.measurements import facts, keep, recall
from autodistill.training import Recipe
from autodistill.training.probing import Timing, faster_step, measured
from autodistill.workers.memory import CONTEXT_BYTES, USED, memory_share, release

MOST = 8
"""Workers on one GPU. Their kernels take turns on it, unless NVIDIA's MPS runs them side by side.

Without MPS, 8 processes trained 8 students on an H100 in the time of 8 after each other (MobileNetV2 x0.5, VGG8,
ResNet8x4; n = 2)."""

HEADROOM = 2.0
"""A worker's need in units of a training step's peak: evaluation, a teacher's pass, the search for temperatures."""


class Sharing(NamedTuple):
    """How a study's workers execute their steps, and how many of them one device is for."""

    workers: int = 1
    mode: Mode = "eager"
    memory_share: float = 1.0
    """Of the device's whole memory, for each worker."""


def fit_to_device(space: Space, data: Data, *, student: str, device: str, workers: int | None) -> Sharing:
    """Try the student's steps on the study's device.

    Args:
        workers: of the study, given out to the GPUs in turns; None: as many on each as its free memory holds.

    Returns:
        With the workers of one device.

    Raises:
        ConfigError: more workers than the device has memory for.
    """
    if not device.startswith("cuda"):
        return Sharing(workers or 1)
    try:
        found = tried(space, data, student=student, device=torch.device(device))
    except torch.OutOfMemoryError:
        return Sharing(workers or 1)
    release()
    # A teacher's logits on a view, and on the next view until it has taken the place of the first.
    peak = found.peak_bytes + estimated_bytes(
        teachers=1, views=2, examples=len(data.train.labels), classes=data.num_classes
    )
    free, total = torch.cuda.mem_get_info(device)
    gpus = 1 if ":" in device else max(1, torch.cuda.device_count())
    fitting = workers_that_fit(free, peak=peak, cores=usable_cores() // gpus)
    here = math.ceil(workers / gpus) if workers else fitting
    share = memory_share(free, total, workers=here)
    if share * total < peak:
        raise ConfigError(
            f"--workers {workers}: {here} on one GPU have {share * total / 1e9:.2g} GB each of what is free, "
            f"training {student} takes {peak / 1e9:.2g} GB",
            f"--workers {fitting * gpus} fit; so does a smaller training.batch_size",
        )
    return Sharing(here, found.mode, share)


def workers_that_fit(free: int, *, peak: int, cores: int) -> int:
    """How many processes one GPU holds, each with a core to itself.

    Args:
        free: bytes of the GPU that nobody uses.
        peak: bytes that torch reserves for a training step.
        cores: of the processor.
    """
    need = CONTEXT_BYTES + int(HEADROOM * peak)
    return max(1, min(MOST, cores, int(USED * free) // need))


class Tried(Record):
    """What trying a student's steps on a GPU found."""

    mode: Mode
    """The fastest way to execute them."""
    peak_bytes: int
    """Reserved by torch."""


def tried(space: Space, data: Data, *, student: str, device: torch.device) -> Tried:
    """Try a student's steps on a GPU, unless this machine has before."""
    spec = space.training
    steps = spec.epochs * max(1, len(data.train.labels) // spec.batch_size)
    of = facts(
        data,
        space,
        device=str(device),
        student=student,
        stem_stride=space.student.stem_stride,
        width=space.student.width,
        precision=spec.precision,
        steps=steps,
        image_bytes=sum(part.images.nbytes for part in (data.train, data.validation, data.test)),
    )
    found = recall(Tried, of)
    if found is None:
        found = _tried(space, data.to(device), student=student, device=device, steps=steps)
        keep(found, of)
    return found


def _tried(space: Space, data: Data, *, student: str, device: torch.device, steps: int) -> Tried:
    def build() -> nn.Module:
        return student_network(student, data, space.student).to(device)

    spec = space.training
    recipe = Recipe(spec, View(space.data.view_seed, space.data.crop, space.data.flip), 1, spec.epochs, 0)
    peaks: dict[Mode, int] = {}

    def timed(mode: Mode) -> Timing | None:
        release()
        torch.cuda.reset_peak_memory_stats(device)
        timing = measured(build, data, recipe, mode=mode)
        peaks[mode] = torch.cuda.max_memory_reserved(device)
        return timing

    mode = faster_step(timed, steps=steps)
    # A compiled step is recorded too. It reserved 1.05 to 1.2 times as much as the uncompiled one on an H100.
    return Tried(mode=mode, peak_bytes=peaks[mode] if mode in peaks else math.ceil(1.2 * peaks["graph"]))

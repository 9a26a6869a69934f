"""Measure the duration of the parts of a study's runs, within about a second for any network and image size.

Each duration is measured on few images, then on four times as many, until it is long enough to exceed noise. It is then
scaled to the size of a run.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from autodistill.config import Space
from autodistill.data import Data, Split
from autodistill.data.views import View
from autodistill.executors.base import Line, MeasureTeacherTask, StudentTimes, TeacherTimes
from autodistill.records import EpochRecord, TrialParams
from autodistill.stopwatch import Stopwatch
from autodistill.teachers import Normalisation, Teacher, logits_of
from autodistill.teachers.ladder import SCHEME, network
from autodistill.teachers.profile import agreement, profile
from autodistill.teachers.teacher import BATCH, ready
from autodistill.training import EAGER, Execution, Recipe, Supervision, evaluate, supervise, train

if TYPE_CHECKING:
    from autodistill.executors.worker import WorkerContext

STEPS = 8
"""Steps of a measured epoch, at most: more steps do not improve the estimate of one."""
GPU_STEPS = 64
"""The same on a GPU: its steps are short compared with the work once per epoch (order and temperatures of the
examples)."""
FEWEST = 3
"""Number of measured epochs, at least; their median counts."""
EXAMPLES = 256
"""Examples on which work done once per run is measured, at most."""
FIRST_IMAGES, GROWTH = 2, 4
"""Initial number of images (BatchNorm needs two in training), and the factor by which it grows."""
LONG_S, FORWARD = 0.5, 1 / 3
"""If training on two images takes `LONG_S`, the forward pass is not measured but taken as a third of a training step,
which is its share of the arithmetic."""
SHORTEST_S = 1e-6
"""Lower bound of a step's duration; a coarse clock may report less."""
ENDLESS = 10**6
"""Epochs of a run that never finishes and is never evaluated."""


class Duration(NamedTuple):
    """Seconds of an epoch, and the part that soft targets take."""

    whole: float
    targets: float


def measure_teacher(task: MeasureTeacherTask, context: "WorkerContext") -> TeacherTimes:
    """Measure the logits of a teacher, and its training if it is not trained yet."""
    data, space, seconds = context.data, context.setup.space, task.seconds
    if not task.untrained:
        return TeacherTimes(view_s=view_s(context.teacher(task.name), data, seconds=seconds))
    architecture = context.setup.teachers[task.name].removeprefix(SCHEME)
    model = network(architecture, data, seed=0).to(context.device)
    training, logits_s = measure_untrained(model, data, space, seconds=seconds, execution=context.execution)
    return TeacherTimes(training=training, view_s=logits_s)


def measure_student(
    build: Callable[[], nn.Module],
    data: Data,
    space: Space,
    params: TrialParams,
    *,
    seconds: float,
    execution: Execution = EAGER,
) -> StudentTimes:
    """Measure the parts of a student's runs.

    Args:
        build: Builds the student.
        data: Data of the study.
        space: Its search space.
        params: A configuration with a teacher; its logits are random.
        seconds: Approximate duration of each measurement.
        execution: How training steps are executed.
    """
    begun = time.perf_counter()
    model = build()
    build_s = time.perf_counter() - begun
    few = data.train.labels[:EXAMPLES]
    taught = _taught(params, few, data, space)
    supervised = _Epochs(model, data, space, lambda labels: _taught(params, labels, data, space), execution)
    training, targets = _epoch(supervised, seconds)
    precision, batch = space.training.precision, min(space.training.batch_size, len(data.train.labels))

    def evaluated(count: int) -> object:
        held = Split(data.validation.images[:count], data.validation.labels[:count])
        return evaluate(copy.deepcopy(model), held, data, precision=precision)

    held_out = min(EXAMPLES, len(data.validation.labels))
    forward_s = _forward_s(training, batch)
    fit_s = _repeated(lambda: _taught(params, few, data, space), 0.0) + _repeated(lambda: taught.summary(few), 0.0)
    return StudentTimes(
        training=training,
        targets=targets,
        evaluation_s=forward_s or _per_image(evaluated, most=held_out, seconds=seconds / 2),
        build_s=build_s,
        fit_s=fit_s / len(few),
        profile_s=_profile_s(few.cpu(), data, space) / len(few),
    )


def measure_untrained(
    model: nn.Module, data: Data, space: Space, *, seconds: float, execution: Execution = EAGER
) -> tuple[Line, float]:
    """Measure an untrained teacher: an epoch by its number of steps, and the seconds per image of its logits."""
    # The ladder is trained in the precision of `auto`, not in that of the student.
    training = space.training.model_copy(update={"precision": "auto"})
    space = space.model_copy(update={"training": training})
    epoch, _ = _epoch(_Epochs(model, data, space, lambda _: None, execution), seconds)
    teacher = ready(
        model,
        name="",
        uri="",
        architecture="",
        normalisation=Normalisation("data", data.mean, data.std),
        channels=data.image_shape[0],
    )
    batch = min(space.training.batch_size, len(data.train.labels))
    return epoch, _forward_s(epoch, batch) or view_s(teacher, data, seconds=seconds / 2)


def _forward_s(training: Line, batch: int) -> float | None:
    """Return the seconds of a forward pass per image, derived from training, if measuring them would take long."""
    image_s = training.each_s / batch
    return FORWARD * image_s if FIRST_IMAGES * image_s >= LONG_S else None


def view_s(teacher: Teacher, data: Data, *, seconds: float) -> float:
    """Measure the seconds per training image of a teacher's logits."""
    most = min(BATCH, len(data.train.labels))
    return _per_image(lambda count: logits_of(teacher, data.train.images[:count]).cpu(), most=most, seconds=seconds)


def _per_image(work: Callable[[int], object], *, most: int, seconds: float) -> float:
    size = min(FIRST_IMAGES, most)
    while True:
        took = _repeated(lambda size=size: work(size), seconds if size == most else 0.0)  # type: ignore[misc]
        if size < most and took >= seconds / GROWTH:
            took = min(took, _seconds(lambda size=size: work(size)))  # type: ignore[misc]
        if size == most or took >= seconds / GROWTH:
            return took / size
        size = min(GROWTH * size, most)


def _repeated(work: Callable[[], object], seconds: float) -> float:
    """Return the median seconds of repeated work that ends with a value on the host.

    The first repetition does not count: libraries select kernels and start the GPU in it.
    """
    work()
    taken = [_seconds(work)]
    while sum(taken) < seconds:
        taken.append(_seconds(work))
    return statistics.median(taken)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@dataclass
class _Epochs:
    """Epochs of a few steps, on as many training images as these need."""

    model: nn.Module
    data: Data
    space: Space
    supervise_for: Callable[[Tensor], Supervision | None]
    execution: Execution
    watch: Stopwatch = field(default_factory=Stopwatch)

    def of(self, steps: int, size: int) -> Iterator[EpochRecord]:
        """Train without end: each epoch has `steps` batches of `size` images."""
        count, spec = steps * size, self.space.training
        spec = spec.model_copy(update={"evaluate_every": ENDLESS, "batch_size": size})
        part = Split(self.data.train.images[:count], self.data.train.labels[:count])
        data_spec = self.space.data
        recipe = Recipe(spec, View(data_spec.view_seed, data_spec.crop, data_spec.flip), 1, ENDLESS, 0)
        return train(
            self.model,
            replace(self.data, train=part),
            recipe,
            supervision=self.supervise_for(part.labels),
            watch=self.watch,
            execution=self.execution,
        )

    def next(self, epochs: Iterator[EpochRecord]) -> Duration:
        self.watch.seconds.clear()
        whole = _seconds(lambda: next(epochs))
        return Duration(whole, self.watch.seconds["targets"])

    def one_step(self, size: int, *, enough_s: float) -> Duration:
        """Time the second step of a shape; the first takes several times as long.

        A step of `enough_s` or longer is repeated and the shorter time counts, so that a single pause of the machine
        does not end the measurement.
        """
        epochs = self.of(1, size)
        self.next(epochs)
        duration = self.next(epochs)
        return min(duration, self.next(epochs)) if duration.whole >= enough_s else duration

    def median(self, steps: int, size: int, *, seconds: float) -> Duration:
        epochs = self.of(steps, size)
        if self.execution.mode != "eager":
            next(epochs)  # records or compiles
        durations: list[Duration] = []
        while len(durations) < FEWEST or sum(duration.whole for duration in durations) < seconds:
            durations.append(self.next(epochs))
        return sorted(durations)[len(durations) // 2]


def _epoch(epochs: _Epochs, seconds: float) -> tuple[Line, Line]:
    """Measure an epoch without its evaluation, and its soft targets, as functions of the number of steps."""
    labels = epochs.data.train.labels
    batch, gpu = min(epochs.space.training.batch_size, len(labels)), labels.is_cuda
    size = batch if gpu else min(FIRST_IMAGES, batch)
    enough_s = seconds / GROWTH
    step = epochs.one_step(size, enough_s=enough_s)
    while size < batch and step.whole < enough_s:
        size = min(GROWTH * size, batch)
        step = epochs.one_step(size, enough_s=enough_s)
    if not gpu and FEWEST * step.whole >= seconds:
        whole, targets = (Line(each_s=part * batch / size) for part in step)
        return whole, targets
    count = len(labels) // batch
    steps = max(1, min(GPU_STEPS if gpu else STEPS, int(seconds / FEWEST / max(step.whole, SHORTEST_S)), count))
    lengths = (steps // 4, steps) if gpu and 4 <= steps < count else (steps,)
    durations = [epochs.median(length, batch, seconds=seconds) for length in lengths]
    whole_s, targets_s = zip(*durations, strict=True)
    return line_through(lengths, whole_s), line_through(lengths, targets_s)


def line_through(lengths: Sequence[int], seconds: Sequence[float]) -> Line:
    """Return the time of an epoch as a function of its steps, from the times of epochs of one or two lengths."""
    if len(lengths) == 1:
        return Line(each_s=seconds[0] / lengths[0])
    (fewer, more), (first, second) = lengths, seconds
    each_s = max(0.0, second - first) / (more - fewer)
    return Line(once_s=second - more * each_s, each_s=each_s)


def _taught(params: TrialParams, labels: Tensor, data: Data, space: Space) -> Supervision:
    logits = _random_logits(labels, data)
    return supervise(params, logits=lambda _: logits, labels=labels, loss=space.search.loss)


def _random_logits(labels: Tensor, data: Data) -> Tensor:
    """Return random logits in the format of the cache; the label has the largest logit in most rows."""
    noise = torch.randn(len(labels), data.num_classes, generator=torch.Generator().manual_seed(0))
    noise[torch.arange(len(labels)), labels.cpu()] += 3
    return noise.half()


def _profile_s(labels: Tensor, data: Data, space: Space) -> float:
    """Measure the seconds of a teacher's profile, including its share of the teachers' agreement."""
    logits, prior = _random_logits(labels, data), space.prior
    params = prior.params if prior.method == "isats" else None
    begun = time.perf_counter()
    profile(logits, labels, logits, labels, isats_params=params)
    agreement({"one": logits, "other": logits}, labels)
    return time.perf_counter() - begun

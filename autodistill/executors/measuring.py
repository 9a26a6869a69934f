"""Measure the duration of the parts of a study's runs, within about a second for any network and image size.

Each duration is measured on few images, then on four times as many, until it is long enough to exceed noise. It is then
scaled to the size of a run.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from autodistill.config import TrainingSpec
from autodistill.data import Split
from autodistill.executors.base import Line, MeasureStudentTask, MeasureTeacherTask, StudentTimes, TeacherTimes
from autodistill.records import TrialParams
from autodistill.stopwatch import Stopwatch
from autodistill.teachers import Normalisation, Teacher, adaptation, assistants, logits_of
from autodistill.teachers.ladder import network, rung_of
from autodistill.teachers.profile import agreement, profile
from autodistill.teachers.teacher import BATCH, ready
from autodistill.training import Recipe, Supervision, evaluate, supervise, train

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


def measure_teacher(task: MeasureTeacherTask, context: "WorkerContext") -> TeacherTimes:
    """Measure the logits of a teacher, and its training if it is not trained yet."""
    data, seconds = context.data, task.seconds
    if not task.untrained:
        trained = context.teacher(task.name)
        return TeacherTimes(view_s=0.0 if trained.table is not None else _view_s(trained, context, seconds))
    uri = context.setup.teachers[task.name]
    if uri.startswith(adaptation.SCHEME):
        source = adaptation.pretrained(uri, data=context.study_data, offline=context.setup.offline).teacher
        source.module.to(context.device)
        view_s = _view_s(source, context, seconds / 2)
        # A backward pass takes about twice as long as a forward pass.
        step_s = view_s * context.setup.space.adapt.batch_size / FORWARD
        return TeacherTimes(training=Line(each_s=step_s), view_s=view_s)
    taught: TrialParams | None = None
    if uri.startswith(assistants.SCHEME):
        architecture, plain_kd = assistants.assistant_of(uri).architecture, context.setup.space.plain_kd
        taught = TrialParams(
            teacher=task.name,
            method="ts",
            method_params={"tau": plain_kd.tau},
            tau_student=plain_kd.tau,
            soft_weight=plain_kd.soft_weight,
        )
    else:
        architecture = rung_of(uri).architecture
    model = network(architecture, data, seed=0).to(context.device)
    # The ladder is trained in the precision of `auto`, not in that of the student.
    spec = context.setup.space.training.model_copy(update={"precision": "auto"})
    training, _ = _Epochs(model, spec, taught, context).measure(seconds)
    teacher = Teacher(
        name="",
        uri="",
        architecture="",
        module=model,
        normalisation=Normalisation("data", data.mean, data.std),
        channels=data.image_shape[0],
    )
    return TeacherTimes(
        training=training, view_s=_forward_s(training, context) or _view_s(ready(teacher), context, seconds / 2)
    )


def measure_student(task: MeasureStudentTask, context: "WorkerContext") -> StudentTimes:
    """Measure the parts of a student's runs."""
    data, spec = context.data, context.setup.space.training
    begun = time.perf_counter()
    model = context.student(0)
    build_s = time.perf_counter() - begun
    few = data.train.labels[:EXAMPLES]
    taught = _taught(task.params, few, context)
    training, targets = _Epochs(model, spec, task.params, context).measure(task.seconds)

    def evaluated(count: int) -> object:
        held = Split(data.validation.images[:count], data.validation.labels[:count])
        return evaluate(copy.deepcopy(model), held, data, precision=spec.precision)

    held_out = min(EXAMPLES, len(data.validation.labels))
    fit_s = _repeated(lambda: _taught(task.params, few, context)) + _repeated(lambda: taught.summary(few))
    return StudentTimes(
        training=training,
        targets=targets,
        evaluation_s=_forward_s(training, context) or _per_image(evaluated, most=held_out, seconds=task.seconds / 2),
        build_s=build_s,
        fit_s=fit_s / len(few),
        profile_s=_profile_s(few.cpu(), context) / len(few),
    )


def _forward_s(training: Line, context: "WorkerContext") -> float | None:
    """Return the seconds of a forward pass per image, derived from training, if measuring them would take long."""
    image_s = training.each_s / min(context.setup.space.training.batch_size, len(context.data.train.labels))
    return FORWARD * image_s if FIRST_IMAGES * image_s >= LONG_S else None


def _view_s(teacher: Teacher, context: "WorkerContext", seconds: float) -> float:
    """Measure the seconds per training image of a teacher's logits."""
    images = context.data.train_images(BATCH)
    return _per_image(lambda count: logits_of(teacher, images[:count]).cpu(), most=len(images), seconds=seconds)


def _per_image(work: Callable[[int], object], *, most: int, seconds: float) -> float:
    size = min(FIRST_IMAGES, most)
    while True:
        took = _repeated(partial(work, size), seconds if size == most else 0.0)
        if size < most and took >= seconds / GROWTH:
            took = min(took, _seconds(partial(work, size)))
        if size == most or took >= seconds / GROWTH:
            return took / size
        size = min(GROWTH * size, most)


def _repeated(work: Callable[[], object], seconds: float = 0.0) -> float:
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


class _Duration(NamedTuple):
    """Seconds of an epoch, and the part that soft targets take."""

    whole: float
    targets: float


class _Epochs:
    """Epochs of a few steps, on as many training images as these need; without `params`, without a teacher."""

    def __init__(
        self, model: nn.Module, spec: TrainingSpec, params: TrialParams | None, context: "WorkerContext"
    ) -> None:
        self._model, self._spec, self._params, self._context = model, spec, params, context

    def measure(self, seconds: float) -> tuple[Line, Line]:
        """Measure an epoch without its evaluation, and its soft targets, as functions of the number of steps."""
        labels = self._context.data.train.labels
        batch, gpu = min(self._spec.batch_size, len(labels)), labels.is_cuda
        size = batch if gpu else min(FIRST_IMAGES, batch)
        enough_s = seconds / GROWTH
        step = self._one_step(size, enough_s)
        while size < batch and step.whole < enough_s:
            size = min(GROWTH * size, batch)
            step = self._one_step(size, enough_s)
        if not gpu and FEWEST * step.whole >= seconds:
            whole, targets = (Line(each_s=part * batch / size) for part in step)
            return whole, targets
        count = len(labels) // batch
        steps = max(1, min(GPU_STEPS if gpu else STEPS, int(seconds / FEWEST / max(step.whole, SHORTEST_S)), count))
        lengths = (steps // 4, steps) if gpu and 4 <= steps < count else (steps,)
        durations = [self._median(length, batch, seconds) for length in lengths]
        whole_s, targets_s = zip(*durations, strict=True)
        return line_through(lengths, whole_s), line_through(lengths, targets_s)

    def _durations(self, steps: int, size: int) -> Iterator[_Duration]:
        """Train without end, each epoch with `steps` batches of `size` images; yield the durations of the epochs."""
        context, count = self._context, steps * size
        part = Split(context.data.train.images[:count], context.data.train.labels[:count])
        spec, watch = self._spec.model_copy(update={"evaluate_every": ENDLESS, "batch_size": size}), Stopwatch()
        epochs = train(
            self._model,
            replace(context.data, train=part),
            Recipe(spec, context.view, 1, ENDLESS, 0),
            supervision=_taught(self._params, part.labels, context) if self._params else None,
            watch=watch,
            execution=context.execution,
        )
        while True:
            watch.seconds.clear()
            whole = _seconds(lambda: next(epochs))
            yield _Duration(whole, watch.seconds["targets"])

    def _one_step(self, size: int, enough_s: float) -> _Duration:
        """Time the second step of a shape; the first takes several times as long.

        A long step is repeated, so that a single pause of the machine does not end the measurement.
        """
        durations = self._durations(1, size)
        next(durations)
        duration = next(durations)
        return min(duration, next(durations)) if duration.whole >= enough_s else duration

    def _median(self, steps: int, size: int, seconds: float) -> _Duration:
        durations = self._durations(steps, size)
        if self._context.execution.mode != "eager":
            next(durations)  # records or compiles
        measured: list[_Duration] = []
        while len(measured) < FEWEST or sum(duration.whole for duration in measured) < seconds:
            measured.append(next(durations))
        return statistics.median_high(measured)


def line_through(lengths: Sequence[int], seconds: Sequence[float]) -> Line:
    """Return the time of an epoch as a function of its steps, from the times of epochs of one or two lengths."""
    if len(lengths) == 1:
        return Line(each_s=seconds[0] / lengths[0])
    (fewer, more), (first, second) = lengths, seconds
    each_s = max(0.0, second - first) / (more - fewer)
    return Line(once_s=second - more * each_s, each_s=each_s)


def _taught(params: TrialParams, labels: Tensor, context: "WorkerContext") -> Supervision:
    logits = _random_logits(labels, context.data.num_classes)
    return supervise(params, logits=lambda _: logits, labels=labels)


def _random_logits(labels: Tensor, classes: int) -> Tensor:
    """Return random logits in the format of the cache; the label has the largest logit in most rows."""
    noise = torch.randn(len(labels), classes, generator=torch.Generator().manual_seed(0))
    noise[torch.arange(len(labels)), labels.cpu()] += 3
    return noise.half()


def _profile_s(labels: Tensor, context: "WorkerContext") -> float:
    """Measure the seconds of a teacher's profile, including its share of the teachers' agreement."""
    logits, prior = _random_logits(labels, context.data.num_classes), context.setup.space.prior

    def profiled() -> None:
        profile(logits, labels, logits, labels, isats_params=prior.params if prior.method == "isats" else None)
        agreement({"one": logits, "other": logits}, labels)

    return _seconds(profiled)

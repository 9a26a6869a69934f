"""Measure how long the parts of a study's runs take: within a second or so, whatever the network and the images.

Every time is measured on few images first and on four times as many next, until it is long enough to be told from
noise; then it is scaled to what a run works on.
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
from autodistill.ladder import SCHEME, network
from autodistill.queue.messages import Line, Probe, ProbeTask, TeacherProbe, TeacherProbeTask
from autodistill.records import EpochRecord, TrialParams
from autodistill.stopwatch import Stopwatch
from autodistill.teachers import Normalisation, Teacher, logits_of
from autodistill.teachers.profile import agreement, profile
from autodistill.teachers.teacher import BATCH, ready
from autodistill.training import Execution, Recipe, Supervision, evaluate, supervise, train
from autodistill.training.execution import EAGER

if TYPE_CHECKING:
    from autodistill.workers.tasks import Workplace

STEPS = 8
"""Steps of a measured epoch, at most: more steps tell no more about a single step."""
GPU_STEPS = 64
"""The same on a GPU, whose steps are short beside what an epoch takes once: the order and the temperatures of its
examples."""
FEWEST = 3
"""Epochs whose median counts."""
EXAMPLES = 256
"""Examples that once-a-run work is measured on, at most."""
FIRST_IMAGES, GROWTH = 2, 4
"""BatchNorm needs two images to train on."""
LONG_S, FORWARD = 0.5, 1 / 3
"""Where training on two images takes this long, a forward pass is not measured: its arithmetic is a third of a
training step's."""
SHORTEST_S = 1e-6
"""No step is shorter; a coarse clock may say so."""
ENDLESS = 10**6
"""Epochs of a run that is neither finished nor evaluated."""


class Taken(NamedTuple):
    """Seconds of an epoch, and the part of them that soft targets take."""

    whole: float
    targets: float


def measured(place: "Workplace", task: ProbeTask | TeacherProbeTask) -> Probe | TeacherProbe:
    """Answer a worker's measuring task."""
    data, space, seconds = place.data, place.setup.space, task.seconds
    if isinstance(task, ProbeTask):
        return probe_student(
            lambda: place.student(0), data, space, task.params, seconds=seconds, execution=place.execution
        )
    if not task.untrained:
        return TeacherProbe(name=task.name, view_s=view_s(place.teacher(task.name), data, seconds=seconds))
    architecture = place.setup.teachers[task.name].removeprefix(SCHEME)
    model = network(architecture, data, seed=0).to(place.device)
    training, found = probe_untrained(model, data, space, seconds=seconds, execution=place.execution)
    return TeacherProbe(name=task.name, training=training, view_s=found)


def probe_student(
    build: Callable[[], nn.Module],
    data: Data,
    space: Space,
    params: TrialParams,
    *,
    seconds: float,
    execution: Execution = EAGER,
) -> Probe:
    """Measure what the runs of a student are made of.

    Args:
        build: makes the student.
        params: a configuration with a teacher, whose logits are made up.
        seconds: about how long each part is measured.
        execution: of the training steps.
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
    return Probe(
        training=training,
        targets=targets,
        evaluation_s=forward_s or _per_image(evaluated, most=held_out, seconds=seconds / 2),
        build_s=build_s,
        fit_s=fit_s / len(few),
        profile_s=_profile_s(few.cpu(), data, space) / len(few),
    )


def probe_untrained(
    model: nn.Module, data: Data, space: Space, *, seconds: float, execution: Execution = EAGER
) -> tuple[Line, float]:
    """Measure an epoch of a ladder teacher's training by its steps, and the seconds of its logits per image."""
    # The ladder is trained in the number format of `auto`, not in the one that suits the student.
    training = space.training.model_copy(update={"precision": "auto"})
    space = space.model_copy(update={"training": training})
    epoch, _ = _epoch(_Epochs(model, data, space, lambda _: None, execution), seconds)
    known = ready(
        model,
        name="",
        uri="",
        architecture="",
        normalisation=Normalisation("data", data.mean, data.std),
        channels=data.image_shape[0],
    )
    batch = min(space.training.batch_size, len(data.train.labels))
    return epoch, _forward_s(epoch, batch) or view_s(known, data, seconds=seconds / 2)


def _forward_s(training: Line, batch: int) -> float | None:
    """Return the seconds of a forward pass per image from those of training, where measuring it would take long."""
    image_s = training.each_s / batch
    return FORWARD * image_s if FIRST_IMAGES * image_s >= LONG_S else None


def view_s(teacher: Teacher, data: Data, *, seconds: float) -> float:
    """Measure the seconds of a teacher's logits per training image."""
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
    """Median seconds of repeated work that ends with a value on the host.

    The first time is not counted: libraries choose their kernels then, and start a GPU.
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
    """Epochs of a few steps, on as many of the training images as that takes."""

    model: nn.Module
    data: Data
    space: Space
    supervise_for: Callable[[Tensor], Supervision | None]
    execution: Execution
    watch: Stopwatch = field(default_factory=Stopwatch)

    def of(self, steps: int, size: int) -> Iterator[EpochRecord]:
        """Train without end: each epoch has so many steps of batches of so many images."""
        count, spec = steps * size, self.space.training
        spec = spec.model_copy(update={"evaluate_every": ENDLESS, "batch_size": size})
        part = Split(self.data.train.images[:count], self.data.train.labels[:count])
        seen = self.space.data
        recipe = Recipe(spec, View(seen.view_seed, seen.crop, seen.flip), 1, ENDLESS, 0)
        return train(
            self.model,
            replace(self.data, train=part),
            recipe,
            supervision=self.supervise_for(part.labels),
            watch=self.watch,
            execution=self.execution,
        )

    def next(self, epochs: Iterator[EpochRecord]) -> Taken:
        self.watch.seconds.clear()
        whole = _seconds(lambda: next(epochs))
        return Taken(whole, self.watch.seconds["targets"])

    def one_step(self, size: int, *, enough_s: float) -> Taken:
        """Time the second step of a shape: the first takes several times as long.

        A step that takes `enough_s` or longer is taken once more, and the shorter time counts: a single pause of the
        machine must not end the measuring.
        """
        epochs = self.of(1, size)
        self.next(epochs)
        taken = self.next(epochs)
        return min(taken, self.next(epochs)) if taken.whole >= enough_s else taken

    def median(self, steps: int, size: int, *, seconds: float) -> Taken:
        epochs = self.of(steps, size)
        if self.execution.mode != "eager":
            next(epochs)  # records or compiles
        found: list[Taken] = []
        while len(found) < FEWEST or sum(it.whole for it in found) < seconds:
            found.append(self.next(epochs))
        return sorted(found)[len(found) // 2]


def _epoch(epochs: _Epochs, seconds: float) -> tuple[Line, Line]:
    """Measure an epoch without its evaluation by its steps, and the part of it that soft targets take."""
    labels = epochs.data.train.labels
    batch, gpu = min(epochs.space.training.batch_size, len(labels)), labels.is_cuda
    size = batch if gpu else min(FIRST_IMAGES, batch)
    enough_s = seconds / GROWTH
    one = epochs.one_step(size, enough_s=enough_s)
    while size < batch and one.whole < enough_s:
        size = min(GROWTH * size, batch)
        one = epochs.one_step(size, enough_s=enough_s)
    if not gpu and FEWEST * one.whole >= seconds:
        whole, targets = (Line(each_s=it * batch / size) for it in one)
        return whole, targets
    count = len(labels) // batch
    steps = max(1, min(GPU_STEPS if gpu else STEPS, int(seconds / FEWEST / max(one.whole, SHORTEST_S)), count))
    lengths = (steps // 4, steps) if gpu and 4 <= steps < count else (steps,)
    taken = [epochs.median(length, batch, seconds=seconds) for length in lengths]
    return line_through(lengths, [it.whole for it in taken]), line_through(lengths, [it.targets for it in taken])


def line_through(lengths: Sequence[int], seconds: Sequence[float]) -> Line:
    """Return the time of an epoch by its steps, from one epoch in proportion or through the epochs of two lengths."""
    if len(lengths) == 1:
        return Line(each_s=seconds[0] / lengths[0])
    (short, long), (first, second) = lengths, seconds
    each_s = max(0.0, second - first) / (long - short)
    return Line(once_s=second - long * each_s, each_s=each_s)


def _taught(params: TrialParams, labels: Tensor, data: Data, space: Space) -> Supervision:
    logits = _made_up(labels, data)
    return supervise(params, logits=lambda _: logits, labels=labels, loss=space.search.loss)


def _made_up(labels: Tensor, data: Data) -> Tensor:
    """Make up logits as the cache holds them, most of them with the label on top."""
    noise = torch.randn(len(labels), data.num_classes, generator=torch.Generator().manual_seed(0))
    noise[torch.arange(len(labels)), labels.cpu()] += 3
    return noise.half()


def _profile_s(labels: Tensor, data: Data, space: Space) -> float:
    """Measure the seconds of a profile, with a share of the teachers' agreement."""
    logits, prior = _made_up(labels, data), space.prior
    params = prior.params if prior.rule == "isats" else None
    begun = time.perf_counter()
    profile(logits, labels, logits, labels, isats_params=params)
    agreement({"one": logits, "other": logits}, labels)
    return time.perf_counter() - begun

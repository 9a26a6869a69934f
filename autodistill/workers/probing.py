"""Measuring what the parts of a study take, by doing a little of each on the worker that will do them."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from autodistill.data import Data, Split
from autodistill.ladder import SCHEME, network
from autodistill.profile import MOST_ROWS, agreement, profile
from autodistill.queue.messages import Probe, ProbeTask, TeacherProbe, TeacherProbeTask
from autodistill.records import EpochRecord, TrialParams
from autodistill.space import Space
from autodistill.stopwatch import Stopwatch
from autodistill.teachers import Normalisation, Teacher, logits_of
from autodistill.teachers.teacher import BATCH, ready
from autodistill.trainer import Execution, Recipe, Supervision, evaluate, supervise, train
from autodistill.trainer.execution import EAGER
from autodistill.views import View

if TYPE_CHECKING:
    from autodistill.workers.tasks import Workplace

STEPS = 8
"""Of a measured epoch, at most: more tell no more about one."""
GPU_STEPS = 64
"""Likewise on a GPU, whose steps are short beside what an epoch takes once (its order, its temperatures).
An estimate: not measured on a GPU."""
FEWEST = 3
"""Times that something is done of which the median counts."""
EXAMPLES = 256
"""At most, where all examples are worked on at once."""
FIRST_IMAGES = 4
ENDLESS = 10**6
"""Epochs of a run that is never over, nor evaluated."""


def measured(place: "Workplace", task: ProbeTask | TeacherProbeTask) -> Probe | TeacherProbe:
    """What a worker's task of measuring finds."""
    data, space, seconds = place.data, place.setup.space, task.seconds
    if isinstance(task, ProbeTask):
        return probe_student(
            lambda: place.student(0), data, space, task.params, seconds=seconds, execution=place.execution
        )
    if not task.untrained:
        teacher = place.teacher(task.name)
        missing = place.cache.missing(teacher, place.setup.views)
        return TeacherProbe(
            name=task.name, training_s=0.0, view_s=view_s(teacher, data, seconds=seconds), views=missing
        )
    architecture = place.setup.teachers[task.name].removeprefix(SCHEME)

    def built() -> nn.Module:
        return network(architecture, data, seed=0).to(place.device)

    training_s, found = probe_untrained(built, data, space, seconds=seconds, execution=place.execution)
    return TeacherProbe(name=task.name, training_s=training_s, view_s=found, views=tuple(range(place.setup.views)))


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
        seconds: for each thing measured; it is done at least once after a first time that does not count.
        execution: of the training steps.
    """
    begun = time.monotonic()
    model = build()
    build_s = time.monotonic() - begun
    some = Split(data.train.images[:EXAMPLES], data.train.labels[:EXAMPLES])
    many = len(data.train.labels) / len(some.labels)
    taught = _taught(params, some.labels, data, space)
    epoch_s, targets_s = _epoch_s(
        model, data, space, lambda labels: _taught(params, labels, data, space), seconds, execution
    )
    held = Split(data.validation.images[:EXAMPLES], data.validation.labels[:EXAMPLES])
    share = len(data.validation.labels) / len(held.labels)
    precision = space.training.precision
    evaluation_s = _mean_s(lambda: evaluate(copy.deepcopy(model), held, data, precision=precision), seconds / 2)
    fit_s = _mean_s(lambda: _taught(params, some.labels, data, space), 0.0) + _mean_s(
        lambda: taught.summary(some.labels), 0.0
    )
    return Probe(
        epoch_s=epoch_s - targets_s,
        targets_s=targets_s,
        validation_s=evaluation_s * share,
        run_s=build_s + fit_s * many,
        profile_s=_profile_s(some.labels.cpu(), data, space) * min(many, MOST_ROWS / len(some.labels)),
    )


def probe_untrained(
    build: Callable[[], nn.Module], data: Data, space: Space, *, seconds: float, execution: Execution = EAGER
) -> tuple[float, float]:
    """Seconds of an epoch of a ladder teacher's training, and of its logits on a view."""
    model = build()
    # The ladder is trained in the format that `auto` is, whatever suits the student.
    training = space.training.model_copy(update={"precision": "auto"})
    space = space.model_copy(update={"training": training})
    training_s, _ = _epoch_s(model, data, space, lambda _: None, seconds, execution)
    known = ready(
        model,
        name="",
        uri="",
        architecture="",
        normalisation=Normalisation("data", data.mean, data.std),
        channels=data.image_shape[0],
    )
    return training_s, view_s(known, data, seconds=seconds)


def view_s(teacher: Teacher, data: Data, *, seconds: float) -> float:
    """Seconds of a teacher's logits on a view: those of ever more images until they take long enough to tell."""
    everything = len(data.train.labels)
    size, took = min(FIRST_IMAGES, everything), 0.0
    while True:
        images = data.train.images[:size]
        took = _mean_s(lambda images=images: logits_of(teacher, images).cpu(), 0.0)  # type: ignore[misc]
        if took >= seconds / 4 or size >= min(BATCH, everything):
            return took / size * everything
        size = min(4 * size, BATCH, everything)


def _epoch_s(
    model: nn.Module,
    data: Data,
    space: Space,
    supervise_for: Callable[[Tensor], Supervision | None],
    seconds: float,
    execution: Execution,
) -> tuple[float, float]:
    """Seconds of an epoch without its validation, and its soft targets' part of them: medians of short ones."""
    watch = Stopwatch()

    def epochs_of(steps: int) -> Iterator[EpochRecord]:
        return _short_epochs(model, data, space, supervise_for, steps=steps, execution=execution, watch=watch)

    def median(steps: int) -> tuple[float, float]:
        epochs, taken = epochs_of(steps), list[tuple[float, float]]()
        if execution.mode != "eager":
            next(epochs)  # records or compiles
        while len(taken) < FEWEST or sum(it for it, _ in taken) < seconds:
            taken.append(_timed(epochs, watch))
        return sorted(taken)[len(taken) // 2]

    epochs, gpu = epochs_of(1), data.train.labels.is_cuda
    next(epochs)  # the first step of a shape takes several times as long as the others
    one_s, _ = _timed(epochs, watch)
    count = _step_count(data, space)
    steps = max(1, min(GPU_STEPS if gpu else STEPS, int(seconds / FEWEST / one_s), count))
    lengths = (steps // 4, steps) if gpu and 4 <= steps < count else (steps,)
    whole, targets = zip(*map(median, lengths), strict=True)
    return extrapolated(lengths, whole, count), extrapolated(lengths, targets, count)


def extrapolated(lengths: Sequence[int], seconds: Sequence[float], steps: int) -> float:
    """Seconds of an epoch of so many steps, from one shorter epoch in proportion, or along the line through two."""
    if len(lengths) == 1:
        return seconds[0] * steps / lengths[0]
    (short, long), (first, second) = lengths, seconds
    return second + max(0.0, second - first) / (long - short) * (steps - long)


def _step_count(data: Data, space: Space) -> int:
    return max(1, len(data.train.labels) // space.training.batch_size)


def _short_epochs(
    model: nn.Module,
    data: Data,
    space: Space,
    supervise_for: Callable[[Tensor], Supervision | None],
    *,
    steps: int,
    execution: Execution,
    watch: Stopwatch,
) -> Iterator[EpochRecord]:
    """Train on as many images as that many steps take, for ever."""
    size = steps * space.training.batch_size
    part = Split(data.train.images[:size], data.train.labels[:size])
    spec = space.training.model_copy(update={"evaluate_every": ENDLESS})
    view = View(space.data.view_seed, space.data.crop, space.data.flip)
    recipe, part_of = Recipe(spec, view, 1, ENDLESS, 0), replace(data, train=part)
    return train(model, part_of, recipe, supervision=supervise_for(part.labels), watch=watch, execution=execution)


def _timed(epochs: Iterator[EpochRecord], watch: Stopwatch) -> tuple[float, float]:
    """Seconds of the next epoch, and of its soft targets."""
    watch.seconds.clear()
    begun = time.monotonic()
    next(epochs)
    return time.monotonic() - begun, watch.seconds["targets"]


def _taught(params: TrialParams, labels: Tensor, data: Data, space: Space) -> Supervision:
    logits = _made_up(labels, data)
    return supervise(params, logits=lambda _: logits, labels=labels, loss=space.search.loss)


def _made_up(labels: Tensor, data: Data) -> Tensor:
    """Logits as the cache holds them: half of them with the label on top."""
    noise = torch.randn(len(labels), data.num_classes, generator=torch.Generator().manual_seed(0))
    noise[torch.arange(len(labels)), labels.cpu()] += 3
    return noise.half()


def _profile_s(labels: Tensor, data: Data, space: Space) -> float:
    """Seconds of a profile, with a share of the teachers' agreement."""
    logits, prior = _made_up(labels, data), space.prior
    params = prior.params if prior.rule == "isats" else None
    begun = time.monotonic()
    profile(logits, labels, logits, labels, isats_params=params)
    agreement({"one": logits, "other": logits}, labels)
    return time.monotonic() - begun


def _mean_s(work: Callable[[], object], seconds: float) -> float:
    """Mean seconds of something that ends with a value on the host, after a first time."""
    work()
    begun, done = time.monotonic(), 0
    while not done or time.monotonic() - begun < seconds:
        work()
        done += 1
    return (time.monotonic() - begun) / done

"""A training step, against a bare forward and backward pass, and against the way it is done by hand.

    python tests/bench/step.py [--check] [--rounds 3]

CIFAR-shaped random images (3x32x32, 100 classes) with the labels that the teacher gives them, batches of 128, one
thread on all sides, ISATS targets. Per round the plain side trains one epoch of a few steps, then the bare side and
ours take turns, three epochs each, in one process.

- `plain`, by hand: a torchvision pipeline of PIL images in a DataLoader without worker processes, the teacher under
  `no_grad` and the usual loss.
- `bare`: the student alone, without a teacher, on one batch that is ready: cross-entropy, backward pass, SGD, in the
  number format that the trainer chose.
- `ours`: the trainer. Its epoch includes the search for tau_other and reading the teacher's logits, but not the
  teacher's own pass, which a study pays once per view and shares between all of its trials. `soft targets` is the
  share of temperatures and probabilities in a step, for the few images of this bench; `of 50,000` is the share for a
  view of so many images, where the fixed time of the search no longer counts.

The first table has the step of every method against the step of TS: MobileNetV2 x0.5, batches of 64, the settings of
the registry. The sides take turns within a round. `step` is the step without `prepared`, which is what the method
computes once per view of 50,000 images, as a part of a step; `over TS` is the ratio of their sums, with the 95 %
interval of its mean over the rounds. The step's own noise is larger than any loss, so `loss` is the loss with its
gradient alone, and `by parts` is the step of TS with the loss and the prepared part of the method in place of its own.
`--methods` measures this table only.

`--check` exits 1 where a method takes over 1.02 times the step of TS, by its parts or by its whole interval; where our
step takes over 1.1 times the bare one, where the soft targets take 1 % of it or more, or
where it is not 4 times (teacher like ResNet-110) or 15 times (like WRN-28-8) faster than the plain one. The processor
gives the kernels of teacher and student different speeds: `bare` shows what it allows.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from autodistill import methods
from autodistill.config import TrainingSpec
from autodistill.data import Data, Split, normalise
from autodistill.data.views import View
from autodistill.logit_cache import LogitCache
from autodistill.methods import METHODS
from autodistill.models import build
from autodistill.models.networks import Shape, wide_resnet
from autodistill.records import TrialParams
from autodistill.stopwatch import Stopwatch
from autodistill.teachers.teacher import Normalisation, Teacher, ready
from autodistill.training import Recipe, supervise, train
from autodistill.training.probing import faster_precision
from autodistill.training.step import Precision, autocast

BATCH, CLASSES = 128, 100
STEPS, PLAIN_STEPS, VIEW_IMAGES = 8, 3, 50_000
STUDENTS = ("vgg8", "mobilenetv2:0.5")
TEACHERS: dict[str, Callable[[], nn.Module]] = {
    "resnet110": partial(build, "resnet110", num_classes=CLASSES, in_channels=3, image_size=32, seed=0),
    "wrn_28_8": lambda: wide_resnet(Shape(CLASSES, 3, 1.0, (1, 2, 2)), depth=28, widen=8),
}
LEAST = {"resnet110": 4.0, "wrn_28_8": 15.0}
TURNS = 3
"""Epochs of the bare and our side for each of the plain side, which takes many times as long."""
MOST_OVER_BARE, MOST_SOFT = 1.1, 0.01
METHOD_BATCH, METHOD_STEPS, METHOD_ROUNDS, METHOD_LOSSES, MOST_OVER_TS = 64, 6, 20, 200, 1.02
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images as most scripts have them: PIL, cropped, flipped and normalised one by one."""

    def __init__(self, split: Split) -> None:
        self.pictures = [transforms.functional.to_pil_image(image) for image in split.images]
        self.labels = split.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[place]), self.labels[place]


def student(name: str) -> nn.Module:
    stem = 2 if name.startswith("mobilenetv2") else None
    return build(name, num_classes=CLASSES, in_channels=3, image_size=32, seed=0, stem_stride=stem)


def plain(name: str, teacher: nn.Module, data: Data) -> Callable[[], float]:
    """Seconds of a step, by hand: temperature scaling with tau 4, soft weight 0.9."""
    few = Split(data.train.images[: PLAIN_STEPS * BATCH], data.train.labels[: PLAIN_STEPS * BATCH])
    model, loader = student(name), DataLoader(Pictures(few), BATCH, shuffle=True)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    teacher.eval()

    def epoch() -> float:
        begun = time.perf_counter()
        model.train()
        for images, labels in loader:
            with torch.no_grad():
                taught = teacher(images)
            output = model(images)
            soft = functional.kl_div((output / 4).log_softmax(1), (taught / 4).softmax(1), reduction="batchmean")
            loss = 0.1 * functional.cross_entropy(output, labels) + 0.9 * 16 * soft
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return (time.perf_counter() - begun) / PLAIN_STEPS

    return epoch


def bare(model: nn.Module, data: Data, precision: Precision) -> Callable[[], float]:
    """Seconds of a step of the student alone."""
    model.to(memory_format=torch.channels_last).train()
    images, labels = data.train.images[:BATCH], data.train.labels[:BATCH]
    batch = normalise(images, mean=MEAN, std=STD).contiguous(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=True)

    def epoch() -> float:
        begun = time.perf_counter()
        for _ in range(STEPS):
            with autocast(batch.device, precision):
                output = model(batch)
            optimiser.zero_grad()
            functional.cross_entropy(output.float(), labels).backward()
            optimiser.step()
        return (time.perf_counter() - begun) / STEPS

    return epoch


class Ours(NamedTuple):
    epoch: Callable[[], float]
    """Seconds of a step of the trainer, its soft targets included, with every view's logits in the cache."""
    watch: Stopwatch
    """What temperatures took."""
    search: Callable[[], float]
    """Seconds of the temperatures of a batch, as a part of a view of `VIEW_IMAGES`."""
    soften: Callable[[], float]
    """Seconds of a batch's soft targets, which a step makes of them."""
    precision: Precision


def ours(name: str, data: Data, cache: LogitCache, teacher: Teacher) -> Ours:
    precision = faster_precision(lambda: student(name), torch.randn(BATCH, 3, 32, 32))
    spec = TrainingSpec(epochs=10**6, batch_size=BATCH, lr=0.05, precision=precision, evaluate_every=10**6)
    params = TrialParams(teacher="t", method="isats", method_params={"target_ratio": 5 / 3}, soft_weight=0.5)
    taught = supervise(
        params,
        logits=lambda number: cache.training(teacher, number),
        labels=data.train.labels,
    )
    watch = Stopwatch()
    recipe = Recipe(spec, View(0, 4, True), 1, 10**6, 0)
    epochs = train(student(name), data, recipe, supervision=taught, watch=watch)

    def epoch() -> float:
        begun = time.perf_counter()
        next(epochs)
        return (time.perf_counter() - begun) / STEPS

    repeats = VIEW_IMAGES // len(data.train.labels)
    logits, labels = cache.training(teacher, 0).repeat(repeats, 1), data.train.labels.repeat(repeats)
    many = taught._replace(logits=lambda _: logits)
    batch, view = torch.arange(BATCH), taught.view(0, data.train.labels)

    def search() -> float:
        begun = time.perf_counter()
        many.view(0, labels)
        return (time.perf_counter() - begun) * BATCH / len(labels)

    def soften() -> float:
        begun = time.perf_counter()
        rows = view.rows(batch)
        temperatures = methods.Temperatures(rows.prepared["tau_target"], rows.prepared["tau_other"], "other_max")
        methods.soften(rows.logits, data.train.labels[batch], temperatures)
        return time.perf_counter() - begun

    return Ours(epoch, watch, search, soften, precision)


class Distilled(NamedTuple):
    """The student with a method."""

    epoch: Callable[[], float]
    """Seconds of a step, without what is prepared per view."""
    prepare: Callable[[], float]
    """Seconds of what is prepared for a batch, as a part of a view of `VIEW_IMAGES`."""
    loss: Callable[[], float]
    """Seconds of the loss of a batch and its gradient with respect to the student's logits."""


def distilled(method: str, data: Data, logits: Tensor, precision: Precision) -> Distilled:
    settings = dict(METHODS[method].settings)
    common = {key: settings.pop(key) for key in ("soft_weight", "tau_student") if key in settings}
    follows = METHODS[method].tau_student_from
    if follows:
        common["tau_student"] = settings[follows]
    params = TrialParams.model_validate({"teacher": "t", "method": method, "method_params": settings, **common})
    labels = data.train.labels
    taught = supervise(params, logits=lambda _: logits, labels=labels)
    spec = TrainingSpec(epochs=10**6, batch_size=METHOD_BATCH, lr=0.05, precision=precision, evaluate_every=10**6)
    watch, recipe = Stopwatch(), Recipe(spec, View(0, 4, True), 1, 10**6, 0)
    epochs = train(student("mobilenetv2:0.5"), data, recipe, supervision=taught, watch=watch)

    def epoch() -> float:
        watch.seconds.clear()
        begun = time.perf_counter()
        next(epochs)
        return (time.perf_counter() - begun - watch.seconds["targets"]) / METHOD_STEPS

    repeats = VIEW_IMAGES // len(labels)
    many, names = taught._replace(logits=lambda _: logits.repeat(repeats, 1)), labels.repeat(repeats)

    def prepare() -> float:
        begun = time.perf_counter()
        many.view(0, names)
        return (time.perf_counter() - begun) * METHOD_BATCH / len(names)

    rows, own = taught.view(0, labels).rows(torch.arange(METHOD_BATCH)), torch.randn(METHOD_BATCH, CLASSES)
    leaf, compute = own.requires_grad_(), taught.loss

    def loss() -> float:
        begun = time.perf_counter()
        found = compute(leaf, rows.logits, labels[:METHOD_BATCH], rows.prepared, None)
        torch.autograd.grad(found.total, leaf)
        return time.perf_counter() - begun

    return Distilled(epoch, prepare, loss)


def methods_over_ts(*, rounds: int) -> list[str]:
    """Print the table of methods; return the methods that cost more than is asked for."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (METHOD_STEPS * METHOD_BATCH, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (len(images),), generator=generator)
    logits = torch.randn(len(images), CLASSES, generator=generator) * 2
    logits[torch.arange(len(images)), labels] += 8
    part = Split(images.contiguous(memory_format=torch.channels_last), labels)
    few = Split(part.images[:METHOD_BATCH], labels[:METHOD_BATCH])
    data = Data("random", tuple(map(str, range(CLASSES))), part, few, few, MEAN, STD, "random")
    precision = faster_precision(lambda: student("mobilenetv2:0.5"), torch.randn(METHOD_BATCH, 3, 32, 32))
    sides = {name: distilled(name, data, logits.half(), precision) for name in METHODS}
    for side in sides.values():
        side.epoch()
    steps: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for number in range(rounds):
        turn = number % len(order)
        for name in (*order[turn:], *order[:turn]):
            steps[name].append(sides[name].epoch())
    prepared = {name: min(side.prepare() for _ in range(3)) for name, side in sides.items()}
    print(f"\nMobileNetV2 x0.5 with each method, batches of {METHOD_BATCH}; ms, median of {rounds} rounds; {precision}")
    losses: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(METHOD_LOSSES):
        for name, side in sides.items():
            losses[name].append(side.loss())
    extra = {name: float(np.median(losses[name])) + prepared[name] for name in sides}
    print(f"{'method':8} {'step':>8} {'prepared':>9} {'loss':>7} {'by parts':>9} {'over TS':>8}  95 % interval")
    short = []
    base = np.add(steps["ts"], prepared["ts"])
    for name in sides:
        ratios = np.divide(np.add(steps[name], prepared[name]), base)
        centre, half = float(ratios.mean()), 1.96 * float(ratios.std(ddof=1)) / len(ratios) ** 0.5
        by_parts = 1 + (extra[name] - extra["ts"]) / float(np.median(base))
        times = f"{1e3 * np.median(steps[name]):8.2f} {1e3 * prepared[name]:9.3f} {1e3 * np.median(losses[name]):7.3f}"
        interval = f"{centre - half:.3f} to {centre + half:.3f}"
        print(f"{name:8} {times} {by_parts:9.4f} {centre:8.3f}  {interval}", flush=True)
        if by_parts > MOST_OVER_TS or centre - half > MOST_OVER_TS:
            short.append(f"{name} {by_parts:.3f} (by parts) and {centre:.3f} times TS")
    return short


def settle(teacher: nn.Module, images: Tensor) -> None:
    """Give an untrained network's batch norms the statistics of a batch: its logits would not fit into the cache."""
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        teacher.train()(normalise(images[:32], mean=MEAN, std=STD))
    teacher.eval()


def images_for(steps: int, teacher: nn.Module) -> Data:
    """Random images; where the teacher's logits have another class on top, ISATS searches nothing."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (steps * BATCH, 3, 32, 32), generator=generator, dtype=torch.uint8)
    settle(teacher, images)
    with torch.no_grad():
        labels = torch.cat([teacher(normalise(it, mean=MEAN, std=STD)).argmax(1) for it in images.split(BATCH)])
    part = Split(images.contiguous(memory_format=torch.channels_last), labels)
    few = Split(part.images[:BATCH], labels[:BATCH])
    return Data("random", tuple(map(str, range(CLASSES))), part, few, few, MEAN, STD, "random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 where a figure falls short")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each side, after one that is not counted")
    parser.add_argument("--methods", action="store_true", help="measure only the step of every method against TS")
    args = parser.parse_args()
    torch.set_num_threads(1)
    short = methods_over_ts(rounds=METHOD_ROUNDS)
    if args.methods:
        finish(short, check=args.check)
        return
    print(
        f"ms per step: median (p99) of {args.rounds} rounds of {PLAIN_STEPS} plain and {TURNS} x {STEPS} other steps; "
        f"torch {torch.__version__}, one thread"
    )
    heads = ("plain", "bare", "ours", "plain/ours", "ours/bare", "soft targets", "of 50,000")
    print("{:16} {:10} {:>13} {:>10} {:>10} {:>11} {:>10} {:>13} {:>9}  format".format("student", "teacher", *heads))
    for teacher_name, make in TEACHERS.items():
        teacher = make()
        data = images_for(STEPS, teacher)
        with TemporaryDirectory() as folder:
            for name in STUDENTS:
                row = compared(name, teacher, data, Path(folder), rounds=args.rounds)
                if not show(name, teacher_name, row):
                    short.append(f"{name} from {teacher_name}")
    finish(short, check=args.check)


def finish(short: Sequence[str], *, check: bool) -> None:
    """Exit with 1 where figures fall short."""
    if check and short:
        sys.exit("short of the list: " + "; ".join(short))


class Row(NamedTuple):
    """Seconds of a step on each side: `TURNS` epochs of the bare and our side follow each of the plain side."""

    plain: Sequence[float]
    bare: Sequence[float]
    ours: Sequence[float]
    soft: float
    """Share of the soft targets in our step."""
    soft_of_many: float
    """The same for a view of `VIEW_IMAGES`."""
    precision: Precision


def show(name: str, teacher: str, row: Row) -> bool:
    """Print a row; returns whether it is what is asked for."""
    spelt = [f"{1e3 * np.median(it):.0f} ({1e3 * np.quantile(it, 0.99):.0f})" for it in row[:3]]
    times = float(np.median(row.plain) / np.median(row.ours))
    over = float(np.median(np.divide(row.ours, row.bare)))
    sides = "{:>13} {:>10} {:>10}".format(*spelt)
    shares = f"{row.soft:13.2%} {row.soft_of_many:9.2%}"
    print(f"{name:16} {teacher:10} {sides} {times:11.1f} {over:10.2f} {shares}  {row.precision}", flush=True)
    return times >= LEAST[teacher] and over <= MOST_OVER_BARE and row.soft < MOST_SOFT


def compared(name: str, teacher: nn.Module, data: Data, folder: Path, *, rounds: int) -> Row:
    """Time the sides in turns."""
    known = Teacher(
        name="t",
        uri="t",
        architecture="t",
        module=copy.deepcopy(teacher),
        normalisation=Normalisation("data", MEAN, STD),
        channels=3,
    )
    known = ready(known)  # changes the layout of what it gets
    cache = LogitCache(folder, data=data, view=View(0, 4, True), say=print)
    by_hand = plain(name, teacher, data)
    by_us = ours(name, data, cache, known)
    alone = bare(student(name), data, by_us.precision)
    by_hand(), alone(), by_us.epoch(), by_us.search(), by_us.soften()
    by_us.watch.seconds.clear()
    slow, least, fast = list[float](), list[float](), list[float]()
    searching, softening = list[float](), list[float]()
    for _ in range(rounds):
        slow.append(by_hand())
        for _ in range(TURNS):
            least.append(alone())
            fast.append(by_us.epoch())
            searching.append(by_us.search())
            softening += [by_us.soften() for _ in range(STEPS)]
    probs = sum(softening) / STEPS
    few, many = by_us.watch.seconds["targets"] / STEPS + probs, sum(searching) + probs
    return Row(slow, least, fast, few / sum(fast), many / sum(fast), by_us.precision)


if __name__ == "__main__":
    main()

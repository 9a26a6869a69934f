"""A whole study, against the way it is done by hand: full-length trials one after another, the teacher in every step.

    python tests/bench/study.py [--check] [--student mobilenetv2:0.5] [--sides resnet110 wrn] [--teachers 1]

Both sides choose temperatures and weight (and among `--teachers`) for the same student on the same slice of
CIFAR-shaped images (3x32x32, 10 classes, batches of 128, random crops and flips) and spend the same epochs: 20 full
trainings.

The plain side is `optuna`'s loop over full-length trials: TPE over teacher, temperature and weight, PIL transforms in
a DataLoader, the teacher under `no_grad` in every step, a validation after every epoch, torch's default threads or
one, whichever makes the faster step here. 20 trials of it would take too long: the median of `n` is taken times 20.
Our side is the command, `autodistill search --budget 20`, with two workers and a cache that is empty. `took` is all
of the process; `start-up` is what of it does not grow with the study (imports, checks, workers, measuring, the
report). `times` counts everything; `without` leaves the start-up out, because the slice is small and a study is not.

The teachers are networks at random whose last layer is fitted to their features by least squares: a step with them
costs what it does with trained ones. There is no WRN-28-8 among the known networks; the wide one is a WRN-16-2 of 5.8
times the width, with as many multiplications (3.4 G for an image).

How many times longer the plain side takes is a property of the processor too, which gives the kernels of teacher and
student different speeds. `bare` is what a study cannot do without, shared evenly by the workers: 20 trainings of the
student alone, from the time of a bare forward and backward pass (`step.py`), and each teacher's forward pass over
every view. `of bare` is our time without the start-up in multiples of it.

`--check` exits 1 where that is more than 1.25, or where a study takes over 1/5 (teachers like a ResNet-110) or 1/12
(like a WRN-28-8) of the plain side's time. The message then says what `bare` allows on this processor.

23 November 2026, 2 cores of an AMD EPYC, torch 2.15, MobileNetV2 x0.5. One ResNet-110 as teacher, 512 images x 16
epochs: a plain trial 50.6 s (p99 54.2, n = 3, two threads), 20 of them 1,012 s; ours 179.1 s, 13.0 s of it start-up:
5.7 times, 6.1 without start-up. One WRN-28-8, 256 images x 8 epochs: a plain trial 94.0 s (p99 99.1, n = 2), 20 of
them 1,881 s; ours 141.3 s, 14.5 s of it start-up: 13.3 times, 14.8 without start-up.

27 November 2026, 2 cores of another machine, torch 2.14.1: 4.1 times (n = 3; 4.5 without start-up; 133.0 s, 1.12 of
bare) and 14.2 times (n = 2; 16.4; 77.0 s, 1.16 of bare). The commit before the executors were rebuilt, the same
day: 4.1 times (132.8 s) and 13.4 times (81.3 s).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import optuna
import torch
from PIL import Image
from step import Pictures, bare, settle
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from autodistill import data as datasets
from autodistill.config import DataSpec
from autodistill.data import Data, normalise
from autodistill.models import build
from autodistill.teachers import save
from autodistill.training.probing import faster_precision

BATCH, CLASSES, BUDGET = 128, 10, 20


class Slice(NamedTuple):
    architecture: str
    images: int
    epochs: int
    trials: int
    """Plain ones that are timed, before and after ours by turns."""
    least: float


SLICES = {
    "resnet110": Slice("resnet110", 512, 16, 3, 5.0),
    "wrn": Slice("wrn_16_2:5.8", 256, 8, 2, 12.0),
}
HELD_OUT = 128
MOST_OF_BARE = 1.25


class Ours(NamedTuple):
    took_s: float
    start_up_s: float
    phases_s: Mapping[str, float]


def write_images(place: Path, images: int) -> None:
    """Classes are patterns of 4x4 colours under noise."""
    draw = np.random.default_rng(0)
    patterns = draw.integers(64, 192, (CLASSES, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    for part, count in (("train", images + HELD_OUT), ("test", HELD_OUT)):
        for number in range(count):
            label = number % CLASSES
            pixels = patterns[label] + draw.normal(0, 40, (32, 32, 3))
            folder = place / part / f"class {label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")


def write_teachers(place: Path, data: Data, architecture: str, *, count: int) -> dict[str, nn.Module]:
    """Networks of one kind, in files that a search may name."""
    found = {}
    for seed in range(count):
        name = f"teacher{seed}"
        module = build(architecture, num_classes=CLASSES, in_channels=3, image_size=32, seed=seed)
        settle(module, data.train.images)
        _fit_last_layer(module, data)
        save(place / f"{name}.safetensors", module, architecture=architecture, data=data)
        found[name] = module.eval()
    return found


def _fit_last_layer(module: nn.Module, data: Data) -> None:
    """Least squares from the features of some images to their labels."""
    last = [it for it in module.modules() if isinstance(it, nn.Linear)][-1]
    seen: list[Tensor] = []
    hook = last.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.no_grad():
        module(normalise(data.train.images[:BATCH], mean=data.mean, std=data.std))
        hook.remove()
        features = torch.cat([seen[0], torch.ones(len(seen[0]), 1)], dim=1)
        wanted = 8 * functional.one_hot(data.train.labels[: len(features)], CLASSES).float()
        gram = features.T @ features + 0.1 * torch.eye(features.shape[1])
        weights = torch.linalg.solve(gram, features.T @ wanted)
        last.weight.copy_(weights[:-1].T)
        last.bias.copy_(weights[-1])


def plain_step(model: nn.Module, teacher: nn.Module, optimiser: torch.optim.Optimizer, batch: Sequence[Tensor]) -> None:
    images, labels, tau, weight = batch
    with torch.no_grad():
        taught = teacher(images)
    output = model(images)
    soft = functional.kl_div((output / tau).log_softmax(1), (taught / tau).softmax(1), reduction="batchmean")
    loss = (1 - weight) * functional.cross_entropy(output, labels) + weight * tau**2 * soft
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def student(name: str) -> nn.Module:
    stem = 2 if name.startswith("mobilenetv2") else None
    return build(name, num_classes=CLASSES, in_channels=3, image_size=32, seed=0, stem_stride=stem)


class Plain:
    """The loop that people write."""

    def __init__(self, name: str, teachers: Mapping[str, nn.Module], data: Data, epochs: int) -> None:
        self.name, self.teachers, self.epochs = name, teachers, epochs
        self.train = DataLoader(Pictures(data.train), BATCH, shuffle=True, drop_last=True)
        held_out = Pictures(data.validation)
        held_out.transform.transforms = held_out.transform.transforms[-2:]  # nothing random
        self.held_out = DataLoader(held_out, BATCH)
        self.seconds: list[float] = []
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))

    def trial(self, trial: optuna.Trial) -> float:
        """Train in full; returns the validation accuracy."""
        teacher = self.teachers[trial.suggest_categorical("teacher", list(self.teachers))]
        tau, weight = trial.suggest_float("tau", 1, 16, log=True), trial.suggest_float("soft_weight", 0.1, 0.9)
        model = student(self.name)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.epochs)
        right = 0.0
        for _ in range(self.epochs):
            model.train()
            for images, labels in self.train:
                plain_step(model, teacher, optimiser, (images, labels, torch.tensor(tau), torch.tensor(weight)))
            schedule.step()
            right = self.validate(model)
        return right

    def validate(self, model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in self.held_out)
        return right / HELD_OUT

    def run(self) -> None:
        """One trial more."""
        begun = time.perf_counter()
        self.study.optimize(self.trial, n_trials=1)
        self.seconds.append(time.perf_counter() - begun)

    def best_threads(self, most: int) -> int:
        """One thread or torch's own choice: whichever makes the faster step."""
        model, teacher = student(self.name), next(iter(self.teachers.values()))
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
        images, labels = next(iter(self.train))
        took = {}
        for threads in (1, most):
            torch.set_num_threads(threads)
            for _ in range(2):
                begun = time.perf_counter()
                plain_step(model, teacher, optimiser, (images, labels, torch.tensor(4.0), torch.tensor(0.5)))
                took[threads] = time.perf_counter() - begun
        return min(took, key=lambda it: took[it])


def bare_study(name: str, teachers: Mapping[str, nn.Module], data: Data, chosen: Slice, *, workers: int) -> float:
    """Seconds that the bare steps of 20 trainings and the teachers' views take on the workers, one thread each."""
    model = student(name)
    precision = faster_precision(lambda: student(name), torch.randn(BATCH, 3, 32, 32))
    torch.set_num_threads(1)
    epoch = bare(model, data, precision)
    epoch()
    steps = chosen.epochs * (chosen.images // BATCH)
    training = BUDGET * steps * statistics.median(epoch() for _ in range(3))
    batch = normalise(data.train.images[:BATCH], mean=data.mean, std=data.std)
    views = 0.0
    for teacher in teachers.values():
        seconds = []
        for _ in range(2):
            begun = time.perf_counter()
            with torch.no_grad():
                teacher(batch)
            seconds.append(time.perf_counter() - begun)
        views += steps * min(seconds)
    return (training + views) / workers


def ours(name: str, place: Path, chosen: Slice, *, workers: int, teachers: Sequence[str]) -> Ours:
    """Time the command."""
    settings = {
        "data.name": f"folder:{place / 'images'}",
        "data.validation": HELD_OUT,
        "data.train": chosen.images,
        "data.crop": 4,
        "data.flip": True,
        "training.epochs": chosen.epochs,
        "training.batch_size": BATCH,
        "training.lr": 0.05,
    }
    if name.startswith("mobilenetv2"):
        settings["student.stem_stride"] = 2
    flags = [it for key, value in settings.items() for it in ("--set", f"{key}={json.dumps(value)}")]
    flags += [it for teacher in teachers for it in ("--teacher", f"file:{place / teacher}.safetensors")]
    program = [sys.executable, "-m", "autodistill", "search", "--space", "cifar100", "--device", "cpu"]
    asked = ["--student", name, "--budget", str(BUDGET), "--workers", str(workers), "--study", "ours"]
    environment = {**os.environ, "AUTODISTILL_CACHE": str(place / "cache")}
    begun = time.perf_counter()
    done = subprocess.run([*program, *asked, *flags], cwd=place, env=environment, capture_output=True, text=True)
    took = time.perf_counter() - begun
    if done.returncode:
        sys.exit(f"the search failed:\n{done.stderr[-2000:]}")
    record = json.loads((place / "runs" / "ours" / "study.json").read_text(encoding="utf-8"))
    phases = {it: seconds for it, seconds in record["timing"]["phases_s"].items() if it != "start-up"}
    return Ours(took, took - sum(phases.values()), phases)


def compared(
    name: str, chosen: Slice, place: Path, *, workers: int, threads: int, teachers: int
) -> tuple[Plain, Ours, float, int]:
    """All sides in turns: half of the plain trials, our study, the other half, the bare steps."""
    write_images(place / "images", chosen.images)
    spec = DataSpec(name=f"folder:{place / 'images'}", train=chosen.images, validation=HELD_OUT)
    data = datasets.load(spec)
    made = write_teachers(place, data, chosen.architecture, count=teachers)
    plain = Plain(name, made, data, chosen.epochs)
    best = plain.best_threads(threads)
    torch.set_num_threads(best)
    for _ in range((chosen.trials + 1) // 2):
        plain.run()
    found = ours(name, place, chosen, workers=workers, teachers=list(made))
    for _ in range(chosen.trials // 2):
        plain.run()
    return plain, found, bare_study(name, made, data, chosen, workers=workers), best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 where our side is too slow")
    parser.add_argument("--student", default="mobilenetv2:0.5")
    parser.add_argument("--sides", nargs="+", choices=SLICES, default=list(SLICES))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--teachers", type=int, default=1)
    parser.add_argument("--images", type=int, help="fewer or more than the stated slice")
    parser.add_argument("--epochs", type=int)
    args = parser.parse_args()
    threads, short = torch.get_num_threads(), []
    load = f"load {os.getloadavg()[0]:.1f} before"
    print(f"torch {torch.__version__}, {len(os.sched_getaffinity(0))} cores, {load}, {args.workers} workers; seconds")
    heads = ("teachers", "images x epochs", "plain (p99)", "n", "x 20", "took", "start-up", "times", "without")
    print("{:10} {:>15} {:>13} {:>2} {:>7} {:>6} {:>8} {:>6} {:>7} {:>6} {:>7}".format(*heads, "bare", "of bare"))
    for side in args.sides:
        given = {name: value for name in ("images", "epochs") if (value := getattr(args, name)) is not None}
        chosen = SLICES[side]._replace(**given)
        with TemporaryDirectory() as folder:
            how = {"workers": args.workers, "threads": threads, "teachers": args.teachers}
            plain, found, least_s, best = compared(args.student, chosen, Path(folder), **how)
        times, of_bare = show(side, chosen, plain.seconds, found, least_s)
        phases = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in found.phases_s.items())
        print(f"{'':10} plain on {best} threads; ours: {phases}", flush=True)
        possible = BUDGET * statistics.median(plain.seconds) / least_s
        if times < chosen.least:
            short.append(f"{side}: {times:.1f} times, {chosen.least:g} wanted; bare steps allow {possible:.1f}")
        if of_bare > MOST_OF_BARE:
            short.append(f"{side}: {of_bare:.2f} of bare steps, at most {MOST_OF_BARE:g} wanted")
    if args.check and short:
        sys.exit("short of the list: " + "; ".join(short))


def show(side: str, chosen: Slice, plain_s: Sequence[float], found: Ours, bare_s: float) -> tuple[float, float]:
    """Print a row; returns how many times longer the plain side takes, and our time in multiples of bare steps."""
    trial = statistics.median(plain_s)
    times, without = (BUDGET * trial / it for it in (found.took_s, found.took_s - found.start_up_s))
    size = f"{chosen.images} x {chosen.epochs}"
    spelt = f"{trial:.1f} ({np.quantile(plain_s, 0.99):.1f})"
    plain = f"{spelt:>13} {len(plain_s):2} {BUDGET * trial:7.0f}"
    of_bare = (found.took_s - found.start_up_s) / bare_s
    took = f"{found.took_s:6.1f} {found.start_up_s:8.1f} {times:6.1f} {without:7.1f} {bare_s:6.1f} {of_bare:7.2f}"
    print(f"{side:10} {size:>15} {plain} {took}")
    return times, of_bare


if __name__ == "__main__":
    main()

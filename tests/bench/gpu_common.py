"""What the GPU benchmarks share: the device, images that live on it, students, runs of one, medians."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from autodistill.config import TrainingSpec
from autodistill.data import Data, Split
from autodistill.data.views import View
from autodistill.methods import METHODS
from autodistill.models import build
from autodistill.records import EpochRecord, Mode, TrialParams
from autodistill.training import Execution, Recipe, Supervision, supervise, train

SIZE, BATCH, CLASSES, EXAMPLES = 32, 128, 100, 50_000
STUDENTS = ("mobilenetv2:0.5", "vgg8", "resnet8x4")
TINY_STUDENTS = ("resnet8:0.25",)
TINY_EXAMPLES, TINY_BATCH = 64, 16


class Bench(NamedTuple):
    """A benchmark's setting."""

    device: torch.device
    tiny: bool
    rounds: int
    check: bool
    students: tuple[str, ...] = STUDENTS
    ways: tuple[str, ...] = ()

    @property
    def batch(self) -> int:
        return TINY_BATCH if self.tiny else BATCH

    @property
    def examples(self) -> int:
        return TINY_EXAMPLES if self.tiny else EXAMPLES


def asked(doc: str | None, arguments: Sequence[str] | None = None, *, ways: Sequence[str] = ()) -> Bench:
    """Parse the command line; exit with 2 where there is no such device.

    Args:
        doc: the benchmark's docstring, shown by --help.
        arguments: of the command; None: the process's own.
        ways: that the benchmark compares, and that can be chosen from.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 where a figure falls short")
    parser.add_argument("--rounds", type=int, default=5, help="timed epochs, after those that are not counted")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N; cpu runs the same code eagerly")
    parser.add_argument("--tiny", action="store_true", help="a few images and a small student: does it run at all?")
    parser.add_argument("--students", nargs="+", default=STUDENTS, help="networks with their widths")
    if ways:
        parser.add_argument("--ways", nargs="+", default=ways, choices=ways, help="what is compared")
    args = parser.parse_args(arguments)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured (--device cpu --tiny only tries the code)", file=sys.stderr)
        sys.exit(2)
    device = torch.device(args.device)
    # The trainer asks tensors for their device, which then has a number.
    device = torch.zeros((), device=device).device
    students = TINY_STUDENTS if args.tiny else tuple(args.students)
    return Bench(device, args.tiny, args.rounds, args.check, students, tuple(args.ways) if ways else ())


def header(bench: Bench) -> str:
    name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "CPU: no figure of note"
    return f"{name}; torch {torch.__version__}, CUDA {torch.version.cuda}; {bench.examples} images of 3x{SIZE}x{SIZE}"


def images(bench: Bench) -> Data:
    generator = torch.Generator().manual_seed(0)
    shape = (bench.examples, 3, SIZE, SIZE)
    pictures = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (bench.examples,), generator=generator)
    part = Split(pictures.contiguous(memory_format=torch.channels_last), labels)
    few = Split(part.images[: bench.batch], labels[: bench.batch])
    data = Data("random", tuple(map(str, range(CLASSES))), part, few, few, (0.5,) * 3, (0.25,) * 3, "random")
    return data.to(bench.device)


def teacher_logits(examples: int) -> Tensor:
    return (3 * torch.randn(examples, CLASSES, generator=torch.Generator().manual_seed(1))).half()


def student(bench: Bench, name: str, seed: int) -> nn.Module:
    stem = 2 if name.startswith("mobilenetv2") else None
    model = build(name, num_classes=CLASSES, in_channels=3, image_size=SIZE, seed=seed, stem_stride=stem)
    return model.to(bench.device)


def recipe(bench: Bench, seed: int) -> Recipe:
    """Of a run that is never over, and never scored."""
    spec = TrainingSpec(epochs=10**6, batch_size=bench.batch, lr=0.02, evaluate_every=10**6)
    return Recipe(spec, View(0, 4, True), 1, 10**6, seed)


def supervision(data: Data, method: str = "isats") -> Supervision:
    logits = teacher_logits(len(data.train.labels)).to(data.train.labels.device)
    entry = METHODS[method]
    own = {name: value for name, value in entry.settings.items() if name in entry.params}
    weight = 0.5 if entry.shape.is_weighted else None
    params = TrialParams(teacher="t", method=method, method_params=own, soft_weight=weight)
    return supervise(params, logits=lambda _: logits, labels=data.train.labels.cpu())


def epochs(
    bench: Bench, data: Data, name: str, mode: Mode, *, seed: int = 0, method: str = "isats"
) -> Iterator[EpochRecord]:
    """A run's epochs, each a wait for the device; its soft targets and their search are part of them."""
    plan, execution = recipe(bench, seed), Execution(mode, lambda text: print(f"  {name}: {text}"))
    taught = supervision(data, method)
    return train(student(bench, name, seed), data, plan, supervision=taught, execution=execution)


def timed(take: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each round."""
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        take()
        found.append(time.perf_counter() - begun)
    return found


def spelt(seconds: Sequence[float]) -> str:
    """Median (p99), in seconds."""
    return f"{np.median(seconds):.3f} ({np.quantile(seconds, 0.99):.3f})"


def finish(bench: Bench, short: Sequence[str]) -> None:
    """Exit 1 where a figure that was asked to be checked fell short."""
    if bench.check and short:
        sys.exit("short of the list: " + "; ".join(short))

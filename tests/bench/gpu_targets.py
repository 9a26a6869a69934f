"""What a teacher's side costs on a GPU: the search for tau_other, a view's soft targets, a view's logits.

    python tests/bench/gpu_targets.py [--check] [--rounds 5]
    python tests/bench/gpu_targets.py --device cpu --tiny   # does it run? no figures

50,000 samples, 100 classes, random logits and images; teachers like ResNet-110 and WRN-28-8 with random weights, as
they are and with their batch norms folded (what a study takes on a GPU). Every time ends with a wait for the device.

`--check` exits 1 where the search for tau_other takes 100 ms or more.

2026-11-26, H100 80GB HBM3, torch 2.11.0, CUDA 13.0, medians of n = 5: search for tau_other 0.016 s, images of a view
0.002 s, logits of ResNet-110 1.12 s (unfolded 1.28 s), of WRN-28-8 1.69 s (unfolded 1.71 s).
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from gpu_common import CLASSES, SIZE, Bench, asked, finish, header, images, spelt, teacher_logits, timed
from torch import nn

from autodistill.data import Data
from autodistill.data.views import View, take_view
from autodistill.methods import METHODS
from autodistill.models import build
from autodistill.models.networks import Shape, wide_resnet
from autodistill.teachers.teacher import Normalisation, Teacher, logits_of, ready

MOST_S = 0.1
TEACHERS: dict[str, Callable[[], nn.Module]] = {
    "resnet110": partial(build, "resnet110", num_classes=CLASSES, in_channels=3, image_size=SIZE, seed=0),
    "wrn_28_8": lambda: wide_resnet(Shape(CLASSES, 3, 1.0, (1, 2, 2)), depth=28, widen=8),
}
TINY = {"resnet8:0.25": partial(build, "resnet8:0.25", num_classes=CLASSES, in_channels=3, image_size=SIZE, seed=0)}


def main(arguments: Sequence[str] | None = None) -> None:
    bench = asked(__doc__, arguments)
    data = images(bench)
    print(f"seconds, median (p99) of {bench.rounds}; {header(bench)}, {CLASSES} classes")
    found = {name: waited(bench, take) for name, take in parts(bench, data).items()}
    for name, seconds in found.items():
        print(f"{name:28} {spelt(seconds):>16}")
    search = float(np.median(found["search for tau_other"]))
    finish(bench, [] if search < MOST_S else [f"tau_other {search:.3f} s, under {MOST_S}"])


def parts(bench: Bench, data: Data) -> dict[str, Callable[[], object]]:
    labels, logits = data.train.labels, teacher_logits(bench.examples).to(bench.device)
    everything = torch.arange(bench.examples, device=bench.device)
    view = partial(take_view, data.train.images, everything, view=View(0, 4, True), epoch=0)
    found: dict[str, Callable[[], object]] = {
        "search for tau_other": lambda: METHODS["isats"].temperatures(logits, labels),
        "ISATS targets of a view": lambda: METHODS["isats"].targets(logits, labels),
        "images of a view": view,
    }
    for name, make in (TINY if bench.tiny else TEACHERS).items():
        teacher, seen = frozen(make().to(bench.device)), view()
        found[f"{name} logits"] = partial(logits_of, teacher, seen)
        found[f"{name} logits, unfolded"] = partial(unfolded, teacher, seen)
    return found


def unfolded(teacher: Teacher, seen: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([teacher(batch) for batch in seen.split(256)])


def frozen(module: nn.Module) -> Teacher:
    normalisation = Normalisation("data", (0.5,) * 3, (0.25,) * 3)
    known = Teacher(name="t", uri="t", architecture="t", module=module, normalisation=normalisation, channels=3)
    return ready(known)


def waited(bench: Bench, take: Callable[[], object]) -> list[float]:
    """Seconds of rounds, each until the device is done; the first two are not counted."""

    def whole() -> None:
        take()
        if bench.device.type == "cuda":
            torch.cuda.synchronize(bench.device)

    whole(), whole()
    return timed(whole, bench.rounds)


if __name__ == "__main__":
    main()

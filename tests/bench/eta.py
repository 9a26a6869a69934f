"""Does a study take what its plan says? Twelve small ones, each by the command, against the clock.

    python tests/bench/eta.py [--check] [--studies 12]

The studies differ in student, budget, epochs, images, teachers and workers. Each is a process of its own; every other
one finds the ladder of the one before it, and its logits. `planned`: what the command says before the first run, as
`study.json` keeps it. `took`: seconds from that line to the end of the process, its report included. `start-up` is
what passes before that line: imports, checks, workers, and the measuring itself. `dry run`: what `--dry-run` says, just
before it, of the whole command; `whole`: what the command takes from its start to its end.

`--check` exits 1 where a plan, or a dry run, is below 0.7 or above 1.4 times of what was taken, in any of the studies.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from PIL import Image

LEAST, MOST = 0.7, 1.4


class Study(NamedTuple):
    student: str
    budget: int
    epochs: int
    images: int
    ladder: str
    """Architectures, with their widths."""
    workers: int = 2
    more: tuple[str, ...] = ()
    photographs: bool = False
    """Whether the images are a folder of photographs, not digits."""


class Took(NamedTuple):
    dry_run_s: float
    whole_s: float
    start_up_s: float
    planned_s: float
    took_s: float
    phases: dict[str, tuple[float, float]]
    """Seconds planned and taken."""


TWO, THREE, FOUR = (
    '["resnet8:0.25", "resnet8"]',
    '["resnet8:0.25", "resnet8:0.5", "resnet8"]',
    '["resnet8:0.25", "resnet8:0.5", "resnet8", "resnet8:2"]',
)
STUDIES = (
    Study("mobilenetv2", 14, 6, 200, TWO),
    Study("mobilenetv2", 20, 6, 200, TWO),
    Study("resnet8:0.5", 24, 15, 600, FOUR),
    Study("resnet8:0.5", 20, 12, 600, FOUR),
    Study("vgg8:0.25", 16, 9, 400, THREE),
    Study("vgg8:0.25", 24, 9, 400, THREE, workers=1),
    Study("resnet8", 14, 12, 300, TWO, more=("confirm.seeds=3",)),
    Study("resnet8", 18, 9, 300, TWO),
    Study("mobilenetv2:0.5", 15, 4, 300, THREE),
    Study("mobilenetv2:0.5", 16, 5, 300, THREE, workers=1),
    Study("resnet8:0.5", 12, 4, 120, TWO, photographs=True),
    Study("resnet8:0.5", 16, 6, 120, TWO, photographs=True),
)


def write_photographs(folder: Path) -> None:
    """Write 100 photographs of mixed sizes for each of three classes."""
    random = np.random.default_rng(0)
    for label, name in enumerate(("cat", "cow", "dog")):
        (folder / name).mkdir(parents=True)
        for number in range(100):
            height, width = random.integers(200, 500, 2)
            pixels = random.integers(0, 120, (height, width, 3), dtype=np.uint8)
            pixels[:: 8 * (label + 1)] += 100
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg")


def command(study: Study, number: int) -> list[str]:
    short = max(1, study.epochs // 3)
    overrides = (
        f"data.train={study.images}",
        f"training.epochs={study.epochs}",
        f"training.rung_epochs={short}",
        f"ladder.architectures={study.ladder}",
        *study.more,
    )
    flags = [it for override in overrides for it in ("--set", override)]
    asked = ["--student", study.student, "--budget", str(study.budget), "--workers", str(study.workers)]
    program = [sys.executable, "-m", "autodistill", "search", "--space", "smoke"]
    if study.photographs:
        flags += ["--data", "folder:../photographs", "--set", "data.image_size=32"]
        flags += [it for part in ("validation", "test") for it in ("--set", f"data.{part}=60")]
    return [*program, *asked, "--study", f"eta-{number}", *flags]


def run(study: Study, number: int, place: Path, cache: Path) -> Took:
    """Run a study in a folder of its own: a study beside it would find its runs, which no plan of time counts."""
    place = place / str(number)
    place.mkdir()
    environment = {**os.environ, "AUTODISTILL_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    asked = [*command(study, number), "--dry-run", "--format", "json"]
    told = subprocess.run(asked, cwd=place, env=environment, stdout=subprocess.PIPE, check=True)
    dry_run_s = json.loads(told.stdout)["students"][0]["estimate"]["wall_s"]
    begun, planned_at, lines = time.monotonic(), 0.0, []
    with subprocess.Popen(
        command(study, number),
        cwd=place,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if " time: about " in line:
                planned_at = time.monotonic()
    ended = time.monotonic()
    if process.returncode:
        sys.exit(f"study {number} failed:\n{''.join(lines[-5:])}")
    timing = json.loads((place / "runs" / f"eta-{number}" / "study.json").read_text(encoding="utf-8"))["timing"]
    planned, taken = timing["planned_s"], timing["phases_s"]
    phases = {name: (planned[name], taken.get(name, 0.0)) for name in planned}
    return Took(dry_run_s, ended - begun, planned_at - begun, sum(planned.values()), ended - planned_at, phases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 where a plan is off by more than that")
    parser.add_argument("--studies", type=int, default=len(STUDIES), help="how many of them")
    parser.add_argument("--first", type=int, default=0, help="which of them comes first")
    args = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}; seconds")
    columns = f"{'dry run':>7} {'whole':>6} {'ratio':>5} {'start-up':>8} {'planned':>7} {'took':>6} {'ratio':>5}"
    print(f"{'study':36} {'ladder':6} {columns}  phases: planned/took")
    ratios, wholes = [], []
    with TemporaryDirectory() as folder:
        write_photographs(Path(folder) / "photographs")
        for number, study in list(enumerate(STUDIES))[args.first : args.first + args.studies]:
            cache = Path(folder) / f"cache-{number // 2}"
            cold = not cache.exists()
            found = run(study, number, Path(folder), cache)
            ratios.append(found.planned_s / found.took_s)
            wholes.append(found.dry_run_s / found.whole_s)
            show(study, found, cold=cold)
    off = judge("plans", ratios) + judge("dry runs", wholes)
    if args.check and off:
        sys.exit(f"{off} are outside {LEAST:g} to {MOST:g}")


def show(study: Study, found: Took, *, cold: bool) -> None:
    name = f"{study.student}, {study.budget} x {study.epochs} epochs, {study.workers} w"
    phases = ", ".join(f"{it} {planned:.0f}/{took:.0f}" for it, (planned, took) in found.phases.items())
    ratio = found.planned_s / found.took_s
    ladder = "cold" if cold else "kept"
    whole = f"{found.dry_run_s:7.1f} {found.whole_s:6.1f} {found.dry_run_s / found.whole_s:5.2f}"
    figures = f"{found.start_up_s:8.1f} {found.planned_s:7.1f} {found.took_s:6.1f} {ratio:5.2f}"
    print(f"{name:36} {ladder:6} {whole} {figures}  {phases}", flush=True)


def judge(what: str, ratios: Sequence[float]) -> int:
    """Print the distribution of the ratios, and return how many are off."""
    off = [ratio for ratio in ratios if not LEAST <= ratio <= MOST]
    ends = ", ".join(f"{name} {np.quantile(ratios, share):.2f}" for name, share in (("median", 0.5), ("p99", 0.99)))
    print(f"{what}, n = {len(ratios)}: {ends}, least {min(ratios):.2f}, {len(off)} outside {LEAST:g} to {MOST:g}")
    return len(off)


if __name__ == "__main__":
    main()

"""From the command to the first training step, with everything in the caches: seconds, and multiples of bare imports.

    python tests/bench/start.py [--check] [--rounds 5]

The command is `autodistill search --student ... --budget 20` on the digits with two workers. The student is a network
of this package inside a module of a user's file that notes when it is first run in a training step. The first command
runs the whole study, so that teachers, their logits and measured times are in the cache. Then each round begins the
study anew in an empty `runs` folder and ends it after its first step. `imports` is a process that imports torch,
torchvision, Optuna and scikit-learn; the sides take turns.

`--check` exits 1 where the median takes over 6 s.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

MOST_S, WAIT_S, LOOK_S = 6.0, 600.0, 0.01
IMPORTS = "import torch, torchvision, optuna, sklearn.ensemble"
NETWORK = """
import os
import time
from pathlib import Path

import torch
from torch import nn

from autodistill.models import build


class Noted(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images):
        note = Path(os.environ["NOTES"]) / str(os.getpid())
        if self.training and torch.is_grad_enabled() and not note.exists():
            note.write_text(str(time.time()))
        return self.network(images)


def net(num_classes, in_channels, image_size):
    return Noted(
        build(
            "mobilenetv2:0.25",
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            seed=0,
            stem_stride=1,
        )
    )
"""


def command(place: Path, notes: Path) -> subprocess.Popen[bytes]:
    """Start the search in a folder of its own."""
    notes.mkdir(parents=True)
    environment = {**os.environ, "AUTODISTILL_CACHE": str(place / "cache"), "NOTES": str(notes)}
    program = [sys.executable, "-m", "autodistill", "search", "--student", f"python:{place / 'nets.py'}:net"]
    asked = ["--budget", "20", "--workers", "2", "--device", "cpu"]
    with (notes / "output").open("wb") as output:
        return subprocess.Popen([*program, *asked], cwd=notes, env=environment, stdout=output, stderr=subprocess.STDOUT)


def first_step(place: Path, notes: Path) -> float:
    """Return the seconds from the start of the command to the first training step in a worker."""
    begun = time.time()
    process = command(place, notes)
    try:
        while time.time() - begun < WAIT_S and process.poll() is None:
            steps = [it for it in notes.iterdir() if it.name.isdigit() and int(it.name) != process.pid]
            if found := [text for it in steps if (text := it.read_text())]:
                return float(min(found)) - begun
            time.sleep(LOOK_S)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
    sys.exit(f"no training step:\n{(notes / 'output').read_text()[-2000:]}")


def imports() -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 where the first step is late")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "nets.py").write_text(NETWORK)
        process = command(place, place / "whole")
        if process.wait():
            sys.exit(f"the search failed:\n{(place / 'whole' / 'output').read_text()[-2000:]}")
        ours, bare = [], []
        for number in range(args.rounds):
            ours.append(first_step(place, place / f"round{number}"))
            bare.append(imports())
    for label, seconds in (("first step", ours), ("imports", bare)):
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}, n = {len(seconds)}"
        print(f"{label:10} {statistics.median(seconds):.2f} s ({spread})")
    print(f"{statistics.median(ours) / statistics.median(bare):.1f} times the imports")
    if args.check and statistics.median(ours) > MOST_S:
        sys.exit(f"first step after {statistics.median(ours):.1f} s, {MOST_S:g} s wanted")


if __name__ == "__main__":
    main()

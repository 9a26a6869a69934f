"""How long `autodistill report` takes for a study of 200 trials, and how much memory, in fresh processes.

    python tests/bench/report.py [--check] [--rounds 5]

Each round runs a bare `import matplotlib.figure` and then a report, so that a busy machine slows both.
`--check` exits 1 where the median is 3 s or more, a report needs 300 MB or more, or imports torch or Optuna.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from factories import profiled, study

from autodistill.records import to_json

MOST_S, MOST_MB = 3.0, 300.0
BARE = "import matplotlib.figure"
REPORT = """
import sys
from autodistill.__main__ import main
sys.argv = ["autodistill", "report", "study", "--out", "out"]
try:
    main()
except SystemExit as end:
    sys.exit(end.code or (3 if {"torch", "optuna"} & set(sys.modules) else 0))
"""


def measure(code: str, folder: Path) -> tuple[float, float, float]:
    """Wall and processor time in seconds and peak resident memory in MB of a process of its own."""
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit("the report imported torch or optuna" if child.returncode == 3 else "a process failed")
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 over the limits")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind")
    args = parser.parse_args()
    with TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "study").mkdir()
        (folder / "study" / "study.json").write_text(to_json(profiled(study(200))), encoding="utf-8")
        rounds = [(measure(BARE, folder), measure(REPORT, folder)) for _ in range(args.rounds)]
        page = (folder / "out" / "report.html").stat().st_size
    bare, report = np.array(rounds).transpose(1, 2, 0)
    for name, (wall, busy, memory) in (("bare matplotlib", bare), ("report, 200 trials", report)):
        times = f"wall median {np.median(wall):.2f} s  p99 {np.percentile(wall, 99):.2f} s  cpu {np.median(busy):.2f} s"
        print(f"{name:20} n {len(wall)}  {times}  peak {memory.max():.0f} MB")
    wall, busy = np.median(report[:2] / bare[:2], axis=1)
    print(f"report / bare: wall {wall:.2f}, cpu {busy:.2f} (medians of the rounds)", end="; ")
    print(f"memory {report[2].max() / bare[2].max():.2f}")
    print(f"page {page / 1000:.0f} KB")
    if args.check and (np.median(report[0]) >= MOST_S or report[2].max() >= MOST_MB):
        raise SystemExit(f"over the limits of {MOST_S:g} s and {MOST_MB:g} MB")


if __name__ == "__main__":
    main()

"""Kills workers, coordinators and databases of small studies, and does worse; says whether anything was lost.

    python tests/bench/faults.py [--check] [--kills 100] [--seed 0] [--workers 4] [--sqlite]
    python tests/bench/faults.py --scenario kills    # or another of those that --help names; without it all of them

Kills train nothing: scores are computed, epochs slept. Processes, database (a PostgreSQL of its own behind a socket
file), run folders, checkpoints and results are real. Ends only what it started. Last whole run of the kills: seed 0,
100 (70 workers, 21 coordinators, 9 restarts of the database), nothing wrong; figures of all in README.md.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from faulty.kills import fault_test, warmed
from faulty.lab import Lab
from faulty.scenarios import SCENARIOS


def kills(lab: Lab, args: argparse.Namespace) -> list[str]:
    begun = time.monotonic()
    postgres = None if args.sqlite else lab.postgres
    toll = fault_test(lab.root, kills=args.kills, seed=args.seed, workers=args.workers, postgres=postgres)
    print(
        f"seed {args.seed}: {toll.kills.total()} kills {dict(toll.kills)} "
        f"over {toll.trials} trials, {toll.runs} runs in {time.monotonic() - begun:.0f} s; wrong: {len(toll.wrong)}; "
        f"commands given again because the database was away: {toll.resumed}"
    )
    missing = args.kills - toll.kills.total()
    return toll.wrong + [f"{missing} kills are missing"] * (missing > 0)


def scenario(lab: Lab, name: str) -> list[str]:
    begun = time.monotonic()
    found = SCENARIOS[name](lab)
    print(f"{name}: wrong: {len(found)}, in {time.monotonic() - begun:.0f} s", flush=True)
    return [f"{name}: {line}" for line in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--sqlite", action="store_true", help="SQLite instead of PostgreSQL; no database restarts")
    parser.add_argument("--scenario", choices=["kills", *SCENARIOS, "all"], default="all")
    parser.add_argument("--check", action="store_true", help="fail if anything is wrong")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lab = Lab(Path(tempfile.mkdtemp(prefix="ad-faults-")), args.seed)
    try:
        warmed(lab.root)
        found = kills(lab, args) if args.scenario in ("kills", "all") else []
        for name in SCENARIOS if args.scenario == "all" else filter(SCENARIOS.__contains__, [args.scenario]):
            found += scenario(lab, name)
    finally:
        lab.close()
        shutil.rmtree(lab.root, ignore_errors=True)
    for line in found:
        print(f"  {line}")
    if args.check and found:
        sys.exit(1)


if __name__ == "__main__":
    main()

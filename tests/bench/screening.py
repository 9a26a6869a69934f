"""How many of many teachers should a search try? Simulated studies in worlds whose truth is known.

    python tests/bench/screening.py [--studies 400] [--candidates 24] [--budget 20]

Each study has as many teachers as `--candidates`, all of different trainings. The real screening leaves those with the
highest validation accuracy, the real search and verdict run over them, and the truth is known for all. The effects are
those of the planted worlds of `policy.py`, where settings matter more than teachers, and of worlds in which teachers
matter as much as settings. `correlation` is that of a teacher's accuracy with what it is worth to the student.

`share`: of the epochs that reruns and the other fixed parts leave, how much the rungs of further teachers take; 0 tries
four teachers. `regret`: how far the recommended configuration is behind the best one of all candidates, in points of
true test accuracy, with its standard error. `false`: a winner among teachers that is at most 0.2 points better than
the other finalist's teacher, each at its best settings.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import replays
import search_runs
import worlds
from policy import Found, judged, planted_recording

from autodistill.searching import make_plan, screen
from autodistill.searching.plan import PROTECTED_PRIORS

SHARES = (0.0, 0.25, 0.5, 0.75, 0.9)
CORRELATIONS = (0.9, 0.5, 0.0, -0.5)
SPREADS = {"settings matter more": worlds.TEACHERS, "teachers matter as much": worlds.SETTINGS}


class Study(NamedTuple):
    number: int
    candidates: int
    budget: str
    share: float
    correlation: float
    spread: float


def tried_of(share: float, *, candidates: int, budget: str) -> int:
    """Return how many teachers are tried if their rungs take a share of what the fixed parts leave."""
    space = replays.space(planted_recording())
    plan = make_plan(space, teachers=candidates, requested=budget, tried=PROTECTED_PRIORS)
    left = int(plan.search * plan.epochs_full)
    return min(candidates, PROTECTED_PRIORS + int(share * left) // plan.epochs_rung)


def run(study: Study) -> Found:
    """Run one simulated study."""
    draw = np.random.default_rng([study.number, study.candidates, int(100 * study.spread)])
    accuracy, own = draw.normal(size=study.candidates), draw.normal(size=study.candidates)
    worth = study.correlation * accuracy + (1 - study.correlation**2) ** 0.5 * own
    names = [f"teacher{number:02}" for number in range(study.candidates)]
    scores = dict(zip(names, (0.8 + 0.03 * accuracy).tolist(), strict=True))
    effects = dict(zip(names, (study.spread * worth).tolist(), strict=True))
    recording = replays.with_teachers(planted_recording(), scores)
    world = worlds.planted(worlds.unknown(recording), draw, teachers=effects)
    count = tried_of(study.share, candidates=study.candidates, budget=study.budget)
    left_out = screen(recording.teachers, count=count, metric="top1")
    tried = [it.name for it in recording.teachers if it.name not in left_out]
    seed = int(draw.integers(2**31))
    spec = replays.search_spec(recording, tried[:PROTECTED_PRIORS], seed=seed, budget=study.budget)
    plan = make_plan(spec.space, teachers=study.candidates, requested=study.budget, tried=count)
    teachers = tuple(it for it in recording.teachers if it.name in tried)
    state, _ = search_runs.search(spec._replace(plan=plan, teachers=teachers), worlds.Noisy(world, seed))
    found = judged(world, tried, state)
    best = max(world.best_of(name) for name in names)
    missed = best - max(world.best_of(name) for name in tried)
    return found._replace(regret=found.regret + missed)


def row(found: Sequence[Found], *, share: float, tried: int, correlation: float) -> str:
    regret = 100 * np.array([it.regret for it in found])
    false = 100 * np.mean([it.false for it in found])
    error = regret.std() / len(regret) ** 0.5
    return f"| {correlation:.1f} | {share:.2f} | {tried} | {regret.mean():.2f} ± {error:.2f} | {false:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--candidates", type=int, default=24)
    parser.add_argument("--budget", default="20")
    args = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for label, spread in SPREADS.items():
            print(f"\n{args.candidates} teachers, budget {args.budget}, {label}, n = {args.studies}\n")
            print(
                "| correlation | share | tried | regret | false % |\n| ---: | ---: | ---: | ---: | ---: |", flush=True
            )
            for correlation in CORRELATIONS:
                for share in SHARES:
                    tried = tried_of(share, candidates=args.candidates, budget=args.budget)
                    common = (args.candidates, args.budget, share, correlation, spread)
                    found = pool.map(run, [Study(number, *common) for number in range(args.studies)], chunksize=10)
                    print(row(found, share=share, tried=tried, correlation=correlation), flush=True)


if __name__ == "__main__":
    main()

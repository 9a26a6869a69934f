"""Does the search name the right teacher? Replayed studies over recorded runs, by kind of rung.

    python tests/bench/replay.py [--check] [--studies 400] [--budget 20] [--recorded FILE]

Every study is the real search at a budget of 20 over 4, 5 or 6 of the recorded teachers (`record.py`), with its own
sampler seed and its own choice of which recorded seed the search sees; confirm runs have the other three. Nothing is
trained. A rerun may have any recorded seed, so that it may share a run with the confirm stage.
At equal epochs are compared: (a) complete rungs, restarted longer for survivors; (b) short decay branches off a
constant-rate trunk, which goes on; (c) the averaged weights part-way through the full run, which is the default; and
the plain way: 20 full-length trials under the same sampler, the best validation accuracy wins, nothing is confirmed.
The `slow and fast` studies are (c) with the scores part-way shifted by teacher, standard deviation 5 points: students
that start slowly or fast.

A configuration's truth is the mean test accuracy of its recorded full runs over all seeds; a teacher's worth is that
of its best configuration. `right`: the teacher with the best confirmed mean is worth at most the practical threshold
(0.2 points) less than the best. `regret`: by how much the truth of the recommended configuration falls short of the
best. Both count recording noise against the search: the best of 8 to 48 means of four seeds is too good to be true.
The `noise` column says what a search pays for that alone which knows every teacher's true best configuration and only
picks among teachers by three confirm runs.

`--check` exits 1 unless (c) names a right teacher in at least 95 % of studies with a mean regret of at most 0.5
points, for 4, 5 and 6 teachers, both starters.
"""

import argparse
import functools
import itertools
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1]))

import replays
from replays import Player, Recording, Rung

from autodistill.records import TrialParams, TrialRecord
from autodistill.searching import Sampler, SearchSpec
from autodistill.searching.state import full_run

THRESHOLD = 0.002
STARTERS_STD = 0.05
WAYS = ("complete rung", "decay branch", "averaged weights", "slow and fast", "plain", "noise")
LEAST_RIGHT, MOST_REGRET = 0.95, 0.005


class Study(NamedTuple):
    way: str
    teachers: int
    number: int
    budget: str


class Found(NamedTuple):
    right: bool
    regret: float
    epochs: int


def run(recording: Recording, study: Study) -> Found:
    """Replay one study."""
    draw = np.random.default_rng([study.teachers, study.number])
    subsets = list(itertools.combinations([it.name for it in recording.teachers], study.teachers))
    names = subsets[draw.integers(len(subsets))]
    seed, first = int(draw.integers(2**31)), int(draw.integers(replays.SEARCH_SEEDS))
    shifts = draw.normal(0, STARTERS_STD, len(names))
    if study.way == "plain":
        spec = replays.search_spec(recording, names, seed=seed, budget=study.budget)
        return judged(recording, names, *plain(recording, spec, first))
    if study.way == "noise":
        return judged(recording, names, *knowing(recording, names, first, draw))
    rungs = replays.rungs(recording)
    rung = rungs.get(study.way, rungs["averaged weights"])
    spec = replays.search_spec(recording, names, seed=seed, budget=study.budget, rungs=rung.rungs)
    first = 0 if study.way == "decay branch" else first
    handicap = dict(zip(names, shifts, strict=True)) if study.way == "slow and fast" else {}
    state = replays.play(spec, Player(recording, rung, first=first, base=seed, handicap=handicap))
    means = [(np.mean([it.test_top1 for it in one.runs]), one.params) for one in state.finalists if one.teacher]
    return judged(recording, names, max(means, key=lambda it: it[0])[1], state.spent_epochs)


def plain(recording: Recording, spec: SearchSpec, first: int) -> tuple[TrialParams, int]:
    """Full-length trials one after another, as many as the budget pays for; the best on validation."""
    sampler = Sampler(spec.space, [it.name for it in spec.teachers], spec.shapes)
    best, count = (-1.0, TrialParams()), spec.plan.total_epochs // recording.full
    player = Player(
        recording, Rung(replays.short_run, "short schedule", recording.full), first=first, base=spec.space.search.seed
    )
    for number in range(count):
        params = sampler.ask()
        trial = TrialRecord(number=number, kind="search", wave=number, params=params, seed=0, state="running")
        result = player.result(full_run(spec, trial).model_copy(update={"begun_epochs": 0}))
        sampler.tell(trial.model_copy(update={"state": "complete", "full": result}))
        best = max(best, (result.val_top1, params), key=lambda it: it[0])
    return best[1], count * recording.full


def knowing(
    recording: Recording, names: Sequence[str], first: int, draw: np.random.Generator
) -> tuple[TrialParams, int]:
    """Who knows each teacher's best configuration, and has three runs of each to choose by."""
    seeds = [seed for seed in recording.seeds if seed != first]
    bests = [max((it for it in recording.configurations if it.teacher == name), key=recording.worth) for name in names]
    scores = [np.mean([recording.test(params, seed) for seed in seeds]) for params in bests]
    return bests[int(np.argmax(scores))], 0


def judged(recording: Recording, names: Sequence[str], params: TrialParams, epochs: int) -> Found:
    best = max(recording.best_of(name) for name in names)
    right = recording.best_of(str(params.teacher)) >= best - THRESHOLD
    return Found(right, best - recording.worth(params), epochs)


def table(found: dict[Study, Found]) -> list[str]:
    groups = dict.fromkeys((study.way, study.teachers) for study in found)
    lines = ["| rungs | teachers | n | right teacher % | regret, mean | 95th percentile | epochs |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for way, teachers in groups:
        own = [it for study, it in found.items() if (study.way, study.teachers) == (way, teachers)]
        regret = 100 * np.array([it.regret for it in own])
        right = 100 * np.mean([it.right for it in own])
        epochs = np.mean([it.epochs for it in own])
        high = np.percentile(regret, 95)
        lines.append(
            f"| {way} | {teachers} | {len(own)} | {right:.1f} | {regret.mean():.2f} | {high:.2f} | {epochs:.0f} |"
        )
    return lines


def correlations(recording: Recording) -> list[str]:
    """How a trial's score part-way ranks configurations against their truth: all, and within one teacher."""
    lines = [
        "| rungs | runs | rank correlation, all teachers | within a teacher, mean |",
        "| --- | ---: | ---: | ---: |",
    ]
    ways = {name: rung.score for name, rung in replays.rungs(recording).items()}
    for name, score in {**ways, "full run": replays.full_run}.items():
        scored = [
            (params, score(recording, params, seed))
            for params in recording.configurations
            for seed in range(1 if name == "decay branch" else replays.SEARCH_SEEDS)
        ]
        own = [
            _spearman(recording, [it for it in scored if it[0].teacher == teacher.name])
            for teacher in recording.teachers
        ]
        lines.append(f"| {name} | {len(scored)} | {_spearman(recording, scored):.2f} | {np.mean(own):.2f} |")
    return lines


def _spearman(recording: Recording, scored: Sequence[tuple[TrialParams, float]]) -> float:
    truth = [recording.worth(params) for params, _ in scored]
    return float(stats.spearmanr(truth, [score for _, score in scored]).statistic)


def failures(found: dict[Study, Found]) -> list[str]:
    """What falls short of the promise."""
    lines = []
    for way, teachers in itertools.product(("averaged weights", "slow and fast"), (4, 5, 6)):
        own = [it for study, it in found.items() if (study.way, study.teachers) == (way, teachers)]
        if not own:
            continue
        right, regret = float(np.mean([it.right for it in own])), float(np.mean([it.regret for it in own]))
        if right < LEAST_RIGHT or regret > MOST_REGRET:
            lines.append(f"{way}, {teachers} teachers: {right:.1%} right, mean regret {100 * regret:.2f} points")
    return lines


def _one(args: tuple[Path, Study]) -> Found:
    path, study = args
    return run(_loaded(path), study)


@functools.cache
def _loaded(path: Path) -> Recording:
    return replays.load(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--budget", default="20")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--recorded", type=Path, default=replays.RECORDED)
    args = parser.parse_args()
    print("\n".join(correlations(_loaded(args.recorded))), flush=True)
    studies = [Study(*it, args.budget) for it in itertools.product(args.ways, (4, 5, 6), range(args.studies))]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(_one, [(args.recorded, study) for study in studies], chunksize=20)
    by_study = dict(zip(studies, found, strict=True))
    print("\n" + "\n".join(table(by_study)))
    wrong = failures(by_study)
    print("\n".join(wrong), file=sys.stderr)
    sys.exit(bool(args.check and wrong))


if __name__ == "__main__":
    main()

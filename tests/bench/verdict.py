"""Do the verdict's statistics hold? Simulated studies with planted winners, ties and noise.

    python tests/bench/verdict.py            prints the table
    python tests/bench/verdict.py --check    and exits 1 where a design falls short

Every design simulates confirm runs, score = finalist + seed + noise, and decides them with the functions that decide
a study. The first finalist is no teacher, the others are teachers; two finalists are two teachers.

A second table is about whole searches (`policy.py`): effects of teachers, settings and their interaction are planted,
the search chooses the settings by itself, and the verdict says whether it compares teachers or configurations.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import policy

from autodistill import stats
from autodistill.stats.verdict import THRESHOLD

STUDIES, RACED_STUDIES = 10_000, 3_000
FINALISTS, SEEDS = (2, 3, 4, 5), (3, 5, 8)
LEADS = (0.0, 0.1, 0.19, 0.25, 0.5, 1.0)
"""True lead of the best teacher over all others, points of accuracy."""
NOISES = {"equal": (0.3, 1), "one doubled": (0.3, 2), "all larger": (0.9, 1)}
"""Standard deviation of one run in points, and the factor of the best teacher's; studies have had 0.1 to 0.6."""
SEED_EFFECT = 0.5
SEARCHES = 400
"""Simulated searches in each planted world."""
GAIN = 1.0
"""Of the other teachers over no teacher."""
COVERAGE, MOST_WRONG = (0.93, 0.97), 0.05


@dataclass(frozen=True)
class Design:
    finalists: int
    seeds: int
    noise: str
    raced: bool

    @property
    def studies(self) -> int:
        return RACED_STUDIES if self.raced else STUDIES

    @property
    def first_teacher(self) -> int:
        return int(self.finalists > 2)


@dataclass(frozen=True)
class Row:
    """One design at one lead. Shares of the studies, or of all their intervals."""

    design: Design
    lead: float
    coverage: float
    """Of all stated intervals."""
    pairs: tuple[float, float]
    """The pair that is covered least, and the one covered most."""
    wrong: float
    """Named a winner that is worse than another teacher or within the threshold of it."""
    right: float
    """Named the best teacher."""
    unspent: float
    """Share of the confirm runs that were not needed."""


def designs() -> Iterator[Design]:
    for finalists, seeds, noise in product(FINALISTS, SEEDS, NOISES):
        yield Design(finalists, seeds, noise, raced=False)
        if seeds >= stats.SMALLEST and finalists > 2:
            yield Design(finalists, seeds, noise, raced=True)


def simulate(design: Design) -> list[Row]:
    """The design at every lead; the same noise for each."""
    draw = np.random.default_rng([design.finalists, design.seeds, list(NOISES).index(design.noise), design.raced])
    left = design.finalists * (design.seeds - stats.FIRST)
    columns = stats.FIRST + left // 2 if design.raced else design.seeds
    size, factor = NOISES[design.noise]
    noise = np.full(design.finalists, size)
    noise[design.first_teacher] *= factor
    own = draw.normal(size=(design.studies, design.finalists, columns))
    shared = draw.normal(size=(design.studies, 1, columns))
    scores = (noise[:, None] * own + SEED_EFFECT * shared) / 100
    if design.raced:
        return [_raced_row(design, lead, scores) for lead in LEADS]
    # What is true shifts the differences and nothing else: one comparison serves all leads.
    pairs = stats.compare(scores)
    return [_row(design, lead, pairs, truth=_truth(design, lead)) for lead in LEADS]


def race(scores: stats.Scores, *, seeds: int) -> tuple[stats.Scores, np.ndarray, np.ndarray]:
    """Race every study: what was run, the error probability of its last look, the runs left."""
    studies, finalists, _ = scores.shape
    left = np.full(studies, finalists * (seeds - stats.FIRST))
    looks = stats.most_looks(int(left[0]))
    asked = np.zeros(scores.shape, dtype=bool)
    asked[..., : stats.FIRST] = True
    on = np.arange(studies)
    while len(on):
        seen = np.where(asked[on], scores[on], np.nan)
        named = stats.undecided(seen, threshold=THRESHOLD, spent=stats.share(left[on], looks))
        new = stats.next_runs(asked[on], named & (left[on] > 1)[:, None], left=left[on])
        asked[on] |= new
        left[on] -= new.sum(axis=(-2, -1))
        on = on[new.any(axis=(-2, -1))]
    return np.where(asked, scores, np.nan), stats.share(left, looks), left


def _truth(design: Design, lead: float) -> np.ndarray:
    truth = np.full(design.finalists, GAIN / 100)
    truth[: design.first_teacher] = 0
    truth[design.first_teacher] += lead / 100
    return truth


def _raced_row(design: Design, lead: float, noise: stats.Scores) -> Row:
    truth = _truth(design, lead)
    scores, share, left = race(noise + truth[:, None], seeds=design.seeds)
    pairs = stats.compare(scores)
    off = pairs._replace(difference=pairs.difference - (truth[:, None] - truth))
    unspent = float(left.mean()) / (design.finalists * design.seeds)
    return _row(design, lead, off, truth=truth, share=share, unspent=unspent)


def _row(
    design: Design,
    lead: float,
    off: stats.Pairs,
    *,
    truth: np.ndarray,
    share: float | np.ndarray = 1.0,
    unspent: float = 0.0,
) -> Row:
    """Count what intervals and decisions make of differences that are `off` the truth by this much."""
    covered = (np.abs(off.difference) <= off.half_width()).mean(axis=0)[np.triu_indices(design.finalists, 1)]
    found = off._replace(difference=off.difference + (truth[:, None] - truth))
    better = stats.bounds(found, share=share).better(THRESHOLD)
    first = design.first_teacher
    beaten = better | np.eye(design.finalists, dtype=bool)
    named = beaten[:, first:, first:].all(axis=-1).mean(axis=0)
    return Row(
        design,
        lead,
        coverage=float(covered.mean()),
        pairs=(float(covered.min()), float(covered.max())),
        wrong=float(named.sum() if lead / 100 <= THRESHOLD else named[1:].sum()),
        right=float(named[0]),
        unspent=unspent,
    )


def falls_short(row: Row) -> list[str]:
    """What the design misses, in words."""
    low, high = COVERAGE
    missed = []
    if not low <= row.coverage <= high:
        missed.append(f"coverage {row.coverage:.1%} is outside {low:.0%} to {high:.0%}")
    if row.wrong >= MOST_WRONG:
        missed.append(f"{row.wrong:.1%} name a winner that is worse or within the threshold")
    return missed


def table(rows: list[Row]) -> Iterator[str]:
    """The designs as a markdown table, the leads side by side."""
    leads = [f"{lead:g}" for lead in LEADS]
    yield (
        "| finalists | seeds | noise | raced | n | coverage % | by pair | wrongly named % at lead "
        + " / ".join(leads)
        + " | right winner found % at "
        + " / ".join(lead for lead in leads if float(lead) / 100 > THRESHOLD)
        + (" | runs saved % |")
    )
    yield "| ---: | ---: | --- | --- | ---: | --- | --- | --- | --- | --- |"
    for start in range(0, len(rows), len(LEADS)):
        yield _line(rows[start : start + len(LEADS)])


def _line(rows: list[Row]) -> str:
    design = rows[0].design
    coverage = [row.coverage for row in rows]
    pairs = [end for row in rows for end in row.pairs]
    cells = (
        str(design.finalists),
        str(design.seeds),
        design.noise,
        "yes" if design.raced else "no",
        f"{design.studies:,}",
        _range(coverage),
        _range(pairs),
        " / ".join(f"{100 * row.wrong:.1f}" for row in rows),
        " / ".join(f"{100 * row.right:.0f}" for row in rows if row.lead / 100 > THRESHOLD),
        _range([row.unspent for row in rows]) if design.raced else "",
    )
    return "| " + " | ".join(cells) + " |"


def _range(shares: list[float]) -> str:
    low, high = (f"{100 * end:.1f}" for end in (min(shares), max(shares)))
    return low if low == high else f"{low} to {high}"


def searches() -> dict[str, list[policy.Found]]:
    """Simulate whole searches in the planted worlds, by world."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return {
            world: pool.map(
                policy.run, [policy.Study(world, "as it is", number, 4, "20") for number in range(SEARCHES)]
            )
            for world in policy.WORLDS
            if world.startswith("planted")
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 where a design falls short")
    wanted = parser.parse_args()
    started = time.process_time()
    rows = [row for design in designs() for row in simulate(design)]
    print("\n".join(table(rows)))
    print(f"\n{time.process_time() - started:.0f} s of processor time", file=sys.stderr)
    missed = [(row, text) for row in rows for text in falls_short(row)]
    for row, text in missed:
        print(f"{row.design}, lead {row.lead:g}: {text}", file=sys.stderr)
    print("\nSearches over 4 teachers, budget 20\n\n" + "\n".join(policy.HEAD))
    wrong = False
    for world, found in searches().items():
        print(policy.row(world, found), flush=True)
        false = sum(it.false for it in found) / len(found)
        if false > MOST_WRONG:
            wrong = True
            print(f"{world}: {false:.1%} of the searches claim a better teacher that is not", file=sys.stderr)
    if wanted.check and (missed or wrong):
        sys.exit(1)


if __name__ == "__main__":
    main()

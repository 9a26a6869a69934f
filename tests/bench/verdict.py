"""Do the verdict's statistics hold? Simulated studies with planted winners, ties and noise.

    python tests/bench/verdict.py            prints the table
    python tests/bench/verdict.py --check    and exits 1 where a design falls short

Every design simulates confirm runs, score = finalist + seed + noise, and decides them with the functions that decide
a study. The first finalist is no teacher, the others are teachers; two finalists are two teachers.

A second table is about method grids, 3 methods x 4 teachers: effects of methods, cells and seeds are planted, runs
fail, and the first method leads the two others on the mean over the teachers.

A third table is about whole searches (`policy.py`): effects of teachers, settings and their interaction are planted,
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
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import policy

from autodistill import stats
from autodistill.stats import grid
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
GRIDS = 10_000
METHODS, TEACHERS, GRID_SEEDS = 3, 4, (3, 4, 5)
GRID_LEADS = (0.0, 0.1, 0.2, 0.5, 1.0)
"""True lead of the first method over the two others, points of accuracy."""
CELL_EFFECT = 0.5
"""Standard deviation of the teachers' effects, and of the interaction of methods and teachers, in points."""
POWER = (0.75, 0.85)
"""Share of grids that tell two methods apart that differ by `grid.smallest_difference`."""


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


class GridNoise(NamedTuple):
    """Noise of the runs of a grid, in points."""

    run: float
    method: float = 1.0
    """Factor of the first method."""
    cell: float = 1.0
    """Factor of the first method with the first teacher."""
    failed: float = 0.0
    """Share of the runs that fail."""


GRID_NOISES = {
    "0.2": GridNoise(0.2),
    "0.5": GridNoise(0.5),
    "0.3, a method 0.6": GridNoise(0.3, method=2),
    "0.3, a cell 0.6": GridNoise(0.3, cell=2),
    "0.3, 2 % of the runs fail": GridNoise(0.3, failed=0.02),
}


@dataclass(frozen=True)
class GridRow:
    """A method grid of one noise and number of seeds. Shares of the grids, or of their intervals."""

    seeds: int
    noise: str
    joint: float
    """All intervals between methods hold."""
    cells: float
    """Of all intervals between two cells, or a cell and a control."""
    by_pair: tuple[float, float]
    """The pair of cells or controls that is covered least, and the one covered most."""
    wrong: tuple[float, ...]
    """Named a method that is not better than all others by more than the threshold, by lead."""
    right: tuple[float, ...]
    """Named the first method, by lead."""
    power: float
    """Told two methods apart whose true difference is `grid.smallest_difference`."""
    smallest: float
    """That difference, in points."""


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
    runs = int(left[0])
    asked = np.zeros(scores.shape, dtype=bool)
    asked[..., : stats.FIRST] = True
    on = np.arange(studies)
    while len(on):
        seen = np.where(asked[on], scores[on], np.nan)
        named = stats.undecided(seen, threshold=THRESHOLD, spent=stats.share(left[on], runs))
        new = stats.next_runs(asked[on], named & (left[on] > 1)[:, None], left=left[on])
        asked[on] |= new
        left[on] -= new.sum(axis=(-2, -1))
        on = on[new.any(axis=(-2, -1))]
    return np.where(asked, scores, np.nan), stats.share(left, runs), left


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


def grids() -> list[GridRow]:
    return [simulate_grid(seeds, noise) for seeds, noise in product(GRID_SEEDS, GRID_NOISES)]


def simulate_grid(seeds: int, name: str) -> GridRow:
    """Simulate one grid; every lead has the same noise."""
    noise = GRID_NOISES[name]
    draw = np.random.default_rng([seeds, list(GRID_NOISES).index(name)])
    size = np.full((METHODS, TEACHERS, 1), noise.run)
    size[0] *= noise.method
    size[0, 0] *= noise.cell
    cells = CELL_EFFECT * (draw.normal(size=TEACHERS) + draw.normal(size=(METHODS, TEACHERS)))
    cells -= cells.mean(axis=1, keepdims=True)
    shape = (GRIDS, METHODS, TEACHERS, seeds)
    shared = SEED_EFFECT * draw.normal(size=(GRIDS, 1, 1, seeds))
    scores = cells[..., None] + size * draw.normal(size=shape) + shared
    scores[draw.random(size=shape) < noise.failed] = np.nan
    controls = noise.run * draw.normal(size=(GRIDS, 2, seeds)) + shared[:, 0]
    by_cell = grid.compare_cells(scores / 100, controls / 100)
    truth = np.concatenate([np.zeros(2), cells.reshape(-1)]) / 100
    one, other = np.triu_indices(len(truth), 1)
    held = _held(by_cell.difference - (truth[:, None] - truth), by_cell.half_width())[:, one, other]
    pairs = np.nanmean(held, axis=0)
    # The methods' effects average to 0 over the teachers, so that what is true shifts their differences only.
    off = grid.compare_methods(grid.method_scores(scores / 100))
    joint = _held(off.pairs.difference, off.half_width())
    measured = off.compared > 1
    errors = np.sqrt((size**2).sum(axis=(1, 2))) / 100 / TEACHERS
    smallest = grid.smallest_difference(
        float(np.hypot(errors[0], errors[1]) / np.sqrt(seeds)),
        float(np.nanmax(off.pairs.dof)),
        methods=METHODS,
        threshold=THRESHOLD,
    )
    named = [_named_methods(_led(off, lead / 100)) for lead in GRID_LEADS]
    return GridRow(
        seeds,
        name,
        joint=float((joint != 0).all(axis=(-2, -1))[measured].mean()),
        cells=float(np.nanmean(held)),
        by_pair=(float(pairs.min()), float(pairs.max())),
        wrong=tuple(
            float(shares.sum() if lead / 100 <= THRESHOLD else shares[1:].sum())
            for lead, shares in zip(GRID_LEADS, named, strict=True)
        ),
        right=tuple(float(shares[0]) for shares in named),
        power=float(_led(off, smallest).bounds().better(THRESHOLD)[measured, 0, 1].mean()),
        smallest=100 * smallest,
    )


def _held(off: np.ndarray, width: np.ndarray) -> np.ndarray:
    """1 where an interval holds the truth, 0 where not, NaN where there is none."""
    return np.where(np.isnan(width), np.nan, np.abs(off) <= width)


def _led(off: grid.MethodPairs, lead: float) -> grid.MethodPairs:
    """The comparison if the first method is better than the others by this much."""
    truth = lead * (np.arange(METHODS) == 0)
    return off._replace(pairs=off.pairs._replace(difference=off.pairs.difference + (truth[:, None] - truth)))


def _named_methods(found: grid.MethodPairs) -> np.ndarray:
    """Share of the grids that name each method. A method without an interval takes no part."""
    out = np.isnan(found.pairs.dof).all(axis=-1)
    beaten = found.bounds().better(THRESHOLD) | np.eye(METHODS, dtype=bool) | out[:, None, :]
    return np.asarray((beaten.all(axis=-1) & ~out).mean(axis=0))


def grid_falls_short(row: GridRow) -> list[str]:
    """What the grid misses, in words."""
    low, high = COVERAGE
    # Noise is taken to depend on the method. Where it depends on the cell, the intervals hold together only.
    pairs = () if GRID_NOISES[row.noise].cell != 1 else row.by_pair
    missed = [
        f"{what} coverage {share:.1%} is outside {low:.0%} to {high:.0%}"
        for what, share in (("joint", row.joint), ("cell", row.cells), *(("a pair's", pair) for pair in pairs))
        if not low <= share <= high
    ]
    if max(row.wrong) >= MOST_WRONG:
        missed.append(f"{max(row.wrong):.1%} name a method that is not better by the threshold")
    if not POWER[0] <= row.power <= POWER[1] and not GRID_NOISES[row.noise].failed:
        missed.append(f"the smallest difference is found in {row.power:.1%}, not in 80%")
    return missed


def grid_table(rows: list[GridRow]) -> Iterator[str]:
    """The grids as a markdown table."""
    leads = " / ".join(f"{lead:g}" for lead in GRID_LEADS)
    useful = [number for number, lead in enumerate(GRID_LEADS) if lead / 100 > THRESHOLD]
    yield (
        "| seeds | noise, points | n | methods jointly covered % | cells covered % | by pair "
        f"| wrongly named % at lead {leads} "
        f"| right method named % at {' / '.join(f'{GRID_LEADS[number]:g}' for number in useful)} "
        "| smallest difference, points | it is found % |"
    )
    yield "| ---: | --- | ---: | ---: | ---: | --- | --- | --- | ---: | ---: |"
    for row in rows:
        cells = (
            str(row.seeds),
            row.noise,
            f"{GRIDS:,}",
            f"{100 * row.joint:.1f}",
            f"{100 * row.cells:.1f}",
            _range(list(row.by_pair)),
            " / ".join(f"{100 * share:.1f}" for share in row.wrong),
            " / ".join(f"{100 * row.right[number]:.0f}" for number in useful),
            f"{row.smallest:.2f}",
            f"{100 * row.power:.0f}",
        )
        yield "| " + " | ".join(cells) + " |"


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
    print(f"\nGrids of {METHODS} methods x {TEACHERS} teachers\n")
    started = time.process_time()
    planted = grids()
    print("\n".join(grid_table(planted)))
    print(f"\n{time.process_time() - started:.0f} s of processor time", file=sys.stderr)
    grid_missed = [(row, text) for row in planted for text in grid_falls_short(row)]
    for grid_row, text in grid_missed:
        print(f"grid of {grid_row.seeds} seeds, noise {grid_row.noise}: {text}", file=sys.stderr)
    print("\nSearches over 4 teachers, budget 20\n\n" + "\n".join(policy.HEAD))
    wrong = False
    for world, found in searches().items():
        print(policy.row(world, found), flush=True)
        false = sum(it.false for it in found) / len(found)
        if false > MOST_WRONG:
            wrong = True
            print(f"{world}: {false:.1%} of the searches claim a better teacher that is not", file=sys.stderr)
    if wanted.check and (missed or grid_missed or wrong):
        sys.exit(1)


if __name__ == "__main__":
    main()

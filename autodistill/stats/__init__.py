"""Statistics of confirm runs: paired intervals, racing, the verdict about teachers, the choice among students.

This package exports the pure numbers. `stats.verdict` and `stats.students` work on records.
"""

from autodistill.stats.intervals import (
    STATED,
    Bounds,
    Fit,
    Pairs,
    Scores,
    better,
    bounds,
    compare,
    does_not_help,
    fit,
    helps,
    probability_best,
    seeds_to_settle,
)
from autodistill.stats.racing import FIRST, SMALLEST, most_looks, next_runs, share, undecided

__all__ = [
    "FIRST",
    "SMALLEST",
    "STATED",
    "Bounds",
    "Fit",
    "Pairs",
    "Scores",
    "better",
    "bounds",
    "compare",
    "does_not_help",
    "fit",
    "helps",
    "most_looks",
    "next_runs",
    "probability_best",
    "seeds_to_settle",
    "share",
    "undecided",
]

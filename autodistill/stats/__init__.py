"""The finalists x seeds layout of confirm runs: intervals, decisions, racing. Pure numbers.

Every finalist, the baseline without a teacher among them, is trained over the same seeds: score = finalist + seed +
noise. Runs may be missing (NaN), because they failed or because a race left them out. The functions take whole
batches of layouts: the simulation that checks them (`tests/bench/verdict.py`) runs those that decide a study.
"""

from autodistill.stats.deciding import STATED, Ends, better, ends, helps, helps_not, seeds_to_settle
from autodistill.stats.fitting import Fit, Pairs, Scores, compare, fit
from autodistill.stats.posterior import probability_best
from autodistill.stats.racing import FIRST, SMALLEST, most_looks, next_runs, share, undecided

__all__ = [
    "FIRST",
    "SMALLEST",
    "STATED",
    "Ends",
    "Fit",
    "Pairs",
    "Scores",
    "better",
    "compare",
    "ends",
    "fit",
    "helps",
    "helps_not",
    "most_looks",
    "next_runs",
    "probability_best",
    "seeds_to_settle",
    "share",
    "undecided",
]

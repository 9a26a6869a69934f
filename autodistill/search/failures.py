"""Count the causes of failed runs, and describe a study in which every run failed."""

import re
from collections.abc import Sequence

from autodistill.config import TrainingSpec
from autodistill.errors import EveryRunFailed
from autodistill.records import RunResult

MOST_NAMES = 6
"""Runs named for each cause, at most."""
_DETAILS = re.compile(r" in epoch \d| while ")
"""Separates a cause from the details of a run."""
_DIVERGED = re.compile(r"became (nan|-?inf)")


def causes(runs: Sequence[RunResult]) -> dict[str, list[str]]:
    """Return the distinct causes of failed runs, the most frequent first, each with the names of its runs."""
    names: dict[str, list[str]] = {}
    for run in runs:
        if run.state == "failed":
            names.setdefault(_DETAILS.split(run.reason)[0] or "no cause recorded", []).append(run.run)
    return dict(sorted(names.items(), key=lambda item: -len(item[1])))


def every_run_failed(runs: Sequence[RunResult], *, training: TrainingSpec) -> EveryRunFailed:
    """Return the error for a study that cannot go on.

    Args:
        runs: Failed runs, at least one.
        training: Training settings of the runs.
    """
    by_cause = causes(runs)
    lines = [f"  {len(names)} x {cause}: {_listed(names)}" for cause, names in by_cause.items()]
    new_study = "in a new study (--study NAME): this one keeps its failed runs"
    if all(_DIVERGED.search(cause) for cause in by_cause):
        lower = f"{min(0.05, training.lr / 10):g}"
        hint = f"lower training.lr, which is {training.lr:g}: --set training.lr={lower}, {new_study}"
    else:
        hint = f"correct the causes above, {new_study}"
    return EveryRunFailed("\n".join([f"all {len(runs)} runs of the first stage failed:", *lines]), hint)


def _listed(names: Sequence[str]) -> str:
    more = [f"and {len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return ", ".join([*names[:MOST_NAMES], *more])

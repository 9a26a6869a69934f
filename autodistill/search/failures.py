"""Runs that failed: their causes, counted, and the error that ends a study whose every run failed."""

import re
from collections.abc import Sequence
from pathlib import Path

from autodistill.config.models import TrainingSpec
from autodistill.errors import EveryRunFailed
from autodistill.records import RunRecord

MOST_NAMES = 6
"""Runs that are named for each cause."""
_OWN = re.compile(r" in epoch \d| while ")
"""Where a cause ends and the details of one run begin."""
_DIVERGED = re.compile(r"became (nan|-?inf)")


def causes(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Return the distinct causes of failed runs, the most frequent first, each with the names of its runs."""
    found: dict[str, list[str]] = {}
    for run in runs:
        if run.state == "failed":
            found.setdefault(_OWN.split(run.reason)[0] or "no cause recorded", []).append(run.run)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def every_run_failed(runs: Sequence[RunRecord], *, training: TrainingSpec, folder: Path | None) -> EveryRunFailed:
    """Return the error for a study that cannot go on.

    Args:
        runs: failed runs, at least one.
        training: settings of the runs.
        folder: run folder that holds the results; None: they are kept nowhere.
    """
    found = causes(runs)
    lines = [f"  {len(names)} x {cause}: {_listed(names)}" for cause, names in found.items()]
    if folder is not None:
        lines.append(
            f"  whole messages: {folder / runs[0].run / 'result.json'}{' and so on' if len(runs) > 1 else ''}"
        )
    anew = "in a new study (--study NAME): this one keeps its failed runs"
    if all(_DIVERGED.search(cause) for cause in found):
        lower = f"{min(0.05, training.lr / 10):g}"
        hint = f"lower training.lr, which is {training.lr:g}: --set training.lr={lower}, {anew}"
    else:
        hint = f"change what the messages name, {anew}"
    return EveryRunFailed("\n".join([f"all {len(runs)} runs of the first stage failed:", *lines]), hint)


def _listed(names: Sequence[str]) -> str:
    more = [f"and {len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return ", ".join([*names[:MOST_NAMES], *more])

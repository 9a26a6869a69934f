"""Equal configurations with different seeds: what the search itself measured of the seed noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autodistill.records import StudyRecord, TrialRecord
from autodistill.report.sections.parts import MOST_ROWS, Row, Table, number_columns, row, shown_of, text_columns
from autodistill.report.words import percent, plural, recipe, short


@dataclass(frozen=True)
class ReplicatesInfo:
    groups: int
    """Configurations with two or more scored short runs."""
    std: float | None
    """Standard deviation of a short run between seeds, pooled over the groups; None: nothing was repeated."""
    finding: str
    table: Table | None


def replicates_info(record: StudyRecord) -> ReplicatesInfo:
    """The spread of the short-run scores of trials with the same parameters."""
    groups: dict[int, list[tuple[TrialRecord, float]]] = {}
    for trial in record.trials:
        if trial.short is not None and trial.short.val_top1 is not None:
            first = trial.number if trial.replicate_of is None else trial.replicate_of
            groups.setdefault(first, []).append((trial, trial.short.val_top1))
    repeated = [group for _, group in sorted(groups.items()) if len(group) > 1]
    if not repeated:
        return ReplicatesInfo(0, None, "", None)
    scores = [np.array([score for _, score in group]) for group in repeated]
    free = sum(len(one) - 1 for one in scores)
    std = math.sqrt(sum(float(((one - one.mean()) ** 2).sum()) for one in scores) / free)
    finding = (
        f"{plural(len(repeated), 'configuration')} ran again with another seed: between seeds a short run has a "
        f"standard deviation of {100 * std:.1f} points ({plural(free, 'degree')} of freedom)."
    )
    rows = tuple(_row(group) for group in repeated[:MOST_ROWS])
    columns = (*text_columns("Trials", "Teacher", "Settings"), *number_columns("Short runs", "Spread, points"))
    note = shown_of(rows, len(repeated), "configurations")
    return ReplicatesInfo(len(repeated), std, finding, Table("Equal settings, other seeds", columns, rows, note))


def _row(group: Sequence[tuple[TrialRecord, float]]) -> Row:
    params = group[0][0].params
    scores = [score for _, score in group]
    return row(
        short(", ".join(str(trial.number) for trial, _ in group)),
        short(params.teacher or "no teacher", 40),
        recipe(params),
        f"{100 * min(scores):.1f} to {percent(max(scores))}",
        f"{100 * (max(scores) - min(scores)):.1f}",
    )

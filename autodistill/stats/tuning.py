"""Which comparisons of a study are between teachers, and which are only between configurations.

A configuration is a teacher with settings: a method, its parameters, temperatures and the soft weight. Settings often
move a student by more than its teacher does. A difference between two finalists is therefore evidence about their
teachers only at equal tuning: if the teacher that is behind was also trained with the settings of the teacher that is
ahead, and was no better with them than with its own.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from autodistill import stats
from autodistill.records import Basis, FinalistRecord, StudyRecord, TrialParams


class CommonSettings(NamedTuple):
    """The settings that most teachers were trained in full with."""

    settings: TrialParams
    top1: Mapping[str, float]
    """Validation accuracy by teacher, a mean over `runs`."""
    runs: int
    """Number of runs of the teacher with most runs."""


def settings_of(params: TrialParams) -> TrialParams:
    """Return a configuration without its teacher."""
    return params.model_copy(update={"teacher": None})


def common_settings(record: StudyRecord) -> CommonSettings | None:
    """Return the settings that most teachers were trained in full with in the search; None without a pair.

    Among settings with equally many teachers, those with the highest mean accuracy are taken.
    """
    by_settings: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for params, top1 in _search_scores(record):
        key = json.dumps(settings_of(params).model_dump(), sort_keys=True)
        by_settings[key][str(params.teacher)].append(top1)
    found = [
        CommonSettings(
            TrialParams.model_validate_json(settings),
            {teacher: math.fsum(scores) / len(scores) for teacher, scores in own.items()},
            max(len(scores) for scores in own.values()),
        )
        for settings, own in by_settings.items()
        if len(own) > 1
    ]
    return max(found, key=lambda it: (len(it.top1), math.fsum(it.top1.values()) / len(it.top1)), default=None)


def basis(record: StudyRecord, ahead: FinalistRecord, behind: FinalistRecord, *, threshold: float) -> Basis:
    """Return what the difference between two finalists is evidence about.

    `ahead` has the higher confirmed mean. A finalist stands with its own settings because they scored at least as well
    on validation, where both were tried. A control over confirm seeds replaces this evidence.
    """
    if settings_of(ahead.params) == settings_of(behind.params):
        return "teachers"
    gain = control_gain(record, ahead, behind)
    if gain is not None:
        equal = gain <= threshold or _holds(record, ahead, behind, threshold)
    else:
        shared = ahead.params.model_copy(update={"teacher": behind.teacher})
        equal = any(params == shared for params, _ in _search_scores(record))
    return "teachers" if equal else "configurations"


def control_gain(record: StudyRecord, ahead: FinalistRecord, behind: FinalistRecord) -> float | None:
    """Return by how much the settings of `ahead` make the student of `behind` better than its own settings do.

    Measured by the fair control with these settings over the confirm seeds that both have; None without one.
    """
    own, theirs = stats.scores_by_seed(behind.runs), _control(record, ahead, behind)
    seeds = own.keys() & theirs.keys()
    if not seeds:
        return None
    return (math.fsum(theirs[seed] for seed in seeds) - math.fsum(own[seed] for seed in seeds)) / len(seeds)


def _holds(record: StudyRecord, ahead: FinalistRecord, behind: FinalistRecord, threshold: float) -> bool:
    """Return whether `ahead` is also told apart from `behind` with the settings of `ahead`."""
    own, theirs = stats.scores_by_seed(ahead.runs), _control(record, ahead, behind)
    pairs = stats.compare(stats.score_table([own, theirs], own.keys() & theirs.keys()), step=1 / record.data.test)
    return bool(stats.bounds(pairs).better(threshold)[0, 1])


def _control(record: StudyRecord, ahead: FinalistRecord, behind: FinalistRecord) -> dict[int, float]:
    """Return the test accuracies, by seed, of the teacher of `behind` with the settings of `ahead`."""
    shared = ahead.params.model_copy(update={"teacher": behind.teacher})
    control = next((it for it in record.controls if it.regime == "shared" and it.params == shared), None)
    return stats.scores_by_seed(control.runs) if control else {}


def _search_scores(record: StudyRecord) -> list[tuple[TrialParams, float]]:
    """Return configuration and validation accuracy of each full run of the search with a teacher."""
    runs = record.search_runs()
    return [(it.params, it.val_top1) for it in runs if it.val_top1 is not None and it.params.teacher]

"""From a study's confirm runs to a verdict: pure, and on test accuracy alone."""

import math
from typing import Literal

from autodistill.recommend.evidence import Evidence, collect, contrasts, rank_row, residual
from autodistill.recommend.unconfirmed import unconfirmed
from autodistill.recommend.words import reasons, sentence
from autodistill.records import Contrast, RankRow, Recommendation, StudyRecord, TrialParams

THRESHOLD = 0.002

Answer = Literal["helps", "does_not_help", "cannot_tell"]
Verdict = Literal["winner", "no_clear_difference", "only_one", "no_teacher"]


def recommend(record: StudyRecord, *, threshold: float = THRESHOLD) -> Recommendation:
    """Name the teacher that the student should learn from, or say that none can be named.

    Args:
        record: the study; its confirm runs decide, its search scores only where there is no confirm run.
        threshold: the smallest difference in accuracy that matters, a fraction.

    Raises:
        ValueError: a negative threshold.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold must be 0 or more, got {threshold}")
    evidence = collect(record)
    if not evidence.teachers:
        return unconfirmed(record, threshold=threshold)
    tied = _tied(evidence, threshold)
    verdict, teacher = _decide(record, evidence, tied, threshold)
    named = teacher or evidence.teachers[0]
    chosen = evidence.of(teacher)
    return Recommendation(
        verdict=verdict,
        versus_no_teacher=versus_no_teacher(evidence.contrast(named, None), threshold=threshold),
        teacher=teacher,
        params=chosen.record.params if chosen else TrialParams(),
        sentence=sentence(record, evidence, verdict=verdict, teacher=named, tied=tied),
        reasons=tuple(reasons(record, evidence, verdict=verdict, teacher=named, tied=tied, threshold=threshold)),
        ranking=tuple(rank_row(one) for one in evidence.finalists) + _without_runs(record, evidence),
        contrasts=tuple(contrasts(evidence)),
        seed_std=math.sqrt(float(residual(evidence.table)[0])) if evidence.layout else None,
        threshold=threshold,
    )


def versus_no_teacher(contrast: Contrast | None, *, threshold: float) -> Answer:
    """Does a teacher help, by its contrast with no teacher?"""
    if contrast is None or contrast.low is None or contrast.high is None:
        return "cannot_tell"
    if contrast.low > 0:
        return "helps"
    return "does_not_help" if contrast.high < threshold else "cannot_tell"


def _decide(record: StudyRecord, evidence: Evidence, tied: list[str], threshold: float) -> tuple[Verdict, str | None]:
    best = evidence.teachers[0]
    hopeless = {
        name
        for name in tied
        if versus_no_teacher(evidence.contrast(name, None), threshold=threshold) == "does_not_help"
    }
    if best in hopeless:
        return "no_teacher", None
    if len(evidence.teachers) == 1:
        return "only_one", best
    if tied == [best]:
        return "winner", best
    # A teacher that is known not to help is no alternative, however cheap.
    return "no_clear_difference", min(
        (name for name in tied if name not in hopeless), key=lambda name: _cost(record, name)
    )


def _tied(evidence: Evidence, threshold: float) -> list[str]:
    """The best teacher and those that it is not told apart from."""
    best, *others = evidence.teachers
    return [best, *(name for name in others if not told_apart(evidence.contrast(best, name), threshold))]


def told_apart(contrast: Contrast | None, threshold: float) -> bool:
    """Whether a difference is beyond noise, and large enough to matter."""
    return contrast is not None and contrast.low is not None and contrast.low > 0 and contrast.difference >= threshold


def _cost(record: StudyRecord, name: str) -> tuple[int | float, int | float, str]:
    """MACs, then parameters, then the name; a teacher that the record does not know counts as the dearest."""
    cost = next((teacher.cost for teacher in record.teachers if teacher.name == name), None)
    return (cost.macs, cost.params, name) if cost else (math.inf, math.inf, name)


def _without_runs(record: StudyRecord, evidence: Evidence) -> tuple[RankRow, ...]:
    """Rows of the finalists whose confirm runs all failed or are still to come."""
    return tuple(
        RankRow(
            teacher=one.teacher,
            params=one.params,
            seeds=0,
            confirmed_test_top1=None,
            search_val_top1=one.search_val_top1,
        )
        for one in record.finalists
        if evidence.of(one.teacher) is None
    )

"""From a study's confirm runs to a verdict: pure, and on test accuracy alone."""

import math
from typing import Literal

from autodistill.records import RankRow, Recommendation, SeedsToSettle, StudyRecord, TrialParams
from autodistill.stats.evidence import Answer, Evidence, collect, contrasts, ranking, seed_noise
from autodistill.stats.sentences import reasons, sentence
from autodistill.stats.unconfirmed import unconfirmed

__all__ = ["THRESHOLD", "Answer", "Verdict", "recommend"]

THRESHOLD = 0.002

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
    evidence = collect(record, threshold=threshold)
    if not evidence.teachers:
        return unconfirmed(record, threshold=threshold)
    tied = _tied(evidence)
    verdict, teacher = _decide(record, evidence, tied)
    named = teacher or evidence.teachers[0]
    chosen = evidence.of(teacher)
    settle = _to_settle(evidence, named, tied if verdict == "no_clear_difference" else [])
    noise = seed_noise(evidence)
    return Recommendation(
        verdict=verdict,
        versus_no_teacher=evidence.answer(named),
        teacher=teacher,
        params=chosen.record.params if chosen else TrialParams(),
        sentence=sentence(record, evidence, verdict=verdict, teacher=named, tied=tied),
        reasons=tuple(reasons(record, evidence, verdict=verdict, teacher=named, tied=tied, settle=settle)),
        ranking=(*ranking(evidence), *_without_runs(record, evidence)),
        contrasts=tuple(contrasts(evidence)),
        seed_std=noise[0] if noise else None,
        seeds_to_settle=tuple(settle),
        threshold=threshold,
    )


def judged(record: StudyRecord) -> StudyRecord:
    """The record with its verdict drawn anew: what people read follows today's rule, whoever wrote the record.

    While a study runs, its confirm runs so far decide nothing.
    """
    if record.state == "running":
        guess = unconfirmed(record, threshold=threshold_of(record))
        return record.model_copy(update={"recommendation": guess})
    return record.model_copy(update={"recommendation": recommend(record, threshold=threshold_of(record))})


def threshold_of(record: StudyRecord) -> float:
    """The smallest difference that matters to a study: its verdict's, or where there is none yet its space's."""
    if record.recommendation is not None:
        return record.recommendation.threshold
    return float(record.space.get("confirm", {}).get("threshold", THRESHOLD))


def _decide(record: StudyRecord, evidence: Evidence, tied: list[str]) -> tuple[Verdict, str | None]:
    best = evidence.teachers[0]
    hopeless = {name for name in tied if evidence.answer(name) == "does_not_help"}
    if best in hopeless or evidence.behind(best):
        return "no_teacher", None  # behind: training without one is ahead of them all, and costs nothing
    if len(evidence.teachers) == 1:
        return "only_one", best
    if tied == [best]:
        return "winner", best
    # A teacher that is known not to help is no alternative, however cheap; nor, while there is a better one, is a
    # teacher whose students did worse than those without any, or one of which it is open whether it helps.
    able = [name for name in tied if name not in hopeless]
    able = [name for name in able if not evidence.behind(name)] or able
    able = [name for name in able if evidence.answer(name) == "helps"] or able
    return "no_clear_difference", min(able, key=lambda name: _cost(record, name))


def _tied(evidence: Evidence) -> list[str]:
    """The best teacher and those that it is not told apart from."""
    best, *others = evidence.teachers
    return [best, *(name for name in others if not evidence.better(best, name))]


def _to_settle(evidence: Evidence, teacher: str, tied: list[str]) -> list[SeedsToSettle]:
    """What is still open: the best teacher against those it is tied with, and whether the one to take helps."""
    best = evidence.teachers[0]
    open_pairs: list[tuple[str, str | None]] = [(best, other) for other in tied if other != best]
    if evidence.answer(teacher) == "cannot_tell":
        open_pairs.append((teacher, None))
    return [found for pair in open_pairs if (found := evidence.seeds_to_settle(*pair)) is not None]


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

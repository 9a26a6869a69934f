"""The verdict about the teachers of a study: a pure function of its record.

Test accuracies of confirm runs decide. Before any of them has ended, search scores give a provisional answer.
"""

import math
from dataclasses import dataclass
from typing import Literal

from autodistill.formatting import percent, recipe, short
from autodistill.records import RankRow, Recommendation, RunResult, SeedsToSettle, StudyRecord, TrialParams
from autodistill.stats.evidence import Evidence, collect, contrasts, ranking, seed_noise
from autodistill.stats.sentences import reasons, sentence

THRESHOLD = 0.002
"""Default for the smallest difference in accuracy that matters: 0.2 points."""
UNCONFIRMED_REASONS = (
    "No teacher has a finished confirm run, so nothing was measured on test over several seeds.",
    "A search score is one run on validation and tends to be too high, because the best of many was chosen.",
)
RESUME = "run the same command again to resume the study and confirm"

Verdict = Literal["winner", "no_clear_difference", "only_one", "no_teacher"]


def recommend(record: StudyRecord, *, threshold: float = THRESHOLD) -> Recommendation:
    """Name the teacher that the student should learn from, or say that none can be named.

    Args:
        record: the study. Its confirm runs decide; its search scores count only if there is no confirm run.
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
    discussed = teacher or evidence.teachers[0]
    chosen = evidence.finalist(teacher)
    settle = _to_settle(evidence, discussed, tied if verdict == "no_clear_difference" else [])
    noise = seed_noise(evidence)
    return Recommendation(
        verdict=verdict,
        versus_no_teacher=evidence.answer(discussed),
        teacher=teacher,
        params=chosen.record.params if chosen else TrialParams(),
        sentence=sentence(record, evidence, verdict=verdict, teacher=discussed, tied=tied),
        reasons=tuple(reasons(record, evidence, verdict=verdict, teacher=discussed, tied=tied, settle=settle)),
        ranking=(*ranking(evidence), *_without_runs(record, evidence)),
        contrasts=tuple(contrasts(evidence)),
        seed_std=noise[0] if noise else None,
        seeds_to_settle=tuple(settle),
        threshold=threshold,
    )


def unconfirmed(record: StudyRecord, *, threshold: float) -> Recommendation:
    """Recommend from the search's validation scores, and say how much they are worth."""
    full = _best_per_teacher([trial.full for trial in record.trials] + [record.plain_kd])
    guess = _from_full(record, full) or _from_rungs(record) or _from_nothing(record)
    return Recommendation(
        verdict="unconfirmed",
        versus_no_teacher="cannot_tell",
        teacher=guess.params.teacher,
        params=guess.params,
        sentence=guess.sentence,
        reasons=UNCONFIRMED_REASONS,
        ranking=tuple(_row_without_runs(run.params.teacher, run.params, run.val_top1) for run in full),
        threshold=threshold,
    )


def judged(record: StudyRecord) -> StudyRecord:
    """Return the record with its verdict computed anew, so that older records follow today's method.

    The confirm runs of a study that is still running decide nothing.
    """
    threshold = threshold_of(record)
    judge = unconfirmed if record.state == "running" else recommend
    return record.model_copy(update={"recommendation": judge(record, threshold=threshold)})


def threshold_of(record: StudyRecord) -> float:
    """Return the threshold of a study's verdict or, without a verdict, of its search space."""
    if record.recommendation is not None:
        return record.recommendation.threshold
    return float(record.space.get("confirm", {}).get("threshold", THRESHOLD))


def _decide(record: StudyRecord, evidence: Evidence, tied: list[str]) -> tuple[Verdict, str | None]:
    best = evidence.teachers[0]
    useless = {name for name in tied if evidence.answer(name) == "does_not_help"}
    # Where the best teacher is behind no teacher, all are, and training without a teacher costs nothing.
    if best in useless or evidence.behind(best):
        return "no_teacher", None
    if len(evidence.teachers) == 1:
        return "only_one", best
    if tied == [best]:
        return "winner", best
    # Of the tied teachers the cheapest is taken. Left out are teachers that do not help and, as long as a better one
    # remains, those behind no teacher and those that may not help.
    able = [name for name in tied if name not in useless]
    able = [name for name in able if not evidence.behind(name)] or able
    able = [name for name in able if evidence.answer(name) == "helps"] or able
    return "no_clear_difference", min(able, key=lambda name: _cost(record, name))


def _tied(evidence: Evidence) -> list[str]:
    """Return the best teacher and those that are not told apart from it."""
    best, *others = evidence.teachers
    return [best, *(name for name in others if not evidence.better(best, name))]


def _to_settle(evidence: Evidence, teacher: str, tied: list[str]) -> list[SeedsToSettle]:
    """List the open questions: the best teacher against the tied ones, and whether `teacher` helps."""
    best = evidence.teachers[0]
    open_pairs: list[tuple[str, str | None]] = [(best, other) for other in tied if other != best]
    if evidence.answer(teacher) == "cannot_tell":
        open_pairs.append((teacher, None))
    return [found for pair in open_pairs if (found := evidence.seeds_to_settle(*pair)) is not None]


def _cost(record: StudyRecord, name: str) -> tuple[int | float, int | float, str]:
    """Order by MACs, then parameters, then name; a teacher that the record lacks comes last."""
    cost = next((teacher.cost for teacher in record.teachers if teacher.name == name), None)
    return (cost.macs, cost.params, name) if cost else (math.inf, math.inf, name)


def _without_runs(record: StudyRecord, evidence: Evidence) -> tuple[RankRow, ...]:
    """Return rows of the finalists whose confirm runs all failed or are still to come."""
    missing = (one for one in record.finalists if evidence.finalist(one.teacher) is None)
    return tuple(_row_without_runs(one.teacher, one.params, one.search_val_top1) for one in missing)


def _row_without_runs(teacher: str | None, params: TrialParams, searched: float | None) -> RankRow:
    return RankRow(teacher=teacher, params=params, seeds=0, confirmed_test_top1=None, search_val_top1=searched)


@dataclass(frozen=True)
class _Guess:
    """A provisional answer; parameters without a teacher advise training without one."""

    params: TrialParams
    sentence: str


def _best_per_teacher(runs: list[RunResult | None]) -> list[RunResult]:
    """Return each teacher's best finished run, best first; the earlier run wins a tie."""
    best: dict[str | None, RunResult] = {}
    for run in sorted((run for run in runs if run and run.val_top1 is not None), key=_score, reverse=True):
        best.setdefault(run.params.teacher, run)
    return list(best.values())


def _score(run: RunResult) -> float:
    assert run.val_top1 is not None
    return run.val_top1


def _task(record: StudyRecord) -> str:
    return f"{short(record.student.name)} on {record.data.name}"


def _named(run: RunResult) -> str:
    return f"teacher {short(run.params.teacher or 'none')} with {recipe(run.params)}"


def _from_full(record: StudyRecord, full: list[RunResult]) -> _Guess | None:
    if not full:
        return None
    best, without = full[0], record.no_teacher.val_top1 if record.no_teacher else None
    scored = f"{percent(_score(best))} validation accuracy in one run"
    if without is not None and without >= _score(best):
        text = f"no teacher beat training without a teacher ({percent(without)}, best teacher {scored})"
        return _Guess(TrialParams(), f"Unconfirmed for {_task(record)}: {text}; {RESUME}.")
    against = "" if without is None else f", {percent(without)} without a teacher"
    take = f"take {_named(best)}, which had the best search score ({scored}{against})"
    return _Guess(best.params, f"Unconfirmed for {_task(record)}: {take}; {RESUME}.")


def _from_rungs(record: StudyRecord) -> _Guess | None:
    ranked = _best_per_teacher([trial.rung for trial in record.trials])
    if not ranked:
        return None
    best = ranked[0]
    scored = f"{percent(_score(best))} validation accuracy after {best.last_epoch} of {record.plan.epochs_full} epochs"
    take = f"take {_named(best)}, which had the best score at the first rung ({scored})"
    return _Guess(best.params, f"Unconfirmed for {_task(record)}: {take}; {RESUME}.")


def _from_nothing(record: StudyRecord) -> _Guess:
    failed = sum(run.state == "failed" for run in record.runs())
    text = "no run with a teacher has ended:"
    if failed:
        text = f"no run with a teacher has succeeded ({failed} failed): fix the reasons listed under Failures, then"
    return _Guess(TrialParams(), f"No recommendation for {_task(record)} yet, {text} {RESUME}.")

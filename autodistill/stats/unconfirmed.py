"""What to recommend before any teacher's confirm run has ended."""

from dataclasses import dataclass

from autodistill.formatting import percent, recipe, short
from autodistill.records import RankRow, Recommendation, RunRecord, StudyRecord, TrialParams

WHY = "No teacher has a finished confirm run, so nothing here was measured on test over several seeds."
AGAIN = "run the same command again, it resumes and confirms"


@dataclass(frozen=True)
class Guess:
    teacher: str | None
    params: TrialParams
    sentence: str


def unconfirmed(record: StudyRecord, *, threshold: float) -> Recommendation:
    """Recommend from the search's own validation scores, and say what they are worth."""
    full = _best_per_teacher([trial.full for trial in record.trials] + [record.plain_kd])
    guess = _from_full(record, full) or _from_short(record) or _from_nothing(record)
    return Recommendation(
        verdict="unconfirmed",
        versus_no_teacher="cannot_tell",
        teacher=guess.teacher,
        params=guess.params,
        sentence=guess.sentence,
        reasons=(WHY, "A search score is one run on validation, and inflated by having been chosen."),
        ranking=tuple(
            RankRow(
                teacher=run.params.teacher,
                params=run.params,
                seeds=0,
                confirmed_test_top1=None,
                search_val_top1=run.val_top1,
            )
            for run in full
        ),
        threshold=threshold,
    )


def _best_per_teacher(runs: list[RunRecord | None]) -> list[RunRecord]:
    """Each teacher's best finished run, best first; the earlier one wins a tie."""
    best: dict[str | None, RunRecord] = {}
    for run in sorted((run for run in runs if run and run.val_top1 is not None), key=_score, reverse=True):
        best.setdefault(run.params.teacher, run)
    return list(best.values())


def _score(run: RunRecord) -> float:
    assert run.val_top1 is not None
    return run.val_top1


def _of(record: StudyRecord) -> str:
    return f"{short(record.student.name)} on {record.data.name}"


def _named(run: RunRecord) -> str:
    return f"teacher {short(run.params.teacher or 'none')} with {recipe(run.params)}"


def _from_full(record: StudyRecord, full: list[RunRecord]) -> Guess | None:
    if not full:
        return None
    best, without = full[0], record.no_teacher.val_top1 if record.no_teacher else None
    scored = f"{percent(_score(best))} validation accuracy in one run"
    if without is not None and without >= _score(best):
        text = f"no teacher beat training without one ({percent(without)}, best teacher {scored})"
        return Guess(None, TrialParams(), f"Unconfirmed for {_of(record)}: {text}; {AGAIN}.")
    against = "" if without is None else f", {percent(without)} without a teacher"
    take = f"take {_named(best)}, which had the best search score ({scored}{against})"
    return Guess(best.params.teacher, best.params, f"Unconfirmed for {_of(record)}: {take}; {AGAIN}.")


def _from_short(record: StudyRecord) -> Guess | None:
    ranked = _best_per_teacher([trial.short for trial in record.trials])
    if not ranked:
        return None
    best = ranked[0]
    scored = (
        f"{percent(_score(best))} validation accuracy after {best.last_epoch} of {record.plan.epochs_full} epochs"
    )
    take = f"take {_named(best)}, which looked best in the short runs ({scored})"
    return Guess(best.params.teacher, best.params, f"Unconfirmed for {_of(record)}: {take}; {AGAIN}.")


def _from_nothing(record: StudyRecord) -> Guess:
    failed = sum(run.state == "failed" for run in record.runs())
    text = "no run with a teacher has ended:"
    if failed:
        text = f"no run with a teacher ended well ({failed} failed): mend what the list of failures names, then"
    again = "run the same command again, it resumes"
    return Guess(None, TrialParams(), f"No recommendation for {_of(record)} yet, {text} {again}.")

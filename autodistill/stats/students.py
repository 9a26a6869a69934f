"""The choice among several students, each with the teacher that its own study recommends.

Every study trains its finalists over the same confirm seeds. The scores of the students' recommended configurations
therefore form a table of students x seeds, which is judged like the teachers of one study.
"""

from collections.abc import Iterator, Sequence

from autodistill.formatting import COSTS, contrast_words, count, limits_words, listed, percent, recipe, short, sure
from autodistill.records import (
    BudgetLine,
    ComparisonRecord,
    Contrast,
    CostKind,
    FinalistRecord,
    StudentBudget,
    StudentChoice,
    StudentContrast,
    StudentRow,
    StudyRecord,
    TrialParams,
    costs_of,
    latency_of,
)
from autodistill.stats.evidence import Evidence, collect
from autodistill.stats.verdict import THRESHOLD, judged, threshold_of


def recommend_student(
    studies: Sequence[StudyRecord], *, limits: StudentBudget, threshold: float = THRESHOLD
) -> StudentChoice:
    """Choose the student to ship: the best, or the cheapest of the students that cannot be told apart from the best.

    Args:
        studies: at least one, one per student. A study without a recommendation counts as unconfirmed.
        limits: limits that all of these students meet.
        threshold: the smallest difference in accuracy that matters, a fraction.
    """
    evidence = _evidence(studies, threshold)
    rows = sorted((_row(study, evidence) for study in studies), key=lambda row: (-_accuracy(row), _cheapness(row)))
    rows = [row.model_copy(update={"front": _fronts(row, rows)}) for row in rows]
    confirmed = [row for row in rows if row.test_top1 is not None]
    if not confirmed:
        first = min(rows, key=_cheapness)
        return StudentChoice(
            verdict="unconfirmed",
            student=first.student,
            study=first.study,
            sentence="No student is confirmed on test yet, so none can be preferred.",
            rows=tuple(rows),
            threshold=threshold,
        )
    best, *others = confirmed
    tied = [best, *(row for row in others if not evidence.better(best.student, row.student))]
    pairs = [evidence.contrast(best.student, other.student) for other in others]
    contrasts = [
        StudentContrast(student=it.teacher, versus=str(it.versus), difference=it.difference, low=it.low, high=it.high)
        for it in pairs
    ]
    chosen = min(tied, key=_cheapness)
    verdict = "winner" if len(tied) == 1 else "no_clear_difference"
    if len(confirmed) == 1:
        verdict = "only_one" if len(rows) == 1 else "unconfirmed"
    return StudentChoice(
        verdict=verdict,
        student=chosen.student,
        study=chosen.study,
        sentence=_sentence(studies[0].data.name, chosen, tied, limits, alone=verdict == "unconfirmed"),
        reasons=tuple(_reasons(chosen, tied, rows, pairs)),
        rows=tuple(rows),
        contrasts=tuple(contrasts),
        lines=tuple(_lines(confirmed)),
        threshold=threshold,
    )


def judged_students(record: ComparisonRecord) -> ComparisonRecord:
    """Return the record with the verdicts of its studies and its own choice computed anew."""
    studies = tuple(judged(study) for study in record.studies)
    threshold = record.choice.threshold if record.choice else threshold_of(studies[0])
    choice = recommend_student(studies, limits=record.limits, threshold=threshold)
    return record.model_copy(update={"studies": studies, "choice": choice})


def _evidence(studies: Sequence[StudyRecord], threshold: float) -> Evidence:
    """Collect the recommended configurations as the finalists of one table, each under its student's name."""
    stand_ins = []
    for study in studies:
        chosen = study.recommendation
        if chosen is not None and study.state == "complete":
            runs = next((one.runs for one in study.finalists if one.teacher == chosen.teacher), ())
            stand_ins.append(FinalistRecord(teacher=study.student.name, params=chosen.params, runs=runs))
    first = studies[0]
    plan = first.plan.model_copy(update={"race": None})  # the students were not raced against each other
    return collect(first.model_copy(update={"finalists": tuple(stand_ins), "plan": plan}), threshold=threshold)


def _row(study: StudyRecord, evidence: Evidence) -> StudentRow:
    found, chosen = evidence.finalists.get(study.student.name), study.recommendation
    ranked = next((row for row in chosen.ranking if row.teacher == chosen.teacher), None) if chosen else None
    return StudentRow(
        student=study.student.name,
        study=study.name,
        teacher=chosen.teacher if chosen else None,
        params=chosen.params if chosen else TrialParams(),
        seeds=len(found.scores) if found else 0,
        test_top1=found.mean if found else None,
        low=ranked.low if ranked else None,
        high=ranked.high if ranked else None,
        costs=costs_of(study.student.cost, latency_of(study)),
    )


def _fronts(row: StudentRow, rows: Sequence[StudentRow]) -> tuple[CostKind, ...]:
    """Return the costs for which a student is on the Pareto front; none without a test accuracy."""
    fronts: list[CostKind] = []
    for kind, cost in row.costs.items() if row.test_top1 is not None else ():
        own = (cost, -_accuracy(row))
        rivals = [(other.costs[kind], -_accuracy(other)) for other in rows if kind in other.costs]
        if not any(rival <= own[0] and error <= own[1] and (rival, error) != own for rival, error in rivals):
            fronts.append(kind)
    return tuple(fronts)


def _lines(rows: Sequence[StudentRow]) -> Iterator[BudgetLine]:
    """Yield, for each cost, the limits at which another student becomes the most accurate, tightest first."""
    for kind in COSTS:
        best = -1.0
        known = [(row.costs[kind], -_accuracy(row), row.student, row) for row in rows if kind in row.costs]
        for limit, _, _, row in sorted(known, key=lambda it: it[:3]):
            if _accuracy(row) > best:
                best = _accuracy(row)
                yield BudgetLine(kind=kind, limit=limit, student=row.student, teacher=row.teacher, test_top1=best)


def _accuracy(row: StudentRow) -> float:
    return -1.0 if row.test_top1 is None else row.test_top1


def _cheapness(row: StudentRow) -> tuple[int | float, int | float, str]:
    return row.costs["macs"], row.costs["params"], row.student


def _sentence(data: str, chosen: StudentRow, tied: Sequence[StudentRow], limits: StudentBudget, *, alone: bool) -> str:
    within = f" within {limits_words(limits)}" if limits.given else ""
    precision = sure(chosen.low, chosen.high, percent, enough=chosen.seeds > 1)
    result = f"{percent(_accuracy(chosen))} test accuracy ({precision})"
    taught = "trained without a teacher"
    if chosen.teacher is not None:
        taught = f"taught by {short(chosen.teacher)} with {recipe(chosen.params)}"
    how = f"{short(chosen.student)}, {taught}: {result}"
    if alone:
        return f"On {data}{within}, only one student is confirmed so far, so none can be preferred: {how}."
    if len(tied) == 1:
        return f"On {data}{within}, ship {how}."
    names = listed([short(row.student) for row in tied]) if len(tied) < 4 else f"the {len(tied)} best students"
    cheapest = "cheaper one" if len(tied) == 2 else "cheapest"
    return f"No clear difference between {names} on {data}{within}: ship the {cheapest}, {how}."


def _reasons(
    chosen: StudentRow, tied: Sequence[StudentRow], rows: Sequence[StudentRow], pairs: Sequence[Contrast]
) -> Iterator[str]:
    alike = {row.student for row in tied}
    for one in pairs:
        versus = one.versus or ""
        end = "not told apart" if versus in alike else "told apart"
        yield f"{short(one.teacher)} against {short(versus)}: {contrast_words(one)}: {end}."
    if len(tied) > 1:
        spelt = ", ".join(f"{short(row.student)} {count(row.costs['macs'])}" for row in tied)
        yield f"{short(chosen.student)} is the cheapest of them (MACs per image: {spelt})."
    for row in rows:
        if row.test_top1 is not None and not row.front:
            yield (
                f"{short(row.student)} is on no Pareto front: for each cost, another student is at least as accurate "
                "at no higher cost."
            )
        elif row.test_top1 is None:
            yield f"{short(row.student)} was not confirmed on test."

"""Studies on disk: find them by name, read their leaderboard, render their report. This module imports no torch."""

from pathlib import Path
from typing import Any, NamedTuple

from autodistill.errors import ConfigError, StoreError, near
from autodistill.records import ComparisonRecord, StudyRecord, TrialParams, TrialRecord, read_record, read_study
from autodistill.report import render, render_comparison
from autodistill.report.parts import plain_kd_confirmed
from autodistill.stats.students import judged_students
from autodistill.stats.verdict import is_undecided, judged, score
from autodistill.store import StudyFolder

RUNS = Path("runs")
REPORTS = Path("reports")


class TeacherLine(NamedTuple):
    """A row of the leaderboard."""

    name: str
    method: str | None
    soft_weight: float | None
    val: float | None
    own: float | None
    params: int | None
    macs: int | None
    test: float | None = None
    balanced: float | None = None
    """Test accuracy, as the mean over the classes."""
    low: float | None = None
    high: float | None = None
    p_best: float | None = None
    seeds: int = 0


def folder_of(run: str) -> StudyFolder:
    """Return the folder of a study, given its name or path; raise a ConfigError where there is none."""
    for path in (Path(run), RUNS / run):
        if (path / "study.json").exists():
            return StudyFolder(path)
    known = sorted(path.parent.name for path in RUNS.glob("*/study.json")) or ["(none yet)"]
    raise ConfigError(
        f"no study {run!r} here ({near(run, known)})", "name a study, or its folder with study.json in it"
    )


def study_of(run: str) -> tuple[StudyFolder, StudyRecord]:
    """Return the folder and record of a study; for a comparison, those of the student that it recommends.

    Raises:
        ConfigError: No such study.
        StoreError: The study is damaged, or the comparison is not complete.
    """
    folder = folder_of(run)
    record = judged_record(read_record(folder.record))
    if isinstance(record, StudyRecord):
        return folder, record
    if record.choice is None or record.state != "complete":
        raise StoreError(f"{run}: not all students are searched yet", f"finish the study first: {record.command}")
    chosen_folder = folder_of(str(folder.path.parent / record.choice.study))
    chosen = judged_record(read_study(chosen_folder.record))
    assert isinstance(chosen, StudyRecord)
    return chosen_folder, chosen


def judged_record(record: StudyRecord | ComparisonRecord) -> StudyRecord | ComparisonRecord:
    """Return a record with the verdict that this version computes; a record without a verdict is returned as is."""
    if isinstance(record, StudyRecord):
        has_verdict = record.recommendation is not None or (record.grid is not None and record.grid.verdict is not None)
        return judged(record) if has_verdict else record
    return judged_students(record) if record.choice is not None else record


def is_failure(record: StudyRecord | ComparisonRecord) -> bool:
    """Return whether so many runs failed that nothing is decided; of several students, that none is confirmed."""
    if isinstance(record, StudyRecord):
        return is_undecided(record)
    return bool(record.studies) and all(map(is_undecided, record.studies))


def teacher_lines(record: StudyRecord) -> list[TeacherLine]:
    """Return confirmed finalists in their order, then plain KD, then the other teachers by their own accuracy."""
    ranking = record.recommendation.ranking if record.recommendation else ()
    lines = []
    for row in ranking:
        name, val = row.teacher or "no teacher", row.search_val_top1
        found = {"test": row.confirmed_test_top1, "low": row.low, "high": row.high}
        found["balanced"] = row.confirmed_test_balanced_top1
        lines.append(_teacher_line(record, name, row.params, val, **found, p_best=row.p_best, seeds=row.seeds))
    if record.plain_kd is not None and not plain_kd_confirmed(record):
        params = record.plain_kd.params
        lines.append(_teacher_line(record, f"plain KD, {params.teacher}", params, record.plain_kd.val_top1))
    ranked = {row.teacher for row in ranking}
    for teacher in sorted(record.teachers, key=lambda teacher: teacher.val_top1, reverse=True):
        if teacher.name not in ranked:
            trials = [trial for trial in record.trials if trial.params.teacher == teacher.name]
            best = max(trials, key=trial_score, default=None)
            params = best.params if best else TrialParams(teacher=teacher.name)
            lines.append(_teacher_line(record, teacher.name, params, record.search_score(params)))
    return lines


def _teacher_line(
    record: StudyRecord, name: str, params: TrialParams, val: float | None, **confirmed: Any
) -> TeacherLine:
    teacher = next((teacher for teacher in record.teachers if teacher.name == params.teacher), None)
    return TeacherLine(
        name=name,
        method=params.method,
        soft_weight=params.soft_weight if params.method else None,
        val=val,
        own=teacher.val_top1 if teacher else None,
        params=teacher.cost.params if teacher else None,
        macs=teacher.cost.macs if teacher else None,
        **confirmed,
    )


def trial_score(trial: TrialRecord) -> tuple[float, float]:
    """Return a sort key: trials with a full run above those with a rung only, trials without a score lowest."""
    return score(trial.full), score(trial.rung)


def rendered(record: StudyRecord | ComparisonRecord, to: Path) -> Path:
    """Render the report of one student or of several; return the path of its page."""
    return render(record, to) if isinstance(record, StudyRecord) else render_comparison(record, to)

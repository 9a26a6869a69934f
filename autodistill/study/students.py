"""Several students: a study for each, one after another, and the record that compares them."""

import time
from collections.abc import Sequence
from pathlib import Path

from autodistill.errors import StoreError
from autodistill.executors import OnEvent
from autodistill.records import (
    ComparisonRecord,
    LeftOutRecord,
    Note,
    StudentBudget,
    StudyRecord,
    read_record,
    to_json,
)
from autodistill.stats.students import recommend_student
from autodistill.stats.verdict import threshold_of
from autodistill.store import StudyFolder, locked_study, write_text
from autodistill.study.resolve import StudySpec, kept_record
from autodistill.study.run import ExecutorFor, local_executor, run_study


def run_students(
    students: Sequence[StudySpec],
    on_event: OnEvent,
    *,
    name: str,
    command: str,
    left_out: Sequence[LeftOutRecord] = (),
    executor_for: ExecutorFor = local_executor,
) -> ComparisonRecord:
    """Run or continue each student's study; returns the comparison, which is also kept in a `study.json` of its own.

    Args:
        students: at least one, of one search; they differ in student and study only.
        on_event: is called with each event.
        name: of the comparison.
        command: that reproduces it.
        left_out: students that break a limit.
        executor_for: starts what runs the tasks of a study.
    """
    options = students[0].options
    folder = StudyFolder(Path(options.runs) / name)
    started, done = time.monotonic(), 0
    found = {it.folder.path.name: kept_record(it.folder) for it in students}
    with locked_study(folder):
        if folder.record.exists() and isinstance(read_record(folder.record), StudyRecord):
            raise StoreError(
                f"{folder.path}: holds the study of a single student", "give this search another name with --study"
            )
        for number, spec in enumerate(students, 1):
            left_s = None if options.timeout_s is None else options.timeout_s - (time.monotonic() - started)
            if left_s is not None and left_s <= 0 and done:
                break
            study = spec.folder.path.name
            on_event(Note(text=f"student {number} of {len(students)}: {spec.student.name}, study {study}"))
            timed = spec._replace(options=spec.options.model_copy(update={"timeout_s": left_s}))
            found[study] = run_study(timed, on_event, executor_for=executor_for)
            done += 1
            studies = [record for record in found.values() if record is not None]
            whole = len(studies) == len(students) and all(record.state == "complete" for record in studies)
            record = compared(
                studies, name=name, command=command, limits=options.limits, left_out=left_out, whole=whole
            )
            write_text(folder.record, to_json(record))
    return record


def compared(
    studies: Sequence[StudyRecord],
    *,
    name: str,
    command: str,
    limits: StudentBudget,
    left_out: Sequence[LeftOutRecord],
    whole: bool,
) -> ComparisonRecord:
    """Return the record of the students compared so far."""
    return ComparisonRecord(
        name=name,
        state="complete" if whole else "running",
        command=command,
        limits=limits,
        left_out=tuple(left_out),
        studies=tuple(studies),
        choice=recommend_student(studies, limits=limits, threshold=threshold_of(studies[0])),
    )

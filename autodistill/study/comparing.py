"""Several students: a study for each, one after another, and the record that compares them."""

import time
from collections.abc import Generator, Sequence
from pathlib import Path

from autodistill.records import (
    ComparisonRecord,
    Event,
    LeftOutRecord,
    Note,
    StudentBudget,
    StudyRecord,
    to_json,
)
from autodistill.stats.recommend import threshold_of
from autodistill.stats.students import recommend_student
from autodistill.store import RunFolder, claim, owned, write_text
from autodistill.study.preparing import Prepared
from autodistill.study.running import run_study
from autodistill.workers import StandBy

IDENTITY = {"kind": "comparison"}
"""Which students take part may change: each has a study, and an identity, of its own."""


def run_students(
    students: Sequence[Prepared],
    *,
    name: str,
    command: str,
    left_out: Sequence[LeftOutRecord] = (),
    standby: StandBy | None = None,
) -> Generator[Event, None, ComparisonRecord]:
    """Run or resume each student's study; returns the comparison, which is also in its own `study.json`.

    Args:
        students: at least one, of one search: they differ in student and study only.
        name: the comparison's.
        command: what reproduces it.
        left_out: students that break a limit.
        standby: processes that wait to become the first study's workers.
    """
    request = students[0].request
    folder = RunFolder(Path(request.runs) / name)
    started, done = time.monotonic(), 0
    found = {one.folder.path.name: one.kept for one in students}  # what is resumed never knows less than before
    with owned(folder):
        claim(folder, IDENTITY)
        for number, one in enumerate(students, 1):
            left_s = None if request.timeout_s is None else request.timeout_s - (time.monotonic() - started)
            if left_s is not None and left_s <= 0 and done:
                break
            yield Note(text=f"student {number} of {len(students)}: {one.student.name}, study {one.folder.path.name}")
            timed = one._replace(request=one.request.model_copy(update={"timeout_s": left_s}))
            found[one.folder.path.name] = yield from run_study(timed, standby=standby)
            done += 1
            studies = [study for study in found.values() if study is not None]
            whole = len(studies) == len(students) and all(study.state == "complete" for study in studies)
            record = compared(
                studies, name=name, command=command, limits=request.limits, left_out=left_out, whole=whole
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
    """The record of students compared so far."""
    return ComparisonRecord(
        name=name,
        state="complete" if whole else "running",
        command=command,
        limits=limits,
        left_out=tuple(left_out),
        studies=tuple(studies),
        choice=recommend_student(studies, limits=limits, threshold=threshold_of(studies[0])),
    )

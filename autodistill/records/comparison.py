"""Several students, searched one by one: their limits, and which of them to ship."""

from pathlib import Path
from typing import Any, Literal

from autodistill.records.base import Record
from autodistill.records.cost import CostKind, Costs, LatencyRecord, StudentBudget
from autodistill.records.runs import TrialParams
from autodistill.records.study import SCHEMA_VERSION, StudentRecord, StudyRecord, parsed, read_json


class LeftOutRecord(Record):
    """A student that was not trained: it breaks a limit."""

    student: StudentRecord
    latency: LatencyRecord | None = None
    excess: Costs
    """By cost: how many times the limit."""


class StudentRow(Record):
    """A student with the teacher that its own study recommends, in the order of confirmed accuracy."""

    student: str
    study: str
    teacher: str | None
    params: TrialParams
    seeds: int
    test_top1: float | None
    low: float | None = None
    high: float | None = None
    costs: Costs
    """Latency only where it was measured."""
    front: tuple[CostKind, ...] = ()
    """Costs by which no other student is at least as accurate for less or the same."""


class StudentContrast(Record):
    """A paired difference of test accuracies over the confirm seeds, `student` minus `versus`."""

    student: str
    versus: str
    difference: float
    low: float | None = None
    high: float | None = None


class BudgetLine(Record):
    """The answer under one limit: up to `limit` of `kind`, the most accurate student and its teacher."""

    kind: CostKind
    limit: float
    student: str
    teacher: str | None
    test_top1: float


class StudentChoice(Record):
    """Which student to ship, and what that rests on."""

    verdict: Literal["winner", "no_clear_difference", "only_one", "unconfirmed"]
    student: str
    study: str
    sentence: str
    reasons: tuple[str, ...] = ()
    rows: tuple[StudentRow, ...] = ()
    contrasts: tuple[StudentContrast, ...] = ()
    lines: tuple[BudgetLine, ...] = ()
    threshold: float


class ComparisonRecord(Record):
    """Students compared: each with a whole study of its own."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["comparison"] = "comparison"
    name: str
    state: Literal["running", "complete"]
    command: str
    limits: StudentBudget = StudentBudget()
    left_out: tuple[LeftOutRecord, ...] = ()
    studies: tuple[StudyRecord, ...]
    choice: StudentChoice | None = None

    def study(self, student: str) -> StudyRecord:
        return next(study for study in self.studies if study.student.name == student)


def latency_of(study: StudyRecord) -> LatencyRecord | None:
    """The student's latency as measured when its study ran; a time, so equal studies do not share it."""
    found = study.timing.get("latency")
    return None if found is None else LatencyRecord.model_validate(found)


def read_record(path: Path) -> StudyRecord | ComparisonRecord:
    """Read a `study.json`, of one student or of several.

    Raises:
        StoreError: the file is missing, truncated, of a newer version or no study record.
    """
    found: dict[str, Any] = read_json(path)
    if found.get("kind") == "comparison":
        return parsed(path, found, ComparisonRecord)
    return parsed(path, found, StudyRecord)

"""Frozen records shared by the layers: what a run, a trial and a study were, and what happened when.

Everything here is plain data with JSON in and out. Fractions are in [0, 1]; per cent exists only on display.
Wall-clock times never live in a record that equal studies share: they travel in events and end up
in `StudyRecord.timing`.
"""

from autodistill.records.base import Record, to_json
from autodistill.records.comparison import (
    BudgetLine,
    ComparisonRecord,
    LeftOutRecord,
    StudentChoice,
    StudentContrast,
    StudentRow,
    latency_of,
    read_record,
)
from autodistill.records.cost import CostKind, CostRecord, Costs, LatencyRecord, StudentBudget, costs_of
from autodistill.records.events import (
    EpochEvent,
    Event,
    Note,
    PhaseStarted,
    RunEnded,
    TaskProgress,
    TrialEnded,
)
from autodistill.records.profile import (
    AgreementRecord,
    ProfileRecord,
    ScoresRecord,
    SpreadRecord,
    TauOtherRecord,
)
from autodistill.records.runs import (
    EpochRecord,
    EvaluateOn,
    ParamValue,
    RunRecord,
    RunRequest,
    TargetSummary,
    TrainedRecord,
    TrialParams,
    TrialRecord,
)
from autodistill.records.study import (
    SCHEMA_VERSION,
    ControlRecord,
    DataRecord,
    FinalistRecord,
    ImportanceRecord,
    InspectionRecord,
    PlanRecord,
    RaceRecord,
    StudentRecord,
    StudyRecord,
    TeacherRecord,
    read_study,
)
from autodistill.records.verdict import Contrast, RankRow, Recommendation, SeedsToSettle

__all__ = [
    "SCHEMA_VERSION",
    "AgreementRecord",
    "BudgetLine",
    "ComparisonRecord",
    "Contrast",
    "ControlRecord",
    "CostKind",
    "CostRecord",
    "Costs",
    "DataRecord",
    "EpochEvent",
    "EpochRecord",
    "EvaluateOn",
    "Event",
    "FinalistRecord",
    "ImportanceRecord",
    "InspectionRecord",
    "LatencyRecord",
    "LeftOutRecord",
    "Note",
    "ParamValue",
    "PhaseStarted",
    "PlanRecord",
    "ProfileRecord",
    "RaceRecord",
    "RankRow",
    "Recommendation",
    "Record",
    "RunEnded",
    "RunRecord",
    "RunRequest",
    "ScoresRecord",
    "SeedsToSettle",
    "SpreadRecord",
    "StudentBudget",
    "StudentChoice",
    "StudentContrast",
    "StudentRecord",
    "StudentRow",
    "StudyRecord",
    "TargetSummary",
    "TaskProgress",
    "TauOtherRecord",
    "TeacherRecord",
    "TrainedRecord",
    "TrialEnded",
    "TrialParams",
    "TrialRecord",
    "costs_of",
    "latency_of",
    "read_record",
    "read_study",
    "to_json",
]

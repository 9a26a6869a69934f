"""What a study wants to know."""

from collections.abc import Mapping
from typing import NamedTuple

from autodistill.config import Space
from autodistill.records import PlanRecord, TeacherRecord, TrialRecord


class Question(NamedTuple):
    """What a study wants to know."""

    name: str
    space: Space
    plan: PlanRecord
    teachers: tuple[TeacherRecord, ...]
    tau_student_from: Mapping[str, str | None]
    """Rule to the parameter that the student temperature follows; None: it is 1."""
    audit: bool = False
    """Whether the best-looking pruned trials are trained to the end."""
    identity: str = ""
    """Tells studies of one name in one database apart; empty: the database is this study's alone."""
    joined: int = 0
    """How often teachers have joined the study."""
    carried: tuple[TrialRecord, ...] = ()
    """Trials of before the last time, all ended."""

"""What the sections about dark knowledge share: profiled teachers by size, and which of many are shown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from autodistill.records import InspectionRecord, ProfileRecord, SpreadRecord, StudyRecord, TeacherRecord

Teachers = StudyRecord | InspectionRecord
"""What these sections are made from: a study, or teachers inspected without one."""

TAU = 4.0
"""The temperature that single figures are given at: plain KD's."""


Shown = TypeVar("Shown")


@dataclass(frozen=True)
class Claim:
    """What the paper says of teachers in general, and what these teachers did."""

    said: str
    found: str


def by_size(record: Teachers) -> list[TeacherRecord]:
    """The profiled teachers by rising number of parameters."""
    return sorted((one for one in record.teachers if one.profile), key=lambda one: (one.cost.params, one.name))


def profile_of(teacher: TeacherRecord) -> ProfileRecord:
    assert teacher.profile is not None
    return teacher.profile


def at(spread: Sequence[SpreadRecord], tau: float) -> SpreadRecord:
    """The spread at the temperature of the grid that is nearest to `tau`."""
    return min(spread, key=lambda one: abs(math.log(one.tau / tau)))


def spread_out(teachers: Sequence[Shown], most: int) -> list[Shown]:
    """At most that many teachers, evenly along the order, its ends among them."""
    if len(teachers) <= most:
        return list(teachers)
    return [teachers[round(step * (len(teachers) - 1) / (most - 1))] for step in range(most)]


def cut_note(shown: int, total: int) -> str:
    """The note under teachers of which some were left out."""
    if shown == total:
        return ""
    return f"{shown} of {total:,} teachers shown, evenly spread by size; the rest is in the record."

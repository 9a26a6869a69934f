"""A study: options are resolved, teachers prepared, the search run, and the record kept."""

from autodistill.study.environment import environment
from autodistill.study.resolve import (
    KNOWN,
    OWN_SPACE,
    SearchOptions,
    StudySpec,
    label,
    pinned,
    resolve,
    resolve_all,
    study_name,
    within,
)
from autodistill.study.run import leave_out, prepare_teachers, run_students, run_study
from autodistill.study.timing import Estimate, describe_plan, describe_time, estimate
from autodistill.study.unchanged import check_unchanged, fingerprints_now

__all__ = [
    "KNOWN",
    "OWN_SPACE",
    "Estimate",
    "SearchOptions",
    "StudySpec",
    "check_unchanged",
    "describe_plan",
    "describe_time",
    "environment",
    "estimate",
    "fingerprints_now",
    "label",
    "leave_out",
    "pinned",
    "prepare_teachers",
    "resolve",
    "resolve_all",
    "run_students",
    "run_study",
    "study_name",
    "within",
]

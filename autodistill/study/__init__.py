"""One study, wired: data, teachers, search, confirm runs, record."""

from autodistill.study.comparing import run_students
from autodistill.study.environment import environment
from autodistill.study.estimates import Estimate, cache_size, estimate, spelt
from autodistill.study.fitting import pinned
from autodistill.study.known import KNOWN
from autodistill.study.limits import within
from autodistill.study.pace import words
from autodistill.study.preparing import Prepared, Request, prepare, prepare_all, study_name
from autodistill.study.profiling import checked, compared_teachers
from autodistill.study.running import run_study

__all__ = [
    "KNOWN",
    "Estimate",
    "Prepared",
    "Request",
    "cache_size",
    "checked",
    "compared_teachers",
    "environment",
    "estimate",
    "pinned",
    "prepare",
    "prepare_all",
    "run_students",
    "run_study",
    "spelt",
    "study_name",
    "within",
    "words",
]

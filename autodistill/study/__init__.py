"""One study, wired: data, teachers, search, confirm runs, record."""

from autodistill.study.environment import environment
from autodistill.study.estimates import Estimate, cache_size, estimate, spelt
from autodistill.study.preparing import KNOWN, Prepared, Request, prepare
from autodistill.study.profiling import profiled
from autodistill.study.running import run_study

__all__ = [
    "KNOWN",
    "Estimate",
    "Prepared",
    "Request",
    "cache_size",
    "environment",
    "estimate",
    "prepare",
    "profiled",
    "run_study",
    "spelt",
]

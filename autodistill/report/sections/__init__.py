"""The sections of a report, in order: each a pure function of the record, each a block in both templates."""

from collections.abc import Callable
from typing import Any

from autodistill.records import StudyRecord
from autodistill.report.sections.evidence import curves_info, failures_info, importance_info, trials_info
from autodistill.report.sections.method import budget_info, environment_info, method_info
from autodistill.report.sections.verdict import leaderboard_info, mismatch_info, recommendation_info

SECTIONS: dict[str, Callable[[StudyRecord], Any]] = {
    "recommendation": recommendation_info,
    "leaderboard": leaderboard_info,
    "mismatch": mismatch_info,
    "trials": trials_info,
    "curves": curves_info,
    "importance": importance_info,
    "failures": failures_info,
    "budget": budget_info,
    "method": method_info,
    "environment": environment_info,
}

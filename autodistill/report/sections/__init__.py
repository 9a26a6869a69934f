"""The sections of a report, in order: each a pure function of the record, each a block in both templates."""

from collections.abc import Callable
from typing import Any

from autodistill.records import InspectionRecord, StudyRecord
from autodistill.report.sections.agreement import agreement_info
from autodistill.report.sections.controls import controls_info
from autodistill.report.sections.environment import environment_info
from autodistill.report.sections.evidence import curves_info, failures_info, trials_info
from autodistill.report.sections.importance import importance_info
from autodistill.report.sections.knowledge import knowledge_info
from autodistill.report.sections.method import budget_info, method_info
from autodistill.report.sections.mismatch import mismatch_info
from autodistill.report.sections.replicates import replicates_info
from autodistill.report.sections.scores import scores_info
from autodistill.report.sections.second_looks import second_looks_info
from autodistill.report.sections.slices import pair_info, slices_info
from autodistill.report.sections.temperatures import temperatures_info
from autodistill.report.sections.trails import trails_info
from autodistill.report.sections.verdict import leaderboard_info, recommendation_info

TEACHER_SECTIONS: dict[str, Callable[[StudyRecord | InspectionRecord], Any]] = {
    "knowledge": knowledge_info,
    "temperatures": temperatures_info,
    "agreement": agreement_info,
    "scores": scores_info,
}
"""Those that need no study: made of the teachers alone."""

SECTIONS: dict[str, Callable[[StudyRecord], Any]] = {
    "recommendation": recommendation_info,
    "leaderboard": leaderboard_info,
    "controls": controls_info,
    "mismatch": mismatch_info,
    **TEACHER_SECTIONS,
    "trials": trials_info,
    "trails": trails_info,
    "curves": curves_info,
    "importance": importance_info,
    "slices": slices_info,
    "pair": pair_info,
    "replicates": replicates_info,
    "second_looks": second_looks_info,
    "failures": failures_info,
    "budget": budget_info,
    "method": method_info,
    "environment": environment_info,
}

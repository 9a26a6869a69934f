"""The search: what is tried next, what is stopped, who is confirmed.

It decides; it does not train. `Runner` trains the runs that it is given, together, and yields their
events. Every decision follows from (study, results of runs), so re-running `search` over kept
results takes the same way again and goes on where it was. Where a study asks whenever a worker is
free, it also follows from the order in which runs ended; that is kept too.
"""

from autodistill.search.asking import prior_params
from autodistill.search.auditing import audited_trials
from autodistill.search.confirming import candidates, finalists_of
from autodistill.search.copying import copy_study
from autodistill.search.importance import importance
from autodistill.search.opening import refuse_foreign
from autodistill.search.outcome import Outcome, Runner, Source
from autodistill.search.plan import Budget, make_plan, parse_budget, plan_epochs
from autodistill.search.question import Question
from autodistill.search.requests import certain_runs
from autodistill.search.stages import search
from autodistill.search.trials import goes_on

__all__ = [
    "Budget",
    "Outcome",
    "Question",
    "Runner",
    "Source",
    "audited_trials",
    "candidates",
    "certain_runs",
    "copy_study",
    "finalists_of",
    "goes_on",
    "importance",
    "make_plan",
    "parse_budget",
    "plan_epochs",
    "prior_params",
    "refuse_foreign",
    "search",
]

"""The search suggests trials, prunes trials and chooses finalists. Executors train the runs that the search asks for.

Every decision follows from the specification, the recorded trials and the results of runs.
"""

from autodistill.searching.database import Mirror, refuse_foreign
from autodistill.searching.grid import run_grid
from autodistill.searching.importance import importance
from autodistill.searching.plan import make_grid_plan, make_plan, parse_budget, wave_settings
from autodistill.searching.sampler import Sampler, prior_params
from autodistill.searching.screening import screen
from autodistill.searching.stages import audited_trials, run_search
from autodistill.searching.state import SearchSpec, SearchState, no_teacher_runs

__all__ = [
    "Mirror",
    "Sampler",
    "SearchSpec",
    "SearchState",
    "audited_trials",
    "importance",
    "make_grid_plan",
    "make_plan",
    "no_teacher_runs",
    "parse_budget",
    "prior_params",
    "refuse_foreign",
    "run_grid",
    "run_search",
    "screen",
    "wave_settings",
]

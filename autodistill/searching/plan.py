"""Divide a study's budget among its parts before it starts."""

import math
import re
from typing import Literal, NamedTuple

from autodistill import stats
from autodistill.config import Range, Space
from autodistill.errors import ConfigError
from autodistill.formatting import plural
from autodistill.records import PlanRecord, RaceRecord

PROTECTED_PRIORS = 4
"""Number of priors that continue to a full run, the best ones if there are more teachers."""

SCREENED_SHARE = 0.25
"""Share of the search that the rungs of further teachers may take, by simulations (docs/search.md)."""

CONTROLLED_FROM = 40
"""Smallest budget (full trainings) with controls; with less, the report says that they are missing."""

LEAST_SEARCHED = 2
"""Full trainings that reruns leave to the search; with less, there is little to repeat."""

DEFAULT_SETTINGS = 3
"""Settings that each cell of a method grid tries where no budget is given."""

LABEL_SMOOTHING_FROM = 23
"""Smallest budget (full trainings) of a search with label smoothing as a control."""

UNITS = {"ep": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def rounded_up(epochs: int, *, full: int) -> str:
    """Format epochs as full trainings of `full` epochs, rounded up to hundredths."""
    return f"{math.ceil(100 * epochs / full) / 100:g}"


class Budget(NamedTuple):
    amount: float
    unit: Literal["full runs", "epochs", "seconds"]


def parse_budget(text: str) -> Budget:
    """Read `20` (full-training equivalents), `600ep`, `8h`, `30min`.

    Raises:
        ConfigError: The text is anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text)
    if match is None or (match[2] and match[2] not in UNITS) or float(match[1]) == 0:
        raise ConfigError(
            f"--budget {text}: must be a number above 0, alone or with one of {', '.join(UNITS)}",
            "20 is the cost of 20 full trainings of the student; 600ep is 600 epochs; 8h is eight hours",
        )
    amount, unit = float(match[1]), match[2]
    if not unit:
        return Budget(amount, "full runs")
    return Budget(amount, "epochs") if unit == "ep" else Budget(amount * UNITS[unit], "seconds")


def make_plan(
    space: Space,
    *,
    teachers: int,
    requested: str,
    epochs_per_s: float | None = None,
    max_trials: int | None = None,
    tried: int | None = None,
) -> PlanRecord:
    """Divide a budget among the parts of a study.

    Args:
        space: Search space.
        teachers: Number of teachers.
        requested: Budget as given by the user.
        epochs_per_s: Measured student epochs per second over all workers; required for a time budget.
        max_trials: Limit on the number of trials.
        tried: Number of teachers that an earlier process chose to try; None: it follows from the budget.

    Raises:
        ConfigError: The budget is too small for the plan; the message names the smallest budget.
    """
    full, rung = space.training.epochs, space.training.rung
    finalists = min(space.confirm.teachers, teachers)
    total = _total_epochs(parse_budget(requested), full, epochs_per_s)
    tried = _tried(space, teachers, total=total) if tried is None else tried
    fixed = _fixed_epochs(space, tried, total=total)
    needed, reruns = sum(fixed.values()) + full, finalists * full
    if space.search.reruns and total >= needed - full + reruns + LEAST_SEARCHED * full:
        fixed["reruns"] = reruns
    if total < needed:
        named = {part.replace("_", " "): epochs / full for part, epochs in fixed.items() if epochs}
        parts = " + ".join(f"{part} {cost:.3g}" for part, cost in named.items())
        raise ConfigError(
            f"--budget {requested}: {total / full:.4g} full trainings are too few for {plural(teachers, 'teacher')}"
            f"{f' (the plan would try {tried})' if tried < teachers else ''}: "
            f"the smallest is {rounded_up(needed, full=full)} ({parts} + search 1)",
            _way_out(space, teachers=teachers, total=total),
        )
    if max_trials is not None and max_trials < tried:
        raise ConfigError(
            f"--max-trials {max_trials}: must be at least {tried}, because each teacher has a trial with its prior"
        )
    return PlanRecord(
        requested=requested,
        epochs_full=full,
        epochs_rung=rung,
        total_epochs=total,
        search=(total - sum(fixed.values())) / full,
        max_trials=max_trials,
        tried=tried,
        wave=space.search.wave,
        rungs=space.search.rungs,
        race=_race(space, finalists),
        **{part: epochs / full for part, epochs in fixed.items()},
    )


def wave_settings(space: Space) -> int:
    """Return the number of settings that each cell of a method grid tries at once; the best of them goes on."""
    return math.ceil(space.search.eta)


def make_grid_plan(
    space: Space, *, teachers: int, requested: str = "", epochs_per_s: float | None = None
) -> PlanRecord:
    """Divide a budget among the cells of a method grid: the methods of the space x the teachers.

    Every cell tries as many settings as the budget pays for beside the confirm runs. An empty budget is what
    `DEFAULT_SETTINGS` settings per cell cost. The arguments are those of `make_plan`.

    Raises:
        ConfigError: The budget is too small; the message names the smallest budget.
    """
    full, rung = space.training.epochs, space.training.rung
    methods, seeds = len(space.search.methods), space.confirm.seeds
    rest, wave = (full - rung if space.search.rungs == "part-way" else full), wave_settings(space)
    cells, shared = methods * teachers, bool(space.grid and space.grid.shared_settings)

    def tuning(settings: int) -> int:
        return settings * rung + math.ceil(settings / wave) * rest

    def needed(settings: int, *, methods: int = methods, teachers: int = teachers, seeds: int = seeds) -> int:
        confirm = (methods * teachers * (1 + shared) + 2) * seeds * full
        return methods * teachers * tuning(settings) + confirm

    requested = requested or rounded_up(needed(DEFAULT_SETTINGS), full=full)
    total = _total_epochs(parse_budget(requested), full, epochs_per_s)
    if total < needed(1):
        possible = {
            "methods": [count for count in range(1, methods) if needed(1, methods=count) <= total],
            "teachers": [count for count in range(1, teachers) if needed(1, teachers=count) <= total],
            "confirm.seeds": [count for count in range(2, seeds) if needed(1, seeds=count) <= total],
        }
        cuts = [f"{name} to {counts[-1]}" for name, counts in possible.items() if counts]
        cut = f"reduce {' or '.join(cuts)}" if cuts else "name fewer teachers or methods"
        raise ConfigError(
            f"--budget {requested}: {total / full:.4g} full trainings are too few for a grid of "
            f"{plural(methods, 'method')} x {plural(teachers, 'teacher')}: the smallest is "
            f"{rounded_up(needed(1), full=full)} ({tuning(1) / full:.3g} for a setting and "
            f"{plural(seeds * (1 + shared), 'confirm run')} in each of {plural(cells, 'cell')}, {2 * seeds} for "
            "no teacher and label smoothing)",
            f"raise --budget, or {cut}",
        )
    settings = 1
    while needed(settings + 1) <= total:
        settings += 1
    return PlanRecord(
        requested=requested,
        epochs_full=full,
        epochs_rung=rung,
        total_epochs=total,
        no_teacher=1,
        plain_kd=0,
        priors=cells * tuning(1) / full,
        search=cells * (tuning(settings) - tuning(1)) / full,
        confirm=cells * seeds + seeds - 1,
        controls=cells * seeds * shared,
        label_smoothing=seeds,
        settings=settings,
        wave=space.search.wave,
        rungs=space.search.rungs,
    )


def _tried(space: Space, teachers: int, *, total: int) -> int:
    """Return the number of teachers that get a first trial.

    Up to `PROTECTED_PRIORS` teachers, all do. The rungs of further teachers may take `SCREENED_SHARE` of what the other
    parts leave; the screening (`autodistill.searching.screening`) leaves out the rest.
    """
    if teachers <= PROTECTED_PRIORS:
        return teachers
    full, finalists = space.training.epochs, min(space.confirm.teachers, teachers)
    reruns = finalists * full if space.search.reruns else 0
    left = total - reruns - sum(_fixed_epochs(space, PROTECTED_PRIORS, total=total).values())
    return min(teachers, PROTECTED_PRIORS + int(max(0, left) * SCREENED_SHARE) // space.training.rung)


def _way_out(space: Space, *, teachers: int, total: int) -> str:
    """Say what is possible with a budget that is too small, in epochs."""
    full = space.training.epochs
    fixed = {count: _fixed_epochs(space, count, total=total) for count in range(1, teachers)}
    possible = [count for count, epochs in fixed.items() if sum(epochs.values()) + full <= total]
    named = f"name at most {plural(possible[-1], 'teacher')}" if possible else "name fewer teachers"
    return f"raise --budget, {named}, or lower confirm.seeds"


def _race(space: Space, finalists: int) -> RaceRecord | None:
    # Racing saves nothing with few seeds, as measured with 3.
    raced = space.confirm.seeds >= stats.SMALLEST and finalists > 1
    return RaceRecord(first=stats.FIRST, seeds=space.confirm.seeds) if raced else None


def _fixed_epochs(space: Space, teachers: int, *, total: int) -> dict[str, int]:
    """Return the epochs of the parts with a fixed size; controls and label smoothing belong to large budgets only."""
    full, rung, confirm = space.training.epochs, space.training.rung, space.confirm
    promoted = min(teachers, PROTECTED_PRIORS)
    repeated = 0 if space.search.rungs == "part-way" else promoted
    finalists = min(confirm.teachers, teachers)
    fixed = {
        "no_teacher": full,
        "plain_kd": 0 if plain_kd_is_prior(space) else full,
        "priors": (teachers - promoted + repeated) * rung + promoted * full,
        "confirm": (finalists * confirm.seeds + confirm.seeds - 1) * full,
    }
    race = _race(space, finalists)
    cost = (race.first if race else confirm.seeds) * full
    if total >= CONTROLLED_FROM * full:
        # Each finalist's prior, and the best configuration with each other finalist.
        fixed["controls"] = (2 * finalists - 1) * cost
    if confirm.label_smoothing is not False:
        reruns = finalists * full if space.search.reruns else 0
        room = total - sum(fixed.values()) - reruns - LEAST_SEARCHED * full >= cost
        if confirm.label_smoothing or (room and total >= LABEL_SMOOTHING_FROM * full):
            fixed["label_smoothing"] = cost
    return fixed


def plain_kd_is_prior(space: Space) -> bool:
    """Return whether the prior of the most accurate teacher is plain KD, so that a single run serves for both."""
    prior, plain = space.prior, space.plain_kd
    searched = space.search.methods.get("ts", {})
    fixed = {name: it for name, it in searched.items() if not isinstance(it, Range | tuple)}
    params = {"tau_student": plain.tau, **fixed, **prior.params}
    wanted = {"tau_student": plain.tau, "tau": plain.tau}
    return (prior.method, params, prior.soft_weight) == ("ts", wanted, plain.soft_weight)


def _total_epochs(budget: Budget, full: int, epochs_per_s: float | None) -> int:
    if budget.unit == "seconds":
        if epochs_per_s is None:
            raise ValueError("a time budget needs epochs_per_s")
        return int(round(budget.amount * epochs_per_s, 6))
    return int(budget.amount if budget.unit == "epochs" else round(budget.amount * full, 6))


def wave_size(plan: PlanRecord, *, left: int, eta: float) -> int:
    """Return the number of trials in the next wave: as many as `left` epochs cover if one in eta goes on.

    Otherwise a wide wave on a large machine could spend the whole budget on rungs that cannot continue. When the
    budget does not cover a single full run, it is spent on rungs: they still serve the importance analysis.
    """

    def cost(count: int) -> int:
        return count * plan.epochs_rung + math.ceil(count / eta) * plan.epochs_rest

    covered = max(count for count in range(plan.wave + 1) if cost(count) <= max(left, 0))
    return covered or min(plan.wave, max(left, 0) // plan.epochs_rung)

"""The budget as a plan: what a study will spend on what, before it starts."""

import math
import re
from typing import Literal, NamedTuple

from autodistill import stats
from autodistill.config import Space
from autodistill.errors import ConfigError
from autodistill.records import PlanRecord, RaceRecord

PROTECTED_PRIORS = 4
"""With up to this many teachers every prior goes on to a full run; with more, this many of the best do."""

CONTROLLED_FROM = 40
"""Full trainings from which the budget has room for fair controls; below, the report says that they are missing."""

LEAST_SEARCHED = 2
"""Full trainings that the search keeps beside second looks: below, there is little to look at twice."""

UNITS = {"ep": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


class Budget(NamedTuple):
    amount: float
    unit: Literal["full runs", "epochs", "seconds"]


def parse_budget(text: str) -> Budget:
    """Read `20` (full-training equivalents), `600ep`, `8h`, `30min`.

    Raises:
        ConfigError: anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text)
    if found is None or (found[2] and found[2] not in UNITS) or float(found[1]) == 0:
        raise ConfigError(
            f"--budget {text}: must be a number above 0, alone or with one of {', '.join(UNITS)}",
            "20 is the cost of 20 full trainings of the student; 600ep is 600 epochs; 8h is eight hours",
        )
    amount, unit = float(found[1]), found[2]
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
    asynchronous: bool = False,
) -> PlanRecord:
    """Divide a budget.

    Args:
        teachers: how many compete.
        requested: the budget as asked for.
        epochs_per_s: measured student epochs per second over all workers; needed for a budget of time.
        asynchronous: whether trials are asked for whenever a worker is free.

    Raises:
        ConfigError: the budget is below what the plan needs; the message names the smallest.
    """
    full, short = space.training.epochs, space.training.short
    fixed = plan_epochs(space, teachers)
    total = _total_epochs(parse_budget(requested), full, epochs_per_s)
    if total >= CONTROLLED_FROM * full:
        fixed["controls"] = _control_runs(space, teachers) * full
    needed, looks = sum(fixed.values()) + full, min(space.confirm.teachers, teachers) * full
    if space.search.second_looks and total >= needed - full + looks + LEAST_SEARCHED * full:
        fixed["second_looks"] = looks
    if total < needed:
        raise ConfigError(
            f"--budget {requested}: {total / full:.4g} full trainings are too few for {teachers} teachers: "
            f"the smallest is {math.ceil(100 * needed / full) / 100:g} ({_spelt(fixed, full)} + search 1)",
            "raise --budget, name fewer teachers, or lower confirm.seeds",
        )
    if max_trials is not None and max_trials < teachers:
        raise ConfigError(
            f"--max-trials {max_trials}: each of the {teachers} teachers is tried once first: at least {teachers}"
        )
    return PlanRecord(
        requested=requested,
        epochs_full=full,
        epochs_short=short,
        total_epochs=total,
        search=(total - sum(fixed.values())) / full,
        max_trials=max_trials,
        wave=space.search.wave,
        asynchronous=asynchronous,
        rungs=space.search.rungs,
        race=_race(space, teachers),
        **{part: epochs / full for part, epochs in fixed.items()},
    )


def plan_epochs(space: Space, teachers: int) -> dict[str, int]:
    """Epochs of the parts that are known before the search: no_teacher, plain_kd, priors, confirm."""
    full, short = space.training.epochs, space.training.short
    confirm = space.confirm
    runs = min(confirm.teachers, teachers) * confirm.seeds + confirm.seeds - 1
    going_on = min(teachers, PROTECTED_PRIORS)
    repeated = 0 if space.search.rungs == "part-way" else going_on
    return {
        "no_teacher": full,
        "plain_kd": full,
        "priors": (teachers - going_on + repeated) * short + going_on * full,
        "confirm": runs * full,
    }


def _control_runs(space: Space, teachers: int) -> int:
    """Full runs of the fair controls: the prior of each finalist, and the best configuration for all but its own."""
    finalists, race = min(space.confirm.teachers, teachers), _race(space, teachers)
    return (2 * finalists - 1) * (race.first if race else space.confirm.seeds)


def _race(space: Space, teachers: int) -> RaceRecord | None:
    """Race the confirm seeds where there is something to win: measured, at 3 seeds there is not."""
    spec = space.confirm
    if spec.seeds < stats.SMALLEST or min(spec.teachers, teachers) < 2:
        return None
    return RaceRecord(first=stats.FIRST, seeds=spec.seeds)


def _total_epochs(budget: Budget, full: int, epochs_per_s: float | None) -> int:
    if budget.unit == "seconds":
        if epochs_per_s is None:
            raise ValueError("a budget of time needs epochs_per_s")
        return int(budget.amount * epochs_per_s)
    return int(budget.amount if budget.unit == "epochs" else round(budget.amount * full, 6))


def _spelt(fixed: dict[str, int], full: int) -> str:
    return " + ".join(f"{part.replace('_', ' ')} {epochs / full:.3g}" for part, epochs in fixed.items())


def wave_size(plan: PlanRecord, *, left: int, eta: float) -> int:
    """How many trials the next wave asks for: as many as can be paid with the full runs that one in eta of them wins.

    A wave as wide as a large machine would otherwise spend all on short runs, none of which could go on. What is
    left when not even one trial can win a full run buys short runs: they still tell what mattered.

    Args:
        plan: the study's.
        left: epochs that are not spoken for.
        eta: one in eta short runs of a teacher goes on.
    """

    def cost(count: int) -> int:
        return count * plan.epochs_short + math.ceil(count / eta) * plan.epochs_rest

    paid = max(count for count in range(plan.wave + 1) if cost(count) <= max(left, 0))
    return paid or min(plan.wave, max(left, 0) // plan.epochs_short)

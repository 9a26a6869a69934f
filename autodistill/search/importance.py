"""What mattered: fANOVA on the short-run scores, which every trial has."""

from collections.abc import Sequence
from statistics import fmean, stdev

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from autodistill.config import Dimension, Range, Space
from autodistill.records import ImportanceRecord, ParamValue, TrialRecord

SMALLEST_N = 10
EVALUATOR_SEEDS = range(5)
Shares = dict[str, float]


def importance(
    trials: Sequence[TrialRecord], space: Space, teachers: Sequence[str], *, seeds: Sequence[int] = EVALUATOR_SEEDS
) -> ImportanceRecord:
    """Shares of the variance of short-run scores, over all trials and, for a rule's own parameters, within that rule.

    A forest depends on its seed, so each share is the mean over two or more, their standard deviation beside it.

    Source: Hutter, Hoos and Leyton-Brown, ICML 2014, by Optuna's evaluator.
    """
    scored = [trial for trial in trials if trial.short is not None and trial.short.val_top1 is not None]
    if len(scored) < SMALLEST_N:
        return ImportanceRecord(n=len(scored), note=f"{len(scored)} scored trials are too few: at least {SMALLEST_N}")
    shared: dict[str, Dimension] = {
        "teacher": tuple(teachers),
        "rule": tuple(space.search.rules),
        "soft_weight": space.search.soft_weight,
    }
    within: dict[str, tuple[Shares, Shares]] = {}
    counts = {}
    for rule, dimensions in space.search.rules.items():
        own = [trial for trial in scored if trial.params.rule == rule]
        counts[rule] = len(own)
        if len(own) >= SMALLEST_N:
            within[rule] = _shares(own, {**dimensions, "soft_weight": space.search.soft_weight}, seeds)
    shares, spread = _shares(scored, shared, seeds)
    return ImportanceRecord(
        n=len(scored),
        evaluator_seeds=len(seeds),
        shares=shares,
        shares_std=spread,
        within_rule={rule: means for rule, (means, _) in within.items()},
        within_rule_std={rule: spreads for rule, (_, spreads) in within.items()},
        within_rule_n=counts,
        note="" if shares else "every trial scored the same, or nothing was searched",
    )


def _shares(
    trials: Sequence[TrialRecord], dimensions: dict[str, Dimension], seeds: Sequence[int]
) -> tuple[Shares, Shares]:
    """Means and standard deviations over the evaluator's seeds, largest mean first."""
    distributions = {name: kind for name, it in dimensions.items() if (kind := _distribution(it)) is not None}
    scores = {trial.short.val_top1 for trial in trials if trial.short is not None}
    if not distributions or len(scores) < 2:
        return {}, {}
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances  # brings all of scikit-learn

    study = optuna.create_study(direction="maximize")
    for trial in trials:
        assert trial.short is not None
        params = {name: _value(trial, name) for name in distributions}
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=trial.short.val_top1))
    found = [get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed)) for seed in seeds]
    means = {name: round(fmean(one[name] for one in found), 6) for name in distributions}
    spread = {name: round(stdev(one[name] for one in found), 6) for name in distributions}
    names = sorted(means, key=lambda name: -means[name])
    return {name: means[name] for name in names}, {name: spread[name] for name in names}


def _distribution(dimension: Dimension) -> BaseDistribution | None:
    if isinstance(dimension, Range):
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    if isinstance(dimension, tuple) and len(dimension) > 1:
        return CategoricalDistribution(dimension)
    return None


def _value(trial: TrialRecord, name: str) -> ParamValue | None:
    shared = {"teacher": trial.params.teacher, "rule": trial.params.rule, "soft_weight": trial.params.soft_weight}
    if name in shared:
        return shared[name]
    return trial.params.tau_student if name == "tau_student" else trial.params.rule_params[name]

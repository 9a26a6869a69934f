"""Importance of parameters: fANOVA on rung scores, which every trial has."""

from collections.abc import Sequence
from statistics import fmean, stdev

import optuna

from autodistill.config import Dimension, Space
from autodistill.records import ImportanceRecord, TrialRecord
from autodistill.searching.sampler import distribution

SMALLEST_N = 10
EVALUATOR_SEEDS = range(5)
Shares = dict[str, float]


def importance(
    trials: Sequence[TrialRecord], space: Space, teachers: Sequence[str], *, seeds: Sequence[int] = EVALUATOR_SEEDS
) -> ImportanceRecord:
    """Return the share of each parameter in the variance of rung scores.

    Parameters of a method are compared within the trials of the method, the others over all trials. The random forest
    depends on its seed, so each share is a mean over two or more seeds, with its standard deviation.

    Source: Hutter, Hoos and Leyton-Brown, ICML 2014, as implemented by Optuna.
    """
    scored = [trial for trial in trials if trial.rung is not None and trial.rung.val_top1 is not None]
    if len(scored) < SMALLEST_N:
        return ImportanceRecord(n=len(scored), note=f"{len(scored)} scored trials are too few: at least {SMALLEST_N}")
    shared: dict[str, Dimension] = {"teacher": tuple(teachers), "method": tuple(space.search.methods)}
    weight: dict[str, Dimension] = {"soft_weight": space.search.soft_weight}
    if all(trial.params.soft_weight is not None for trial in scored):
        shared |= weight
    within: dict[str, tuple[Shares, Shares]] = {}
    counts = {}
    for method, dimensions in space.search.methods.items():
        of_method = [trial for trial in scored if trial.params.method == method]
        counts[method] = len(of_method)
        if len(of_method) >= SMALLEST_N:
            weighted = of_method[0].params.soft_weight is not None
            within[method] = _shares(of_method, {**dimensions, **(weight if weighted else {})}, seeds)
    shares, spread = _shares(scored, shared, seeds)
    return ImportanceRecord(
        n=len(scored),
        evaluator_seeds=len(seeds),
        shares=shares,
        shares_std=spread,
        within_method={method: means for method, (means, _) in within.items()},
        within_method_std={method: spreads for method, (_, spreads) in within.items()},
        within_method_n=counts,
        note="" if shares else "every trial scored the same, or nothing was searched",
    )


def _shares(
    trials: Sequence[TrialRecord], dimensions: dict[str, Dimension], seeds: Sequence[int]
) -> tuple[Shares, Shares]:
    """Return means and standard deviations over seeds, the largest mean first."""
    distributions = {name: kind for name, values in dimensions.items() if (kind := distribution(values)) is not None}
    scores = {trial.rung.val_top1 for trial in trials if trial.rung is not None}
    if not distributions or len(scores) < 2:
        return {}, {}
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances  # imports all of scikit-learn

    study = optuna.create_study(direction="maximize")
    for trial in trials:
        assert trial.rung is not None
        own = {**trial.params.method_params, **trial.params.model_dump()}
        params = {name: own[name] for name in distributions}
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=trial.rung.val_top1))
    by_seed = [get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed)) for seed in seeds]
    means = {name: round(fmean(shares[name] for shares in by_seed), 6) for name in distributions}
    spread = {name: round(stdev(shares[name] for shares in by_seed), 6) for name in distributions}
    names = sorted(means, key=lambda name: -means[name])
    return {name: means[name] for name in names}, {name: spread[name] for name in names}

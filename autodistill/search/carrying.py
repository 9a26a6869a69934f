"""Trials that carry over into an Optuna study of more teachers: Optuna refuses a new choice in an old one."""

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autodistill.config import Dimension, Range
from autodistill.records import ParamValue, TrialRecord
from autodistill.search.question import Question

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def study_name(question: Question) -> str:
    """Optuna's name of the study: `NAME`, `NAME+1` since teachers joined."""
    return f"{question.name}+{question.joined}" if question.joined else question.name


def carry(study: optuna.Study, question: Question) -> None:
    """Add the trials of before under their numbers; those that are there already, of a process that died, stay."""
    there = len(study.get_trials(deepcopy=False))
    for trial in question.carried[there:]:
        study.add_trial(_frozen(trial, question))


def _frozen(trial: TrialRecord, question: Question) -> FrozenTrial:
    runs = [run for run in (trial.short, trial.full) if run is not None and run.val_top1 is not None]
    values, dimensions = _values(trial), _dimensions(trial, question)
    searched = {name: _distribution(it) for name, it in dimensions.items() if it is not None}
    return create_trial(
        state=STATES[trial.state],
        value=trial.full.val_top1 if trial.state == "complete" and trial.full is not None else None,
        params={name: values[name] for name in searched},
        distributions=searched,
        intermediate_values={run.last_epoch: run.val_top1 for run in runs if run.val_top1 is not None},
        user_attrs={"reason": trial.reason} if trial.reason else {},
    )


def _values(trial: TrialRecord) -> dict[str, ParamValue]:
    params = trial.params
    assert params.teacher is not None
    assert params.rule is not None
    own = {**params.rule_params, "tau_student": params.tau_student}
    mixed = {f"{params.rule}.{name}": value for name, value in own.items()}
    return {"teacher": params.teacher, "rule": params.rule, "soft_weight": params.soft_weight, **mixed}


def _dimensions(trial: TrialRecord, question: Question) -> dict[str, "Range | tuple[ParamValue, ...] | None"]:
    """The searched ones among the trial's; None: it is fixed."""
    search, rule = question.space.search, str(trial.params.rule)
    found: dict[str, Dimension] = {
        "teacher": tuple(it.name for it in question.teachers),
        "rule": tuple(search.rules),
        "soft_weight": search.soft_weight,
    }
    found |= {f"{rule}.{name}": dimension for name, dimension in search.rules[rule].items()}
    return {name: _searched(dimension) for name, dimension in found.items()}


def _searched(dimension: Dimension) -> "Range | tuple[ParamValue, ...] | None":
    if isinstance(dimension, Range):
        return dimension
    return tuple(dimension) if isinstance(dimension, tuple) and len(dimension) > 1 else None


def _distribution(dimension: "Range | tuple[ParamValue, ...]") -> BaseDistribution:
    if isinstance(dimension, Range):
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    return CategoricalDistribution(dimension)

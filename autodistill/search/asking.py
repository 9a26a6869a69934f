"""Optuna's part: suggesting configurations, told what became of them.

Optuna holds the searched trials only. Baselines live in the record: one complete trial without
parameters empties the intersection space and turns multivariate TPE into independent sampling.
"""

import warnings
from collections.abc import Callable, Mapping

import optuna
from optuna.trial import FrozenTrial, Trial

from autodistill.config import Dimension, Range, Space
from autodistill.records import ParamValue, TrialParams, TrialRecord
from autodistill.search.carrying import STATES
from autodistill.search.keeping import KeptStudy, Say
from autodistill.search.question import Question
from autodistill.store import seed_from

Suggest = Callable[[str, "Dimension"], ParamValue]


def ask(
    study: KeptStudy,
    question: Question,
    number: int,
    *,
    prior_of: str | None = None,
    say: Say = lambda _: None,
    hold: Callable[[], None] = lambda: None,
) -> TrialParams:
    """The parameters of trial `number`: those it has, or new ones.

    The sampler is seeded from (study seed, trial number), so a resumed study suggests what an
    uninterrupted one would have.

    Args:
        prior_of: the teacher whose prior this trial is; None: the sampler chooses.
        say: told when the database is away; it is waited for.
        hold: raises where another process asks by now.
    """
    if number == len(study.trials()):
        sampler = _sampler(question.space, sampler_seed(question, number))
        trial = study.ask(sampler, None if prior_of is None else prior_values(question, prior_of))
        _choose(_suggest(trial), question)
        study.write(number, say=say, hold=hold)
    return _choose(_recall(study.trials()[number]), question)


def fits(trial: FrozenTrial, question: Question) -> bool:
    """Return whether a study can have asked for a trial."""
    try:
        params = _choose(_recall(trial), question)
    except (KeyError, ValueError):
        return False
    return params.teacher in [it.name for it in question.teachers]


def sampler_seed(question: Question, number: int) -> int:
    """From which the sampler draws a trial."""
    return seed_from(question.space.search.seed, number)


def tell(study: KeptStudy, record: TrialRecord, *, say: Say = lambda _: None) -> None:
    """Report a trial's scores and, where it has ended, its state. Telling again changes nothing."""
    if study.trials()[record.number].state.is_finished():
        return
    runs = [run for run in (record.short, record.full) if run is not None]
    scores = {run.last_epoch: run.val_top1 for run in runs if run.val_top1 is not None}
    study.report(record.number, scores, say=say)
    if record.state != "running":
        score = record.full.val_top1 if record.state == "complete" and record.full is not None else None
        study.end(record.number, STATES[record.state], score=score, reason=record.reason, say=say)


def prior_params(space: Space, teacher: str, tau_student_from: Mapping[str, str | None]) -> TrialParams:
    """A teacher's prior as a trial would have it."""
    wanted = _prior(space, teacher)

    def suggest(name: str, dimension: Dimension) -> ParamValue:
        return wanted[name] if name in wanted else _fixed(dimension)

    return _chosen(suggest, space, (teacher,), tau_student_from)


def prior_values(question: Question, teacher: str) -> dict[str, ParamValue]:
    """A teacher's prior as Optuna parameters: the searched ones only, fixed ones are not Optuna's."""
    prior, search, wanted = question.space.prior, question.space.search, _prior(question.space, teacher)
    dimensions: dict[str, Dimension] = {
        "teacher": tuple(it.name for it in question.teachers),
        "rule": tuple(search.rules),
        "soft_weight": search.soft_weight,
    }
    dimensions |= {f"{prior.rule}.{name}": dimension for name, dimension in search.rules[prior.rule].items()}
    return {name: wanted[name] for name, dimension in dimensions.items() if _is_searched(dimension)}


def _prior(space: Space, teacher: str) -> dict[str, ParamValue]:
    prior = space.prior
    wanted: dict[str, ParamValue] = {"teacher": teacher, "rule": prior.rule, "soft_weight": prior.soft_weight}
    return wanted | {f"{prior.rule}.{name}": value for name, value in prior.params.items()}


def _sampler(space: Space, seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        # `group` is what makes multivariate TPE right for conditional parameters, and still marked experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=space.search.startup, multivariate=True, group=True, constant_liar=True
        )


def _choose(suggest: Suggest, question: Question) -> TrialParams:
    teachers = tuple(it.name for it in question.teachers)
    return _chosen(suggest, question.space, teachers, question.tau_student_from)


def _chosen(
    suggest: Suggest, space: Space, teachers: tuple[str, ...], tau_student_from: Mapping[str, str | None]
) -> TrialParams:
    search = space.search
    teacher = str(suggest("teacher", teachers))
    rule = str(suggest("rule", tuple(search.rules)))
    own = {name: suggest(f"{rule}.{name}", dimension) for name, dimension in search.rules[rule].items()}
    follows = tau_student_from[rule]
    tau_student = own.pop("tau_student", own[follows] if follows else 1.0)
    return TrialParams(
        teacher=teacher,
        rule=rule,
        rule_params=own,
        tau_student=float(tau_student),
        soft_weight=float(suggest("soft_weight", search.soft_weight)),
    )


def _is_searched(dimension: Dimension) -> bool:
    return isinstance(dimension, Range) or (isinstance(dimension, tuple) and len(dimension) > 1)


def _suggest(trial: Trial) -> Suggest:
    def suggest(name: str, dimension: Dimension) -> ParamValue:
        if isinstance(dimension, Range):
            return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
        if isinstance(dimension, tuple):
            return _plain(trial.suggest_categorical(name, dimension) if len(dimension) > 1 else dimension[0])
        return dimension

    return suggest


def _recall(frozen: FrozenTrial) -> Suggest:
    def recall(name: str, dimension: Dimension) -> ParamValue:
        if not _is_searched(dimension):
            return _fixed(dimension)
        return _plain(frozen.params[name])

    return recall


def _fixed(dimension: Dimension) -> ParamValue:
    assert not isinstance(dimension, Range)
    return _plain(dimension[0] if isinstance(dimension, tuple) else dimension)


def _plain(value: object) -> ParamValue:
    return float(value) if isinstance(value, int | float) else str(value)

"""Suggest configurations with Optuna, in memory.

Optuna holds the searched trials only. The baselines live in the record: one complete trial without parameters empties
the intersection search space and turns multivariate TPE into independent sampling.

Decisions never rest on a database: a sampler looks at every trial several times per suggestion, and a database can be
away, or changed by others. `autodistill.searching.database` copies the trials for dashboards.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from autodistill.config import Dimension, MethodShape, Range, Space
from autodistill.records import ParamValue, TrialParams, TrialRecord
from autodistill.store import seed_from

STATES = {
    "running": TrialState.RUNNING,
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}

Suggest = Callable[[str, Dimension], ParamValue]


class Sampler:
    """Asks for trials and is told their results; `shapes` are those of the searched methods by name."""

    def __init__(self, space: Space, teachers: Sequence[str], shapes: Mapping[str, MethodShape]) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._teachers, self._shapes = space, tuple(teachers), shapes
        self._study = optuna.create_study(direction="maximize")

    @property
    def trials(self) -> Sequence[FrozenTrial]:
        """All trials as Optuna sees them; not to be changed."""
        return self._study.get_trials(deepcopy=False)

    def ask(self, *, prior_of: str | None = None, known: TrialParams | None = None) -> TrialParams:
        """Suggest the next trial: the prior of the teacher `prior_of`, the `known` parameters, or the sampler's choice.

        The seed of the sampler follows from the study's seed and the trial's number, so a resumed study suggests what
        an uninterrupted study would have suggested.
        """
        self._study.sampler = _tpe(self._space, seed_from(self._space.search.seed, len(self.trials)))
        if prior_of is not None:
            known = prior_params(self._space, prior_of, self._shapes)
        if known is not None:
            self._study.enqueue_trial(self._searched(known)[0])
        trial = self._study.ask()

        def suggest(name: str, dimension: Dimension) -> ParamValue:
            if isinstance(dimension, Range):
                return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
            if isinstance(dimension, tuple) and len(dimension) > 1:
                return _plain(trial.suggest_categorical(name, dimension))
            return _fixed(dimension)

        return _params(suggest, self._space, self._teachers, self._shapes)

    def add(self, trial: TrialRecord) -> None:
        """Add a trial whose parameters are known already, in the state in which it is recorded."""
        params, distributions = self._searched(trial.params)
        self._study.add_trial(
            create_trial(
                state=STATES[trial.state],
                value=_value(trial),
                params=params,
                distributions=distributions,
                intermediate_values=_scores(trial),
                user_attrs={"reason": trial.reason} if trial.reason else {},
                system_attrs=trial.sampler_attrs,
            )
        )

    def tell(self, trial: TrialRecord) -> None:
        """Report a trial's scores and, when it has ended, its state. Telling again changes nothing."""
        frozen = self.trials[trial.number]
        if frozen.state.is_finished():
            return
        for epoch, score in _scores(trial).items():
            if epoch not in frozen.intermediate_values:
                Trial(self._study, frozen._trial_id).report(score, epoch)
        if trial.state == "running":
            return
        if trial.reason:
            Trial(self._study, frozen._trial_id).set_user_attr("reason", trial.reason)
        self._study.tell(trial.number, _value(trial), state=STATES[trial.state])

    def score(self, number: int, value: float | None) -> None:
        """Report the score of a trial that no record describes; None: it failed."""
        self._study.tell(number, value, state=STATES["failed" if value is None else "complete"])

    def _searched(self, params: TrialParams) -> tuple[dict[str, ParamValue], dict[str, BaseDistribution]]:
        """Return values and distributions of the searched dimensions by Optuna's names; Optuna ignores the fixed."""
        search, method = self._space.search, str(params.method)
        weight = {} if params.soft_weight is None else {"soft_weight": params.soft_weight}
        dimensions: dict[str, Dimension] = {
            "teacher": self._teachers,
            "method": tuple(search.methods),
            **({"soft_weight": search.soft_weight} if weight else {}),
            **{f"{method}.{name}": dimension for name, dimension in search.methods[method].items()},
        }
        own = {**params.method_params, "tau_student": params.tau_student}
        values: dict[str, ParamValue] = {
            "teacher": str(params.teacher),
            "method": method,
            **weight,
            **{f"{method}.{name}": value for name, value in own.items()},
        }
        found = {name: kind for name, dimension in dimensions.items() if (kind := distribution(dimension)) is not None}
        return {name: values[name] for name in found}, found


def prior_params(space: Space, teacher: str, shapes: Mapping[str, MethodShape]) -> TrialParams:
    """Return a teacher's prior as the parameters of a trial."""
    prior = space.prior
    wanted: dict[str, ParamValue] = {"teacher": teacher, "method": prior.method, "soft_weight": prior.soft_weight}
    wanted |= {f"{prior.method}.{name}": value for name, value in prior.params.items()}

    def suggest(name: str, dimension: Dimension) -> ParamValue:
        return wanted[name] if name in wanted else _fixed(dimension)

    return _params(suggest, space, (teacher,), shapes)


def distribution(dimension: Dimension) -> BaseDistribution | None:
    """Return Optuna's distribution of a dimension; None if it has a single value, which is not searched."""
    if isinstance(dimension, Range):
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    if isinstance(dimension, tuple) and len(dimension) > 1:
        return CategoricalDistribution(dimension)
    return None


def _tpe(space: Space, seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        # `group` makes multivariate TPE right for conditional parameters. Optuna still marks it as experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=space.search.startup, multivariate=True, group=True, constant_liar=True
        )


def _params(
    suggest: Suggest, space: Space, teachers: tuple[str, ...], shapes: Mapping[str, MethodShape]
) -> TrialParams:
    search = space.search
    teacher = str(suggest("teacher", teachers))
    name = str(suggest("method", tuple(search.methods)))
    own = {key: suggest(f"{name}.{key}", dimension) for key, dimension in search.methods[name].items()}
    follows = shapes[name].tau_student_from
    tau_student = own.pop("tau_student", own[follows] if follows else 1.0)
    return TrialParams(
        teacher=teacher,
        method=name,
        method_params=own,
        tau_student=float(tau_student),
        soft_weight=float(suggest("soft_weight", search.soft_weight)) if shapes[name].is_weighted else None,
    )


def _scores(trial: TrialRecord) -> dict[int, float]:
    runs = [run for run in (trial.rung, trial.full) if run is not None]
    return {run.last_epoch: run.val_top1 for run in runs if run.val_top1 is not None}


def _value(trial: TrialRecord) -> float | None:
    return trial.full.val_top1 if trial.state == "complete" and trial.full is not None else None


def _fixed(dimension: Dimension) -> ParamValue:
    assert not isinstance(dimension, Range)
    return _plain(dimension[0] if isinstance(dimension, tuple) else dimension)


def _plain(value: object) -> ParamValue:
    return float(value) if isinstance(value, int | float) else str(value)

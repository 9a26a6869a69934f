"""Searches in worlds whose truth is known: each run scores its configuration's truth plus noise. Nothing is trained.

A world comes from a recording (`tests/bench/record.py`): the truth of a configuration is its mean over the recorded
seeds, and the noise has the covariance of the recorded runs around these means. Or it is planted: teachers, settings
and their interaction have effects that are drawn anew for each study.
"""

import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from record_parts import data, student
from replays import Recording, recorded_result
from search_runs import OnEvent

from autodistill.records import RunResult, RunSpec, StudyRecord, TrialParams
from autodistill.searching import SearchState

Truth = Mapping[str, np.ndarray]
"""Accuracies of each configuration, by its JSON: at the rung, on validation and on test."""

TEACHERS, SETTINGS, INTERACTION, STARTS = 0.7, 1.5, 0.4, 4.0
"""Standard deviations in points of the planted effects of teacher, settings and their interaction, and of a method's
accuracy at the rung."""
SHARES = (0.4, 0.3, 0.3)
"""Shares of method, soft weight and the combination of both in the variance of the planted settings."""
LABEL_SMOOTHING = TrialParams(method_params={"label_smoothing": 0.1})
"""The control of searches with a budget of 23 or more, as good as training on labels alone."""
NOISE, SEEDS = (2.0, 0.9, 0.9), (0.3, 0.3, 0.3)
"""Standard deviations in points of a run and of a seed, at the rung, on validation and on test, in planted worlds."""


@dataclass(frozen=True)
class World:
    """Truth and noise; the covariances are of accuracies at the rung, on validation and on test."""

    recording: Recording
    truth: Truth
    noise: np.ndarray
    seeds: np.ndarray

    def worth(self, params: TrialParams) -> float:
        """The true test accuracy of a configuration."""
        return float(self.truth[name(params)][2])

    def best_of(self, teacher: str) -> float:
        """The true test accuracy of a teacher's best configuration."""
        return max(self.worth(it) for it in self.recording.configurations if it.teacher == teacher)

    @property
    def run_std(self) -> float:
        """Standard deviation of a run's test accuracy."""
        return float(np.sqrt(self.noise[2, 2]))


def name(params: TrialParams) -> str:
    return params.model_dump_json()


def recorded(recording: Recording) -> World:
    """Return the world of a recording; its noise is estimated from configurations with all seeds."""
    scores: dict[str, dict[int, tuple[float, float, float]]] = defaultdict(dict)
    for (params, seed, schedule, epochs), found in recording.runs.items():
        if (schedule, epochs) == ("cosine", recording.full):
            key = name(TrialParams.model_validate_json(params))
            scores[key][seed] = (found.val[recording.rung], found.val[recording.full], found.test)
    truth = {key: np.mean(list(found.values()), axis=0) for key, found in scores.items()}
    truth.setdefault(name(LABEL_SMOOTHING), truth[name(TrialParams())])
    whole = np.array(
        [[own[seed] for seed in recording.seeds] for own in scores.values() if len(own) == len(recording.seeds)]
    )
    count, seeds = whole.shape[:2]
    residual = whole - whole.mean(axis=1, keepdims=True)
    of_seed = residual.mean(axis=0)
    residual = residual - of_seed
    noise = np.einsum("csi,csj->ij", residual, residual) / ((count - 1) * (seeds - 1))
    shared = np.einsum("si,sj->ij", of_seed, of_seed) / (seeds - 1) - noise / count
    return World(recording, truth, noise, _positive(shared))


def exchanged(world: World, draw: np.random.Generator) -> World:
    """Return the world with the teachers' results exchanged, so that any teacher may be the best.

    In both recordings the most accurate teacher is the best. A policy that prefers it looks good there.
    """
    names = [it.name for it in world.recording.teachers]
    other = dict(zip(names, draw.permutation(names).tolist(), strict=True))
    truth = dict(world.truth)
    for params in world.recording.configurations:
        instead = params.model_copy(update={"teacher": other[str(params.teacher)]})
        truth[name(params)] = world.truth[name(instead)]
    return replace(world, truth=truth)


def unknown(recording: Recording) -> World:
    """Return a world of a recording without runs, whose truth and noise are still to be planted."""
    return World(recording, {}, np.zeros((3, 3)), np.zeros((3, 3)))


def planted(
    world: World,
    draw: np.random.Generator,
    *,
    plain_kd: float = 0.0,
    teachers: Mapping[str, float] | None = None,
) -> World:
    """Return a world over the same configurations with planted effects.

    Args:
        world: gives the configurations.
        draw: draws the effects.
        plain_kd: points by which the settings of plain KD are better than drawn.
        teachers: effects of the teachers in points; None: drawn.
    """
    effects: dict[object, float] = defaultdict(lambda: float(draw.normal()))
    truth = {name(params): np.full(3, 0.4) for params in (TrialParams(), LABEL_SMOOTHING)}
    of_method, of_weight, of_both = (SETTINGS * share**0.5 for share in SHARES)
    for params in world.recording.configurations:
        method, weight = (params.method, str(params.method_params)), params.soft_weight
        teacher = TEACHERS * effects[params.teacher] if teachers is None else teachers[str(params.teacher)]
        points = teacher + of_method * effects[method] + of_weight * effects[weight]
        points += of_both * effects[method, weight] + INTERACTION * float(draw.normal())
        points += plain_kd * (params.method == "ts" and weight == 0.9)
        start = STARTS * effects["start", params.method] - 12
        truth[name(params)] = (50 + points + np.array([start, 0.0, 0.0])) / 100
    square = (np.diag(np.square(std) / 1e4) for std in (NOISE, SEEDS))
    return World(world.recording, truth, *square)


@dataclass
class Noisy:
    """Makes results up: the truth of a configuration plus noise that follows from the run's configuration and seed."""

    world: World
    study: int
    """Seed of the study's noise."""

    def __post_init__(self) -> None:
        self._own, self._shared = (_root(it) for it in (self.world.noise, self.world.seeds))

    def train(self, runs: Sequence[RunSpec], _: OnEvent) -> list[RunResult]:
        return [self._result(run) for run in runs]

    def _result(self, run: RunSpec) -> RunResult:
        key, recording = name(run.params), self.world.recording
        own = np.random.default_rng([self.study, run.seed % 2**31, zlib.crc32(key.encode())]).normal(size=3)
        shared = np.random.default_rng([self.study, run.seed % 2**31]).normal(size=3)
        rung, val, test = self.world.truth[key] + self._own @ own + self._shared @ shared
        if run.last_epoch == recording.rung:
            return recorded_result(run, val=float(rung), test=None, epochs=run.last_epoch)
        rest = recording.full - recording.rung
        epochs = run.begun_epochs + rest if run.run.startswith("trials/") else recording.full
        tested = float(test) if run.evaluate_on != "validation" else None
        return recorded_result(run, val=float(val), test=tested, epochs=epochs)


def record_of(state: SearchState) -> StudyRecord:
    """Return a study's record with the results of a search; what the verdict does not read is made up."""
    return StudyRecord(
        name="simulated",
        state="complete",
        command="",
        student=student(),
        data=data(),
        space={},
        plan=state.spec.plan,
        teachers=state.spec.teachers,
        plain_kd=state.plain_kd,
        trials=tuple(state.trials),
        reruns=tuple(state.reruns),
        finalists=tuple(state.finalists),
        controls=tuple(state.controls),
    )


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _positive(covariance: np.ndarray) -> np.ndarray:
    root = _root(covariance)
    return np.asarray(root @ root.T)

"""Searches over recorded runs (`tests/bench/record.py`). Nothing is trained."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from search_runs import SHAPES, OnEvent, search

from autodistill.config import PriorSpec, Space
from autodistill.records import (
    EpochRecord,
    Rungs,
    RunResult,
    RunSpec,
    TeacherRecord,
    TrialParams,
)
from autodistill.searching import SearchSpec, SearchState, make_plan
from autodistill.searching.state import CONFIRM_SEED

RECORDED = Path(__file__).parent / "bench" / "recorded" / "fashion-mnist.jsonl"
SEARCH_SEEDS = 2
"""Seeds that rungs were recorded for."""


class Scores(NamedTuple):
    val: dict[int, float]
    """Validation accuracy by epoch."""
    test: float


Key = tuple[str, int, str, int]


def key_of(params: TrialParams, seed: int, schedule: str, epochs: int) -> Key:
    return json.dumps(params.model_dump(), sort_keys=True), seed, schedule, epochs


@dataclass(frozen=True)
class Recording:
    """The runs of a file."""

    teachers: tuple[TeacherRecord, ...]
    full: int
    """Epochs of a full run."""
    rung: int
    """Epochs up to the rung."""
    runs: Mapping[Key, Scores]
    configurations: tuple[TrialParams, ...]
    """With a teacher, in the order of recording."""

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        return tuple(
            sorted({seed for _, seed, schedule, epochs in self.runs if (schedule, epochs) == ("cosine", self.full)})
        )

    @cached_property
    def truth(self) -> dict[str, float]:
        """Mean test accuracy of a configuration's full runs over all seeds, by its JSON."""
        tests: dict[str, list[float]] = defaultdict(list)
        for (params, _, schedule, epochs), scores in self.runs.items():
            if (schedule, epochs) == ("cosine", self.full):
                tests[params].append(scores.test)
        return {params: float(np.mean(found)) for params, found in tests.items()}

    def worth(self, params: TrialParams) -> float:
        return self.truth[json.dumps(params.model_dump(), sort_keys=True)]

    def test(self, params: TrialParams, seed: int) -> float:
        return self.runs[key_of(params, seed, "cosine", self.full)].test

    def best_of(self, teacher: str) -> float:
        """The truth of a teacher's best configuration."""
        return max(self.worth(it) for it in self.configurations if it.teacher == teacher)


def load(path: Path = RECORDED) -> Recording:
    """Read a recorded file."""
    first, *lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    runs: dict[Key, Scores] = {}
    configurations: dict[str, TrialParams] = {}
    for line in lines:
        params, seed, schedule, epochs = line["key"]
        params = TrialParams.model_validate(params)
        key = key_of(params, seed, schedule, epochs)
        runs[key] = Scores({int(epoch): top1 for epoch, top1 in line["val_top1"].items()}, line["test_top1"])
        if params.teacher:
            configurations.setdefault(key[0], params)
    training = Space.model_validate(first["space"]).training
    teachers = {name: TeacherRecord.model_validate(it) for name, it in first["teachers"].items()}
    order = dict.fromkeys(it.teacher for it in configurations.values() if it.teacher)
    return Recording(
        tuple(teachers[name] for name in order), training.epochs, training.rung, runs, tuple(configurations.values())
    )


def with_teachers(recording: Recording, scores: Mapping[str, float]) -> Recording:
    """Return a recording without runs over other teachers, with the configurations of its first teacher for each.

    Args:
        recording: gives the configurations and the other fields of the teachers.
        scores: validation accuracies of the teachers, by name.
    """
    first = recording.teachers[0]
    teachers = tuple(
        first.model_copy(
            update={
                "name": name,
                "uri": f"file:{name}.pt",
                "fingerprint": name,
                "architecture": name,
                "val_top1": score,
            }
        )
        for name, score in scores.items()
    )
    own = [it for it in recording.configurations if it.teacher == first.name]
    configurations = tuple(it.model_copy(update={"teacher": teacher.name}) for teacher in teachers for it in own)
    return Recording(teachers, recording.full, recording.rung, {}, configurations)


class Rung(NamedTuple):
    """A kind of rung."""

    score: Callable[[Recording, TrialParams, int], float]
    """What its rung scores."""
    rungs: Rungs
    rest: int
    """Epochs that the full run of a promoted trial costs in addition to its rung."""


def short_run(recording: Recording, params: TrialParams, seed: int) -> float:
    return recording.runs[key_of(params, seed, "cosine", recording.rung)].val[recording.rung]


def averaged_weights(recording: Recording, params: TrialParams, seed: int) -> float:
    return recording.runs[key_of(params, seed, "cosine", recording.full)].val[recording.rung]


def decay_branch(recording: Recording, params: TrialParams, _: int) -> float:
    return recording.runs[key_of(params, 0, "decay", recording.rung)].val[recording.rung]  # one seed was recorded


def full_run(recording: Recording, params: TrialParams, seed: int) -> float:
    return recording.runs[key_of(params, seed, "cosine", recording.full)].val[recording.full]


def rungs(recording: Recording) -> dict[str, Rung]:
    """Return the kinds of rungs. A decay branch repeats its decay, a quarter of the rung; a part-way rung nothing."""
    full, short = recording.full, recording.rung
    return {
        "complete rung": Rung(short_run, "short schedule", full),
        "decay branch": Rung(decay_branch, "short schedule", full - short + short // 4),
        "averaged weights": Rung(averaged_weights, "part-way", full - short),
    }


@dataclass
class Player:
    """Looks results up.

    Args:
        recording: the recorded runs.
        rung: how trials are judged part-way.
        first: the recorded seed that the runs of the search have; confirm runs have the other seeds.
        base: the seed of the study, from which the seeds of its runs count.
        handicap: added to the rung scores of a teacher's students, which then start slowly or fast.
    """

    recording: Recording
    rung: Rung
    first: int = 0
    base: int = 0
    handicap: Mapping[str, float] = field(default_factory=dict)
    asked: list[RunSpec] = field(default_factory=list)

    def train(self, runs: Sequence[RunSpec], _: OnEvent) -> list[RunResult]:
        self.asked += runs
        return [self.result(run) for run in runs]

    def result(self, run: RunSpec) -> RunResult:
        recording, params, full = self.recording, run.params, self.recording.full
        confirm = run.evaluate_on != "validation"
        others = [seed for seed in recording.seeds if seed != self.first]
        # Reruns, which have no rung, may have any recorded seed.
        known = recording.seeds if run.run.startswith("reruns/") else range(SEARCH_SEEDS)
        searching = [self.first, *(seed for seed in known if seed != self.first)]
        place = run.seed - self.base - (CONFIRM_SEED if confirm else 0)
        seed = (others if confirm else searching)[place % len(others if confirm else searching)]
        epochs = run.last_epoch
        if epochs == recording.rung:
            val = self.rung.score(recording, params, seed) + self.handicap.get(params.teacher or "", 0.0)
            test = None
        else:
            scores = recording.runs[key_of(params, seed, "cosine", full)]
            val, test = scores.val[full], scores.test if confirm else None
            epochs = run.begun_epochs + self.rung.rest if run.run.startswith("trials/") else full
        return recorded_result(run, val=val, test=test, epochs=epochs)


def recorded_result(run: RunSpec, *, val: float, test: float | None, epochs: int) -> RunResult:
    curve = [EpochRecord(epoch=number, train_loss=1.0, hard_loss=1.0) for number in range(1, epochs)]
    last: dict[str, Any] = {"epoch": epochs, "train_loss": 1.0, "hard_loss": 1.0, "val_top1": val, "test_top1": test}
    return RunResult(**run.kept(), state="complete", curve=(*curve, EpochRecord(**last)))


def space(recording: Recording) -> Space:
    """The recorded grid as a search space."""
    methods: dict[str, dict[str, tuple[float, ...]]] = {}
    for params in recording.configurations:
        for name, value in params.method_params.items():
            known = methods.setdefault(str(params.method), {}).get(name, ())
            methods[str(params.method)][name] = tuple(sorted({*known, float(value)}))
    weights = sorted({params.soft_weight for params in recording.configurations})
    training = {"epochs": recording.full, "rung_epochs": recording.rung}
    return Space.model_validate({"training": training, "search": {"methods": methods, "soft_weight": weights}})


def search_spec(
    recording: Recording,
    names: Sequence[str],
    *,
    seed: int = 0,
    budget: str = "20",
    wave: int = 2,
    rungs: Rungs = "part-way",
    prior: PriorSpec | None = None,
    reruns: bool = True,
) -> SearchSpec:
    """A search over some of the recorded teachers; its prior is plain KD unless another is given."""
    held = space(recording)
    search = held.search.model_copy(update={"seed": seed, "wave": wave, "rungs": rungs, "reruns": reruns})
    held = held.model_copy(update={"search": search, "prior": prior or held.prior})
    teachers = tuple(it for it in recording.teachers if it.name in names)
    plan = make_plan(held, teachers=len(teachers), requested=budget)
    return SearchSpec(space=held, plan=plan, teachers=teachers, shapes=SHAPES)


def play(spec: SearchSpec, player: Player) -> SearchState:
    """Run a search to its end."""
    return search(spec, player)[0]

"""Studies whose runs were recorded (`tests/bench/record.py`): the search decides, nothing is trained."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autodistill.config import Space
from autodistill.methods import RULES
from autodistill.records import (
    EpochRecord,
    Event,
    RunEnded,
    Rungs,
    RunRecord,
    RunRequest,
    TeacherRecord,
    TrialParams,
)
from autodistill.search import Outcome, Question, make_plan, search
from autodistill.search.requests import CONFIRM_SEED

RECORDED = Path(__file__).parent / "bench" / "recorded" / "fashion-mnist.jsonl"
SEARCH_SEEDS = 2
"""Seeds that short runs were recorded for."""


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
    short: int
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
        tuple(teachers[name] for name in order), training.epochs, training.short, runs, tuple(configurations.values())
    )


class Rung(NamedTuple):
    """How a trial is judged part-way."""

    score: Callable[[Recording, TrialParams, int], float]
    """What its short run scores."""
    rungs: Rungs
    rest: int
    """Epochs that a survivor's full run costs on top of the short ones."""


def short_run(recording: Recording, params: TrialParams, seed: int) -> float:
    return recording.runs[key_of(params, seed, "cosine", recording.short)].val[recording.short]


def averaged_weights(recording: Recording, params: TrialParams, seed: int) -> float:
    return recording.runs[key_of(params, seed, "cosine", recording.full)].val[recording.short]


def decay_branch(recording: Recording, params: TrialParams, _: int) -> float:
    return recording.runs[key_of(params, 0, "decay", recording.short)].val[recording.short]  # one seed was recorded


def full_run(recording: Recording, params: TrialParams, seed: int) -> float:
    return recording.runs[key_of(params, seed, "cosine", recording.full)].val[recording.full]


def rungs(recording: Recording) -> dict[str, Rung]:
    """The three variants: a decay branch repeats its decay, a quarter of the short run; averaged weights nothing."""
    full, short = recording.full, recording.short
    return {
        "complete short run": Rung(short_run, "short runs", full),
        "decay branch": Rung(decay_branch, "short runs", full - short + short // 4),
        "averaged weights": Rung(averaged_weights, "part-way", full - short),
    }


@dataclass
class Player:
    """A runner that looks runs up."""

    recording: Recording
    rung: Rung
    first: int = 0
    """The recorded seed that the search's runs have; confirm runs have the others."""
    base: int = 0
    """The study's own seed, which its runs' seeds count from."""
    handicap: Mapping[str, float] = field(default_factory=dict)
    """Added to the short scores of a teacher's students: slow and fast starters."""
    asked: list[RunRequest] = field(default_factory=list)

    def __call__(self, requests: Sequence[RunRequest]) -> Iterator[Event]:
        for request in requests:
            self.asked.append(request)
            yield RunEnded(record=self.record(request), wall_s=1.0)

    def record(self, request: RunRequest) -> RunRecord:
        recording, params, full = self.recording, request.params, self.recording.full
        confirm = request.evaluate_on != "validation"
        others = [seed for seed in recording.seeds if seed != self.first]
        # Second looks, which have no short run, may have any recorded seed.
        known = recording.seeds if request.run.startswith("second-looks/") else range(SEARCH_SEEDS)
        searching = [self.first, *(seed for seed in known if seed != self.first)]
        place = request.seed - self.base - (CONFIRM_SEED if confirm else 0)
        seed = (others if confirm else searching)[place % len(others if confirm else searching)]
        epochs = request.last_epoch
        if epochs == recording.short:
            val = self.rung.score(recording, params, seed) + self.handicap.get(params.teacher or "", 0.0)
            test = None
        else:
            scores = recording.runs[key_of(params, seed, "cosine", full)]
            val, test = scores.val[full], scores.test if confirm else None
            epochs = request.begun_epochs + self.rung.rest if request.run.startswith("trials/") else full
        return _ended(request, val=val, test=test, epochs=epochs)


def _ended(request: RunRequest, *, val: float, test: float | None, epochs: int) -> RunRecord:
    curve = [EpochRecord(epoch=number, train_loss=1.0, hard_loss=1.0) for number in range(1, epochs)]
    last: dict[str, Any] = {"epoch": epochs, "train_loss": 1.0, "hard_loss": 1.0, "val_top1": val, "test_top1": test}
    return RunRecord(**request.kept(), state="complete", curve=(*curve, EpochRecord(**last)))


def space(recording: Recording) -> Space:
    """The recorded grid as a search space."""
    rules: dict[str, dict[str, tuple[float, ...]]] = {}
    for params in recording.configurations:
        for name, value in params.rule_params.items():
            known = rules.setdefault(str(params.rule), {}).get(name, ())
            rules[str(params.rule)][name] = tuple(sorted({*known, float(value)}))
    weights = sorted({params.soft_weight for params in recording.configurations})
    training = {"epochs": recording.full, "short_epochs": recording.short}
    return Space.model_validate({"training": training, "search": {"rules": rules, "soft_weight": weights}})


def question(
    recording: Recording,
    names: Sequence[str],
    *,
    seed: int = 0,
    budget: str = "20",
    wave: int = 2,
    rungs: Rungs = "part-way",
) -> Question:
    """A study of some of the recorded teachers."""
    held = space(recording)
    held = held.model_copy(
        update={"search": held.search.model_copy(update={"seed": seed, "wave": wave, "rungs": rungs})}
    )
    teachers = tuple(it for it in recording.teachers if it.name in names)
    plan = make_plan(held, teachers=len(teachers), requested=budget)
    follows = {name: rule.tau_student_from for name, rule in RULES.items()}
    return Question("a-study", held, plan, teachers, follows)


def play(asked: Question, player: Player) -> Outcome:
    """Run a study to its end; nothing is kept."""
    outcome = Outcome()
    for _ in search(asked, outcome, run=player, database=None):
        pass
    return outcome

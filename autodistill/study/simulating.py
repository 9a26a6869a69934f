"""A study in virtual time: the search decides on scores that are made up, and its runs take what they are said to."""

import contextlib
import heapq
import math
import random
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from autodistill.errors import EveryRunFailed
from autodistill.records import EpochRecord, Event, PhaseStarted, RunEnded, RunRecord, RunRequest, TimePlanned
from autodistill.search import Outcome, Question, Source, certain_runs, search

RANDOM_TRIALS = 10**6
"""The sampler's model would not know more about made-up scores than its draws at random, and takes its time."""
SCORE, SCORE_STD = 0.5, 0.005
DRAWS = 3
"""Simulated studies whose mean is told: which trials go on is luck."""

REPORT_S = 2.0
"""Of writing the report, most of it for Matplotlib: 1.9 s with 20 trials, 2.5 s with 200 (2 cores of an AMD EPYC)."""

Kept = Callable[[RunRequest], RunEnded | None]


class TeacherCosts(NamedTuple):
    """Seconds on one worker, and what is still to be computed."""

    training_s: float
    """Of its whole training; 0 where it is trained."""
    view_s: float
    views: frozenset[int]
    """Those whose logits nobody has computed yet."""


class Costs(NamedTuple):
    """Seconds on one worker."""

    epoch_s: float
    """Of training on labels alone."""
    targets_s: float
    """Of an epoch: what a teacher's soft targets add."""
    validation_s: float
    test_s: float
    run_s: float
    """Of a run, apart from its epochs."""
    profile_s: float
    teachers: Mapping[str, TeacherCosts]
    held_out: float
    """Validation images for each training image."""
    views: int
    evaluate_every: int


def makespan(durations: Sequence[float], workers: int) -> float:
    """When the last of some tasks is done, each given to the first worker that is free."""
    free = [0.0] * workers
    for seconds in durations:
        free[free.index(min(free))] += seconds
    return max(free)


def preparing_s(costs: Costs, workers: int, *, beside_s: Sequence[float] = ()) -> dict[str, float]:
    """Seconds of the phases before the first trial; whatever teacher must be trained is trained by one worker.

    Args:
        beside_s: of the runs that are trained beside the teachers.
    """
    teachers = list(costs.teachers.values())
    trained = [it.training_s for it in teachers if it.training_s][::-1]
    looks: list[float] = []
    for it in teachers:
        check_s, profile_s = it.view_s * costs.held_out, costs.profile_s + (it.view_s if 0 in it.views else 0.0)
        looks += [check_s, profile_s] if it.views else [profile_s]
    return {"teachers": makespan([*trained, *beside_s, *looks], workers), "profiles": 0.0}


def fitting_beside(costs: Costs, run_s: float, *, most: int, confirm: int, workers: int) -> int:
    """How many equal runs make a study end first when they are trained beside the teachers, not after them.

    Args:
        most: the first is one of the baselines, the others are confirm runs.
        confirm: all of those.
    """

    def ends_s(count: int) -> float:
        baseline_s = 0.0 if count else run_s / workers
        rounds = math.ceil((confirm - max(0, count - 1)) / workers)
        return preparing_s(costs, workers, beside_s=[run_s] * count)["teachers"] + baseline_s + rounds * run_s

    return min(range(most + 1), key=ends_s)


class Certain(NamedTuple):
    """Runs that are needed whatever the others bring: of the baseline without a teacher."""

    runs: Sequence[RunRequest] = ()
    confirm: int = 0
    """Confirm runs, all of these but the first among them."""

    def beside(self, runs: Sequence[RunRequest], known: Container[str], workers: int) -> list[RunRequest]:
        """Those that idle workers should train beside others, so that the confirm runs end first.

        Args:
            known: names of those that are trained or asked for already.
        """
        spare = [it for it in self.runs if it.run not in known]
        if not runs or not spare:
            return []
        lengths, each = [float(it.new_epochs) for it in runs], float(spare[0].new_epochs)
        later = self.confirm - len(self.runs) + 1 + len(spare)

        def ends(count: int) -> float:
            durations = sorted([*lengths, *[each] * count], reverse=True)
            return makespan(durations, workers) + each * math.ceil((later - count) / workers)

        return spare[: min(range(len(spare) + 1), key=ends)]


NONE_CERTAIN = Certain()


def certain_of(question: Question) -> Certain:
    """Of a study."""
    return Certain(certain_runs(question), round(question.plan.confirm))


@dataclass
class Clock:
    """A runner that trains nothing: it adds up what its runs would take, phase by phase."""

    costs: Costs
    workers: int
    draw: random.Random
    kept: Kept = lambda _: None
    beside: frozenset[str] = frozenset()
    """Runs that are trained before they are asked for."""
    certain: Certain = NONE_CERTAIN
    phase: str = ""
    phases_s: dict[str, float] = field(default_factory=dict)
    logits_s: float = 0.0
    computed: set[tuple[str, int]] = field(default_factory=set)

    def __call__(self, requests: Sequence[RunRequest] | Source) -> Iterator[Event]:
        if callable(requests):
            yield from self._streamed(requests)
            return
        known = {it.run: self.kept(it) for it in requests}
        missing = [it for it in requests if known[it.run] is None and it.run not in self.beside]
        there = {it.run for it in self.certain.runs if self.kept(it) is not None}
        filling = self.certain.beside(missing, {*known, *self.beside, *there}, self.workers)
        self.beside |= {it.run for it in filling}
        missing = sorted([*missing, *filling], key=lambda it: -it.new_epochs)
        took = makespan([self.run_s(it) for it in missing], self.workers) if missing else 0.0
        taught = [it for it in missing if it.params.teacher is not None]
        # Workers share them out: those that need them, and those that have nothing else to do.
        took += sum(map(self._logits_s, taught)) / self.workers
        self.phases_s[self.phase] = self.phases_s.get(self.phase, 0.0) + took
        for request in requests:
            yield known[request.run] or RunEnded(record=self._made_up(request), wall_s=0.0)

    def _streamed(self, source: Source) -> Iterator[Event]:
        """Runs given to workers as they get free; what ends first is heard of first."""
        now, ends = 0.0, list[tuple[float, str, RunRequest]]()
        while True:
            while len(ends) < self.workers and (given := source()) is not None:
                kept = self.kept(given)
                if kept is not None:
                    yield kept
                else:
                    logits_s = self._logits_s(given) if given.params.teacher is not None else 0.0
                    heapq.heappush(ends, (now + self.run_s(given) + logits_s, given.run, given))
            if not ends:
                break
            now, _, request = heapq.heappop(ends)
            yield RunEnded(record=self._made_up(request), wall_s=0.0)
        self.phases_s[self.phase] = self.phases_s.get(self.phase, 0.0) + now

    def run_s(self, request: RunRequest) -> float:
        """Seconds of a run whose logits are there."""
        costs, epochs = self.costs, request.new_epochs
        evaluations = -(-epochs // costs.evaluate_every)
        total = costs.run_s + epochs * costs.epoch_s + evaluations * costs.validation_s
        total += costs.test_s if request.evaluate_on != "validation" else 0.0
        if request.params.teacher is not None:
            total += epochs * costs.targets_s
        return total

    def _logits_s(self, request: RunRequest) -> float:
        """Seconds of the logits that a run is the first to need."""
        name, views = str(request.params.teacher), min(request.last_epoch, self.costs.views)
        teacher = self.costs.teachers[name]
        new = {(name, view) for view in teacher.views if view < views} - self.computed
        self.computed |= new
        self.logits_s += len(new) * teacher.view_s
        return len(new) * teacher.view_s

    def _made_up(self, request: RunRequest) -> RunRecord:
        top1 = min(1.0, max(0.0, self.draw.gauss(SCORE, SCORE_STD)))
        curve = [EpochRecord(epoch=number, train_loss=1.0, hard_loss=1.0) for number in range(1, request.last_epoch)]
        last = EpochRecord(epoch=request.last_epoch, train_loss=1.0, hard_loss=1.0, val_top1=top1, test_top1=top1)
        return RunRecord(**request.kept(), state="complete", curve=(*curve, last))


def simulate(
    question: Question,
    costs: Costs,
    workers: int,
    *,
    kept: Kept = lambda _: None,
    database: Path | None = None,
    order: Path | None = None,
    beside: Sequence[RunRequest] = (),
    certain: Certain = NONE_CERTAIN,
) -> TimePlanned:
    """What is left of a study.

    Args:
        question: what it wants to know; of its teachers the names count, and which is the most accurate.
        kept: the result of a run where there is one.
        database: a copy of a resumed study's, which is written to.
        order: a copy of its order of events, likewise; of no use without the database.
        beside: runs without a teacher that are trained while teachers are made ready.
        certain: those that idle workers may train at any time.
    """
    taken = [Clock(costs, workers, random.Random(0)).run_s(it) for it in beside]
    prepared = preparing_s(costs, workers, beside_s=taken)
    profiled = {(name, 0) for name in costs.teachers}
    spec = question.space.search.model_copy(update={"startup": RANDOM_TRIALS})
    asked = question._replace(space=question.space.model_copy(update={"search": spec}))
    trained = frozenset(it.run for it in beside)
    clocks = [
        Clock(costs, workers, random.Random(number), kept, trained, certain, computed=set(profiled))
        for number in range(1 if database else DRAWS)
    ]
    for clock in clocks:
        # Kept results can all be failures: then the study ends there, and says so itself.
        with contextlib.suppress(EveryRunFailed):
            for event in search(asked, Outcome(), run=clock, database=database, order=order if database else None):
                if isinstance(event, PhaseStarted):
                    clock.phase = event.phase
    phases = dict.fromkeys(phase for clock in clocks for phase in clock.phases_s)
    means = {phase: sum(it.phases_s.get(phase, 0.0) for it in clocks) / len(clocks) for phase in phases}
    logits_s = sum(it.logits_s for it in clocks) / len(clocks)
    logits_s += sum(it.view_s for it in costs.teachers.values() if 0 in it.views)
    return TimePlanned(phases_s={**prepared, **means, "report": REPORT_S}, logits_s=logits_s)

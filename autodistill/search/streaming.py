"""The search stage of a study that asks whenever a worker is free: what it decides follows the order of arrival.

Each trial keeps an audit trail of what was known when it was decided on. The order is kept too, so that a resumed
study decides again what it had decided, and goes on from there.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence

from autodistill.records import AuditTrail, Event, PhaseStarted, PlanRecord, RunEnded, RunRequest, TrialRecord
from autodistill.search.asking import sampler_seed
from autodistill.search.order import Order, Step
from autodistill.search.outcome import Desk, drive
from autodistill.search.requests import full_run, short_run
from autodistill.search.trials import finish, judged, left, new_trial, rivals_of, settle, with_short

ASKED = 1
"""The wave of all that is asked here: there is only one."""


def stream(desk: Desk, promoted: Sequence[TrialRecord], order: Order) -> Iterator[Event]:
    """Ask as workers get free, until the budget holds no further trial.

    Args:
        promoted: priors whose full run is still to come.
        order: what was done so far, and where it is kept.
    """
    yield PhaseStarted(phase="search", runs=0, epochs=left(desk, 0))
    found = _Stream(desk, promoted, order)
    yield from found.repeated()
    for event in drive(desk, found.following):
        yield event
        if isinstance(event, RunEnded):
            yield from found.ended(event.record.run)


def pays(plan: PlanRecord, *, free: int, judging: int, eta: float) -> bool:
    """Whether another trial may be asked for.

    One in eta of the short runs under way will win the rest of a full run, so that much is reserved for them and the
    new one. What is left when no trial can be paid to its end buys short runs: they still tell what mattered.

    Args:
        plan: the study's.
        free: epochs that are not spoken for; of trials under way the run that they are at is.
        judging: short runs under way, whose rest is not spoken for yet.
        eta: one in eta short runs of a teacher goes on.
    """
    if free < plan.epochs_short:
        return False
    won = math.ceil((judging + 1) / eta) * plan.epochs_rest
    return free >= plan.epochs_short + won or not judging or free < plan.epochs_rest


class _Stream:
    def __init__(self, desk: Desk, promoted: Sequence[TrialRecord], order: Order) -> None:
        self._desk, self._order = desk, order
        self._open: dict[str, int] = {}
        """Trial of each run that has not ended."""
        self._waiting: deque[RunRequest] = deque()
        """Runs of it that nobody has taken yet."""
        for trial in promoted:
            self._add(trial, full_run(desk.question, trial))
        self._ahead = _Ahead(order.kept, besides=self._open)

    def repeated(self) -> Iterator[Event]:
        """Do again what earlier processes have done."""
        for step in self._order.kept:
            self._ahead.pass_by(step)
            if step.asked is not None:
                self._ask()
            elif step.ended in self._open:
                yield from drive(self._desk, [self._request(step.ended)])
                yield from self._decided(step.ended)
        self._waiting = deque(sorted(self._waiting, key=lambda it: -it.last_epoch))

    def following(self) -> RunRequest | None:
        """The run for whoever is free: the rest of a trial before a new one; None: nothing until a run has ended."""
        if not self._waiting and self._pays():
            self._order.add(Step(asked=len(self._desk.outcome.trials)))
            self._ask()
        return self._waiting.popleft() if self._waiting else None

    def ended(self, run: str) -> Iterator[Event]:
        """Decide on what a run has found."""
        self._order.add(Step(ended=run))
        yield from self._decided(run)

    def _add(self, trial: TrialRecord, request: RunRequest) -> None:
        self._open[request.run] = trial.number
        self._waiting.append(request)

    def _request(self, run: str) -> RunRequest:
        """An open run's request, which then waits no more."""
        trial = self._desk.outcome.trials[self._open[run]]
        self._waiting = deque(it for it in self._waiting if it.run != run)
        return (short_run if trial.short is None else full_run)(self._desk.question, trial)

    def _pays(self) -> bool:
        question, trials = self._desk.question, self._desk.outcome.trials
        if question.plan.max_trials is not None and len(trials) >= question.plan.max_trials:
            return False
        judging = sum(trials[number].short is None for number in self._open.values())
        return pays(question.plan, free=self._free(), judging=judging, eta=question.space.search.eta)

    def _free(self) -> int:
        """Epochs that are not spoken for."""
        plan, trials = self._desk.question.plan, self._desk.outcome.trials
        running = (
            plan.epochs_short if trials[number].short is None else plan.epochs_rest for number in self._open.values()
        )
        return left(self._desk, 0) - sum(running) - self._ahead.epochs(plan)

    def _ask(self) -> None:
        trials = self._desk.outcome.trials
        trail = AuditTrail(
            sampler_seed=sampler_seed(self._desk.question, len(trials)),
            known=_spans([trial.number for trial in trials if trial.state != "running"]),
            running=tuple(trial.number for trial in trials if trial.state == "running"),
        )
        number = new_trial(self._desk, wave=ASKED).number
        trials[number] = trials[number].model_copy(update={"audit_trail": trail})
        self._add(trials[number], short_run(self._desk.question, trials[number]))

    def _decided(self, run: str) -> Iterator[Event]:
        trial = self._desk.outcome.trials[self._open.pop(run)]
        if trial.short is not None:
            yield from finish(self._desk, [trial])
            return
        trial = with_short(self._desk, trial)
        if trial.state == "running":
            trial = self._judged(trial)
        if trial.state == "running":
            self._add(trial, full_run(self._desk.question, trial))
        yield from settle(self._desk, trial)

    def _judged(self, trial: TrialRecord) -> TrialRecord:
        self._ahead.forget(full_run(self._desk.question, trial).run)
        rivals = rivals_of(self._desk, trial)
        assert trial.audit_trail is not None
        trail = trial.audit_trail.model_copy(update={"rivals": rivals})
        return judged(self._desk, trial.model_copy(update={"audit_trail": trail}), rivals, left=self._free())


class _Ahead:
    """What is still to be repeated is paid already: a larger budget must not give it away a second time."""

    def __init__(self, steps: Sequence[Step], *, besides: dict[str, int]) -> None:
        self._asked = sum(step.asked is not None for step in steps)
        self._full = {step.ended for step in steps if step.ended.endswith("/full")} - besides.keys()

    def pass_by(self, step: Step) -> None:
        self._asked -= step.asked is not None

    def forget(self, run: str) -> None:
        self._full.discard(run)

    def epochs(self, plan: PlanRecord) -> int:
        return self._asked * plan.epochs_short + len(self._full) * plan.epochs_rest


def _spans(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Rising numbers as first and last of each row without a gap."""
    spans: list[tuple[int, int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return tuple(spans)

"""Fair controls: is it the teacher, or that its temperature was tuned?

Each finalist's teacher has its own best configuration. Beside it stand the prior, which nobody tuned, and the best
configuration of all, given to every teacher: only what a teacher's own gains over the shared one is an effect of
choosing it for that teacher.
"""

from collections.abc import Iterator, Sequence

from autodistill.records import ControlRecord, Event, FinalistRecord, PhaseStarted, RunRecord, RunRequest, TrialParams
from autodistill.search.asking import prior_params
from autodistill.search.outcome import Desk, drive
from autodistill.search.requests import confirm_run

Wanted = tuple[str, str, TrialParams]
"""Regime, teacher, configuration."""


def controls(desk: Desk) -> Iterator[Event]:
    """Train what the finalists lack over the first confirm seeds; nothing where the plan has no room for it."""
    plan, outcome = desk.question.plan, desk.outcome
    finalists = [one for one in outcome.finalists if one.teacher is not None]
    if not plan.controls or not finalists:
        return
    seeds = plan.race.first if plan.race else desk.question.space.confirm.seeds
    wanted = list(_wanted(desk, finalists))
    groups: list[tuple[TrialParams, list[RunRequest]]] = []
    for one in wanted:  # two regimes can be one configuration
        if _known(finalists, one[2]) is None and all(params != one[2] for params, _ in groups):
            groups.append((one[2], _requests(desk, one, seeds)))
    missing = [request for _, group in groups for request in group]
    yield PhaseStarted(phase="controls", runs=len(missing), epochs=len(missing) * plan.epochs_full)
    yield from drive(desk, missing)
    for regime, teacher, params in wanted:
        same = _known(finalists, params)
        runs = same.runs[:seeds] if same else _results(desk, next(group for it, group in groups if it == params))
        outcome.controls.append(ControlRecord(regime=regime, teacher=teacher, params=params, runs=runs))


def _wanted(desk: Desk, finalists: Sequence[FinalistRecord]) -> Iterator[Wanted]:
    question = desk.question
    best = max(finalists, key=lambda one: one.search_val_top1 or 0.0)
    for one in finalists:
        assert one.teacher is not None
        yield "default", one.teacher, prior_params(question.space, one.teacher, question.tau_student_from)
        yield "shared", one.teacher, best.params.model_copy(update={"teacher": one.teacher})
        yield "own", one.teacher, one.params


def _known(finalists: Sequence[FinalistRecord], params: TrialParams) -> FinalistRecord | None:
    return next((one for one in finalists if one.params == params), None)


def _requests(desk: Desk, wanted: Wanted, seeds: int) -> list[RunRequest]:
    regime, teacher, params = wanted
    place = [one.name for one in desk.question.teachers].index(teacher)
    return [confirm_run(desk.question, f"controls/{regime}-{place}", params, index) for index in range(seeds)]


def _results(desk: Desk, requests: Sequence[RunRequest]) -> tuple[RunRecord, ...]:
    return tuple(desk.outcome.results[request.run] for request in requests)

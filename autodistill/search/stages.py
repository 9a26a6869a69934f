"""The stages of a study: baselines and priors, waves of searched trials, second looks, confirm runs."""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import optuna
import sqlalchemy

from autodistill.errors import ConfigError
from autodistill.records import Event, Note, PhaseStarted, TrialRecord
from autodistill.search.auditing import audit
from autodistill.search.confirming import confirm, look_again
from autodistill.search.controlling import controls
from autodistill.search.failures import every_run_failed
from autodistill.search.opening import open_study, unwritable
from autodistill.search.order import Order
from autodistill.search.outcome import Desk, Outcome, Runner, drive, score
from autodistill.search.plan import PROTECTED_PRIORS, wave_size
from autodistill.search.question import Question
from autodistill.search.requests import full_run, no_teacher_run, plain_kd_run, short_run
from autodistill.search.streaming import stream
from autodistill.search.trials import finish, judged, left, new_trial, rivals_of, settle, with_short


def search(
    question: Question,
    outcome: Outcome,
    *,
    run: Runner,
    database: Path | str | None,
    order: Path | None = None,
    hold: Callable[[], None] = lambda: None,
    folder: Path | None = None,
) -> Iterator[Event]:
    """Run a study to its end, or on from where it was.

    Args:
        question: what is searched, over which teachers, with which plan.
        outcome: filled on the way.
        run: trains requests and yields their events, `RunEnded` for each.
        database: Optuna's SQLite file, or the address of another storage; None: nothing is kept.
        order: file that keeps in which order things happened, where decisions rest on it; None: it is not kept.
        hold: raises where another process decides by now.
        folder: run folder, which errors name; None: results are kept nowhere.

    Raises:
        StudyError: every run of the first stage failed.
        StoreError: the database cannot be reached or written.
    """
    notes: list[str] = []
    study = open_study(question, database, say=notes.append)
    try:
        yield from (Note(text=note, warning=True) for note in notes)
        desk = Desk(question, outcome, study, run, [], hold)
        promoted = yield from _baselines_and_priors(desk, folder=folder)
        yield from stream(desk, promoted, Order(order)) if question.plan.asynchronous else _waves(desk, promoted)
        yield from look_again(desk)
        yield from confirm(desk)
        yield from controls(desk)
        if question.audit:
            yield from audit(desk)
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.OperationalError) as error:
        raise unwritable(database, error) from error
    finally:
        study.close()


def _baselines_and_priors(desk: Desk, *, folder: Path | None) -> Generator[Event, None, list[TrialRecord]]:
    """Train both baselines and every teacher's prior up to its rung; returns the priors that go on."""
    question, outcome = desk.question, desk.outcome
    known = _carried(desk)
    priors = [new_trial(desk, wave=0, prior_of=it.name) for it in question.teachers if it.name not in known]
    baselines = [no_teacher_run(question, 0), plain_kd_run(question)]
    requests = [*baselines, *(short_run(question, prior) for prior in priors)]
    epochs = sum(request.new_epochs for request in requests)
    if known:
        _demand_room(desk, epochs + min(len(priors), PROTECTED_PRIORS) * question.plan.epochs_rest)
    yield PhaseStarted(phase="baselines and priors", runs=len(requests), epochs=epochs)
    yield from drive(desk, requests)
    outcome.no_teacher, outcome.plain_kd = (outcome.results[request.run] for request in baselines)
    promoted = yield from _best_priors(desk, priors)
    runs = [outcome.results[request.run] for request in requests]
    if all(run.state == "failed" for run in runs):
        raise every_run_failed(runs, training=question.space.training, folder=folder)
    return promoted


def _carried(desk: Desk) -> set[str]:
    """Put the trials of before a teacher joined on record; returns the teachers that have had their prior."""
    carried = desk.question.carried
    desk.outcome.trials.extend(carried)
    runs = [run for trial in carried for run in (trial.short, trial.full) if run is not None]
    desk.outcome.results.update({run.run: run for run in runs})
    return {str(trial.params.teacher) for trial in carried if trial.kind == "prior"}


def _demand_room(desk: Desk, epochs: int) -> None:
    """Refuse a teacher that the budget cannot pay any more, before anything is trained."""
    missing = epochs - left(desk, 0)
    if missing > 0:
        plan = desk.question.plan
        raise ConfigError(
            f"--budget {plan.requested}: with what is spent, nothing is left for the teacher that joins",
            f"raise it to {math.ceil(100 * (plan.total_epochs + missing) / plan.epochs_full) / 100:g} or more",
        )


def _best_priors(desk: Desk, priors: Sequence[TrialRecord]) -> Generator[Event, None, list[TrialRecord]]:
    priors = [with_short(desk, prior) for prior in priors]
    ranked = sorted(priors, key=lambda it: (-score(it.short), it.number))
    chosen = [it.number for it in ranked if it.state == "running"][:PROTECTED_PRIORS]
    promoted: list[TrialRecord] = []
    for prior in priors:
        if prior.number in chosen:
            promoted.append(prior)
        elif prior.state == "running":
            reason = (
                f"short run {score(prior.short):.1%}: not among the best {PROTECTED_PRIORS} of {len(priors)} priors"
            )
            prior = prior.model_copy(update={"state": "pruned", "reason": reason})
        yield from settle(desk, prior)
    return promoted


def _waves(desk: Desk, promoted: list[TrialRecord]) -> Iterator[Event]:
    """Ask in waves; the full runs of one wave are trained beside the short runs of the next."""
    plan, outcome = desk.question.plan, desk.outcome
    yield PhaseStarted(phase="search", runs=0, epochs=left(desk, 0))
    wave = max((trial.wave for trial in outcome.trials), default=0)
    while True:
        room = wave_size(plan, left=left(desk, len(promoted)), eta=desk.question.space.search.eta)
        if plan.max_trials is not None:
            room = min(room, plan.max_trials - len(outcome.trials))
        wave += 1
        asked = [new_trial(desk, wave=wave) for _ in range(room)]
        if not promoted and not asked:
            return
        fulls = [full_run(desk.question, trial) for trial in promoted]
        yield from drive(desk, [*fulls, *(short_run(desk.question, trial) for trial in asked)])
        yield from finish(desk, promoted)
        promoted = yield from _judge(desk, asked)


def _judge(desk: Desk, asked: Sequence[TrialRecord]) -> Generator[Event, None, list[TrialRecord]]:
    """Prune or promote a wave's trials, in number order, on what is known when the whole wave has run."""
    trials = [with_short(desk, trial) for trial in asked]
    for trial in trials:
        desk.outcome.trials[trial.number] = trial
    promoted: list[TrialRecord] = []
    for trial in trials:
        if trial.state == "running":
            trial = judged(desk, trial, rivals_of(desk, trial), left=left(desk, len(promoted)))
        if trial.state == "running":
            promoted.append(trial)
        yield from settle(desk, trial)
    return promoted

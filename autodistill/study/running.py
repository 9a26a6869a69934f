"""Running a study: teachers, search, confirm runs, and the record that is rewritten as runs end."""

import contextlib
import json
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from autodistill import data as datasets
from autodistill import ladder
from autodistill.config import dump
from autodistill.records import (
    AgreementRecord,
    Event,
    LatencyRecord,
    LogitsComputed,
    Note,
    PhaseStarted,
    PlanRecord,
    RunEnded,
    RunRequest,
    StudyRecord,
    TeacherRecord,
    TimePlanned,
    TrialEnded,
    read_study,
    to_json,
)
from autodistill.search import Outcome, audited_trials, importance, search
from autodistill.stats.recommend import recommend
from autodistill.store import claim, forget_checkpoint, owned, write_text
from autodistill.study.changing import join_teachers
from autodistill.study.environment import environment
from autodistill.study.estimates import order_file, plan_for, question_of, runs_beside, spelt, time_left
from autodistill.study.limits import student_latency
from autodistill.study.measuring import forget_if_wrong, measure
from autodistill.study.pace import paced, words
from autodistill.study.preparing import Prepared, identity
from autodistill.study.profiling import checked, compared_teachers
from autodistill.study.remembering import remembered
from autodistill.study.simulating import Costs, certain_of
from autodistill.workers import LadderTask, Pool, StandBy, Task
from autodistill.workers.crew import Crew, declare_complete

QUICK_S = 0.2
"""A write of the record that takes no longer follows every run."""
WRITING = 20
"""Times as long as it took, a longer one is followed by none: results are kept beside the record, one by one."""


@dataclass
class _Ledger:
    """What the study knows so far, and what equal studies do not share: times and machine."""

    plan: PlanRecord
    environment: dict[str, str]
    phase_s: dict[str, float]
    """Seconds by phase, those of earlier processes included."""
    planned: TimePlanned | None
    """Of what was left when this process began."""
    planned_s: dict[str, float]
    """Seconds by phase as they were planned before this plan's first run."""
    beside: tuple[RunRequest, ...] = ()
    """Runs that are trained while teachers are made ready."""
    outcome: Outcome = field(default_factory=Outcome)
    teachers: tuple[TeacherRecord, ...] = ()
    run_s: dict[str, float] = field(default_factory=dict)
    parts_s: dict[str, float] = field(default_factory=dict)
    """Seconds of all runs by part, over all workers."""
    agreement: AgreementRecord | None = None
    views_computed: int = 0
    """By runs."""
    profile_views: int = 0
    """By profiles, which come first, and by idle workers: in whichever process of this study computed them."""
    latency: LatencyRecord | None = None
    next_write: float = 0.0
    """Before this time the record is not rewritten."""
    fresh: bool = False
    """Whether this process has finished a run: until then the kept record says more than this ledger."""

    def note(self, event: Event) -> None:
        if isinstance(event, LogitsComputed):
            self.profile_views += event.views_computed
        if isinstance(event, RunEnded):
            self.views_computed += event.views_computed
            self.run_s[event.record.run] = round(event.wall_s, 2)
            self.fresh = self.fresh or not event.reused
            for part, seconds in event.parts_s.items():
                self.parts_s[part] = self.parts_s.get(part, 0.0) + seconds


def run_study(prepared: Prepared, *, standby: StandBy | None = None) -> Generator[Event, None, StudyRecord]:
    """Run or resume a study; yields what happens, returns the record, which is also in `study.json`.

    Args:
        standby: processes that wait to become its workers.
    """
    folder, request, begun = prepared.folder, prepared.request, time.monotonic()
    with owned(folder):
        joining = join_teachers(prepared)
        claim(folder, identity(prepared))
        finished = _finished(prepared)
        if finished is not None:
            yield Note(text="this study is finished: nothing is left to train")
            if request.storage:
                declare_complete(request.storage, folder.path.name)
            return finished
        # Workers elsewhere go on while nobody coordinates: what they are writing is theirs.
        if joining:
            yield Note(text=f"joins the study: {', '.join(joining)}; what was tried before carries over")
        for left in () if request.storage else folder.path.rglob(".*.tmp"):
            left.unlink(missing_ok=True)
        found = {**environment(request.device), "workers": str(request.workers)}
        write_text(folder.space, dump(prepared.runnable_space))
        write_text(folder.environment, json.dumps(found, indent=1) + "\n")
        latency = prepared.latency or student_latency(prepared)
        with _hired(prepared, standby) as pool:
            costs = yield from measure(prepared, pool.run)
            ledger = _ledger(prepared, costs, found)
            ledger.phase_s["start-up"] = round(ledger.phase_s.get("start-up", 0.0) + time.monotonic() - begun, 2)
            ledger.latency = latency
            record = yield from paced(_recorded(prepared, pool, ledger), ledger.planned)
            if record.state == "complete":
                forget_if_wrong(prepared, ledger.planned_s, ledger.phase_s)
            if record.state == "complete" and isinstance(pool, Crew):
                pool.complete()
            return record


def _ledger(prepared: Prepared, costs: Costs | None, found: dict[str, str]) -> _Ledger:
    """The books as an earlier process left them, and what is planned for this one."""
    plan, kept = _plan(prepared, costs), prepared.kept
    earlier = kept.timing if kept else {}
    planned, before = time_left(prepared, plan, costs), dict(earlier.get("phases_s", {}))
    planned_s = dict(earlier.get("planned_s", {})) if kept and kept.plan == plan else {}
    if not planned_s and planned is not None:
        phases = dict.fromkeys([*before, *planned.phases_s])
        planned_s = {it: round(before.get(it, 0.0) + planned.phases_s.get(it, 0.0), 2) for it in phases}
    ledger = _Ledger(plan, found, before, planned, planned_s, beside=runs_beside(prepared, plan, costs))
    ledger.profile_views = int(earlier.get("profile_views", 0))
    return ledger


def _hired(prepared: Prepared, standby: StandBy | None) -> Pool | Crew:
    """Who does the study's tasks: processes of its own, or whoever shares its database."""
    request = prepared.request
    if not request.storage:
        return Pool(request.workers, prepared.setup, data=prepared.data, standby=standby)
    study = prepared.folder.path.name
    return Crew(request.workers, prepared.setup, url=request.storage, study=study, standby=standby)


def _recorded(prepared: Prepared, pool: Pool | Crew, ledger: _Ledger) -> Generator[Event, None, StudyRecord]:
    """Pass a study's events on, keep its record up to date, and stop when its time is up."""
    started, timeout = time.monotonic(), prepared.request.timeout_s
    phase, begun, before = "teachers", started, ledger.phase_s.get("teachers", 0.0)
    with contextlib.closing(_events(prepared, pool, ledger)) as events:
        for event in events:
            if isinstance(event, PhaseStarted):
                ledger.phase_s[phase] = round(before + time.monotonic() - begun, 2)
                phase, begun, before = event.phase, time.monotonic(), ledger.phase_s.get(event.phase, 0.0)
            ledger.phase_s[phase] = round(before + time.monotonic() - begun, 2)
            ledger.note(event)
            if isinstance(event, TrialEnded):
                forget_checkpoint(prepared.folder, event.record)
            if ledger.fresh and isinstance(event, RunEnded | TrialEnded):
                _write_now_and_then(prepared, ledger)
            yield event
            if timeout is not None and time.monotonic() - started > timeout:
                yield Note(
                    text=f"--timeout: stopped after {timeout:g} s; the same command goes on from here", warning=True
                )
                return _stopped(prepared, ledger)
    return _write(prepared, ledger, "complete")


def _events(prepared: Prepared, pool: Pool | Crew, ledger: _Ledger) -> Generator[Event, None, None]:
    yield from (Note(text=note, warning=True) for note in prepared.notes)
    yield Note(text=f"plan: {spelt(ledger.plan)}")
    if ledger.planned is not None:
        yield Note(text=f"time: {words(ledger.planned)}")
    ledger.teachers, computed = yield from _teachers(prepared, pool, ledger.beside)
    ledger.profile_views = max(ledger.profile_views, computed)
    yield PhaseStarted(phase="profiles", runs=0, epochs=0)
    ledger.agreement = yield from compared_teachers(ledger.teachers, run=pool.run)
    question = question_of(prepared, ledger.plan, ledger.teachers)
    certain, workers = certain_of(question), prepared.request.workers
    run = partial(remembered, prepared.folder, pool=pool, views=prepared.views, certain=certain, workers=workers)
    order = order_file(prepared.folder, joined=question.joined)
    hold = pool.hold if isinstance(pool, Crew) else _alone
    folder, database = prepared.folder.path, prepared.database
    yield from search(question, ledger.outcome, run=run, database=database, order=order, hold=hold, folder=folder)


def _alone() -> None:
    """The lock of the run folder is held: nobody else decides."""


def _teachers(
    prepared: Prepared, pool: Pool | Crew, beside: Sequence[RunRequest]
) -> Generator[Event, None, tuple[tuple[TeacherRecord, ...], int]]:
    """Train the ladder's teachers that are missing, check and profile all; with runs beside them."""
    uris = prepared.untrained
    missing = [LadderTask(uri=uri) for uri in uris]
    epochs = len(missing) * prepared.space.ladder.epochs + sum(request.epochs for request in beside)
    yield PhaseStarted(phase="teachers", runs=len(missing) + len(beside), epochs=epochs)
    given_first = sorted(prepared.teachers, key=lambda name: prepared.teachers[name].startswith(ladder.SCHEME))
    untrained = {name for name, uri in prepared.teachers.items() if uri in uris}
    before: list[Task] = [*missing, *beside]
    if isinstance(pool, Crew):
        # Machines that share no folder cannot wait for each other's files.
        yield from (it for it in pool.run(before) if isinstance(it, Event) and not isinstance(it, RunEnded))
        before, untrained = [], set()
    teachers, computed = yield from checked(given_first, run=pool.run, before=before, untrained=untrained)
    order = list(prepared.teachers)
    return tuple(sorted(teachers, key=lambda teacher: order.index(teacher.name))), computed


def _finished(prepared: Prepared) -> StudyRecord | None:
    """The kept record of a study that has spent this very budget; None where there is something left to do."""
    record = prepared.kept
    if record is None:
        return None
    asked = (prepared.budget, prepared.request.max_trials)
    same = (record.plan.requested, record.plan.max_trials) == asked
    same = same and {it.name for it in record.teachers} == set(prepared.teachers)
    audited = bool(record.audit) or not prepared.request.audit_pruning or not audited_trials(record.trials)
    return record if record.state == "complete" and same and audited else None


def _plan(prepared: Prepared, costs: Costs | None) -> PlanRecord:
    """The plan; a budget of time is turned into epochs once, and kept."""
    path = prepared.folder.path / "plan.json"
    kept = _kept_plan(path, prepared.kept) if path.exists() else None
    if kept and (kept.requested, kept.max_trials) == (prepared.budget, prepared.request.max_trials):
        return kept
    plan = plan_for(prepared, costs)
    write_text(path, to_json(plan))
    return plan


def _kept_plan(path: Path, record: StudyRecord | None) -> PlanRecord | None:
    """The plan of an earlier process; where it is damaged, the record's, if that is there."""
    try:
        return PlanRecord.model_validate_json(path.read_bytes())
    except ValueError:
        return record.plan if record else None


def _stopped(prepared: Prepared, ledger: _Ledger) -> StudyRecord:
    kept = prepared.folder.record
    return read_study(kept) if kept.exists() and not ledger.fresh else _write(prepared, ledger, "running")


def _write_now_and_then(prepared: Prepared, ledger: _Ledger) -> None:
    """Rewrite the record after every run; one that takes its time, for a small part of the time only."""
    if (begun := time.monotonic()) < ledger.next_write:
        return
    _write(prepared, ledger, "running")
    ended = time.monotonic()
    ledger.next_write = ended + WRITING * (ended - begun) if ended - begun > QUICK_S else 0.0


def _write(prepared: Prepared, ledger: _Ledger, state: str) -> StudyRecord:
    outcome, space = ledger.outcome, prepared.space
    names = [teacher.name for teacher in ledger.teachers]
    record = StudyRecord(
        name=prepared.folder.path.name,
        state=state,
        command=prepared.request.command,
        student=prepared.student,
        limits=prepared.request.limits,
        data=datasets.record(prepared.data, spec=space.data, views=prepared.views),
        space=space.model_dump(mode="json", exclude_none=True),
        plan=ledger.plan,
        spent_epochs=outcome.spent_epochs,
        teachers=ledger.teachers,
        agreement=ledger.agreement,
        no_teacher=outcome.no_teacher,
        plain_kd=outcome.plain_kd,
        trials=tuple(outcome.trials),
        second_looks=tuple(outcome.second_looks),
        finalists=tuple(outcome.finalists),
        controls=tuple(outcome.controls),
        audit=tuple(outcome.audit),
        importance=importance(outcome.trials, space, names) if state == "complete" else None,
        timing={
            "phases_s": ledger.phase_s,
            "planned_s": ledger.planned_s,
            "runs_s": ledger.run_s,
            "parts_s": {name: round(seconds, 2) for name, seconds in sorted(ledger.parts_s.items())},
            "views_computed": ledger.views_computed + ledger.profile_views,
            "profile_views": ledger.profile_views,
            "latency": ledger.latency.model_dump() if ledger.latency else None,
        },
        environment=ledger.environment,
    )
    if state == "complete":
        record = record.model_copy(update={"recommendation": recommend(record, threshold=space.confirm.threshold)})
    write_text(prepared.folder.record, to_json(record))
    return record

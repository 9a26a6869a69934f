"""Running a study: teachers, search, confirm runs, and the record that is rewritten after every run."""

import json
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

from autodistill import data as datasets
from autodistill import ladder
from autodistill.recommend import recommend
from autodistill.records import (
    Event,
    Note,
    PhaseStarted,
    PlanRecord,
    RunEnded,
    RunRequest,
    StudyRecord,
    TeacherRecord,
    TrialEnded,
    to_json,
)
from autodistill.rules import RULES
from autodistill.search import Outcome, Question, importance, make_plan, parse_budget, search
from autodistill.space import dump
from autodistill.store import RunFolder, claim, locked, read_result, write_text
from autodistill.study.environment import environment
from autodistill.study.estimates import epoch_s, spelt
from autodistill.study.preparing import Prepared, identity
from autodistill.workers import CheckTask, LadderTask, Pool, Probe, ProbeTask


@dataclass
class _Ledger:
    """What the study knows so far, and the times that equal studies do not share."""

    outcome: Outcome = field(default_factory=Outcome)
    teachers: tuple[TeacherRecord, ...] = ()
    phase_s: dict[str, float] = field(default_factory=dict)
    run_s: dict[str, float] = field(default_factory=dict)
    views_computed: int = 0


def run_study(prepared: Prepared) -> Generator[Event, None, StudyRecord]:
    """Run or resume a study; yields what happens, returns the record, which is also in `study.json`."""
    folder, request = prepared.folder, prepared.request
    with locked(folder.lock, timeout_s=0):
        claim(folder, identity(prepared))
        write_text(folder.space, dump(prepared.space))
        write_text(folder.environment, json.dumps(environment(request.device), indent=1) + "\n")
        with Pool(request.workers, prepared.setup) as pool:
            return (yield from _work(prepared, pool))


def _work(prepared: Prepared, pool: Pool) -> Generator[Event, None, StudyRecord]:
    ledger, started = _Ledger(), time.monotonic()
    ledger.teachers = yield from _teachers(prepared, pool)
    ledger.phase_s["teachers"] = round(time.monotonic() - started, 2)
    plan = _plan(prepared, pool)
    yield Note(text=f"plan: {spelt(plan)}")
    question = Question(
        prepared.folder.path.name,
        prepared.space,
        plan,
        ledger.teachers,
        {name: rule.tau_student_from for name, rule in RULES.items()},
    )

    def run(requests: Sequence[RunRequest]) -> Iterator[Event]:
        yield from _remembered(prepared.folder, requests, pool)

    database = prepared.folder.database
    phase, begun, timeout = "teachers", time.monotonic(), prepared.request.timeout_s
    for event in search(question, ledger.outcome, run=run, database=database):
        if isinstance(event, PhaseStarted):
            phase, begun = event.phase, time.monotonic()
        ledger.phase_s[phase] = round(time.monotonic() - begun, 2) if phase != "teachers" else ledger.phase_s[phase]
        if isinstance(event, RunEnded):
            ledger.run_s[event.record.run] = round(event.wall_s, 2)
            ledger.views_computed += event.views_computed
        if isinstance(event, TrialEnded) or (isinstance(event, RunEnded) and not event.reused):
            _write(prepared, plan, ledger, "running")
        yield event
        if timeout is not None and time.monotonic() - started > timeout:
            yield Note(
                text=f"--timeout: stopped after {timeout:.0f} s; the same command goes on from here", warning=True
            )
            return _write(prepared, plan, ledger, "running")
    return _write(prepared, plan, ledger, "complete")


def _teachers(prepared: Prepared, pool: Pool) -> Generator[Event, None, tuple[TeacherRecord, ...]]:
    """Check the given teachers, train the ladder's that are missing, check those."""
    names = prepared.teachers
    given = [CheckTask(name=name) for name, uri in names.items() if not uri.startswith(ladder.SCHEME)]
    trained = [CheckTask(name=name) for name, uri in names.items() if uri.startswith(ladder.SCHEME)]
    missing = [LadderTask(uri=uri) for uri in prepared.untrained]
    epochs = len(missing) * prepared.space.ladder.epochs
    yield PhaseStarted(phase="teachers", runs=len(missing), epochs=epochs)
    found: dict[str, TeacherRecord] = {}
    for tasks in (given, missing, trained):
        for message in pool.run(tasks):
            if isinstance(message, TeacherRecord):
                found[message.name] = message
            elif not isinstance(message, Probe):
                yield message
    return tuple(found[name] for name in names)


def _plan(prepared: Prepared, pool: Pool) -> PlanRecord:
    """The plan; a budget of time is turned into epochs once, and kept."""
    kept = prepared.folder.path / "plan.json"
    if kept.exists():
        plan = PlanRecord.model_validate_json(kept.read_text(encoding="utf-8"))
        if plan.requested == prepared.budget and plan.max_trials == prepared.request.max_trials:
            return plan
    epochs_per_s = None
    if parse_budget(prepared.budget).unit == "seconds":
        (probe,) = (it for it in pool.run([ProbeTask()]) if isinstance(it, Probe))
        epochs_per_s = prepared.request.workers / epoch_s(probe, prepared.space)
    plan = make_plan(
        prepared.space,
        teachers=len(prepared.teachers),
        requested=prepared.budget,
        epochs_per_s=epochs_per_s,
        max_trials=prepared.request.max_trials,
    )
    write_text(kept, to_json(plan))
    return plan


def _remembered(folder: RunFolder, requests: Sequence[RunRequest], pool: Pool) -> Iterator[Event]:
    """Results that are kept are not trained again."""
    kept = {request.run: read_result(folder, request.run) for request in requests}
    yield from (ended for ended in kept.values() if ended is not None)
    for message in pool.run([request for request in requests if kept[request.run] is None]):
        if not isinstance(message, TeacherRecord | Probe):
            yield message


def _write(prepared: Prepared, plan: PlanRecord, ledger: _Ledger, state: str) -> StudyRecord:
    outcome, space = ledger.outcome, prepared.space
    names = [teacher.name for teacher in ledger.teachers]
    record = StudyRecord(
        name=prepared.folder.path.name,
        state=state,
        command=prepared.request.command,
        student=prepared.student,
        data=datasets.record(prepared.data, spec=space.data, views=prepared.views),
        space=space.model_dump(mode="json", exclude_none=True),
        plan=plan,
        spent_epochs=outcome.spent_epochs,
        teachers=ledger.teachers,
        no_teacher=outcome.no_teacher,
        plain_kd=outcome.plain_kd,
        trials=tuple(outcome.trials),
        finalists=tuple(outcome.finalists),
        importance=importance(outcome.trials, space, names) if state == "complete" else None,
        timing={"phases_s": ledger.phase_s, "runs_s": ledger.run_s, "views_computed": ledger.views_computed},
        environment={**environment(prepared.request.device), "workers": str(prepared.request.workers)},
    )
    if state == "complete":
        record = record.model_copy(update={"recommendation": recommend(record, threshold=space.confirm.threshold)})
    write_text(prepared.folder.record, to_json(record))
    return record

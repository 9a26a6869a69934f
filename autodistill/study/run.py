"""One study, from top to bottom; several students are a study each, one after another."""

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from autodistill.config import PriorSpec, Space, nearest_prior
from autodistill.errors import ConfigError, StoreError, TeacherError
from autodistill.executors import (
    AgreementTask,
    CheckTask,
    Executor,
    LocalExecutor,
    OnEvent,
    Profiled,
    ProfileTask,
    Refusal,
    Task,
    TrainTeacherTask,
)
from autodistill.formatting import listed, plural, short
from autodistill.methods import method_named, shapes_of
from autodistill.records import (
    AgreementRecord,
    ComparisonRecord,
    LeftOutRecord,
    Note,
    PhaseStarted,
    PlanRecord,
    StudyRecord,
    TeacherRecord,
    read_record,
    to_json,
)
from autodistill.searching import (
    Mirror,
    Sampler,
    SearchSpec,
    SearchState,
    no_teacher_runs,
    parse_budget,
    run_grid,
    run_search,
    screen,
)
from autodistill.stats.students import recommend_student
from autodistill.stats.verdict import threshold_of
from autodistill.store import StudyFolder, locked_study, write_text
from autodistill.study.recorder import Recorder, TimeIsUp
from autodistill.study.resolve import StudySpec, in_seconds, kept_record, reason_of
from autodistill.study.resuming import (
    RunStore,
    continued,
    identity,
    is_finished,
    kept_failures,
    kept_plan,
    kept_screening,
    run_key,
)
from autodistill.study.timing import measure, plan_for, plan_without
from autodistill.teachers import with_equals
from autodistill.teachers.checks import may_have_seen_validation
from autodistill.teachers.ladder import epochs_of

ExecutorFor = Callable[[StudySpec], Executor]
"""Starts an executor for a study."""


def local_executor(spec: StudySpec, *, stop: threading.Event | None = None) -> LocalExecutor:
    """Start local processes for a study."""
    return LocalExecutor(spec.options.workers, spec.setup, data=spec.data, stop=stop)


def run_study(spec: StudySpec, on_event: OnEvent, *, executor_for: ExecutorFor = local_executor) -> StudyRecord:
    """Run a study, or continue it; return its record, which is also kept in `study.json`.

    Raises:
        StoreError: The folder holds another study.
        Stopped: The executor was asked to stop. The same call continues the study.
    """
    with contextlib.ExitStack() as leaving:
        leaving.enter_context(locked_study(spec.folder))
        kept = continued(spec, kept_record(spec.folder))
        if kept is not None and is_finished(spec, kept):
            on_event(Note(text="this study is finished: nothing is left to train"))
            return kept
        mirror = Mirror(
            spec.options.storage or spec.folder.database,
            name=spec.folder.path.name,
            identity=identity(spec),
            say=lambda text: on_event(Note(text=text, warning=True)),
        )
        executor = leaving.enter_context(executor_for(spec))
        plan = kept_plan(spec, kept)
        if plan is None and not in_seconds(spec.budget):
            plan = plan_for(spec, None, kept=kept)
        recorder = Recorder(spec, on_event, kept=kept, mirror=mirror)
        leaving.callback(recorder.close)
        fingerprints: dict[str, str] = {}
        store = RunStore(
            spec.folder,
            partial(run_key, spec, fingerprints),
            views=spec.views,
            failures=kept_failures(kept),
            on_found=recorder.note_found,
        )
        try:
            if plan is not None:
                recorder.begin(plan)
            costs = measure(spec, executor, recorder.on_event)
            if plan is None:
                plan = plan_for(spec, costs, kept=kept)
                recorder.begin(plan)
            if costs is not None:
                recorder.plan_time(costs, executor.workers)
            recorded = kept.trials if kept else ()
            search = SearchSpec(
                space=spec.space,
                plan=plan,
                teachers=(),
                shapes=shapes_of(spec.space.search.methods),
                carried=recorded[: kept.joins[-1].trials] if kept and kept.joins else (),
                recorded=recorded,
                score_step=1 / len(spec.data.test.labels),
            )
            plan = with_teachers(
                spec, recorder, executor, plan, kept=kept, meanwhile=store.tasks(no_teacher_runs(search))
            )
            fingerprints.update({teacher.name: teacher.fingerprint for teacher in recorder.teachers})
            search = search._replace(plan=plan, teachers=tried_teachers(spec, recorder, plan, kept))
            recorder.state = state = SearchState(
                spec=search,
                train=partial(store.train, executor=executor, on_event=recorder.on_event),
                on_event=recorder.on_event,
                sampler=Sampler(spec.space, [teacher.name for teacher in search.teachers], search.shapes),
            )
            if plan.settings is not None:
                run_grid(state, grid_priors(spec.space))
            else:
                run_search(state, audited=spec.options.audit_pruning)
        except TimeIsUp:
            return recorder.stopped()
        except (ConfigError, TeacherError):  # no room for a teacher that joins, or a teacher that cannot be used
            recorder.undo()
            raise
        return recorder.complete()


def grid_priors(space: Space) -> dict[str, PriorSpec]:
    """Return the first setting of each method of a grid: the point of the space nearest to its publication's."""
    return {it: nearest_prior(space.search, it, method_named(it).settings) for it in space.search.methods}


def tried_teachers(
    spec: StudySpec, recorder: Recorder, plan: PlanRecord, kept: StudyRecord | None
) -> tuple[TeacherRecord, ...]:
    """Choose the teachers that are tried, and note those that are not; the choice of an earlier process stays."""
    left_out = kept_screening(spec, kept)
    if left_out is None:
        count = plan.tried or len(recorder.teachers)
        left_out = screen(recorder.teachers, count=count, metric=spec.space.search.metric)
    recorder.screened_out = left_out
    if left_out:
        names = listed([short(name) for name in left_out])
        text = f"{plural(len(left_out), 'teacher')} not tried, for reasons that the report lists: {names}"
        recorder.on_event(Note(text=text))
    return tuple(it for it in recorder.teachers if it.name not in left_out)


def with_teachers(
    spec: StudySpec,
    recorder: Recorder,
    executor: Executor,
    plan: PlanRecord,
    *,
    kept: StudyRecord | None,
    meanwhile: Sequence[Task],
) -> PlanRecord:
    """Prepare the teachers of a study; return its plan, which changes where teachers are left out.

    The `meanwhile` tasks are for workers that would otherwise be idle.
    """
    prepared = prepare_teachers(
        list(spec.teachers),
        executor,
        recorder.on_event,
        optional=spec.optional,
        untrained=spec.training_of(list(reversed(spec.teachers))),
        epochs=sum(epochs_of(uri, spec.space) for uri in spec.untrained),
        meanwhile=meanwhile,
    )
    recorder.teachers, recorder.agreement = prepared.teachers, prepared.agreement
    recorder.profile_views = max(recorder.profile_views, prepared.views_computed)
    recorder.refused = leave_out(spec, prepared.refused, recorder.on_event)
    if recorder.refused or (kept is not None and kept.left_out):
        budget = parse_budget(spec.budget)
        epochs_per_s = plan.total_epochs / budget.amount if budget.unit == "seconds" else None
        plan = plan_without(spec, recorder.refused, epochs_per_s, kept=kept)
        recorder.replan(plan)
    return plan


def leave_out(spec: StudySpec, refused: Mapping[str, Refusal], on_event: OnEvent) -> dict[str, str]:
    """Return the reasons for leaving out files of folders, by name, and warn about them.

    Raises:
        TeacherError: No file of a folder passes its check.
    """
    for folder in dict.fromkeys(spec.folders.values()):
        own = [name for name, of in spec.folders.items() if of == folder]
        if all(name in refused for name in own):
            lines = "".join(f"\n  {refused[name].message.removeprefix('teacher ')}" for name in own)
            raise TeacherError(f"teacher {folder}: no checkpoint passes its check:{lines}", refused[own[0]].hint)
    reasons = {name: reason_of(it.message, spec.teachers[name]) for name, it in refused.items()}
    for name, reason in reasons.items():
        on_event(Note(text=f"teacher {name} is left out: {reason}", warning=True))
    return reasons


class Prepared(NamedTuple):
    """Checked teachers with their profiles."""

    teachers: tuple[TeacherRecord, ...]
    agreement: AgreementRecord | None
    views_computed: int
    """How often a teacher was run over view 0."""
    refused: dict[str, Refusal]
    """Optional teachers that did not pass their check, by name."""


def prepare_teachers(
    names: Sequence[str],
    executor: Executor,
    on_event: OnEvent,
    *,
    optional: Collection[str] = (),
    untrained: Sequence[TrainTeacherTask] = (),
    epochs: int = 0,
    meanwhile: Sequence[Task] = (),
) -> Prepared:
    """Train or adapt the missing teachers, then check, profile and compare all teachers.

    Args:
        names: Names of the teachers.
        executor: Runs the tasks.
        on_event: Is called with each event.
        optional: Names of teachers that may fail their check.
        untrained: Tasks that train the missing teachers, in their order.
        epochs: Epochs of their training.
        meanwhile: Runs for workers that would otherwise be idle.

    Raises:
        TeacherError: Another teacher does not pass its check.
    """
    on_event(PhaseStarted(phase="teachers", runs=len(untrained), epochs=epochs))
    executor.run(untrained, on_event, meanwhile=meanwhile)
    first = [CheckTask(name=name, optional=True) for name in names if name in optional]
    answers = executor.run(first, on_event, meanwhile=meanwhile)
    checked = {task.name: answer for task, answer in zip(first, answers, strict=True)}
    refused = {name: answer for name, answer in checked.items() if isinstance(answer, Refusal)}
    names = [name for name in names if name not in refused]
    tasks: list[Task] = []
    for name in names:
        tasks += [ProfileTask(name=name)] if name in checked else [CheckTask(name=name), ProfileTask(name=name)]
    results = iter(executor.run(tasks, on_event, meanwhile=meanwhile))
    on_event(PhaseStarted(phase="profiles", runs=0, epochs=0))
    teachers, computed = list[TeacherRecord](), 0
    for name in names:
        record = checked[name] if name in checked else next(results)
        profiled = next(results)
        assert isinstance(record, TeacherRecord)
        if isinstance(profiled, Profiled):
            seen = may_have_seen_validation(profiled.profile) if record.is_foreign else ""
            notes = (*record.notes, seen) if seen else record.notes
            record = record.model_copy(update={"profile": profiled.profile, "notes": notes})
            computed += profiled.views_computed
        teachers.append(record)
    teachers = with_equals(teachers)
    for record in teachers:
        for note in record.notes:
            on_event(Note(text=f"teacher {record.name}: {note}"))
    profiled_names = tuple(teacher.name for teacher in teachers if teacher.profile is not None)
    agreement = None
    if len(profiled_names) > 1:
        (compared,) = executor.run([AgreementTask(names=profiled_names)], on_event)
        agreement = compared if isinstance(compared, AgreementRecord) else None
    return Prepared(tuple(teachers), agreement, computed, refused)


def run_students(
    students: Sequence[StudySpec],
    on_event: OnEvent,
    *,
    name: str,
    command: str,
    left_out: Sequence[LeftOutRecord] = (),
    executor_for: ExecutorFor = local_executor,
) -> ComparisonRecord:
    """Run or continue each student's study; return the comparison, which is also kept in a `study.json` of its own.

    The specifications of the students differ in student and study only. `name` and `command` are those of the
    comparison, and `left_out` are students that break a limit.
    """
    options = students[0].options
    folder = StudyFolder(Path(options.runs) / name)
    started = time.monotonic()
    found = {it.folder.path.name: kept_record(it.folder) for it in students}
    with locked_study(folder):
        if folder.record.exists() and isinstance(read_record(folder.record), StudyRecord):
            raise StoreError(
                f"{folder.path}: holds the study of a single student", "give this search another name with --study"
            )
        for number, spec in enumerate(students, 1):
            left_s = None if options.timeout_s is None else options.timeout_s - (time.monotonic() - started)
            if left_s is not None and left_s <= 0 and number > 1:
                break
            study = spec.folder.path.name
            on_event(Note(text=f"student {number} of {len(students)}: {spec.student.name}, study {study}"))
            timed = spec._replace(options=spec.options.model_copy(update={"timeout_s": left_s}))
            found[study] = run_study(timed, on_event, executor_for=executor_for)
            studies = [kept for kept in found.values() if kept is not None]
            whole = len(studies) == len(students) and all(kept.state == "complete" for kept in studies)
            record = ComparisonRecord(
                name=name,
                state="complete" if whole else "running",
                command=command,
                limits=options.limits,
                left_out=tuple(left_out),
                studies=tuple(studies),
                choice=recommend_student(studies, limits=options.limits, threshold=threshold_of(studies[0])),
            )
            write_text(folder.record, to_json(record))
    return record

"""One study, from top to bottom."""

import contextlib
import threading
from collections.abc import Callable
from functools import partial

from autodistill.errors import ConfigError
from autodistill.executors import Executor, LocalExecutor, OnEvent, ProcessPool
from autodistill.records import Note, PlanRecord, RunSpec, StudyRecord, TeacherRecord
from autodistill.search import (
    Mirror,
    Sampler,
    SearchSpec,
    SearchState,
    audit,
    confirm,
    controls,
    first_stage,
    no_teacher_runs,
    parse_budget,
    rerun_leaders,
    waves,
)
from autodistill.store import locked_study
from autodistill.study.recorder import Recorder, TimeIsUp
from autodistill.study.resolve import StudySpec, kept_record
from autodistill.study.resuming import continued, identity, is_finished, kept_failures, kept_plan
from autodistill.study.runs import RunStore, run_key
from autodistill.study.teachers import prepare_teachers
from autodistill.study.timing import TAU_STUDENT_FROM, measure, plan_for

ExecutorFor = Callable[[StudySpec], Executor]
"""Starts an executor for a study."""


def local_executor(
    spec: StudySpec, *, processes: ProcessPool | None = None, stop: threading.Event | None = None
) -> LocalExecutor:
    """Start local processes for a study."""
    return LocalExecutor(spec.options.workers, spec.setup, data=spec.data, processes=processes, stop=stop)


def run_study(spec: StudySpec, on_event: OnEvent, *, executor_for: ExecutorFor = local_executor) -> StudyRecord:
    """Run a study, or continue it; returns its record, which is also kept in `study.json`.

    Args:
        spec: the study.
        on_event: is called with each event.
        executor_for: starts what runs the tasks.

    Raises:
        StoreError: the folder holds another study.
        Stopped: the executor was asked to stop. The same call continues the study.
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
        plan = kept_plan(spec, kept) or (None if parse_budget(spec.budget).unit == "seconds" else plan_for(spec, None))
        recorder = Recorder(spec, on_event, kept=kept, mirror=mirror)
        leaving.callback(recorder.close)
        fingerprints: dict[str, str] = {}
        store = RunStore(
            spec.folder,
            partial(_key, spec, fingerprints),
            views=spec.views,
            failures=kept_failures(kept),
            on_found=recorder.note_found,
        )
        try:
            if plan is not None:
                recorder.begin(plan)
            costs = measure(spec, executor, recorder.on_event)
            plan = plan or plan_for(spec, costs)
            recorder.begin(plan, costs=costs, workers=executor.workers)
            certain = no_teacher_runs(_search_spec(spec, plan, (), kept))
            recorder.teachers, recorder.agreement, computed = prepare_teachers(
                list(spec.teachers),
                executor,
                recorder.on_event,
                untrained=spec.untrained,
                epochs=spec.space.ladder.epochs,
                meanwhile=store.tasks(certain),
            )
            recorder.profile_views = max(recorder.profile_views, computed)
            fingerprints.update({teacher.name: teacher.fingerprint for teacher in recorder.teachers})
            state = SearchState(
                spec=_search_spec(spec, plan, recorder.teachers, kept),
                train=partial(store.train, executor=executor, on_event=recorder.on_event),
                on_event=recorder.on_event,
                sampler=Sampler(spec.space, list(spec.teachers), TAU_STUDENT_FROM),
            )
            recorder.state = state
            promoted = first_stage(state)
            waves(state, promoted)
            rerun_leaders(state)
            confirm(state)
            controls(state)
            if spec.options.audit_pruning:
                audit(state)
        except TimeIsUp:
            return recorder.stopped()
        except ConfigError:  # the budget has no room for a teacher that joins
            recorder.undo()
            raise
        return recorder.complete()


def _search_spec(
    spec: StudySpec, plan: PlanRecord, teachers: tuple[TeacherRecord, ...], kept: StudyRecord | None
) -> SearchSpec:
    recorded = kept.trials if kept else ()
    joined = kept.joins[-1].trials if kept and kept.joins else 0
    return SearchSpec(
        space=spec.space,
        plan=plan,
        teachers=teachers,
        tau_student_from=TAU_STUDENT_FROM,
        carried=recorded[:joined],
        recorded=recorded,
    )


def _key(spec: StudySpec, fingerprints: dict[str, str], run: RunSpec) -> str:
    """Return the key of a run; the fingerprint of a ladder teacher is known once the teacher is trained."""
    training = spec.space.training.model_dump(mode="json", exclude={"epochs", "rung_epochs"})
    data = spec.space.data
    common = {
        "data": spec.data.fingerprint,
        "student": (spec.student.name, spec.student.stem_stride),
        "training": training,
        "loss": spec.space.search.loss,
        "view": (data.view_seed, data.crop, data.flip),
        "views": spec.views,
    }
    teacher = run.params.teacher
    return run_key(run, teacher=fingerprints[teacher] if teacher else "", common=common)

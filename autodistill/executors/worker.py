"""What a worker does with a task."""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from autodistill import data as datasets
from autodistill.data import Data, Kept
from autodistill.data.views import View
from autodistill.errors import AutodistillError, CacheError, DivergedError, StudyError, TeacherError, TrialError
from autodistill.executors.base import (
    AgreementTask,
    CheckTask,
    LogitsTask,
    MeasureStudentTask,
    MeasureTeacherTask,
    OnEvent,
    Profiled,
    ProfileTask,
    Result,
    Setup,
    Stopped,
    StudentTimes,
    Task,
    TeacherTimes,
    TrainTask,
    TrainTeacherTask,
    describe,
)
from autodistill.executors.measuring import measure_student, measure_teacher
from autodistill.executors.memory import FEWER_PROCESSES, out_of_memory_as, within_memory
from autodistill.logit_cache import LogitCache
from autodistill.models import student_network
from autodistill.records import (
    AgreementRecord,
    EpochEvent,
    EpochRecord,
    KeptResult,
    LogitsComputed,
    Note,
    RunResult,
    RunSpec,
    RunTimes,
    TargetSummary,
    TeacherRecord,
    TrainedRecord,
    run_ended,
)
from autodistill.stopwatch import Stopwatch
from autodistill.store import StudyFolder, read_result, write_result
from autodistill.teachers import Teacher, check, load, save
from autodistill.teachers.checkpoints import read
from autodistill.teachers.ladder import file_uri
from autodistill.teachers.profile import agreement, profile
from autodistill.training import Execution, Recipe, Supervision, evaluate, supervise, train, train_teacher
from autodistill.training.probing import images_that_fit


class StopAfterSaving:
    """Stops a training at the end of an epoch whose checkpoint was saved for that purpose."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self._stopping, self._saved = stopping, False

    def save(self) -> bool:
        """Return whether to save at the end of this epoch."""
        self._saved = self._stopping()
        return self._saved

    def check(self) -> None:
        """Raise `Stopped` if the checkpoint was saved."""
        if self._saved:
            raise Stopped


class WorkerContext:
    """What a worker holds: data and teachers, loaded when they are needed first, and the logit cache.

    Args:
        setup: the study.
        data: the study's data where they are loaded already.
        on_event: is called with events of the tasks.
        stopping: returns whether the worker should stop at the end of the epoch.
        on_file: is called with the path of each file of logits that is written.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        data: Data | Kept | None = None,
        on_event: OnEvent = lambda _: None,
        stopping: Callable[[], bool] = lambda: False,
        on_file: Callable[[Path], object] = lambda _: None,
    ) -> None:
        self.setup, self.on_event, self.stopping, self._on_file = setup, on_event, stopping, on_file
        self._given = data
        self.device = torch.device(setup.device)
        if self.device.type == "cuda" and setup.memory_share < 1:
            # A process that needs more memory runs out of its own share, and takes none from the others' runs.
            torch.cuda.set_per_process_memory_fraction(setup.memory_share, self.device.index)
        self.folder = StudyFolder(Path(setup.folder))
        spec = setup.space.data
        self.view = View(spec.view_seed, spec.crop, spec.flip)
        self.watch = Stopwatch()
        self.execution = Execution(setup.mode, self.warn)
        self._warned: set[str] = set()
        self._teachers: dict[str, Teacher] = {}
        self.failing_teachers: set[str] = set()
        """Teachers whose logits could not be computed ahead of need."""

    def warn(self, text: str) -> None:
        """Emit a warning, each text once."""
        if text not in self._warned:
            self._warned.add(text)
            self.on_event(Note(text=text, warning=True))

    @cached_property
    def study_data(self) -> Data:
        """The splits of the study, to which its teachers belong."""
        return datasets.received(self._given, self.setup.space.data).to(self.device)

    @cached_property
    def data(self) -> Data:
        """The data on which students are trained."""
        return datasets.with_validation(self.study_data) if self.setup.with_validation else self.study_data

    @cached_property
    def cache(self) -> LogitCache:
        """The logit cache."""
        return LogitCache(
            Path(self.setup.cache),
            data=self.data,
            view=self.view,
            say=self.warn,
            watch=self.watch,
            on_write=self._on_file,
        )

    def teacher(self, name: str) -> Teacher:
        """Return a teacher; it is loaded at its first use."""
        if name not in self._teachers:
            uri = self.setup.teachers[name]
            path = file_uri(uri, root=Path(self.setup.cache), data=self.setup.data, space=self.setup.space)
            loaded = load(path, data=self.study_data, offline=self.setup.offline, name=name, shown_as=uri)
            loaded.module.to(self.device)
            self._teachers[name] = loaded
        return self._teachers[name]

    def is_loaded(self, name: str | None) -> bool:
        """Return whether a teacher could be loaded."""
        return name in self._teachers

    def student(self, seed: int) -> nn.Module:
        """Return a newly initialised student."""
        return student_network(self.setup.student, self.data, self.setup.space.student, seed=seed).to(self.device)

    def recipe(self, spec: RunSpec) -> Recipe:
        """Return the recipe of a run."""
        training = self.setup.space.training
        return Recipe(training, self.view, self.setup.views, spec.epochs, spec.seed, rung=spec.rung)

    def supervision(self, spec: RunSpec) -> Supervision | None:
        """Return what the teacher of a run provides; None where the run has no teacher."""
        if spec.params.teacher is None:
            return None
        teacher, needed = self.teacher(spec.params.teacher), min(spec.last_epoch, self.setup.views)
        return supervise(
            spec.params,
            logits=lambda number: self.cache.training(teacher, number, later=range(number + 1, needed)),
            labels=self.data.train.labels,
            loss=self.setup.space.search.loss,
        )

    def fit(
        self,
        spec: RunSpec,
        supervision: Supervision | None,
        *,
        curve: list[EpochRecord],
        checkpoint: Path | None = None,
    ) -> tuple[nn.Module, int]:
        """Train a new student, in halves of a batch where a whole batch does not fit into memory.

        Args:
            spec: the run.
            supervision: what its teacher provides.
            curve: is filled with a record per epoch.
            checkpoint: file to resume from and to write to.

        Returns:
            The student, and the number of parts in which a batch passed.

        Raises:
            Stopped: the worker was asked to stop, and the checkpoint is written.
        """
        model: nn.Module
        stop = StopAfterSaving(self.stopping)

        def attempt(parts: int) -> None:
            nonlocal model
            model = self.student(spec.seed)
            curve.clear()
            begun = time.monotonic()
            for record in train(
                model,
                self.data,
                self.recipe(spec)._replace(micro_batches=parts),
                supervision=supervision,
                evaluate_on=spec.evaluate_on,
                checkpoint=checkpoint,
                until=spec.until,
                watch=self.watch,
                execution=self.execution,
                urgent=stop.save,
            ):
                curve.append(record)
                now = time.monotonic()
                if record.epoch > spec.begun_epochs:
                    self.on_event(EpochEvent(run=spec.run, epochs=spec.last_epoch, record=record, wall_s=now - begun))
                begun = now
                stop.check()

        parts = within_memory(
            attempt,
            batch_size=self.setup.space.training.batch_size,
            images_that_fit=lambda: images_that_fit(lambda: self.student(0), self.data, self.recipe(spec)),
            say=self.warn,
        )
        return model, parts

    def save_student(self, model: nn.Module, path: Path, *, trained: TrainedRecord | None = None) -> None:
        """Write a student's weights as safetensors, with what is needed to use them in the metadata."""
        stem_stride = self.setup.space.student.stem_stride
        more = {"trained": trained.model_dump(mode="json")} if trained else {}
        save(path, model, architecture=self.setup.student, data=self.data, stem_stride=stem_stride, more=more)

    @contextlib.contextmanager
    def one_thread(self) -> Iterator[None]:
        """Compute on one thread on a CPU.

        Two threads in one process lose up to half of both cores to waiting for each other on shared machines. And
        results must not depend on the worker: the number of threads changes the last bits.
        """
        before = torch.get_num_threads()
        if self.device.type == "cpu":
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def perform(task: Task, context: WorkerContext) -> Result:
    """Do a task.

    Raises:
        AutodistillError: the task failed, and it is not a failure of a single run.
        Stopped: the worker was asked to stop.
    """
    share = f"this worker has {context.setup.memory_share:.0%} of the device's"
    error = StudyError(
        f"out of memory while {describe(task)}: {share}",
        "what is finished is kept: continue with fewer processes on the device (--workers), or a smaller network",
    )
    with out_of_memory_as(error), context.one_thread():
        return _PERFORM[type(task)](task, context)


def _train(task: TrainTask, context: WorkerContext) -> KeptResult:
    found = _trained(task, context)
    context.on_event(run_ended(found))
    return found


def _trained(task: TrainTask, context: WorkerContext) -> KeptResult:
    spec, folder, watch = task.spec, context.folder, context.watch
    kept = read_result(folder, task.key)
    if kept is not None and (found := kept.answer(spec)) is not None:  # its worker died before it answered
        return found
    started, computed, before = time.monotonic(), context.cache.computed, dict(watch.seconds)
    curve: list[EpochRecord] = []
    targets: TargetSummary | None = None
    error, determined, micro_batches = "", False, 1
    try:
        if kept is not None and (scored := _with_test_score(kept, task, context)) is not None:
            return scored
        supervision, targets = _taught(spec, context)
        model, micro_batches = context.fit(spec, supervision, curve=curve, checkpoint=folder.checkpoint(task.key))
        if spec.last_epoch == context.setup.space.training.epochs:
            context.save_student(model, folder.weights(task.key))
    except (TrialError, CacheError, TeacherError, RuntimeError) as found_error:
        if isinstance(found_error, TeacherError) and not context.is_loaded(spec.params.teacher):
            raise  # no run can load it
        # A RuntimeError is torch's. It is the failure of one run and is recorded; the study goes on.
        error = next(iter(str(found_error).splitlines()), type(found_error).__name__)
        determined = isinstance(found_error, DivergedError)
    record = RunResult(
        **spec.kept(),
        key=task.key,
        state="failed" if error else "complete",
        error=error,
        curve=tuple(curve),
        targets=targets,
        micro_batches=micro_batches,
    )
    wall_s = time.monotonic() - started
    parts = {name: took - before.get(name, 0.0) for name, took in watch.seconds.items()}
    parts = {name: took for name, took in parts.items() if took > 0}
    parts["student"] = wall_s - sum(parts.values())
    ended = KeptResult(
        result=record,
        wall_s=wall_s,
        parts_s=parts,
        views_computed=context.cache.computed - computed,
        rung=_times_of_rung(kept, spec),
        computed_on={
            "device": str(context.device),
            "torch": torch.__version__,
            "threads": str(torch.get_num_threads()),
            "capability": torch.backends.cpu.get_cpu_capability(),
        },
    )
    if record.state == "complete" or determined:
        write_result(folder, ended)
    if spec.until is None or record.state == "failed":
        folder.checkpoint(task.key).unlink(missing_ok=True)
    return ended


def _times_of_rung(kept: KeptResult | None, spec: RunSpec) -> RunTimes | None:
    """Return what the rung took from which a full run continues; its result is replaced by that of the full run."""
    if kept is None or not spec.begun_epochs or kept.result.last_epoch != spec.begun_epochs:
        return None
    return RunTimes(wall_s=kept.wall_s, parts_s=kept.parts_s, views_computed=kept.views_computed)


def _with_test_score(kept: KeptResult, task: TrainTask, context: WorkerContext) -> KeptResult | None:
    """Add the test score to a kept result from its kept weights; None where that is not possible."""
    path = context.folder.weights(task.key)
    if kept.result.state != "complete" or kept.result.epochs != kept.result.last_epoch or not path.exists():
        return None
    model = context.student(task.spec.seed)
    try:
        model.load_state_dict(read(path, task.spec.run).state)
    except (TeacherError, RuntimeError):  # damaged, or of another network: the run is trained again
        return None
    data, precision = context.data, context.setup.space.training.precision
    last = kept.result.curve[-1].model_copy(
        update={"test_top1": evaluate(model, data.test, data, precision=precision)[0]}
    )
    curve = (*kept.result.curve[:-1], last)
    scored = kept.model_copy(update={"result": kept.result.model_copy(update={"curve": curve})})
    write_result(context.folder, scored)
    return scored.answer(task.spec)


def _taught(spec: RunSpec, context: WorkerContext) -> tuple[Supervision | None, TargetSummary | None]:
    """Return what the run's teacher provides, and where the method puts its temperatures."""
    teacher = spec.params.teacher
    error = TrialError(f"out of memory before the first step, with the logits of {teacher}; {FEWER_PROCESSES}")
    with out_of_memory_as(error):
        supervision = context.supervision(spec)
        if supervision is None:
            return None, None
        with context.watch.part("targets"):
            return supervision, supervision.summary(context.data.train.labels)


def _train_teacher(task: TrainTeacherTask, context: WorkerContext) -> None:
    setup = context.setup
    stop = StopAfterSaving(context.stopping)
    for progress in train_teacher(
        task.uri,
        root=Path(setup.cache),
        data=context.study_data,
        space=setup.space,
        execution=context.execution,
        urgent=stop.save,
    ):
        context.on_event(progress)
        stop.check()


def _check(task: CheckTask, context: WorkerContext) -> TeacherRecord:
    teacher = context.teacher(task.name)
    return check(teacher, context.data, context.cache.validation(teacher).float().to(context.device))


def _profile(task: ProfileTask, context: WorkerContext) -> Profiled | None:
    prior, computed, teacher = context.setup.space.prior, context.cache.computed, context.teacher(task.name)
    try:
        logits = context.cache.training(teacher, 0)
        computed = context.cache.computed - computed
    except (CacheError, TeacherError) as error:  # the teacher's runs fail with the same error and record it
        context.warn(f"teacher {task.name} has no profile: {error.message}")
        return None
    found = profile(
        logits,
        context.data.train.labels.cpu(),
        context.cache.validation(teacher),
        context.data.validation.labels.cpu(),
        isats_params=prior.params if prior.method == "isats" else None,
    )
    return Profiled(profile=found, views_computed=computed)


def _logits(task: LogitsTask, context: WorkerContext) -> int:
    computed = context.cache.computed
    # What fails here fails again in the run that needs it, and is recorded there.
    with contextlib.suppress(CacheError, TeacherError, RuntimeError):
        if task.name not in context.failing_teachers:
            context.failing_teachers.add(task.name)
            context.cache.ahead(context.teacher(task.name), task.view)
            context.failing_teachers.remove(task.name)
    computed = context.cache.computed - computed
    if computed:
        context.on_event(LogitsComputed(views_computed=computed))
    return computed


def _agreement(task: AgreementTask, context: WorkerContext) -> AgreementRecord | None:
    logits = {name: context.cache.training(context.teacher(name), 0) for name in task.names}
    return agreement(logits, context.data.train.labels.cpu())


def _measure_student(task: MeasureStudentTask, context: WorkerContext) -> StudentTimes | None:
    try:
        return measure_student(
            lambda: context.student(0),
            context.data,
            context.setup.space,
            task.params,
            seconds=task.seconds,
            execution=context.execution,
        )
    except (TrialError, RuntimeError) as error:
        _not_measured(error, context)
        return None


def _measure_teacher(task: MeasureTeacherTask, context: WorkerContext) -> TeacherTimes | None:
    try:
        return measure_teacher(task, context)
    except (TrialError, RuntimeError) as error:
        _not_measured(error, context)
        return None


def _not_measured(error: AutodistillError | RuntimeError, context: WorkerContext) -> None:
    """Warn that something could not be measured: a run would fail and be recorded, an estimate ends nothing."""
    context.warn(f"how long the study takes is not known: {next(iter(str(error).splitlines()), error)}")


_PERFORM: dict[type[Task], Callable[..., Result]] = {
    TrainTask: _train,
    TrainTeacherTask: _train_teacher,
    CheckTask: _check,
    ProfileTask: _profile,
    LogitsTask: _logits,
    AgreementTask: _agreement,
    MeasureStudentTask: _measure_student,
    MeasureTeacherTask: _measure_teacher,
}

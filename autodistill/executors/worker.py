"""What a worker does with a task, within its memory."""

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autodistill import data as datasets
from autodistill.data import Data, SharedFile
from autodistill.data.views import PLAIN_VIEW, View
from autodistill.errors import (
    AutodistillError,
    CacheError,
    DivergedError,
    MisreadError,
    StudyError,
    TeacherError,
    TrialError,
)
from autodistill.executors.base import (
    AgreementTask,
    CheckTask,
    Done,
    LogitsTask,
    MeasureStudentTask,
    MeasureTeacherTask,
    OnEvent,
    Profiled,
    ProfileTask,
    Refusal,
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
from autodistill.logit_cache import LogitCache
from autodistill.methods import OWN, check_code
from autodistill.models.checkpoints import saved_state
from autodistill.models.students import bare, changed, file_facts, foreign_student, student_network
from autodistill.models.uri import with_option
from autodistill.records import (
    TRAINED_HERE,
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
    TrialParams,
    run_ended,
)
from autodistill.stopwatch import Stopwatch
from autodistill.store import StudyFolder, read_result, write_result
from autodistill.teachers import Teacher, adaptation, assistants, check, hottest_of, load, save
from autodistill.teachers.ladder import load_trained, path_of
from autodistill.teachers.profile import agreement, profile
from autodistill.training import (
    Execution,
    Recipe,
    Supervision,
    adapt_teacher,
    evaluate,
    supervise,
    train,
    train_assistant,
    train_teacher,
)
from autodistill.training.probing import images_that_fit
from autodistill.usercode import errors_as, run_failed

CONTEXT_BYTES = 700 * 2**20
"""GPU memory of a process outside torch's allocator: CUDA context and kernels. An estimate; drivers differ."""
USED = 0.9
"""Share of the free memory that workers may reserve together."""
FEWER_PROCESSES = "fewer processes on the device (--workers), in a new study (--study)"
"""A new study is necessary because a study keeps its failed trials: later decisions depend on them."""


def memory_share(free: int, total: int, *, workers: int) -> float:
    """Return the fraction of a GPU's memory that each worker may reserve; 1 for a single worker."""
    return 1.0 if workers == 1 else max(0.0, USED * free / workers - CONTEXT_BYTES) / total


def teacher_path(uri: str, setup: Setup, *, root: str = "") -> Path:
    """Return the file of a teacher that autodistill trains, below `root`, by default the cache folder."""
    folder = Path(root or setup.cache)
    return path_of(uri, root=folder, data=setup.data, space=setup.space, sources=setup.sources)


def release() -> None:
    """Release the memory of a failed run: its frames keep their tensors until they are collected."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def _out_of_memory_as(error: AutodistillError) -> Iterator[None]:
    """Raise `error` where memory runs out."""
    try:
        yield
        return
    except torch.OutOfMemoryError:
        pass
    release()
    raise error


class StopAfterSaving:
    """Stops a training at the end of an epoch whose checkpoint was saved for that purpose."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self._stopping, self._saved = stopping, False

    def save(self) -> bool:
        self._saved = self._stopping()
        return self._saved

    def check(self) -> None:
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
        data: Data | SharedFile | None = None,
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
        self.teachers: dict[str, Teacher] = {}
        """Those that are loaded."""
        self.failing_teachers: set[str] = set()
        """Teachers whose logits could not be computed ahead of need."""

    def warn(self, text: str) -> None:
        """Emit a warning, each text once."""
        if text not in self._warned:
            self._warned.add(text)
            self.on_event(Note(text=text, warning=True))

    @cached_property
    def _received(self) -> Data:
        """The study's data on the CPU, mapped from their file if they have a file."""
        return datasets.from_worker(self._given, self.setup.space.data)

    @cached_property
    def study_data(self) -> Data:
        """The splits of the study, to which its teachers belong."""
        return self._received.to(self.device)

    def validation_images(self, rows: Tensor, size: int) -> Tensor | None:
        """Decode validation images again from their files in another size; None: there are no files."""
        return datasets.at_size(self._received, self.setup.space.data, rows, size)

    @cached_property
    def data(self) -> Data:
        """The data on which students are trained."""
        return datasets.with_validation(self.study_data) if self.setup.with_validation else self.study_data

    @cached_property
    def cache(self) -> LogitCache:
        """Teacher logits on the data on which students are trained."""
        return self._cache_of(self.data)

    @cached_property
    def study_cache(self) -> LogitCache:
        """Teacher logits on the data on which the study's teachers are trained."""
        return self.cache if self.data is self.study_data else self._cache_of(self.study_data)

    def _cache_of(self, data: Data) -> LogitCache:
        return LogitCache(
            Path(self.setup.cache), data=data, view=self.view, say=self.warn, watch=self.watch, on_write=self._on_file
        )

    def teacher(self, name: str) -> Teacher:
        """Return a teacher; it is loaded at its first use."""
        if name not in self.teachers:
            self.teachers[name] = self.load_teacher(name)
        return self.teachers[name]

    def load_teacher(self, name: str, option: str = "") -> Teacher:
        """Load a teacher, with a further option in its URI."""
        setup, data, offline = self.setup, self.study_data, self.setup.offline
        uri = setup.teachers[name]
        if uri.startswith(TRAINED_HERE):
            teacher = load_trained(uri, teacher_path(uri, setup), data=data, offline=offline, name=name)
        else:
            stated = with_option(uri, option) if option else uri
            teacher = load(
                stated,
                data=data,
                offline=offline,
                name=name,
                shown_as=uri,
                study=setup.teachers,
                member=self.teacher,
            )
        teacher.module.to(self.device)
        return teacher

    def student(self, seed: int) -> nn.Module:
        """Return a newly initialised student; raise a ConfigError where its code or weights have changed."""
        facts, spec = self.setup.foreign, self.setup.space.student
        if facts is None:
            return student_network(self.setup.student, self.data, spec, seed=seed).to(self.device)
        model, found, _ = foreign_student(facts.uri, self.data, seed=seed, offline=self.setup.offline)
        if found.fingerprint != facts.fingerprint:
            raise changed(facts)
        return model.to(self.device)

    def recipe(self, spec: RunSpec) -> Recipe:
        """Return the recipe of a run. A student sees the views that its teacher knows."""
        training, name = self.setup.space.training, spec.params.teacher
        plain = name is not None and self.teacher(name).knows_one_view
        view, views = (PLAIN_VIEW, 1) if plain else (self.view, self.setup.views)
        smoothing = 0.0 if name is not None else float(spec.params.method_params.get("label_smoothing", 0.0))
        return Recipe(training, view, views, spec.epochs, spec.seed, rung=spec.rung, label_smoothing=smoothing)

    def supervision(self, spec: RunSpec) -> Supervision | None:
        """Return what the teacher of a run provides; None where the run has no teacher.

        Raise a ConfigError where the file of a user's method is missing here or no longer that of the study.
        """
        if spec.params.teacher is None:
            return None
        check_code(str(spec.params.method), self.setup.own_methods)
        teacher, needed = self.teacher(spec.params.teacher), min(spec.last_epoch, self.setup.views)
        return supervise(
            spec.params,
            logits=lambda number: self.cache.training(teacher, number, later=range(number + 1, needed)),
            labels=self.data.train.labels,
        )

    def fit(
        self,
        spec: RunSpec,
        supervision: Supervision | None,
        *,
        curve: list[EpochRecord],
        checkpoint: Path | None = None,
    ) -> tuple[nn.Module, int]:
        """Train a new student; if memory runs out, train again with each batch in two parts.

        Args:
            curve: is filled with a record per epoch.
            checkpoint: file to resume from and to write to.

        Returns:
            The student, and the number of parts in which a batch passed.

        Raises:
            Stopped: the worker was asked to stop, and the checkpoint is written.
            TrialError: half a batch does not fit either. The message names the number of images that fit.
        """
        batch_size = self.setup.space.training.batch_size
        halves = f"2 x {(batch_size + 1) // 2}"
        for parts in (1, 2):
            try:
                return self._fit(spec, supervision, parts, curve, checkpoint), parts
            except torch.OutOfMemoryError:
                pass
            release()
            if supervision is not None and supervision.method.couples_batch:
                name = spec.params.method
                raise TrialError(
                    f"out of memory with batches of {batch_size}, and the loss of {name} cannot be computed on parts "
                    f"of a batch; lower training.batch_size, or {FEWER_PROCESSES}"
                )
            if parts == 1:
                self.warn(
                    f"batches of {batch_size} do not fit into memory: trained with {halves} images, gradients added "
                    "up; BatchNorm sees half a batch at a time, so such runs differ a little from others"
                )
        fits = images_that_fit(lambda: self.student(0), self.data, self.recipe(spec))
        way = f"--set training.batch_size={fits} would fit" if fits else "not even 2 images fit"
        raise TrialError(
            f"out of memory with batches of {batch_size} and with {halves} images; {way}, or {FEWER_PROCESSES}"
        )

    def _fit(
        self,
        spec: RunSpec,
        supervision: Supervision | None,
        parts: int,
        curve: list[EpochRecord],
        checkpoint: Path | None,
    ) -> nn.Module:
        model, stop = self.student(spec.seed), StopAfterSaving(self.stopping)
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
        return model

    def save_student(self, model: nn.Module, path: Path, *, trained: TrainedRecord | None = None) -> None:
        """Write a student's weights as safetensors, with what is needed to use them in the metadata."""
        stem_stride = self.setup.space.student.stem_stride
        more: dict[str, object] = {"trained": trained.model_dump(mode="json")} if trained else {}
        more |= file_facts(self.setup.foreign) if self.setup.foreign else {}
        save(path, bare(model), architecture=self.setup.student, data=self.data, stem_stride=stem_stride, more=more)

    def user_code(self, params: TrialParams) -> contextlib.AbstractContextManager[None]:
        """Turn errors of the user's method or of a student from elsewhere into the TrialError of a run."""
        foreign = self.setup.foreign is not None or str(params.method).startswith(OWN)
        return errors_as(run_failed) if foreign else contextlib.nullcontext()

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
    share = f"this worker has {100 * context.setup.memory_share:.0f} % of the device's"
    error = StudyError(
        f"out of memory while {describe(task)}: {share}",
        "what is finished is kept: continue with fewer processes on the device (--workers), or a smaller network",
    )
    with _out_of_memory_as(error), context.one_thread():
        result = _PERFORM[type(task)](task, context)
    if isinstance(result, KeptResult):
        context.on_event(run_ended(result))
    return result


Work = Callable[[Task, WorkerContext], Result]
"""What a worker does with a task: `perform`, except in tests."""


def end_of(task: Task, context: WorkerContext, work: Work) -> Done:
    """Do a task; return its end for the executor."""
    try:
        return Done(work(task, context))
    except AutodistillError as error:
        return Done(error=error)
    except Stopped:
        return Done(stopped=True)


def _train(task: TrainTask, context: WorkerContext) -> KeptResult:
    spec, folder, watch = task.spec, context.folder, context.watch
    kept = read_result(folder, task.key)
    if kept is not None and (found := kept.answer(spec)) is not None:  # its worker died before it answered
        return found
    started, computed, before = time.monotonic(), context.cache.computed, dict(watch.seconds)
    curve: list[EpochRecord] = []
    targets: TargetSummary | None = None
    error, determined, micro_batches = "", False, 1
    try:
        with context.user_code(spec.params):
            if kept is not None and (scored := _with_test_score(kept, task, context)) is not None:
                return scored
            supervision, targets = _taught(spec, context)
            model, micro_batches = context.fit(spec, supervision, curve=curve, checkpoint=folder.checkpoint(task.key))
            if spec.last_epoch == context.setup.space.training.epochs:
                context.save_student(model, folder.weights(task.key))
    except (TrialError, CacheError, TeacherError, RuntimeError) as found_error:
        if isinstance(found_error, TeacherError) and spec.params.teacher not in context.teachers:
            raise  # no run can load it
        # A RuntimeError is torch's. It is the failure of one run and is recorded; the study goes on.
        error = str(found_error).partition("\n")[0] or type(found_error).__name__
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
    rung = None
    if kept is not None and spec.begun_epochs and kept.result.last_epoch == spec.begun_epochs:
        # The result of the rung from which a full run continues is replaced by that of the full run.
        rung = RunTimes(wall_s=kept.wall_s, parts_s=kept.parts_s, views_computed=kept.views_computed)
    wall_s = time.monotonic() - started
    parts = {name: took - before.get(name, 0.0) for name, took in watch.seconds.items()}
    parts = {name: took for name, took in parts.items() if took > 0}
    parts["student"] = wall_s - sum(parts.values())
    ended = KeptResult(
        result=record,
        wall_s=wall_s,
        parts_s=parts,
        views_computed=context.cache.computed - computed,
        rung=rung,
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


def _with_test_score(kept: KeptResult, task: TrainTask, context: WorkerContext) -> KeptResult | None:
    """Add the test score to a kept result from its kept weights; None where that is not possible."""
    path = context.folder.weights(task.key)
    if kept.result.state != "complete" or kept.result.epochs != kept.result.last_epoch or not path.exists():
        return None
    model = context.student(task.spec.seed)
    try:
        bare(model).load_state_dict(saved_state(path))
    except (TeacherError, RuntimeError):  # damaged, or of another network: the run is trained again
        return None
    data, precision = context.data, context.setup.space.training.precision
    found = evaluate(model, data.test, data, precision=precision)
    tested = {"test_top1": found.top1, "test_balanced_top1": found.balanced_top1}
    last = kept.result.curve[-1].model_copy(update=tested)
    curve = (*kept.result.curve[:-1], last)
    scored = kept.model_copy(update={"result": kept.result.model_copy(update={"curve": curve})})
    write_result(context.folder, scored)
    return scored.answer(task.spec)


def _taught(spec: RunSpec, context: WorkerContext) -> tuple[Supervision | None, TargetSummary | None]:
    """Return what the run's teacher provides, and where the method puts its temperatures."""
    teacher = spec.params.teacher
    error = TrialError(f"out of memory before the first step, with the logits of {teacher}; {FEWER_PROCESSES}")
    with _out_of_memory_as(error):
        supervision = context.supervision(spec)
        if supervision is None:
            return None, None
        with context.watch.part("targets"):
            return supervision, supervision.summary(context.data.train.labels)


def _train_teacher(task: TrainTeacherTask, context: WorkerContext) -> None:
    setup, data, root = context.setup, context.study_data, Path(context.setup.cache)
    stop = StopAfterSaving(context.stopping)
    if task.uri.startswith(adaptation.SCHEME):
        source, offline = setup.sources[task.uri], setup.offline
        training = adapt_teacher(
            task.uri, root=root, data=data, space=setup.space, source=source, offline=offline, urgent=stop.save
        )
    elif task.uri.startswith(assistants.SCHEME):
        path = teacher_path(task.uri, setup)
        if path.exists():
            return
        name = assistants.assistant_of(task.uri).teacher
        _check(CheckTask(name=name), context)  # before the work, not after it
        training = train_assistant(
            task.uri,
            path=path,
            data=data,
            space=setup.space,
            teacher=context.teacher(name),
            cache=context.study_cache,
            execution=context.execution,
            urgent=stop.save,
        )
    else:
        training = train_teacher(
            task.uri, root=root, data=data, space=setup.space, execution=context.execution, urgent=stop.save
        )
    for progress in training:
        context.on_event(progress)
        stop.check()


def _check(task: CheckTask, context: WorkerContext) -> TeacherRecord | Refusal:
    try:
        teacher = context.teacher(task.name)
        logits = context.cache.validation(teacher).float().to(context.device)
        return check(
            teacher,
            context.data,
            logits,
            reload=lambda option: context.load_teacher(task.name, option),
            hottest=hottest_of(context.setup.space),
            originals=context.validation_images,
        )
    except (CacheError, TeacherError) as error:
        # A file that is read wrongly is no useless file: the user states how to read it.
        if not task.optional or isinstance(error, MisreadError):
            raise
        return Refusal(message=error.message, hint=error.hint)


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


def _measure(
    measure: Callable[[Any, WorkerContext], StudentTimes | TeacherTimes],
    task: MeasureStudentTask | MeasureTeacherTask,
    context: WorkerContext,
) -> StudentTimes | TeacherTimes | None:
    params = task.params if isinstance(task, MeasureStudentTask) else TrialParams()
    try:
        with context.user_code(params):
            return measure(task, context)
    except (TrialError, RuntimeError) as error:  # a run would fail and be recorded; an estimate ends nothing
        first_line = str(error).partition("\n")[0]
        context.warn(f"how long the study takes is not known: {first_line}")
        return None


_PERFORM: dict[type[Task], Callable[..., Result]] = {
    TrainTask: _train,
    TrainTeacherTask: _train_teacher,
    CheckTask: _check,
    ProfileTask: _profile,
    LogitsTask: _logits,
    AgreementTask: _agreement,
    MeasureStudentTask: partial(_measure, measure_student),
    MeasureTeacherTask: partial(_measure, measure_teacher),
}

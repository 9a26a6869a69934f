"""What a worker does: train a run, train a ladder teacher, check and profile teachers, measure an epoch."""

import time
from collections.abc import Generator, Iterator
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from autodistill import data as datasets
from autodistill.data import Data, Kept
from autodistill.data.views import View
from autodistill.errors import CacheError, StudyError, TeacherError, TrialError
from autodistill.ladder import file_uri, train_teacher
from autodistill.logit_cache import LogitCache
from autodistill.models import student_network
from autodistill.queue.messages import (
    AgreementTask,
    CheckTask,
    LadderTask,
    Message,
    ProbeTask,
    ProfileTask,
    Setup,
    Task,
    TeacherProbeTask,
    ViewTask,
)
from autodistill.queue.terms import AT_HOME, Terms, in_words
from autodistill.records import (
    EpochEvent,
    EpochRecord,
    Event,
    Note,
    RunEnded,
    RunRecord,
    RunRequest,
    TargetSummary,
    TrainedRecord,
)
from autodistill.stopwatch import Stopwatch
from autodistill.store import NO_DEPOT, RunFolder, write_result
from autodistill.teachers import Teacher, check, load, save
from autodistill.training import Execution, Recipe, Supervision, supervise, train
from autodistill.training.probing import images_that_fit
from autodistill.workers.memory import FEWER_PROCESSES, out_of_memory_as, within_memory
from autodistill.workers.probing import measured
from autodistill.workers.profiling import compared, computed_ahead, profiled


class Workplace:
    """A worker's copy of the data, given or loaded when they are needed, its loaded teachers, and the logit cache."""

    def __init__(self, setup: Setup, *, data: Data | Kept | None = None) -> None:
        self.setup = setup
        self._given = data
        if setup.device == "cpu":
            # Two threads in one process lose up to half of both cores to barrier stalls on shared machines; and what
            # is kept (teachers, logits) must not depend on who computed it: threads change the last bits.
            torch.set_num_threads(1)
        elif setup.memory_share < 1:
            # A process that wants more runs out of its own share, and takes no memory from the others' runs.
            torch.cuda.set_per_process_memory_fraction(setup.memory_share, self.device.index)
        self.folder = RunFolder(Path(setup.runs))
        self.terms: Terms = AT_HOME
        self.depot = NO_DEPOT
        spec = setup.space.data
        self.view = View(spec.view_seed, spec.crop, spec.flip)
        self.watch = Stopwatch()
        self._notes: list[str] = []
        self._noted: set[str] = set()
        self.execution = Execution(setup.mode, self._note)
        self._teachers: dict[str, Teacher] = {}
        self.hopeless: set[str] = set()
        """Teachers whose logits could not be computed ahead of need."""

    def do(self, task: Task) -> Iterator[Message]:
        """Do one task; the last message is its answer.

        Raises:
            StudyError: a task that is no run does not fit into memory.
        """
        short = StudyError(
            f"out of memory while {in_words(task)}: this worker has {self.setup.memory_share:.0%} of the device's",
            "what is finished is kept: go on with fewer processes on the device (--workers), or a smaller network",
        )
        with out_of_memory_as(short):
            yield from self._done(task)

    def _done(self, task: Task) -> Iterator[Message]:
        if isinstance(task, RunRequest):
            yield from self._train(task)
        elif isinstance(task, LadderTask):
            yield from self._ladder(task.uri)
        elif isinstance(task, CheckTask):
            teacher = self._awaited(task)
            yield check(teacher, self.data, self.cache.validation(teacher).float().to(self.device))
        elif isinstance(task, ProfileTask):
            yield profiled(self, task.name, self._awaited(task))
        elif isinstance(task, ViewTask):
            yield computed_ahead(self, task)
        elif isinstance(task, AgreementTask):
            yield from compared(self, task.names)
        else:
            yield from self._probe(task)
        while self._notes:
            yield Note(text=self._notes.pop(), warning=True)

    @property
    def device(self) -> torch.device:
        return torch.device(self.setup.device)

    def _note(self, text: str) -> None:
        """Have it said once, after the task."""
        if text not in self._noted:
            self._noted.add(text)
            self._notes.append(text)

    @cached_property
    def study_data(self) -> Data:
        """The splits of the study, which its teachers belong to."""
        return datasets.received(self._given, self.setup.space.data).to(self.device)

    @cached_property
    def data(self) -> Data:
        """What students are trained on."""
        return datasets.with_validation(self.study_data) if self.setup.with_validation else self.study_data

    @cached_property
    def cache(self) -> LogitCache:
        root = Path(self.setup.cache)
        return LogitCache(root, data=self.data, view=self.view, say=self._note, watch=self.watch, depot=self.depot)

    def teacher(self, name: str) -> Teacher:
        """A teacher by name, loaded at its first use."""
        if name not in self._teachers:
            uri = self.setup.teachers[name]
            path = file_uri(uri, root=Path(self.setup.cache), data=self.study_data, space=self.setup.space)
            loaded = load(path, data=self.study_data, offline=self.setup.offline, name=name, shown_as=uri)
            loaded.module.to(self.device)
            self._teachers[name] = loaded
        return self._teachers[name]

    def student(self, seed: int) -> nn.Module:
        return student_network(self.setup.student, self.data, self.setup.space.student, seed=seed).to(self.device)

    def supervision(self, request: RunRequest) -> Supervision | None:
        """What the run's teacher gives; None where it has none."""
        params = request.params
        if params.teacher is None:
            return None
        teacher, needed = self.teacher(params.teacher), min(request.last_epoch, self.setup.views)
        return supervise(
            params,
            logits=lambda number: self.cache.training(teacher, number, later=range(number + 1, needed)),
            labels=self.data.train.labels,
            loss=self.setup.space.search.loss,
        )

    def _train(self, request: RunRequest) -> Iterator[Event]:
        started, computed, before = time.monotonic(), self.cache.computed, dict(self.watch.seconds)
        curve: list[EpochRecord] = []
        targets: TargetSummary | None = None
        error, micro_batches = "", 1
        try:
            supervision, targets = self._taught(request)
            epochs = self.fitted(request, supervision, checkpoint=self.folder.checkpoint(request.run), curve=curve)
            model, micro_batches = yield from epochs
            if request.last_epoch == self.setup.space.training.epochs:
                self.terms.hold()
                self.keep(model, self.folder.weights(request.run))
        except (TrialError, CacheError, TeacherError, RuntimeError) as found:
            if isinstance(found, TeacherError) and request.params.teacher not in self._teachers:
                raise  # it cannot be loaded, by this run or any other
            # RuntimeError is torch's: one run's failure, recorded; the study goes on.
            error = next(iter(str(found).splitlines()), type(found).__name__)
        record = RunRecord(
            **request.kept(),
            state="failed" if error else "complete",
            error=error,
            curve=tuple(curve),
            targets=targets,
            micro_batches=micro_batches,
        )
        wall_s = time.monotonic() - started
        parts = {name: took - before.get(name, 0.0) for name, took in self.watch.seconds.items()}
        parts = {name: took for name, took in parts.items() if took > 0}
        parts["student"] = wall_s - sum(parts.values())
        ended = RunEnded(record=record, wall_s=wall_s, views_computed=self.cache.computed - computed, parts_s=parts)
        write_result(self.folder, ended, hold=self.terms.hold)
        self._clear(request, record)
        yield ended

    def _taught(self, request: RunRequest) -> tuple[Supervision | None, TargetSummary | None]:
        """What the run's teacher gives, and where the rule puts its temperatures."""
        short = f"out of memory before the first step, with the logits of {request.params.teacher}; {FEWER_PROCESSES}"
        with out_of_memory_as(TrialError(short)):
            supervision = self.supervision(request)
            if supervision is None:
                return None, None
            with self.watch.part("targets"):
                return supervision, supervision.summary(self.data.train.labels)

    def _clear(self, request: RunRequest, record: RunRecord) -> None:
        """Remove the checkpoints that nobody goes on from."""
        over = [request.begun_by] if request.begun_by else []
        if request.until is None or record.state == "failed":
            over.append(request.run)
        for run in over:
            self.folder.checkpoint(run).unlink(missing_ok=True)

    def fitted(
        self,
        request: RunRequest,
        supervision: Supervision | None,
        *,
        curve: list[EpochRecord],
        checkpoint: Path | None = None,
    ) -> Generator[EpochEvent, None, tuple[nn.Module, int]]:
        """Train a new student, in halves of a batch where a whole one does not fit into memory; fills `curve`.

        Returns:
            The student, and the parts that a batch passed in.
        """
        model: nn.Module

        def attempt(parts: int) -> Generator[EpochEvent, None, None]:
            nonlocal model
            model = self.student(request.seed)
            curve.clear()
            for event in self.epochs(request, model, supervision, checkpoint=checkpoint, micro_batches=parts):
                curve.append(event.record)
                if event.record.epoch > request.begun_epochs:
                    yield event

        parts = yield from within_memory(
            attempt,
            batch_size=self.setup.space.training.batch_size,
            images_that_fit=lambda: images_that_fit(lambda: self.student(0), self.data, self._recipe(request)),
            say=self._note,
        )
        return model, parts

    def _recipe(self, request: RunRequest) -> Recipe:
        spec, rung = self.setup.space.training, request.until or request.begun_epochs or None
        return Recipe(spec, self.view, self.setup.views, request.epochs, request.seed, rung=rung)

    def epochs(
        self,
        request: RunRequest,
        model: nn.Module,
        supervision: Supervision | None,
        *,
        checkpoint: Path | None = None,
        micro_batches: int = 1,
    ) -> Iterator[EpochEvent]:
        """Train a student in place, an event an epoch."""
        recipe = self._recipe(request)._replace(micro_batches=micro_batches)
        begun = time.monotonic()
        for record in train(
            model,
            self.data,
            recipe,
            supervision=supervision,
            evaluate_on=request.evaluate_on,
            checkpoint=checkpoint,
            begun=self.folder.checkpoint(request.begun_by) if request.begun_by else None,
            until=request.until,
            watch=self.watch,
            execution=self.execution,
            urgent=self.terms.urgent,
        ):
            now = time.monotonic()
            yield EpochEvent(run=request.run, epochs=request.last_epoch, record=record, wall_s=now - begun)
            begun = now

    def keep(self, model: nn.Module, path: Path, *, trained: TrainedRecord | None = None) -> None:
        """Write a student's weights as safetensors, with what is needed to use them in the metadata."""
        stem_stride = self.setup.space.student.stem_stride
        more = {"trained": trained.model_dump(mode="json")} if trained else {}
        save(path, model, architecture=self.setup.student, data=self.data, stem_stride=stem_stride, more=more)

    def _ladder(self, uri: str) -> Iterator[Event]:
        root, space = Path(self.setup.cache), self.setup.space
        yield from train_teacher(uri, root=root, data=self.study_data, space=space, execution=self.execution)

    def _awaited(self, task: CheckTask | ProfileTask) -> Teacher:
        """A teacher once it is trained: whoever comes second waits, and finds it."""
        for _ in self._ladder(self.setup.teachers[task.name]) if task.untrained else ():
            pass
        return self.teacher(task.name)

    def _probe(self, task: ProbeTask | TeacherProbeTask) -> Iterator[Message]:
        try:
            yield measured(self, task)
        except (TrialError, RuntimeError) as error:
            # Out of memory, say: where a run would fail and be recorded, what is told beforehand ends nothing.
            self._notes.append(f"how long it will take is not known: {next(iter(str(error).splitlines()), error)}")

"""A worker's place that trains nothing: scores are computed, epochs are slept, checkpoints and results are real."""

import time
from collections.abc import Iterator
from pathlib import Path

from autodistill.queue.messages import CheckTask, Message, Setup, Task
from autodistill.queue.terms import AT_HOME, Terms
from autodistill.records import (
    CostRecord,
    EpochEvent,
    EpochRecord,
    RunEnded,
    RunRecord,
    RunRequest,
    TeacherRecord,
    TrialParams,
)
from autodistill.store import NO_DEPOT, RunFolder, digest, seed_from, write_result, write_text


def request(run: str, *, epochs: int = 3) -> RunRequest:
    return RunRequest(run=run, params=TrialParams(), seed=1, epochs=epochs)


class Simulated:
    """Does a study's tasks in `epoch_s` an epoch."""

    def __init__(self, setup: Setup, *, epoch_s: float = 0.0) -> None:
        self.setup, self.terms, self.epoch_s = setup, AT_HOME, epoch_s
        self.folder, self.depot = RunFolder(Path(setup.runs)), NO_DEPOT
        self.trained: list[tuple[str, int]] = []

    terms: Terms

    def do(self, task: Task) -> Iterator[Message]:
        if isinstance(task, CheckTask):
            yield checked(task.name, self.setup.teachers[task.name])
        elif isinstance(task, RunRequest):
            yield from self._run(task)

    def _run(self, request: RunRequest) -> Iterator[Message]:
        checkpoint = self.folder.checkpoint(request.run)
        begun = self.folder.checkpoint(request.begun_by) if request.begun_by else checkpoint
        done = max(int(it.read_text()) if it.exists() else 0 for it in (checkpoint, begun))
        curve = [epoch_of(request, number) for number in range(1, done + 1)]
        for number in range(done + 1, request.last_epoch + 1):
            time.sleep(self.epoch_s)
            self.trained.append((request.run, number))
            curve.append(epoch_of(request, number))
            if number < request.epochs or request.until:
                write_text(checkpoint, str(number))
            yield EpochEvent(run=request.run, epochs=request.last_epoch, record=curve[-1], wall_s=self.epoch_s)
        ended = RunEnded(record=record_of(request, tuple(curve)), wall_s=1.0)
        write_result(self.folder, ended, hold=self.terms.hold)
        if request.until is None:
            checkpoint.unlink(missing_ok=True)
            begun.unlink(missing_ok=True)
        yield ended


def checked(name: str, uri: str) -> TeacherRecord:
    cost = CostRecord(params=len(name), macs=len(name), size_bytes=4)
    return TeacherRecord(
        name=name,
        uri=uri,
        architecture="resnet8",
        fingerprint=digest(name),
        cost=cost,
        normalisation="data",
        val_top1=0.9 + (seed_from(len(name)) % 100) / 2000,
        val_nll=0.3,
        val_ece=0.02,
    )


def epoch_of(request: RunRequest, number: int) -> EpochRecord:
    """The accuracy of an epoch: it grows, the longer schedule ends higher, parameters and seeds matter a little."""
    luck = int(digest(request.params.model_dump(), request.seed), 16) % 1000 / 1000
    last = number == request.epochs
    top1 = (0.5 + 0.2 * luck + 0.02 * min(request.epochs, 9)) * number / request.epochs
    tested = {"test_top1": top1} if last and "test" in request.evaluate_on else {}
    return EpochRecord(epoch=number, train_loss=1.0, hard_loss=1.0, val_top1=top1, val_nll=1.0, **tested)


def record_of(request: RunRequest, curve: tuple[EpochRecord, ...]) -> RunRecord:
    return RunRecord(**request.kept(), state="complete", curve=curve)

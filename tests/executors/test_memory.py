"""Memory of workers: shares of a GPU, runs that do not fit, freed memory that is kept."""

import ctypes
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from executor_parts import Here, of, run
from torch import Tensor, nn

from autodistill.config import DataSpec, Space, TrainingSpec
from autodistill.data import Data
from autodistill.errors import StudyError, TrialError
from autodistill.executors import TrainTeacherTask, WorkerContext, local
from autodistill.executors.local import keep_freed_memory
from autodistill.executors.worker import CONTEXT_BYTES, USED, memory_share
from autodistill.methods import METHODS
from autodistill.models import build
from autodistill.records import Note, TrialParams
from autodistill.teachers import Teacher
from autodistill.training import supervise

slow = pytest.mark.slow
BATCH = 40
SPACE = Space(
    data=DataSpec(train=80, validation=100, test=100),
    training=TrainingSpec(epochs=6, rung_epochs=2, batch_size=BATCH),
)


class Limited(nn.Module):
    """A student that has memory for so many images while it trains, after some steps that have enough."""

    def __init__(self, most: int, steps: int) -> None:
        super().__init__()
        self.inner = build("resnet8:0.25", num_classes=10, in_channels=1, image_size=8, seed=0)
        self.most, self.steps = most, steps

    def forward(self, images: Tensor) -> Tensor:
        self.steps -= self.training
        if self.training and self.steps < 0 and len(images) > self.most:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {len(images)} images")
        found: Tensor = self.inner(images)
        return found


class Small(WorkerContext):
    """A worker whose students have memory for `most` images, and whose teachers and ladder do not fit at all."""

    most, steps = BATCH, 0

    def student(self, seed: int) -> nn.Module:
        return Limited(self.most, self.steps)

    def teacher(self, name: str) -> Teacher:
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture
def worker(tmp_path: Path) -> Here:
    return Here(tmp_path, kind=Small, space=SPACE)


@slow
def test_a_run_that_fits_says_nothing(worker):
    found = worker.do(run("r", epochs=2)).result
    assert (found.state, found.micro_batches) == ("complete", 1)
    assert not of(Note, worker.events)


@slow
@pytest.mark.parametrize("steps", [0, 3])
def test_a_run_that_does_not_fit_trains_in_halves_and_says_so_once(worker, steps):
    """Also where memory runs out in the second epoch: the run starts again."""
    worker.context.most, worker.context.steps = BATCH // 2, steps
    found = worker.do(run("r", epochs=2)).result
    assert (found.state, found.micro_batches) == ("complete", 2)
    assert [it.epoch for it in found.curve] == [1, 2]
    (note,) = of(Note, worker.events)
    assert "batches of 40 do not fit into memory: trained with 2 x 20 images" in note.text
    assert "BatchNorm" in note.text
    again = worker.do(run("again", epochs=2)).result
    assert again.curve == found.curve
    assert not of(Note, worker.events), "said twice"


@slow
@pytest.mark.parametrize(
    ("most", "way"),
    [(12, "--set training.batch_size=10 would fit"), (2, "=2 would fit"), (1, "not even 2 images fit")],
)
def test_a_run_that_fits_in_no_half_fails_with_the_number_that_would(worker, most, way):
    worker.context.most = most
    found = worker.do(run("r", epochs=2)).result
    assert found.state == "failed"
    assert "out of memory with batches of 40 and with 2 x 20 images" in found.error
    assert way in found.error
    assert "--workers" in found.error
    worker.context.most = BATCH
    assert worker.do(run("next", epochs=1)).result.state == "complete"


@slow
def test_a_run_whose_teacher_does_not_fit_fails_and_says_so(worker):
    found = worker.do(run("r", teacher="wide", epochs=2)).result
    assert found.state == "failed"
    assert "out of memory before the first step, with the logits of wide" in found.error
    assert "--workers" in found.error


@slow
@pytest.mark.parametrize("method", ["dist", "dkd"])
def test_a_loss_that_couples_the_batch_is_not_trained_in_halves(worker, method):
    worker.context.most = BATCH // 2
    task, curve = run("r", epochs=1), []
    params = TrialParams(teacher="t", method=method, soft_weight=None)
    logits = torch.zeros(80, 10).scatter_(1, worker.context.data.train.labels[:, None], 5.0)
    given = supervise(params, logits=lambda _: logits, labels=worker.context.data.train.labels)
    spec = task.spec.model_copy(update={"params": params.model_copy(update={"teacher": None})})
    if not METHODS[method].couples_batch:
        assert worker.context.fit(spec, given, curve=curve)[1] == 2
        return
    words = r"out of memory with batches of 40, and the loss of dist cannot be computed on parts of a batch; lower trai"
    with pytest.raises(TrialError, match=words) as caught:
        worker.context.fit(spec, given, curve=curve)
    assert "--workers" in caught.value.message
    assert not of(Note, worker.events)
    assert not curve


class Full(WorkerContext):
    """A worker that has no memory for the data."""

    @property
    def study_data(self) -> Data:  # type: ignore[override]
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_task_that_is_no_run_and_does_not_fit_says_so_and_names_the_way_out(tmp_path):
    words = "out of memory while training the teacher ladder:resnet8: this worker has 25 % of the device's"
    with pytest.raises(StudyError, match=words) as caught:
        Here(tmp_path, kind=Full, memory_share=0.25).do(TrainTeacherTask(uri="ladder:resnet8"))
    assert "--workers" in caught.value.hint


def test_processes_share_what_is_free_on_a_gpu():
    total, free = 80 * 2**30, 60 * 2**30
    assert memory_share(free, total, workers=1) == 1.0
    shares = memory_share(free, total, workers=4) * total
    assert shares == pytest.approx(USED * free / 4 - CONTEXT_BYTES)
    assert 4 * (shares + CONTEXT_BYTES) <= free
    assert memory_share(CONTEXT_BYTES, total, workers=2) == 0.0


def test_a_system_without_glibc_keeps_nothing(monkeypatch):
    monkeypatch.setattr(local, "os", SimpleNamespace(name="nt"))
    assert not keep_freed_memory()


@slow
@pytest.mark.skipif(os.name == "nt" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_kept():
    """In a process of its own: blocks that come and go fault in their pages once, not every time."""
    code = """
        import resource
        from autodistill.executors.local import keep_freed_memory

        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(20):
                bytearray(2**25)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        given_back = faults()
        assert keep_freed_memory()
        bytearray(2**25)
        print(faults(), given_back)
        """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    found = subprocess.run(command, capture_output=True, text=True)
    kept, given_back = map(int, found.stdout.split()) if found.stdout else pytest.fail(found.stderr)
    assert kept < given_back / 100

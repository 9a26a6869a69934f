"""A run that does not fit into memory: once more in halves, on record; after that a number that would fit."""

import ctypes
import subprocess
import sys
import textwrap
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autodistill.config import Space
from autodistill.config.models import DataSpec, TrainingSpec
from autodistill.errors import StudyError, TrialError
from autodistill.models import build
from autodistill.records import EpochEvent, EpochRecord, Note, RunEnded, RunRequest, TrialParams
from autodistill.workers import LadderTask, Setup, Workplace, memory
from autodistill.workers.memory import within_memory

pytestmark = pytest.mark.slow

BATCH = 40


class Limited(nn.Module):
    """A student that has memory for so many images while it trains."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.inner = build("resnet8:0.25", num_classes=10, in_channels=1, image_size=8, seed=0)
        self.most = most

    def forward(self, images: Tensor) -> Tensor:
        if self.training and len(images) > self.most:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {len(images)} images")
        found: Tensor = self.inner(images)
        return found


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    space = Space(
        data=DataSpec(train=80, validation=100, test=100),
        training=TrainingSpec(epochs=6, short_epochs=2, batch_size=BATCH),
    )
    return Workplace(
        Setup(
            space=space,
            student="resnet8:0.25",
            teachers={},
            views=6,
            device="cpu",
            runs=str(tmp_path / "runs"),
            cache=str(tmp_path / "cache"),
        )
    )


def ran(place: Workplace, monkeypatch: pytest.MonkeyPatch, most: int) -> tuple[list[object], RunEnded]:
    monkeypatch.setattr(place, "student", lambda seed: Limited(most))
    messages = list(place.do(RunRequest(run="r", params=TrialParams(), seed=0, epochs=2)))
    (ended,) = (it for it in messages if isinstance(it, RunEnded))
    return messages, ended


def test_a_run_that_fits_says_nothing(place, monkeypatch):
    messages, ended = ran(place, monkeypatch, BATCH)
    assert (ended.record.state, ended.record.micro_batches) == ("complete", 1)
    assert not any(isinstance(it, Note) for it in messages)


def test_a_run_that_does_not_fit_trains_in_halves_and_says_so(place, monkeypatch):
    messages, ended = ran(place, monkeypatch, BATCH // 2)
    assert (ended.record.state, ended.record.micro_batches) == ("complete", 2)
    assert [it.epoch for it in ended.record.curve] == [1, 2]
    (note,) = (it.text for it in messages if isinstance(it, Note))
    assert "batches of 40 do not fit into memory: trained with 2 x 20 images" in note
    assert "BatchNorm" in note
    second, again = ran(place, monkeypatch, BATCH // 2)
    assert again.record.curve == ended.record.curve
    assert not any(isinstance(it, Note) for it in second), "said twice"


@pytest.mark.parametrize(
    ("most", "way"),
    [(12, "--set training.batch_size=10 would fit"), (2, "=2 would fit"), (1, "not even 2 images fit")],
)
def test_a_run_that_fits_in_no_half_fails_with_the_number_that_would(place, monkeypatch, most, way):
    _, ended = ran(place, monkeypatch, most)
    assert ended.record.state == "failed"
    assert "out of memory with batches of 40 and with 2 x 20 images" in ended.record.error
    assert way in ended.record.error
    assert "--workers" in ended.record.error
    _, next_one = ran(place, monkeypatch, BATCH)
    assert next_one.record.state == "complete"


def test_a_run_that_runs_out_late_starts_again():
    asked: list[int] = []

    def attempt(parts: int) -> Generator[EpochEvent, None, None]:
        asked.append(parts)
        record = EpochRecord(epoch=1, train_loss=1.0, hard_loss=1.0)
        yield EpochEvent(run="r", epochs=2, record=record, wall_s=1.0)
        if parts == 1:
            raise torch.OutOfMemoryError("late")

    said: list[str] = []
    events = within_memory(attempt, batch_size=8, images_that_fit=lambda: 4, say=said.append)
    assert len(list(events)) == 2
    assert asked == [1, 2]
    assert len(said) == 1


def full(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_task_that_is_no_run_and_does_not_fit_says_so_and_names_the_way_out(place, monkeypatch):
    monkeypatch.setattr(place, "_ladder", full)
    with pytest.raises(
        StudyError, match="out of memory while training the teacher ladder:resnet8: this worker"
    ) as caught:
        list(place.do(LadderTask(uri="ladder:resnet8")))
    assert "--workers" in caught.value.hint


def test_a_run_whose_teacher_does_not_fit_fails_and_says_so(place, monkeypatch):
    monkeypatch.setattr(place, "teacher", lambda name: None)
    monkeypatch.setattr(place, "supervision", full)
    params = TrialParams(teacher="wide", rule="ts", rule_params={"tau": 4.0}, soft_weight=0.5)
    (ended,) = place.do(RunRequest(run="r", params=params, seed=0, epochs=2))
    assert isinstance(ended, RunEnded)
    assert ended.record.state == "failed"
    assert "out of memory before the first step, with the logits of wide" in ended.record.error
    assert "--workers" in ended.record.error


def test_another_error_is_no_want_of_memory():
    def attempt(parts: int) -> Generator[EpochEvent, None, None]:
        raise TrialError(f"the loss became nan ({parts})")
        yield

    with pytest.raises(TrialError, match=r"nan \(1\)"):
        list(within_memory(attempt, batch_size=8, images_that_fit=lambda: 4, say=print))


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_kept():
    """In a process of its own, without torch: blocks that come and go fault in their pages once, not every time."""
    code = f"""
        import resource, sys, types
        from importlib.util import module_from_spec, spec_from_file_location
        sys.modules["torch"] = types.ModuleType("torch")
        spec = spec_from_file_location("memory", {memory.__file__!r})
        memory = module_from_spec(spec)
        spec.loader.exec_module(memory)

        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(20):
                bytearray(2**25)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        given_back = faults()
        assert memory.keep_freed_memory()
        bytearray(2**25)
        print(faults(), given_back)
        """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    found = subprocess.run(command, capture_output=True, text=True)
    kept, given_back = map(int, found.stdout.split()) if found.stdout else pytest.fail(found.stderr)
    assert kept < given_back / 100

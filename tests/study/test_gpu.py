"""How many workers share a GPU, and what a CPU makes of the same code."""

from pathlib import Path

import pytest
import torch
from small_studies import options, serial

from autodistill.errors import ConfigError
from autodistill.executors import TrainTask, WorkerContext
from autodistill.executors.worker import CONTEXT_BYTES
from autodistill.options import search_options
from autodistill.records import Note, RunSpec, TrialParams
from autodistill.study import SearchOptions, gpu, resolve
from autodistill.study.gpu import MOST, Sharing, StepMeasurement, fit_to_device, measure_steps, workers_that_fit
from autodistill.training.probing import Timing

pytestmark = pytest.mark.slow

GB = 2**30


@pytest.mark.parametrize(
    ("free", "peak", "cores", "workers"),
    [
        (140 * GB, 1 * GB, 16, MOST),
        (140 * GB, 1 * GB, 4, 4),
        (140 * GB, 20 * GB, 16, 3),  # 126 GB for 40.7 each
        (8 * GB, 1 * GB, 16, 2),  # 7.2 GB for 2.7 each
        (2 * GB, 8 * GB, 16, 1),
    ],
)
def test_as_many_workers_as_memory_and_cores_allow(free, peak, cores, workers):
    assert workers_that_fit(free, peak=peak, cores=cores) == workers


def test_a_cpu_is_tried_nothing_on_and_is_eager():
    spec = resolve(options())
    assert spec.sharing == Sharing(workers=1, mode="eager", memory_share=1.0)
    assert (spec.setup.mode, spec.setup.memory_share) == ("eager", 1.0)
    assert fit_to_device(spec.space, spec.data, student=spec.student, device="cpu", workers=3).workers == 3


@pytest.fixture
def card(monkeypatch):
    """A GPU of which 8 GB are free; training takes 1 GB."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * GB, 140 * GB))
    monkeypatch.setattr(gpu, "usable_cores", lambda: 16)
    monkeypatch.setattr(gpu, "measure_steps", lambda *_, **__: StepMeasurement(mode="graph", peak_bytes=GB))
    monkeypatch.setattr(type(resolve(options()).data), "to", lambda self, device: self)


def on_cuda(**changes: object) -> SearchOptions:
    asked: SearchOptions = options("training.precision=float32").model_copy(update={"device": "cuda", **changes})
    return asked


def test_a_gpu_gets_as_many_workers_as_fit_unless_their_number_is_named(card):
    found = resolve(on_cuda(fill_gpu=True))
    assert (found.options.workers, found.setup.mode) == (2, "graph")
    assert found.setup.memory_share == pytest.approx((0.45 * 8 * GB - CONTEXT_BYTES) / (140 * GB))
    named = resolve(on_cuda(workers=3))
    assert (named.options.workers, named.setup.mode) == (3, "graph")
    assert named.setup.memory_share < found.setup.memory_share


def test_workers_on_several_gpus_share_but_their_own(card, monkeypatch):
    alone, shared = (resolve(on_cuda(workers=count)).sharing for count in (1, 4))
    assert (alone.memory_share, shared.workers) == (1.0, 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert resolve(on_cuda(workers=4)).sharing == alone
    assert resolve(on_cuda(workers=5)).sharing.workers == 2
    assert resolve(on_cuda(workers=4, device="cuda:1")).sharing == shared


def test_more_named_workers_than_fit_are_refused_with_the_number_that_fit(card):
    with pytest.raises(ConfigError, match=r"--workers 9: 9 on one GPU have 0.* GB each") as caught:
        resolve(on_cuda(workers=9))
    assert "--workers 2 fit" in caught.value.hint


def test_a_gpu_without_memory_for_a_try_gets_one_eager_worker(card, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu, "measure_steps", full)
    assert resolve(on_cuda(fill_gpu=True)).sharing == Sharing()


def test_steps_are_tried_on_a_gpu_once(monkeypatch):
    asked = []

    def timed(*_: object, mode: str) -> Timing:
        asked.append(mode)
        return Timing(0.0, {"eager": 2.0, "graph": 1.0}[mode])

    spec = resolve(options())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 1000 * len(asked))
    monkeypatch.setattr(type(spec.data), "to", lambda self, _: self)
    monkeypatch.setattr(gpu, "measured", timed)
    found = [
        measure_steps(spec.space, spec.data, student=spec.student, device=torch.device("cuda:0")) for _ in range(2)
    ]
    assert found == [StepMeasurement(mode="graph", peak_bytes=2000)] * 2
    assert asked == ["eager", "graph"]


def test_a_worker_keeps_to_its_share(monkeypatch, tmp_path: Path):
    asked = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *share: asked.append(share))
    setup = resolve(options()).setup
    WorkerContext(setup.model_copy(update={"device": "cuda:1", "memory_share": 0.25}))
    WorkerContext(setup.model_copy(update={"device": "cuda", "memory_share": 1.0}))
    WorkerContext(setup)
    assert asked == [(0.25, 1)]


def test_only_a_gpu_without_a_number_of_workers_is_filled(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not search_options(student="resnet8").fill_gpu
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert search_options(student="resnet8", device="cuda").fill_gpu
    assert not search_options(student="resnet8", device="cuda", workers=2).fill_gpu


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_gpu_is_shared_by_what_fits():
    spec = resolve(options(workers="auto", device="cuda"))
    assert 1 <= spec.options.workers <= MOST
    assert 0 < spec.setup.memory_share <= 1
    events = []
    task = TrainTask(spec=RunSpec(run="r", params=TrialParams(), seed=0, epochs=3), key="r")
    with serial(spec) as executor:
        (found,) = executor.run([task], events.append)
    assert found.result.state == "complete"
    assert not any(isinstance(it, Note) for it in events), "the step fell back"

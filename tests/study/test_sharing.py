"""How many workers share a GPU, and what a CPU makes of the same code."""

from pathlib import Path

import pytest
import torch
from small_studies import request

from autodistill.commands import requests, search_request
from autodistill.errors import ConfigError
from autodistill.records import Note, RunEnded, RunRequest, TrialParams
from autodistill.study import Request, prepare, preparing, sharing
from autodistill.study.sharing import (
    CONTEXT_BYTES,
    MOST,
    Sharing,
    Tried,
    fit_to_device,
    memory_share,
    workers_that_fit,
)
from autodistill.workers import Workplace

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


def test_the_shares_leave_room_for_the_contexts_and_for_others():
    share = memory_share(100 * GB, 140 * GB, workers=4)
    assert 4 * (share * 140 * GB + CONTEXT_BYTES) == pytest.approx(90 * GB)
    assert memory_share(100 * GB, 140 * GB, workers=1) == 1.0
    assert memory_share(1 * GB, 140 * GB, workers=8) == 0.0


def test_a_cpu_is_tried_nothing_on_and_is_eager():
    prepared = prepare(request())
    assert prepared.sharing == Sharing(workers=1, mode="eager", memory_share=1.0)
    assert (prepared.setup.mode, prepared.setup.memory_share) == ("eager", 1.0)
    assert fit_to_device(prepared.space, prepared.data, student="none", device="cpu", workers=3).workers == 3


def on_gpu(monkeypatch: pytest.MonkeyPatch, *, free: int) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 140 * GB))
    monkeypatch.setattr(sharing, "usable_cores", lambda: 16)
    monkeypatch.setattr(sharing, "tried", lambda *_, **__: Tried(mode="graph", peak_bytes=GB))
    monkeypatch.setattr(preparing, "with_precision", lambda space, *_, **__: space)
    monkeypatch.setattr(type(prepare(request()).data), "to", lambda self, device: self)


def on_cuda(**changes: object) -> Request:
    asked: Request = request().model_copy(update={"device": "cuda", **changes})
    return asked


def test_a_gpu_gets_as_many_workers_as_fit_unless_their_number_is_named(monkeypatch):
    on_gpu(monkeypatch, free=8 * GB)
    found = prepare(on_cuda(fill_gpu=True))
    assert (found.request.workers, found.setup.mode) == (2, "graph")
    assert found.setup.memory_share == pytest.approx((0.45 * 8 * GB - CONTEXT_BYTES) / (140 * GB))
    named = prepare(on_cuda(workers=3))
    assert (named.request.workers, named.setup.mode) == (3, "graph")
    assert named.setup.memory_share < found.setup.memory_share


def test_workers_on_several_gpus_share_but_their_own(monkeypatch):
    on_gpu(monkeypatch, free=8 * GB)
    alone, shared = (prepare(on_cuda(workers=count)).sharing for count in (1, 4))
    assert (alone.memory_share, shared.workers) == (1.0, 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert prepare(on_cuda(workers=4)).sharing == alone
    assert prepare(on_cuda(workers=5)).sharing.workers == 2
    assert prepare(on_cuda(workers=4, device="cuda:1")).sharing == shared


def test_more_named_workers_than_fit_are_refused_with_the_number_that_fit(monkeypatch):
    on_gpu(monkeypatch, free=8 * GB)
    with pytest.raises(ConfigError, match=r"--workers 9: 9 on one GPU have 0.* GB each") as caught:
        prepare(on_cuda(workers=9))
    assert "--workers 2 fit" in caught.value.hint


def test_a_gpu_without_memory_for_a_try_gets_one_eager_worker(monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    on_gpu(monkeypatch, free=GB)
    monkeypatch.setattr(sharing, "tried", full)
    assert prepare(on_cuda(fill_gpu=True)).sharing == Sharing()


def test_a_worker_keeps_to_its_share(monkeypatch, tmp_path: Path):
    asked = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *share: asked.append(share))
    setup = prepare(request()).setup
    Workplace(setup.model_copy(update={"device": "cuda:1", "memory_share": 0.25}))
    Workplace(setup.model_copy(update={"device": "cuda", "memory_share": 1.0}))
    Workplace(setup)
    assert asked == [(0.25, 1)]


def test_only_a_gpu_without_a_number_of_workers_is_filled(monkeypatch):
    assert not search_request(student="resnet8").fill_gpu
    monkeypatch.setattr(requests.torch.cuda, "is_available", lambda: True)
    assert search_request(student="resnet8", device="cuda").fill_gpu
    assert not search_request(student="resnet8", device="cuda", workers=2).fill_gpu


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_gpu_is_shared_by_what_fits():
    prepared = prepare(request(workers=None, device="cuda"))
    assert 1 <= prepared.request.workers <= MOST
    assert 0 < prepared.setup.memory_share <= 1
    place = Workplace(prepared.setup)
    messages = list(place.do(RunRequest(run="r", params=TrialParams(), seed=0, epochs=3)))
    (ended,) = (it for it in messages if isinstance(it, RunEnded))
    assert ended.record.state == "complete"
    assert not any(isinstance(it, Note) for it in messages), "the step fell back"

"""The number format of a step: which is asked for, which is faster, and that a study keeps what it chose."""

import shutil

import pytest
import torch
from small_studies import Killed, fake, kill_after, options
from torch import nn
from toy_runs import linear, recipe, toy

from autodistill.errors import StoreError
from autodistill.store import cache_root
from autodistill.study import fitting, measurements, resolve
from autodistill.training import probing, train
from autodistill.training.probing import faster_precision
from autodistill.training.step import autocast

CPU = torch.device("cpu")
IMAGES = torch.zeros(4, 1, 8, 8)


class Clock(nn.Module):
    """Moves a clock by hand: by so many seconds for a pass in float32 and in bfloat16."""

    def __init__(self, now: list[float], half_s: float, full_s: float = 0.25) -> None:
        super().__init__()
        self.now, self.half_s, self.full_s = now, half_s, full_s
        self.scale, self.shown = nn.Parameter(torch.ones(())), set[int]()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shown.add(len(images))
        self.now[0] += self.half_s if torch.is_autocast_enabled("cpu") else self.full_s
        return images.flatten(1) * self.scale


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(probing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    return now


@pytest.mark.parametrize(("half_s", "faster"), [(0.125, "bfloat16"), (0.21, "float32"), (0.5, "float32")])
def test_bfloat16_must_be_faster_by_a_quarter(now, half_s, faster):
    threads = torch.get_num_threads()
    assert faster_precision(lambda: Clock(now, half_s), IMAGES) == faster
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("half_s", "rounds"), [(0.5, 2), (0.0625, 2), (0.21875, 3)])
def test_what_is_clear_after_two_rounds_is_not_timed_again(now, half_s, rounds):
    faster_precision(lambda: Clock(now, half_s), IMAGES)
    assert now[0] == rounds * (0.25 + half_s)


@pytest.mark.parametrize(("half_s", "faster"), [(1.0, "bfloat16"), (1.75, "float32")])
def test_of_a_slow_network_the_first_step_counts(now, half_s, faster):
    assert faster_precision(lambda: Clock(now, half_s, full_s=2.0), IMAGES) == faster
    assert now[0] == 2.0 + half_s


@pytest.mark.parametrize(("size", "shown"), [(8, 32), (32, 32), (64, 8), (128, 2), (224, 2)])
def test_fewer_images_are_tried_where_they_are_large(now, size, shown):
    model = Clock(now, 0.1)
    faster_precision(lambda: model, torch.zeros(40, 1, size, size))
    assert model.shown == {shown}


def test_a_processor_without_bfloat16_is_not_timed(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert faster_precision(pytest.fail, IMAGES) == "float32"


@pytest.mark.parametrize(("asked", "dtype"), [("auto", None), ("float32", None), ("bfloat16", torch.bfloat16)])
def test_the_passes_are_computed_as_asked(asked, dtype):
    with autocast(CPU, asked):
        assert torch.is_autocast_enabled("cpu") == (dtype is not None)
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == (dtype or torch.float32)


def test_a_bfloat16_run_ends_near_the_float32_one_and_is_not_it():
    runs = {}
    for asked in ("float32", "bfloat16"):
        runs[asked] = list(train(linear(), toy(), recipe(precision=asked)))
    assert runs["bfloat16"] != runs["float32"]
    assert runs["bfloat16"][-1].train_loss == pytest.approx(runs["float32"][-1].train_loss, rel=0.05)


def test_a_study_keeps_the_format_it_chose_and_says_so(monkeypatch):
    answers = iter(["bfloat16", "float32"])
    monkeypatch.setattr(fitting, "faster_precision", lambda *_: next(answers))
    asked = options("training.precision=auto")
    spec = resolve(asked)
    assert spec.space.training.precision == "bfloat16"
    assert "--set training.precision=bfloat16" in spec.options.command
    with pytest.raises(Killed):
        fake(asked, kill_after(1))
    shutil.rmtree(cache_root())
    assert resolve(asked).space == spec.space, "not chosen again"


def test_a_space_that_names_a_format_is_not_timed(monkeypatch):
    monkeypatch.setattr(fitting, "faster_precision", pytest.fail)
    assert resolve(options()).space.training.precision == "float32"


def test_a_command_times_a_format_once_even_if_nothing_can_be_kept(monkeypatch):
    def refuse(*_: object) -> None:
        raise StoreError("read-only")

    timed = []

    def time(*_: object) -> str:
        timed.append("bfloat16")
        return timed[-1]

    monkeypatch.setattr(fitting, "faster_precision", time)
    monkeypatch.setattr(measurements, "write_text", refuse)
    assert resolve(options("training.precision=auto")).space.training.precision == "bfloat16"
    assert len(timed) == 1

"""A run that stopped goes on from its checkpoint to the same bit; a damaged one starts afresh."""

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from toy_runs import dropping, recipe, same, supervision, toy, watched

from autodistill.data.views import View
from autodistill.errors import StoreError
from autodistill.records import EpochRecord
from autodistill.training import loop as trainer
from autodistill.training import train

Run = Callable[..., Iterator[EpochRecord]]


def resumable(checkpoint: Path, **changes: Any) -> tuple[nn.Module, Run]:
    model, seed = dropping(), changes.pop("seed", 0)
    plan = recipe(epochs=changes.pop("epochs", 4), view=View(3, 1, True), seed=seed)
    taught = supervision(method="isats", **{"target_ratio": 5 / 3, **changes})
    run = functools.partial(train, model, toy(), plan, supervision=taught, checkpoint=checkpoint)
    return model, run


def stopped(checkpoint: Path, after: int, **changes: Any) -> list[EpochRecord]:
    """Train some epochs of a run, saved after each, and drop it."""
    _, run = resumable(checkpoint, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "CHECKPOINT_EVERY_S", 0.0)
        epochs = run()
        curve = list(itertools.islice(epochs, after))
        epochs.close()
    return curve


@pytest.fixture
def whole(tmp_path: Path) -> tuple[nn.Module, list[EpochRecord]]:
    model, run = resumable(tmp_path / "never-written.pt")
    curve = list(run())
    assert not (tmp_path / "never-written.pt").exists(), "saved before five seconds were over"
    return model, curve


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_resumed_run_ends_as_the_unbroken_one_to_the_bit(tmp_path, whole, after):
    checkpoint = tmp_path / "checkpoint.pt"
    assert stopped(checkpoint, after) == whole[1][:after]
    model, run = resumable(checkpoint)
    seen = watched(model)
    assert list(run()) == whole[1]
    assert same(model, whole[0])
    assert len(seen) == 3 * (4 - min(after, 3)), "epochs that the checkpoint held were trained again"


def flip(share: float, whole: bytes) -> bytes:
    """Flip a bit at a share of the length."""
    content = bytearray(whole)
    content[int(len(content) * share)] ^= 1
    return bytes(content)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "short": lambda whole: b"PK",
    "foreign": lambda whole: b"not a checkpoint" * 99,
    **{f"flip {share}": functools.partial(flip, share) for share in (0, 0.3, 0.5, 0.99)},
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_a_fresh_start_with_the_same_end(tmp_path, whole, how):
    checkpoint = tmp_path / "checkpoint.pt"
    stopped(checkpoint, 2)
    checkpoint.write_bytes(DAMAGE[how](checkpoint.read_bytes()))
    model, run = resumable(checkpoint)
    assert list(run()) == whole[1]
    assert same(model, whole[0])


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"epochs": 5}, {"soft_weight": 0.1}, {"target_ratio": 1.0}, {"ramp_epochs": 2.0}]
)
def test_a_checkpoint_of_another_run_is_not_gone_on_with(tmp_path, whole, changes):
    checkpoint = tmp_path / "checkpoint.pt"
    stopped(checkpoint, 2, **changes)
    model, run = resumable(checkpoint)
    assert list(run()) == whole[1]
    assert same(model, whole[0])


def test_a_full_disk_is_no_failure_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("autodistill.training.loop.CHECKPOINT_EVERY_S", 0.0)
    (tmp_path / "a file").touch()
    _, run = resumable(tmp_path / "a file" / "checkpoint.pt")
    with pytest.raises(StoreError, match=r"checkpoint\.pt: cannot be written"):
        list(run())


def test_a_run_in_two_parts_ends_as_the_whole_one_to_the_bit(tmp_path, whole):
    """A trial's full run continues from the checkpoint of its rung, in the same file."""
    checkpoint = tmp_path / "checkpoint.pt"
    first, run = resumable(checkpoint)
    assert list(run(until=2)) == whole[1][:2]
    assert not same(first, whole[0])
    model, run = resumable(checkpoint)
    seen = watched(model)
    assert list(run()) == whole[1]
    assert same(model, whole[0])
    assert len(seen) == 3 * 2


@pytest.mark.parametrize("method", ["isats", "dkd"])
def test_a_run_that_stopped_within_its_ramp_goes_on_with_the_same_ramp(tmp_path, method):
    """The ramp follows the length of the schedule, not the epoch at which the run stops."""

    def distilled(epochs: int = 12) -> tuple[nn.Module, Run]:
        settings = {"isats": {"target_ratio": 2.0, "ramp_epochs": 8.0}, "dkd": {"ramp_epochs": 8.0}}
        taught, model = supervision(method=method, **settings[method]), dropping()
        plan, path = recipe(epochs=epochs, view=View(3, 1, True)), tmp_path / "checkpoint.pt"
        return model, functools.partial(train, model, toy(), plan, supervision=taught, checkpoint=path)

    whole, run = distilled()
    curve = list(run())
    _, run = distilled()
    assert list(run(until=4)) == curve[:4]
    model, run = distilled()
    assert list(run()) == curve
    assert same(model, whole)


def test_the_rung_is_scored_whenever_it_comes():
    plan = recipe(epochs=4, evaluate_every=3)._replace(rung=2)
    curve = list(train(dropping(), toy(), plan))
    assert [record.epoch for record in curve if record.val_top1 is not None] == [2, 3, 4]

"""Processes on stand-by: they become workers, are handed the images, and end with whoever started them."""

import multiprocessing
from pathlib import Path

import pytest
from teacher_files import digits

from autodistill.errors import DataError
from autodistill.records import RunEnded, RunRequest, TrialParams
from autodistill.space import Space
from autodistill.workers import Pool, Setup, StandBy

SPACE = Space.model_validate(
    {"data": {"name": "folder:gone"}, "training": {"epochs": 2, "short_epochs": 1, "batch_size": 50}}
)
RUN = RunRequest(run="one", params=TrialParams(), seed=0, epochs=1)


def setup(home: Path) -> Setup:
    return Setup(
        space=SPACE,
        student="resnet8:0.25",
        teachers={},
        views=1,
        device="cpu",
        runs=str(home / "runs"),
        cache=str(home / "cache"),
    )


def test_a_process_that_stood_by_trains_on_the_images_that_it_is_handed(tmp_path):
    """They lie nowhere: a worker that loaded them by itself would fail."""
    with StandBy(2) as standby:
        waiting = {child.pid for child in multiprocessing.active_children()}
        assert len(waiting) == 2
        with Pool(1, setup(tmp_path), data=digits(), standby=standby) as pool:
            assert pool._workers[0].process.pid in waiting
            (ended,) = (it for it in pool.run([RUN]) if isinstance(it, RunEnded))
        assert ended.record.state == "complete", ended.record.error
        left = {child.pid for child in multiprocessing.active_children()}
        assert len(left) == 1
        assert left < waiting
    assert not multiprocessing.active_children()


def test_images_over_the_limit_are_not_handed_over(tmp_path, monkeypatch):
    monkeypatch.setattr("autodistill.workers.pool.HANDED_OVER_BYTES", 1000)
    with Pool(1, setup(tmp_path), data=digits()) as pool, pytest.raises(DataError, match="gone"):
        list(pool.run([RUN]))

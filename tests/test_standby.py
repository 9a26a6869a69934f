"""Processes on stand-by: they become workers, are handed the images, and end with whoever started them."""

import multiprocessing
import shutil
from pathlib import Path

import pytest
from dataset_files import write_images
from teacher_files import digits

from autodistill.config import Space
from autodistill.data import load as load_data
from autodistill.errors import DataError
from autodistill.records import RunEnded, RunRequest, TrialParams
from autodistill.workers import Pool, Setup, StandBy

pytestmark = pytest.mark.slow

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


def folder_setup(home: Path) -> Setup:
    data = {"name": f"folder:{write_images(home / 'images', ('cat', 'dog'), count=40)}", "crop": 1}
    return setup(home).model_copy(update={"space": Space.model_validate({**SPACE.model_dump(), "data": data})})


def test_a_worker_maps_the_images_of_a_folder_that_is_gone_by_then(tmp_path):
    asked = folder_setup(tmp_path)
    data = load_data(asked.space.data)
    shutil.rmtree(tmp_path / "images")
    with Pool(1, asked, data=data) as pool:
        assert len(pool._data) < data.train.images.nbytes / 10
        (ended,) = (it for it in pool.run([RUN]) if isinstance(it, RunEnded))
    assert ended.record.state == "complete", ended.record.error


def test_images_that_are_neither_kept_nor_there_end_with_their_error(tmp_path):
    asked = folder_setup(tmp_path)
    data = load_data(asked.space.data)
    data.file.unlink()
    with Pool(1, asked, data=data) as pool:
        (ended,) = (it for it in pool.run([RUN]) if isinstance(it, RunEnded))
        assert ended.record.state == "complete", "decoded again"
    shutil.rmtree(tmp_path / "images")
    data.file.unlink()
    with Pool(1, asked, data=data) as pool, pytest.raises(DataError, match="no such folder"):
        list(pool.run([RUN]))


def test_images_that_were_changed_since_the_command_began_are_refused(tmp_path):
    asked = folder_setup(tmp_path)
    data = load_data(asked.space.data)
    data.file.unlink()
    shutil.copy(tmp_path / "images" / "cat" / "0.png", tmp_path / "images" / "dog" / "1.png")
    with Pool(1, asked, data=data) as pool, pytest.raises(DataError, match="were changed since this command"):
        list(pool.run([RUN]))

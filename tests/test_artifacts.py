"""Machines that share no folder: files are left whole or not at all, and a study is the same."""

import sys
from pathlib import Path

import pytest
from simulated import Simulated, epoch_of, request
from small_studies import request as study_request

from autodistill.config import Space
from autodistill.errors import ConfigError, StoreError
from autodistill.queue.messages import Setup
from autodistill.records import EpochEvent, RunEnded
from autodistill.storage.depot import checked_depot, open_depot
from autodistill.store import Depot, RunFolder, read_result
from autodistill.workers import carrying
from autodistill.workers.carrying import Carrier, brought

pytestmark = pytest.mark.slow


@pytest.fixture(params=["folder", "s3"])
def url(request, tmp_path, monkeypatch):
    """A folder, or a bucket of an S3 inside this process."""
    if request.param == "folder":
        yield f"file://{tmp_path}/depot"
        return
    moto, boto3 = pytest.importorskip("moto"), pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws():
        boto3.client("s3").create_bucket(Bucket="kd-files")
        yield "s3://kd-files/team/one"


def machines(url: str, tmp_path: Path) -> tuple[Depot, Depot]:
    first, second = (
        open_depot(url, {"runs": tmp_path / name / "runs", "cache": tmp_path / name / "cache"}) for name in "ab"
    )
    return first, second


def test_a_file_that_was_left_is_fetched_elsewhere_and_kept(url, tmp_path):
    first, second = machines(url, tmp_path)
    here, there = (tmp_path / name / "runs" / "trials" / "0001" / "x.bin" for name in "ab")
    assert not second.fetch(there)
    for content in (b"old", b"new" * 10**5):
        here.parent.mkdir(parents=True, exist_ok=True)
        here.write_bytes(content)
        first.leave(here)
    assert second.fetch(there)
    assert there.read_bytes() == here.read_bytes()
    there.write_bytes(b"mine")
    assert second.fetch(there)
    assert there.read_bytes() == b"mine", "what is here stays"
    assert not second.fetch(tmp_path / "b" / "cache" / "trials" / "0001" / "x.bin"), "of another folder"
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_torn_file_is_as_none(tmp_path):
    first, second = machines(f"file://{tmp_path}/depot", tmp_path)
    path = tmp_path / "a" / "runs" / "x"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"content")
    first.leave(path)
    (left,) = (tmp_path / "depot").iterdir()
    left.write_bytes(left.read_bytes()[:-1])
    assert not second.fetch(tmp_path / "b" / "runs" / "x")
    assert not (tmp_path / "b").exists()


def test_a_depot_that_cannot_be_used_is_said_by_its_address(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"--artifacts file://.*/file/depot: cannot be used"):
        open_depot(f"file://{tmp_path}/file/depot", {})
    for wrong in ("ftp://host/x", "s3://", "s3://UPPER/x", "file://relative"):
        with pytest.raises(ConfigError, match="is no place for files"):
            checked_depot(wrong)
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the library boto3") as found:
        checked_depot("s3://kd-files/x")
    assert "kd-autodistill[s3]" in found.value.hint
    with pytest.raises(ConfigError, match="share a database"):
        study_request(artifacts="file:///depot")


def test_a_bucket_that_is_not_there_is_said(url, tmp_path):
    if not url.startswith("s3"):
        pytest.skip("a folder is made")
    depot = open_depot("s3://nobodys-bucket/x", {"runs": tmp_path})
    with pytest.raises(StoreError, match=r"--artifacts s3://nobodys-bucket/x: cannot be used \(.*NoSuchBucket"):
        depot.leave(_file(tmp_path / "x"))


def _file(path: Path) -> Path:
    path.write_bytes(b"x")
    return path


def setup(place: Path, url: str) -> Setup:
    paths = {"runs": str(place / "runs" / "s"), "cache": str(place / "cache")}
    teachers = {"a": "file:a"}
    return Setup(
        space=Space(), student="x", teachers=teachers, views=1, device="cpu", artifacts=url, identity="i", **paths
    )


def carrier(place: Path, url: str) -> tuple[Carrier, Simulated]:
    there = setup(place, url)
    simulated = Simulated(there)
    return Carrier(simulated, carrying.depot_of(there), Path), simulated


def test_a_run_goes_on_elsewhere_from_its_checkpoint_and_is_found_once_it_has_ended(url, tmp_path):
    run = request("r", epochs=6)
    first, _ = carrier(tmp_path / "a", url)
    for message in first.do(run):
        if isinstance(message, EpochEvent) and message.record.epoch == 4:
            break
    second, there = carrier(tmp_path / "b", url)
    (*_, ended) = second.do(run)
    assert there.trained == [("r", 5), ("r", 6)]
    assert isinstance(ended, RunEnded)
    assert ended.record.curve == tuple(epoch_of(run, number) for number in range(1, 7))
    third, elsewhere = carrier(tmp_path / "c", url)
    assert [it.record for it in third.do(run)] == [ended.record]
    assert elsewhere.trained == []
    folder = RunFolder(tmp_path / "d" / "runs" / "s")
    brought(folder, "r", carrying.depot_of(setup(tmp_path / "d", url)))
    assert read_result(folder, "r").record == ended.record

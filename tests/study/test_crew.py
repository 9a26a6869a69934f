"""A study over a database: the same as one by processes of its own, whoever works for it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_studies import NAME, core, drive, kept, request

from autodistill import commands
from autodistill.config import Space
from autodistill.errors import ConfigError, StoreError
from autodistill.queue.messages import Setup
from autodistill.queue.terms import Pace
from autodistill.records import Note, RunEnded
from autodistill.workers import crew
from autodistill.workers.joining import adapted

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(crew, "PACE", Pace(beat_s=0.3, lease_s=20.0, look_s=0.1, idle_s=0.1))


def test_local_workers_over_a_database_end_in_the_same_study_though_one_is_killed(reference, warm, tmp_path):
    notes, killed = [], []

    def watch(event):
        if isinstance(event, Note):
            notes.append(event.text)
        if isinstance(event, RunEnded) and not killed:
            (process, *_) = (it for it in multiprocessing.active_children() if it.name.startswith("Spawn"))
            os.kill(process.pid, signal.SIGKILL)
            killed.append(process.pid)

    record = drive(request(workers=2, storage=f"sqlite:///{tmp_path}/kd.db"), watch)
    assert core(record) == core(reference.record)
    assert killed
    lost = [it for it in notes if "lost the worker" in it]
    # One that died between claiming a task and its first sign of life is missed when the lease ends.
    assert all("signal 9" in it or "no sign of life" in it for it in lost)
    assert not multiprocessing.active_children()


def test_a_worker_told_to_leave_ends_with_0_and_another_command_goes_on(reference, warm, tmp_path):
    """The command line's own: it waits for the study, works, is told to leave in the middle."""
    url = f"sqlite:///{tmp_path}/kd.db"
    environment = {**os.environ, "AUTODISTILL_STORAGE": url}
    command = [sys.executable, "-W", "ignore", "-m", "autodistill", "worker", "--study", NAME, "--device", "cpu"]
    worker = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    told: list[float] = []

    def watch(event):
        if isinstance(event, RunEnded) and not told:
            told.append(time.monotonic())
            worker.send_signal(signal.SIGUSR1)
            others.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))

    others: list[subprocess.Popen[str]] = []
    record = drive(request(workers=0, storage=url), watch)
    assert core(record) == core(reference.record) == core(kept())
    for process, line in ((worker, f"left study {NAME} after "), (others[0], f"study {NAME} is complete; ")):
        _, said = process.communicate(timeout=20)
        assert process.returncode == 0, said
        assert said.splitlines()[-1].startswith(line)
    assert url not in str(record)


def setup(place: Path) -> Setup:
    runs = str(place / "runs" / "s")
    paths = {"runs": runs, "cache": "theirs"}
    return Setup(space=Space(), student="x", teachers={}, views=1, device="cuda", memory_share=0.25, **paths)


def test_a_worker_uses_its_own_device_and_paths(tmp_path, monkeypatch):
    (tmp_path / "here" / "s").mkdir(parents=True)
    (tmp_path / "here" / "s" / "identity.json").write_text("{}")
    found = adapted(setup(tmp_path), device="cpu", runs=tmp_path / "here")
    assert (found.device, found.runs) == ("cpu", str(tmp_path / "here" / "s"))
    assert found.cache == os.environ["AUTODISTILL_CACHE"]
    assert found.memory_share == 1.0, "the search's share is its own workers'"
    monkeypatch.delenv("AUTODISTILL_CACHE")
    assert adapted(setup(tmp_path), device="cpu", runs=tmp_path / "here").cache == "theirs"
    with pytest.raises(StoreError, match="run folder is not on this machine"):
        adapted(setup(tmp_path), device="cpu", runs=None)


def test_a_worker_needs_a_database():
    with pytest.raises(ConfigError, match="--storage is missing"):
        commands.work(["s"], storage="", device="cpu", runs=None, wait_s=1.0)


def test_gpus_are_dealt_out(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [crew.device_of("cuda", number) for number in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert crew.device_of("cuda:1", 0) == "cuda:1"
    assert crew.device_of("cpu", 1) == "cpu"

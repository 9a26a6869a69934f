"""Workers as tasks of a Ray cluster: what crosses, how each ends, and that a node's going takes nothing along."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from autodistill.cli import app
from autodistill.errors import ConfigError, StoreError, StudyError
from autodistill.queue.wire import to_wire
from autodistill.records import Note
from autodistill.workers import remote
from autodistill.workers.joining import share_of
from autodistill.workers.memory import CONTEXT_BYTES

pytestmark = pytest.mark.slow

SECRET = "postgresql://me:hidden@db/kd"
LEFT = to_wire(Note(text="left study s after 3 tasks"))
GB = 2**30


class FakeRay:
    """Runs nothing; keeps what crossed, answers what it was told."""

    def __init__(self, *answers: str | Exception) -> None:
        self.crossed: list[object] = []
        self.answers = list(answers)
        self.exceptions = SimpleNamespace(RayError=OSError)

    def init(self, **options) -> None:
        self.crossed.append(options)

    def remote(self, **options):
        self.crossed.append(options)

        def of(function):
            self.crossed.append(f"{function.__module__}.{function.__qualname__}")
            return SimpleNamespace(remote=lambda *given: self.crossed.append(given) or self.answers.pop(0))

        return of

    def wait(self, left):
        return left[:1], left[1:]

    def get(self, done):
        if isinstance(done, Exception):
            raise done
        return done


def ends(fake: FakeRay, monkeypatch: pytest.MonkeyPatch, *, workers: int = 2, **options) -> list[str]:
    monkeypatch.setitem(sys.modules, "ray", fake)
    asked = {"gpus": 1, "cpus": 3, "per_gpu": 1, "address": "auto", "cache": Path("/shared"), **options}
    return list(remote.run(SECRET, "s", workers=workers, **asked))


def test_only_names_and_paths_cross_to_ray(monkeypatch):
    fake = FakeRay(LEFT, LEFT)
    assert ends(fake, monkeypatch) == ["left study s after 3 tasks"] * 2
    assert fake.crossed == [
        {"address": "auto", "log_to_driver": False, "ignore_reinit_error": True},
        {"num_gpus": 1.0, "num_cpus": 3, "max_retries": -1},
        "autodistill.workers.remote.work",
        *[(SECRET, "s", "cuda", 1, "/shared")] * 2,
    ]


def test_workers_share_a_gpu_and_a_cluster_of_one_s_own_opens_no_dashboard(monkeypatch):
    fake = FakeRay(LEFT)
    ends(fake, monkeypatch, workers=1, per_gpu=4, address="local")
    assert fake.crossed[0] == {
        "address": "local",
        "log_to_driver": False,
        "ignore_reinit_error": True,
        "include_dashboard": False,
    }
    assert fake.crossed[1] == {"num_gpus": 0.25, "num_cpus": 3, "max_retries": -1}
    assert fake.crossed[3] == (SECRET, "s", "cuda", 4, "/shared")
    for gpus in ("0", "2"):
        arguments = ("--study", "s", "--workers", "1", "--storage", SECRET, "--gpus", gpus, "--per-gpu", "2")
        found = CliRunner().invoke(app, ["launch", "ray", *arguments]).exception
        assert isinstance(found, ConfigError)
        assert f"--per-gpu 2 shares one GPU, --gpus is {gpus}" in found.message


def test_the_others_go_on_when_one_worker_fails_and_all_failing_is_an_error(monkeypatch):
    gone = to_wire(StoreError("/runs/s: the study's run folder is not on this machine", "mount it"))
    crashed = OSError("a long story\nThe worker died: out of memory")
    first = "a worker failed: /runs/s: the study's run folder is not on this machine"
    second = "a worker failed: Ray could not run it (The worker died: out of memory)"
    found = ends(FakeRay(gone, LEFT, crashed), monkeypatch, workers=3)
    assert found == [first, "left study s after 3 tasks", second]
    with pytest.raises(StoreError, match="run folder is not on this machine") as error:
        ends(FakeRay(gone, gone), monkeypatch)
    assert error.value.hint == "mount it"
    with pytest.raises(StudyError, match="out of memory"):
        ends(FakeRay(crashed), monkeypatch, workers=1)


def test_a_worker_s_error_travels_as_text(tmp_path, monkeypatch):
    monkeypatch.setattr("autodistill.workers.joining.leave_on_signals", lambda stop: None)
    monkeypatch.setattr(remote, "serve", lambda url, study, tools: _raise(StudyError(f"no {study}", "start it")))
    assert remote.work("sqlite:///x.db", "s", "cpu", 1, str(tmp_path)) == to_wire(StudyError("no s", "start it"))
    assert os.environ["AUTODISTILL_CACHE"] == str(tmp_path)


def _raise(error: Exception) -> None:
    raise error


def test_who_shares_a_gpu_keeps_to_its_part_of_all_its_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * GB, 80 * GB))
    assert share_of("cuda", 1) == share_of("cpu", 4) == 1.0
    assert 4 * (share_of("cuda:1", 4) * 80 * GB + CONTEXT_BYTES) == pytest.approx(72 * GB), "whoever came first"


@pytest.mark.slow
def test_a_node_that_is_removed_takes_nothing_along():
    """Two nodes on this machine, `launch ray`, a study of the bench."""
    pytest.importorskip("ray")
    script = Path(__file__).parent / "bench" / "faults.py"
    command = [sys.executable, "-W", "ignore", script, "--scenario", "ray-node", "--check"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=400)
    except subprocess.TimeoutExpired:
        pytest.skip("Ray does not start here in time")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "ray-node: wrong: 0" in found.stdout

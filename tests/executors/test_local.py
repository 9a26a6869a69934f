"""Processes on this machine: how they start, agree with this process, and end."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import fake_trainer
import pytest
from executor_parts import SPACE, children, of, run, setup
from fake_trainer import Behaviour, behave
from processes import alive

from autodistill.config import Space
from autodistill.data import load as load_data
from autodistill.executors import LocalExecutor, SerialExecutor
from autodistill.executors.local import device_of
from autodistill.records import Event, RunEnded

pytestmark = pytest.mark.slow


def test_workers_train_on_the_images_that_they_are_sent(tmp_path):
    """The images lie nowhere: a worker that loaded them by itself would fail. The result is that of this process."""
    given = Space.model_validate({**SPACE.model_dump(), "data": {"name": "folder:nowhere", "crop": 1}})
    data, tasks, events = load_data(SPACE.data), [run("one", epochs=1)], list[Event]()
    before = children()
    with LocalExecutor(1, setup(tmp_path / "there", space=given), data=data) as executor:
        executor.ready()
        executor.ready()
        assert len(children() - before) == 1
        (there,) = executor.run(tasks, events.append)
    assert children() == before
    with SerialExecutor(setup(tmp_path / "here", space=given), data=data) as executor:
        (here,) = executor.run(tasks, events.append)
    assert there.result.state == "complete", there.result.error
    assert there.result == here.result
    assert there.computed_on == here.computed_on
    assert len(of(RunEnded, events)) == 2


SIBLING = """
                if os.fork() == 0:
                    time.sleep(30)
                    os._exit(0)
"""
"""A fork of the parent, such as a process of a data loader, keeps the parent's pipes open."""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("more", ["", SIBLING], ids=["alone", "beside a fork of the parent"])
def test_workers_end_with_a_parent_that_was_killed(tmp_path, more):
    """The worker is in the middle of a long epoch, so that no message tells it that nobody listens."""
    asked = setup(tmp_path)
    behave({"long": Behaviour(epoch_s=600)}, cache=tmp_path / "cache")
    script = f"""
        import os, sys, time
        sys.path.insert(0, {str(Path(fake_trainer.__file__).parent)!r})
        import fake_trainer
        from autodistill.executors import LocalExecutor, Setup, TrainTask

        if __name__ == "__main__":
            with LocalExecutor(1, Setup.model_validate_json({asked.model_dump_json()!r}), work=fake_trainer.work) as it:
                it.ready(){more}
                it.run([TrainTask.model_validate_json({run("long").model_dump_json()!r})], print)
    """
    (tmp_path / "parent.py").write_text(textwrap.dedent(script))
    with subprocess.Popen([sys.executable, tmp_path / "parent.py"]) as parent:
        until = time.monotonic() + 60
        while not (found := fake_trainer.begun(cache=tmp_path / "cache")) and time.monotonic() < until:
            assert parent.poll() is None
            time.sleep(0.02)
        ((_, worker),) = found
        assert alive(worker)
        parent.kill()
        parent.wait()
    until = time.monotonic() + 20
    while alive(worker) and time.monotonic() < until:
        time.sleep(0.02)
    left = alive(worker)
    if left:
        os.kill(worker, signal.SIGKILL)
    assert not left


def test_several_gpus_are_dealt_out_in_turns(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [device_of("cuda", number) for number in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert device_of("cuda:1", 0) == "cuda:1", "named"
    assert device_of("cpu", 1) == "cpu"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert device_of("cuda", 1) == "cuda"


def test_a_worker_that_dies_before_it_is_ready_is_replaced_when_it_gets_a_task(tmp_path):
    before = children()
    with LocalExecutor(1, setup(tmp_path), work=fake_trainer.work) as executor:
        (child,) = children() - before
        os.kill(child, signal.SIGKILL)
        executor.ready()
        assert executor.run([run("b", epochs=1)], lambda _: None)[0].result.state == "complete"

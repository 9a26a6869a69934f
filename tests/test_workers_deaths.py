"""What becomes of a worker's task when it dies, and of workers when their parent does."""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import alive
from worker_parts import SPACE, children, ended, request, setup

from autodistill.errors import StudyError
from autodistill.records import EpochEvent, LogitsComputed
from autodistill.store import RunFolder, read_result
from autodistill.workers import CheckTask, LadderTask, Message, Pool, ViewTask, Workplace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deaths")


@pytest.fixture(scope="module")
def pool(home: Path) -> Iterator[Pool]:
    with Pool(2, setup(home)) as pool:
        yield pool


@contextlib.contextmanager
def killing(wanted: int) -> Iterator[list[int]]:
    """Kill every new child as soon as it is there, until `wanted` are dead."""
    killed: list[int] = []
    spared = set(children())

    def hunt() -> None:
        while len(killed) < wanted:
            for pid in set(children()) - spared - set(killed):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.01)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    yield killed
    hunter.join()


def test_a_worker_killed_in_the_middle_of_a_run_is_replaced(home, pool):
    place = Workplace(setup(home))
    expected = ended(list(place.do(request("k", epochs=6)))).record
    place.folder.result("k").unlink()
    messages: list[Message] = []
    for message in pool.run([request("k", epochs=6)]):
        messages.append(message)
        if len(messages) == 3:
            (busy,) = (worker.process.pid for worker in pool._workers if worker.task is not None)
            os.kill(busy, signal.SIGKILL)
    assert busy not in children()
    assert len(children()) == 2
    assert ended(messages).record == expected
    assert read_result(place.folder, "k").record == expected
    assert len([it for it in messages if isinstance(it, EpochEvent)]) >= 6 + 3


def test_a_message_cut_off_by_death_is_a_death(pool, monkeypatch):
    """Above 16 kB a message takes two writes; a worker killed between them leaves half a message."""
    ours, theirs = multiprocessing.Pipe()
    os.write(theirs.fileno(), struct.pack("!i", 20_000) + b"half")
    theirs.close()
    worker = dataclasses.replace(pool._workers[0], pipe=ours)
    replaced = []
    monkeypatch.setattr(Pool, "_replace", lambda self, worker: replaced.append(worker) or iter(()))
    assert list(pool._receive(worker)) == []
    assert replaced == [worker]
    ours.close()


def test_a_run_that_always_kills_its_worker_is_given_up(tmp_path):
    with killing(3) as killed, Pool(1, setup(tmp_path)) as pool:
        found = ended(list(pool.run([request("l")])))
    assert found.record.state == "failed"
    assert "the worker process died 3 times (last: signal 9, SIGKILL: killed from outside)" in found.record.error
    assert (found.record.run, found.record.seed, found.record.epochs) == ("l", 3, 4)
    assert len(set(killed)) == 3
    assert read_result(RunFolder(tmp_path / "runs"), "l").record == found.record, "it would be tried again"


def test_a_task_that_is_no_run_and_always_kills_its_worker_ends_the_study(tmp_path):
    with (
        killing(3),
        Pool(1, setup(tmp_path)) as pool,
        pytest.raises(StudyError, match=r"died 3 times .* while checking the teacher weak"),
    ):
        list(pool.run([CheckTask(name="weak")]))


def test_views_ahead_are_computed_once_and_nobody_waits_for_them_where_a_worker_dies_or_a_teacher_fails(tmp_path):
    place = Workplace(setup(tmp_path))
    list(place.do(LadderTask(uri="ladder:resnet8:0.25")))
    answers = [it for view in (0, 1, 1, 2) for it in place.do(ViewTask(name="weak", view=view))]
    assert [it.views_computed for it in answers if isinstance(it, LogitsComputed)] == [1, 1, 0, 1]
    assert list(place.do(ViewTask(name="gone", view=3))) == [LogitsComputed(views_computed=0)]
    assert place.hopeless == {"gone"}
    found = ended(list(place.do(request("after", teacher="weak"))))
    assert found.views_computed == 1, "the fourth"
    with killing(1) as killed, Pool(1, setup(tmp_path)) as pool:
        (note,) = pool.run([ViewTask(name="weak", view=view) for view in (3, 4, 5)])
        assert "SIGKILL: killed from outside) while computing logits of the teacher weak" in note.text, (
            "not tried again"
        )
    assert len(killed) == 1


def test_leaving_the_pool_ends_its_processes(tmp_path):
    before = set(children())
    with Pool(2, setup(tmp_path)):
        assert len(set(children()) - before) == 2
    assert set(children()) == before


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_a_worker_has_one_thread_ends_with_its_pipe_and_with_a_parent_that_was_killed(tmp_path):
    """The worker is in the middle of an epoch of minutes, so that no message tells it that nobody listens."""
    slow = {
        "data": SPACE.data.model_copy(update={"train": 1000}),
        "training": SPACE.training.model_copy(update={"batch_size": 1}),
    }
    told = setup(tmp_path, space=SPACE.model_copy(update=slow)).model_dump_json()
    script = f"""
        import multiprocessing, pickle, torch
        from autodistill.workers import LadderTask, Pool, Setup
        from autodistill.workers.pool import work

        if __name__ == "__main__":
            setup = Setup.model_validate_json({told!r})
            torch.set_num_threads(3)
            ours, theirs = multiprocessing.Pipe()
            ours.send_bytes(pickle.dumps(None))
            ours.close()
            work(theirs, setup)
            print(torch.get_num_threads(), flush=True)
            with Pool(1, setup) as pool:
                print(*(child.pid for child in multiprocessing.active_children()), flush=True)
                list(pool.run([LadderTask(uri="ladder:resnet110:2")]))
    """
    (tmp_path / "parent.py").write_text(textwrap.dedent(script))
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent, parent.stdout:
        assert parent.stdout.readline() == "1\n", "threads of a worker"
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        while not any(tmp_path.glob("cache/ladder/*/*.lock")):
            time.sleep(0.02)
        assert workers
        assert all(map(alive, workers))
        parent.kill()
        parent.wait()
        until = time.monotonic() + 20
        while any(map(alive, workers)) and time.monotonic() < until:
            time.sleep(0.02)
    left = [pid for pid in workers if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left

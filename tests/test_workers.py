"""Workers: what they answer, what becomes of their failures and deaths, and that they die with their parent."""

import contextlib
import dataclasses
import multiprocessing
import os
import shutil
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

from autodistill.errors import StoreError, StudyError, TeacherError, TrialError
from autodistill.records import (
    EpochEvent,
    LogitsComputed,
    Note,
    RunEnded,
    RunRequest,
    TaskProgress,
    TeacherRecord,
    TrialParams,
)
from autodistill.space import Space
from autodistill.store import RunFolder, read_result
from autodistill.workers import (
    CheckTask,
    LadderTask,
    Message,
    Pool,
    Probe,
    ProbeTask,
    Setup,
    TeacherProbe,
    TeacherProbeTask,
    ViewsTask,
    Workplace,
)

SPACE = Space.model_validate(
    {
        "data": {"name": "digits", "train": 100, "validation": 100, "test": 100, "crop": 1},
        "training": {"epochs": 4, "short_epochs": 1, "batch_size": 25},
        "ladder": {"architectures": ("resnet8:0.25",), "epochs": 10},
    }
)

PARAMS = TrialParams(teacher="weak", rule="isats", rule_params={"target_ratio": 5 / 3}, soft_weight=0.5)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


def setup(home: Path, *, space: Space = SPACE) -> Setup:
    return Setup(
        space=space,
        student="resnet8:0.25",
        teachers={"weak": "ladder:resnet8:0.25", "gone": "file:nowhere.safetensors?arch=resnet8"},
        views=4,
        device="cpu",
        runs=str(home / "runs"),
        cache=str(home / "cache"),
    )


def diverging() -> Space:
    return SPACE.model_copy(update={"training": SPACE.training.model_copy(update={"lr": 1e30})})


def request(run: str, *, teacher: str | None = None, epochs: int = 4) -> RunRequest:
    params = PARAMS.model_copy(update={"teacher": teacher}) if teacher else TrialParams()
    return RunRequest(run=run, params=params, seed=3, epochs=epochs)


@pytest.fixture(scope="module")
def place(home: Path) -> Workplace:
    """A worker's workplace in this process, its teacher trained."""
    place = Workplace(setup(home))
    list(place.do(LadderTask(uri="ladder:resnet8:0.25")))
    return place


@pytest.fixture(scope="module")
def pool(home: Path, place: Workplace) -> Iterator[Pool]:
    with Pool(2, setup(home)) as pool:
        yield pool


def children() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def ended(messages: list[Message]) -> RunEnded:
    (found,) = (message for message in messages if isinstance(message, RunEnded))
    return found


def test_the_messages_of_a_run_come_in_order_and_its_result_is_kept(home, pool):
    folder = RunFolder(home / "runs")
    folder.checkpoint("a").parent.mkdir(parents=True)
    folder.checkpoint("a").write_bytes(b"left behind by another version")
    messages = list(pool.run([request("a", teacher="weak")]))
    epochs, last = messages[:-1], messages[-1]
    assert [(event.run, event.record.epoch, event.epochs) for event in epochs] == [("a", n, 4) for n in (1, 2, 3, 4)]
    assert isinstance(last, RunEnded)
    assert last.record.state == "complete"
    assert last.record.curve == tuple(event.record for event in epochs)
    assert last.record.targets.teacher_right > 0.3
    assert read_result(folder, "a") == last.model_copy(update={"reused": True})
    assert folder.weights("a").exists()
    assert not folder.checkpoint("a").exists()


def test_the_parts_of_a_run_make_up_its_time(tmp_path):
    """The teacher runs over each view once, for the first run; no teacher, no logits."""
    place = Workplace(setup(tmp_path))
    list(place.do(LadderTask(uri="ladder:resnet8:0.25")))
    asked = [request("first", teacher="weak"), request("second", teacher="weak"), request("alone")]
    first, second, alone = (ended(list(place.do(one))) for one in asked)
    assert set(first.parts_s) == {"cache", "teacher", "targets", "student", "evaluation"}
    assert set(second.parts_s) == {"cache", "targets", "student", "evaluation"}
    assert set(alone.parts_s) == {"student", "evaluation"}
    for one in (first, second, alone):
        assert sum(one.parts_s.values()) == pytest.approx(one.wall_s)
        assert min(one.parts_s.values()) > 0


def test_a_process_and_this_one_agree_to_the_bit(pool, place):
    ours, theirs = (
        ended(list(place.do(request("b", teacher="weak")))),
        ended([*pool.run([request("b", teacher="weak")])]),
    )
    assert ours.record == theirs.record
    assert theirs.views_computed == 0, "the views were computed already"


def test_weights_are_kept_of_full_runs_only(place):
    list(place.do(request("short", epochs=1)))
    assert place.folder.result("short").exists()
    assert not place.folder.weights("short").exists()


def test_two_workers_share_tasks_and_the_longest_start_first(pool):
    assert len(list(pool.run([ProbeTask(params=PARAMS, seconds=0)] * 2))) == 2, "now both have started"
    messages = list(pool.run([request(f"c/{epochs}", epochs=epochs) for epochs in (1, 2, 9, 10)]))
    assert len(children()) == 2
    assert {message.record.run for message in messages if isinstance(message, RunEnded)} == {
        "c/1",
        "c/2",
        "c/9",
        "c/10",
    }
    begins = [it.run for it in messages if isinstance(it, EpochEvent) and it.record.epoch == 1]
    assert set(begins[:2]) == {"c/9", "c/10"}
    runs = [it.run for it in messages if isinstance(it, EpochEvent)]
    assert runs != sorted(runs, key=begins.index), "one run after the other"


def test_tasks_are_taken_as_workers_get_free_and_known_answers_passed_on(pool, place):
    """Nothing is asked for ahead of a free worker, nor before an answer is passed on; nothing given is no end."""
    known = ended(list(place.do(request("known", epochs=1)))).model_copy(update={"reused": True})
    given, heard, late = ["s/0", known, "s/1", "s/2", None, "s/3"], [], []

    def source():
        late.append(len(heard))
        task = given.pop(0) if given else None
        return request(task, epochs=1) if isinstance(task, str) else task

    for message in pool.run(source):
        if isinstance(message, RunEnded):
            heard.append(message.record.run)
    assert set(heard) == {"known", "s/0", "s/1", "s/2", "s/3"}
    assert heard[0] == "known"
    assert late[:3] == [0, 0, 1], "two workers: s/0, the known one, then s/1"
    assert late[3] >= 2, "s/2 is for whoever has ended"
    assert not given


def test_a_run_that_diverges_is_recorded_and_the_next_one_runs(tmp_path):
    place = Workplace(setup(tmp_path, space=diverging()))
    found = ended(list(place.do(request("d"))))
    assert found.record.state == "failed"
    assert found.record.error in {f"the loss became {value} in epoch 1" for value in ("nan", "inf")}
    assert found.record.spent_epochs == 1
    assert found.record.val_top1 is None
    assert read_result(place.folder, "d").record == found.record
    assert not place.folder.weights("d").exists()
    assert ended(list(place.do(request("e")))).record.run == "e"


def test_an_error_of_torch_is_the_run_s_own_failure(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory\nand a stack")

    monkeypatch.setattr("autodistill.workers.tasks.train", full)
    place = Workplace(setup(tmp_path))
    assert ended(list(place.do(request("f")))).record.error == "DefaultCPUAllocator: can't allocate memory"
    monkeypatch.setattr("autodistill.workers.tasks.supervise", None)
    monkeypatch.setattr("autodistill.workers.tasks.train", lambda *_, **__: (_ for _ in ()).throw(RuntimeError))
    assert ended(list(place.do(request("g")))).record.error == "RuntimeError"


def test_a_disk_that_cannot_be_written_stops_the_study_and_fails_no_run(tmp_path):
    (tmp_path / "runs").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        list(Workplace(setup(tmp_path)).do(request("h")))


def test_an_error_that_is_no_run_s_own_reaches_the_parent_whole(pool, place):
    with pytest.raises(TeacherError) as here:
        list(place.do(request("i", teacher="gone")))
    with pytest.raises(TeacherError) as there:
        list(pool.run([request("i", teacher="gone")]))
    assert "nowhere.safetensors" in there.value.message
    assert (there.value.message, there.value.hint) == (here.value.message, here.value.hint)
    assert there.value.hint
    assert there.value.exit_code == 2
    assert isinstance([*pool.run([request("j", epochs=1)])][-1], RunEnded), "the worker goes on after it"


def test_a_worker_killed_in_the_middle_of_a_run_is_replaced(pool, place):
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


def test_a_run_that_always_kills_its_worker_is_given_up(tmp_path):
    with killing(3) as killed, Pool(1, setup(tmp_path)) as pool:
        found = ended(list(pool.run([request("l")])))
    assert found.record.state == "failed"
    assert found.record.error == "the worker process died 3 times (signal 9: out of memory?)"
    assert (found.record.run, found.record.seed, found.record.epochs) == ("l", 3, 4)
    assert len(set(killed)) == 3
    assert read_result(RunFolder(tmp_path / "runs"), "l").record == found.record, "it would be tried again"


def test_a_task_that_is_no_run_and_always_kills_its_worker_ends_the_study(tmp_path):
    with (
        killing(3),
        Pool(1, setup(tmp_path)) as pool,
        pytest.raises(StudyError, match=r"died 3 times .* on CheckTask"),
    ):
        list(pool.run([CheckTask(name="weak")]))


def test_views_ahead_are_computed_once_and_nobody_waits_for_them_where_a_worker_dies_or_a_teacher_fails(tmp_path):
    place = Workplace(setup(tmp_path))
    list(place.do(LadderTask(uri="ladder:resnet8:0.25")))
    answers = [it for _ in range(2) for it in place.do(ViewsTask(name="weak", views=3))]
    assert answers == [LogitsComputed(views_computed=3), LogitsComputed(views_computed=0)]
    assert list(place.do(ViewsTask(name="gone", views=3))) == [LogitsComputed(views_computed=0)]
    found = ended(list(place.do(request("after", teacher="weak"))))
    assert found.views_computed == 1, "the fourth"
    with killing(1) as killed, Pool(1, setup(tmp_path)) as pool:
        assert list(pool.run([ViewsTask(name="weak", views=4)])) == []
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


def test_a_ladder_teacher_is_trained_once_and_checked(tmp_path):
    place = Workplace(setup(tmp_path))
    task = LadderTask(uri="ladder:resnet8:0.25")
    progress = list(place.do(task))
    assert [(it.task, it.done, it.total) for it in progress] == [
        ("teacher resnet8:0.25", n, 10) for n in range(1, 11)
    ]
    assert all(isinstance(it, TaskProgress) for it in progress)
    assert list(place.do(task)) == []
    (record,) = place.do(CheckTask(name="weak"))
    assert isinstance(record, TeacherRecord)
    assert (record.name, record.uri, record.architecture) == ("weak", "ladder:resnet8:0.25", "resnet8:0.25")
    assert record.val_top1 > 0.3


def test_a_ladder_that_diverges_ends_the_study(tmp_path):
    space = SPACE.model_copy(update={"ladder": SPACE.ladder.model_copy(update={"lr": 1e30})})
    with pytest.raises(TrialError, match="epoch 1"):
        list(Workplace(setup(tmp_path, space=space)).do(LadderTask(uri="ladder:resnet8:0.25")))


def test_a_mended_cache_file_is_said(place):
    list(place.do(request("filled", teacher="weak")))
    (file, *_) = sorted(Path(place.setup.cache).glob("logits/*/*.safetensors"))
    file.write_bytes(b"damaged")
    notes = [it for it in place.do(request("n", teacher="weak")) if isinstance(it, Note)]
    checks = [it for it in place.do(CheckTask(name="weak")) if isinstance(it, Note)]
    (note,) = [*notes, *checks]
    assert note.warning
    assert str(file) in note.text


def test_a_probe_measures_and_writes_nothing(tmp_path):
    place = Workplace(setup(tmp_path))
    (student,) = place.do(ProbeTask(params=PARAMS, seconds=0))
    (weak,) = place.do(TeacherProbeTask(name="weak", untrained=True, seconds=0))
    assert isinstance(student, Probe)
    assert isinstance(weak, TeacherProbe)
    assert min(student.model_dump().values()) > 0
    assert min(weak.training_s, weak.view_s) > 0
    assert weak.views == tuple(range(place.setup.views))
    assert list(tmp_path.iterdir()) == []


def test_a_probe_of_a_kept_teacher_knows_which_of_its_views_are_missing(home, place, tmp_path):
    shutil.copytree(home / "cache" / "ladder", tmp_path / "cache" / "ladder")
    elsewhere = Workplace(setup(tmp_path))
    list(elsewhere.do(request("seen", teacher="weak", epochs=2)))
    (weak,) = elsewhere.do(TeacherProbeTask(name="weak", seconds=0))
    assert weak.training_s == 0
    assert weak.views == (2, 3)


def test_a_probe_that_fails_says_so_and_ends_nothing(tmp_path):
    (note,) = Workplace(setup(tmp_path, space=diverging())).do(ProbeTask(params=PARAMS, seconds=0))
    assert isinstance(note, Note)
    assert note.warning
    assert note.text.startswith("how long it will take is not known: the loss became")

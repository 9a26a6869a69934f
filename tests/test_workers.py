"""Workers: what they answer, and what becomes of their failures."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from worker_parts import PARAMS, SPACE, children, diverging, ended, request, setup

from autodistill.errors import StoreError, StudyError, TeacherError
from autodistill.records import EpochEvent, Note, RunEnded, TaskProgress, TeacherRecord
from autodistill.store import RunFolder, read_result
from autodistill.workers import (
    CheckTask,
    LadderTask,
    Pool,
    Probe,
    ProbeTask,
    TeacherProbe,
    TeacherProbeTask,
    Workplace,
    probing,
)
from autodistill.workers.probing import line_through, probe_student

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


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


def test_logits_that_no_run_can_use_fail_the_run_and_not_the_study(home, place, tmp_path):
    """Finite on validation, where the teacher is checked, and not on a view."""
    shutil.copytree(home / "cache" / "ladder", tmp_path / "cache" / "ladder")
    elsewhere = Workplace(setup(tmp_path))
    teacher = elsewhere.teacher("weak")
    teacher.module.register_forward_hook(lambda _, inputs, output: output * torch.nan)
    found = ended(list(elsewhere.do(request("nan", teacher="weak")))).record
    assert found.state == "failed"
    assert "not finite" in found.error
    assert ended(list(elsewhere.do(request("next")))).record.state == "complete"


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
    with pytest.raises(StudyError, match=r"^ladder:resnet8:0\.25: training this teacher failed: the loss .* epoch 1"):
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


def test_the_time_of_an_epoch_follows_from_shorter_ones():
    assert line_through((8,), (2.0,)).seconds(80) == pytest.approx(20.0), "in proportion"
    assert line_through((16, 64), (26.0, 74.0)).seconds(400) == pytest.approx(410.0), "10 once, 1 a step"
    assert line_through((16, 64), (26.0, 20.0)).seconds(400) == 20.0, "noise"


def test_a_probe_measures_and_writes_nothing(tmp_path):
    place = Workplace(setup(tmp_path))
    (student,) = place.do(ProbeTask(params=PARAMS, seconds=0))
    (weak,) = place.do(TeacherProbeTask(name="weak", untrained=True, seconds=0))
    assert isinstance(student, Probe)
    assert isinstance(weak, TeacherProbe)
    assert 0 < student.targets.seconds(4) < student.training.seconds(4)
    assert min(student.evaluation_s, student.build_s, student.fit_s, student.profile_s) > 0
    assert min(weak.training.seconds(4), weak.view_s) > 0
    assert list(tmp_path.iterdir()) == []


class Slow(nn.Module):
    """A network that says how many images it is shown."""

    def __init__(self, shown: Callable[[int], None]) -> None:
        super().__init__()
        self.shown = shown
        self.layer = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        self.shown(len(images))
        return self.layer(images.flatten(1))


@pytest.mark.parametrize("image_s", [0.0001, 0.01, 0.3, 20.0])
@pytest.mark.parametrize("cold_s", [0.0, 5.0])
def test_measuring_takes_as_long_for_a_slow_network_as_for_a_fast_one(monkeypatch, tmp_path, image_s, cold_s):
    """A slow network is trained three times on the two images that BatchNorm needs. First passes do not count."""
    now, batches, place = [0.0], set[int](), Workplace(setup(tmp_path))

    def shown(images: int) -> None:
        now[0] += image_s * images + (0.0 if images in batches else cold_s)
        batches.add(images)

    monkeypatch.setattr(probing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    found = probe_student(lambda: Slow(shown), place.data, SPACE, PARAMS, seconds=0.4)
    assert found.training.seconds(1) == pytest.approx(image_s * SPACE.training.batch_size)
    slow = 2 * image_s >= 0.5
    assert found.evaluation_s == pytest.approx(image_s / 3 if slow else image_s)
    assert now[0] - len(batches) * cold_s == pytest.approx(3 * 2 * image_s) if slow else now[0] < 4.0 + 10 * cold_s


def test_a_pause_of_the_machine_is_not_taken_for_a_slow_network(monkeypatch, tmp_path):
    """The second step, the first that counts, takes two seconds more than it should."""
    now, steps, place = [0.0], [0], Workplace(setup(tmp_path))

    def shown(images: int) -> None:
        steps[0] += 1
        now[0] += 0.001 * images + (2.0 if steps[0] == 2 else 0.0)

    monkeypatch.setattr(probing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    found = probe_student(lambda: Slow(shown), place.data, SPACE, PARAMS, seconds=0.4)
    assert found.training.seconds(1) == pytest.approx(0.001 * SPACE.training.batch_size)
    assert found.evaluation_s == pytest.approx(0.001)


def test_a_clock_that_ticks_seldom_is_no_division_by_zero(monkeypatch, tmp_path):
    ticks = (float(it // 41) for it in itertools.count())
    monkeypatch.setattr(probing, "time", SimpleNamespace(perf_counter=ticks.__next__))
    place = Workplace(setup(tmp_path))
    found = probe_student(lambda: place.student(0), place.data, SPACE, PARAMS, seconds=0.1)
    assert found.training.seconds(1) >= 0


def test_a_trained_teacher_has_no_training_to_measure(place):
    (weak,) = place.do(TeacherProbeTask(name="weak", seconds=0))
    assert weak.training.seconds(4) == 0
    assert weak.view_s > 0


def test_a_probe_that_fails_says_so_and_ends_nothing(tmp_path):
    (note,) = Workplace(setup(tmp_path, space=diverging())).do(ProbeTask(params=PARAMS, seconds=0))
    assert isinstance(note, Note)
    assert note.warning
    assert note.text.startswith("how long it will take is not known: the loss became")

"""A worker's results, and what becomes of its failures: real training in this process."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_files import write_images
from executor_parts import LADDER, SPACE, Here, diverging, of, run
from torch import nn

from autodistill.config import Space
from autodistill.data import load as load_data
from autodistill.data import to_worker
from autodistill.errors import DataError, StoreError, StudyError, TeacherError
from autodistill.executors import CheckTask, LogitsTask, TrainTeacherTask, WorkerContext, perform
from autodistill.models import build
from autodistill.records import EpochEvent, Note, RunEnded, TaskProgress, TeacherRecord, TrialParams
from autodistill.store import read_result
from autodistill.teachers import logits_of
from autodistill.teachers.teacher import mean_logits

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("worker")


@pytest.fixture(scope="module")
def worker(home: Path) -> Here:
    """A worker whose teacher is trained."""
    worker = Here(home)
    worker.do(TrainTeacherTask(uri=LADDER))
    return worker


def test_the_events_of_a_run_come_in_order_and_its_result_is_kept(worker):
    folder = worker.context.folder
    folder.checkpoint("a").parent.mkdir(parents=True)
    folder.checkpoint("a").write_bytes(b"left behind by another version")
    found = worker.do(run("a", teacher="weak"))
    *epochs, last = worker.events
    assert [(it.run, it.record.epoch, it.epochs) for it in of(EpochEvent, epochs)] == [
        ("a", n, 4) for n in (1, 2, 3, 4)
    ]
    assert len(epochs) == 4
    assert isinstance(last, RunEnded)
    assert last.record == found.result
    assert found.result.state == "complete"
    assert found.result.curve == tuple(event.record for event in epochs)
    assert found.result.targets.teacher_right > 0.3
    assert read_result(folder, "a") == found
    assert folder.weights("a").exists()
    assert not folder.checkpoint("a").exists()


def test_an_ensemble_shares_the_networks_of_its_members(home):
    teachers = {"weak": LADDER, "other": "ladder:resnet8:0.5", "both": "ensemble:weak+other"}
    worker = Here(home, teachers=teachers)
    for uri in teachers.values():
        if uri.startswith("ladder:"):
            worker.do(TrainTeacherTask(uri=uri))
    both = worker.context.teacher("both")
    assert [it.module is worker.context.teacher(it.name).module for it in both.members] == [True, True]


def test_a_result_that_was_written_before_its_worker_died_is_answered_and_not_trained_again(worker):
    first = worker.do(run("written", teacher="weak"))
    assert worker.do(run("written", teacher="weak")) == first
    assert [type(it) for it in worker.events] == [RunEnded]


def test_a_missing_test_score_is_computed_from_the_kept_weights(worker, home):
    plain = worker.do(run("scored"))
    tested = worker.do(run("scored", evaluate_on="validation+test"))
    assert not of(EpochEvent, worker.events)
    assert tested.result.test_top1 is not None
    assert tested.result.val_top1 == plain.result.val_top1
    other = worker.do(run("scored at once", evaluate_on="validation+test"))
    assert other.result.curve == tested.result.curve


def test_a_run_without_a_teacher_may_smooth_its_labels(tmp_path):
    context, task = Here(tmp_path).context, run("smooth")
    params = TrialParams(method_params={"label_smoothing": 0.1})
    smooth = task.spec.model_copy(update={"params": params})
    assert context.recipe(task.spec).label_smoothing == 0
    assert context.recipe(smooth) == context.recipe(task.spec)._replace(label_smoothing=0.1)
    assert context.supervision(smooth) is None


def test_the_parts_of_a_run_make_up_its_time(tmp_path):
    """The teacher runs over each view once, for the first run; no teacher, no logits."""
    worker = Here(tmp_path)
    worker.do(TrainTeacherTask(uri=LADDER))
    asked = [run("first", teacher="weak"), run("second", teacher="weak"), run("alone")]
    first, second, alone = (worker.do(one) for one in asked)
    assert set(first.parts_s) == {"cache", "teacher", "targets", "student", "evaluation"}
    assert set(second.parts_s) == {"cache", "targets", "student", "evaluation"}
    assert set(alone.parts_s) == {"student", "evaluation"}
    assert [it.views_computed for it in (first, second, alone)] == [4, 0, 0]
    for one in (first, second, alone):
        assert sum(one.parts_s.values()) == pytest.approx(one.wall_s)
        assert min(one.parts_s.values()) > 0


@pytest.mark.parametrize("teacher", ["table", "both"])
def test_students_of_a_table_of_logits_see_the_images_that_its_logits_belong_to(teacher, tmp_path):
    """So the augmentation of the space changes nothing for them, but for students of labels alone."""
    np.save(tmp_path / "z.npy", np.random.default_rng(0).normal(size=(1797, 10)).astype(np.float32))
    module = build("resnet8:0.25", num_classes=10, in_channels=1, image_size=8, seed=0)
    torch.save(module.state_dict(), tmp_path / "net.pt")
    uris = {
        "table": f"logits:{tmp_path}/z.npy",
        "net": f"file:{tmp_path}/net.pt?norm=none",
        "both": "ensemble:table+net",
    }
    curves = []
    for place, (crop, flip) in enumerate([(0, False), (2, True)]):
        space = SPACE.model_copy(update={"data": SPACE.data.model_copy(update={"crop": crop, "flip": flip})})
        worker = Here(tmp_path / str(place), teachers=uris, space=space)
        curves.append([worker.do(run(f"{of}", teacher=of)).result.curve for of in (teacher, None)])
        cache = worker.context.cache
        logits = cache.training(worker.context.teacher(teacher), 1)
        data = worker.context.data
        table = worker.context.teacher("table").table[data.examples.train]
        plain = logits_of(worker.context.teacher("net"), data.train.images)
        expected = table if teacher == "table" else mean_logits([table, plain])
        assert torch.allclose(logits.float(), expected, atol=0.01)
    assert curves[0][0] == curves[1][0]
    assert curves[0][1] != curves[1][1]


def test_a_run_uses_one_thread_and_its_process_has_its_threads_back(worker):
    torch.set_num_threads(2)
    try:
        found = worker.do(run("threads", epochs=1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert found.computed_on["threads"] == "1"


def test_weights_are_kept_of_full_runs_only(worker):
    worker.do(run("rung", until=2))
    folder = worker.context.folder
    assert folder.result("rung").exists()
    assert not folder.weights("rung").exists()
    assert folder.checkpoint("rung").exists(), "the rest of the run begins there"
    worker.do(run("rung", begun_epochs=2))
    assert [it.record.epoch for it in of(EpochEvent, worker.events)] == [3, 4]
    assert folder.weights("rung").exists()
    assert not folder.checkpoint("rung").exists()


def test_a_run_that_diverges_is_recorded_and_the_next_one_runs(tmp_path):
    worker = Here(tmp_path, space=diverging())
    found = worker.do(run("d"))
    assert found.result.state == "failed"
    assert found.result.error in {f"the loss became {value} in epoch 1" for value in ("nan", "inf")}
    assert found.result.spent_epochs == 1
    assert found.result.val_top1 is None
    assert read_result(worker.context.folder, "d") == found
    assert not worker.context.folder.weights("d").exists()
    assert worker.do(run("e")).result.run == "e"


class Failing(WorkerContext):
    """A worker whose students fail in torch."""

    error = RuntimeError("DefaultCPUAllocator: can't allocate memory\nand a stack")

    def student(self, seed: int) -> nn.Module:
        raise self.error


def test_an_error_of_torch_is_the_run_s_own_failure_and_not_kept(tmp_path):
    worker = Here(tmp_path, kind=Failing)
    assert worker.do(run("f")).result.error == "DefaultCPUAllocator: can't allocate memory"
    assert read_result(worker.context.folder, "f") is None
    for text in ("", "\nand a stack"):
        worker.context.error = RuntimeError(text)
        assert worker.do(run(f"g {text!r}")).result.error == "RuntimeError"


def test_a_disk_that_cannot_be_written_stops_the_study_and_fails_no_run(tmp_path):
    folder = tmp_path / "runs" / "study"
    folder.mkdir(parents=True)
    (folder / "weights").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        Here(tmp_path).do(run("h"))


def test_logits_that_no_run_can_use_fail_the_run_and_not_the_study(home, worker, tmp_path):
    """Finite on validation, where the teacher is checked, and not on a view."""
    shutil.copytree(home / "cache" / "ladder", tmp_path / "cache" / "ladder")
    elsewhere = Here(tmp_path)
    elsewhere.context.teacher("weak").module.register_forward_hook(lambda _, inputs, output: output * torch.nan)
    found = elsewhere.do(run("nan", teacher="weak")).result
    assert found.state == "failed"
    assert "not finite" in found.error
    assert elsewhere.do(run("next")).result.state == "complete"


def test_a_teacher_that_cannot_be_loaded_ends_the_study(tmp_path):
    worker = Here(tmp_path, teachers={"gone": "file:nowhere.safetensors?arch=resnet8"})
    with pytest.raises(TeacherError, match=r"nowhere\.safetensors") as found:
        worker.do(run("i", teacher="gone"))
    assert found.value.hint
    assert found.value.exit_code == 2


def test_a_ladder_teacher_is_trained_once_and_checked(tmp_path):
    worker, task = Here(tmp_path), TrainTeacherTask(uri=LADDER)
    assert worker.do(task) is None
    progress = of(TaskProgress, worker.events)
    assert len(progress) == len(worker.events)
    assert [(it.task, it.done, it.total) for it in progress] == [("teacher resnet8:0.25", n, 10) for n in range(1, 11)]
    worker.do(task)
    assert worker.events == []
    record = worker.do(CheckTask(name="weak"))
    assert isinstance(record, TeacherRecord)
    assert (record.name, record.uri, record.architecture) == ("weak", LADDER, "resnet8:0.25")
    assert record.val_top1 > 0.3


def test_a_ladder_that_diverges_ends_the_study(tmp_path):
    space = SPACE.model_copy(update={"ladder": SPACE.ladder.model_copy(update={"lr": 1e30})})
    with pytest.raises(StudyError, match=r"^ladder:resnet8:0\.25: training this teacher failed: the loss .* epoch 1"):
        Here(tmp_path, space=space).do(TrainTeacherTask(uri=LADDER))


def test_a_mended_cache_file_is_said_once(worker):
    worker.do(run("filled", teacher="weak"))
    worker.do(CheckTask(name="weak"))
    (file, *_) = sorted(Path(worker.context.setup.cache).glob("logits/*/*.safetensors"))
    notes = []
    for name in ("n", "o"):
        file.write_bytes(b"damaged")
        for task in (run(name, teacher="weak"), CheckTask(name="weak")):
            worker.do(task)
            notes += of(Note, worker.events)
    (note,) = notes
    assert note.warning
    assert str(file) in note.text


def test_views_ahead_are_computed_once_and_nobody_waits_for_a_teacher_that_fails(tmp_path):
    teachers = {"weak": LADDER, "gone": "file:nowhere.safetensors?arch=resnet8"}
    worker = Here(tmp_path, teachers=teachers)
    worker.do(TrainTeacherTask(uri=LADDER))
    assert [worker.do(LogitsTask(name="weak", view=view)) for view in (0, 1, 1, 2)] == [1, 1, 0, 1]
    assert worker.do(LogitsTask(name="gone", view=3)) == 0
    assert worker.context.failing_teachers == {"gone"}
    assert worker.do(run("after", teacher="weak")).views_computed == 1, "the fourth"


def folder_space(home: Path) -> Space:
    data = {"name": f"folder:{write_images(home / 'images', ('cat', 'dog'), count=40)}", "crop": 1}
    training = {"epochs": 2, "rung_epochs": 1, "batch_size": 50}
    return Space.model_validate({"data": data, "training": training})


def handed(home: Path, space: Space, data: object) -> WorkerContext:
    """Return the context of a worker that is sent data, as processes are."""
    return WorkerContext(Here(home, space=space).context.setup, data=pickle.loads(pickle.dumps(to_worker(data))))


def test_a_worker_maps_the_images_of_a_folder_that_is_gone_by_then(tmp_path):
    space = folder_space(tmp_path)
    data = load_data(space.data)
    shutil.rmtree(tmp_path / "images")
    assert len(pickle.dumps(to_worker(data))) < data.train.images.nbytes / 10
    found = perform(run("mapped", epochs=1), handed(tmp_path, space, data))
    assert found.result.state == "complete", found.result.error


def test_images_that_are_neither_kept_nor_there_end_with_their_error(tmp_path):
    space = folder_space(tmp_path)
    data = load_data(space.data)
    data.file.unlink()
    found = perform(run("decoded again", epochs=1), handed(tmp_path, space, data))
    assert found.result.state == "complete", found.result.error
    shutil.rmtree(tmp_path / "images")
    data.file.unlink()
    with pytest.raises(DataError, match="no such folder"):
        perform(run("gone", epochs=1), handed(tmp_path, space, data))


def test_images_that_were_changed_since_the_command_began_are_refused(tmp_path):
    space = folder_space(tmp_path)
    data = load_data(space.data)
    data.file.unlink()
    shutil.copy(tmp_path / "images" / "cat" / "0.png", tmp_path / "images" / "dog" / "1.png")
    with pytest.raises(DataError, match="were changed since this command"):
        perform(run("changed", epochs=1), handed(tmp_path, space, data))

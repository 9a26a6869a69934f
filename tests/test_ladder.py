import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ladder_race import ARCHITECTURE, ladder_space
from teacher_files import count_epochs, digits, kept

from autodistill.config import Space
from autodistill.data.views import View
from autodistill.errors import StudyError, TeacherError
from autodistill.logit_cache import LogitCache
from autodistill.records import TaskProgress
from autodistill.teachers import Teacher, check
from autodistill.teachers.ladder import expand, load_trained, path_of
from autodistill.training import loop as trainer
from autodistill.training import train_teacher

pytestmark = pytest.mark.slow

URI = f"ladder:{ARCHITECTURE}"


def training(root: Path, space: Space | None = None, uri: str = URI) -> Iterator[TaskProgress]:
    return train_teacher(uri, root=root, data=digits(), space=space or ladder_space())


def loaded(root: Path, space: Space | None = None) -> Teacher:
    path = path_of(URI, root=root, data=digits().fingerprint, space=space or ladder_space())
    return load_trained(URI, path, data=digits())


@pytest.fixture
def trained_epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return count_epochs(monkeypatch)


# Names


def test_ladder_stands_for_its_teachers() -> None:
    space = ladder_space(architectures=("resnet8:0.25", "resnet8"))
    rungs = ["ladder:resnet8:0.25", "ladder:resnet8"]
    assert expand(("ladder:",), space) == rungs
    assert expand(("file:a.pt", "ladder:", "torchvision:x@y"), space) == ["file:a.pt", *rungs, "torchvision:x@y"]
    assert expand(("ladder:resnet8", "ladder:", "file:a.pt", "file:a.pt"), space) == [
        "ladder:resnet8",
        "ladder:resnet8:0.25",
        "file:a.pt",
    ]


@pytest.mark.parametrize(
    ("uri", "found"),
    [("ladder:resnt8", "unknown network 'resnt8' (did you mean 'resnet8'"), ("ladder:vgg8:0", "width '0'")],
)
def test_a_rung_that_nobody_can_build_is_an_error_at_once(uri: str, found: str) -> None:
    with pytest.raises(TeacherError) as caught:
        expand((uri,), ladder_space())
    assert f"teacher {uri}: " in caught.value.message
    assert found in caught.value.message
    assert caught.value.hint


def test_a_teacher_is_keyed_by_data_and_recipe_alone() -> None:
    space = ladder_space()

    def key(changed: Space, *, uri: str = URI, data_name: str = digits().fingerprint) -> Path:
        data = replace(digits(), fingerprint=data_name)
        return path_of(uri, root=Path("cache"), data=data.fingerprint, space=changed)

    def changed(part: str, **values: object) -> Space:
        return space.model_copy(update={part: getattr(space, part).model_copy(update=values)})

    same = [
        changed("student", width=0.5, stem_stride=2),
        changed("training", lr=0.7, epochs=99, rung_epochs=3, evaluate_every=2),
        changed("ladder", architectures=("resnet8", ARCHITECTURE)),
        changed("search", budget="40", seed=5),
        changed("confirm", seeds=7),
        changed("data", views=3),
    ]
    assert {key(it) for it in same} == {key(space)}
    other = [
        changed("ladder", epochs=6),
        changed("ladder", lr=0.2),
        changed("ladder", seed=1),
        changed("training", batch_size=50),
        changed("training", momentum=0.8),
        changed("training", weight_decay=0.0),
        changed("training", warmup=0.2),
        changed("training", averaging=2.0),
        changed("data", crop=2),
        changed("data", flip=True),
        changed("data", view_seed=1),
    ]
    keys = [key(it) for it in other] + [
        key(space, data_name="other"),
        key(space, uri="ladder:resnet8:0.5"),
        key(space),
    ]
    assert len(set(keys)) == len(keys)


# Training


def test_a_teacher_is_trained_once_and_kept(tmp_path: Path, trained_epochs: list[int]) -> None:
    progress = list(training(tmp_path))
    assert [(it.done, it.total, it.task) for it in progress] == [(n, 5, f"teacher {ARCHITECTURE}") for n in range(1, 6)]
    assert trained_epochs == [1, 2, 3, 4, 5]
    assert kept(tmp_path) == ["resnet8-0.25.safetensors"]
    assert list(training(tmp_path)) == []
    assert list(training(tmp_path, ladder_space(architectures=("resnet8", ARCHITECTURE)))) == []
    assert len(trained_epochs) == 5
    assert len(list(training(tmp_path, ladder_space(epochs=2)))) == 2


def test_it_loads_as_a_file_and_passes_its_check(tmp_path: Path) -> None:
    list(training(tmp_path))
    teacher, data = loaded(tmp_path), digits()
    assert (teacher.uri, teacher.architecture) == (URI, ARCHITECTURE)
    assert (teacher.normalisation.name, teacher.normalisation.mean) == ("stated", data.mean)
    cache = LogitCache(tmp_path, data=data, view=View(0, 1, False), say=print)
    record = check(teacher, data, cache.validation(teacher).float())
    assert record.val_top1 > 0.5


def test_an_interrupted_training_goes_on_and_ends_the_same(
    tmp_path: Path, trained_epochs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_EVERY_S", 0.0)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    list(training(whole))
    progress = training(broken)
    assert [next(progress).done for _ in range(3)] == [1, 2, 3]
    progress.close()
    assert kept(broken) == ["resnet8-0.25.checkpoint"]
    trained_epochs.clear()
    assert [it.done for it in training(broken)] == [1, 2, 3, 4, 5]
    assert trained_epochs == [4, 5]
    assert kept(broken) == ["resnet8-0.25.safetensors"]
    first, second = loaded(whole), loaded(broken)
    assert all(torch.equal(it, second.module.state_dict()[key]) for key, it in first.module.state_dict().items())
    assert first.fingerprint == second.fingerprint


def test_a_loss_that_is_not_finite_keeps_nothing(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"^ladder:resnet8:0\.25: training this teacher failed: .*nan") as found:
        list(training(tmp_path, ladder_space(lr=1e30)))
    assert "ladder.lr, which is 1e+30" in found.value.hint
    assert found.value.exit_code == 1
    assert kept(tmp_path) == []


def test_two_processes_train_it_once_and_compute_each_view_once_between_them(tmp_path: Path) -> None:
    root, ready, go, out = (tmp_path / name for name in ("cache", "ready", "go", "out"))
    script = Path(__file__).with_name("ladder_race.py")
    with subprocess.Popen([sys.executable, script, root, ready, go, out]) as other:
        progress = training(root)
        assert next(progress).done == 1
        go.touch()
        while not ready.exists() and other.poll() is None:
            time.sleep(0.01)
        time.sleep(0.1)
        assert other.poll() is None, "the other process does not wait for the one that trains"
        assert len(list(progress)) == 4
        cache = LogitCache(root, data=digits(), view=View(0, 1, False), say=print)
        for number in (0, 1):
            cache.training(loaded(root), number)
    assert other.returncode == 0
    assert out.read_text() == f"0 {2 - cache.computed}"

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ladder_race import ARCHITECTURE, ladder_space
from teacher_files import count_epochs, digits, flip, kept, network

from autodistill.config import Space
from autodistill.data.views import View
from autodistill.errors import StudyError, TeacherError
from autodistill.logit_cache import LogitCache
from autodistill.records import TaskProgress
from autodistill.teachers import Teacher, check
from autodistill.teachers.ladder import check_epochs, expand, load_trained, path_of, rung_of
from autodistill.training import evaluate, train, train_teacher
from autodistill.training import loop as trainer

pytestmark = pytest.mark.slow

URI = f"ladder:{ARCHITECTURE}"


def training(root: Path, space: Space | None = None, uri: str = URI) -> Iterator[TaskProgress]:
    return train_teacher(uri, root=root, data=digits(), space=space or ladder_space())


def loaded(root: Path, space: Space | None = None, uri: str = URI) -> Teacher:
    path = path_of(uri, root=root, data=digits().fingerprint, space=space or ladder_space())
    return load_trained(uri, path, data=digits())


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


# Early-stopped teachers


def test_the_epoch_of_an_early_stopped_teacher_is_part_of_its_name_and_its_file() -> None:
    assert rung_of("ladder:resnet56@80") == ("resnet56", 80)
    assert rung_of("ladder:resnet8:0.25@7?name=early") == ("resnet8:0.25", 7)
    assert rung_of(URI) == (ARCHITECTURE, None)
    assert [rung_of(uri).name for uri in (f"{URI}@3", URI)] == [f"{ARCHITECTURE}@3", ARCHITECTURE]
    whole, early, last = (
        path_of(uri, root=Path("cache"), data="d", space=ladder_space()) for uri in (URI, f"{URI}@3", f"{URI}@5")
    )
    assert whole.name == "resnet8-0.25.safetensors"
    assert early == whole.with_name("resnet8-0.25@3.safetensors")
    assert last == whole, "the schedule has 5 epochs"


@pytest.mark.parametrize("epoch", ["0", "abc", "", "-1", "1.5", "٣", "3@4"])
def test_what_is_no_epoch_is_an_error_at_once(epoch: str) -> None:
    with pytest.raises(TeacherError) as caught:
        expand((f"{URI}@{epoch}",), ladder_space())
    assert f"{epoch!r} after @ is no epoch: allowed are whole numbers from 1 to ladder.epochs" in caught.value.message
    assert f"{URI}@10" in caught.value.hint


def test_a_misspelled_network_with_an_epoch_is_named() -> None:
    with pytest.raises(TeacherError, match=r"unknown network 'resnt8' \(did you mean 'resnet8'"):
        expand(("ladder:resnt8@3",), ladder_space())
    with pytest.raises(TeacherError, match="unknown option 'epoch'"):
        expand(("ladder:resnet8?epoch=3",), ladder_space())


def test_an_epoch_beyond_the_schedule_or_a_second_name_of_its_end_is_refused() -> None:
    beyond = r"epoch 6 is beyond the schedule: allowed are 1 to 5, which is ladder\.epochs"
    with pytest.raises(TeacherError, match=beyond) as found:
        check_epochs([URI, f"{URI}@6"], 5)
    assert "--set ladder.epochs=6" in found.value.hint
    with pytest.raises(TeacherError, match=f"is the same teacher as {URI}: the schedule ends after epoch 5"):
        check_epochs([URI, f"{URI}@5"], 5)
    check_epochs([f"{URI}@5", f"{URI}@1", "ladder:resnet8", "file:a@9.pt"], 5)


def same_weights(one: Teacher, other: Teacher) -> bool:
    state = other.module.state_dict()
    return all(torch.equal(it, state[key]) for key, it in one.module.state_dict().items())


def test_a_later_stop_continues_an_earlier_one_and_ends_as_a_training_in_one_piece(
    tmp_path: Path, trained_epochs: list[int]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    list(training(whole))
    trained_epochs.clear()
    for uri, end, new in ((f"{URI}@2", 2, [1, 2]), (f"{URI}@4", 4, [3, 4]), (URI, 5, [5])):
        progress = list(training(parts, uri=uri))
        assert [(it.done, it.total) for it in progress] == [(epoch, end) for epoch in range(1, end + 1)]
        assert trained_epochs == new
        trained_epochs.clear()
    assert same_weights(loaded(whole), loaded(parts))
    early = [f"resnet8-0.25@{epoch}.{suffix}" for epoch in (2, 4) for suffix in ("checkpoint", "safetensors")]
    assert kept(parts) == sorted([*early, "resnet8-0.25.safetensors"])
    list(training(parts, uri=f"{URI}@3"))
    assert trained_epochs == [3], "it continues the training after epoch 2, not after epoch 4"
    trained_epochs.clear()
    list(training(parts, uri=f"{URI}@1"))
    assert trained_epochs == [1]
    list(training(whole, uri=f"{URI}@5"))
    assert trained_epochs == [1], "after its last epoch it is the whole training, which is kept"


def test_an_early_stopped_teacher_holds_the_averaged_weights_of_its_epoch(tmp_path: Path) -> None:
    list(training(tmp_path, uri=f"{URI}@3"))
    early = loaded(tmp_path, uri=f"{URI}@3")
    assert "after epoch 3 of its schedule" in early.notes[-1]
    data, recipe = digits(), trainer.ladder_recipe(ladder_space())
    scored = recipe._replace(spec=recipe.spec.model_copy(update={"evaluate_every": 1}))
    third = list(train(network(ARCHITECTURE), data, scored))[2]
    found = evaluate(early.module, data.validation, data, precision="float32")
    assert found.nll == pytest.approx(third.val_nll, rel=1e-3)
    raw = network(ARCHITECTURE)
    list(train(raw, data, recipe, until=3))
    assert evaluate(raw, data.validation, data, precision="float32").nll != pytest.approx(third.val_nll, rel=1e-2)


def test_a_checkpoint_without_its_file_is_not_trained_again_and_a_damaged_one_is(
    tmp_path: Path, trained_epochs: list[int]
) -> None:
    list(training(tmp_path, uri=f"{URI}@2"))
    first = loaded(tmp_path, uri=f"{URI}@2")
    (file,) = tmp_path.glob("ladder/*/*.safetensors")
    (state,) = tmp_path.glob("ladder/*/*.checkpoint")
    file.unlink()
    list(training(tmp_path, uri=f"{URI}@2"))
    assert trained_epochs == [1, 2]
    assert same_weights(first, loaded(tmp_path, uri=f"{URI}@2"))
    flip(state, 2000)
    list(training(tmp_path, uri=f"{URI}@3"))
    assert trained_epochs == [1, 2, 1, 2, 3]

"""Adapted teachers: pretrained networks with a new head, fine-tuned on the study's data and kept."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ladder_race import ARCHITECTURE, ladder_space
from safetensors.torch import save_file
from teacher_files import count_epochs, digits, kept, network, refused, tiny_torchvision, trained
from torch import nn
from torchvision.models import get_model

from autodistill import metrics
from autodistill.config import AdaptSpec, Space
from autodistill.data import Split
from autodistill.errors import StudyError, TeacherError
from autodistill.records import TaskProgress
from autodistill.teachers import Teacher, logits_of
from autodistill.teachers.adaptation import load_adapted, path_of, pretrained
from autodistill.teachers.ladder import expand
from autodistill.training import adapt_teacher
from autodistill.training import loop as trainer

NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.1))
        self.head = nn.Linear(8, classes)

    def forward(self, images):
        return self.head(self.body(images).mean((2, 3)))


class Odd(Net):
    def forward(self, images):
        return torch.cat([super().forward(images)] * 2, dim=1)


def fixed():
    return Net(7)


def open(num_classes=7):
    return Net(num_classes)


def odd():
    return Odd(6)
"""


def space(**adapt: Any) -> Space:
    settings = {"epochs": 3, "head_epochs": 2, "batch_size": 25, "lr": 0.01, **adapt}
    return ladder_space().model_copy(update={"adapt": AdaptSpec(**settings)})


def adapting(uri: str, root: Path, settings: Space | None = None) -> Iterator[TaskProgress]:
    source = pretrained(uri, data=digits()).teacher.fingerprint
    return adapt_teacher(uri, root=root, data=digits(), space=settings or space(), source=source)


def place(uri: str, root: Path, settings: Space | None = None) -> Path:
    source = pretrained(uri, data=digits()).teacher.fingerprint
    return path_of(source=source, root=root, data=digits().fingerprint, space=settings or space())


def loaded(uri: str, root: Path, settings: Space | None = None) -> Teacher:
    return load_adapted(uri, place(uri, root, settings), data=digits())


def accuracy(teacher: Teacher) -> float:
    held = digits().validation
    return float(metrics.top1(logits_of(teacher, held.images), held.labels))


def file_of(folder: Path, module: nn.Module) -> str:
    torch.save(module.state_dict(), folder / "t.pt")
    return f"adapt:file:{folder}/t.pt?arch={ARCHITECTURE}"


def seven_classes(folder: Path) -> str:
    """A network that knows digits, with a head for seven other classes."""
    module, other = trained(), network(classes=7)
    state = {key: value for key, value in module.state_dict().items() if not key.startswith("fc.")}
    other.load_state_dict(state, strict=False)
    return file_of(folder, other)


def ten_classes(folder: Path) -> str:
    return file_of(folder, trained())


def user_code(name: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / "nets.py").write_text(NETS)
        return f"adapt:python:{folder}/nets.py:{name}"

    return write


def user_weights(folder: Path) -> str:
    uri = user_code("open")(folder)
    source = pretrained(f"{uri}?num_classes=10", data=digits()).teacher.module
    state = source.state_dict()
    torch.save({**state, "head.weight": torch.ones(7, 8), "head.bias": torch.ones(7)}, folder / "w.pt")
    return f"{uri}?weights={folder}/w.pt"


SOURCES: dict[str, tuple[Callable[[Path], str], list[str]]] = {
    "a file of other classes": (seven_classes, ["fc.weight", "fc.bias"]),
    "a file of the same number of classes": (ten_classes, ["fc.weight", "fc.bias"]),
    "a factory without a number of classes": (user_code("fixed"), ["head.weight", "head.bias"]),
    "a factory with a number of classes": (user_code("open"), ["head.weight", "head.bias"]),
    "weights of other classes": (user_weights, ["head.weight", "head.bias"]),
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_head_is_replaced_and_the_body_is_kept(source: str, tmp_path: Path) -> None:
    write, head = SOURCES[source]
    uri = write(tmp_path)
    found = pretrained(uri, data=digits())
    assert sorted(found.head) == sorted(head)
    state = found.teacher.module.state_dict()
    assert all(not state[name].any() and len(state[name]) == 10 for name in head)
    assert logits_of(found.teacher, digits().validation.images[:3]).tolist() == [[0.0] * 10] * 3
    if "file" in source:
        before = trained().state_dict()
        assert all(torch.equal(state[key], before[key]) for key in state if key not in head)
    assert pretrained(uri, data=digits()).teacher.fingerprint == found.teacher.fingerprint


TORCHVISION = ("resnet18", "squeezenet1_1", "mobilenet_v3_small", "densenet121", "convnext_tiny", "googlenet")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", TORCHVISION)
def test_the_head_of_a_torchvision_network_is_replaced(
    architecture: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    more = {"init_weights": False, "aux_logits": True} if architecture == "googlenet" else {}
    published = get_model(architecture, weights=None, num_classes=7, **more)
    uri, *_ = tiny_torchvision(monkeypatch, tmp_path, architecture=architecture, classes=7, module=published)
    teacher, head = pretrained(f"adapt:{uri}", data=digits())
    assert logits_of(teacher, digits().validation.images[:2]).tolist() == [[0.0] * 10] * 2
    assert (teacher.normalisation.mean, teacher.input_size) == ((0.1, 0.2, 0.3), 40)
    before, after = published.state_dict(), teacher.module.state_dict()
    assert before.keys() == after.keys()
    assert {key for key in before if not torch.equal(before[key], after[key])} == set(head)


@pytest.mark.slow
def test_a_network_with_auxiliary_heads_is_adapted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    published = get_model("googlenet", weights=None, num_classes=7, init_weights=False, aux_logits=True)
    uri, *_ = tiny_torchvision(monkeypatch, tmp_path, architecture="googlenet", classes=7, module=published)
    uri, few = f"adapt:{uri}", Split(digits().train.images[:50], digits().train.labels[:50])
    data, settings = replace(digits(), train=few), space(epochs=1, head_epochs=1)
    source = pretrained(uri, data=data).teacher.fingerprint
    assert len(list(adapt_teacher(uri, root=tmp_path, data=data, space=settings, source=source))) == 2


@pytest.fixture
def trained_epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    trained()  # kept for all tests; its own epochs do not count
    return count_epochs(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "lr"), [("adamw", 0.005), ("sgd", 0.02)])
def test_a_network_is_adapted_once_and_kept(
    optimizer: str, lr: float, tmp_path: Path, trained_epochs: list[int]
) -> None:
    uri, settings = seven_classes(tmp_path), space(optimizer=optimizer, lr=lr)
    root = tmp_path / "cache"
    progress = list(adapting(uri, root, settings))
    assert [(it.task, it.done, it.total) for it in progress] == [("teacher t", n, 5) for n in range(1, 6)]
    assert trained_epochs == [1, 2, 1, 2, 3]
    assert kept(root) == ["teacher.safetensors"]
    assert list(adapting(uri, root, settings)) == []
    teacher = loaded(uri, root, settings)
    assert teacher.uri == uri
    assert accuracy(teacher) > 0.8
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())
    assert teacher.fingerprint == loaded(uri, root, settings).fingerprint


@pytest.mark.slow
def test_the_head_is_trained_first_with_a_frozen_body(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_EVERY_S", 0.0)
    uri, root = seven_classes(tmp_path), tmp_path / "cache"
    before = pretrained(uri, data=digits()).teacher.module.state_dict()
    progress = adapting(uri, root)
    for _ in range(3):
        next(progress)
    progress.close()
    head = load_adapted(uri, place(uri, root).with_suffix(".head"), data=digits())
    state = head.module.state_dict()
    assert all(torch.equal(state[key], before[key]) for key in state if not key.startswith("fc."))
    assert accuracy(head) > 0.5
    list(adapting(uri, root))
    state = loaded(uri, root).module.state_dict()
    assert not any(torch.equal(state[key], before[key]) for key in state if key.endswith("weight"))


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_an_interrupted_adaptation_continues_and_ends_the_same(
    epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained_epochs: list[int]
) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_EVERY_S", 0.0)
    uri, whole, broken = seven_classes(tmp_path), tmp_path / "whole", tmp_path / "broken"
    list(adapting(uri, whole))
    progress = adapting(uri, broken)
    assert [next(progress).done for _ in range(epochs)] == list(range(1, epochs + 1))
    progress.close()
    trained_epochs.clear()
    assert [it.done for it in adapting(uri, broken)][-1] == 5
    # The last epoch of a stage is not kept before the next one begins.
    assert len(trained_epochs) == 5 - epochs + (epochs == 2)
    assert kept(broken) == ["teacher.safetensors"]
    first, second = (loaded(uri, root).module.state_dict() for root in (whole, broken))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_a_key_covers_source_data_and_recipe(tmp_path: Path) -> None:
    uri = seven_classes(tmp_path)
    source = pretrained(uri, data=digits()).teacher.fingerprint

    def key(settings: Space, *, of: str = source, data: str = "d") -> Path:
        return path_of(source=of, root=tmp_path, data=data, space=settings)

    def changed(part: str, **values: object) -> Space:
        return space().model_copy(update={part: getattr(space(), part).model_copy(update=values)})

    same = [changed("training", lr=0.5), changed("ladder", epochs=9), changed("adapt", imagenet=("a",))]
    assert {key(it) for it in same} == {key(space())}
    named = pretrained(f"{uri}&name=other", data=digits()).teacher
    assert (named.name, named.fingerprint) == ("other", source)
    other = [key(space(**it)) for it in ({"lr": 0.2}, {"epochs": 9}, {"optimizer": "sgd"}, {"seed": 3})]
    other += [key(changed("data", flip=True)), key(space(), of="other"), key(space(), data="other"), key(space())]
    sized = pretrained(f"{uri}&size=16", data=digits()).teacher.fingerprint
    other += [key(space(), of=sized)]
    assert len(set(other)) == len(other)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_keeps_nothing(tmp_path: Path) -> None:
    uri = seven_classes(tmp_path)
    with pytest.raises(StudyError, match=r"adapting this teacher failed: .*nan") as found:
        list(adapting(uri, tmp_path / "cache", space(optimizer="sgd", lr=1e30, head_epochs=0)))
    assert "adapt.lr, which is 1e+30" in found.value.hint
    assert "teacher.safetensors" not in kept(tmp_path / "cache")


def test_a_network_that_was_changed_meanwhile_is_an_error(tmp_path: Path) -> None:
    uri = seven_classes(tmp_path)
    progress = adapting(uri, tmp_path / "cache")
    file_of(tmp_path, network(classes=7, seed=3))
    with pytest.raises(TeacherError, match="its network was changed since"):
        next(progress)


def not_adaptable(uri: str) -> TeacherError:
    with pytest.raises(TeacherError) as caught:
        pretrained(uri, data=digits())
    assert caught.value.hint
    return caught.value


def test_sources_that_cannot_be_adapted(tmp_path: Path) -> None:
    assert "unknown scheme 'ladder'" in not_adaptable("adapt:ladder:resnet8").message
    assert "unknown scheme 'torchvison' (did you mean 'torchvision'" in not_adaptable("adapt:torchvison:a@b").message
    assert "no such file" in not_adaptable(f"adapt:file:{tmp_path}/none.pt").message
    assert "classes has no effect" in not_adaptable(f"{seven_classes(tmp_path)}&classes=a,b").message
    odd = not_adaptable(user_code("odd")(tmp_path))
    assert "no nn.Linear or nn.Conv2d computes its 12 outputs" in odd.message
    assert "num_classes" in odd.hint


def test_the_error_for_other_classes_names_the_command(tmp_path: Path) -> None:
    torch.save(network(classes=7).state_dict(), tmp_path / "t.pt")
    assert "autodistill teachers adapt" in refused(f"file:{tmp_path}/t.pt?norm=none").hint


def test_the_ladder_of_pretrained_networks() -> None:
    from torchvision.models import get_model_weights

    uris = expand(("ladder:imagenet", "file:a"), Space())
    assert uris[-1] == "file:a"
    sizes = []
    for uri in uris[:-1]:
        name, _, weights = uri.removeprefix("adapt:torchvision:").partition("@")
        sizes.append(get_model_weights(name)[weights].meta["num_params"])
    assert len(sizes) >= 3
    assert sizes == sorted(sizes)
    own = Space(adapt=AdaptSpec(imagenet=("timm:resnet18.a1_in1k",)))
    assert expand(("ladder:imagenet", "ladder:resnet8"), own) == ["adapt:timm:resnet18.a1_in1k", "ladder:resnet8"]


def test_other_data_give_another_teacher(tmp_path: Path) -> None:
    uri = seven_classes(tmp_path)
    fewer = replace(digits(), classes=digits().classes[:4])
    assert pretrained(uri, data=fewer).teacher.module.fc.out_features == 4


def test_a_network_of_timm_gets_a_new_head(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    module = timm.create_model("test_resnet", num_classes=7, in_chans=3)
    published = {"input_size": [3, 40, 40], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "num_classes": 7}
    published |= {"classifier": "fc", "first_conv": "conv1.0"}
    config = {"architecture": "test_resnet", "num_classes": 7, "pretrained_cfg": published}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    teacher, head = pretrained(f"adapt:timm:local-dir:{tmp_path}", data=digits(), offline=True)
    assert logits_of(teacher, digits().validation.images[:2]).tolist() == [[0.0] * 10] * 2
    before, after = module.state_dict(), teacher.module.state_dict()
    assert {key for key in after if not torch.equal(before[key], after[key])} == set(head)
    assert (teacher.input_size, teacher.normalisation.mean) == (40, (0.1, 0.2, 0.3))

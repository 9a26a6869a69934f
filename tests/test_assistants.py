"""Teacher assistants: their URIs, their files, and their training from the logits of another teacher."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ladder_race import ladder_space
from teacher_files import count_epochs, digits, kept, network, trained

from autodistill.config import PlainKDSpec, Space
from autodistill.data import Data, Split
from autodistill.data.views import View
from autodistill.errors import StudyError, TeacherError
from autodistill.logit_cache import LogitCache
from autodistill.records import TaskProgress
from autodistill.study.fitting import teacher_names, views_in_all
from autodistill.teachers import Teacher, load
from autodistill.teachers.assistants import assistant_of, check_needs, needs, views_of, with_needs
from autodistill.teachers.ladder import load_trained, path_of
from autodistill.training import loop as trainer
from autodistill.training import train_assistant, train_teacher

NETWORK = "resnet8:0.25"
URI = f"assistant:{NETWORK}?teacher=strong"
STUDY = {"strong": "file:strong.pt", "assistant": URI}


def changed(part: str, **values: object) -> Space:
    space = ladder_space()
    return space.model_copy(update={part: getattr(space, part).model_copy(update=values)})


# URIs


def test_a_uri_names_a_network_and_a_teacher_of_the_study() -> None:
    assert assistant_of("assistant:resnet8:0.5?teacher=resnet56@80&name=a") == ("resnet8:0.5", "resnet56@80")
    assert assistant_of("assistant:resnet8%3A0.5?teacher=a%23b") == ("resnet8:0.5", "a#b")
    table = {"uri": "assistant:resnet20", "teacher": "resnet8:0.25@80"}
    (uri,) = Space.model_validate({"teachers": [table]}).teachers
    assert assistant_of(uri) == ("resnet20", "resnet8:0.25@80")
    assert needs(URI, STUDY) == ("strong",)
    assert needs(STUDY["strong"], STUDY) == ()


def test_default_names_are_unique_and_say_what_the_teachers_are() -> None:
    uris = [
        "ladder:resnet8:0.25@3",
        "ladder:resnet8:0.25",
        "ladder:resnet8?name=mine",
        "assistant:resnet8?teacher=mine",
        "assistant:resnet8?teacher=resnet8:0.25@3",
        "assistant:resnet8?teacher=mine&name=second",
        "ensemble:resnet8:0.25@3+mine",
    ]
    assert list(teacher_names(uris)) == [
        "resnet8:0.25@3",
        "resnet8:0.25",
        "mine",
        "resnet8-from-mine",
        "resnet8-from-resnet8:0.25@3",
        "second",
        "resnet8-0.25-3-mine",
    ]


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("assistant:resnt8?teacher=strong", "unknown network 'resnt8' (did you mean 'resnet8'"),
        ("assistant:resnet8:0?teacher=strong", "width '0'"),
        ("assistant:resnet8", "names no teacher to learn from"),
        ("assistant:resnet8?teacher=", "names no teacher to learn from"),
        ("assistant:resnet8?teacher=strung", "is named 'strung' (did you mean 'strong'? allowed: strong)"),
        ("assistant:resnet8?teacher=strong&norm=none", "unknown option 'norm' (did you mean"),
        ("assistant:resnet8?teacher=a", "learns from itself"),
    ],
)
def test_assistants_that_are_refused(uri: str, found: str) -> None:
    with pytest.raises(TeacherError) as caught:
        check_needs({"strong": "file:strong.pt", "a": uri})
    assert caught.value.message.startswith(f"teacher {uri}: ")
    assert found in caught.value.message
    assert caught.value.hint


def test_an_assistant_alone_has_no_teacher() -> None:
    with pytest.raises(TeacherError, match=r"named 'x' \(the study has no other teacher\)") as caught:
        check_needs({"a": "assistant:resnet8?teacher=x"})
    assert "--teacher URI" in caught.value.hint


def test_a_circle_of_assistants_and_ensembles_is_refused_and_a_chain_is_not() -> None:
    chain = {
        "third": "assistant:resnet8?teacher=both",
        "both": "ensemble:second+strong",
        "second": "assistant:resnet8?teacher=first",
        "first": "assistant:resnet8?teacher=strong",
        "strong": "file:a.pt",
        "other": "file:b.pt",
    }
    check_needs(chain)
    assert with_needs(["second"], chain) == ["second", "first", "strong"]
    assert with_needs(["third", "other"], chain) == list(chain)
    with pytest.raises(TeacherError, match="needs itself: both needs second needs first needs both"):
        check_needs({**chain, "first": "assistant:resnet8?teacher=both"})


# Files


def test_an_assistant_is_keyed_by_its_teacher_and_all_that_decides_its_weights() -> None:
    def key(space: Space, *, uri: str = URI, source: str = "s", data: str = "d") -> Path:
        return path_of(uri, root=Path("cache"), data=data, space=space, sources={uri: source})

    space = ladder_space()
    same = [
        changed("student", width=0.5),
        changed("training", lr=0.7, epochs=99, rung_epochs=3, evaluate_every=2, precision="bfloat16"),
        changed("ladder", architectures=("resnet8",)),
        changed("search", budget="40"),
        changed("data", views=5),
        changed("data", views=99),
    ]
    assert {key(it) for it in same} == {key(space)} == {key(space, uri=f"assistant:{NETWORK}?teacher=renamed")}
    other = [
        key(space, source="t"),
        key(space, data="e"),
        key(space, uri="assistant:resnet8?teacher=strong"),
        *map(key, (changed("plain_kd", tau=3.0), changed("plain_kd", soft_weight=0.5))),
        *map(key, (changed("ladder", epochs=6), changed("ladder", lr=0.2), changed("ladder", seed=1))),
        *map(key, (changed("training", batch_size=50), changed("data", crop=2), changed("data", views=4))),
    ]
    assert len({*other, key(space)}) == len(other) + 1
    assert key(space).name == "resnet8-0.25.safetensors"


def test_views_that_only_an_assistant_learns_from_are_counted() -> None:
    space = ladder_space()  # runs of 4 epochs, a ladder of 5
    assert (views_of(space), views_of(changed("data", views=2))) == (5, 2)
    assert views_in_all(space, STUDY, tried=2) == 2 * 4 + 1
    assert views_in_all(space, {**STUDY, "second": "assistant:resnet8?teacher=strong"}, tried=3) == 3 * 4 + 1
    assert views_in_all(space, {"strong": "file:strong.pt"}, tried=1) == 4
    assert views_in_all(changed("data", views=2), STUDY, tried=2) == 2 * 2


# Training


def strong(tmp_path: Path) -> Teacher:
    torch.save(trained("none").state_dict(), tmp_path / "strong.pt")
    return load(f"file:{tmp_path}/strong.pt?norm=none", data=digits())


def cache_of(root: Path, data: Data | None = None) -> LogitCache:
    return LogitCache(root, data=data or digits(), view=View(0, 1, False), say=print)


def place(root: Path, space: Space | None = None) -> Path:
    sources = {URI: "s"}
    return path_of(URI, root=root, data=digits().fingerprint, space=space or ladder_space(), sources=sources)


def assisting(
    root: Path, teacher: Teacher, space: Space | None = None, data: Data | None = None
) -> Iterator[TaskProgress]:
    space, data = space or ladder_space(), data or digits()
    return train_assistant(
        URI, path=place(root, space), data=data, space=space, teacher=teacher, cache=cache_of(root, data)
    )


def loaded(root: Path, space: Space | None = None) -> Teacher:
    return load_trained(URI, place(root, space), data=digits(), name="assistant")


@pytest.mark.slow
def test_an_assistant_is_trained_once_from_cached_logits_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, root = strong(tmp_path), tmp_path / "cache"
    epochs = count_epochs(monkeypatch)
    progress = list(assisting(root, teacher))
    assert [(it.done, it.total, it.task) for it in progress] == [
        (number, 5, f"teacher {NETWORK}-from-strong") for number in range(1, 6)
    ]
    assert list(assisting(root, teacher)) == []
    assert epochs == [1, 2, 3, 4, 5]
    assert place(root).exists()
    assert not place(root).with_suffix(".checkpoint").exists()
    later = cache_of(root)
    for number in range(5):
        later.training(teacher, number)
    assert later.computed == 0, "a view for each epoch, in the cache that runs use"
    found = loaded(root)
    assert (found.uri, found.architecture) == (URI, NETWORK)
    assert found.notes[-1] == f"a teacher assistant, trained by plain distillation from strong ({URI})"


@pytest.mark.slow
def test_without_soft_weight_it_is_the_network_of_the_ladder(tmp_path: Path) -> None:
    space, teacher = ladder_space().model_copy(update={"plain_kd": PlainKDSpec(soft_weight=0.0)}), strong(tmp_path)
    list(assisting(tmp_path, teacher, space))
    uri = f"ladder:{NETWORK}"
    list(train_teacher(uri, root=tmp_path, data=digits(), space=space))
    plain = load_trained(uri, path_of(uri, root=tmp_path, data=digits().fingerprint, space=space), data=digits())
    state = loaded(tmp_path, space).module.state_dict()
    for key, expected in plain.module.state_dict().items():
        assert torch.allclose(expected.float(), state[key].float(), atol=1e-4), key


@pytest.mark.slow
def test_it_learns_the_images_from_its_teacher_where_all_labels_are_wrong(tmp_path: Path) -> None:
    data, teacher = digits(), strong(tmp_path)
    wrong = replace(data, train=Split(data.train.images, (data.train.labels + 1) % 10))
    space = ladder_space(epochs=12).model_copy(update={"plain_kd": PlainKDSpec(soft_weight=1.0)})
    list(assisting(tmp_path, teacher, space, wrong))
    right = loaded(tmp_path, space)(data.validation.images).argmax(1) == data.validation.labels
    assert float(right.float().mean()) > 0.5


@pytest.mark.slow
def test_an_interrupted_training_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_EVERY_S", 0.0)
    teacher, whole, broken = strong(tmp_path), tmp_path / "whole", tmp_path / "broken"
    epochs = count_epochs(monkeypatch)
    list(assisting(whole, teacher))
    progress = assisting(broken, teacher)
    assert [next(progress).done for _ in range(2)] == [1, 2]
    progress.close()
    epochs.clear()
    renamed = replace(teacher, name="another name")
    assert [it.done for it in assisting(broken, renamed)] == [1, 2, 3, 4, 5]
    assert epochs == [3, 4, 5]
    assert loaded(whole).fingerprint == loaded(broken).fingerprint


@pytest.mark.slow
def test_a_checkpoint_of_a_teacher_with_other_weights_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_EVERY_S", 0.0)
    teacher = strong(tmp_path)
    epochs = count_epochs(monkeypatch)
    progress = assisting(tmp_path, teacher)
    next(progress)
    progress.close()
    list(assisting(tmp_path, replace(teacher, fingerprint="other")))
    assert epochs == [1, 1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_keeps_nothing(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    with pytest.raises(StudyError, match=r"^assistant:.*: training this teacher failed: .*nan") as found:
        list(assisting(root, strong(tmp_path), ladder_space(lr=1e30)))
    assert "ladder.lr" in found.value.hint
    assert kept(root / "assistants") == []


@pytest.mark.slow
def test_an_assistant_of_a_table_of_logits_sees_the_images_without_augmentation(tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", np.random.default_rng(0).normal(size=(1797, 10)).astype(np.float32))
    teacher, space = load(f"logits:{tmp_path}/z.npy", data=digits()), ladder_space(epochs=2)
    cache = cache_of(tmp_path)
    uncropped = space.model_copy(update={"data": space.data.model_copy(update={"crop": 0})})
    for name, own in (("one", space), ("other", uncropped)):
        file = tmp_path / f"{name}.safetensors"
        list(train_assistant(URI, path=file, data=digits(), space=own, teacher=teacher, cache=cache))
    one, other = (load(f"file:{tmp_path}/{name}.safetensors", data=digits()) for name in ("one", "other"))
    assert cache.computed == 1
    assert one.fingerprint == other.fingerprint


# Ensembles


def test_members_with_other_class_orders_are_mapped_or_refused(tmp_path: Path) -> None:
    order = torch.tensor([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
    module, shuffled = trained("none"), network()
    torch.save(module.state_dict(), tmp_path / "plain.pt")
    state = {key: it.clone() for key, it in module.state_dict().items()}
    for key in ("fc.weight", "fc.bias"):
        state[key] = state[key][order]
    shuffled.load_state_dict(state)
    torch.save(state, tmp_path / "shuffled.pt")
    torch.save({"state_dict": state, "classes": [str(int(it)) for it in order]}, tmp_path / "named.pt")
    torch.save({"state_dict": state, "classes": list("abcdefghij")}, tmp_path / "letters.pt")
    stated = ",".join(str(int(it)) for it in order)
    study = {
        "plain": f"file:{tmp_path}/plain.pt?norm=none",
        "stated": f"file:{tmp_path}/shuffled.pt?norm=none&classes={stated}",
        "named": f"file:{tmp_path}/named.pt?norm=none",
        "letters": f"file:{tmp_path}/letters.pt?norm=none",
    }
    images = digits().validation.images[:20]
    alone = load(study["plain"], data=digits())(images)
    for name in ("stated", "named"):
        both = load(f"ensemble:plain+{name}", data=digits(), study=study)(images)
        assert torch.allclose(both, alone.log_softmax(1), atol=1e-4), name
    with pytest.raises(TeacherError, match=r"^teacher ensemble:plain\+letters: member letters: ") as caught:
        load("ensemble:plain+letters", data=digits(), study=study)
    assert caught.value.hint

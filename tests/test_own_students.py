"""Students from elsewhere: how they are named, built, checked, trained and told apart."""

import itertools
import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from student_files import NETS
from teacher_files import coloured, digits
from torch import Tensor, nn

from autodistill.config import StudentSpec, TrainingSpec
from autodistill.data import Data, normalise
from autodistill.data.views import View
from autodistill.errors import AutodistillError, ConfigError
from autodistill.models import build
from autodistill.models.cost import measure
from autodistill.models.students import bare, foreign_student, rebuilt, student_network, student_record
from autodistill.models.uri import student_name
from autodistill.options import students_to_search
from autodistill.records import ForeignRecord, StudentRecord
from autodistill.teachers import load
from autodistill.training import Recipe, train
from autodistill.training import loop as trainer
from autodistill.training.optimiser import optimiser_of

SPEC = StudentSpec()


@pytest.fixture
def nets(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(NETS)
    return f"python:{tmp_path}/nets.py"


def described(student: str, data: Data | None = None) -> StudentRecord:
    return student_record(student, data or digits(), SPEC)


def built(student: str, data: Data | None = None, *, seed: int = 0) -> nn.Module:
    return student_network(student, data or digits(), SPEC, seed=seed)


def refused(student: str, data: Data | None = None) -> AutodistillError:
    with pytest.raises(ConfigError) as found:
        described(student, data)
    assert found.value.exit_code == 2
    assert found.value.hint
    return found.value


def weights(nets: str, *, classes: int = 7, seed: int = 5, **arguments: Any) -> Path:
    """Write weights of `net` for another number of classes."""
    more = "".join(f"&{key}={value}" for key, value in arguments.items())
    state = bare(built(f"{nets}:net?arg.width=4{more}", with_classes(classes), seed=seed)).state_dict()
    path = Path(nets.removeprefix("python:")).with_name("w.pt")
    torch.save({"model": state}, path)
    return path


def with_classes(count: int) -> Data:
    return replace(digits(), classes=tuple(map(str, range(count))))


def raw(data: Data) -> Tensor:
    return data.validation.images[:6]


def as_trained(model: nn.Module, data: Data) -> Tensor:
    """The logits as a training step computes them."""
    with torch.no_grad():
        return model.eval()(normalise(raw(data), mean=data.mean, std=data.std))


# Names


@pytest.mark.parametrize(
    ("student", "name"),
    [
        ("torchvision:resnet18", "torchvision-resnet18"),
        ("torchvision:resnet18@IMAGENET1K_V1", "torchvision-resnet18-IMAGENET1K_V1"),
        ("timm:resnet18.a1_in1k", "timm-resnet18.a1_in1k"),
        ("python:nets.py:small", "python-nets-small"),
        ("python:nets:small", "python-nets-small"),
        ("python:a/b c.py:small?depth=3&name=my net", "my-net"),
    ],
)
def test_names_of_students(student: str, name: str) -> None:
    assert student_name(student) == name


def test_names_are_unique_and_names_of_files() -> None:
    students = [
        *(f"python:{place}nets.py:net{query}" for place in ("", "/a/", "/b/", "../") for query in ("", "?depth=3")),
        *(f"python:nets.py:net?depth={depth}" for depth in (4, 44, "{}")),
        *(f"torchvision:resnet18{rest}" for rest in ("", "@A", "@B", "?size=64", "@A?size=64", "?weights=a/b.pt")),
        *("timm:hf-hub:org/net", "timm:hf-hub:org/net2", "timm:net", "timm:net?weights=none"),
        "python:" + 300 * "long" + ".py:net",
        "python:" + 300 * "long" + ".py:net2",
    ]
    names = [student_name(it) for it in students]
    assert len({name.casefold() for name in names}) == len(students)
    assert all(len(name) <= 60 and Path(name).name == name and name.isascii() and ":" not in name for name in names)


def test_studies_of_students_from_elsewhere_have_plain_names() -> None:
    students = ["resnet18", "resnet8:0.5", "torchvision:resnet18", "python:a/nets.py:net?depth=3"]
    for study in ("", "mine"):
        asked = students_to_search(students=students, study=study, device="cpu", workers=1)
        names = [it.study for it in asked.options] if study else [it.student for it in asked.options]
        assert len(set(names)) == 4
    assert [it.study for it in asked.options][:3] == ["mine-resnet18", "mine-resnet8-0.5", "mine-torchvision-resnet18"]
    assert Path(asked.options[3].study).name == asked.options[3].study
    assert "'python:a/nets.py:net?depth=3'" in asked.command


# Building


def test_a_network_of_this_package_is_what_it_was() -> None:
    own = build("resnet8:0.25", num_classes=10, in_channels=1, image_size=8, seed=3)
    found = built("resnet8:0.25", seed=3)
    assert all(torch.equal(it, own.state_dict()[key]) for key, it in found.state_dict().items())
    record = described("resnet8:0.25")
    assert (record.source, record.key, record.foreign) == ("resnet8:0.25", ("resnet8:0.25", 1), None)


def test_a_factory_gets_what_it_takes(nets: str) -> None:
    assert bare(built(f"{nets}:net")).head.out_features == 10
    assert bare(built(f"{nets}:fixed")).conv.in_channels == 1
    assert bare(built(f"{nets}:told"))[1].weight.shape == (10, 64)
    assert bare(built(f"{nets}:told?size=6"))[1].weight.shape == (10, 36), "the size that the network takes"
    assert bare(built(f"{nets}:net", coloured(digits()))).conv.in_channels == 3
    assert bare(built(f"{nets}:net?arg.width=6")).conv.out_channels == 6


def test_seeds_initialise_and_no_global_state_is_used(nets: str) -> None:
    for student in (f"{nets}:net", "torchvision:squeezenet1_1", "timm:test_resnet?weights=none"):
        if student.startswith("timm"):
            pytest.importorskip("timm")
        before = torch.get_rng_state()
        one, same, other = (built(student, seed=seed).state_dict() for seed in (1, 1, 2))
        assert torch.equal(before, torch.get_rng_state())
        assert all(torch.equal(one[key], same[key]) for key in one)
        assert any(not torch.equal(one[key], other[key]) for key in one)


def test_the_network_sees_its_own_normalisation_and_size(nets: str) -> None:
    data = coloured(digits())
    for query, mean, std, size, mode in (
        ("norm=imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 8, "bilinear"),
        ("mean=0.5&std=0.25", (0.5,) * 3, (0.25,) * 3, 8, "bilinear"),
        ("norm=none&size=12&interpolation=bicubic", (0.0,) * 3, (1.0,) * 3, 12, "bicubic"),
        ("size=6", data.mean, data.std, 6, "bilinear"),
    ):
        model = built(f"{nets}:net?{query}", data)
        expected = raw(data).float() / 255
        expected = (expected - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        expected = nn.functional.interpolate(expected, size=(size, size), mode=mode, antialias=True)
        with torch.no_grad():
            assert torch.allclose(as_trained(model, data), bare(model).eval()(expected), atol=1e-5), query


def test_grey_images_reach_a_network_of_three_channels_three_times(nets: str) -> None:
    data = digits()
    for student in (
        f"{nets}:colour?norm=imagenet",
        f"{nets}:colour",
        "torchvision:squeezenet1_1?norm=imagenet&size=32",
    ):
        model = built(student)
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        if "norm" not in student:
            mean, std = data.mean * 3, data.std * 3
        expected = raw(data).expand(-1, 3, -1, -1).float() / 255
        expected = (expected - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        if "size" in student:
            expected = nn.functional.interpolate(expected, size=(32, 32), mode="bilinear", antialias=True)
        with torch.no_grad():
            assert torch.allclose(as_trained(model, data), bare(model).eval()(expected), atol=1e-4)


def test_a_pretrained_start_keeps_the_body_and_gives_the_head_to_the_seed(nets: str) -> None:
    path = weights(nets)
    record = described(f"{nets}:net?weights={path}&norm=none")
    assert record.foreign is not None
    assert (record.foreign.weights, record.foreign.fresh) == ("w.pt", ("head.bias", "head.weight"))
    one, other = (bare(built(f"{nets}:net?weights={path}&norm=none", seed=seed)) for seed in (1, 2))
    kept = torch.load(path)["model"]
    for net in (one, other):
        assert all(torch.equal(it, kept[key]) for key, it in net.state_dict().items() if not key.startswith("head"))
    assert not torch.equal(one.head.weight, other.head.weight)
    same = bare(built(f"{nets}:net?weights={path}&norm=none", with_classes(7), seed=1))
    assert torch.equal(same.head.weight, kept["head.weight"]), "the same classes: the head is loaded too"


def test_weights_from_a_file_for_libraries(tmp_path: Path) -> None:
    students = [("torchvision:squeezenet1_1", "classifier.1"), ("timm:test_resnet?weights=none", "fc")]
    for student, head in students:
        if student.startswith("timm"):
            pytest.importorskip("timm")
        torch.save(bare(built(student, with_classes(7))).state_dict(), tmp_path / "w.pt")
        uri = f"{student.partition('?')[0]}?weights={tmp_path}/w.pt&size=32"
        record = described(uri)
        assert record.foreign is not None
        assert set(record.foreign.fresh) == {f"{head}.weight", f"{head}.bias"}
        assert "its weights state no normalisation" in record.foreign.notes[-1]
        body = bare(built(uri, seed=9)).state_dict()
        kept = torch.load(tmp_path / "w.pt")
        assert all(torch.equal(it, kept[key]) for key, it in body.items() if not key.startswith(head))


def test_published_weights_of_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    source = timm.create_model("test_resnet", num_classes=7)
    pretrained = {"input_size": [3, 40, 40], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "classifier": "fc"}
    config = {
        "architecture": "test_resnet",
        "num_classes": 7,
        "pretrained_cfg": {"first_conv": "conv1.0", **pretrained},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(source.state_dict(), tmp_path / "pytorch_model.bin")
    record = described(f"timm:local-dir:{tmp_path}")
    found = record.foreign
    assert found is not None
    assert (found.mean, found.std, found.input_size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 40)
    assert (found.weights, set(found.fresh)) == ("published", {"fc.weight", "fc.bias"})
    assert "images are resized from 8 to 40 pixels" in found.notes[0]
    assert described(f"timm:local-dir:{tmp_path}?size=32").foreign.notes == ()
    model = bare(built(f"timm:local-dir:{tmp_path}", seed=3))
    assert torch.equal(model.conv1[0].weight, source.conv1[0].weight)
    fresh = described(f"timm:local-dir:{tmp_path}?weights=none").foreign
    assert (fresh.weights, fresh.fresh, fresh.input_size, fresh.normalisation) == ("", (), 8, "data")
    assert described(f"timm:local-dir:{tmp_path}?weights=published").foreign.weights == "published"


def test_published_weights_of_torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from teacher_files import tiny_torchvision
    from torchvision.models import get_model

    with torch.random.fork_rng(devices=[]):
        module = get_model("squeezenet1_1", num_classes=12)
    uri, _, _ = tiny_torchvision(monkeypatch, tmp_path, architecture="squeezenet1_1", module=module)
    found = described(uri).foreign
    assert found is not None
    assert found.weights == uri.rpartition("@")[2]
    assert set(found.fresh) == {"classifier.1.weight", "classifier.1.bias"}
    body = bare(built(uri, seed=4)).state_dict()
    assert all(torch.equal(it, body[key]) for key, it in module.state_dict().items() if "classifier" not in key)
    assert "beside @WEIGHTS" in refused(f"{uri}?weights=a.pt").message


def test_the_example_of_the_documentation(repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (repository / "docs" / "students.md").read_text()
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (student,) = re.findall(r"--student '(python:.*?)'", text)
    Path("small.py").write_text(code)
    assert described(student).cost.params == 9 * 24 + 2 * 24 + 24 * 10 + 10
    assert bare(built(student))[5].p == 0.2


# Cost


def test_costs_are_those_of_the_network_and_its_own_size(nets: str) -> None:
    for query, side in (("", 8), ("?size=12", 12)):
        cost = described(f"{nets}:net{query}").cost
        assert cost.params == 9 * 4 + 4 + 8 + 4 * 10 + 10
        assert cost.macs == 9 * 4 * side * side + 4 * 10
        assert cost.size_bytes == 4 * (cost.params + 8) + 8, "with the statistics and the counter of BatchNorm"


def test_a_network_that_looks_at_numbers_is_counted_by_running_it(nets: str) -> None:
    plain, looking = (described(f"{nets}:{name}").cost for name in ("fixed", "looks"))
    assert plain == looking
    assert measure(built(f"{nets}:looks"), image_shape=(1, 8, 8)) == plain


# Refusals


@pytest.mark.parametrize(
    ("rest", "found", "hint"),
    [
        (":nett", "has no function 'nett' (did you mean 'net'", "name of the function"),
        (":fails", "fails failed: RuntimeError: no network today", "call fails"),
        (":a_dict", "a_dict returns a dict", "torch.nn.Module"),
        (":large", "cannot take a batch of shape (1, 1, 8, 8) in evaluation mode: RuntimeError", "size=PIXELS"),
        (":seven", "7 classes, but digits has 10", "take num_classes"),
        (":auxiliary", "returns a tuple in training mode", "auxiliary outputs cannot be students"),
        (":wrapped", "returns a dict in evaluation mode", "return the logits alone"),
        (":maps", "returns torch.float32 of shape (1, 10, 1) for a batch of 1", "(batch, classes), here (1, 10)"),
        (":squeezed", "returns torch.float32 of shape (10,) for a batch of 1", "(batch, classes)"),
        (":whole", "returns torch.int64 of shape (1, 10)", "logits"),
        (":nan", "its logits are not finite", "its weights"),
        (":nan_training", "its logits are not finite in training mode", "training only"),
        (":nan_gradient", "its gradient is not finite: conv.weight (6 of its parameters)", "logarithm of 0"),
        (":noisy", "gives other logits for the same images", "self.training"),
        (":cut", "has no gradient: element 0 of tensors does not require grad", "train one step"),
        (":frozen", "has no parameter to train", "requires_grad"),
        (":half", "cannot take a batch of shape (1, 1, 8, 8) in evaluation mode: RuntimeError", "float32"),
        (":broken", "ValueError: not today", "run the network on such a batch yourself: it fails in /"),
        (":scripted", "TorchScript cannot be a student", "the network itself"),
        (":lazy", "1.weight has no shape yet", "lazy layers"),
        (":uncopied", "cannot be copied: RuntimeError", "parametrizations"),
        (":extra", "its state_dict holds more than tensors", "get_extra_state"),
        (":net?depth=3", "unexpected keyword argument 'depth'", "arguments of the function"),
        (":net?arch=x", "arch= is no option of a student", "arg.arch=VALUE"),
        (":net?classes=x", "classes= is no option of a student", "arg.classes=VALUE"),
        (":net?size=0", "size=0: allowed is", "size=224"),
        (":net?interpolation=cubic", "interpolation=cubic is unknown", "leave it out"),
        (":net?norm=none&mean=0.5&std=1", "norm beside mean and std", "either norm"),
        (":net?norm=imagenet", "unknown norm 'imagenet'", "leave it out"),
        (":net?weights=none.pt", "none.pt", "check the path"),
        ("", "names no function", "python:FILE.py:FUNCTION"),
    ],
)
def test_what_is_no_student_is_refused(rest: str, found: str, hint: str, nets: str) -> None:
    error = refused(nets + rest)
    assert found in error.message
    assert error.message.startswith(f"student {nets}{rest}: ")
    assert hint in error.hint


def test_code_and_weights_that_do_not_fit(nets: str, tmp_path: Path) -> None:
    assert "no such file" in refused(f"python:{tmp_path}/none.py:net").message
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    assert "ModuleNotFoundError: No module named 'nothing" in refused(f"python:{tmp_path}/broken.py:net").message
    path = weights(nets)
    assert (
        "does not fit this network: conv.bias is (4,), not (6,)"
        in refused(f"{nets}:net?weights={path}&arg.width=6").message
    )
    torch.save({"other": torch.zeros(3)}, path)
    assert "does not fit the network" in refused(f"{nets}:net?weights={path}").message


def test_libraries_refuse_what_they_do_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "did you mean 'resnet18'" in refused("torchvision:resnet_18").message
    assert "unknown weights 'V9'" in refused("torchvision:resnet18@V9").message
    assert "unknown option 'depth'" in refused("torchvision:resnet18?depth=3").message
    assert "did you mean 'torchvision'" in refused("torchvison:resnet18").message
    assert "did you mean 'mobilenetv2'" in refused("mobilenetv3:0.5").message
    transformer = refused("torchvision:vit_b_32")
    assert "cannot take a batch of shape (1, 1, 8, 8)" in transformer.message
    assert "torchvision:vit_b_32?size=PIXELS" in transformer.hint
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    missing = refused("timm:resnet18")
    assert "timm is not installed" in missing.message
    assert missing.hint == "pip install 'kd-autodistill[timm]'"


def test_probabilities_are_noted(nets: str) -> None:
    (note,) = described(f"{nets}:softmax").foreign.notes
    assert "return the logits before the softmax" in note


def test_a_network_may_change_its_input_in_place(nets: str) -> None:
    assert described(f"{nets}:in_place?norm=data").foreign.notes == ()


def test_numbers_that_are_not_torchs_are_noted(nets: str) -> None:
    (note,) = described(f"{nets}:own_random").foreign.notes
    assert "draws random numbers in training that are not torch's" in note
    assert described(f"{nets}:net?dropout=0.5").foreign.notes == ()


# Fingerprints and keys


def test_equal_students_have_equal_keys_and_others_other_keys(nets: str, tmp_path: Path) -> None:
    path = weights(nets)
    key = described(f"{nets}:net").key
    assert described(f"{nets}:net?name=another").key == key
    assert described(f"{nets.replace('nets.py', './nets.py')}:net").key == key
    queries = ["arg.width=6", "norm=none", "size=12", "size=12&interpolation=bicubic", f"weights={path}"]
    keys = [key, *(described(f"{nets}:net?{query}").key for query in queries)]
    state = torch.load(path)["model"]
    torch.save({"model": {name: it + 1 if name == "conv.bias" else it for name, it in state.items()}}, path)
    keys.append(described(f"{nets}:net?weights={path}").key)
    torch.save({"model": {name: it + 1 if name == "head.bias" else it for name, it in state.items()}}, path)
    assert described(f"{nets}:net?weights={path}").key == keys[-2], "the head of other classes is not used"
    (tmp_path / "nets.py").write_text(NETS + "\n# changed\n")
    keys.append(described(f"{nets}:net").key)
    assert len(set(keys)) == len(keys)
    assert {
        built(f"{nets}:net", seed=seed) and foreign_student(f"{nets}:net", digits(), seed=seed)[1].fingerprint
        for seed in (0, 1)
    } == {keys[-1][1]}, "seeds are not part of it"


def test_a_student_is_rebuilt_only_as_it_was(nets: str, tmp_path: Path) -> None:
    facts = described(f"{nets}:net?norm=none&size=12").foreign
    model = rebuilt(facts, num_classes=10, image_shape=(1, 8, 8))
    own = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        larger = nn.functional.interpolate(own, size=(12, 12), mode="bilinear", antialias=True)
        assert torch.equal(model.eval()(own), bare(model)(larger)), "its input is normalised already"
    (tmp_path / "nets.py").write_text(NETS + "\n# changed\n")
    with pytest.raises(ConfigError, match="its code, its weights or its library changed"):
        rebuilt(facts, num_classes=10, image_shape=(1, 8, 8))


def test_new_settings_do_not_change_old_spaces() -> None:
    assert not {"optimizer", "body_lr_factor"} & TrainingSpec().model_dump().keys()
    changed = TrainingSpec(optimizer="adamw", body_lr_factor=0.5)
    assert {"optimizer": "adamw", "body_lr_factor": 0.5}.items() <= changed.model_dump(mode="json").items()
    assert TrainingSpec.model_validate(changed.model_dump()) == changed


# Training


def few() -> Data:
    data = digits()
    return replace(data, train=type(data.train)(data.train.images[:64], data.train.labels[:64]))


def recipe(epochs: int = 2, **spec: Any) -> Recipe:
    fields = {"epochs": 100, "batch_size": 16, "lr": 0.05, **spec}
    return Recipe(TrainingSpec(**fields), View(3, 1, False), 100, epochs, 0)


@pytest.mark.parametrize(
    "query",
    ["norm=none&size=6", "norm=none&arg.norm=false", "norm=none&dropout=0.5"],
    ids=["size", "no-norm", "dropout"],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    query: str, optimizer: str, nets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = "&arg.norm=false" if "arg.norm" in query else ""
    path = weights(nets, **({"arg.norm": "false"} if more else {}))
    make = partial(built, f"{nets}:net?{query}&weights={path}", few())
    plan = recipe(3, optimizer=optimizer, lr=0.05 if optimizer == "sgd" else 0.01)
    whole = make()
    curve = list(train(whole, few(), plan))
    assert curve[-1].train_loss < curve[0].train_loss
    monkeypatch.setattr(trainer, "CHECKPOINT_EVERY_S", 0.0)
    list(itertools.islice(train(make(), few(), plan, checkpoint=tmp_path / "c.pt"), 1))
    torch.rand(5)
    again = make()
    assert list(train(again, few(), plan, checkpoint=tmp_path / "c.pt")) == curve
    assert all(torch.equal(it, again.state_dict()[key]) for key, it in whole.state_dict().items())


VIEWS = """
import torch
from torch import nn


class Views(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6 * 36, classes)

    def forward(self, images):
        maps = self.body(images)
        return self.head(maps.view(len(maps), -1))


def net(num_classes):
    return Views(num_classes)
"""


def test_a_network_that_views_its_maps_as_vectors_runs_in_contiguous_memory(tmp_path: Path) -> None:
    """As student and as teacher, in training, evaluation and on a copy; `view` fails in channels_last memory."""
    (tmp_path / "views.py").write_text(VIEWS)
    uri, data = f"python:{tmp_path}/views.py:net", few()
    model, facts, _ = foreign_student(uri, data)
    assert facts.contiguous
    curve = list(train(model, data, recipe()))
    assert len(curve) == recipe().epochs
    torch.save(bare(model).state_dict(), tmp_path / "w.pt")
    teacher = load(f"{uri}?weights={tmp_path}/w.pt&norm=data", data=data)
    expected = as_trained(rebuilt_from(model, facts, data), data)
    torch.testing.assert_close(teacher(raw(data)), expected)
    (tmp_path / "nets.py").write_text(NETS)
    assert not foreign_student(f"python:{tmp_path}/nets.py:net", data)[1].contiguous


def rebuilt_from(model: nn.Module, facts: ForeignRecord, data: Data) -> nn.Module:
    again = rebuilt(facts, num_classes=data.num_classes, image_shape=data.image_shape)
    again.load_state_dict(model.state_dict())
    return again


def test_body_and_head_have_rates_of_their_own(nets: str) -> None:
    student = f"{nets}:net?weights={weights(nets)}&norm=none"
    for factor in (0.0, 1.0):
        model = built(student, few())
        before = {key: it.clone() for key, it in model.named_parameters()}
        list(train(model, few(), recipe(body_lr_factor=factor)))
        moved = {key for key, it in model.named_parameters() if not torch.equal(it, before[key])}
        head = {"network.head.weight", "network.head.bias"}
        assert moved == (head if factor == 0 else set(before))
    fresh = built(f"{nets}:net?norm=none", few())
    list(train(fresh, few(), recipe(body_lr_factor=0.0)))
    start = built(f"{nets}:net?norm=none", few())
    assert not torch.equal(bare(fresh).conv.weight, bare(start).conv.weight), "a fresh student has one rate"


def test_the_rate_of_the_body_is_the_stated_part(nets: str) -> None:
    """One step of plain SGD moves each tensor by its gradient times its rate."""
    student = f"{nets}:net?weights={weights(nets)}&norm=none"
    moves = {}
    for factor in (1.0, 0.25):
        model = built(student, few())
        before = {key: it.detach().clone() for key, it in model.named_parameters()}
        plain = recipe(1, momentum=0.0, weight_decay=0.0, batch_size=64, body_lr_factor=factor, averaging=1e-6)
        list(train(model, few(), plain))
        moves[factor] = {key: it.detach() - before[key] for key, it in model.named_parameters()}
    for key, move in moves[1.0].items():
        share = 1.0 if ".head." in key else 0.25
        assert torch.allclose(moves[0.25][key], share * move, rtol=1e-3, atol=1e-7), key


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_optimisers_are_those_of_torch(optimizer: str) -> None:
    spec = TrainingSpec(optimizer=optimizer, lr=0.1, momentum=0.8, weight_decay=0.01)
    found, expected = (nn.Linear(3, 2) for _ in range(2))
    expected.load_state_dict(found.state_dict())
    ours = optimiser_of(found, spec)
    plain = {"lr": 0.1, "weight_decay": 0.01}
    theirs: torch.optim.Optimizer = (
        torch.optim.SGD(expected.parameters(), momentum=0.8, nesterov=True, **plain)
        if optimizer == "sgd"
        else torch.optim.AdamW(expected.parameters(), betas=(0.8, 0.999), **plain)
    )
    batches = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    for net, optimiser in ((found, ours), (expected, theirs)):
        for batch in batches:
            optimiser.zero_grad()
            net(batch).square().sum().backward()
            optimiser.step()
    assert torch.allclose(found.weight, expected.weight, atol=1e-6)
    assert torch.allclose(found.bias, expected.bias, atol=1e-6)

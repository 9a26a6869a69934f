"""Teachers as people have them: wrapped checkpoints, their own networks, four published CIFAR-10 ResNets."""

import argparse
import json
import pathlib
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from teacher_files import ARCHITECTURE, digits, network, refused
from torch import Tensor

from autodistill.errors import TeacherError
from autodistill.models.uri import name_of, parse, with_option
from autodistill.teachers import load, logits_of
from autodistill.teachers.checks import cost_of
from autodistill.usercode import source_files

State = dict[str, Tensor]


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def other(state: State) -> State:
    return {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "params": lambda s: {"params": s},
    "nested twice": lambda s: {"checkpoint": {"state_dict": s, "epoch": 3}},
    "data parallel and compiled": lambda s: {"state_dict": prefixed(s, "module._orig_mod.")},
    "compiled parts": lambda s: {key.replace("layer1.", "layer1._orig_mod."): value for key, value in s.items()},
    "lightning": lambda s: {
        "state_dict": {**prefixed(s, "model."), "criterion.weight": torch.ones(10)},
        "pytorch-lightning_version": "2.5",
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
        "hyper_parameters": {"lr": 0.1},
    },
    "backbone": lambda s: {"model": prefixed(s, "backbone.")},
    "encoder of a module": lambda s: {"model": prefixed(s, "module.encoder.")},
    "student beside its teacher": lambda s: {"model": {**prefixed(s, "student."), **prefixed(other(s), "teacher.")}},
    "an unknown prefix": lambda s: prefixed(s, "net_a.trunk."),
    "profiler and counters": lambda s: {
        **s,
        "total_ops": torch.zeros(1),
        "conv1.total_params": torch.zeros(1),
        "n_averaged": torch.tensor(5),
    },
    "optimizer beside it": lambda s: {"net": s, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(4)}}}},
    "ordered": lambda s: OrderedDict(s),
    "namespace": lambda s: {"state_dict": s, "args": argparse.Namespace(lr=0.1, data=pathlib.Path("/data"), gpu=None)},
    "numpy scalars": lambda s: {"model": s, "best_acc": np.float64(0.9), "epoch": np.int64(3), "type": np.dtype("f4")},
    "numpy array": lambda s: {"model": s, "confusion": np.eye(3)},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_weights_are_found_in_any_wrapping(wrapping: str, tmp_path: Path) -> None:
    module = network()
    torch.save(WRAPPINGS[wrapping](module.state_dict()), tmp_path / "t.anything")
    teacher = load(f"file:{tmp_path}/t.anything?norm=none", data=digits())
    assert teacher.architecture == ARCHITECTURE
    found = teacher.module.state_dict()
    assert all(torch.equal(found[key], value) for key, value in module.state_dict().items() if "tracked" not in key)


@pytest.mark.parametrize(
    ("name", "renames", "prefix"),
    [
        ("resnet8", {"fc.": "linear.", ".downsample.": ".shortcut."}, "model."),
        ("resnet8", {"fc.": "linear.", ".downsample.": ".shortcut."}, "net_a.trunk."),
        ("resnet20_option_a", {"fc.": "linear."}, "module.backbone."),
        ("wrn_16_2", {**{f"layer{n}.": f"block{n}.layer." for n in (1, 2, 3)}, "bn.": "bn1."}, "model."),
        ("wrn_16_2", {**{f"layer{n}.": f"block{n}.layer." for n in (1, 2, 3)}, "bn.": "bn1."}, "net_a.trunk."),
    ],
)
def test_names_of_the_literature_are_found_behind_a_prefix(
    name: str, renames: dict[str, str], prefix: str, tmp_path: Path
) -> None:
    state = network(name).state_dict()
    for ours, theirs in renames.items():
        pattern = re.compile(rf"(^|(?<=\.)){ours.strip('.')}\.")
        state = {pattern.sub(theirs.removeprefix("."), key): it for key, it in state.items()}
    state = {key.replace(".shortcut.weight", ".convShortcut.weight"): it for key, it in state.items()}
    torch.save({"state_dict": {**prefixed(state, prefix), "criterion.weight": torch.ones(3)}}, tmp_path / "t.ckpt")
    assert load(f"file:{tmp_path}/t.ckpt?norm=none", data=digits()).architecture == name


AVERAGED: dict[str, Callable[[State, State], Any]] = {
    "timm": lambda raw, ema: {"state_dict": raw, "state_dict_ema": ema},
    "a dictionary of its own": lambda raw, ema: {"model": raw, "ema": {"module": ema, "decay": 0.99}},
    "a prefix": lambda raw, ema: {"state_dict": {**prefixed(raw, "model."), **prefixed(ema, "ema_model.module.")}},
    "a prefix beside none": lambda raw, ema: {**raw, **prefixed(ema, "model_ema.")},
}


@pytest.mark.parametrize("form", AVERAGED)
def test_averaged_weights_are_preferred_and_named(form: str, tmp_path: Path) -> None:
    raw = network().state_dict()
    ema = other(raw)
    torch.save(AVERAGED[form](raw, ema), tmp_path / "t.pt")
    uri = f"file:{tmp_path}/t.pt?norm=none"
    chosen = load(uri, data=digits())
    assert torch.equal(chosen.module.state_dict()["conv1.weight"], ema["conv1.weight"])
    assert chosen.notes[0].startswith("averaged weights are used (")
    assert chosen.other_weights == ("raw",)
    for kind, state in (("raw", raw), ("ema", ema)):
        teacher = load(f"{uri}&weights={kind}", data=digits())
        assert torch.equal(teacher.module.state_dict()["conv1.weight"], state["conv1.weight"])
    torch.save(raw, tmp_path / "t.pt")
    assert "weights=ema: the file holds raw weights only" in refused(f"{uri}&weights=ema").message


def test_several_sets_of_weights_that_fit_are_named(tmp_path: Path) -> None:
    state = network().state_dict()
    torch.save({"last": state, "best": other(state)}, tmp_path / "t.pt")
    uri = f"file:{tmp_path}/t.pt?norm=none"
    notes = load(uri, data=digits()).notes
    assert notes[0] == (
        "the file holds several sets of weights that fit: last is used, not best; weights=KEY takes another"
    )
    for key, kept in (("last", state), ("best", other(state))):
        chosen = load(f"{uri}&weights={key}", data=digits())
        assert torch.equal(chosen.module.state_dict()["conv1.weight"], kept["conv1.weight"])
        assert chosen.notes == (f"identified as {ARCHITECTURE} by its tensors",)
    assert (
        "weights=bst is unknown (did you mean 'best' or 'last'? allowed: best, ema, last, raw)"
        in refused(f"{uri}&weights=bst").message
    )
    assert "weights= is empty" in refused(f"{uri}&weights=").message
    for wrapped in (prefixed(state, "module."), {"state_dict": prefixed(state, "module._orig_mod.")}, {"model": state}):
        torch.save(wrapped, tmp_path / "t.pt")
        notes = load(f"file:{tmp_path}/t.pt?norm=none", data=digits()).notes
        assert notes == (f"identified as {ARCHITECTURE} by its tensors",)


def test_a_key_chooses_among_weights_of_several_networks_and_depths(nets: str, tmp_path: Path) -> None:
    small, large = network(), network("resnet14:0.25")
    held = {**small.state_dict(), "runs": {"large": large.state_dict(), "again": {"model": other(small.state_dict())}}}
    torch.save(held, tmp_path / "t.pt")
    for key, state in (
        ("outermost", small.state_dict()),
        ("runs.large", large.state_dict()),
        ("runs.again.model", other(small.state_dict())),
    ):
        teacher = load(f"file:{tmp_path}/t.pt?norm=none&weights={key}", data=digits())
        assert torch.equal(teacher.module.state_dict()["fc.weight"], state["fc.weight"])
    own = load(f"{nets}:net?norm=none", data=digits()).module.state_dict()
    torch.save({"last": own, "best": other(own)}, tmp_path / "own.pt")
    for key, state in (("last", own), ("best", other(own))):
        uri = f"{nets}:net?norm=none&weights={tmp_path}/own.pt#{key}"
        teacher = load(uri, data=digits())
        assert torch.equal(teacher.module.state_dict()["head.weight"], state["head.weight"])
        assert (name_of(uri), teacher.name) == ("own", "own")
    (note, *_) = load(f"{nets}:net?norm=none&weights={tmp_path}/own.pt", data=digits()).notes
    assert note.endswith("last is used, not best; #KEY after its name takes another")
    assert parse(f"{nets}:net?weights={tmp_path}/own.pt#best").weights() == (f"{tmp_path}/own.pt", "best", "")


FACTS: dict[str, tuple[dict[str, Any], tuple[float, ...], tuple[float, ...]]] = {
    "lists": ({"mean": [0.5], "std": [0.25]}, (0.5,), (0.25,)),
    "numbers": ({"mean": 0.5, "std": 0.25}, (0.5,), (0.25,)),
    "tensors": ({"mean": torch.tensor([[[0.5]]]), "std": torch.tensor([0.25])}, (0.5,), (0.25,)),
    "arrays": ({"mean": np.array([0.5]), "std": np.array([0.25])}, (0.5,), (0.25,)),
    "0 to 255": ({"mean": [127.5], "std": [63.75]}, (0.5,), (0.25,)),
    "arguments": ({"args": argparse.Namespace(mean=[0.5], std=[0.25], lr=1)}, (0.5,), (0.25,)),
    "nested": ({"config": {"data": {"image_mean": [0.5], "image_std": [0.25]}}}, (0.5,), (0.25,)),
}


@pytest.mark.parametrize("form", FACTS)
def test_statistics_in_a_file_are_read_in_all_forms(form: str, tmp_path: Path) -> None:
    held, mean, std = FACTS[form]
    torch.save({"state_dict": network().state_dict(), **held}, tmp_path / "t.pt")
    found = load(f"file:{tmp_path}/t.pt", data=digits()).normalisation
    assert (found.name, found.mean, found.std) == ("stated", pytest.approx(mean), pytest.approx(std))
    stated = load(f"file:{tmp_path}/t.pt?mean=0.1&std=0.2", data=digits()).normalisation
    assert (stated.mean, stated.std) == ((0.1,), (0.2,))


@pytest.mark.parametrize(
    "held",
    [
        {"classes": list("1032456789")},
        {"class_to_idx": {name: index for index, name in enumerate("1032456789")}},
        {"args": argparse.Namespace(classes=list("1032456789"))},
        {"idx_to_class": dict(enumerate("1032456789"))},
        {"classes": {str(index): [name, f"digit {name}"] for index, name in enumerate("1032456789")}},
        {"classes": 10, "class_names": None, "categories": tuple("1032456789")},
    ],
)
def test_classes_in_a_file_are_read_in_all_forms(held: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"model": network().state_dict(), **held}, tmp_path / "t.pt")
    assert load(f"file:{tmp_path}/t.pt", data=digits()).columns == (1, 0, 3, 2, 4, 5, 6, 7, 8, 9)


CYCLE = dict(enumerate("1203456789"))
"""Names by index. The inverse of a cycle of three is another order."""


@pytest.mark.parametrize(
    "held",
    [
        {"idx_to_class": CYCLE},
        {"idx_to_class": {index: int(name) for index, name in CYCLE.items()}},
        {"idx_to_class": {index: np.int64(name) for index, name in CYCLE.items()}},
        {"config": {"id2label": {str(index): int(name) for index, name in CYCLE.items()}}},
        {"class_to_idx": {int(name): index for index, name in CYCLE.items()}},
        {"class_to_idx": {int(name): torch.tensor(index) for index, name in CYCLE.items()}},
        {"class_to_idx": {name: str(index) for index, name in CYCLE.items()}},
        {"classes": CYCLE},
    ],
)
def test_classes_whose_names_are_numbers_are_read_in_the_direction_that_the_key_states(
    held: dict[str, Any], tmp_path: Path
) -> None:
    torch.save({"model": network().state_dict(), **held}, tmp_path / "t.pt")
    assert load(f"file:{tmp_path}/t.pt", data=digits()).columns == (2, 0, 1, *range(3, 10))


@pytest.mark.parametrize("form", ["lines", "json list", "json dictionary", "keras", "inline"])
def test_a_head_with_more_classes_is_reduced_by_their_names(form: str, tmp_path: Path) -> None:
    names = ["cat", *reversed("0123456789"), "dog"]
    torch.save(network(classes=12).state_dict(), tmp_path / "t.pt")
    uri = f"file:{tmp_path}/t.pt?norm=none"
    assert "12 classes, but digits has 10" in refused(uri).message
    assert "classes=FILE" in refused(uri).hint
    texts = {
        "lines": "\n".join(names) + "\n\n",
        "json list": json.dumps(names),
        "json dictionary": json.dumps({name: index for index, name in enumerate(names)}),
        "keras": json.dumps({str(index): [name, "what it shows"] for index, name in enumerate(names)}),
    }
    (tmp_path / "classes").write_text(texts.get(form, ""))
    stated = ",".join(names) if form == "inline" else f"{tmp_path}/classes"
    teacher = load(f"{uri}&classes={stated}", data=digits())
    assert teacher.columns == tuple(range(10, 0, -1))
    images = digits().validation.images[:4]
    whole = teacher.module((images.float() / 255).contiguous(memory_format=torch.channels_last))
    assert torch.allclose(teacher(images), whole[:, list(teacher.columns)], atol=1e-6)


def test_a_mistyped_class_is_named_with_what_it_may_be(tmp_path: Path) -> None:
    data = replace(digits(), classes=("cat", "dog", "horse", *"3456789"))
    for classes, count in ((data.classes, 10), ((*data.classes, *(f"n{it:04d}" for it in range(990))), 1000)):
        torch.save(network(classes=count).state_dict(), tmp_path / "t.pt")
        (tmp_path / "classes").write_text("\n".join(classes).replace("horse", "hrose"))
        error = refused(f"file:{tmp_path}/t.pt?norm=none&classes={tmp_path}/classes", data)
        expected = f"class 'horse' of digits is not among its {count} classes (did you mean 'hrose'?"
        assert expected in error.message
        assert ("'hrose' of its classes is none of digits" in error.message) == (count == 10)
        assert len(error.message) < 500
    (tmp_path / "classes").write_text("\n".join(classes).replace("horse", "zzz"))
    error = refused(f"file:{tmp_path}/t.pt?norm=none&classes={tmp_path}/classes", data)
    assert "(for example 'cat')" in error.message


def test_class_files_that_make_no_sense(tmp_path: Path) -> None:
    torch.save(network(classes=12).state_dict(), tmp_path / "t.pt")
    for text, found in (
        ("a\nb\n", "2 class names for 12 outputs"),
        ("\n".join("abcdefghijkk"), "'k' occurs twice"),
        ("\n".join("abcdefghijkl"), "class '0' of digits is not among its 12 classes"),
        ("", "the file is empty"),
    ):
        (tmp_path / "classes").write_text(text)
        assert found in refused(f"file:{tmp_path}/t.pt?norm=none&classes={tmp_path}/classes").message
    assert "no such file" in refused(f"file:{tmp_path}/t.pt?norm=none&classes={tmp_path}/none").message


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("size=0", "size=0: allowed is a height and width in pixels from 1 to 4096"),
        ("size=big", "size=big"),
        ("mean=0.5", "mean and std belong together"),
        ("mean=x&std=1", "mean=x: allowed are numbers"),
        ("mean=0.5&std=0", "std=0: must be above 0"),
        ("mean=0.5&std=nan", "std=nan: allowed are numbers"),
        ("mean=0.5,0.5&std=1,1", "the URI holds 2 numbers of mean and 2 of std for 1 channels"),
        ("norm=none&mean=0.5&std=1", "norm beside mean and std"),
        ("interpolation=cubic", "interpolation=cubic is unknown"),
        ("order=gbr", "order=gbr is unknown"),
        ("accept=maybe", "accept=maybe is unknown"),
        ("weights=best", "weights=best is unknown"),
    ],
)
def test_a_wrong_fact_is_named(query: str, found: str, tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "t.pt")
    assert found in refused(f"file:{tmp_path}/t.pt?{query}").message


def test_size_and_interpolation_are_as_stated(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "t.pt")
    images = digits().validation.images[:4]
    prints = set()
    for mode in ("bilinear", "bicubic", "nearest"):
        teacher = load(f"file:{tmp_path}/t.pt?norm=none&size=16&interpolation={mode}", data=digits())
        torch_mode, more = ("nearest-exact", {}) if mode == "nearest" else (mode, {"antialias": True})
        larger = torch.nn.functional.interpolate(images.float() / 255, size=(16, 16), mode=torch_mode, **more)
        with torch.no_grad():
            expected = teacher.module(larger.contiguous(memory_format=torch.channels_last))
        assert torch.allclose(teacher(images), expected, atol=1e-5)
        prints.add(teacher.fingerprint)
    assert len(prints) == 3


def test_a_name_with_a_question_mark_or_a_per_cent_sign_is_a_file_first(tmp_path: Path) -> None:
    for name in ("what?.pt", "100%25.pt", "a+b.pt"):
        torch.save(network().state_dict(), tmp_path / name)
        assert load(f"file:{tmp_path}/{name}", data=digits()).architecture == ARCHITECTURE
    assert load(f"file:{tmp_path}/what?.pt?name=x", data=digits()).name == "x"
    assert load(f"file:{tmp_path}/100%2525.pt?name=x", data=digits()).name == "x"
    assert with_option(f"file:{tmp_path}/what?.pt", "name=x") == f"file:{tmp_path}/what?.pt?name=x"


def test_signs_of_names_are_encoded(nets: str, tmp_path: Path) -> None:
    """A number sign that begins no kind of weights belongs to the name; an ampersand always has to be encoded."""
    torch.save(network().state_dict(), tmp_path / "a#b&c?d%e.pt")
    encoded = f"{tmp_path}/a%23b%26c%3Fd%25e.pt"
    assert load(f"file:{encoded}?name=x", data=digits()).architecture == ARCHITECTURE
    state = load(f"{nets}:net?norm=none", data=digits()).module.state_dict()
    torch.save({"model": state, "ema": other(state)}, tmp_path / "a#b&c?d%e.pt")
    for kind, expected in (("raw", state), ("ema", other(state))):
        for sign in ("#", "%23"):
            found = load(f"{nets}:net?norm=none&weights={encoded}{sign}{kind}", data=digits())
            assert torch.equal(found.module.state_dict()["head.bias"], expected["head.bias"])
    (tmp_path / "folder#1").mkdir()
    (tmp_path / "folder#1" / "nets.py").write_text(NETS.replace("from beside import WIDTH", "WIDTH = 4"))
    code = f"python:{tmp_path}/folder%231/nets.py:net"
    assert load(f"{code}?norm=none&weights={encoded}", data=digits()).module.body.out_channels == 4
    missing = refused(f"{nets}:net?weights={tmp_path}/x.pt").hint
    assert "write ?, &, # and % of a name as %3F, %26, %23 and %25" in missing
    assert "write ?, &" in refused(f"file:{encoded}&b.pt=1?c&d").hint
    typed = refused(f"{nets}:net?weights={encoded}%23emma")
    assert typed.message.endswith("weights=emma is unknown (did you mean 'ema'? allowed: ema, model, raw)")
    assert "weights= is empty" in refused(f"{nets}:net?weights=").message


@pytest.mark.parametrize(
    ("uri", "file", "kind", "published"),
    [
        ("file:a.pt", "a.pt", "", ""),
        ("file:a.pt?weights=ema", "a.pt", "ema", ""),
        ("python:nets.py:net", "", "", ""),
        ("python:nets.py:net?weights=none", "", "", ""),
        ("python:nets.py:net?weights=a.pt", "a.pt", "", ""),
        ("python:nets.py:net?weights=a.pt%23raw", "a.pt", "raw", ""),
        ("python:nets.py:net?weights=a#1.pt#ema", "a#1.pt", "ema", ""),
        ("python:nets.py:net?weights=published", "published", "", ""),
        ("torchvision:resnet18@V1", "", "", "V1"),
        ("torchvision:resnet18", "", "", ""),
        ("torchvision:resnet18?weights=none", "", "", ""),
        ("torchvision:resnet18?weights=b/a.pt", "b/a.pt", "", ""),
        ("timm:net", "", "", "published"),
        ("timm:net?weights=published", "", "", "published"),
        ("timm:net?weights=none", "", "", ""),
        ("timm:net?weights=a.pt#raw", "a.pt", "raw", ""),
    ],
)
def test_weights_mean_the_same_everywhere(uri: str, file: str, kind: str, published: str) -> None:
    found = parse(uri, "student").weights()
    assert found == (file, kind, published)
    assert found.name == (file.rpartition("/")[2] or published)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("file:a/resnet20-12fca82f.th", "resnet20-12fca82f"),
        ("file:a/model.pth.tar", "model"),
        ("file:a/my net (1).pt", "my-net-1"),
        ("python:nets.py:resnet20?weights=a/b.th", "b"),
        ("python:nets.py:resnet20?weights=a/b.th#ema", "b"),
        ("python:nets.py:resnet20?weights=none", "resnet20"),
        ("python:nets.py:resnet20?depth=3", "resnet20"),
        ("timm:hf-hub:org/net.in1k", "net.in1k"),
        ("timm:resnet18.a1_in1k", "resnet18.a1_in1k"),
        ("file:a/b.pt?name=the best", "the-best"),
    ],
)
def test_default_names(uri: str, name: str) -> None:
    assert name_of(uri) == name


def test_an_option_replaces_the_same_option() -> None:
    assert with_option("file:a?norm=none&size=3", "norm=half") == "file:a?size=3&norm=half"
    assert with_option("file:a", "norm=half") == "file:a?norm=half"


# Networks of the user

NETS = """
import torch
from torch import nn
from beside import WIDTH


class Net(nn.Module):
    def __init__(self, classes, width=WIDTH, bias=True):
        super().__init__()
        self.body = nn.Conv2d(1, width, 3)
        self.head = nn.Linear(width, classes, bias=bias)

    def forward(self, images):
        return self.head(self.body(images).mean((2, 3)))


def net(num_classes, width=WIDTH, bias=True):
    return Net(num_classes, width, bias)


def strings(**words):
    return Net(10, **words)


def fails():
    raise RuntimeError("no network today")


def a_dict():
    return {}


class TwoOutputs(Net):
    def forward(self, images):
        return super().forward(images), 0


def two():
    return TwoOutputs(10)


def picky():
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 10))


NUMBER = 3
"""


@pytest.fixture
def nets(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "beside.py").write_text("WIDTH = 4\n")
    return f"python:{tmp_path}/nets.py"


def test_a_factory_gets_its_arguments(nets: str) -> None:
    assert load(f"{nets}:net", data=digits()).module.head.out_features == 10
    wide = load(f"{nets}:net?arg.width=6&bias=false", data=digits())
    assert wide.module.body.out_channels == 6
    assert wide.module.head.bias is None
    assert load(f"{nets}:net?width=9", data=digits()).module.body.out_channels == 4, "width is reserved"
    assert parse(f"{nets}:net?depth=3&wide=true&kind=big&arg.size=5").arguments() == {
        "depth": 3,
        "wide": True,
        "kind": "big",
        "size": 5,
    }


@pytest.mark.parametrize(
    ("rest", "found"),
    [
        (":nett", "has no function 'nett' (did you mean 'net'"),
        (":NUMBER", "has no function 'NUMBER'"),
        (":fails", "fails failed: RuntimeError: no network today"),
        (":a_dict", "a_dict returns a dict"),
        (":two", "returns a tuple for a batch of 2 images"),
        (":picky", "cannot take a batch of shape (2, 1, 8, 8): RuntimeError"),
        (":net?depth=3", "net(num_classes, width=4, bias=True): got an unexpected keyword argument 'depth'"),
        (":net?num_classes=7", "7 classes, but digits has 10"),
        ("", "names no function"),
    ],
)
def test_a_factory_that_gives_no_teacher(rest: str, found: str, nets: str) -> None:
    assert found in refused(nets + rest).message


def test_code_that_cannot_be_imported(tmp_path: Path) -> None:
    assert f"no such file: {tmp_path}/none.py" in refused(f"python:{tmp_path}/none.py:net").message
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    assert "ModuleNotFoundError: No module named 'nothing" in refused(f"python:{tmp_path}/broken.py:net").message
    (tmp_path / "syntax.py").write_text("def net(:\n")
    assert "SyntaxError" in refused(f"python:{tmp_path}/syntax.py:net").message
    assert "cannot be imported" in refused("python:no_module_of_this_name:net").message


def test_weights_of_the_users_network(nets: str, tmp_path: Path) -> None:
    source = load(f"{nets}:net", data=digits()).module
    torch.save({"model": prefixed(other(source.state_dict()), "module.")}, tmp_path / "w.ckpt")
    teacher = load(f"{nets}:net?weights={tmp_path}/w.ckpt&norm=none", data=digits())
    assert torch.equal(teacher.module.head.weight, source.head.weight + 1)
    assert teacher.name == "w"
    wrong = refused(f"{nets}:net?weights={tmp_path}/w.ckpt&arg.width=6")
    assert "does not fit this network: body.bias is (4,), not (6,)" in wrong.message
    missing = refused(f"{nets}:net?weights={tmp_path}/w.ckpt&bias=false")
    assert "0 tensors missing, 1 unexpected (unexpected head.bias)" in missing.message
    assert "the file has 10 classes there" in refused(f"{nets}:net?weights={tmp_path}/w.ckpt&num_classes=7").hint


def test_the_fingerprint_covers_code_arguments_and_weights(nets: str, tmp_path: Path) -> None:
    first = load(f"{nets}:net", data=digits()).fingerprint
    assert load(f"{nets}:net", data=digits()).fingerprint == first
    found = {first, load(f"{nets}:net?arg.width=6", data=digits()).fingerprint}
    (tmp_path / "nets.py").write_text(NETS + "\n# changed\n")
    found.add(load(f"{nets}:net", data=digits()).fingerprint)
    assert len(found) == 3


ODD = """
import os
import sys

import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self, kind=""):
        super().__init__()
        self.kind = kind
        self.head = nn.Linear(64, 10)

    def forward(self, images):
        logits = self.head(images.flatten(1))
        if self.kind == "softmax":
            return logits.softmax(1)
        if self.kind == "sigmoid":
            return logits.sigmoid()
        if self.kind == "dropout":
            return F.dropout(logits, training=True)
        if self.kind == "batch":
            return logits - logits.mean(0)
        if self.kind == "fails" and images.mean() != 0 and len(images) > 4:
            raise ValueError("not these images")
        return logits


def kind(kind=""):
    return Net(kind)


KEPT = Net()


def kept():
    return KEPT


def parallel():
    return nn.DataParallel(Net())


def exits():
    sys.exit(0)


def leaks():
    print("a line that is no result")
    os.chdir("/")
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    net = Net().float()
    return net


def scripted():
    return torch.jit.trace(Net().eval(), torch.zeros(2, 1, 8, 8))


def late():
    import helper_of_a_test

    return helper_of_a_test.net()
"""


@pytest.fixture
def odd(tmp_path: Path) -> str:
    (tmp_path / "odd.py").write_text(ODD)
    return f"python:{tmp_path}/odd.py"


@pytest.mark.parametrize(
    ("factory", "found"),
    [
        ("kind?kind=dropout", "gives other logits for the same images when it is asked again"),
        ("kind?kind=batch", "gives logits that depend on the other images of the batch"),
        ("exits", "exits failed: SystemExit: 0"),
    ],
)
def test_a_network_whose_logits_are_no_function_of_the_image(factory: str, found: str, odd: str) -> None:
    assert found in refused(f"{odd}:{factory}&norm=none" if "?" in factory else f"{odd}:{factory}").message


def test_a_softmax_becomes_logits(odd: str) -> None:
    images = digits().validation.images[:5]
    plain = load(f"{odd}:kind?norm=none", data=digits())
    teacher = load(f"{odd}:kind?kind=softmax&norm=none", data=digits())
    assert teacher.notes == ("its outputs are probabilities: their logarithms are used as logits",)
    teacher.module.network.load_state_dict(plain.module.state_dict())
    assert torch.allclose(teacher(images).softmax(1), plain(images).softmax(1), atol=1e-6)


def test_a_sigmoid_is_noted(odd: str) -> None:
    (note,) = load(f"{odd}:kind?kind=sigmoid&norm=none", data=digits()).notes
    assert "return the logits before the sigmoid" in note


def test_torchscript_can_be_a_teacher(odd: str, recwarn: pytest.WarningsRecorder) -> None:
    teacher = load(f"{odd}:scripted?norm=none", data=digits())
    assert (cost_of(teacher, digits()).params, cost_of(teacher, digits()).macs) == (650, 640)
    assert not any(it.requires_grad for it in teacher.module.parameters())
    assert logits_of(teacher, digits().validation.images[:5]).shape == (5, 10)
    assert not recwarn.list


def test_a_network_that_fails_on_real_images_is_an_error_of_the_teacher(odd: str) -> None:
    teacher = load(f"{odd}:kind?kind=fails&norm=none", data=digits())
    with pytest.raises(TeacherError, match=r"failed on a batch of shape \(20, 1, 8, 8\): ValueError: not these images"):
        teacher(digits().validation.images[:20])


def test_two_calls_of_a_factory_share_no_weights(odd: str) -> None:
    first = load(f"{odd}:kept?norm=none", data=digits())
    with torch.no_grad():
        first.module.head.weight.zero_()
    assert load(f"{odd}:kept?norm=none", data=digits()).module.head.weight.any()


def test_weights_fit_a_network_inside_of_data_parallel(odd: str, tmp_path: Path) -> None:
    state = load(f"{odd}:kind?norm=none", data=digits()).module.state_dict()
    torch.save(other(state), tmp_path / "w.pt")
    teacher = load(f"{odd}:parallel?weights={tmp_path}/w.pt&norm=none", data=digits())
    assert torch.equal(teacher.module.head.bias, state["head.bias"] + 1)


def test_a_factory_changes_nothing_for_the_process(odd: str, capsys: pytest.CaptureFixture[str]) -> None:
    place, before = Path.cwd(), torch.get_default_dtype()
    load(f"{odd}:leaks?norm=none", data=digits())
    assert (Path.cwd(), torch.get_default_dtype(), torch.is_grad_enabled()) == (place, before, True)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "a line that is no result\n")


def test_files_of_two_folders_import_their_own_neighbours(tmp_path: Path) -> None:
    for name, bias in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "helper_of_a_test.py").write_text(
            f"from torch import nn\n\n\ndef net():\n    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
            f"    nn.init.constant_(net[1].bias, {bias})\n    return net\n"
        )
        (tmp_path / name / "nets.py").write_text("from helper_of_a_test import net\n")
        (tmp_path / name / "odd.py").write_text(ODD)
    for factory in ("nets.py:net", "odd.py:late"):
        for name, bias in (("a", 1.0), ("b", 2.0), ("a", 1.0)):
            teacher = load(f"python:{tmp_path}/{name}/{factory}?norm=none", data=digits())
            assert float(teacher.module[1].bias[0]) == bias


def test_modules_beside_a_file_are_part_of_its_code(tmp_path: Path) -> None:
    """Also those that a function, a package or another module imports; a change is used in the same process."""
    files = {
        "nets.py": "import torch\nfrom inner_of_a_test import widths as own\n\n\n"
        "def net():\n    import late_of_a_test\n\n"
        "    first = torch.nn.Linear(64, own.WIDTH)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), first, late_of_a_test.head(own))\n",
        "inner_of_a_test/__init__.py": "from . import deep\n",
        "inner_of_a_test/widths.py": "from .deep import WIDTH\n",
        "inner_of_a_test/deep.py": "WIDTH = 4\n",
        "late_of_a_test.py": "import space_of_a_test.act\nfrom torch import nn\n\n\n"
        "def head(own):\n    return nn.Sequential(space_of_a_test.act.layer(), nn.Linear(own.WIDTH, 10))\n",
        "space_of_a_test/act.py": "from torch import nn\n\nlayer = nn.ReLU\n",
        "unused_of_a_test.py": "raise RuntimeError('imported')\n",
        "torch/__init__.py": "raise RuntimeError('imported')\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    place, uri = f"{tmp_path}/nets.py", f"python:{tmp_path}/nets.py:net?norm=none"
    own = [name for name in files if "unused" not in name and "torch/" not in name]
    assert list(source_files(place)) == ["nets.py", *sorted(own[1:])]
    seen = {load(uri, data=digits()).fingerprint}
    for changed, text, width in (
        ("inner_of_a_test/deep.py", "WIDTH = 12  # wider\n", 12),
        ("space_of_a_test/act.py", "from torch import nn\n\nlayer = nn.Identity\n", 12),
    ):
        (tmp_path / changed).write_text(text)
        teacher = load(uri, data=digits())
        assert teacher.module[1].out_features == width
        assert teacher.fingerprint not in seen
        seen.add(teacher.fingerprint)
    assert isinstance(teacher.module[2][0], torch.nn.Identity)
    (tmp_path / "unused_of_a_test.py").write_text("")
    assert load(uri, data=digits()).fingerprint == teacher.fingerprint


def test_packages_of_an_environment_within_the_folder_are_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file, a package and a namespace package in the folder belong to its files; an environment in it does not."""
    layer = "from torch import nn\n\nHEAD = nn.Linear(64, 10)\n"
    installed = tmp_path / "a" / ".venv" / "lib" / "site-packages"
    for name, held in (("a", installed / "installed_of_a_test"), ("b", tmp_path / "b" / "unused")):
        own = tmp_path / name
        for package in (held, own / "package_of_a_test", own / "space_of_a_test"):
            package.mkdir(parents=True)
        (held / "__init__.py").write_text(layer)
        (own / "file_of_a_test.py").write_text("")
        (own / "package_of_a_test" / "__init__.py").write_text("")
        (own / "package_of_a_test" / "below.py").write_text("")
        (own / "space_of_a_test" / "inner.py").write_text("")
        (own / "nets.py").write_text(
            "import installed_of_a_test, file_of_a_test, package_of_a_test.below, space_of_a_test.inner\n"
            "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), installed_of_a_test.HEAD)\n"
        )
    monkeypatch.syspath_prepend(installed)
    weights = [
        load(f"python:{tmp_path}/{name}/nets.py:net?norm=none", data=digits()).module[1].weight for name in ("a", "b")
    ]
    assert torch.equal(*weights), "the package of the environment was imported twice"
    assert [name for name in sys.modules if "_of_a_test" in name] == ["installed_of_a_test"]
    del sys.modules["installed_of_a_test"]


def test_a_file_is_read_whatever_its_suffix_says_and_its_architecture_is_a_preference(tmp_path: Path) -> None:
    torch.save({"arch": "resnet20", "state_dict": network().state_dict()}, tmp_path / "t.safetensors")
    teacher = load(f"file:{tmp_path}/t.safetensors?norm=none", data=digits())
    assert teacher.notes == (f"identified as {ARCHITECTURE} by its tensors",)


def test_options_replace_facts_that_make_no_sense(tmp_path: Path) -> None:
    held = {"state_dict": network().state_dict(), "mean": "imagenet", "std": "imagenet", "classes": "a,b"}
    torch.save(held, tmp_path / "t.pt")
    assert "its metadata contain" in refused(f"file:{tmp_path}/t.pt").message
    uri = f"file:{tmp_path}/t.pt?norm=none&classes=0,1,2,3,4,5,6,7,8,9"
    assert load(uri, data=digits()).normalisation.name == "none"


def test_classes_that_differ_in_case_only_are_told_apart(tmp_path: Path) -> None:
    data = replace(digits(), classes=("Cat", "cat", *"23456789"))
    torch.save(network().state_dict(), tmp_path / "t.pt")
    uri = f"file:{tmp_path}/t.pt?norm=none&classes=cat,dog,2,3,4,5,6,7,8,9"
    assert "class 'Cat'" in refused(uri, data).message
    (tmp_path / "classes").write_bytes("é\n".encode("latin-1"))
    assert "not UTF-8 text" in refused(f"file:{tmp_path}/t.pt?norm=none&classes={tmp_path}/classes").message


def test_classes_are_equal_in_all_forms_of_unicode(tmp_path: Path) -> None:
    composed, decomposed = "p\u00eache", "pe\u0302che"
    data = replace(digits(), classes=(composed, *"123456789"))
    torch.save(network().state_dict(), tmp_path / "t.pt")
    uri = f"file:{tmp_path}/t.pt?norm=none&classes={decomposed},2,1,3,4,5,6,7,8,9"
    assert load(uri, data=data).columns == (0, 2, 1, *range(3, 10))


def test_tensors_without_values_are_left_out(tmp_path: Path) -> None:
    state = {**network().state_dict(), "fc.bias": torch.empty(10, device="meta")}
    torch.save(state, tmp_path / "t.pt")
    assert "missing fc.bias" in refused(f"file:{tmp_path}/t.pt?norm=none").message

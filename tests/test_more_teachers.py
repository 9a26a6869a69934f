"""Teachers without a network of torch: ONNX files, tables of logits, ensembles; folders and patterns of checkpoints."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from teacher_files import coloured, digits, network, ready, refused, trained, write_onnx
from torch import Tensor, nn

from autodistill.config import DataSpec, Space
from autodistill.data import Data, with_validation
from autodistill.data import load as load_data
from autodistill.data.views import View
from autodistill.errors import ConfigError, TeacherError
from autodistill.local_files import local_path, use_copies
from autodistill.logit_cache import LogitCache
from autodistill.models.cost import measure
from autodistill.models.preprocessing import Normalisation
from autodistill.models.uri import files_of, parse
from autodistill.records import TeacherCostRecord, TeacherRecord
from autodistill.searching.plan import make_plan
from autodistill.teachers import candidates, check, ensemble_fingerprint, load, logits_of, members_of, with_equals
from autodistill.teachers.checks import cost_of, hottest_of
from autodistill.teachers.teacher import ensemble

ROWS = 1797
"""Images of the digits."""


def logits_by(module: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = module(images.float() / 255)
    return found


# ONNX


@pytest.mark.parametrize(
    ("form", "query"),
    [
        ({}, ""),
        ({"shape": (4, 1, 8, 8)}, ""),
        ({"shape": ("n", 8, 8, 1)}, ""),
        ({"shape": ("n", "c", "h", "w")}, ""),
        ({"external": "t.weights"}, ""),
        ({"external": "below/t.weights"}, ""),
    ],
    ids=["dynamic batch", "batch of 4", "channels last", "all dynamic", "weights beside it", "weights below it"],
)
def test_an_onnx_network_gives_the_logits_of_its_network(form: dict[str, Any], query: str, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    module = write_onnx(tmp_path / "t.onnx", **form)
    images = digits().validation.images[:7]
    teacher = load(f"onnx:{tmp_path}/t.onnx?norm=none{query}", data=digits())
    assert torch.allclose(logits_of(teacher, images), logits_by(module, images), atol=1e-5)
    assert teacher.name == "t"
    counted = measure(module, image_shape=(1, 8, 8))
    assert cost_of(teacher, digits()) == TeacherCostRecord(**counted.model_dump())


def test_an_onnx_network_of_levels_and_one_that_ends_in_a_softmax(tmp_path: Path) -> None:
    images = digits().validation.images[:7]
    module = write_onnx(tmp_path / "levels.onnx", kind="UINT8")
    teacher = load(f"onnx:{tmp_path}/levels.onnx", data=digits())
    with torch.no_grad():
        expected = module(images.float())
    assert torch.allclose(logits_of(teacher, images), expected, atol=1e-4)
    module = write_onnx(tmp_path / "softmax.onnx", operators=["Softmax"])
    teacher = load(f"onnx:{tmp_path}/softmax.onnx?norm=none", data=digits())
    assert torch.allclose(logits_of(teacher, images), logits_by(module, images).log_softmax(1), atol=1e-5)
    assert "its output is a softmax" in teacher.notes[0]


def test_channels_and_size_come_from_the_graph(tmp_path: Path) -> None:
    module = write_onnx(tmp_path / "rgb.onnx", channels=3, shape=("n", 3, 16, 16))
    teacher = load(f"onnx:{tmp_path}/rgb.onnx?norm=none", data=digits())
    assert (teacher.channels, teacher.input_size) == (3, 16)
    large = nn.functional.interpolate(
        digits().validation.images[:5].expand(-1, 3, -1, -1).float() / 255, 16, mode="bilinear", antialias=True
    )
    with torch.no_grad():
        expected = module(large)
    assert torch.allclose(logits_of(teacher, digits().validation.images[:5]), expected, atol=1e-5)
    assert cost_of(teacher, digits()).macs == measure(module, image_shape=(3, 16, 16)).macs
    assert load(f"onnx:{tmp_path}/rgb.onnx?norm=none", data=coloured(digits())).channels == 3
    assert "size=32: the graph takes 16x16" in refused(f"onnx:{tmp_path}/rgb.onnx?size=32").message
    write_onnx(tmp_path / "grey.onnx", shape=("n", 1, "h", "w"))
    assert load(f"onnx:{tmp_path}/grey.onnx?norm=none&size=12", data=digits()).input_size == 12
    assert "takes images of 1 channels" in refused(f"onnx:{tmp_path}/grey.onnx", coloured(digits())).message
    write_onnx(tmp_path / "wide.onnx", shape=("n", 1, 8, 16))
    assert "takes images of 8x16" in refused(f"onnx:{tmp_path}/wide.onnx").message


def test_onnx_graphs_that_are_no_classifier(tmp_path: Path) -> None:
    for form, found in (
        ({"more": "output"}, "the graph has 2 outputs (logits, mean)"),
        ({"more": "input"}, "the graph has 2 inputs (images, more)"),
        ({"kind": "INT64"}, "the graph takes tensor(int64) of 4 dimensions"),
    ):
        write_onnx(tmp_path / "t.onnx", **form)
        assert found in refused(f"onnx:{tmp_path}/t.onnx").message
    write_onnx(tmp_path / "t.onnx", external="t.weights")
    (tmp_path / "t.weights").unlink()
    error = refused(f"onnx:{tmp_path}/t.onnx")
    assert "keeps its weights in t.weights" in error.message
    assert error.hint == f"copy t.weights to {tmp_path}"
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(tmp_path / "t.onnx"), load_external_data=False)
    for place in ("../t.weights", "/etc/passwd"):
        for it in (entry for weights in model.graph.initializer for entry in weights.external_data):
            it.value = place if it.key == "location" else it.value
        (tmp_path / "t.onnx").write_bytes(model.SerializeToString())
        assert f"keeps its weights in {place}, outside of its folder" in refused(f"onnx:{tmp_path}/t.onnx").message


def test_operators_that_cannot_be_counted_leave_the_macs_unknown(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    write_onnx(tmp_path / "t.onnx")
    model = onnx.load(str(tmp_path / "t.onnx"))
    model.graph.node.append(onnx.helper.make_node("Einsum", ["logits"], ["same"], equation="nc->nc"))
    model.graph.output[0].name = "same"
    onnx.save(model, str(tmp_path / "t.onnx"))
    cost = cost_of(load(f"onnx:{tmp_path}/t.onnx", data=digits()), digits())
    assert (cost.params, cost.macs) == (60 + 70, None)


def test_quantised_weights_are_counted_in_their_own_size(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "t.onnx"
    module, model = write_onnx(path), onnx.load(str(path))
    numbers = onnx.numpy_helper.from_array
    weights = module.head.weight
    model.graph.initializer[2].CopyFrom(numbers((weights / 0.01).round().to(torch.int8).numpy(), "quantised"))
    model.graph.initializer.extend([numbers(np.float32(0.01), "scale"), numbers(np.int8(0), "zero")])
    node = onnx.helper.make_node("DequantizeLinear", ["quantised", "scale", "zero"], ["head.weight"])
    model.graph.node.insert(0, node)
    onnx.save(model, str(path))
    cost = cost_of(load(f"onnx:{path}", data=digits()), digits())
    assert (cost.params, cost.size_bytes) == (60 + 70, 4 * (60 + 10 + 1) + 60)


def test_an_onnx_file_that_is_too_new_says_so(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    write_onnx(tmp_path / "t.onnx")
    for change, found in (("ir_version", "Unsupported model IR version: 99"), ("opset", "Opset 200 is under")):
        model = onnx.load(str(tmp_path / "t.onnx"))
        if change == "opset":
            model.opset_import[0].version = 200
        else:
            model.ir_version = 99
        onnx.save(model, str(tmp_path / "new.onnx"))
        error = refused(f"onnx:{tmp_path}/new.onnx")
        assert found in error.message
        assert "update onnxruntime" in error.hint


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_onnx_without_its_extra(package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_onnx(tmp_path / "t.onnx")
    monkeypatch.setitem(sys.modules, package, None)
    error = refused(f"onnx:{tmp_path}/t.onnx")
    assert f"{package} is not installed" in error.message
    assert error.hint == "pip install 'kd-autodistill[onnx]'"


# Tables of logits


def all_digits() -> Tensor:
    from sklearn.datasets import load_digits

    return torch.from_numpy((load_digits().images * 15).astype(np.uint8))[:, None]


def table(classes: int = 10, rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, classes)).astype(np.float32)


def test_rows_belong_to_the_images_in_the_order_of_the_datas_own_files(tmp_path: Path) -> None:
    network_of = load(_file(trained("none"), tmp_path / "net.pt") + "?norm=none", data=digits())
    np.save(tmp_path / "z.npy", logits_of(network_of, all_digits()).numpy())
    teacher = load(f"logits:{tmp_path}/z.npy", data=digits())
    cache = LogitCache(tmp_path, data=digits(), view=View(0, 1, True), say=print)
    for images, found in (
        (digits().validation.images, cache.validation(teacher)),
        (digits().train.images, cache.training(teacher, 0)),
        (digits().train.images, cache.training(teacher, 3)),
    ):
        assert torch.allclose(logits_of(network_of, images), found.float(), atol=0.02)
    cache.ahead(teacher, 5)
    assert cache.computed == 2, "one view for all epochs, and the validation images"
    assert "its logits are the same in every epoch" in teacher.notes[0]
    joined = with_validation(digits())
    both = LogitCache(tmp_path, data=joined, view=View(0, 1, True), say=print).training(teacher, 0)
    assert torch.equal(both, torch.cat([cache.training(teacher, 0), cache.validation(teacher)]))
    record = check(teacher, digits(), cache.validation(teacher).float())
    assert record.cost == TeacherCostRecord(params=None, macs=None, size_bytes=None)
    assert record.val_top1 > 0.9


def _file(module: nn.Module, path: Path) -> str:
    torch.save(module.state_dict(), path)
    return f"file:{path}"


def _save(path: Path, rows: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, rows)


def _savez(path: Path, **arrays: Any) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


FORMS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "npy": lambda path, rows: _save(path, rows),
    "npy of float64": lambda path, rows: _save(path, rows.astype(np.float64)),
    "npz": lambda path, rows: _savez(path, logits=rows),
    "npz with classes": lambda path, rows: _savez(path, logits=rows, classes=list("0123456789")),
    "npz of parts": lambda path, rows: _savez(path, train=rows),
    "safetensors": lambda path, rows: save_file({"anything": torch.from_numpy(rows)}, path),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_is_recognised_by_its_content(form: str, tmp_path: Path) -> None:
    FORMS[form](tmp_path / "table", table())
    teacher = load(f"logits:{tmp_path}/table", data=digits())
    assert teacher.table is not None
    assert np.array_equal(teacher.table.numpy(), table())


def test_classes_of_a_table_and_rows_of_probabilities(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(10)
    np.savez(tmp_path / "t.npz", logits=table()[:, order], classes=[str(it) for it in order])
    teacher = load(f"logits:{tmp_path}/t.npz", data=digits())
    assert teacher.table is not None
    assert np.array_equal(teacher.table.numpy(), table())
    np.save(tmp_path / "t.npy", table()[:, order])
    (tmp_path / "classes").write_text("\n".join(map(str, order)))
    stated = load(f"logits:{tmp_path}/t.npy?classes={tmp_path}/classes", data=digits())
    assert stated.table is not None
    assert torch.equal(stated.table, teacher.table)
    probabilities = torch.from_numpy(table()).softmax(1)
    np.save(tmp_path / "p.npy", probabilities.numpy())
    found = load(f"logits:{tmp_path}/p.npy", data=digits())
    assert found.table is not None
    assert torch.allclose(found.table, probabilities.log(), atol=1e-5)
    assert "its rows are probabilities" in found.notes[1]


def test_rows_in_another_order_are_refused_as_chance(tmp_path: Path) -> None:
    labels = np.concatenate([it.labels.numpy() for it in (digits().train, digits().validation)])
    np.save(tmp_path / "t.npy", np.eye(10, dtype=np.float32)[np.resize(labels, ROWS)])
    teacher = load(f"logits:{tmp_path}/t.npy", data=digits())
    cache = LogitCache(tmp_path, data=digits(), view=View(0, 0, False), say=print)
    with pytest.raises(TeacherError, match="not above chance") as caught:
        check(teacher, digits(), cache.validation(teacher).float())
    assert "in the order of the data's own files" in caught.value.hint


def test_tables_that_are_refused(tmp_path: Path) -> None:
    broken = table()
    broken[int(digits().examples.validation[0])] = np.nan  # type: ignore[union-attr]
    for arrays, found in (
        ({"z": table(rows=1796)}, "1796 rows; allowed are 1797 (train 1797)"),
        ({"z": table(classes=7)}, "7 classes, but digits has 10"),
        ({"z": table().astype(np.int64)}, "holds numbers of type int64"),
        ({"z": broken}, "logits are not finite for 1 of "),
        ({"z": table()[None]}, "holds z (1, 1797, 10)"),
        ({"a": table(), "b": table()}, "holds a (1797, 10), b (1797, 10)"),
        ({"z": table(), "names": ["a"]}, "1 names for 1797 rows"),
        ({"z": table(), "names": [f"{it}.png" for it in range(ROWS)]}, "the data's files hold many images each"),
        ({"z": np.array([{}], dtype=object)}, "cannot be read as a table of logits"),
    ):
        np.savez(tmp_path / "t.npz", **arrays)
        assert found in refused(f"logits:{tmp_path}/t.npz").message
    assert "unknown option 'norm'" in refused(f"logits:{tmp_path}/t.npz?norm=none").message


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Data, Path]:
    """A folder of grey images with the level of their number, in train and test."""
    folder = tmp_path_factory.mktemp("images") / "set"
    level = 0
    for part, count in (("train", 12), ("test", 4)):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (level,) * 3).save(folder / part / name / f"{number:02d}.png")
                level += 1
    return load_data(DataSpec(name=f"folder:{folder}", validation=8)), folder


def level_of(images: Tensor) -> Tensor:
    return images[:, 0, 0, 0].float()


@pytest.mark.parametrize("form", ["relative", "below the split", "absolute", "an array per file", "safetensors"])
def test_rows_may_be_named_by_file(form: str, photographs: tuple[Data, Path], tmp_path: Path) -> None:
    data, folder = photographs
    files = sorted((folder / "train").rglob("*.png"))
    rows = [np.array([number, -number], dtype=np.float32) for number in range(len(files))]
    start = {"absolute": Path("/"), "below the split": folder / "train"}.get(form, folder)
    names = [("/" if form == "absolute" else "") + it.relative_to(start).as_posix() for it in files]
    shuffled = np.random.default_rng(0).permutation(len(files))
    path = tmp_path / "t"
    if form == "safetensors":
        save_file({names[it]: torch.from_numpy(rows[it]) for it in shuffled}, path)
    elif form == "an array per file":
        _savez(path, **{names[it]: rows[it] for it in shuffled})
    else:
        _savez(path, logits=[rows[it] for it in shuffled], names=[names[it] for it in shuffled])
    teacher = load(f"logits:{path}", data=data)
    assert teacher.table is not None
    assert data.examples is not None
    assert torch.equal(teacher.table[data.examples.train][:, 0], level_of(data.train.images))
    assert torch.equal(teacher.table[data.examples.validation][:, 0], level_of(data.validation.images))


def test_rows_in_order_may_leave_the_test_images_out(photographs: tuple[Data, Path], tmp_path: Path) -> None:
    data, _ = photographs
    assert data.examples is not None
    for count in (24, 32):
        np.save(tmp_path / "t.npy", np.stack([np.arange(count), np.zeros(count)], 1).astype(np.float32))
        teacher = load(f"logits:{tmp_path}/t.npy", data=data)
        assert teacher.table is not None
        assert torch.equal(teacher.table[data.examples.train][:, 0], level_of(data.train.images))
    np.save(tmp_path / "t.npy", np.zeros((25, 2), np.float32))
    assert (
        "25 rows; allowed are 32, or 24 without test (train 24 + test 8)"
        in refused(f"logits:{tmp_path}/t.npy", data).message
    )


def test_a_missing_or_ambiguous_name_is_named(photographs: tuple[Data, Path], tmp_path: Path) -> None:
    data, folder = photographs
    np.savez(tmp_path / "t.npz", **{f"cat/{number:02d}.png": np.zeros(2, np.float32) for number in range(12)})
    assert f"no row for {folder}/train/dog/00.png" in refused(f"logits:{tmp_path}/t.npz", data).message
    np.savez(tmp_path / "t.npz", **{f"train/cat/{number:02d}.png": np.zeros(2, np.float32) for number in range(12)})
    assert f"no row for {folder}/train/dog/" in refused(f"logits:{tmp_path}/t.npz", data).message
    np.savez(tmp_path / "t.npz", **{f"{number:02d}.png": np.zeros(2, np.float32) for number in range(12)})
    assert "'00.png' names both" in refused(f"logits:{tmp_path}/t.npz", data).message


# Ensembles


def test_an_ensemble_is_the_mean_of_its_members_probabilities(tmp_path: Path) -> None:
    study = {
        "a": _file(network(seed=1), tmp_path / "a.pt") + "?norm=none",
        "b": _file(network(seed=2), tmp_path / "b.pt") + "?norm=half",
    }
    images = digits().validation.images[:9]
    members = [load(uri, data=digits()) for uri in study.values()]
    teacher = load("ensemble:a+b", data=digits(), study=study)
    mean = torch.stack([logits_of(it, images).softmax(1) for it in members]).mean(0)
    assert torch.allclose(logits_of(teacher, images), mean.log(), atol=1e-5)
    assert torch.allclose(teacher.quick(images)(images), mean.log(), atol=1e-5)
    costs = [cost_of(it, digits()) for it in members]
    assert cost_of(teacher, digits()).params == sum(it.params or 0 for it in costs)
    assert cost_of(teacher, digits()).macs == sum(it.macs or 0 for it in costs)
    assert teacher.fingerprint == ensemble_fingerprint([it.fingerprint for it in members])
    assert teacher.fingerprint != load("ensemble:b+a", data=digits(), study=study).fingerprint
    assert teacher.name == "a-b"
    assert "the mean of the probabilities of a, b" in teacher.notes[0]


def test_an_ensemble_of_confident_members_stays_finite() -> None:
    class Sure(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([[300.0, 0.0, -300.0]]).expand(len(images), 3)

    plain = Normalisation("none", (0.0,), (1.0,))
    sure = ready(Sure(), name="s", uri="", architecture="", normalisation=plain, channels=1)
    logits = ensemble([sure, sure], name="e", uri="ensemble:s+s")(digits().validation.images[:2])
    assert torch.allclose(logits, torch.tensor([[0.0, -300.0, -600.0]]).expand(2, 3))


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("ensemble:a", "an ensemble has at least two members"),
        ("ensemble:a+c", "no teacher of this study is named 'c'"),
        ("ensemble:a+a", "'a' is named twice"),
        ("ensemble:a+e", "'e' is an ensemble itself"),
        ("ensemble:a+b?norm=none", "unknown option 'norm'"),
    ],
)
def test_ensembles_that_are_refused(uri: str, found: str) -> None:
    with pytest.raises(TeacherError) as caught:
        members_of(uri, {"a": "file:a", "b": "file:b", "e": "ensemble:a+b"})
    assert found in caught.value.message
    assert uri in caught.value.message


# Folders and patterns


def test_a_folder_or_a_pattern_names_every_checkpoint_in_sorted_order(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    (runs / "more").mkdir(parents=True)
    for name in ("epoch 9.pt", "epoch 10.th", "what?", "more/c.pt"):
        torch.save(network().state_dict(), runs / name)
    save_file(network().state_dict(), runs / "a.weights")
    (runs / "log.txt").write_text("epoch 1: 3 %\n")
    (runs / ".hidden").write_text("")
    expected = [f"file:{runs}/{name}" for name in ("a.weights", "epoch 10.th", "epoch 9.pt", "what?")]
    assert candidates(f"file:{runs}") == (expected, ["log.txt"])
    found, _ = candidates(f"file:{runs}?norm=none&size=8")
    assert found == [f"{it}?norm=none&size=8" for it in expected]
    assert [load(it, data=digits()).input_size for it in found] == [None] * 4
    assert candidates(f"file:{runs}/epoch*?norm=none")[0] == [f"{it}?norm=none" for it in expected[1:3]]
    assert candidates(f"file:{runs}/**/*.pt")[0] == [f"file:{runs}/epoch 9.pt", f"file:{runs}/more/c.pt"]
    assert candidates(f"file:{runs}/what?") == ([f"file:{runs}/what?"], []), "a file wins"
    runs.rename(tmp_path / "what? 10%")
    renamed = [it.replace("/runs/", "/what? 10%/") for it in expected]
    assert candidates(f"file:{tmp_path}/what? 10%?classes=what?.txt")[0] == [
        f"{it}?classes=what?.txt" for it in renamed
    ]
    assert candidates(f"file:{tmp_path}/what%3F 10%25?norm=none")[0] == [f"{it}?norm=none" for it in renamed]
    assert candidates(f"adapt:file:{tmp_path}/what%3F 10%25?norm=none") == (
        [f"adapt:{it}?norm=none" for it in renamed],
        ["log.txt"],
    )
    assert candidates("adapt:timm:resnet18") == (["adapt:timm:resnet18"], [])
    assert candidates("ladder:resnet8") == (["ladder:resnet8"], [])


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode on this system")
def test_a_checkpoint_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "cafe.pt")
    (tmp_path / "cafe.pt").rename(tmp_path / os.fsdecode(b"caf\xe9.pt"))
    with pytest.raises(TeacherError, match=r"the name holds bytes that are not UTF-8"):
        candidates(f"file:{tmp_path}")


def test_folders_and_patterns_without_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "log.txt").write_text("epoch 1: 3 %\n")
    for target, found in (
        ("empty", "the folder holds no checkpoint, but no file"),
        ("logs", "the folder holds no checkpoint, but log.txt"),
        ("*.pt", "no file matches this pattern"),
        ("logs/*", "log.txt is no checkpoint of torch or safetensors (1 of 1 files that match)"),
    ):
        with pytest.raises(TeacherError) as caught:
            candidates(f"file:{tmp_path}/{target}")
        assert found in caught.value.message
        assert caught.value.hint


@pytest.mark.parametrize(
    ("teachers", "budget", "most", "smallest"),
    [
        (4, "13.5", 3, "too few for 4 teachers: the smallest is 14 "),
        (30, "13.5", 3, r"too few for 30 teachers \(the plan would try 4\): the smallest is 14 "),
    ],
)
def test_a_budget_for_fewer_teachers_says_for_how_many(teachers: int, budget: str, most: int, smallest: str) -> None:
    """No teacher 1, confirm 8 and search 1 are 10; four teachers cost 1 each, each further one a rung of a third."""
    space = Space.model_validate({"training": {"epochs": 12, "rung_epochs": 4}})
    with pytest.raises(ConfigError, match=smallest) as caught:
        make_plan(space, teachers=teachers, requested=budget)
    assert f"name at most {most} teachers" in caught.value.hint
    assert make_plan(space, teachers=most, requested=budget).search >= 1
    with pytest.raises(ConfigError, match="too few"):
        make_plan(space, teachers=most + 1, requested=budget)


def test_a_budget_for_no_teacher_says_only_that_fewer_cost_less() -> None:
    space = Space.model_validate({"training": {"epochs": 12, "rung_epochs": 4}})
    with pytest.raises(ConfigError) as caught:
        make_plan(space, teachers=3, requested="1")
    assert "name fewer teachers" in caught.value.hint


# What is said about teachers


def record(name: str, fingerprint: str) -> TeacherRecord:
    return TeacherRecord(
        name=name,
        uri=f"file:{name}",
        architecture="resnet8",
        fingerprint=fingerprint,
        cost=TeacherCostRecord(params=1, macs=1, size_bytes=4),
        normalisation="none",
        val_top1=0.5,
        val_nll=1.0,
        val_ece=0.1,
        notes=("first",),
    )


def test_equal_teachers_name_each_other() -> None:
    a, b, c = with_equals([record("a", "1"), record("b", "2"), record("c", "1")])
    assert a.notes == ("first", "the same network with the same weights as c: their logits are equal")
    assert b.notes == ("first",)
    assert c.notes[1].startswith("the same network with the same weights as a")


def test_logits_too_sharp_for_any_temperature_are_said(tmp_path: Path) -> None:
    module = trained("none")
    teacher = load(_file(module, tmp_path / "t.pt") + "?norm=none", data=digits())
    logits = logits_of(teacher, digits().validation.images)
    assert not any("lie so far apart" in note for note in check(teacher, digits(), logits).notes)
    notes = check(teacher, digits(), logits * 1000, hottest=16.0).notes
    assert any("even at temperature 16, the highest of this space" in note for note in notes)


def test_the_highest_temperature_of_a_space() -> None:
    assert hottest_of(Space()) == 30
    narrow = {"search": {"methods": {"ts": {"tau": {"low": 1.0, "high": 8.0}}, "ats": {"tau_target": 2.0}}}}
    assert hottest_of(Space.model_validate(narrow)) == 8


def test_timm_fails_fast_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    import huggingface_hub

    class Away:
        asked = 0

        def head(self, *_: object, **__: object) -> None:
            Away.asked += 1
            raise ConnectionError("no route to host")

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.utils, "get_session", Away)
    error = refused("timm:resnet18.a1_in1k")
    assert "not on this machine, and https://" in error.message
    assert "cannot be reached (ConnectionError)" in error.message
    assert Away.asked == 1
    assert "HF_HUB_OFFLINE" not in os.environ


# Files that a URI needs


def test_the_files_of_a_uri(tmp_path: Path) -> None:
    for name in ("nets.py", "w?.th", "names%.txt", "z.npy"):
        (tmp_path / name).write_text("")
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "config.json").write_text("{}")
    uri = f"python:{tmp_path}/nets.py:net?weights={tmp_path}/w?.th%23ema&classes={tmp_path}/names%25.txt&depth=3"
    weights, classes = tmp_path / "w?.th", tmp_path / "names%.txt"
    assert files_of(uri) == {str(weights): {"w?.th": weights}, str(classes): {"names%.txt": classes}}
    assert files_of(f"logits:{tmp_path}/z.npy") == {f"{tmp_path}/z.npy": {"z.npy": tmp_path / "z.npy"}}
    local = {"local/config.json": tmp_path / "local" / "config.json"}
    assert files_of(f"timm:local-dir:{tmp_path}/local") == {f"{tmp_path}/local": local}
    without = (
        f"python:{tmp_path}/nets.py:net?weights=none",
        "python:package:net",
        "torchvision:resnet18@DEFAULT",
    )
    assert [files_of(it) for it in (*without, "ensemble:a+b", "ladder:resnet8")] == [{}] * 5


def test_a_uri_reads_the_same_where_copies_are_used(tmp_path: Path) -> None:
    name = f"{tmp_path}/a?b%20.pt"
    Path(name).write_text("")
    uri = f"file:{name}?norm=none&name=x%26y"
    here, (named,) = parse(uri), files_of(uri)
    assert named == name
    Path(name).unlink()
    use_copies({named: tmp_path / "copy.pt"})
    try:
        there = parse(uri)
        assert (there.target, there.options) == (here.target, here.options)
        assert local_path(there.target) == tmp_path / "copy.pt"
    finally:
        use_copies({})
    assert local_path(name) == Path(name)


def test_the_files_of_an_onnx_network_are_those_of_its_weights_too(tmp_path: Path) -> None:
    write_onnx(tmp_path / "t.onnx", external="t.weights")
    (files,) = files_of(f"onnx:{tmp_path}/t.onnx").values()
    assert files == {name: tmp_path / name for name in ("t.onnx", "t.weights")}

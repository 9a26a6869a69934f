"""Checkpoint files that hold no teacher for the data at hand: each is an error that says why."""

import io
import json
import pickle
import random
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import safetensors.torch
import torch
from teacher_files import ARCHITECTURE, Touch, coloured, digits, network, refused

from autodistill.errors import TeacherError
from autodistill.teachers import Teacher, load, save
from autodistill.teachers.adaptation import pretrained


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "t.safetensors"
    save(path, network(), architecture=ARCHITECTURE, data=digits())
    return path


@pytest.fixture
def good_pt(tmp_path: Path) -> Path:
    torch.save({"state_dict": network().state_dict(), "arch": ARCHITECTURE}, tmp_path / "t.pt")
    return tmp_path / "t.pt"


def with_facts(path: Path, **facts: Any) -> str:
    state = network().state_dict()
    known: dict[str, Any] = {"architecture": ARCHITECTURE, **facts}
    safetensors.torch.save_file(state, path, {key: json.dumps(value) for key, value in known.items()})
    return f"file:{path}"


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert f"no such file: {tmp_path}/t.pt" in refused(f"file:{tmp_path}/t.pt").message
    (tmp_path / "t.safetensors").mkdir()
    assert "is a folder, not a file" in refused(f"file:{tmp_path}/t.safetensors").message


@pytest.mark.parametrize(
    ("content", "what", "hint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "a web page", "download the file itself"),
        (b"\n <html></html>", "a web page", "download the file itself"),
        (b'{"message": "not found"}', "JSON text", "download the file itself"),
        (b"\x93NUMPY\x01\x00", "a NumPy array", "logits:FILE"),
        (b"\x08\x07\x12\x07pytorch", "an ONNX or another protobuf file", "onnx:FILE"),
        (b"\x1f\x8b\x08\x00", "a gzip archive", "unpack it"),
        (b"\x89HDF\r\n", "an HDF5 file", "convert"),
    ],
)
def test_a_file_that_is_no_checkpoint(content: bytes, what: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "t.pth").write_bytes(content)
    error = refused(f"file:{tmp_path}/t.pth")
    assert f"t.pth is {what}" in error.message
    assert hint in error.hint


def test_a_file_of_any_suffix_is_read(tmp_path: Path) -> None:
    torch.save({"state_dict": network().state_dict()}, tmp_path / "t.pt")
    save(tmp_path / "t.safetensors", network(), architecture=ARCHITECTURE, data=digits())
    for number, suffix in enumerate(("", ".th", ".ckpt", ".pth.tar", ".weights")):
        for source in ("t.pt", "t.safetensors"):
            path = tmp_path / f"{number}{source[2]}{suffix}"
            path.write_bytes((tmp_path / source).read_bytes())
            assert load(f"file:{path}", data=digits()).architecture == ARCHITECTURE


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_that_may_not_be_read(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / f"t{suffix}").write_bytes(b"x")
    monkeypatch.setattr(torch, "load", deny)
    monkeypatch.setattr(safetensors, "safe_open", deny)
    assert "Permission denied" in refused(f"file:{tmp_path}/t{suffix}").message


def test_a_name_that_the_system_cannot_look_up(tmp_path: Path) -> None:
    assert "File name too long" in refused(f"file:{tmp_path}/{'a' * 300}.pt").message


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file(share: float, good: Path, good_pt: Path) -> None:
    for path in (good, good_pt):
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        error = refused(f"file:{path}")
        assert f"{path} cannot be read as plain tensors" in error.message
        assert "copy a damaged file again" in error.hint


def test_a_bit_that_flipped_in_a_file_of_ours_is_found(good: Path) -> None:
    """Wherever it did among weights and statistics; what others wrote carries no seal and is taken as it is."""
    content = good.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for where in (header, header + 1000, len(content) - 1, content.index(b"0.", 8) + 2):
        good.write_bytes(content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :])
        assert "other checksum" in refused(f"file:{good}").message, where
    good.write_bytes(content)
    assert isinstance(load(f"file:{good}", data=digits()), Teacher)
    assert isinstance(load(with_facts(good.with_name("theirs.safetensors")), data=digits()), Teacher)


def test_a_bit_that_flipped_in_a_zip_file_is_found(good_pt: Path) -> None:
    content = good_pt.read_bytes()
    with ZipFile(good_pt) as archive:
        largest = max(archive.infolist(), key=lambda it: it.file_size)
    where = largest.header_offset + 200 + largest.file_size // 2
    good_pt.write_bytes(content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :])
    assert f"its member '{largest.filename}' is damaged (other CRC-32)" in refused(f"file:{good_pt}").message


def test_a_zip_file_without_checksums_is_read(good_pt: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(network().state_dict(), good_pt)
    finally:
        torch.serialization.set_crc32_options(True)
    assert isinstance(load(f"file:{good_pt}?norm=none", data=digits()), Teacher)


@pytest.mark.parametrize(
    ("member", "what", "call"),
    [
        ("constants.pkl", "a TorchScript network", "torch.jit.load(...)"),
        ("archive_format", "a program of torch.export", "torch.export.load(...).module()"),
    ],
)
def test_a_zip_file_of_a_program_is_named(member: str, what: str, call: str, tmp_path: Path) -> None:
    with ZipFile(tmp_path / "t.pt", "w") as archive:
        archive.writestr(f"t/{member}", b"")
    error = refused(f"file:{tmp_path}/t.pt")
    assert f"t.pt is {what}" in error.message
    assert f"returns {call}: python:FILE.py:FACTORY" in error.hint


def test_random_damage_gives_a_teacher_or_an_error_of_ours(good: Path, good_pt: Path, tmp_path: Path) -> None:
    legacy, draw = tmp_path / "legacy.pt", random.Random(0)
    torch.save(network().state_dict(), legacy, _use_new_zipfile_serialization=False)
    found = []
    for path in (good, good_pt, legacy):
        content = path.read_bytes()
        for _ in range(40):
            damaged = bytearray(content[: draw.choice([len(content), draw.randrange(len(content))])])
            for _ in range(draw.randrange(4)):
                # Most bytes are weights: look at both ends, where the structure is.
                where = draw.choice([draw.randrange(len(damaged)), draw.randrange(min(400, len(damaged)))])
                damaged[where] = draw.randrange(256)
            path.write_bytes(damaged)
            try:
                found.append(isinstance(load(f"file:{path}?arch={ARCHITECTURE}", data=digits()), Teacher))
            except TeacherError:
                found.append(False)
    assert 0 < sum(found) < len(found)


@pytest.mark.parametrize(
    ("form", "found"),
    [
        ("zip", "carries posix.mkdir, which is never run"),
        ("legacy", "carries posix.mkdir, which is never run"),
        ("wrapped", "carries posix.mkdir, which is never run"),
        ("pickle", "not a complete torch file"),
        ("misnamed", "carries posix.mkdir, which is never run"),
    ],
)
def test_code_in_a_checkpoint_never_runs(
    form: str, found: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path, sign = tmp_path / ("t.safetensors" if form == "misnamed" else "t.pt"), tmp_path / "sign"
    held = {"state_dict": network().state_dict(), "arch": ARCHITECTURE, "x": Touch(sign)}
    if form == "wrapped":
        held = {"state_dict": Touch(sign)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(Touch(sign), protocol=4))
    else:
        torch.save(held, path, _use_new_zipfile_serialization=form != "legacy")
    error = refused(f"file:{path}?arch={ARCHITECTURE}")
    assert found in error.message
    assert "weights_only" not in error.message
    assert not sign.exists()
    assert not recwarn.list
    if form == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    assert sign.exists(), "the file is harmless: the test shows nothing"


def test_a_pickled_network_and_a_file_of_something_else(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "whole.pt")
    error = refused(f"file:{tmp_path}/whole.pt?arch=resnet8")
    assert "carries torch.nn.modules.container.Sequential, which is never run" in error.message
    assert "save `model.state_dict()`" in error.hint
    for held in ([1, 2], {"epoch": 3}, torch.zeros(2), {"state_dict": {}}):
        torch.save(held, tmp_path / "t.pt")
        assert "holds no state dict" in refused(f"file:{tmp_path}/t.pt?arch=resnet8").message


def test_another_architecture_and_another_width(tmp_path: Path) -> None:
    torch.save(network("wrn_16_2:0.25").state_dict(), tmp_path / "t.pt")
    error = refused(f"file:{tmp_path}/t.pt?arch={ARCHITECTURE}")
    assert f"not a {ARCHITECTURE}" in error.message
    assert "missing bn1.bias" in error.message
    assert "unexpected bn.bias" in error.message
    assert "recognised at any width" in error.hint
    torch.save(network("resnet8:0.5").state_dict(), tmp_path / "t.pt")
    error = refused(f"file:{tmp_path}/t.pt?arch={ARCHITECTURE}")
    assert "conv1.weight is (8, 1, 3, 3), not (4, 1, 3, 3)" in error.message
    assert "width" in error.hint


def test_another_class_count_by_the_head_or_by_the_metadata(tmp_path: Path) -> None:
    torch.save(network(classes=7).state_dict(), tmp_path / "t.pt")
    assert "7 classes, but digits has 10" in refused(f"file:{tmp_path}/t.pt?arch={ARCHITECTURE}").message
    uri = with_facts(tmp_path / "t.safetensors", classes=[str(number) for number in range(9)])
    assert "9 class names for 10 outputs (digits has 10 classes)" in refused(uri).message


def test_classes_in_another_order_are_put_in_order(tmp_path: Path) -> None:
    plain = load(with_facts(tmp_path / "plain.safetensors"), data=digits())
    uri = with_facts(tmp_path / "t.safetensors", classes=[0, 1, 2, 4, 3, 5, 6, 7, 8, 9])
    images = digits().validation.images[:5]
    moved = load(uri, data=digits())
    assert torch.equal(moved(images), plain(images)[:, [0, 1, 2, 4, 3, 5, 6, 7, 8, 9]])
    assert moved.fingerprint != plain.fingerprint
    in_order = load(with_facts(tmp_path / "t.safetensors", classes=list(range(10))), data=digits())
    assert in_order.fingerprint == plain.fingerprint
    other = with_facts(tmp_path / "t.safetensors", classes=[0, 1, 2, 3, 4, 5, 6, 7, 8, "nine"])
    assert "class '9' of digits is not among its 10 classes" in refused(other).message


@pytest.mark.parametrize("architecture", [ARCHITECTURE, "wrn_16_2:0.25", "vgg8:0.1", "mobilenetv2:0.25"])
def test_another_channel_count(architecture: str, tmp_path: Path) -> None:
    torch.save(network(architecture, channels=3).state_dict(), tmp_path / "t.pt")
    assert load(f"file:{tmp_path}/t.pt?arch={architecture}", data=digits()).channels == 3
    torch.save(network(architecture).state_dict(), tmp_path / "t.pt")
    error = refused(f"file:{tmp_path}/t.pt?arch={architecture}", coloured(digits()))
    assert "takes images of 1 channels, digits has 3" in error.message
    assert "3-channel" in error.hint


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("ach=resnet8", "unknown option 'ach' (did you mean 'arch'?"),
        ("arch=resnet8&temperature=4", "unknown option 'temperature'"),
        ("whatever", "unknown option 'whatever'"),
        ("arch=resnet9", "unknown network 'resnet9' (did you mean 'resnet"),
        ("arch=", "unknown network ''"),
        ("arch=resnet8:wide", "width 'wide'"),
        ("norm=imagnet", "unknown norm 'imagnet' (allowed: data, half, none, pixels)"),
        ("norm=", "unknown norm ''"),
    ],
)
def test_a_wrong_option(query: str, found: str, good: Path) -> None:
    assert found in refused(f"file:{good}?{query}").message


def test_imagenet_statistics_are_for_three_channels(tmp_path: Path) -> None:
    torch.save(network(channels=3).state_dict(), tmp_path / "t.pt")
    uri = f"file:{tmp_path}/t.pt?arch={ARCHITECTURE}&norm="
    assert load(f"{uri}imagenet", data=coloured(digits())).normalisation.mean == (0.485, 0.456, 0.406)
    assert "did you mean 'imagenet'" in refused(f"{uri}imagnet", coloured(digits())).message


@pytest.mark.parametrize("architecture", [ARCHITECTURE, "resnet20", "wrn_16_2:0.25", "vgg8:0.1", "mobilenetv2:0.5"])
def test_a_file_without_an_architecture_is_identified(architecture: str, tmp_path: Path) -> None:
    torch.save(network(architecture).state_dict(), tmp_path / "t.pt")
    teacher = load(f"file:{tmp_path}/t.pt?norm=none", data=digits())
    assert teacher.architecture == architecture
    assert teacher.notes == (f"identified as {architecture} by its tensors",)


@pytest.mark.parametrize("uri", ["file:", "adapt:file:"])
def test_the_stated_size_does_not_decide_the_layout(uri: str, tmp_path: Path) -> None:
    source = network("resnet18:0.125", size=224)
    torch.save(source.state_dict(), tmp_path / "t.pt")
    text = f"{uri}{tmp_path}/t.pt?norm=none&size=16"
    teacher = pretrained(text, data=digits()).teacher if uri == "adapt:file:" else load(text, data=digits())
    assert teacher.input_size == 16
    assert str(teacher.module) == str(source)


def test_a_file_of_an_unknown_network_names_the_nearest(tmp_path: Path) -> None:
    state = network("resnet20").state_dict()
    state["layer1.0.attention.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "t.pt")
    error = refused(f"file:{tmp_path}/t.pt?norm=none")
    assert "its tensors fit no known network; the nearest is resnet20" in error.message
    assert "unexpected layer1.0.attention.weight" in error.message
    assert f"file:{tmp_path}/t.pt?arch=NAME (one of mobilenetv2, resnet8," in error.hint
    assert f"python:FILE.py:FACTORY?weights={tmp_path}/t.pt" in error.hint


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({"mean": "grey", "std": [1]}, "mean = 'grey'"),
        ({"mean": [0.1], "std": [0]}, "std.0 = 0"),
        ({"mean": [float("nan")], "std": [1]}, "mean.0 = nan"),
        ({"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}, "3 numbers of mean and 3 of std for 1 channels"),
        ({"mean": [0.1], "std": [1, 1]}, "1 numbers of mean and 2 of std"),
        ({"architecture": ["resnet8"]}, "architecture = ['resnet8']"),
        ({"stem_stride": 3}, "stem_stride = 3"),
        ({"image_size": 0}, "image_size = 0"),
        ({"image_size": 2, "stem_stride": 2}, "stem_stride = 2: 2x2 images allow"),
    ],
)
def test_metadata_that_make_no_sense(facts: dict[str, Any], found: str, tmp_path: Path) -> None:
    assert found in refused(with_facts(tmp_path / "t.safetensors", **facts)).message


def test_options_replace_facts_that_make_no_sense(tmp_path: Path) -> None:
    odd = with_facts(tmp_path / "t.safetensors", std=[0], classes="a,b", image_size="large")
    assert "by norm=, mean=, std=; or save it again" in refused(odd).hint
    assert "by classes=;" in refused(f"{odd}?norm=none").hint
    assert "by size=;" in refused(f"{odd}?norm=none&classes=0,1,2,3,4,5,6,7,8,9").hint
    stated = f"{odd}?mean=0&std=1&classes=0,1,2,3,4,5,6,7,8,9&size=8"
    assert load(stated, data=digits()).normalisation.std == (1.0,)


def test_unknown_schemes_get_near_matches() -> None:
    assert "did you mean 'torchvision'" in refused("torchvison:resnet18").message
    assert "unknown scheme 'ckpt.pt'" in refused("ckpt.pt").message.replace("'ckpt.pt': ", "", 1)


def test_a_teacher_leaves_torchs_generator_alone(good: Path) -> None:
    before = torch.get_rng_state()
    load(f"file:{good}", data=digits())
    assert torch.equal(torch.get_rng_state(), before)

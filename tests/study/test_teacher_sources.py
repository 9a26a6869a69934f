"""Studies over teachers of every source: a folder of checkpoints, a table, an ensemble with a teacher of the ladder."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_studies import drive, options

from autodistill.cli.teachers import check_teachers, inspect_teachers, list_teachers
from autodistill.config import DataSpec
from autodistill.data import load as load_data
from autodistill.errors import MisreadError, TeacherError
from autodistill.executors import SerialExecutor, TrainTeacherTask
from autodistill.models import build
from autodistill.records import Event, Note
from autodistill.report import render
from autodistill.study import prepare_teachers, resolve
from autodistill.teachers import ensemble_fingerprint, save

DATA = DataSpec(train=100, validation=100, test=100, name="digits")


def write_teachers(folder: Path) -> list[str]:
    """Write a folder of two equal checkpoints beside a log, and a table; return their URIs."""
    (folder / "runs").mkdir()
    for name in ("a", "b"):
        module = build("resnet8:0.25", num_classes=10, in_channels=1, image_size=8, seed=0)
        torch.save(module.state_dict(), folder / "runs" / f"{name}.pt")
    (folder / "runs" / "log.txt").write_text("epoch 1\n")
    data = load_data(DATA)
    table = np.zeros((1797, 10), np.float32)
    for split, numbers in ((data.train, data.examples.train), (data.validation, data.examples.validation)):
        table[numbers, split.labels] = 5.0
    np.save(folder / "z.npy", table + np.random.default_rng(0).normal(size=table.shape).astype(np.float32))
    return [f"file:{folder}/runs?norm=none&accept=yes", f"logits:{folder}/z.npy"]


def test_names_and_fingerprints_of_a_study(tmp_path: Path) -> None:
    given = write_teachers(tmp_path)
    spec = resolve(
        options(teachers=[*given, "ladder:resnet8:0.25", "ensemble:a+z", "ensemble:z+resnet8:0.25"], budget="16")
    )
    assert list(spec.teachers) == ["a", "b", "z", "resnet8:0.25", "a-z", "z-resnet8-0.25"]
    assert spec.fingerprints["a"] == spec.fingerprints["b"]
    assert spec.fingerprints["a-z"] == ensemble_fingerprint([spec.fingerprints["a"], spec.fingerprints["z"]])
    assert set(spec.fingerprints) == {"a", "b", "z", "a-z"}, "those of the ladder are not trained yet"
    assert spec.unready == {"resnet8:0.25", "z-resnet8-0.25"}
    assert any("no checkpoints and left out: log.txt" in note for note in spec.notes)
    with pytest.raises(TeacherError, match="no teacher of this study is named 'y'"):
        resolve(options(teachers=[*given, "ensemble:a+y"]))


def test_a_file_of_a_folder_that_is_no_network_is_left_out_and_named(tmp_path: Path) -> None:
    """The smallest budget follows from the teachers that are left: two, not four."""
    folder, _ = write_teachers(tmp_path)
    runs = tmp_path / "runs"
    torch.save({"state": {"exp_avg": torch.zeros(3)}, "lr": 0.1}, runs / "optimizer.pt")
    (runs / "torn.pt").write_bytes((runs / "a.pt").read_bytes()[:900])
    spec = resolve(options(teachers=[folder], budget="11"))
    assert list(spec.teachers) == ["a", "b"]
    assert list(spec.left_out) == ["optimizer", "torn"]
    assert spec.left_out["optimizer"].startswith("its tensors fit no known network")
    assert spec.left_out["torn"].startswith("torn.pt cannot be read as plain tensors")
    (note,) = [it for it in spec.notes if "2 of 4 checkpoints cannot be loaded and are left out" in it]
    for name in ("optimizer.pt", "torn.pt"):
        assert f"\n  file:{runs}/{name}" in note
    pattern = resolve(options(teachers=[f"file:{runs}/[abo]*.pt?norm=none"]))
    assert (list(pattern.teachers), list(pattern.left_out)) == (["a", "b"], ["optimizer"])


def test_a_file_named_by_itself_or_by_an_ensemble_must_load(tmp_path: Path) -> None:
    folder, _ = write_teachers(tmp_path)
    stray = tmp_path / "runs" / "optimizer.pt"
    torch.save({"exp_avg": torch.zeros(3)}, stray)
    for more in (f"file:{stray}?norm=none&accept=yes", "ensemble:a+optimizer"):
        with pytest.raises(TeacherError, match=r"optimizer\.pt.*: its tensors fit no known network") as caught:
            resolve(options(teachers=[folder, more], budget="20"))
        assert caught.value.hint


def test_all_files_of_a_folder_that_cannot_be_loaded_are_named_at_once(tmp_path: Path) -> None:
    for name in ("m.pt", "v.pt"):
        torch.save({"exp_avg": torch.zeros(3)}, tmp_path / name)
    with pytest.raises(TeacherError, match="none of its 2 checkpoints can be loaded") as caught:
        resolve(options(teachers=[f"file:{tmp_path}"]))
    assert all(f"\n  file:{tmp_path}/{name}: its tensors fit no" in caught.value.message for name in ("m.pt", "v.pt"))
    assert "python:FILE.py:FACTORY" in caught.value.hint


def test_the_notes_of_teachers_are_shown_when_they_are_prepared(tmp_path: Path) -> None:
    events = list[Event]()
    spec = resolve(options(teachers=write_teachers(tmp_path)))
    with SerialExecutor(spec.setup, data=spec.data) as executor:
        records = prepare_teachers(list(spec.teachers), executor, events.append).teachers
    said = [event.text for event in events if isinstance(event, Note)]
    assert "teacher a: the same network with the same weights as b: their logits are equal" in said
    assert any(text.startswith("teacher z: it knows the images without augmentation only") for text in said)
    assert [len(it.notes) > 0 for it in records] == [True] * 3
    assert records[0].notes[0].startswith("identified as resnet8:0.25")


def write_folder(folder: Path, *, trained: int) -> str:
    """Write a folder of networks, the first of which are trained; return its URI."""
    folder.mkdir()
    uris, spec = ("ladder:resnet8:0.25", "ladder:resnet8:0.5"), resolve(options())
    with SerialExecutor(spec.setup, data=spec.data) as executor:
        executor.run([TrainTeacherTask(uri=uri) for uri in uris[:trained]], lambda _: None)
    for number, uri in enumerate(uris[:trained]):
        shutil.copy(spec.path_of(uri), folder / f"good{number}.safetensors")
    for number in range(2):
        module = build("resnet8:0.25", num_classes=10, in_channels=1, image_size=8, seed=number)
        save(folder / f"untrained{number}.safetensors", module, architecture="resnet8:0.25", data=spec.data)
    return f"file:{folder}"


@pytest.mark.slow
def test_files_of_a_folder_that_do_not_pass_their_check_are_left_out(tmp_path: Path) -> None:
    folder, events = write_folder(tmp_path / "runs", trained=2), list[Event]()
    record = drive(options(teachers=[folder], budget="11"), events.append)
    assert record.state == "complete"
    assert [it.name for it in record.teachers] == ["good0", "good1"]
    assert list(record.left_out) == ["untrained0", "untrained1"]
    assert all(
        re.match("(balanced )?validation accuracy .* is not above chance", it) for it in record.left_out.values()
    )
    warnings = [it.text for it in events if isinstance(it, Note) and it.warning]
    assert any(text.startswith("teacher untrained1 is left out: ") for text in warnings)
    assert record.plan == drive(options(teachers=[folder + "/good*"], budget="11", study="two")).plan
    assert "left out: " in (render(record, tmp_path / "report").parent / "report.md").read_text()
    longer = drive(options(teachers=[folder], budget="14"))
    assert longer.left_out == record.left_out
    assert longer.trials[: len(record.trials)] == record.trials


@pytest.mark.slow
def test_a_folder_whose_every_file_fails_its_check_is_refused_and_leaves_no_study(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "runs", trained=0)
    with pytest.raises(TeacherError, match="no checkpoint passes its check") as caught:
        drive(options(teachers=[folder], budget="11"))
    named = [f"untrained{number} ({folder}/untrained{number}.safetensors): " for number in range(2)]
    assert all(text in caught.value.message for text in named)
    assert not list(Path("runs").rglob("study.json"))


@pytest.mark.slow
def test_a_file_with_too_large_logits_is_left_out_and_a_file_that_is_read_wrongly_is_an_error(tmp_path: Path) -> None:
    write_folder(tmp_path / "runs", trained=1)
    state = load_file(tmp_path / "runs" / "good0.safetensors")
    nets = tmp_path / "nets"
    nets.mkdir()
    torch.save(state, nets / "good.pt")
    torch.save({key: 1e7 * it if key.startswith("fc.") else it for key, it in state.items()}, nets / "large.pt")
    spec = resolve(options(teachers=[f"file:{nets}?norm=data"], budget="11"))
    with SerialExecutor(spec.setup, data=spec.data) as executor:
        prepared = prepare_teachers(list(spec.teachers), executor, lambda _: None, optional=spec.optional)
    assert [it.name for it in prepared.teachers] == ["good"]
    assert "does not fit into float16" in prepared.refused["large"].message
    torch.save(state, nets / "large.pt")
    with pytest.raises(MisreadError, match="right as it is read") as caught:
        drive(options(teachers=[f"file:{nets}?mean=3&std=0.05"], budget="11", study="wrong"))
    assert caught.value.hint.startswith("state it: ")


@pytest.mark.slow
def test_commands_about_teachers_leave_them_out_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "runs", trained=1)
    sizes = {"space": "smoke", "overrides": list(options().overrides)}
    check_teachers(teacher=[folder], output="json", **sizes)
    out, err = capsys.readouterr()
    assert [it["name"] for it in json.loads(out)["teachers"]] == ["good0"]
    assert "teacher untrained0 is left out: " in err
    inspect_teachers(output="json", to=None, teacher=[folder], **sizes)
    out, err = capsys.readouterr()
    assert [it["name"] for it in json.loads(out)["teachers"]] == ["good0"]
    assert "teacher untrained1 is left out: " in err


@pytest.mark.slow
def test_a_teacher_that_waits_for_the_ladder_is_listed_as_not_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teachers = [*write_teachers(tmp_path), "ladder:resnet8:0.25", "ensemble:z+resnet8:0.25"]
    given = options(teachers=teachers)
    list_teachers(output="table", space="smoke", overrides=list(given.overrides), teachers=teachers)
    out, err = capsys.readouterr()
    lines = {line.split()[0]: line.rstrip() for line in out.splitlines() if line.split()}
    assert lines["z-resnet8-0.25"].endswith("not trained yet")
    assert lines["resnet8:0.25"].endswith("not trained yet")
    assert "100.0" in lines["z"]
    assert "teacher z: it knows the images without augmentation only" in err


@pytest.mark.slow
def test_a_study_over_all_of_them_ends_in_a_report(tmp_path: Path) -> None:
    teachers = [*write_teachers(tmp_path), "ladder:resnet8:0.25", "ensemble:z+resnet8:0.25"]
    torch.save({"exp_avg": torch.zeros(3)}, tmp_path / "runs" / "optimizer.pt")
    record = drive(options(teachers=teachers, budget="16"))
    assert record.state == "complete"
    found = {it.name: it for it in record.teachers}
    member = found["resnet8:0.25"].fingerprint
    assert found["z-resnet8-0.25"].fingerprint == ensemble_fingerprint([found["z"].fingerprint, member])
    assert found["z-resnet8-0.25"].cost.params is None, "a member has an unknown cost"
    assert found["z"].cost.macs is None
    assert all(it.profile is not None for it in record.teachers)
    page = render(record, tmp_path / "report")
    markdown = (tmp_path / "report" / "report.md").read_text()
    for text in (page.read_text(), markdown):
        assert "Notes on the teachers" in text
        assert "the same network with the same weights as b" in text
        assert "its logits are the same in every epoch" in text
        assert "students that learn from it are trained without augmentation, unlike the others" in text
        assert "left out: its tensors fit no known network" in text
    again = drive(options(teachers=teachers, budget="16"))
    assert again.trials == record.trials

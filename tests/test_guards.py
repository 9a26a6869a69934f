"""Guards: no folders of the owner's machine in reports, changed teachers and data are noticed, no code runs unasked."""

import json
from pathlib import Path

import pytest
import torch
from factories import study as made_up
from safetensors.torch import load_file
from small_studies import recommending
from typer.testing import CliRunner
from user_networks import checkpoint

import autodistill as ad
from autodistill.cli import app
from autodistill.config import load
from autodistill.errors import DataError, TeacherError
from autodistill.export import export_student
from autodistill.records import StudyRecord, read_study, to_json
from autodistill.report import render
from autodistill.report.places import without_folders
from autodistill.stats.verdict import judged
from autodistill.store import StudyFolder
from autodistill.study import KNOWN
from autodistill.teachers import ensemble_fingerprint

HOME = "/home/someone/secret project"
COMMAND = f"autodistill search --student resnet8 --data 'folder:{HOME}/photos' --teacher 'file:{HOME}/nets/r20.th'"


def with_places() -> StudyRecord:
    """Return a study whose data, teachers and messages name folders of its owner's machine."""
    record = judged(made_up(12))
    names = [teacher.name for teacher in record.teachers]
    uris = [f"file:{HOME}/nets/r20.th?norm=cifar10", f"python:{HOME}/code/nets.py:net?weights=~/models/r56.th"]
    uris += [f"file:C:\\Users\\someone\\{name}.pt" for name in names[2:]]
    teachers = [it.model_copy(update={"uri": uri}) for it, uri in zip(record.teachers, uris, strict=True)]
    space = {**record.space, "teachers": uris, "data": {"name": f"folder:{HOME}/photos", "root": "/srv/images"}}
    said = record.recommendation.model_copy(update={"sentence": f"For resnet8 on folder:{HOME}/photos, take any"})
    data = record.data.model_copy(update={"name": f"folder:{HOME}/photos"})
    update = {"data": data, "teachers": tuple(teachers), "space": space, "command": COMMAND, "recommendation": said}
    return record.model_copy(update=update)


def test_reports_name_files_but_no_folder_of_the_machine(tmp_path):
    page = render(with_places(), tmp_path)
    for path in (page, tmp_path / "report.md", tmp_path / "study.json"):
        text = path.read_text(encoding="utf-8")
        assert "folder:photos" in text.replace("\\", "")
        assert "secret" in text, "the command stays as it was typed"
        document = text.replace("<span>", "").replace("</span>", "").replace("&#39;", "'").replace("\\", "")
        assert "secret" not in document.replace(COMMAND, "")
        assert "/srv" not in document
        assert "Users" not in document
    kept = json.loads((tmp_path / "study.json").read_text())
    assert kept["command"] == COMMAND
    assert kept["space"]["teachers"][:2] == ["file:r20.th?norm=cifar10", "python:nets.py:net?weights=r56.th"]
    assert kept["space"]["data"] == {"name": "folder:photos", "root": "images"}


def test_paths_in_messages_lose_the_folders_too_and_other_text_stays():
    record = with_places()
    reasons = (f"{HOME}/photos/train/a.jpg: damaged", "7/8 of /home and x/home/someone", "a ratio 1/2")
    said = record.recommendation.model_copy(update={"reasons": reasons})
    found = without_folders(record.model_copy(update={"recommendation": said})).recommendation.reasons
    assert found == ("photos/train/a.jpg: damaged", *reasons[1:])


def test_a_record_without_absolute_paths_is_the_same_object():
    record = made_up(12)
    assert without_folders(record) is record


NETS = "from user_networks import small\n"
SETTINGS = {
    "data.train": 100,
    "data.validation": 60,
    "data.test": 60,
    "training.epochs": 2,
    "training.rung_epochs": 1,
    "confirm.seeds": 2,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = tmp_path_factory.mktemp("guards")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("AUTODISTILL_CACHE", str(place / "cache"))
        (place / "nets.py").write_text(NETS)
        uri = f"python:nets.py:small?weights={checkpoint(place).name}&norm=half&name=net"
        given = {"space": "smoke", "budget": 11, "settings": SETTINGS, "executor": "serial", "progress": False}
        ad.search("resnet8:0.25", teachers=[uri], study="kept", **given)
    return place


@pytest.fixture
def kept(finished, monkeypatch):
    """The study, in its folder; files that a test changes are put back."""
    monkeypatch.chdir(finished)
    monkeypatch.setenv("AUTODISTILL_CACHE", str(finished / "cache"))
    files = [Path("nets.py"), Path("small.pth.tar"), Path("runs/kept/study.json")]
    before = {path: path.read_bytes() for path in files}
    yield ad.load_study("kept")
    for path, content in before.items():
        path.write_bytes(content)


def other_weights():
    found = torch.load("small.pth.tar")
    found["state_dict"]["linear.bias"] += 0.01
    torch.save(found, "small.pth.tar")


def other_code():
    Path("nets.py").write_text(NETS + "# a change\n")


def recommend(teacher: str | None) -> None:
    path = Path("runs/kept/study.json")
    path.write_text(to_json(recommending(read_study(path), teacher)))


def export_its_teacher_s_student(to: Path, say=lambda text: None) -> None:
    """Export the configuration with the teacher, whatever the study recommends."""
    folder = StudyFolder(Path("runs/kept"))
    record = read_study(folder.record)
    finalist = next(it for it in record.finalists if it.teacher == "net")
    update = {"verdict": "only_one", "teacher": "net", "params": finalist.params}
    record = record.model_copy(update={"recommendation": record.recommendation.model_copy(update=update)})
    space = load(str(folder.space), known=KNOWN)
    export_student(record, folder, space=space, to=to, formats=("safetensors",), say=say)


@pytest.mark.slow
@pytest.mark.parametrize("change", [other_weights, other_code])
def test_a_changed_teacher_is_refused_by_train_and_export_and_named_by_report(kept, change, tmp_path):
    recommend("net")
    change()
    with pytest.raises(TeacherError, match="teacher net: its network, weights or preprocessing are not those") as found:
        kept.train(tmp_path / "mine.safetensors", progress=False)
    assert found.value.exit_code == 2
    with pytest.raises(TeacherError, match="teacher net: its network, weights or preprocessing are not those"):
        export_its_teacher_s_student(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    shown = CliRunner().invoke(app, ["report", "kept", "--out", str(tmp_path / "page")], catch_exceptions=False)
    assert shown.stderr.startswith("warning: teacher net: its network, weights or preprocessing are not those")
    assert (tmp_path / "page" / "report.html").exists()


@pytest.mark.slow
def test_unchanged_files_pass_and_a_teacher_that_is_gone_stops_training_only(kept, tmp_path):
    page = str(tmp_path / "page")
    assert CliRunner().invoke(app, ["report", "kept", "--out", page], catch_exceptions=False).stderr == ""
    export_its_teacher_s_student(tmp_path / "out")
    Path("small.pth.tar").unlink()
    said: list[str] = []
    export_its_teacher_s_student(tmp_path / "again", said.append)
    assert (
        load_file(tmp_path / "out/student.safetensors").keys()
        == load_file(tmp_path / "again/student.safetensors").keys()
    )
    (warning,) = said
    assert warning.startswith("teacher net cannot be compared with the one of the study: ")
    recommend("net")
    with pytest.raises(TeacherError, match="no such file"):
        kept.train(tmp_path / "mine.safetensors", progress=False)
    recommend(None)
    assert kept.train(tmp_path / "mine.safetensors", progress=False).params.teacher is None


@pytest.mark.slow
def test_only_the_recommended_teacher_is_loaded_by_its_name_in_the_study(kept, tmp_path):
    """Of teachers with equal names, names have a number, which their URIs do not say."""
    recommend("net")
    path = Path("runs/kept/study.json")
    path.write_text(path.read_text().replace('"net"', '"net#2"'))
    record = read_study(path)
    (teacher,) = record.teachers
    gone = teacher.model_copy(update={"name": "net#1", "uri": "file:gone.pt?name=net"})
    path.write_text(to_json(record.model_copy(update={"teachers": (gone, teacher)})))
    assert kept.train(tmp_path / "mine.safetensors", progress=False).params.teacher == "net#2"
    other_weights()
    with pytest.raises(TeacherError, match="teacher net#2: its network, weights or preprocessing are not those"):
        kept.train(tmp_path / "other.safetensors", progress=False)
    assert not (tmp_path / "other.safetensors").exists()


@pytest.mark.slow
def test_the_members_of_a_recommended_ensemble_are_loaded(kept, tmp_path):
    recommend("net")
    path = Path("runs/kept/study.json")
    (net,) = read_study(path).teachers
    path.write_text(path.read_text().replace('"net"', '"both"'))
    record = read_study(path)
    members = [net.model_copy(update={"name": name}) for name in ("net", "twin")]
    fingerprint = ensemble_fingerprint([net.fingerprint, net.fingerprint])
    both = net.model_copy(update={"name": "both", "uri": "ensemble:net+twin", "fingerprint": fingerprint})
    path.write_text(to_json(record.model_copy(update={"teachers": (*members, both)})))
    assert kept.train(tmp_path / "mine.safetensors", progress=False).params.teacher == "both"
    other_weights()
    with pytest.raises(TeacherError, match="teacher net: its network, weights or preprocessing are not those"):
        kept.train(tmp_path / "other.safetensors", progress=False)


@pytest.mark.slow
def test_changed_data_are_refused_by_train_and_named_by_report(kept, tmp_path):
    record = kept.record
    other = record.model_copy(update={"data": record.data.model_copy(update={"fingerprint": "0" * 64})})
    Path("runs/kept/study.json").write_text(to_json(other))
    with pytest.raises(DataError, match="digits: the images or labels are not those that study 'kept' was run on"):
        kept.train(tmp_path / "mine.safetensors", progress=False)
    shown = CliRunner().invoke(app, ["report", "kept", "--out", str(tmp_path / "page")], catch_exceptions=False)
    assert "warning: digits: the images or labels are not those" in shown.stderr
    letters = other.model_copy(update={"data": other.data.model_copy(update={"name": "letters"})})
    Path("runs/kept/study.json").write_text(to_json(letters))
    with pytest.raises(DataError, match=r"^digits: study 'kept' was run on other data, letters"):
        kept.train(tmp_path / "mine.safetensors", progress=False)


@pytest.mark.slow
def test_checking_a_space_and_showing_a_study_run_no_code_of_the_user(kept):
    Path("nets.py").write_text("open('imported', 'w').close()\nraise SystemExit\n")
    assert CliRunner().invoke(app, ["show", "kept"], catch_exceptions=False).exit_code == 0
    names = ["--set", 'teachers=["python:nets.py:small"]']
    if "python" in KNOWN.datasets:
        names += ["--set", 'data.name="python:nets.py:images"']
    checked = CliRunner().invoke(app, ["spaces", "check", "runs/kept/space.toml", *names], catch_exceptions=False)
    assert checked.exit_code == 0
    assert "python:nets.py:small" in checked.stdout
    assert not Path("imported").exists()

"""Studies with adapted teachers, and the commands about them."""

import json
from pathlib import Path

import pytest
import torch
from small_studies import Killed, core, drive, fake, idle, kept, kill_after, options, stamps, without_workers
from teacher_files import network

from autodistill.cli import teachers as commands
from autodistill.errors import ConfigError, StoreError, TeacherError
from autodistill.formatting import count
from autodistill.records import Event, Note, RunEnded, TaskProgress
from autodistill.study import resolve
from autodistill.study.run import local_executor
from autodistill.teachers import ensemble_fingerprint

pytestmark = pytest.mark.slow

SHORT = "training.epochs=2"
ADAPT = ("adapt.epochs=6", "adapt.head_epochs=2", "adapt.lr=0.02", "adapt.batch_size=10")


@pytest.fixture
def source() -> str:
    """The URI of a network for seven other classes, in the study's folder."""
    torch.save({"state_dict": network(classes=7).state_dict()}, "seven.ckpt")
    return "adapt:file:seven.ckpt?arch=resnet8:0.25"


def test_a_study_adapts_its_teacher_and_keeps_it(source: str) -> None:
    """It is a teacher by itself, and a member of an ensemble."""
    asked = options(SHORT, *ADAPT, teachers=("ladder:resnet8:0.25", source, "ensemble:seven+resnet8:0.25"), budget="16")
    spec = resolve(asked)
    assert list(spec.teachers) == ["resnet8:0.25", "seven", "seven-resnet8-0.25"]
    assert spec.teachers["seven"] == source
    assert spec.untrained == [source, "ladder:resnet8:0.25"]
    assert spec.unready == {"resnet8:0.25", "seven", "seven-resnet8-0.25"}
    progress: list[TaskProgress] = []
    record = drive(asked, lambda event: progress.append(event) if isinstance(event, TaskProgress) else None)
    assert record.state == "complete"
    assert [it.done for it in progress if it.task == "teacher seven"] == list(range(1, 9))
    found = {it.name: it for it in record.teachers}
    both, *members = (found[name] for name in ("seven-resnet8-0.25", "seven", "resnet8:0.25"))
    seven = members[0]
    assert (seven.uri, seven.is_foreign) == (source, False)
    assert seven.val_top1 > 0.3
    assert seven.profile is not None
    assert any(trial.params.teacher == "seven" for trial in record.trials)
    assert both.fingerprint == ensemble_fingerprint([it.fingerprint for it in members])
    assert not both.is_foreign
    assert both.cost.params == sum(it.cost.params or 0 for it in members)
    assert resolve(asked).untrained == []
    assert resolve(asked).unready == set()
    assert drive(asked, executor_for=idle) == record


def test_a_folder_or_pattern_of_networks_to_adapt_is_each_of_them(source: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        torch.save(network(classes=7).state_dict(), tmp_path / f"{name}.pt")
    torch.save({"exp_avg": torch.zeros(3)}, tmp_path / "c.pt")
    for target in (f"{tmp_path}", f"{tmp_path}/*.pt"):
        spec = resolve(options(SHORT, *ADAPT, teachers=(f"adapt:file:{target}?arch=resnet8:0.25", source), budget="16"))
        uris = [f"adapt:file:{tmp_path}/{name}.pt?arch=resnet8:0.25" for name in ("a", "b")]
        assert spec.teachers == {"a": uris[0], "b": uris[1], "seven": source}
        assert spec.untrained == [source, *reversed(uris)]
        assert list(spec.left_out) == ["c"]
        assert spec.left_out["c"].startswith("not a resnet8:0.25")


def test_an_interrupted_study_continues_with_its_adapted_teacher(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = options(SHORT, *ADAPT, teachers=(source,), budget="7")
    with pytest.raises(Killed):
        drive(asked, kill_after(5))
    broken = drive(asked)
    monkeypatch.setenv("AUTODISTILL_CACHE", str(tmp_path / "another cache"))
    asked = asked.model_copy(update={"runs": str(tmp_path / "other runs")})
    assert core(drive(asked, executor_for=local_executor)) == core(broken)


def test_another_recipe_or_another_source_is_another_study(source: str) -> None:
    asked = options(SHORT, *ADAPT, teachers=("ladder:resnet8:0.25", source))
    with pytest.raises(Killed):
        fake(asked, kill_after(3))
    with pytest.raises(StoreError, match=r"holds another study:\n  .*seven"):
        fake(options(SHORT, *ADAPT, "adapt.seed=3", teachers=("ladder:resnet8:0.25", source)))
    torch.save({"state_dict": network(classes=7, seed=5).state_dict()}, "seven.ckpt")
    with pytest.raises(StoreError, match=r"holds another study:\n  .*seven"):
        fake(asked)


def test_the_record_of_a_study_from_before_adaptation_is_continued() -> None:
    asked = options(SHORT, teachers=("ladder:resnet8:0.25",), budget="7")
    with pytest.raises(Killed):
        fake(asked, kill_after(8))
    file = Path("runs", kept().name, "study.json")
    document = json.loads(file.read_text())
    assert document["space"].pop("adapt")
    file.write_text(json.dumps(document))
    assert fake(asked).state == "complete"


def test_notes_about_a_teacher_are_said(source: str) -> None:
    state = network(classes=7).state_dict()
    torch.save({"state_dict": state, "state_dict_ema": state}, "seven.ckpt")
    notes: list[str] = []

    def until_checked(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)
        if isinstance(event, RunEnded):
            raise Killed

    with pytest.raises(Killed):
        drive(options(SHORT, *ADAPT, teachers=(source,), budget="7"), until_checked)
    assert any(text.startswith("teacher seven: averaged weights are used") for text in notes)


FLAGS = ("data.train=100", "data.validation=100", "data.test=100", *ADAPT)


def test_the_command_adapts_and_shows_cost_and_accuracy(
    source: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_workers(monkeypatch)

    def adapt() -> str:
        commands.adapt_teachers(source=[source.removeprefix("adapt:")], space="smoke", workers=1, overrides=FLAGS)
        shown = capsys.readouterr()
        flags = " ".join(f"--set {it}" for it in FLAGS)
        command = f"autodistill search --student mobilenetv2 --space smoke {flags} --teacher '{source}'"
        assert f"Next: {command}" in shown.err
        return shown.out

    (row,) = [line for line in adapt().splitlines() if line.startswith("seven")]
    accuracy, params = float(row.split()[1]), " ".join(row.split()[5:7])
    assert accuracy > 30
    assert params == count(sum(parameter.numel() for parameter in network().parameters()))
    commands.list_teachers(output="json", space="smoke", overrides=[*FLAGS, f"teachers={json.dumps([source])}"])
    (found,) = json.loads(capsys.readouterr().out)["teachers"]
    assert found["place"].endswith("teacher.safetensors")
    (before,) = stamps([Path(found["place"])]).items()
    assert row in adapt()
    assert dict([before]) == stamps([before[0]])
    assert 100 * found["val_top1"] == pytest.approx(accuracy, abs=0.05)


@pytest.mark.parametrize("more", [[], ["ladder:resnet8"]])
def test_inspecting_names_the_commands_that_make_the_teachers(source: str, more: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        commands.inspect_teachers(
            teacher=[source, *more], space="smoke", workers=1, overrides=FLAGS, output="table", to=None
        )
    same = f"--space smoke {' '.join(f'--set {it}' for it in FLAGS)}"
    adapt, *train = error.value.hint.split(" && ")
    assert adapt == f"autodistill teachers adapt '{source}' {same}"
    assert train == [f"autodistill teachers train {same} --teacher '{source}' --teacher {it}" for it in more]


def test_a_source_that_cannot_be_read_ends_the_command_before_any_work() -> None:
    with pytest.raises(TeacherError, match=r"no such file: none\.pt"):
        commands.adapt_teachers(source=["file:none.pt"], space="smoke", workers=1, overrides=FLAGS)
    assert not Path("runs").exists()

"""Studies with early-stopped teachers and assistants, and the commands about them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from executor_parts import of
from small_studies import Killed, drive, faking, idle, options, recommending, stamps, without_workers
from teacher_files import count_epochs, network, trained

from autodistill.cli import teachers as commands
from autodistill.errors import ConfigError, StoreError, TeacherError
from autodistill.records import Event, Note, PhaseStarted, TaskProgress, to_json
from autodistill.shipping import train_student
from autodistill.store import cache_root
from autodistill.study import estimate, resolve
from autodistill.study.timing import Costs, TeacherCosts, plan_for, planned_time
from autodistill.teachers import ensemble_fingerprint
from autodistill.training import loop

NETWORK = "resnet8:0.25"
WHOLE, EARLY = f"ladder:{NETWORK}", f"ladder:{NETWORK}@4"
ASSISTANT = f"assistant:resnet8:0.3?teacher={NETWORK}"
SECOND = f"assistant:{NETWORK}?teacher=resnet8:0.3-from-{NETWORK}&name=second"
slow = pytest.mark.slow


@slow
def test_early_stopped_teachers_and_assistants_are_teachers_like_any_other() -> None:
    uris = (SECOND, ASSISTANT, f"{WHOLE}@12", WHOLE, f"ensemble:{NETWORK}@12+second")
    asked = options("ladder.epochs=20", "training.epochs=2", teachers=uris, budget="16")
    spec = resolve(asked)
    names = ("second", f"resnet8:0.3-from-{NETWORK}", f"{NETWORK}@12", NETWORK, "resnet8-0.25-12-second")
    assert spec.teachers == dict(zip(names, uris, strict=True))
    assert spec.unready == set(names)
    assert spec.untrained == [f"{WHOLE}@12", WHOLE, ASSISTANT, SECOND], "each after those that it needs"
    events: list[Event] = []
    record = drive(asked, events.append)
    assert record.state == "complete"
    found = {it.name: it for it in record.teachers}
    assert [found[name].uri for name in names] == list(uris)
    assert not any(it.is_foreign for it in found.values())
    assert all(it.profile is not None for it in found.values())
    assert len({it.fingerprint for it in found.values()}) == 5
    assert found[names[4]].fingerprint == ensemble_fingerprint([found[it].fingerprint for it in (names[2], "second")])
    assert {trial.params.teacher for trial in record.trials} == set(names)
    training = [(it.task, it.done) for it in of(TaskProgress, events)]
    epochs = {"second": 20, names[1]: 20, names[2]: 12, NETWORK: 20}
    assert [training.count((f"teacher {name}", end)) for name, end in epochs.items()] == [1, 1, 1, 1]
    assert of(PhaseStarted, events)[0].epochs == sum(epochs.values()) == len(training)
    notes = [it.text for it in of(Note, events)]
    assert any(f"trained by plain distillation from {NETWORK} ({ASSISTANT})" in text for text in notes)
    assert resolve(asked).unready == set()
    assert drive(asked, executor_for=idle) == record

    files = stamps([*cache_root().glob("ladder/*/*.safetensors"), *cache_root().glob("assistants/*/*.safetensors")])
    assert len(files) == 4
    other = options("ladder.epochs=20", "training.epochs=4", teachers=uris[1:4], budget="11", study="another")
    assert resolve(other).untrained == []
    assert stamps(files) == files


@slow
def test_an_interrupted_training_of_an_assistant_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    asked = options("training.epochs=2", teachers=(ASSISTANT, WHOLE), budget="11")

    def kill(event: Event) -> None:
        if isinstance(event, TaskProgress) and "from" in event.task and event.done == 3:
            raise Killed

    with pytest.raises(Killed):
        drive(asked, kill)
    assert resolve(asked).untrained == [ASSISTANT]
    epochs = count_epochs(monkeypatch)
    assert drive(asked).state == "complete"
    assert epochs[:7] == [4, 5, 6, 7, 8, 9, 10]


@slow
def test_another_teacher_or_other_settings_of_an_assistant_are_another_study() -> None:
    torch.save(trained().state_dict(), "given.pt")
    asked = options(teachers=("file:given.pt?norm=data", "assistant:resnet8:0.25?teacher=given"), budget="11")

    def stop(_: Event) -> None:
        raise Killed

    with pytest.raises(Killed):
        drive(asked, stop)
    torch.save(network(seed=5).state_dict(), "given.pt")
    with pytest.raises(StoreError, match=r"holds another study:\n  .*given.*\n  .*from-given"):
        drive(asked)


@slow
def test_an_assistant_of_a_teacher_at_chance_is_refused_before_it_is_trained() -> None:
    torch.save(network().state_dict(), "given.pt")
    uri = "assistant:resnet8:0.25?teacher=given"
    asked = options(teachers=("file:given.pt?norm=data&arch=resnet8:0.25", uri), budget="11")
    events: list[Event] = []
    with pytest.raises(TeacherError, match="not above chance"):
        drive(asked, events.append)
    assert not [it for it in of(TaskProgress, events) if "from" in it.task]


@pytest.mark.parametrize(
    ("uris", "found"),
    [
        ((f"{WHOLE}@11",), "epoch 11 is beyond the schedule: allowed are 1 to 10, which is ladder.epochs"),
        ((WHOLE, f"{WHOLE}@10"), f"is the same teacher as {WHOLE}"),
        ((f"{WHOLE}@0",), "'0' after @ is no epoch"),
        ((WHOLE, "assistant:resnet8?teacher=resnet9"), "is named 'resnet9' (did you mean 'resnet8:0.25'?"),
        ((WHOLE, "assistent:resnet8?teacher=x"), "unknown scheme 'assistent' (did you mean 'assistant'?"),
        (("assistant:resnet8?teacher=a&name=a",), "learns from itself"),
    ],
)
def test_variants_that_do_not_exist_are_refused_before_any_work(uris: tuple[str, ...], found: str) -> None:
    with pytest.raises(TeacherError) as caught:
        resolve(options(teachers=uris, budget="16"), load_data=lambda *_, **__: pytest.fail("data were loaded"))
    assert found in caught.value.message
    assert caught.value.hint


def test_a_schedule_that_follows_from_the_images_limits_the_epoch_too() -> None:
    fitted = options("fit_to_data=true", teachers=(f"{WHOLE}@31",), budget="16")
    overrides = [it for it in fitted.overrides if not it.startswith("ladder.epochs")]
    space = Path("own.toml")
    space.write_text('fit_to_data = true\n[data]\nname = "digits"\n')
    asked = fitted.model_copy(update={"space": str(space), "overrides": tuple(overrides)})
    epochs = resolve(asked.model_copy(update={"teachers": (WHOLE,)}), planned=False).space.ladder.epochs
    assert epochs < 31
    with pytest.raises(TeacherError, match=f"allowed are 1 to {epochs}, which is ladder.epochs"):
        resolve(asked, planned=False)


def test_the_logits_that_only_an_assistant_needs_count_for_the_cache() -> None:
    """Runs of 3 epochs, a ladder of 10: the assistant learns from 7 more views."""
    row = 100 * 10 * 2
    uris = (WHOLE, ASSISTANT)
    assert resolve(options(teachers=uris)).cache_size == (2 * 3 + 7) * row
    for limit, views in ((13, None), (12, 3), (5, 2)):
        spec = resolve(options(teachers=uris).model_copy(update={"cache_bytes": limit * row}))
        assert spec.space.data.views == views
        assert spec.cache_size <= limit * row


def test_each_teacher_waits_for_those_that_it_learns_from_or_continues() -> None:
    spec = resolve(options(teachers=(SECOND, ASSISTANT, WHOLE, EARLY, f"{WHOLE}@2"), budget="16"))
    tasks = {it.uri: it.after for it in spec.training_of(list(reversed(spec.teachers)))}
    assert tasks == {
        f"{WHOLE}@2": (),
        EARLY: (f"{WHOLE}@2",),
        WHOLE: (f"{WHOLE}@2", EARLY),
        ASSISTANT: (WHOLE,),
        SECOND: (ASSISTANT,),
    }
    assert list(tasks) == [f"{WHOLE}@2", EARLY, WHOLE, ASSISTANT, SECOND]
    assert [it.uri for it in spec.training_of([f"resnet8:0.3-from-{NETWORK}"])] == [WHOLE, ASSISTANT]


def test_the_plan_of_time_has_teachers_in_a_row_where_they_wait_for_each_other() -> None:
    apart = resolve(options(teachers=(WHOLE, "ladder:resnet8:0.3", "ladder:resnet8:0.35"), budget="13"))
    in_a_row = resolve(options(teachers=(WHOLE, ASSISTANT, SECOND), budget="13"))
    found = []
    for spec in (apart, in_a_row):
        costs = Costs(1.0, 0.0, 0.0, {it: TeacherCosts(20.0, 0.0, 0.0, frozenset()) for it in spec.teachers})
        found.append([planned_time(plan_for(spec, None), costs, it, spec).phases_s["teachers"] for it in (1, 3)])
    assert found == [[60.0, 20.0], [60.0, 60.0]]


def test_the_plan_of_time_counts_the_epochs_of_one_training_once() -> None:
    def seconds(*uris: str) -> float:
        spec = resolve(options(teachers=uris, budget="13"))
        time = estimate(spec, faking(spec), lambda _: None).time
        assert time is not None
        return time.phases_s["teachers"]

    two, one = seconds(WHOLE, "ladder:resnet8:0.3"), seconds(WHOLE)
    epoch_s = 4 * 0.002  # of the fake trainer: four steps
    assert seconds(WHOLE, EARLY) == pytest.approx(two - 10 * epoch_s)
    assert seconds(EARLY) == pytest.approx(one - 6 * epoch_s)
    view_s = 100 * 1e-5
    assert seconds(WHOLE, ASSISTANT) == pytest.approx(two + 9 * view_s), "the first of its views is profiled too"


FLAGS = ("data.train=100", "data.validation=100", "data.test=100", "ladder.epochs=12")


@slow
def test_the_commands_train_list_check_and_inspect_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_workers(monkeypatch)
    uris = [WHOLE, f"{WHOLE}@8", ASSISTANT]
    same = {"space": "smoke", "overrides": FLAGS}
    flags = " ".join(f"--set {it}" for it in FLAGS)
    with pytest.raises(ConfigError, match="none of the teachers is trained yet") as error:
        commands.inspect_teachers(teacher=uris, workers=1, output="table", to=None, **same)
    named = f"--teacher {WHOLE} --teacher {WHOLE}@8 --teacher '{ASSISTANT}'"
    assert error.value.hint == f"autodistill teachers train --space smoke {flags} {named}"
    commands.list_teachers(output="table", teachers=uris, **same)
    assert capsys.readouterr().out.count("not trained yet") == 3
    commands.train_teachers(teachers=uris, workers=1, **same)
    trained_now = capsys.readouterr()
    assert f"trained by plain distillation from {NETWORK}" in trained_now.err
    files = stamps(cache_root().glob("*/*/*.safetensors"))
    commands.train_teachers(teachers=uris, workers=1, **same)
    assert stamps(cache_root().glob("*/*/*.safetensors")).keys() >= files.keys()
    assert stamps(files) == files
    capsys.readouterr()
    commands.list_teachers(output="json", teachers=uris, **same)
    listed = json.loads(capsys.readouterr().out)["teachers"]
    assert [it["uri"] for it in listed] == uris
    assert all(Path(it["place"]).exists() for it in listed)
    commands.check_teachers(teacher=uris, output="json", **same)
    checked = json.loads(capsys.readouterr().out)["teachers"]
    assert [it["fingerprint"] for it in checked] == [it["fingerprint"] for it in listed]
    commands.inspect_teachers(teacher=uris, workers=1, output="json", to=None, **same)
    assert [it["uri"] for it in json.loads(capsys.readouterr().out)["teachers"]] == uris


@slow
def test_a_student_of_an_assistant_is_trained_again_without_the_cache() -> None:
    """`train --from` trains the assistant's teacher, then the assistant."""
    asked = options("training.epochs=2", teachers=(WHOLE, ASSISTANT), budget="11")
    name = f"resnet8:0.3-from-{NETWORK}"
    record = recommending(drive(asked), name)
    Path("runs", record.name, "study.json").write_text(to_json(record))
    shutil.rmtree(cache_root())
    spec, done = train_student(
        asked.model_copy(update={"student": "", "teachers": (), "overrides": ()}),
        seed=7,
        to=Path("student.safetensors"),
        with_validation=True,
        run=record.name,
        quiet=True,
    )
    assert list(spec.teachers) == [NETWORK, name]
    assert done.trained_on == "train+validation"
    trained_now = [path.name for path in cache_root().glob("*/*/*.safetensors") if path.parts[-3] != "logits"]
    assert sorted(trained_now) == ["resnet8-0.25.safetensors", "resnet8-0.3.safetensors"]
    named = options("training.epochs=2", teachers=(WHOLE, ASSISTANT))
    _, again = train_student(named, seed=7, to=Path("named.safetensors"), with_validation=False, quiet=True)
    assert again.params.teacher == name, "the other teacher is named for it only"

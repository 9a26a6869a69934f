"""Runs that are not there yet: keys, results found in this study and in others, logits for idle workers."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fake_trainer import all_trained, trained
from small_studies import NAME, Killed, core, fake, fake_work, kept, kill_after, options, resolve

from autodistill.executors import LogitsTask, Result, SerialExecutor, Task, TrainTask
from autodistill.executors.base import given_up
from autodistill.records import RunEnded, RunResult, RunSpec, TrialParams
from autodistill.store import StudyFolder, write_result
from autodistill.study.resuming import RunStore, logits_ahead, run_key

KD = TrialParams(teacher="strong", method="ts", method_params={"tau": 4.0}, tau_student=4.0, soft_weight=0.5)
NAMED = {"strong": "f", "renamed": "f"}


def asked(run: str, teacher: str | None = None, *, epochs: int = 9, until: int | None = None) -> RunSpec:
    params = KD.model_copy(update={"teacher": teacher}) if teacher else TrialParams()
    return RunSpec(run=run, params=params, seed=1, epochs=epochs, until=until)


class Failing:
    """An executor that remembers what it was given, and whose runs all fail."""

    workers = 2

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.meanwhile: list[Task] = []

    def ready(self) -> None: ...

    def run(self, tasks, on_event, *, meanwhile=()) -> list[Result]:
        self.tasks += tasks
        self.meanwhile += meanwhile
        return [given_up(task, "lost") for task in tasks]

    def __enter__(self) -> "Failing":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def store(place: Path, *, views: int = 7, failures=None) -> RunStore:
    return RunStore(StudyFolder(place), lambda spec: spec.run.replace("/", "-"), views=views, failures=failures or {})


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"epochs": 10},
        {"params": KD.model_copy(update={"soft_weight": 0.6})},
        {"params": KD.model_copy(update={"method": "ats"})},
        {"params": KD.model_copy(update={"method_params": {"tau": 4.1}})},
        {"params": TrialParams()},
    ],
)
def test_a_key_follows_from_what_decides_a_result(change):
    spec, run = resolve(options()), asked("a", "strong")
    assert run_key(spec, NAMED, run.model_copy(update=change)) != run_key(spec, NAMED, run)


def test_a_key_follows_from_the_teacher_and_the_study():
    spec, run = resolve(options()), asked("a", "strong")
    others = [
        spec._replace(data=replace(spec.data, fingerprint="other")),
        spec._replace(student=spec.student.model_copy(update={"name": "other"})),
        *(resolve(options(it)) for it in ("data.views=2", "data.view_seed=5", "training.lr=0.06")),
    ]
    keys = [run_key(it, NAMED, run) for it in (spec, *others)] + [run_key(spec, {"strong": "g"}, run)]
    assert len(set(keys)) == len(keys)


def test_name_rung_and_evaluation_are_no_part_of_a_key():
    spec, run = resolve(options()), asked("trials/0001/full", "strong")
    rung = run.model_copy(update={"run": "trials/0001/rung", "rung": 3, "until": 3})
    tested = run.model_copy(update={"run": "confirm/1", "evaluate_on": "validation+test"})
    renamed = run.model_copy(update={"params": KD.model_copy(update={"teacher": "renamed"})})
    assert len({run_key(spec, NAMED, it) for it in (run, rung, tested, renamed)}) == 1


def test_what_is_kept_is_not_trained_and_logits_are_computed_for_the_missing_runs(tmp_path):
    executor, events = Failing(), []
    kept_run = asked("kept", "strong")
    write_result(StudyFolder(tmp_path), given_up(TrainTask(spec=kept_run, key="kept"), "lost"))
    runs = [asked("a", "weak", until=3), asked("b", "weak", until=5), asked("c", "mid"), asked("d"), kept_run]
    found = store(tmp_path).train(runs, executor, events.append)
    assert [it.run for it in found] == ["a", "b", "c", "d", "kept"]
    assert [it.record.run for it in events if isinstance(it, RunEnded) and it.reused] == ["kept"]
    assert [it.spec.run for it in executor.tasks] == ["a", "b", "c", "d"]
    both = [LogitsTask(name=name, view=view) for view in range(5) for name in ("weak", "mid")]
    assert executor.meanwhile == [*both, LogitsTask(name="mid", view=5), LogitsTask(name="mid", view=6)]


def test_without_a_teacher_there_are_no_logits():
    assert logits_ahead([TrainTask(spec=asked("a"), key="a")], views=7) == []


def test_runs_of_one_key_are_trained_once(tmp_path, monkeypatch):
    """Plain KD can be a teacher's prior: two names, one result."""
    spec = resolve(options())
    both = [asked("baselines/plain-kd", "resnet8:0.25"), asked("trials/0001/full", "resnet8:0.25")]
    same = RunStore(spec.folder, lambda _: "key", views=3, failures={})
    executor = SerialExecutor(spec.setup, data=spec.data, work=fake_work)
    first, second = same.train(both, executor, lambda _: None)
    assert (first.run, second.run) == ("baselines/plain-kd", "trials/0001/full")
    assert first.curve == second.curve
    assert len(all_trained()) == 9


def test_recorded_failures_stay_failures(tmp_path):
    run, executor = asked("trials/0002/rung", "weak"), Failing()
    failure = RunResult(**run.kept(), state="failed", error="worker 1 died three times")
    found = store(tmp_path, failures={run.run: failure}).train([run], executor, lambda _: None)
    assert found == [failure]
    assert executor.tasks == []


# Results of other studies


@pytest.mark.slow
def test_a_second_study_finds_equal_runs_counts_them_and_lists_them(done):
    """The first has a budget of 11, the second of 13: their runs are the same as far as the first went."""
    before = all_trained()
    second = fake(options(budget="13", study="second"))
    alone = {run.run: run.key for run in done.runs()}
    listed = {it.run: it for it in second.found}
    assert all(it.study == NAME for it in second.found)
    shared = {run.run for run in second.runs() if run.key in alone.values()}
    assert set(listed) == shared != set()
    assert not any(run in shared and epoch for run, epoch in all_trained()[len(before) :])
    assert second.spent_epochs == sum(run.spent_epochs for run in second.runs()) <= second.plan.total_epochs
    assert {run for run, seconds in second.timing["runs_s"].items() if seconds == 0.0} >= set(listed)


@pytest.mark.slow
def test_a_study_that_found_runs_equals_one_that_trained_all_of_them(done, faked):
    record = fake(options(study="second"))
    assert record.found
    assert not all_trained()
    renamed = {**core(record), "name": NAME, "command": faked.record.command}
    assert renamed == core(faked.record)


@pytest.mark.slow
@pytest.mark.parametrize("count", [5, 12, 20, 30])
def test_found_runs_are_listed_though_the_study_was_killed(done, count):
    whole = fake(options(study="second")).found
    with pytest.raises(Killed):
        fake(options(study="third"), kill_after(count))
    shutil.rmtree("runs/second")
    record = fake(options(study="third"))
    assert sorted(it.run for it in record.found) == sorted(it.run for it in whole)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["training.lr=0.06", "data.view_seed=5"])
def test_another_recipe_finds_nothing(done, change):
    spec = resolve(options(change, study="second"))
    with pytest.raises(Killed):
        fake(options(change, study="second"), kill_after(12))
    assert kept("second").found == ()
    assert spec.folder.path.name == "second"


@pytest.mark.slow
def test_a_damaged_result_elsewhere_is_not_taken(done):
    for path in Path("runs", NAME, "results").glob("*"):
        path.write_bytes(path.read_bytes()[:-5])
    record = fake(options(study="second"))
    assert record.found == ()
    assert trained("baselines/no-teacher-1000") == [1, 2, 3]


@pytest.mark.slow
def test_weights_are_found_with_the_results(done):
    record = fake(options(study="second"))
    for run in record.runs():
        if run.until is None:
            assert Path("runs", "second", "weights", f"{run.key}.safetensors").exists()

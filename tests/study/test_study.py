"""A study from end to end: every part of its record, equal in every executor, each teacher run once."""

import math
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from fake_trainer import Behaviour, behave
from small_studies import (
    ISATS_FIRST,
    NAME,
    NEEDED_VIEWS,
    Killed,
    core,
    drive,
    everything,
    fake,
    fake_work,
    idle,
    kept,
    kill_after,
    options,
    serial,
    stamps,
)

from autodistill.cli import show
from autodistill.errors import StoreError
from autodistill.executors import LocalExecutor
from autodistill.options import search_options
from autodistill.records import (
    Event,
    Note,
    PhaseStarted,
    RunEnded,
    RunSpec,
    StudyRecord,
    TaskProgress,
    TrialEnded,
    TrialParams,
    read_study,
    to_json,
)
from autodistill.store import cache_root, write_text
from autodistill.study import describe_plan, environment, estimate, resolve
from autodistill.study.resuming import RunStore

pytestmark = pytest.mark.slow


def test_a_study_ends_with_every_part_of_its_record(reference):
    record = reference.record
    assert record.state == "complete"
    assert record.recommendation is not None
    assert {teacher.name for teacher in record.teachers} == {"resnet8:0.25", "resnet8:0.5"}
    assert [trial.kind for trial in record.trials[:2]] == ["prior", "prior"]
    assert record.plain_kd in [trial.full for trial in record.trials[:2]], "a prior, not a run of its own"
    assert record.plan.plain_kd == 0
    assert len(record.trials) >= 4
    fulls = [trial for trial in record.trials if trial.full]
    assert fulls
    assert all(trial.full.curve[:1] == trial.rung.curve for trial in fulls), "continued, not trained again"
    assert all(trial.full.spent_epochs == 2 for trial in fulls)
    assert not any(reference.place.glob("runs/*/checkpoints/*")), "every trial has ended"
    assert all(trial.state != "running" for trial in record.trials)
    assert [finalist.teacher for finalist in record.finalists].count(None) == 1
    assert all(run.test_top1 is not None for finalist in record.finalists for run in finalist.runs)
    assert record.spent_epochs == sum(run.spent_epochs for run in record.runs()) <= record.plan.total_epochs
    assert read_study(reference.place / "runs" / NAME / "study.json") == record
    phases = {"teachers", "profiles", "baselines and priors", "search", "confirm"}
    assert set(record.timing["phases_s"]) == {"start-up", *phases}
    assert set(record.timing["planned_s"]) == {*phases - {"profiles"}, "report"}
    assert set(record.timing["runs_s"]) == {run.run for run in record.runs()}
    parts, runs = record.timing["parts_s"], record.timing["runs_s"]
    assert set(parts) == {"teacher", "cache", "targets", "student", "evaluation"}
    assert sum(parts.values()) == pytest.approx(sum(runs.values()), abs=0.01 * len(runs))
    assert record.environment["workers"] == "2"
    assert record.environment.keys() >= environment("cpu").keys()


def test_the_files_of_a_study_are_kept_by_key(reference):
    place = reference.place / "runs" / NAME
    assert {path.name for path in place.iterdir()} >= {"study.json", "space.toml", "study.db", "results", "weights"}
    assert {path.stem for path in place.glob("results/*.json")} == {run.key for run in reference.record.runs()}
    full = {run.key for run in reference.record.runs() if run.until is None}
    assert {path.stem for path in place.glob("weights/*")} == full
    for trial in reference.record.trials:
        assert trial.full is None or trial.full.key == trial.rung.key, "a rung is the beginning of its full run"


def test_two_workers_run_each_teacher_on_each_view_once(reference):
    assert reference.record.timing["views_computed"] == NEEDED_VIEWS
    files = list(reference.cache.glob("logits/*/*.safetensors"))
    assert len(files) == NEEDED_VIEWS + 2, "both on the validation split too"


def test_no_later_study_runs_a_teacher_again_and_another_seed_is_another_study(reference, warm):
    before = stamps(reference.cache.rglob("*.safetensors"))
    record = drive(options(study="later", seed=1))
    assert record.timing["views_computed"] == 0
    assert stamps(reference.cache.rglob("*.safetensors")) == before
    assert [trial.params for trial in record.trials[2:]] != [trial.params for trial in reference.record.trials[2:]]
    assert record.no_teacher.curve != reference.record.no_teacher.curve


class Cold(NamedTuple):
    record: StudyRecord
    events: list[Event]
    spent: list[int]
    """Epochs on record after each run."""
    cache: Path


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Cold:
    """The reference study in this process with a cold cache, watched."""
    events: list[Event] = []
    spent: list[int] = []
    cache = tmp_path_factory.mktemp("cold")

    def look(event: Event) -> None:
        events.append(event)
        if isinstance(event, RunEnded):
            assert event.record.run in kept().timing["runs_s"]
            assert kept().state == "running"
            spent.append(kept().spent_epochs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTODISTILL_CACHE", str(cache))
        patch.setattr("autodistill.study.recorder.QUICK_S", math.inf)  # a busy machine writes less often
        patch.chdir(tmp_path_factory.mktemp("place"))
        return Cold(drive(options(), look), events, spent, cache)


def test_serial_and_two_workers_give_equal_studies(reference, cold):
    """The second worker has trained runs without a teacher while the teachers were trained."""
    assert core(cold.record) == core(reference.record)
    assert {path.name for path in cold.cache.glob("logits/*/*")} == {
        path.name for path in reference.cache.glob("logits/*/*")
    }
    assert cold.record.timing["views_computed"] == NEEDED_VIEWS


def test_the_record_is_whole_after_every_run(cold):
    assert len(cold.spent) == len(cold.record.timing["runs_s"])
    assert cold.spent == sorted(set(cold.spent))
    assert cold.spent[-1] == cold.record.spent_epochs


def test_events_tell_the_plan_first_and_the_phases_in_order(cold):
    first = cold.events[0]
    assert isinstance(first, Note)
    assert first.text == f"plan: {describe_plan(cold.record.plan)}"
    assert first.text.endswith(" = no teacher 1 + priors with plain KD 2 + search 3 + confirm 5")
    phases = [event.phase for event in cold.events if isinstance(event, PhaseStarted)]
    assert phases == ["teachers", "profiles", "baselines and priors", "search", "confirm"]
    second = cold.events[1]
    assert isinstance(second, Note)
    assert second.text.startswith("time: about ")
    ladder = Counter(event.task for event in cold.events if isinstance(event, TaskProgress))
    assert ladder == {"teacher resnet8:0.25": 10, "teacher resnet8:0.5": 10}
    trials = [event.record.number for event in cold.events if isinstance(event, TrialEnded)]
    assert trials == list(range(len(cold.record.trials)))


def test_plain_kd_has_a_run_of_its_own_where_the_prior_is_another():
    events: list[Event] = []
    record = fake(options(ISATS_FIRST), events.append)
    assert isinstance(events[0], Note)
    assert events[0].text.endswith(" = no teacher 1 + plain KD 1 + priors 2 + search 2 + confirm 5")
    assert (record.plain_kd.run, record.plain_kd.state) == ("baselines/plain-kd", "complete")
    assert [trial.params.method for trial in record.trials[:2]] == ["isats", "isats"]
    assert record.spent_epochs == sum(run.spent_epochs for run in record.runs()) <= record.plan.total_epochs


@pytest.mark.parametrize("workers", [1, 3])
def test_local_workers_give_the_study_of_the_serial_executor(faked, workers):
    def local(spec):
        return LocalExecutor(workers, spec.setup, data=spec.data, work=fake_work)

    assert core(fake(options(workers=workers), executor_for=local)) == core(faked.record)


def test_the_number_of_workers_is_not_part_of_a_study(done):
    one, many = (resolve(options(workers=workers, study="new")) for workers in (1, 5))
    assert one.space == many.space
    assert one.options.command == many.options.command
    assert fake(options(workers=5)) == done


def test_the_record_is_there_before_the_first_run_ends():
    """The ladder is not even trained then."""
    with pytest.raises(Killed):
        fake(options(), kill_after(1))
    record, spec = kept(), resolve(options())
    assert record.state == "running"
    assert record.spec == spec.record
    assert record.space["search"]["wave"] == spec.space.search.wave
    assert record.plan.total_epochs == 33
    assert (record.trials, record.spent_epochs) == ((), 0)
    assert not any(Path("runs", NAME).glob("results/*"))
    assert Path("runs", NAME, "space.toml").exists()


def test_runs_that_diverge_are_recorded_and_the_study_continues():
    behave({"trials/000[2-9]/rung": Behaviour(diverges_at=1)})
    record = fake(options(budget="12"))
    failed = [trial for trial in record.trials if trial.state == "failed"]
    assert failed
    assert all("the loss became nan" in trial.reason for trial in failed)
    assert record.state == "complete"
    assert record.recommendation is not None
    assert record.spent_epochs == sum(run.spent_epochs for run in record.runs()) <= record.plan.total_epochs
    assert fake(options(budget="12")) == record


def test_a_small_cache_gives_a_pool_of_views():
    one = 2 * 100 * 10 * 2
    record = fake(options(cache_size=f"{2 * one + 1}"))
    assert record.data.views == 2
    assert record.timing["views_computed"] == 2 * 2
    assert record.command.endswith("--set data.views=2")
    assert core(fake(options("data.views=2"))) == core(record), "the command on record says it all"
    assert core(fake(options())) == core(record), "a study keeps its number of views"
    with pytest.raises(StoreError, match=r"space\.data\.views: there 2, asked for 3"):
        fake(options("data.views=3"))


def test_a_study_is_watched_until_it_is_complete(done, capsys, monkeypatch):
    monkeypatch.setattr(show, "WATCH_EVERY_S", 0.01)
    path = Path("runs", NAME, "study.json")
    running = done.model_copy(update={"state": "running", "recommendation": None, "trials": done.trials[:1]})
    path.write_text(to_json(running))
    end = threading.Timer(0.5, write_text, (path, to_json(done)))
    end.start()
    show.show(NAME, output="table", watch=True)
    end.join()
    before, after = capsys.readouterr().out.split("Trials\n")[:2]
    assert done.recommendation.sentence not in before
    assert done.recommendation.sentence in after


def test_preparing_and_estimating_keep_measurements_alone(reference, monkeypatch):
    spec = resolve(options())
    found = estimate(spec, serial(spec), lambda _: None)
    assert spec.untrained == ["ladder:resnet8:0.5", "ladder:resnet8:0.25"]
    assert found.plan.total_epochs == 33
    assert found.cache_bytes == 2 * 3 * 100 * 10 * 2
    assert list(found.time.phases_s) == ["teachers", "baselines and priors", "search", "confirm", "report"]
    assert 0 < found.time.phases_s["teachers"] < found.time.wall_s
    assert 0 < found.time.logits_s < found.time.wall_s
    assert not everything(Path())
    assert {path.name for path in cache_root().iterdir()} <= {"measured", "described"}
    monkeypatch.setenv("AUTODISTILL_CACHE", str(reference.cache))
    spec = resolve(options(workers=2))
    warm = estimate(spec, idle(spec), lambda _: None)
    assert 0 < warm.time.phases_s["teachers"] < found.time.phases_s["teachers"], "profiles, and no training"
    assert warm.time.logits_s == 0
    assert spec.untrained == []


def test_the_shipped_smoke_space_trains_mobilenetv2():
    """As shipped; a whole study of this space takes half a minute."""
    spec = resolve(search_options(student="mobilenetv2", space="smoke", workers=2))
    assert (spec.student.name, spec.student.stem_stride) == ("mobilenetv2:0.25", 1)
    run = RunSpec(run="one", params=TrialParams(), seed=0, epochs=spec.space.training.rung)
    store = RunStore(spec.folder, lambda _: "key", views=1, failures={})
    with serial(spec) as executor:
        (found,) = store.train([run], executor, lambda _: None)
    assert found.state == "complete"
    losses = [record.train_loss for record in found.curve]
    assert losses[-1] < 0.95 * losses[0]

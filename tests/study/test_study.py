"""A study, whole: every part of its record, equal however it was run, each teacher run once."""

import hashlib
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from factories import bare
from small_studies import NAME, NEEDED_VIEWS, Here, briefly, core, drive, everything, kept, request, stamps

from autodistill import logit_cache as cache
from autodistill import showing
from autodistill.commands import search_request
from autodistill.errors import StoreError
from autodistill.records import (
    EpochEvent,
    Event,
    Note,
    PhaseStarted,
    RunEnded,
    RunRequest,
    StudyRecord,
    TaskProgress,
    TrialEnded,
    TrialParams,
    read_study,
    to_json,
)
from autodistill.store import cache_root
from autodistill.study import environment, estimate, estimates, prepare, run_study, spelt
from autodistill.study import running as running_module
from autodistill.workers import Workplace

pytestmark = pytest.mark.slow


def test_a_study_ends_with_every_part_of_its_record(reference):
    record = reference.record
    assert record.state == "complete"
    assert record.recommendation is not None
    assert {teacher.name for teacher in record.teachers} == {"resnet8:0.25", "resnet8:0.5"}
    assert [trial.kind for trial in record.trials[:2]] == ["prior", "prior"]
    assert len(record.trials) >= 4
    fulls = [trial for trial in record.trials if trial.full]
    assert fulls
    assert all(trial.full.curve[:1] == trial.short.curve for trial in fulls), "gone on with, not begun again"
    assert all(trial.full.spent_epochs == 2 for trial in fulls)
    assert not list(reference.place.rglob("checkpoint.pt"))
    assert all(trial.state != "running" for trial in record.trials)
    assert [finalist.teacher for finalist in record.finalists].count(None) == 1
    assert all(run.test_top1 is not None for finalist in record.finalists for run in finalist.runs)
    assert record.spent_epochs == sum(run.spent_epochs for run in record.runs()) <= record.plan.total_epochs
    assert read_study(reference.place / "runs" / NAME / "study.json") == record
    phases = {"teachers", "profiles", "baselines and priors", "search", "confirm"}
    assert set(record.timing["phases_s"]) == {"start-up", *phases}
    assert set(record.timing["planned_s"]) == {*phases, "report"}
    assert set(record.timing["runs_s"]) == {run.run for run in record.runs()}
    parts, runs = record.timing["parts_s"], record.timing["runs_s"]
    assert set(parts) == {"teacher", "cache", "targets", "student", "evaluation"}
    assert sum(parts.values()) == pytest.approx(sum(runs.values()), abs=0.01 * len(runs))
    assert record.environment["workers"] == "2"
    assert record.environment.keys() >= environment("cpu").keys()


def test_two_workers_run_each_teacher_on_each_view_once(reference):
    assert reference.record.timing["views_computed"] == NEEDED_VIEWS
    files = list(reference.cache.glob("logits/*/*.safetensors"))
    assert len(files) == NEEDED_VIEWS + 2, "and both on the validation split"


def test_no_later_study_runs_a_teacher_again_and_another_seed_is_another_study(reference, here, warm, monkeypatch):
    monkeypatch.setattr(cache, "logits_of", None)
    files = list(reference.cache.rglob("*.safetensors"))
    before = stamps(files)
    record = drive(request(study="later", seed=1))
    assert record.timing["views_computed"] == 0
    assert stamps(reference.cache.rglob("*.safetensors")) == before
    assert [trial.params for trial in record.trials[2:]] != [trial.params for trial in reference.record.trials[2:]]
    assert record.no_teacher.curve != reference.record.no_teacher.curve


def test_a_warm_cache_changes_nothing(reference, here, warm):
    assert core(drive(request(workers=2))) == core(reference.record)


class Cold(NamedTuple):
    record: StudyRecord
    events: list[Event]
    spent: list[int]
    """Epochs on record after each run."""
    calls: Counter[str]
    """Teacher and images to how often it was run over them."""


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Cold:
    """The same study by one worker with a cold cache, watched."""
    found = Cold(bare({}), [], [], Counter())
    plain = cache.logits_of

    def counted(teacher: Any, images: Any, *, take: Any = None) -> Any:
        seen = images if take is None else take(torch.arange(len(images)))
        found.calls[teacher.name + hashlib.sha256(seen.contiguous().numpy().tobytes()).hexdigest()] += 1
        return plain(teacher, images, take=take)

    def look(event: Event) -> None:
        found.events.append(event)
        if isinstance(event, RunEnded):
            assert event.record.run in kept().timing["runs_s"]
            assert kept().state == "running"
            found.spent.append(kept().spent_epochs)

    with pytest.MonkeyPatch.context() as patch:
        briefly(patch)
        patch.setattr(running_module, "QUICK_S", float("inf"))
        patch.setenv("AUTODISTILL_CACHE", str(tmp_path_factory.mktemp("cold")))
        patch.chdir(tmp_path_factory.mktemp("place"))
        patch.setattr(running_module, "Pool", Here)
        patch.setattr(cache, "logits_of", counted)
        return found._replace(record=drive(request(), look))


def test_one_worker_and_two_find_the_same(reference, cold):
    assert core(cold.record) == core(reference.record)


def test_one_worker_runs_each_teacher_on_each_view_once(cold):
    assert len(cold.calls) == NEEDED_VIEWS + 2, "and both on the validation split"
    assert set(cold.calls.values()) == {1}
    assert cold.record.timing["views_computed"] == NEEDED_VIEWS


def test_the_record_is_whole_after_every_run(cold):
    assert len(cold.spent) == len(cold.record.timing["runs_s"])
    assert cold.spent == sorted(set(cold.spent))
    assert cold.spent[-1] == cold.record.spent_epochs


def test_events_tell_the_plan_first_and_the_phases_in_order(cold):
    first = cold.events[0]
    assert isinstance(first, Note)
    assert first.text == f"plan: {spelt(cold.record.plan)}"
    assert first.text.endswith(" = no teacher 1 + plain KD 1 + priors 2 + search 2 + confirm 5")
    phases = [event.phase for event in cold.events if isinstance(event, PhaseStarted)]
    assert phases == ["teachers", "profiles", "baselines and priors", "search", "confirm"]
    second = cold.events[1]
    assert isinstance(second, Note)
    assert second.text.startswith("time: about ")
    ladder = Counter(event.task for event in cold.events if isinstance(event, TaskProgress))
    assert ladder == {"teacher resnet8:0.25": 10, "teacher resnet8:0.5": 10}
    trials = [event.record.number for event in cold.events if isinstance(event, TrialEnded)]
    assert trials == list(range(len(cold.record.trials)))


def test_runs_that_diverge_are_recorded_and_the_study_goes_on(here, warm, monkeypatch):
    from autodistill.errors import TrialError
    from autodistill.workers import tasks

    plain = tasks.supervise

    def refuse(params: Any, **rest: Any) -> Any:
        if params.rule == "ts" and params.rule_params["tau"] != 4.0:
            raise TrialError("the loss became nan in epoch 1")
        return plain(params, **rest)

    monkeypatch.setattr(tasks, "supervise", refuse)
    record = drive(request(budget="12"))
    failed = [trial for trial in record.trials if trial.state == "failed"]
    assert failed
    assert all("the loss became nan" in trial.reason for trial in failed)
    assert record.state == "complete"
    assert record.recommendation is not None
    assert core(drive(request(budget="12"))) == core(record)


def test_a_small_cache_gives_a_pool_of_views(reference, here):
    shutil.copytree(reference.cache / "ladder", cache_root() / "ladder")
    one = 2 * 100 * 10 * 2
    record = drive(request(cache_size=f"{2 * one + 1}"))
    assert record.data.views == 2
    assert record.timing["views_computed"] == 2 * 2
    assert record.command.endswith("--set data.views=2")
    assert core(drive(request("data.views=2"))) == core(record), "the command on record says it all"
    with pytest.raises(StoreError, match=r"space\.data\.views: there 2, asked for None"):
        drive(request())


def test_more_workers_make_larger_waves_which_the_command_says_and_the_study_keeps(here):
    asked = prepare(request(workers=3))
    assert asked.space.search.wave == 3
    assert asked.request.command.endswith("--set search.wave=3")
    events = run_study(asked)
    next(events)
    events.close()
    assert prepare(request("search.wave=1", workers=3, study="asked")).space.search.wave == 1
    resumed = prepare(request(workers=1))
    assert resumed.space.search.wave == 3
    assert resumed.request.command == asked.request.command


def test_a_study_is_watched_until_it_is_complete(finished, monkeypatch, capsys):
    path = Path("runs", NAME, "study.json")
    running = finished.model_copy(update={"state": "running", "recommendation": None, "trials": finished.trials[:1]})
    path.write_text(to_json(running))
    pauses = []

    def ended(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            path.write_text(to_json(finished))
            os.utime(path, ns=(0, 1))

    monkeypatch.setattr(showing.time, "sleep", ended)
    showing.watch(NAME)
    assert pauses == [2.0, 2.0]
    before, after = capsys.readouterr().out.split("Trials\n")[:2]
    assert finished.recommendation.sentence not in before
    assert finished.recommendation.sentence in after


def test_preparing_and_estimating_keep_measurements_alone(reference, monkeypatch):
    monkeypatch.setattr("autodistill.study.estimates.Pool", Here)
    prepared = prepare(request())
    found = estimate(prepared)
    assert prepared.untrained == ["ladder:resnet8:0.5", "ladder:resnet8:0.25"]
    assert found.plan.total_epochs == 33
    assert found.cache_bytes == 2 * 3 * 100 * 10 * 2
    assert list(found.time.phases_s) == [
        *("teachers", "profiles", "baselines and priors", "search", "confirm", "report")
    ]
    assert 0 < found.time.phases_s["teachers"] < found.time.wall_s
    assert 0 < found.time.logits_s < found.time.wall_s
    assert not everything(Path())
    assert {path.name for path in cache_root().iterdir()} == {"measured"}
    monkeypatch.setenv("AUTODISTILL_CACHE", str(reference.cache))
    warm = estimate(prepare(request(workers=2)))
    assert 0 < warm.time.phases_s["teachers"] < found.time.phases_s["teachers"], "profiles, and no training"
    assert warm.time.logits_s == 0
    assert prepare(request()).untrained == []


def test_baseline_runs_beside_the_teachers_change_no_study(reference, here, monkeypatch):
    """A cold ladder, and all runs that are certain beside it: they are asked for again later, and are there."""
    monkeypatch.setattr(estimates, "fitting_beside", lambda costs, run_s, *, most, confirm, workers: most)
    seen = []
    record = drive(request(workers=2), seen.append)
    assert core(record) == core(reference.record)
    starts = [number for number, event in enumerate(seen) if isinstance(event, PhaseStarted)]
    first, teachers = seen[starts[0]], seen[starts[0] : starts[1]]
    seeds = record.space["confirm"]["seeds"]
    assert (first.phase, first.runs, first.epochs) == ("teachers", 2 + seeds, 2 * 10 + seeds * 3)
    assert sum(isinstance(event, EpochEvent | TaskProgress) for event in teachers) == first.epochs
    ends = [event for event in seen if isinstance(event, RunEnded)]
    assert [event.record.run for event in ends if event.reused] == [
        f"baselines/no-teacher-{1000 + seed}" for seed in range(seeds)
    ]
    assert not any(isinstance(event, RunEnded) for event in teachers)
    assert set(record.timing["runs_s"]) == {event.record.run for event in ends}


def test_the_shipped_smoke_space_trains_mobilenetv2():
    """As shipped; a whole study of it takes half a minute."""
    prepared = prepare(search_request(student="mobilenetv2", space="smoke", workers=2))
    assert (prepared.student.name, prepared.student.stem_stride) == ("mobilenetv2:0.25", 1)
    asked = RunRequest(run="one", params=TrialParams(), seed=0, epochs=prepared.space.training.short)
    *_, ended = Workplace(prepared.setup).do(asked)
    assert ended.record.state == "complete"
    losses = [record.train_loss for record in ended.record.curve]
    assert losses[-1] < 0.95 * losses[0]

"""`search --async`: a study that asks whenever a worker is free, over its own workers and over a database."""

import functools
import json
from pathlib import Path

import pytest
from hands import hands
from simulated import Simulated
from small_studies import NAME, Here, core, drive, kept, request

from autodistill.errors import StoreError
from autodistill.queue.terms import Pace
from autodistill.records import RunEnded, StudyRecord
from autodistill.showing import rendered
from autodistill.study import estimate, prepare
from autodistill.study import running as running_module
from autodistill.workers import crew

pytestmark = pytest.mark.slow

QUICK = Pace(beat_s=0.3, lease_s=20.0, look_s=0.1, idle_s=0.1)


def well_kept(record: StudyRecord) -> None:
    runs = [it.run for it in record.runs()]
    assert record.state == "complete"
    assert len(runs) == len(set(runs))
    assert sum(it.spent_epochs for it in record.runs()) == record.spent_epochs <= record.plan.total_epochs
    assert record.plan.total_epochs - record.spent_epochs < record.plan.epochs_short
    assert all(it.audit_trail for it in record.trials if it.kind == "search")


class Stopped(Exception):
    pass


def stop_after(runs: int):
    """Raises in the middle of the study, as a kill would end it."""
    seen = []

    def watch(event) -> None:
        seen.extend([event] if isinstance(event, RunEnded) else [])
        if len(seen) == runs:
            raise Stopped

    return watch


def test_a_study_over_a_database_that_is_stopped_again_and_again_ends_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(crew, "PACE", QUICK)
    asked = request(budget="16", workers=0, asynchronous=True, storage=f"sqlite:///{tmp_path}/kd.db")
    before: list[str] = []
    slowly = functools.partial(Simulated, epoch_s=0.01)
    with hands(asked.storage, NAME, 3, furnish=slowly):
        for runs in (6, 12):
            with pytest.raises(Stopped):
                drive(asked, stop_after(runs))
            order = Path("runs", NAME, "order.jsonl").read_text().splitlines()
            assert order[: len(before)] == before
            before = order
        record = drive(asked)
    assert len(before) > 6
    well_kept(record)
    assert max(len(it.audit_trail.running) for it in record.trials if it.audit_trail) >= 2, "it did not wait"
    assert record.command.endswith(" --async")
    again = drive(asked)
    assert core(again) == core(record) == core(kept())


def test_real_runs_whose_place_in_the_order_is_lost_are_taken_as_they_are(warm, here, monkeypatch):
    """Nothing is trained twice where the file of the order is gone, or stops half-way."""
    asked = request(budget="11.5", asynchronous=True)
    record = drive(asked)
    well_kept(record)
    page = rendered(record, Path("reports"))
    assert "whenever a worker was free" in page.read_text()
    path, trained = Path("runs", NAME, "order.jsonl"), []
    for left in (5, 0):
        path.write_text("\n".join(path.read_text().splitlines()[:left]) + "\n" * bool(left))
        unfinished = record.model_copy(update={"state": "running", "recommendation": None})
        Path("runs", NAME, "study.json").write_text(unfinished.model_dump_json())
        again = drive(asked, lambda it: trained.append(it) if isinstance(it, RunEnded) and not it.reused else None)
        assert again.trials == record.trials, "one worker: there is only one order"
    assert not trained


def test_what_ended_after_a_trial_without_result_carries_over_when_a_teacher_joins(warm, here):
    one, both = ("ladder:resnet8:0.25",), ("ladder:resnet8:0.25", "ladder:resnet8:0.5")
    before = drive(request(teachers=one, budget="10", asynchronous=True))
    assert len(before.trials) > 3
    unknown = {"state": "running", "reason": "", "short": None, "full": None}
    trials = tuple(
        it.model_copy(update=unknown) if it.number in (1, len(before.trials) - 1) else it for it in before.trials
    )
    Path("runs", NAME, "study.json").write_text(before.model_copy(update={"trials": trials}).model_dump_json())
    after = drive(request(teachers=both, budget="16", asynchronous=True))
    assert after.state == "complete"
    assert after.trials[1].reason == "it had no result yet when a teacher joined the study"
    assert [it for it in after.trials[:-1] if it.number != 1][: len(trials) - 2] == [trials[0], *trials[2:-1]]
    assert after.trials[len(trials) - 1].params.teacher == "resnet8:0.5", "the last one's number is the new prior's"
    assert Path("runs", NAME, "order+1.jsonl").exists()
    assert rendered(after, Path("reports")).exists()


def test_a_study_in_waves_is_not_gone_on_with_otherwise(finished):
    with pytest.raises(StoreError, match=r"asynchronous: there None, asked for True"):
        drive(request(asynchronous=True))
    assert core(drive(request())) == core(finished)


def test_it_is_said_in_the_plan_and_estimated(warm, monkeypatch):
    monkeypatch.setattr("autodistill.study.estimates.Pool", Here)
    found = estimate(prepare(request(asynchronous=True)))
    assert found.plan.asynchronous
    assert found.time is not None
    assert found.time.phases_s["search"] > 0
    assert not Path("runs").exists()


def test_old_records_and_plans_are_of_waves(reference):
    plan = json.loads((reference.place / "runs" / NAME / "plan.json").read_text())
    assert plan.pop("asynchronous") is False
    assert type(reference.record.plan).model_validate(plan) == reference.record.plan
    assert not [it for it in reference.record.trials if it.audit_trail]
    assert running_module.order_file(prepare(request()).folder, joined=2).name == "order+2.jsonl"

"""The same command with one more --teacher: the study goes on with it."""

from pathlib import Path

import pytest
from small_studies import NAME, core, drive, request, results, stamps

from autodistill.errors import StoreError
from autodistill.records import Note, RunEnded

pytestmark = pytest.mark.slow

ONE, BOTH = ("ladder:resnet8:0.25",), ("ladder:resnet8:0.25", "ladder:resnet8:0.5")


def test_one_more_teacher_joins_and_kept_runs_are_not_trained_again(here, warm):
    before = drive(request(teachers=ONE, budget="8"))
    old = {path: stamp for path, stamp in stamps(results(Path())).items() if "/trials/" in str(path)}
    notes, fresh = [], []

    def watch(event):
        if isinstance(event, Note):
            notes.append(event.text)
        if isinstance(event, RunEnded) and not event.reused:
            fresh.append(event.record.run)

    after = drive(request(teachers=BOTH, budget="16"), watch)
    assert "joins the study: resnet8:0.5; what was tried before carries over" in notes
    assert after.trials[: len(before.trials)] == before.trials
    assert {path: stamp for path, stamp in stamps(results(Path())).items() if path in old} == old
    assert {it.name for it in after.teachers} == {"resnet8:0.25", "resnet8:0.5"}
    (prior,) = [it for it in after.trials[len(before.trials) :] if it.kind == "prior"]
    assert prior.params.teacher == "resnet8:0.5"
    assert after.state == "complete"
    assert after.spent_epochs <= after.plan.total_epochs
    assert len(fresh) == len(set(fresh))
    assert core(drive(request(teachers=BOTH, budget="16"))) == core(after), "the same command again"
    with pytest.raises(StoreError, match="belongs to another study"):
        drive(request(teachers=ONE, budget="16"))


def test_what_else_differs_is_refused_as_ever(here, warm):
    drive(request(teachers=ONE, budget="8"))
    with pytest.raises(StoreError, match=r"training\.epochs"):
        drive(request("training.epochs=4", teachers=BOTH, budget="16"))
    assert not Path("runs", NAME, "carried.json").exists()

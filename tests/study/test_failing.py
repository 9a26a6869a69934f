"""Studies whose runs fail: which runs, of what cause, what to do next."""

import sys
from pathlib import Path

import pytest
from fake_trainer import Behaviour, behave
from small_studies import NAME, TINY, drive, fake, kept, options, without_workers

from autodistill import __main__ as entry
from autodistill.errors import StudyError
from autodistill.store import StudyFolder, read_result
from autodistill.study import recorder

pytestmark = pytest.mark.slow


def test_a_study_whose_every_run_fails_names_them_and_says_so_again():
    for attempt in ("first", "resumed"):
        with pytest.raises(StudyError) as found:
            drive(options("training.lr=1e30"))
        first, cause = found.value.message.splitlines()
        assert first == "all 4 runs of the first stage failed:", attempt
        assert cause.startswith("  4 x the loss became nan: baselines/no-teacher-")
        assert "training.lr, which is 1e+30" in found.value.hint
        assert "in a new study (--study NAME)" in found.value.hint
    named = cause.partition(": ")[2].split(", ")
    trials = kept().trials
    assert [trial.state for trial in trials] == ["failed", "failed"]
    for trial in trials:
        assert trial.rung.run in named
        assert read_result(StudyFolder(Path("runs") / NAME), trial.rung.key).result.state == "failed", (
            "kept: it diverged"
        )


def test_the_exit_code_is_that_of_a_failed_run(monkeypatch, capsys):
    without_workers(monkeypatch)
    sizes = [it for override in TINY for it in ("--set", override)]
    command = ["autodistill", "search", "--student", "resnet8:0.25", "--space", "smoke", *sizes, "--workers", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--set", "training.lr=1e30"])
    with pytest.raises(SystemExit) as ended:
        entry.run()
    assert ended.value.code == 1
    assert "error: all 4 runs of the first stage failed:" in capsys.readouterr().err


def test_a_teacher_whose_training_diverges_is_named_with_its_setting():
    with pytest.raises(StudyError, match=r"^ladder:resnet8:0\.\d+: training this teacher failed") as found:
        drive(options("ladder.lr=1e6"))
    assert "--set ladder.lr=0.05" in found.value.hint


def test_a_study_whose_every_run_with_a_searched_teacher_fails_says_so_in_its_reasons():
    """The loss overflows at such a temperature; runs without a teacher and plain KD are unharmed."""
    record = drive(options("search.methods={ts={tau=1e22}}", 'prior={method="ts",params={tau=1e22}}'))
    assert record.recommendation is not None
    reasons = " ".join(record.recommendation.reasons)
    for teacher in record.teachers:
        assert f"Every trial of {teacher.name} failed (" in reasons
    assert "the loss became" in reasons


def test_an_error_that_is_no_failure_of_a_run_ends_the_study_and_keeps_all_runs():
    behave({"confirm/*": Behaviour(error="the disk has gone")})
    with pytest.raises(StudyError, match="the disk has gone"):
        fake(options())
    record = kept()
    assert record.state == "running"
    assert all(trial.state != "running" for trial in record.trials)
    behave({})
    assert fake(options()).state == "complete"


def test_a_record_whose_writes_are_slow_is_complete_after_an_error(monkeypatch):
    """After a slow write the next one waits, here longer than the study takes."""
    monkeypatch.setattr(recorder, "QUICK_S", -1.0)
    monkeypatch.setattr(recorder, "WRITE_SHARE", 1e9)
    behave({"confirm/*": Behaviour(error="the disk has gone")})
    with pytest.raises(StudyError, match="the disk has gone"):
        fake(options())
    record = kept()
    assert record.trials
    assert all(trial.state != "running" for trial in record.trials)
    assert record.plain_kd is not None

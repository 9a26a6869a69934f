"""Studies whose runs fail: which runs, of what cause, where their results are, what to do next."""

import sys
from pathlib import Path

import pytest
from small_studies import NAME, TINY, drive, request

from autodistill import __main__ as entry
from autodistill.errors import StudyError
from autodistill.records import read_study
from autodistill.store import RunFolder, read_result

pytestmark = pytest.mark.slow


def test_a_study_whose_every_run_fails_names_them_and_says_so_again(here, warm):
    for attempt in ("first", "resumed"):
        with pytest.raises(StudyError) as found:
            drive(request("training.lr=1e30"))
        first, cause, files = found.value.message.splitlines()
        assert first == "all 4 runs of the first stage failed:", attempt
        assert cause.startswith("  4 x the loss became nan: baselines/no-teacher-")
        named = Path(files.removeprefix("  whole messages: ").removesuffix(" and so on"))
        assert named.is_file()
        for run in cause.partition(": ")[2].split(", "):
            kept = read_result(RunFolder(Path("runs") / NAME), run)
            assert kept is not None
            assert kept.record.state == "failed"
        assert "training.lr, which is 1e+30" in found.value.hint
    trials = read_study(RunFolder(Path("runs") / NAME).record).trials
    assert [trial.state for trial in trials] == ["failed", "failed"]


def test_the_exit_code_is_that_of_a_failed_run(here, warm, monkeypatch, capsys):
    sizes = [it for override in TINY for it in ("--set", override)]
    command = ["autodistill", "search", "--student", "resnet8:0.25", "--space", "smoke", *sizes, "--workers", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--set", "training.lr=1e30"])
    with pytest.raises(SystemExit) as ended:
        entry.run()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "error: all 4 runs of the first stage failed:" in said
    assert "see the study's log" not in said


def test_a_teacher_whose_training_diverges_is_named_with_its_setting(here):
    with pytest.raises(StudyError, match=r"^ladder:resnet8:0\.\d+: training this teacher failed") as found:
        drive(request("ladder.lr=1e6"))
    assert "--set ladder.lr=0.05" in found.value.hint


def test_a_study_whose_every_run_with_a_searched_teacher_fails_says_so_in_its_reasons(here, warm):
    """The loss overflows at such a temperature; runs without a teacher and plain KD go well."""
    hot = ("search.rules={ts={tau=1e22}}", 'prior={rule="ts",params={tau=1e22}}')
    record = drive(request(*hot))
    assert record.recommendation is not None
    reasons = " ".join(record.recommendation.reasons)
    for teacher in record.teachers:
        assert f"Every trial of {teacher.name} failed (" in reasons
    assert "the loss became" in reasons

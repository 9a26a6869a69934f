"""A study that was killed, timed out or given more budget goes on from what it kept."""

import functools
import itertools
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import alive, children_of
from small_studies import NAME, TINY, Here, core, drive, kept, request, results, stamps

from autodistill import __main__ as entry
from autodistill import commands, showing
from autodistill.errors import ConfigError, StoreError
from autodistill.records import (
    EpochEvent,
    Event,
    Note,
    RunEnded,
    StudyRecord,
    read_study,
    to_json,
)
from autodistill.study import prepare, run_study
from autodistill.study import running as running_module
from autodistill.study.simulating import Costs

pytestmark = pytest.mark.slow

KILLS: dict[str, Callable[[Path, int], bool]] = {
    "the ladder is trained": lambda place, runs: any(place.glob("cache/ladder/*/*.lock")),
    "the cache is filled": lambda place, runs: len(list(place.glob("cache/logits/*/*.safetensors"))) > 2,
    "trials are searched": lambda place, runs: any(place.glob("runs/*/trials/0003/short/result.json")),
    "finalists are confirmed": lambda place, runs: any(place.glob("runs/*/confirm/*/result.json")),
    "the last run is over": lambda place, runs: len(results(place)) == runs,
}


def started(place: Path, arguments: Sequence[str]) -> int:
    """The command line in a process of its own: forked, as each start would take seconds to import torch again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    try:
        os.chdir(place)
        os.environ["AUTODISTILL_CACHE"] = str(place / "cache")
        sys.argv = ["autodistill", "search", *arguments]
        sys.stdout = sys.stderr = (place / "log").open("w", buffering=1)
        entry.run()
    finally:
        os._exit(1)


def killed_when(reached: Callable[[], bool], pid: int) -> int:
    """Wait until it is so, kill the process, wait until its workers are gone; returns its status."""
    workers: set[int] = set()
    for look in itertools.count():
        if reached():
            break
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        workers |= children_of(pid) if look % 50 == 0 else set()
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    until = time.monotonic() + 60
    while any(map(alive, workers)):
        assert time.monotonic() < until, "orphans"
        time.sleep(0.05)
    return status


def test_a_study_killed_five_times_ends_as_one_that_never_was(tmp_path, reference, monkeypatch):
    arguments = ["--student", "resnet8:0.25", "--space", "smoke", "--budget", "11", "--workers", "1"]
    arguments += itertools.chain(*(("--set", override) for override in TINY))
    runs = len(results(reference.place))
    for when, reached in KILLS.items():
        status = killed_when(functools.partial(reached, tmp_path, runs), started(tmp_path, arguments))
        assert os.WIFSIGNALED(status), f"ended before {when}:\n{(tmp_path / 'log').read_text()}"
        record = tmp_path / "runs" / NAME / "study.json"
        state = read_study(record).state if record.exists() else "none yet"
        assert state in ({"running", "complete"} if when == "the last run is over" else {"none yet", "running"})
    monkeypatch.setattr(running_module, "Pool", Here)
    monkeypatch.setenv("AUTODISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert core(drive(request())) == core(reference.record)
    assert len(results(tmp_path)) == runs
    assert not list(tmp_path.glob("runs/**/.*.tmp"))


def unfinish() -> None:
    """As a kill before the last write would leave it."""
    path = Path("runs", NAME, "study.json")
    path.write_text(to_json(read_study(path).model_copy(update={"state": "running", "recommendation": None})))


def test_a_finished_study_starts_no_process_and_gives_its_record(finished, monkeypatch):
    monkeypatch.setattr(running_module, "Pool", None)
    assert drive(request()) == finished == kept()


def test_kept_runs_are_replayed_and_the_record_never_falls_back(finished):
    unfinish()
    before, seen = stamps(results(Path())), []
    again = drive(request(), lambda _: seen.append(len(kept().finalists)))
    assert set(seen) == {3}, "written before anything new was known"
    assert core(again) == core(finished) == core(kept())
    assert stamps(results(Path())) == before
    assert again.timing["views_computed"] == finished.timing["views_computed"]
    assert again.timing["phases_s"]["search"] >= finished.timing["phases_s"]["search"]


def stepping() -> SimpleNamespace:
    """A clock that moves a second at every look."""
    return SimpleNamespace(monotonic=map(float, itertools.count()).__next__)


def test_a_timeout_stops_and_the_same_command_resumes_to_the_same_end(reference, here, warm, monkeypatch):
    monkeypatch.setattr(running_module, "time", stepping())
    notes: list[str] = []
    sessions: list[StudyRecord] = []
    for timeout in ("1s", "40s", "60s", "200s"):
        sessions.append(
            drive(request(timeout=timeout), lambda it: notes.append(it.text) if isinstance(it, Note) else None)
        )
        assert core(kept()) == core(sessions[-1])
    assert [it.state for it in sessions].count("running") >= 3
    assert sessions[0].spent_epochs == 0
    assert [it.spent_epochs for it in sessions] == sorted(it.spent_epochs for it in sessions)
    assert "--timeout: stopped after 40 s; the same command goes on from here" in notes
    assert core(sessions[-1]) == core(reference.record)


def test_a_timeout_before_anything_new_leaves_a_finished_record_as_it_is(finished, monkeypatch):
    monkeypatch.setattr(running_module, "time", stepping())
    assert drive(request(timeout="1s", budget="13")) == finished == kept()


def test_a_budget_of_time_becomes_epochs_once(here, monkeypatch):
    slow, fast = (
        Costs(
            epoch_s=epoch_s,
            targets_s=0.1,
            validation_s=validation_s,
            test_s=1.0,
            run_s=1.0,
            profile_s=1.0,
            teachers={},
            held_out=1.0,
            views=3,
            evaluate_every=2,
        )
        for epoch_s, validation_s in ((0.8, 0.2), (0.1, 0.1))
    )
    measured = iter([slow, fast, fast])

    def measure(*_: object) -> Iterator[Event]:
        yield from ()
        return next(measured)

    monkeypatch.setattr(running_module, "measure", measure)
    monkeypatch.setattr(running_module, "time_left", lambda *_: None)

    def planned(budget: str) -> str:
        events = run_study(prepare(request(budget=budget, workers=2)))
        note = next(events)
        events.close()
        return note.text

    first = planned("0.3m")
    assert first.startswith("plan: 12 full trainings"), "2 workers for 18 s, 0.9 s an epoch, 0.2 every other"
    assert planned("0.3m") == first
    with pytest.raises(ConfigError, match=r"--budget 0\.01m: .* the smallest is 10 "):
        planned("0.01m")


def test_a_higher_budget_goes_on_and_trains_no_finished_run_again(finished):
    before = stamps(results(Path()))
    fresh: list[RunEnded] = []
    second = drive(
        request(budget="13"),
        lambda it: fresh.append(it) if isinstance(it, RunEnded) and not it.reused else None,
    )
    assert stamps(before) == before
    assert second.plan.requested == "13"
    assert finished.spent_epochs < second.spent_epochs <= 39
    first, both = ({run.run for run in record.runs()} for record in (finished, second))
    assert {it.record.run for it in fresh} == both - first != set()
    known = len(finished.trials)
    assert [it.params for it in second.trials[:known]] == [it.params for it in finished.trials]


def test_a_damaged_space_is_taken_from_the_record(finished):
    unfinish()
    path = Path("runs", NAME, "run.toml")
    whole = path.read_text()
    path.write_text("\0garbage")
    assert core(drive(request(workers=7))) == core(finished), "with the wave that it was begun with"
    assert path.read_text() == whole
    path.write_text("wave = ")
    Path("runs", NAME, "study.json").write_text("{")
    with pytest.raises(StoreError, match=r"run\.toml: damaged"):
        drive(request())


def test_a_damaged_plan_is_taken_from_the_record(finished):
    path = Path("runs", NAME, "plan.json")
    path.write_text("\0garbage")
    unfinish()
    assert core(drive(request())) == core(finished)
    Path("runs", NAME, "study.json").unlink()
    path.write_text("{}")
    assert core(drive(request())) == core(finished)
    assert len(path.read_text()) > 2, "made anew"


def test_a_result_of_other_parameters_under_a_run_s_name_is_not_taken(finished):
    path = Path("runs", NAME, "baselines", "plain-kd", "result.json")
    found = json.loads(path.read_text())
    found["record"]["params"]["soft_weight"] = 0.123
    path.write_text(json.dumps(found))
    unfinish()
    assert core(drive(request())) == core(finished)


def test_a_study_whose_first_run_is_still_going_is_said_to_be_there(finished):
    Path("runs", NAME, "study.json").unlink()
    with pytest.raises(StoreError, match="no run has ended yet"):
        showing.folder_of(NAME)


def test_a_student_s_file_is_not_overwritten(finished):
    Path("student.safetensors").write_text("mine")
    with pytest.raises(StoreError, match="exists already; nothing was trained"):
        commands.train(request(), run=NAME, seed=0, to=Path("student.safetensors"))
    assert Path("student.safetensors").read_text() == "mine"


def test_a_full_run_whose_short_run_left_nothing_to_go_on_with_ends_the_same(finished):
    trial = next(trial for trial in finished.trials if trial.full)
    Path("runs", NAME, trial.full.run, "result.json").unlink()
    unfinish()
    epochs: list[int] = []
    again = drive(request(), lambda it: epochs.append(it.record.epoch) if isinstance(it, EpochEvent) else None)
    assert core(again) == core(finished)
    assert epochs == [2, 3], "what the short run has paid for is not told again"

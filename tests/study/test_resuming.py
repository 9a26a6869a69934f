"""A study that was killed, stopped, timed out or given more budget continues from what it kept."""

import functools
import io
import itertools
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from fake_trainer import Behaviour, all_trained, behave, trained
from processes import alive, children_of
from small_studies import (
    ISATS_FIRST,
    NAME,
    TINY,
    Killed,
    core,
    drive,
    fake,
    fake_work,
    kept,
    kill_after,
    options,
    results,
    stamps,
)

from autodistill.cli.train import train
from autodistill.errors import ConfigError, StoreError
from autodistill.executors import (
    Line,
    MeasureStudentTask,
    MeasureTeacherTask,
    SerialExecutor,
    Stopped,
    StudentTimes,
    TeacherTimes,
)
from autodistill.records import EpochEvent, Event, Note, RunEnded, StudyRecord, read_study, to_json

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("uncopied")]

KILLS: dict[str, Callable[[Path, int], bool]] = {
    "the ladder is trained": lambda place, runs: any(place.glob("cache/ladder/*/*.lock")),
    "trials are searched": lambda place, runs: len(results(place)) > 5,
    "the last run is over": lambda place, runs: len(results(place)) == runs,
}


def started(place: Path, arguments: Sequence[str]) -> int:
    """Run the command line in a process of its own. A fork would hang where tests before it have started threads."""
    command = [sys.executable, "-W", "ignore", "-m", "autodistill", "search", *arguments]
    environment = {**os.environ, "AUTODISTILL_CACHE": str(place / "cache")}
    shell = ["/bin/sh", "-c", 'cd "$0" && exec "$@" > log 2>&1', str(place), *command]
    return os.posix_spawn("/bin/sh", shell, environment)


def signalled_when(reached: Callable[[], bool], pid: int, number: int) -> int:
    """Wait until a state is reached, send a signal, wait until the workers are gone; returns the process's status."""
    workers: set[int] = set()
    for look in itertools.count():
        if reached():
            break
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        workers |= children_of(pid) if look % 50 == 0 else set()
        time.sleep(0.002)
    os.kill(pid, number)
    status = os.waitpid(pid, 0)[1]
    until = time.monotonic() + 60
    while any(map(alive, workers)):
        assert time.monotonic() < until, "orphans"
        time.sleep(0.05)
    return status


ARGUMENTS = ("--student", "resnet8:0.25", "--space", "smoke", "--budget", "11", "--workers", "1")
SETTINGS = tuple(itertools.chain(*(("--set", override) for override in TINY)))


def test_a_study_killed_three_times_ends_as_an_undisturbed_study(tmp_path, reference, monkeypatch):
    runs = len(results(reference.place))
    for when, reached in KILLS.items():
        pid = started(tmp_path, [*ARGUMENTS, *SETTINGS])
        status = signalled_when(functools.partial(reached, tmp_path, runs), pid, signal.SIGKILL)
        assert os.WIFSIGNALED(status), f"ended before {when}:\n{(tmp_path / 'log').read_text()}"
        state = read_study(tmp_path / "runs" / NAME / "study.json").state
        assert state in ({"running", "complete"} if when == "the last run is over" else {"running"})
    monkeypatch.setenv("AUTODISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert core(drive(options())) == core(reference.record)
    assert len(results(tmp_path)) == runs
    assert not list(tmp_path.glob("runs/**/.*.tmp"))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_ends_the_command_with_130_and_the_same_command_continues(tmp_path, reference, monkeypatch, name):
    """Long runs, so that the signal meets some of them."""
    shutil.copytree(reference.cache, tmp_path / "cache")
    longer = ["--set", "training.epochs=4000", "--set", "training.rung_epochs=1333", "--set", "data.views=3"]
    pid = started(tmp_path, [*ARGUMENTS, *SETTINGS, *longer])
    log = tmp_path / "log"

    before: dict[Path, int] = {}

    def checkpointed() -> bool:
        before.update(stamps(tmp_path.glob("runs/*/checkpoints/*.pt")))
        return bool(before)

    status = signalled_when(checkpointed, pid, getattr(signal, name))
    assert os.waitstatus_to_exitcode(status) == 130, log.read_text()
    *_, last = log.read_text().splitlines()
    said = "stopped by a signal, every run has a checkpoint. Continue with: autodistill search --student resnet8:0.25"
    assert last.startswith(said)
    (there,) = tmp_path.glob("runs/*/checkpoints/*.pt")
    assert there.stat().st_mtime_ns > before[there], "the signal made it write another one"
    assert not results(tmp_path)
    assert read_study(tmp_path / "runs" / NAME / "study.json").state == "running"

    curve = torch.load(io.BytesIO(there.read_bytes()[32:]), weights_only=True)["curve"]
    assert len(curve) < 4000
    monkeypatch.setenv("AUTODISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    epochs: list[EpochEvent] = []

    def watch(event: Event) -> None:
        if isinstance(event, EpochEvent):
            epochs.append(event)
        if len(epochs) == len(curve) + 5:
            raise Killed

    with pytest.raises(Killed):
        drive(options(*longer[1::2]), watch)
    assert [it.record.model_dump() for it in epochs[: len(curve)]] == curve
    *known, fresh = (it.wall_s for it in epochs[1 : len(curve) + 1])
    assert sum(known) < fresh + 0.01 * len(known), "epochs of the checkpoint are told of, not trained again"


def events_of(place: Path) -> int:
    """Return the number of events of a study from its begin to its end."""
    seen: list[Event] = []
    fake(options(), seen.append)
    shutil.rmtree(place)
    return len(seen)


def test_a_study_killed_at_any_event_gives_an_equal_record(faked):
    events = events_of(Path("runs"))
    for count in (1, 2, 3, *range(4, events, 6), events):
        with pytest.raises(Killed):
            fake(options(), kill_after(count))
        spent = kept().spent_epochs
        again = fake(options())
        assert core(again) == core(faked.record) == core(kept()), f"killed at event {count}"
        assert again.spent_epochs >= spent
        shutil.rmtree("runs")


def test_a_study_killed_again_and_again_trains_no_epoch_twice(faked):
    """Each process gets a little further."""
    for _ in range(100):
        try:
            record = fake(options(), kill_after(70))
            break
        except Killed:
            continue
    assert core(record) == core(faked.record)
    assert len(all_trained()) == len(set(all_trained()))


def test_a_stopped_study_has_checkpoints_and_the_same_command_continues(faked):
    stop = threading.Event()

    def on_event(event: Event) -> None:
        if isinstance(event, EpochEvent) and event.run == "baselines/no-teacher-1000":
            stop.set()

    def stoppable(spec):
        return SerialExecutor(spec.setup, data=spec.data, stop=stop, work=fake_work)

    with pytest.raises(Stopped):
        fake(options(), on_event, executor_for=stoppable)
    assert trained("baselines/no-teacher-1000") == [1]
    assert len(list(Path("runs", NAME, "checkpoints").iterdir())) == 1
    assert core(fake(options())) == core(faked.record)
    assert trained("baselines/no-teacher-1000") == [1, 2, 3]


def unfinish() -> None:
    """Leave the record as a kill before the last write would."""
    path = Path("runs", NAME, "study.json")
    path.write_text(to_json(read_study(path).model_copy(update={"state": "running", "recommendation": None})))


def test_a_finished_study_starts_no_executor_and_gives_its_record(done):
    def none(_):
        raise AssertionError

    assert fake(options(), executor_for=none) == done == kept()


def test_kept_runs_are_read_and_the_record_never_falls_back(done):
    unfinish()
    before, seen = stamps(results(Path())), []
    again = fake(options(), lambda _: seen.append(len(kept().finalists)))
    assert set(seen) == {3}, "written before anything new was known"
    assert core(again) == core(done) == core(kept())
    assert stamps(results(Path())) == before
    assert again.timing["phases_s"]["search"] >= done.timing["phases_s"]["search"]
    assert not all_trained()


def test_kept_results_have_the_same_timing(finished):
    unfinish()
    again = drive(options())
    assert core(again) == core(finished)
    for part in ("views_computed", "runs_s", "parts_s"):
        assert again.timing[part] == finished.timing[part]


def test_a_timeout_stops_and_the_same_command_resumes_to_the_same_end(faked, clock):
    behave({"*": Behaviour(epoch_s=0.1)})
    notes: list[str] = []
    sessions: list[StudyRecord] = []
    while not sessions or sessions[-1].state == "running":
        asked = options(timeout="2s")
        sessions.append(fake(asked, lambda it: notes.append(it.text) if isinstance(it, Note) else None))
        assert core(kept()) == core(sessions[-1])
    assert len(sessions) >= 3
    assert [it.spent_epochs for it in sessions] == sorted(it.spent_epochs for it in sessions)
    assert "--timeout: stopped after 2 s; the same command continues" in notes
    assert core(sessions[-1]) == core(faked.record)


def test_a_timeout_before_anything_new_keeps_all_that_is_known(done):
    record = fake(options(timeout="0.000001s", budget="13"))
    assert record == kept()
    assert record.state == "running"
    assert record.plan.requested == "13"
    assert record.trials == done.trials
    assert record.finalists == done.finalists
    assert fake(options(budget="13")).spent_epochs > done.spent_epochs


def timed(epoch_s: float):
    """Return an executor for which an epoch takes so long."""

    def work(task, context):
        if isinstance(task, MeasureStudentTask):
            steps = Line(once_s=epoch_s)
            return StudentTimes(training=steps, targets=Line(), evaluation_s=0.0, build_s=0.0, fit_s=0.0, profile_s=0.0)
        if isinstance(task, MeasureTeacherTask):
            return TeacherTimes(view_s=0.0)
        return fake_work(task, context)

    return lambda spec: SerialExecutor(spec.setup, data=spec.data, work=work)


def test_a_budget_of_time_becomes_epochs_once(monkeypatch, tmp_path):
    """An epoch takes 1 s; two workers train at most 32 epochs in 18 s, less 2 s for the report.

    A later command may measure what it likes.
    """
    asked = options(budget="0.3m", workers=2)
    with pytest.raises(Killed):
        fake(asked, kill_after(3), executor_for=timed(1.0))
    total = kept().plan.total_epochs
    assert kept().plan.requested == "0.3m"
    assert 27 <= total <= 32
    monkeypatch.setenv("AUTODISTILL_CACHE", str(tmp_path))
    notes = []
    record = fake(asked, lambda it: notes.append(it) if isinstance(it, Note) else None, executor_for=timed(0.01))
    assert notes[0].text.startswith(f"plan: {total / 3:.4g} full trainings")
    assert record.plan.total_epochs == total
    assert total - 3 <= record.spent_epochs <= total
    with pytest.raises(ConfigError, match=r"--budget 0\.001m: .* the smallest is 9 "):
        fake(options(budget="0.001m", workers=2, study="other"), executor_for=timed(0.01))


def test_a_budget_of_time_needs_a_measurement():
    def blind(spec):
        def work(task, context):
            return None if isinstance(task, MeasureStudentTask) else fake_work(task, context)

        return SerialExecutor(spec.setup, data=spec.data, work=work)

    from autodistill.errors import StudyError

    with pytest.raises(StudyError, match="--budget 8h: the duration of an epoch could not be measured"):
        fake(options(budget="8h"), executor_for=blind)
    assert fake(options(), executor_for=blind).state == "complete", "without a plan of time"


def test_a_higher_budget_continues_and_trains_no_finished_run_again(done):
    before = stamps(results(Path()))
    fresh: list[RunEnded] = []
    second = fake(
        options(budget="13"),
        lambda it: fresh.append(it) if isinstance(it, RunEnded) and not it.reused else None,
    )
    after = stamps(results(Path()))
    assert second.plan.requested == "13"
    assert done.spent_epochs < second.spent_epochs <= 39
    first, both = ({run.run for run in record.runs()} for record in (done, second))
    assert {it.record.run for it in fresh} == both - first != set()
    continued = {it.record.key for it in fresh}
    assert {path: stamp for path, stamp in after.items() if path in before and path.stem not in continued} == {
        path: stamp for path, stamp in before.items() if path.stem not in continued
    }
    known = len(done.trials)
    assert [it.params for it in second.trials[:known]] == [it.params for it in done.trials]


def test_a_lost_or_damaged_space_is_written_again(done):
    path = Path("runs", NAME, "space.toml")
    whole = path.read_text()
    for spoil in (lambda: path.write_text("\0garbage"), path.unlink):
        unfinish()
        spoil()
        assert core(fake(options())) == core(done)
        assert path.read_text() == whole


def test_a_study_whose_record_is_lost_is_made_again_from_its_results(done):
    Path("runs", NAME, "study.json").unlink()
    assert core(fake(options())) == core(done)
    assert not all_trained()


def another_digit(whole: bytes) -> bytes:
    document = json.loads(whole)
    document["result"]["curve"][-1]["val_top1"] += 0.1
    return json.dumps(document).encode()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"result": {}}', b"[]", another_digit])
def test_a_damaged_result_is_trained_again(done, content):
    path = Path("runs", NAME, "results", f"{done.no_teacher.key}.json")
    whole = path.read_bytes()
    path.write_bytes(content(whole) if callable(content) else content)
    unfinish()
    assert core(fake(options())) == core(done)
    assert json.loads(path.read_bytes())["result"] == json.loads(whole)["result"]
    assert trained(done.no_teacher.run) == [1, 2, 3]


def test_a_result_under_another_key_is_not_taken(done):
    place = Path("runs", NAME, "results")
    shutil.copy(place / f"{done.no_teacher.key}.json", place / f"{done.plain_kd.key}.json")
    unfinish()
    assert core(fake(options())) == core(done)


def test_failures_that_decisions_rest_on_stay_failures():
    """A run that failed by its workers' deaths is not kept under its key; the trials on record say that it failed."""
    behave({"trials/0002/*": Behaviour(fails_at=1)})
    asked = options()
    record = fake(asked)
    failed = record.trials[2]
    assert failed.state == "failed"
    assert not Path("runs", NAME, "results", f"{failed.rung.key}.json").exists()
    unfinish()
    behave({})
    before = all_trained()
    again = fake(asked)
    assert core(again) == core(record)
    assert again.trials[2] == failed
    assert all_trained() == before


def test_a_run_that_failed_and_is_in_no_trial_is_trained_again():
    behave({"baselines/plain-kd": Behaviour(fails_at=1)})
    asked = options(ISATS_FIRST)
    record = fake(asked)
    assert record.plain_kd.state == "failed"
    behave({})
    unfinish()
    assert fake(asked).plain_kd.state == "complete"


def test_plain_kd_that_is_a_prior_and_failed_stays_failed():
    """Decisions rest on it, as on any trial."""
    behave({"trials/*/full": Behaviour(fails_at=2)})
    record = fake(options())
    trial = next(it for it in record.trials if it.full == record.plain_kd)
    assert (trial.kind, trial.state, record.plain_kd.state) == ("prior", "failed", "failed")
    behave({})
    unfinish()
    again = fake(options())
    assert (again.trials[trial.number], again.plain_kd) == (trial, record.plain_kd)


def test_a_diverged_run_stays_failed():
    behave({"baselines/plain-kd": Behaviour(diverges_at=2)})
    asked = options(ISATS_FIRST)
    record = fake(asked)
    assert "became nan" in record.plain_kd.reason
    behave({})
    Path("runs", NAME, "study.json").unlink()
    assert core(fake(asked)) == core(record)
    assert trained("baselines/plain-kd") == [1, 2]


def test_a_student_s_file_is_not_overwritten(done):
    Path("student.safetensors").write_text("mine")
    with pytest.raises(StoreError, match="exists already; nothing was trained"):
        train(run=NAME, seed=0, to=Path("student.safetensors"), with_validation=False)
    assert Path("student.safetensors").read_text() == "mine"


def test_a_full_run_whose_checkpoint_is_lost_ends_the_same(finished):
    """It trains its first epochs again, which the rung has paid for and nobody is told of."""
    trial = next(trial for trial in finished.trials if trial.full)
    path = Path("runs", NAME, "results", f"{trial.full.key}.json")
    document = json.loads(path.read_text())
    del document["checksum"]
    document["result"] = trial.rung.model_dump(mode="json")
    path.write_text(json.dumps(document))
    unfinish()
    epochs: list[int] = []
    again = drive(options(), lambda it: epochs.append(it.record.epoch) if isinstance(it, EpochEvent) else None)
    assert core(again) == core(finished)
    assert epochs == [2, 3]


@pytest.mark.parametrize("weights", ["kept", "damaged"])
def test_a_missing_test_score_is_computed_from_the_kept_weights_or_trained_for(finished, weights):
    """Equal keys have equal weights; whether they were evaluated on the test split is no part of the key."""
    run = finished.finalists[1].runs[0]
    path = Path("runs", NAME, "results", f"{run.key}.json")
    whole = json.loads(path.read_text())
    without = json.loads(path.read_text())
    del without["checksum"]
    without["result"]["curve"][-1]["test_top1"] = None
    path.write_text(json.dumps(without))
    if weights == "damaged":
        Path("runs", NAME, "weights", f"{run.key}.safetensors").write_bytes(b"damaged")
    unfinish()
    epochs = []
    again = drive(options(), lambda it: epochs.append(it) if isinstance(it, EpochEvent) else None)
    assert core(again) == core(finished)
    assert json.loads(path.read_text())["result"] == whole["result"]
    if weights == "kept":
        assert epochs == [], "nothing was trained"

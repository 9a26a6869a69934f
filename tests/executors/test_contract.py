"""What every executor does, with a fake trainer: results, events, deaths, errors, idle workers, stopping."""

import fnmatch
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_trainer
import pytest
from executor_parts import LADDER, of, run, setup
from fake_trainer import Behaviour, begun, behave, epoch_record, trained
from processes import alive

from autodistill.errors import StudyError
from autodistill.executors import (
    AgreementTask,
    CheckTask,
    Executor,
    LocalExecutor,
    LogitsTask,
    MeasureStudentTask,
    MeasureTeacherTask,
    Profiled,
    ProfileTask,
    SerialExecutor,
    Stopped,
    StudentTimes,
    TeacherTimes,
    TrainTeacherTask,
)
from autodistill.executors.base import Done, Slot, TaskQueue, longest_first
from autodistill.records import AgreementRecord, EpochEvent, Event, Note, RunEnded, TeacherRecord, TrialParams
from autodistill.store import StudyFolder, read_result

slow = pytest.mark.slow
KINDS = ["serial", pytest.param("local", marks=slow), pytest.param("ray", marks=slow)]
WITH_PROCESSES = KINDS[1:]


def started(kind: str, home: Path, *, workers: int = 2, stop: threading.Event | None = None) -> Any:
    """Start an executor whose workers use the fake trainer."""
    asked, work = setup(home), fake_trainer.work
    if kind == "serial":
        return SerialExecutor(asked, stop=stop, work=work)
    if kind == "local":
        return LocalExecutor(workers, asked, stop=stop, work=work)
    from autodistill.executors.ray import RayExecutor

    return RayExecutor(asked, address="local", workers=workers, stop=stop, work=work)


class Bench:
    """An executor in a folder, and what its workers did there."""

    def __init__(self, kind: str, home: Path, executor: Executor) -> None:
        self.kind, self.cache, self.executor = kind, home / "cache", executor
        self.folder, self.events = StudyFolder(home / "runs" / "study"), list[Event]()

    def run(self, *tasks: Any, **more: Any) -> list[Any]:
        self.events.clear()
        return self.executor.run(tasks, self.events.append, **more)

    def behave(self, **rules: Behaviour) -> None:
        behave(rules, cache=self.cache)

    def trained(self, name: str) -> list[int]:
        return trained(name, cache=self.cache)

    def begun(self, name: str) -> list[int]:
        """Return the processes that have begun a task whose label matches a pattern."""
        return [pid for label, pid in begun(cache=self.cache) if fnmatch.fnmatchcase(label, name)]

    def order(self) -> list[str]:
        return fake_trainer.done(cache=self.cache)


def opened(kind: str, request: pytest.FixtureRequest, factory: pytest.TempPathFactory) -> Iterator[Bench]:
    if kind == "ray":
        request.getfixturevalue("ray_cluster")
    home = factory.mktemp(kind)
    with started(kind, home) as executor:
        yield Bench(kind, home, executor)


@pytest.fixture(scope="module", params=KINDS)
def any_bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    yield from opened(request.param, request, tmp_path_factory)


@pytest.fixture
def bench(any_bench: Bench) -> Bench:
    """An executor whose workers have all started and are idle."""
    any_bench.behave(**{"check *": Behaviour(epoch_s=0.1)})
    workers = set[int]()
    while len(workers) < any_bench.executor.workers:
        before = len(any_bench.begun("check *"))
        any_bench.run(*[CheckTask(name="weak")] * any_bench.executor.workers)
        workers = set(any_bench.begun("check *")[before:])
    any_bench.behave()
    return any_bench


with_processes = pytest.mark.parametrize("any_bench", WITH_PROCESSES, indirect=True)


def test_results_come_in_the_order_of_tasks(bench):
    names = [f"order/{epochs}" for epochs in (2, 5, 1, 3)]
    found = bench.run(*(run(name, epochs=int(name[-1])) for name in names))
    assert [it.result.run for it in found] == names
    assert [len(it.result.curve) for it in found] == [2, 5, 1, 3]
    for task, kept in zip(names, found, strict=True):
        spec = run(task, epochs=int(task[-1])).spec
        assert kept.result.curve == tuple(epoch_record(spec, epoch) for epoch in range(1, spec.epochs + 1))


def test_every_kind_of_task_has_its_result(bench):
    tasks = [
        (TrainTeacherTask(uri=LADDER), type(None)),
        (CheckTask(name="weak"), TeacherRecord),
        (ProfileTask(name="weak"), Profiled),
        (LogitsTask(name="weak", view=3), int),
        (AgreementTask(names=("weak", "other")), AgreementRecord),
        (MeasureStudentTask(params=TrialParams(), seconds=0), StudentTimes),
        (MeasureTeacherTask(name="weak", seconds=0), TeacherTimes),
    ]
    found = bench.run(*(task for task, _ in tasks))
    assert [type(it) for it in found] == [kind for _, kind in tasks]
    assert bench.run() == []


def test_events_reach_the_caller_in_order_and_before_the_result(bench):
    (found,) = bench.run(run("events", epochs=3))
    *epochs, ended = bench.events
    assert [(it.run, it.epochs, it.record) for it in of(EpochEvent, epochs)] == [
        ("events", 3, record) for record in found.result.curve
    ]
    assert len(epochs) == 3
    assert isinstance(ended, RunEnded)
    assert ended.record == found.result
    assert read_result(bench.folder, "events") == found


def test_a_result_that_is_kept_already_is_not_trained_again(bench):
    first = bench.run(run("kept"))
    assert bench.run(run("kept")) == first
    assert bench.trained("kept") == [1, 2, 3, 4]
    assert len(of(RunEnded, bench.events)) == 1


def test_the_longest_task_is_begun_first():
    tasks = [CheckTask(name="weak"), run("a", epochs=2), run("b", epochs=9), TrainTeacherTask(uri=LADDER), run("c")]
    assert longest_first(tasks) == [3, 2, 4, 1, 0]
    rest = run("rest", epochs=9, begun_epochs=6)
    assert longest_first([rest, run("c")]) == [1, 0], "epochs that are paid for already do not count"
    assert longest_first([run("a"), run("b")]) == [0, 1], "in their order where they are equal"


FIRST = TrainTeacherTask(uri="ladder:resnet8:0.6", after=("ladder:kept",))
SECOND = TrainTeacherTask(uri="ladder:resnet8:0.7", after=(FIRST.uri,))
THIRD = TrainTeacherTask(uri="ladder:resnet8:0.8", after=(FIRST.uri, SECOND.uri))


def test_a_teacher_is_trained_after_those_that_it_waits_for(bench):
    before = len(bench.order())
    assert bench.run(THIRD, SECOND, FIRST) == [None, None, None]
    assert bench.order()[before:] == [f"train {it.uri}" for it in (FIRST, SECOND, THIRD)]


def test_a_free_worker_does_other_work_while_a_teacher_waits():
    one, other = Slot(), Slot()
    queue = TaskQueue([THIRD, SECOND, FIRST], [LogitsTask(name="weak", view=0)], [one, other], [])
    assert queue.assign(one) == FIRST
    assert queue.assign(other) == LogitsTask(name="weak", view=0)
    queue.end(other, Done())
    assert queue.assign(other) is None
    queue.lose(one, "lost", StudyError("lost"), lambda _: None)
    assert queue.assign(other) == FIRST, "nothing else can begin"
    queue.end(other, Done())
    assert (queue.assign(one), queue.assign(other)) == (SECOND, None)
    queue.end(one, Done())
    assert queue.assign(other) == THIRD
    queue.end(other, Done())
    assert queue.is_complete


def test_workers_take_the_longest_tasks_first(bench):
    bench.behave(**{"long/*": Behaviour(epoch_s=0.02)})
    before = len(bench.order())
    bench.run(*(run(f"long/{epochs}", epochs=epochs) for epochs in (1, 2, 9, 10)))
    order = bench.order()[before:]
    assert set(order[:2]) == {"long/9", "long/10"}
    assert set(order[2:]) == {"long/1", "long/2"}
    if bench.kind == "serial":
        assert order == ["long/10", "long/9", "long/2", "long/1"]
    else:
        names = [it.run for it in of(EpochEvent, bench.events)]
        assert names != sorted(names, key=order.index), "one run after the other"


def test_an_error_that_is_no_run_s_own_is_raised_whole_and_the_workers_go_on(bench):
    bench.behave(**{"check other": Behaviour(error="no such file")})
    with pytest.raises(StudyError) as found:
        bench.run(CheckTask(name="other"), run("beside", epochs=1))
    assert (found.value.message, found.value.hint) == ("no such file", "a hint of the fake trainer")
    assert bench.run(run("after the error", epochs=1))[0].result.state == "complete"


def test_a_failed_run_is_a_result(bench):
    bench.behave(diverges=Behaviour(diverges_at=2), fails=Behaviour(fails_at=3))
    diverged, failed, other = bench.run(run("diverges"), run("fails"), run("succeeds"))
    assert [it.result.state for it in (diverged, failed, other)] == ["failed", "failed", "complete"]
    assert diverged.result.error == "the loss became nan in epoch 2"
    ended = [it.record for it in of(RunEnded, bench.events)]
    assert sorted(ended, key=lambda it: it.run) == [it.result for it in (diverged, failed, other)]


@with_processes
def test_a_dead_worker_s_run_continues_from_its_checkpoint_on_another_worker(bench):
    bench.behave(dies=Behaviour(dies_at=3))
    (found, other) = bench.run(run("dies"), run("undisturbed"))
    assert found.result.state == other.result.state == "complete"
    assert found.result.curve == other.result.curve, "equal to a run that nobody disturbed"
    assert bench.trained("dies") == [1, 2, 3, 3, 4]
    first, second = bench.begun("dies")
    assert first != second
    assert not alive(first)
    (note,) = of(Note, bench.events)
    assert note.warning
    assert "while training the run dies (no teacher)" in note.text
    assert len([it for it in of(RunEnded, bench.events) if it.record.run == "dies"]) == 1


def test_a_task_on_which_three_workers_died_is_given_up():
    """A run fails, any other task ends the study."""
    slots, deaths, events = [Slot()], list[Any](), list[Event]()
    for task in (run("deadly"), CheckTask(name="weak")):
        queue = TaskQueue([task], [], slots, deaths)
        for death in range(3):
            assert queue.assign(slots[0]) == task
            deaths.append(task)
            if death == 2 and isinstance(task, CheckTask):
                with pytest.raises(StudyError, match="no more"):
                    queue.lose(slots[0], "again", StudyError("no more"), events.append)
            else:
                queue.lose(slots[0], "again", StudyError("no more"), events.append)
            assert queue.is_complete == (death == 2 and not isinstance(task, CheckTask))
    notes = of(Note, events)
    assert [(it.text, it.warning) for it in notes] == [("again", True)] * 4
    (ended,) = of(RunEnded, events)
    assert (ended.record.run, ended.record.state, ended.record.error) == ("deadly", "failed", "no more")


@with_processes
def test_a_run_that_keeps_killing_its_worker_fails_and_the_others_go_on(bench, monkeypatch):
    """After two deaths here, not three: starting a process takes seconds."""
    monkeypatch.setattr("autodistill.executors.base.MOST_DEATHS", 2)
    bench.behave(deadly=Behaviour(dies_at=2, deaths=9, epoch_s=0.05))
    deadly, other = bench.run(run("deadly"), run("beside a deadly run", epochs=2))
    assert other.result.state == "complete"
    assert deadly.result.state == "failed"
    assert "while training the run deadly (no teacher)" in deadly.result.error
    if bench.kind == "local":
        assert "the worker process died 2 times (last: signal 9, SIGKILL: killed from outside)" in deadly.result.error
    else:
        assert deadly.result.error.startswith("2 actors were lost while")
    assert bench.trained("deadly") == [1, 2, 2]
    assert len(set(bench.begun("deadly"))) == 2
    (ended,) = (it for it in of(RunEnded, bench.events) if it.record.run == "deadly")
    assert ended.record == deadly.result
    assert (deadly.result.seed, deadly.result.epochs, deadly.result.key) == (3, 4, "deadly")
    assert read_result(bench.folder, "deadly") is None, "not determined by the run itself"


@pytest.mark.parametrize("any_bench", WITH_PROCESSES[1:], indirect=True)
def test_another_task_that_keeps_killing_its_worker_ends_the_study(bench, monkeypatch):
    """After one death here. For processes of this machine this is in `test_deaths.py`."""
    monkeypatch.setattr("autodistill.executors.base.MOST_DEATHS", 1)
    bench.behave(**{"check weak": Behaviour(dies_at=1, deaths=1, epoch_s=0.05)})
    with pytest.raises(StudyError, match="while checking the teacher weak"):
        bench.run(CheckTask(name="weak"))
    assert not of(Note, bench.events)
    (found,) = bench.run(CheckTask(name="weak"))
    assert found.name == "weak", "the workers are there again"


@with_processes
def test_idle_workers_do_other_tasks_whose_results_are_dropped(bench):
    bench.behave(**{"busy/*": Behaviour(epoch_s=0.1), "logits other": Behaviour(error="an error of nobody")})
    ahead = [LogitsTask(name=name, view=view) for view in (0, 1) for name in ("other", "weak")]
    before = len(bench.order())
    found = bench.run(*(run(f"busy/{it}", epochs=3) for it in range(3)), meanwhile=ahead)
    assert [it.result.run for it in found] == ["busy/0", "busy/1", "busy/2"]
    order = bench.order()[before:]
    # The last run and the other tasks start at the same time, in different processes.
    assert set(order[:2]) <= {"busy/0", "busy/1", "busy/2"}, "no worker was idle before"
    assert set(order) == {"busy/0", "busy/1", "busy/2", "logits other", "logits weak"}
    assert len(order) == 7


@with_processes
def test_a_task_that_an_idle_worker_has_begun_is_adopted(bench):
    bench.behave(early=Behaviour(epoch_s=0.2))
    early, events = run("early"), []
    (first,) = bench.executor.run([run("first", epochs=1)], events.append, meanwhile=[early])
    assert first.result.run == "first"
    until = time.monotonic() + 5
    while not bench.begun("early"):
        assert time.monotonic() < until
        time.sleep(0.01)
    other, found = bench.executor.run([run("other", epochs=1), early], events.append, meanwhile=[early])
    assert (other.result.run, found.result.run) == ("other", "early")
    assert bench.trained("early") == [1, 2, 3, 4], "once"
    assert len(bench.begun("early")) == 1
    assert [it.record.epoch for it in of(EpochEvent, events) if it.run == "early"] == [1, 2, 3, 4]


@with_processes
def test_a_task_that_nobody_asks_for_any_more_disturbs_nothing(bench):
    bench.behave(**{"alone": Behaviour(epoch_s=0.05), "check weak": Behaviour(error="dropped", epoch_s=0.1)})
    bench.run(run("quick", epochs=1), meanwhile=[run("alone")])
    (found,) = bench.run(run("next", epochs=1), meanwhile=[CheckTask(name="weak")])
    assert found.result.run == "next"


@pytest.mark.parametrize("any_bench", ["serial"], indirect=True)
def test_nothing_runs_meanwhile_in_one_process(bench):
    bench.run(run("no other", epochs=1), meanwhile=[LogitsTask(name="weak", view=0)])
    assert bench.order()[-1] == "no other"


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_executor_keeps_a_checkpoint_and_leaving_it_ends_its_processes(kind, request, tmp_path):
    if kind == "ray":
        request.getfixturevalue("ray_cluster")
    stop = threading.Event()
    bench = Bench(kind, tmp_path, started(kind, tmp_path, workers=1, stop=stop))
    bench.behave(stopped=Behaviour(epoch_s=0.1))

    def stop_at_epoch_2(event: Event) -> None:
        bench.events.append(event)
        if isinstance(event, EpochEvent) and event.record.epoch == 2:
            stop.set()

    with bench.executor as executor:
        with pytest.raises(Stopped):
            executor.run([run("stopped", epochs=20), run("never begun", epochs=1)], stop_at_epoch_2)
        epochs = bench.trained("stopped")
        assert epochs == list(range(1, len(epochs) + 1))
        assert 2 <= len(epochs) < 10
        assert int(bench.folder.checkpoint("stopped").read_text()) == len(epochs)
        assert "never begun" not in bench.order()
        assert not of(RunEnded, bench.events)
        with pytest.raises(Stopped):
            executor.run([run("asked for later", epochs=1)], bench.events.append)
        assert "asked for later" not in bench.order()
    workers = set(bench.begun("stopped")) - {os.getpid()}
    assert len(workers) == (kind != "serial")
    until = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(alive, workers))

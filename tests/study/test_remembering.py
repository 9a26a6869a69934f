"""What a study gives its workers: what is missing, and for idle ones the logits that those runs will need."""

from collections.abc import Iterator, Sequence

from autodistill.queue.terms import Source
from autodistill.records import RunEnded, RunRecord, RunRequest, TrialParams
from autodistill.store import RunFolder, write_result
from autodistill.study.remembering import remembered
from autodistill.study.simulating import Certain
from autodistill.workers import Message, Pool, Task, ViewTask


class Given(Pool):
    """A pool without a process, that remembers what it was given; its runs end when there is nothing more to do.

    Args:
        most: tasks that it has done by then.
    """

    def __init__(self, most: int = 99) -> None:
        self.tasks: list[Task] = []
        self.most = most

    def run(self, tasks: Sequence[Task] | Source) -> Iterator[Message]:
        assert callable(tasks)
        while len(self.tasks) < self.most and (task := tasks()) is not None:
            assert not isinstance(task, RunEnded)
            self.tasks.append(task)
        for run in [it for it in self.tasks if isinstance(it, RunRequest)]:
            yield lost(run)
        assert tasks() is None, "nobody waits for views now"


def asked(run: str, teacher: str | None = None, *, epochs: int = 9, until: int | None = None) -> RunRequest:
    params = TrialParams(teacher=teacher, rule="ts", rule_params={"tau": 4.0}) if teacher else TrialParams()
    return RunRequest(run=run, params=params, seed=1, epochs=epochs, until=until)


def lost(run: RunRequest) -> RunEnded:
    return RunEnded(record=RunRecord(**run.kept(), state="failed", error="lost"), wall_s=1.0)


def test_each_teachers_views_come_after_the_runs_and_are_those_that_its_missing_runs_need(tmp_path):
    folder, pool = RunFolder(tmp_path), Given()
    kept = asked("kept", "strong")
    write_result(folder, lost(kept))
    runs = [asked("a", "weak", until=3), asked("b", "weak", until=5), asked("c", "mid"), asked("d"), kept]
    ended = list(remembered(folder, runs, pool, views=7))
    assert [it.record.run for it in ended if isinstance(it, RunEnded) and it.reused] == ["kept"]
    assert {it.run for it in pool.tasks[:4] if isinstance(it, RunRequest)} == {"a", "b", "c", "d"}
    both = [ViewTask(name=name, view=view) for view in range(5) for name in ("weak", "mid")]
    found = sorted(pool.tasks[4:], key=str)
    assert found == sorted([*both, ViewTask(name="mid", view=5), ViewTask(name="mid", view=6)], key=str)
    assert [it.view for it in pool.tasks[4:] if isinstance(it, ViewTask)] == [*(n // 2 for n in range(10)), 5, 6]


def test_no_view_is_given_out_once_the_runs_have_ended(tmp_path):
    pool = Given(most=3)
    assert len(list(remembered(RunFolder(tmp_path), [asked("a", "weak")], pool, views=7))) == 1
    assert pool.tasks == [asked("a", "weak"), ViewTask(name="weak", view=0), ViewTask(name="weak", view=1)]


def test_idle_workers_train_what_will_be_asked_for_and_nothing_is_heard_of_it(tmp_path):
    folder, pool = RunFolder(tmp_path), Given()
    known, spare, more = (asked(f"baselines/no-teacher-{seed}") for seed in (1000, 1001, 1002))
    write_result(folder, lost(known))
    certain = Certain([known, spare, more], confirm=5)
    ended = list(remembered(folder, [asked("look")], pool, views=7, certain=certain, workers=2))
    assert pool.tasks == [asked("look"), spare], "one of two workers was idle, and one is there already"
    assert [it.record.run for it in ended if isinstance(it, RunEnded)] == ["look"]


def test_without_a_teacher_there_is_nothing_to_compute(tmp_path):
    pool = Given()
    assert len(list(remembered(RunFolder(tmp_path), [asked("a")], pool, views=7))) == 1
    assert pool.tasks == [asked("a")]

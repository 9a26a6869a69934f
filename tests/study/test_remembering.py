"""What a study gives its workers: what is missing, and for idle ones the logits that those runs will need."""

from collections.abc import Iterator, Sequence

from autodistill.records import RunEnded, RunRecord, RunRequest, TrialParams
from autodistill.store import RunFolder, write_result
from autodistill.study.remembering import remembered
from autodistill.workers import Message, Pool, Task, ViewsTask


class Given(Pool):
    """A pool without a process, that remembers what it was given."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def run(self, tasks: Sequence[Task]) -> Iterator[Message]:
        self.tasks = list(tasks)
        return iter(())


def asked(run: str, teacher: str | None = None, *, epochs: int = 9, until: int | None = None) -> RunRequest:
    params = TrialParams(teacher=teacher, rule="ts", rule_params={"tau": 4.0}) if teacher else TrialParams()
    return RunRequest(run=run, params=params, seed=1, epochs=epochs, until=until)


def test_each_teachers_views_come_after_the_runs_and_are_those_that_its_missing_runs_need(tmp_path):
    folder, pool = RunFolder(tmp_path), Given()
    kept = asked("kept", "strong")
    write_result(folder, RunEnded(record=RunRecord(**kept.kept(), state="failed", error="lost"), wall_s=1.0))
    runs = [asked("a", "weak", until=3), asked("b", "weak", until=5), asked("c", "mid"), asked("d"), kept]
    (ended,) = remembered(folder, runs, pool, views=7)
    assert ended.reused
    assert pool.tasks == [*runs[:-1], ViewsTask(name="weak", views=5), ViewsTask(name="mid", views=7)]


def test_without_a_teacher_there_is_nothing_to_compute(tmp_path):
    pool = Given()
    assert list(remembered(RunFolder(tmp_path), [asked("a")], pool, views=7)) == []
    assert pool.tasks == [asked("a")]

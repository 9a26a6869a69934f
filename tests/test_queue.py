"""The queue: a task is claimed once, goes on after a death, is answered by who holds it alone, and counts once."""

import json
import threading
from pathlib import Path

import pytest
from hands import Hand, hands
from optuna.trial import TrialState
from queue_parts import HASTY, QUICK, Slow, ended, name_of, orphaned, setup, whole_record
from simulated import Simulated, epoch_of, request

from autodistill.errors import StudyError, TeacherError
from autodistill.queue.board import board_name, open_board
from autodistill.queue.messages import CheckTask
from autodistill.queue.reserve import Reserve
from autodistill.queue.terms import LeaseLost
from autodistill.queue.wire import to_wire
from autodistill.records import EpochEvent, Note, RunEnded, TeacherRecord
from autodistill.storage import close_storage
from autodistill.store import RunFolder, read_result, write_result, write_text
from autodistill.workers import crew as crew_module
from autodistill.workers.crew import Crew

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick")]


def test_many_workers_do_each_task_once_and_leave_when_the_study_is_complete(url, tmp_path):
    name = name_of(url, tmp_path)
    with hands(url, name, 4) as many, Crew(0, setup(tmp_path), url=url, study=name) as crew:
        messages = list(crew.run([request(f"r{n}", epochs=n) for n in range(1, 13)]))
        teachers = list(crew.run([CheckTask(name="a"), CheckTask(name="b")]))
        crew.complete()
        ends = [one.join() for one in many]
    results = ended(messages)
    assert set(results) == {f"r{n}" for n in range(1, 13)}
    for run, result in results.items():
        own = [it.record for it in messages if isinstance(it, EpochEvent) and it.run == run]
        assert tuple(own) == result.record.curve
        assert read_result(RunFolder(tmp_path / "runs" / "s"), run).record == result.record
    assert sorted(it.name for it in teachers if isinstance(it, TeacherRecord)) == ["a", "b"]
    trained = [epoch for one in many for epoch in one.trained]
    assert len(trained) == len(set(trained)) == sum(range(1, 13))
    assert all(str(end).startswith(f"study {name} is complete; ") for end in ends)
    board = open_board(url, name)
    assert not [it for it in board.everything() if it.state == TrialState.RUNNING]
    close_storage(board.storage)


def test_tasks_hang_up_as_workers_take_them_and_known_answers_are_passed_on(file, tmp_path):
    """A task is asked for when nobody waits for one already; what has a higher rank is taken first."""
    known = RunEnded(record=whole_record(request("known")), wall_s=0.0, reused=True)
    given, heard, ahead = [request(f"r{n}") for n in range(30)], [], []
    given.insert(3, known)

    def source():
        if given:
            ahead.append(30 - len([it for it in given if it is not known]) - len(heard))
        return given.pop(0) if given else None

    with Crew(0, setup(tmp_path), url=file, study="s") as crew, hands(file, "s", 3, furnish=Slow):
        for message in crew.run(source):
            if isinstance(message, RunEnded) and message.record.run != "known":
                heard.append(message.record.run)
    assert sorted(heard) == sorted(f"r{n}" for n in range(30))
    assert 2 <= max(ahead) <= 3 + 4, "three at work, and a few that wait"
    board = open_board(file, "other")
    for run, rank in (("first", 1), ("short", 1), ("long", 3), ("middle", 2)):
        board.put(to_wire(request(run)), setup="", rank=rank)
    taken = [json.loads(board.take().task.partition(" ")[2])["run"] for _ in range(4)]
    assert taken == ["long", "middle", "first", "short"]
    close_storage(board.storage)


@pytest.mark.parametrize(
    ("looks", "wanted"),
    [
        # waiting and running at each look
        ([(0, 0), (1, 0), (1, 0)], [1, 0, 0]),  # nobody there
        ([(0, 0), (0, 1), (1, 1), (1, 1), (0, 1), (1, 1)], [1, 2, 0, 0, 1, 0]),  # one worker
        ([(0, 0), (0, 1), (0, 3), (0, 7), (0, 15), (0, 31)], [1, 2, 4, 8, 16, 16]),  # a crowd comes
        ([(5, 64), (2, 64), (0, 64), (5, 64)], [0, 3, 10, 0]),  # at work: 1 and one for each 16; gone at once: more
    ],
)
def test_as_much_hangs_ahead_as_is_taken_between_two_looks(looks, wanted):
    reserve = Reserve()
    assert [reserve.wanted(waiting=waiting, running=running) for waiting, running in looks] == wanted


def test_a_claim_is_won_by_one(url, tmp_path):
    board = open_board(url, name_of(url, tmp_path))
    ids = [board.put(to_wire(request(f"r{n}")), setup="") for n in range(8)]
    assert board.put(to_wire(request("r3")), setup="") == ids[3], "it hangs there already"
    start, taken = threading.Barrier(4), []

    def take() -> None:
        own = open_board(url, name_of(url, tmp_path))
        start.wait()
        while (entry := own.take()) is not None:
            taken.append(entry.id)
        close_storage(own.storage)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(ids)
    close_storage(board.storage)


def test_a_silent_worker_s_task_goes_on_from_its_checkpoint_and_counts_once(url, tmp_path, monkeypatch):
    monkeypatch.setattr(crew_module, "PACE", HASTY)
    name, run = name_of(url, tmp_path), request("r", epochs=6)
    board, _, lease = orphaned(url, name, tmp_path, run)
    write_text(RunFolder(tmp_path / "runs" / "s").checkpoint("r"), "4")
    with Crew(0, setup(tmp_path), url=url, study=name) as crew, hands(url, name, 1) as (one,):
        messages = list(crew.run([run]))
        assert one.trained == [("r", 5), ("r", 6)]
    assert ended(messages)["r"].record.curve == tuple(epoch_of(run, n) for n in range(1, 7))
    (note,) = [it.text for it in messages if isinstance(it, Note)]
    assert note == (
        "lost the worker gone:1 that was training the run r (no teacher), another goes on: no sign of life for 1.5 s"
    )
    for late in (lease.demand, lambda: lease.finish([to_wire(Note(text="late"))]), lease.hand_back, lease._live):
        with pytest.raises(LeaseLost):
            late()
    close_storage(board.storage)


def test_a_worker_that_lost_its_lease_writes_nothing(file, tmp_path):
    """It wakes up with a finished run in its hands; somebody else has the task by then."""
    folder, run = RunFolder(tmp_path / "runs" / "s"), request("r")
    board, entry, lease = orphaned(file, "s", tmp_path, run)
    board.reopen(entry, died=True)
    mine = RunEnded(record=Simulated(setup(tmp_path)) and whole_record(run), wall_s=1.0)
    with pytest.raises(LeaseLost):
        write_result(folder, mine, hold=lease.demand)
    assert not folder.result("r").exists()
    assert not list(folder.path.rglob(".*.tmp"))
    close_storage(board.storage)


def test_an_answer_of_an_older_generation_is_not_taken(file, tmp_path):
    """It answers in the very moment in which the task is given to somebody else."""
    run = request("r")
    board, entry, _ = orphaned(file, "s", tmp_path, run)
    board.reopen(entry, died=True)
    board.finish(entry, [to_wire(Note(text="from the past"))])
    with Crew(0, setup(tmp_path), url=file, study="s") as crew, hands(file, "s", 1):
        messages = list(crew.run([run]))
    assert "from the past" not in [it.text for it in messages if isinstance(it, Note)]
    assert set(ended(messages)) == {"r"}
    close_storage(board.storage)


def test_a_run_whose_worker_died_after_keeping_it_is_not_trained_again(file, tmp_path, monkeypatch):
    monkeypatch.setattr(crew_module, "PACE", HASTY)
    run = request("r")
    board, *_ = orphaned(file, "s", tmp_path, run)
    list(Simulated(setup(tmp_path)).do(run))
    with Crew(0, setup(tmp_path), url=file, study="s") as crew, hands(file, "s", 1) as (one,):
        (result,) = ended(crew.run([run])).values()
        assert one.trained == []
    assert not result.reused, "nobody has counted it yet"
    close_storage(board.storage)


class Deadly(Simulated):
    """Kills its worker's heart: what a crash looks like from elsewhere."""

    def do(self, task):
        raise MemoryError


def test_a_task_that_kills_its_worker_again_and_again_is_given_up(file, tmp_path, monkeypatch):
    monkeypatch.setattr(crew_module, "PACE", QUICK.model_copy(update={"lease_s": 0.2}))
    with Crew(0, setup(tmp_path), url=file, study="s") as crew, hands(file, "s", 6, furnish=Deadly) as many:
        (result,) = ended(crew.run([request("r")])).values()
        with pytest.raises(
            StudyError, match=r"^3 workers were lost while checking the teacher .*: no sign of life for 0\.2 s$"
        ):
            list(crew.run([CheckTask(name="a")]))
        assert [type(one.join()) for one in many] == [MemoryError] * 6
    assert result.record.state == "failed"
    assert "3 workers were lost while training the run " in result.record.error
    assert result.record.error.endswith("the last one: no sign of life for 0.2 s")
    assert read_result(RunFolder(tmp_path / "runs" / "s"), "r").record == result.record


class Refusing(Simulated):
    def do(self, task):
        raise TeacherError("no such file", "look for it")


def test_an_error_that_is_no_run_s_own_reaches_the_coordinator_whole(file, tmp_path):
    with Crew(0, setup(tmp_path), url=file, study="s") as crew, hands(file, "s", 1, furnish=Refusing):
        with pytest.raises(TeacherError) as found:
            list(crew.run([CheckTask(name="a")]))
        assert (found.value.message, found.value.hint) == ("no such file", "look for it")


def test_who_is_told_to_leave_hands_back_and_another_goes_on_at_once(url, tmp_path):
    name, run = name_of(url, tmp_path), request("r", epochs=30)
    with hands(url, name, 2, furnish=Slow) as (first, second), Crew(0, setup(tmp_path), url=url, study=name) as crew:
        messages, left = [], None
        for message in crew.run([run]):
            messages.append(message)
            if left is None and isinstance(message, EpochEvent):
                left = first if first.trained else second
                left.stop.set()
        assert left.join() == f"left study {name} after 0 tasks"
    assert not [it for it in messages if isinstance(it, Note)], "no death"
    trained = [*first.trained, *second.trained]
    assert sorted(trained) == [("r", n) for n in range(1, 31)], "from the checkpoint, no epoch twice"
    assert min(len(first.trained), len(second.trained)) >= 1
    assert ended(messages)["r"].record == whole_record(run)


def test_a_worker_waits_for_its_study_up_to_a_limit(file):
    one = Hand(file, "never", wait_s=0.5)
    end = one.join()
    assert isinstance(end, StudyError)
    assert "study never was not there within 0.5 s" in end.message
    assert one.said == ["waiting up to 0.5 s for study never"]
    assert not Path(file.removeprefix("sqlite:///")).exists()


def test_the_board_s_study_is_another_one_than_the_search_s():
    assert board_name("s") != "s"

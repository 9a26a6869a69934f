"""One coordinator at a time: a second is refused, a dead one replaced, and who was replaced does nothing more."""

import time

import optuna
import pytest
from optuna.trial import TrialState
from queue_parts import HASTY, name_of, orphaned, setup
from search_runs import Trainer, question
from simulated import request

from autodistill.errors import StoreError, StudyError
from autodistill.queue.board import open_board
from autodistill.queue.lease import take_chair
from autodistill.queue.messages import CheckTask
from autodistill.queue.terms import LeaseLost
from autodistill.queue.wire import to_wire
from autodistill.records import TrialEnded
from autodistill.search import Outcome, search
from autodistill.storage import close_storage
from autodistill.workers.crew import Crew

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick")]


def test_a_second_coordinator_is_refused_and_a_dead_one_replaced(url, tmp_path):
    name = name_of(url, tmp_path)
    board = open_board(url, name)
    lease = take_chair(board, place="here:/runs/s", pace=HASTY)
    with lease.beating(), pytest.raises(StoreError, match=r"another autodistill coordinates .* \(here:/runs/s\)"):
        take_chair(board, place="there:/runs/s", pace=HASTY)
    begun = time.monotonic()
    next_one = take_chair(board, place="there:/runs/s", pace=HASTY)
    assert time.monotonic() - begun > HASTY.lease_s / 2, "it could have been alive"
    with pytest.raises(LeaseLost):
        lease.demand()
    next_one._live()
    begun = time.monotonic()
    take_chair(board, place="there:/runs/s", pace=HASTY)
    assert time.monotonic() - begun < HASTY.lease_s / 2, "who holds the folder's lock knows that it is dead"
    close_storage(board.storage)


def test_a_coordinator_that_was_replaced_stops(file, tmp_path):
    with Crew(0, setup(tmp_path), url=file, study="s") as crew:
        board = open_board(file, "s")
        board.reopen(board.chair(), died=False)
        with pytest.raises(StudyError, match="took this study over"):
            list(crew.run([request("r")]))
        close_storage(board.storage)


def test_who_wakes_up_and_was_replaced_asks_and_tells_nothing(file, tmp_path):
    """Its own heart has not told it yet."""
    asked, outcome = question("weak", "mid", budget="14")._replace(name="s"), Outcome()
    with Crew(0, setup(tmp_path), url=file, study="s") as crew:
        events = search(asked, outcome, run=Trainer(), database=file, hold=crew.hold)
        for event in events:
            if isinstance(event, TrialEnded):
                break
        before = optuna.load_study(storage=file, study_name="s").trials
        board = open_board(file, "s")
        board.reopen(board.chair(), died=False)
        with pytest.raises(StudyError, match="took this study over"):
            list(events)
        after = optuna.load_study(storage=file, study_name="s").trials
        assert [(it.number, it.state) for it in after] == [(it.number, it.state) for it in before]
        close_storage(board.storage)


def test_what_waits_is_taken_down_when_the_coordinator_leaves(file, tmp_path):
    with Crew(0, setup(tmp_path), url=file, study="s") as crew:
        crew._put(request("r"))
    board = open_board(file, "s")
    assert [it.state for it in board.everything()] == [TrialState.FAIL]
    assert board.chair().state == TrialState.WAITING
    close_storage(board.storage)


def test_a_finished_study_leaves_no_task_open_that_a_dead_worker_had(file, tmp_path):
    """Of an earlier coordinator, who alone waited for it."""
    board, _, lease = orphaned(file, "s", tmp_path, request("r"))
    with Crew(0, setup(tmp_path), url=file, study="s") as crew:
        crew.complete()
    assert [it.state for it in board.everything()] == [TrialState.FAIL]
    with pytest.raises(LeaseLost):
        lease.demand()
    close_storage(board.storage)


def test_tasks_of_another_setup_are_taken_down(file, tmp_path):
    board = open_board(file, "s")
    board.put(to_wire(CheckTask(name="a")), setup="another")
    with Crew(0, setup(tmp_path), url=file, study="s"):
        assert [it.state for it in board.everything()] == [TrialState.FAIL]
    close_storage(board.storage)

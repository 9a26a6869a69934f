"""A database that restarts or is away, and a clock that is set, under a queue."""

import itertools
import threading
import time

import pytest
import sqlalchemy
from hands import hands
from queue_parts import HASTY, QUICK, Slow, ended, orphaned, setup, whole_record
from simulated import request

from autodistill.queue.board import Entry
from autodistill.queue.lease import Lease
from autodistill.records import Note
from autodistill.storage import close_storage
from autodistill.workers import crew as crew_module
from autodistill.workers.crew import Crew

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick")]


def test_a_restart_of_the_database_loses_nothing(postgres, tmp_path):
    name, runs = f"study-{tmp_path.name}", [request(f"r{n}", epochs=12) for n in range(6)]
    setup_ = setup(tmp_path)
    with Crew(0, setup_, url=postgres.url, study=name) as crew, hands(postgres.url, name, 2, furnish=Slow) as many:
        messages = []
        for message in crew.run(runs):
            messages.append(message)
            if len(messages) == 8:
                postgres.stop()
                time.sleep(1)
                postgres.start()
        trained = [epoch for one in many for epoch in one.trained]
    assert {run: it.record for run, it in ended(messages).items()} == {it.run: whole_record(it) for it in runs}
    assert len(trained) == len(set(trained)), "an outage that is shorter than a lease is no death"


def test_a_database_that_is_away_is_said_before_it_is_waited_for(file, tmp_path, monkeypatch):
    with Crew(0, setup(tmp_path), url=file, study="s") as crew, hands(file, "s", 1):
        answers = iter([sqlalchemy.exc.OperationalError("q", {}, Exception("gone"))] * 2)
        everything = crew._board.everything

        def look() -> list[Entry]:
            if (error := next(answers, None)) is not None:
                raise error
            return everything()

        monkeypatch.setattr(crew._board, "everything", look)
        messages = crew.run([request("r")])
        assert next(messages) == Note(text="the database does not answer (gone): waiting for it", warning=True)
        assert set(ended(messages)) == {"r"}


def test_a_worker_says_once_that_the_database_is_away_while_it_works(file, tmp_path, monkeypatch):
    board, entry, _ = orphaned(file, "s", tmp_path, request("r"))
    said: list[str] = []
    lease = Lease(board, entry, worker="here:1", pace=QUICK, say=said.append)
    answers = iter([None, *[sqlalchemy.exc.OperationalError("q", {}, Exception("gone"))] * 3])
    live, over = board.live, threading.Event()

    def away(*given, **named) -> None:
        if (error := next(answers, None)) is not None:
            raise error
        live(*given, **named)
        if said:
            over.set()

    monkeypatch.setattr(board, "live", away)
    with lease.beating():
        assert over.wait(20)
    assert said == ["the database does not answer (gone): trying again for up to 180 s"]
    close_storage(board.storage)


def test_a_clock_that_is_set_ends_no_lease(file, tmp_path, monkeypatch):
    jumps = itertools.cycle([-3600.0, 3600.0, 0.0])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    monkeypatch.setattr(crew_module, "PACE", HASTY)
    runs = [request(f"r{n}", epochs=8) for n in range(6)]
    with Crew(0, setup(tmp_path), url=file, study="s") as crew, hands(file, "s", 3, furnish=Slow) as many:
        messages = list(crew.run(runs))
    assert {run: it.record for run, it in ended(messages).items()} == {it.run: whole_record(it) for it in runs}
    assert not [it for it in messages if isinstance(it, Note)]
    assert len([epoch for one in many for epoch in one.trained]) == 6 * 8

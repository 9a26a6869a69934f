"""A worker: takes tasks until the study is complete, or until it is told to leave."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from autodistill.errors import AutodistillError, StudyError
from autodistill.queue.board import Board, Entry, board_name, open_board
from autodistill.queue.lease import Lease
from autodistill.queue.messages import Message, Setup, Task
from autodistill.queue.terms import LeaseLost, Pace, Terms
from autodistill.queue.wire import from_wire, to_wire
from autodistill.records import EpochEvent, RunRequest, TaskProgress
from autodistill.storage import close_storage, holds_study, patiently
from autodistill.store import RunFolder, kept_result

SHORTEST_PAUSE_S = 0.02
CHECK_S = 1.0


class Place(Protocol):
    """Where tasks are done."""

    terms: Terms

    def do(self, task: Task) -> Iterator[Message]: ...


class Tools(NamedTuple):
    """What a worker works with."""

    furnish: Callable[[Setup], Place]
    """Makes the place where a study's tasks are done."""
    adapt: Callable[[Setup], Setup]
    """Turns the study's setup into this machine's: its device, its paths."""
    say: Callable[[str], object]
    stop: threading.Event
    """Set to make the worker leave."""
    wait_s: float = 600.0
    """Longest wait for a study that nobody has started yet."""


def worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def serve(url: str, study: str, tools: Tools) -> str:
    """Work for a study; returns why it ended, as a line for people.

    Raises:
        StoreError: the database cannot be used.
        StudyError: nobody started the study in time, or the database stayed away.
    """
    if not _await_study(url, study, tools):
        return f"left before study {study} was there"
    board = open_board(url, study)
    try:
        return _Worker(board, study, tools).work()
    finally:
        close_storage(board.storage)


def _await_study(url: str, study: str, tools: Tools) -> bool:
    begun = time.monotonic()
    while not tools.stop.is_set():
        if patiently(lambda: holds_study(url, board_name(study))):
            return True
        waited = time.monotonic() - begun
        if waited > tools.wait_s:
            raise StudyError(
                f"study {study} was not there within {tools.wait_s:g} s",
                "start `autodistill search --storage ...` on the same database; it names the study",
            )
        if waited < CHECK_S:
            tools.say(f"waiting up to {tools.wait_s:g} s for study {study}")
        tools.stop.wait(CHECK_S)
    return False


class _Worker:
    def __init__(self, board: Board, study: str, tools: Tools) -> None:
        self._board, self._study, self._tools = board, study, tools
        self._name = worker_name()
        self._key = ""
        self._done = 0

    def work(self) -> str:
        pause = SHORTEST_PAUSE_S
        while not self._tools.stop.is_set():
            entry = patiently(self._board.take, say=self._tools.say)
            if entry is not None:
                self._do(entry)
                pause = SHORTEST_PAUSE_S
                continue
            facts = patiently(self._board.facts, say=self._tools.say)
            if facts.get("state") == "complete":
                return f"study {self._study} is complete; {self._done} tasks were done here"
            self._tools.stop.wait(pause)
            pause = min(2 * pause, float(facts.get("idle_s", CHECK_S)))
        return f"left study {self._study} after {self._done} tasks"

    def _do(self, entry: Entry) -> None:
        try:
            pace = self._furnished(entry)
        except AutodistillError:
            patiently(lambda: self._board.reopen(entry, died=False))
            raise
        lease = Lease(self._board, entry, worker=self._name, pace=pace, say=self._tools.say)
        try:
            with lease.beating():
                self._answer(lease, cast(Task, from_wire(entry.task)))
        except LeaseLost:
            self._tools.say("a task was given to another worker: stopped, nothing was written")

    def _answer(self, lease: Lease, task: Task) -> None:
        answer: list[str] = []
        try:
            for message in self._messages(lease, task):
                if lease.lost is not None:
                    raise lease.lost
                if not isinstance(message, EpochEvent | TaskProgress):
                    answer.append(to_wire(message))
                    continue
                lease.note(message)
                if self._tools.stop.is_set() and not _is_last(message):
                    lease.hand_back()
                    return
        except AutodistillError as error:
            if lease.lost is error:
                raise
            answer.append(to_wire(error))
        lease.finish(answer)
        self._done += 1

    def _messages(self, lease: Lease, task: Task) -> Iterator[Message]:
        if isinstance(task, RunRequest):
            # Its worker died between keeping the result and answering.
            kept = kept_result(RunFolder(Path(self._setup.runs)), task)
            if kept is not None:
                return iter((kept.model_copy(update={"reused": False}),))
        self._place.terms = Terms(hold=lease.demand, urgent=self._tools.stop.is_set)
        return self._place.do(task)

    def _furnished(self, entry: Entry) -> Pace:
        """A place for the entry's setup: another one where the study has changed since."""
        if entry.setup != self._key:
            facts = patiently(self._board.facts)
            self._setup = self._tools.adapt(cast(Setup, from_wire(facts["setup"])))
            self._place = self._tools.furnish(self._setup)
            self._pace = Pace.model_validate(facts["pace"])
            self._key = entry.setup
        return self._pace


def _is_last(message: EpochEvent | TaskProgress) -> bool:
    if isinstance(message, EpochEvent):
        return message.record.epoch == message.epochs
    return message.done == message.total

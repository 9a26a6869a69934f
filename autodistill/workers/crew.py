"""Workers that share a study's database, here and on other machines; they come and go while it runs."""

import contextlib
import functools
import math
import socket
import time
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import cast

from optuna.trial import TrialState

from autodistill.errors import AutodistillError, StudyError
from autodistill.machine import usable_cores
from autodistill.queue.board import Board, Entry, open_board
from autodistill.queue.lease import take_chair
from autodistill.queue.messages import Message, Setup, Task
from autodistill.queue.reserve import Reserve
from autodistill.queue.terms import MOST_DEATHS, LeaseLost, Pace, Source, given_up, in_words, longest_first, rank
from autodistill.queue.wire import from_wire, to_wire
from autodistill.records import Note, RunEnded, RunRequest
from autodistill.storage import AWAY, close_storage, patiently, reason_of, scrubbed
from autodistill.store import RunFolder, digest, write_result
from autodistill.workers.carrying import brought, depot_of
from autodistill.workers.deaths import KillWatch, account, noticed, unquoted, way_out
from autodistill.workers.joining import work_here
from autodistill.workers.pool import device_of
from autodistill.workers.standby import Hand, StandBy

PACE = Pace()
LONELY_S = 60.0
"""Tasks that nobody has taken for so long: somebody should know."""


class Crew:
    """Does tasks as `Pool` does, by whoever works for the study. A context manager: leaving ends the local workers.

    Args:
        size: workers to start here.
        url: the database's address.
        study: its name there.
        standby: processes that wait to become workers.

    Raises:
        StoreError: the database cannot be used, or somebody else coordinates the study.
    """

    def __init__(self, size: int, setup: Setup, *, url: str, study: str, standby: StandBy | None = None) -> None:
        self._standby = standby or StandBy()
        self._setup, self._url, self._study, self._pace = setup, url, study, PACE
        self._key = digest(setup.model_dump(mode="json"))
        self._local: list[Hand] = []
        self._size, self._failures, self._kills = size, 0, KillWatch()
        self._silent: dict[int, tuple[tuple[int, int], float]] = {}
        self._heard: dict[int, tuple[int, int]] = {}
        """Of a task: its generation, and how much of its progress was passed on."""
        self._notes: list[str] = []
        self._put_before: set[str] = set()
        """Tasks that this process or an earlier one has hung up."""
        self._depot = depot_of(setup) if setup.artifacts else None
        self._left = contextlib.ExitStack()

    def __enter__(self) -> "Crew":
        self._board = open_board(self._url, self._study, cached=True)
        place = f"{socket.gethostname()}:{self._setup.runs}"
        with contextlib.ExitStack() as left:
            left.callback(close_storage, self._board.storage)
            left.callback(self._dismiss)
            self._chair = take_chair(self._board, place=place, pace=self._pace)
            left.enter_context(self._chair.beating())
            self._open()
            for number in range(self._size):
                self._local.append(self._start(number))
            self._left = left.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._left:
            self._dismiss()
            # A database that is away at the end, or a successor, changes nothing of what is kept.
            with contextlib.suppress(AutodistillError, LeaseLost, *AWAY):
                self._chair.demand(patience_s=self._pace.beat_s)
                patiently(self._withdraw, patience_s=self._pace.beat_s)
                self._chair.hand_back()

    def complete(self) -> None:
        """Let the workers go: nothing is left to do."""
        patiently(lambda: _end(self._board))

    def run(self, tasks: Sequence[Task] | Source) -> Iterator[Message]:
        """Do tasks together, the longest first or as they are given out, and yield their messages as they come.

        Raises:
            AutodistillError: a task met one that is no run's own failure.
            StudyError: workers keep dying on a task that is no run, or the database stayed away.
        """
        source, reserve = (tasks, Reserve()) if callable(tasks) else (longest_first(tasks), None)
        left: dict[int, Task] = {}
        yield from self._hung(source, left, reserve.wanted(waiting=0, running=0) if reserve else math.inf)
        looked, lonely_s = time.monotonic(), 0.0
        while left:
            dead = self._replaced()
            entries = {entry.id: entry for entry in (yield from self._look()) if entry.id in left}
            # What could not be seen (the database was away, this machine slept) counts as no silence.
            since = min(time.monotonic() - looked, 4 * self._pace.look_s)
            looked = time.monotonic()
            for entry in entries.values():
                yield from self._seen(entry, left, since, dead)
            waiting = sum(entry.state == TrialState.WAITING for entry in entries.values())
            running = len(entries) - waiting
            if reserve is not None:
                yield from self._hung(source, left, reserve.wanted(waiting=waiting, running=running))
            lonely_s = 0.0 if running else lonely_s + since
            if lonely_s > LONELY_S:
                self._notes.append("no worker has taken a task: start some with `autodistill worker`")
                lonely_s = 0.0
            yield from (Note(text=self._notes.pop(0), warning=True) for _ in tuple(self._notes))
            if left:
                time.sleep(self._pace.look_s)

    def hold(self) -> None:
        """Return if this process coordinates the study still: it may have slept for longer than its lease.

        Raises:
            StudyError: somebody else does, or the database stayed away.
        """
        try:
            self._chair.demand()
        except LeaseLost as error:
            raise StudyError(
                "another autodistill took this study over", "this one stops; every finished run is kept"
            ) from error

    def _hung(self, source: Source, left: dict[int, Task], most: int | float) -> Iterator[RunEnded]:
        """Hang up to so many tasks up; yields the answers that are known already."""
        while most > 0 and (given := source()) is not None:
            if isinstance(given, RunEnded):
                yield given
                continue
            left[self._put(given)] = given
            most -= 1

    def _look(self) -> Generator[Note, None, list[Entry]]:
        """All tasks. Says at once that the database is away; stops where somebody else coordinates by now."""
        if self._chair.lost is not None:
            self.hold()
        with contextlib.suppress(*AWAY):
            return self._board.everything()
        try:  # the first may only have met a lost connection
            return self._board.everything()
        except AWAY as error:
            yield Note(text=f"the database does not answer ({reason_of(error)}): waiting for it", warning=True)
            return patiently(self._board.everything)

    def _put(self, task: Task, *, deaths: int = 0) -> int:
        text = to_wire(task)
        put = functools.partial(self._board.put, text, setup=self._key, rank=rank(task), deaths=deaths)
        new = text not in self._put_before
        self._put_before.add(text)
        with contextlib.suppress(*AWAY):
            return put(new=new)
        return patiently(put, say=self._notes.append)

    def _seen(self, entry: Entry, left: dict[int, Task], since: float, dead: dict[str, str]) -> Iterator[Message]:
        """What has become of a task since the last look."""
        if entry.state.is_finished():
            task = left.pop(entry.id)
            if entry.answer is None:  # by a worker that had lost it, or taken down by hand
                self.hold()
                left[self._put(task, deaths=entry.deaths)] = task
                return
            self._failures = 0
            yield from self._messages((*self._news(entry), *entry.answer))
        elif entry.state == TrialState.RUNNING:
            sign, (last, silent_s) = (entry.generation, entry.beat), self._silent.get(entry.id, ((-1, -1), 0.0))
            yield from self._messages(self._news(entry))
            silent_s = 0.0 if sign != last else silent_s + since
            self._silent[entry.id] = (sign, silent_s)
            if entry.worker in dead:
                yield from self._died(entry, left, dead[entry.worker])
            elif silent_s > self._pace.lease_s:
                yield from self._died(entry, left, f"no sign of life for {self._pace.lease_s:g} s")

    def _news(self, entry: Entry) -> Sequence[str]:
        """Progress that was not passed on yet."""
        generation, heard = self._heard.get(entry.id, (entry.generation, 0))
        heard = heard if generation == entry.generation else 0
        self._heard[entry.id] = (entry.generation, entry.told)
        return entry.said[-(entry.told - heard) :] if entry.told > heard else ()

    def _messages(self, sent: Sequence[str]) -> Iterator[Message]:
        for text in sent:
            message = from_wire(text)
            if isinstance(message, AutodistillError):
                raise message
            if isinstance(message, RunEnded) and self._depot is not None:
                brought(RunFolder(Path(self._setup.runs)), message.record.run, self._depot)
            yield cast(Message, message)

    def _died(self, entry: Entry, left: dict[int, Task], why: str) -> Iterator[Message]:
        """Let another worker go on from the last checkpoint, unless this happens again and again."""
        self.hold()
        task = left[entry.id]
        if entry.deaths + 1 < MOST_DEATHS:
            patiently(lambda: self._board.reopen(entry, died=True))
            worker = f"the worker {entry.worker}" if entry.worker else "the worker"
            self._notes.append(f"lost {worker} that was {in_words(task)}, another goes on: {unquoted(why)}")
            return
        if not patiently(lambda: self._board.withdraw(entry)):
            return  # it has answered after all
        del left[entry.id]
        error = f"{MOST_DEATHS} workers were lost while {in_words(task)}, the last one: {why}"
        if not isinstance(task, RunRequest):
            raise StudyError(error, "what workers elsewhere write to their own terminals or logs says more")
        ended = given_up(task, error)
        # Kept like any other failure: what the search decides next rests on it, and must after a resume.
        write_result(RunFolder(Path(self._setup.runs)), ended)
        yield ended

    def _open(self) -> None:
        """Tell the workers what the study is; take down what another setup of it has left."""

        def tell() -> None:
            pace = self._pace.model_dump()
            self._board.publish(
                setup=to_wire(self._setup), pace=pace, idle_s=self._pace.idle_s, state="open", version=1
            )
            for entry in self._board.unfinished():
                if entry.setup != self._key:
                    self._board.withdraw(entry)
                self._put_before.add(entry.task)

        patiently(tell)

    def _withdraw(self) -> None:
        """Take down what waits; what workers elsewhere are at is theirs to finish, and is kept."""
        ours = {_name_of(hand.process) for hand in self._local}
        for entry in self._board.unfinished():
            if entry.state == TrialState.WAITING or entry.worker in ours:
                self._board.withdraw(entry)

    def _start(self, number: int) -> Hand:
        threads = max(1, usable_cores() // max(1, self._size))
        hand = self._standby.take()
        with contextlib.suppress(OSError):  # it died meanwhile, and is replaced like any other
            hand.pipe.send((work_here, (self._url, self._study, device_of(self._setup.device, number), threads)))
        self._kills.look([hand.process])
        return hand

    def _replaced(self) -> dict[str, str]:
        """Replace local workers that died; return their names and the accounts of their deaths."""
        dead = {}
        self._kills.look(hand.process for hand in self._local)
        for number, hand in enumerate(self._local):
            if hand.process.exitcode in (None, 0):
                hand.output.pass_on()
                continue
            death = noticed(hand.process, hand.output, self._kills, device=device_of(self._setup.device, number))
            dead[_name_of(hand.process)] = told = scrubbed(account(death, "working for the study"), self._url)
            self._failures += 1
            over = self._failures > MOST_DEATHS * self._size
            hand.output.close(quoted=death.stderr if over else "")
            if over:
                raise StudyError(f"the workers keep dying; the last one: {told}", way_out(death))
            self._local[number] = self._start(number)
        return dead

    def _dismiss(self) -> None:
        for hand in self._local:
            hand.process.terminate()
        until = time.monotonic() + 2
        for hand in self._local:
            hand.process.join(max(0.0, until - time.monotonic()))
            if hand.process.is_alive():
                hand.process.kill()
                hand.process.join()
            hand.output.close()


def _name_of(process: BaseProcess) -> str:
    return f"{socket.gethostname()}:{process.pid}"


def declare_complete(url: str, study: str) -> None:
    """Let the workers of a study go that was found finished."""
    board: Board = open_board(url, study)
    patiently(lambda: _end(board))
    close_storage(board.storage)


def _end(board: Board) -> None:
    """Nobody waits for any task now, and nobody will see that the worker of one has died."""
    board.publish(state="complete")
    for entry in board.unfinished():
        board.withdraw(entry)

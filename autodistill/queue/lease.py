"""Holding a task: a counter that is bumped while one works, and the proof that it is still one's own."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import optuna
import sqlalchemy
from optuna.trial import TrialState

from autodistill.errors import AutodistillError, StoreError
from autodistill.queue.board import Board, Entry
from autodistill.queue.terms import LeaseLost, Pace
from autodistill.queue.wire import to_wire
from autodistill.records import EpochEvent, TaskProgress
from autodistill.storage import patiently

MOST_SAID = 20
"""Progress messages that are kept until they are seen: who trains an epoch in milliseconds need not report each."""

ENDING = (LeaseLost, AutodistillError, optuna.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError, KeyError)
"""What ends a lease, to be told to the thread that works; Optuna says KeyError of an entry that was removed."""


class Lease:
    """One generation of one entry, held by this process.

    Args:
        say: told when the database is away.
    """

    def __init__(
        self, board: Board, entry: Entry, *, worker: str, pace: Pace, say: Callable[[str], object] = lambda _: None
    ) -> None:
        self._board, self._entry, self._worker, self._pace, self._say = board, entry, worker, pace, say
        self._beat = 0
        self._said: list[str] = []
        self._told = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.lost: Exception | None = None
        """Why the lease ended before its time; LeaseLost, or the database's error."""

    def note(self, message: EpochEvent | TaskProgress) -> None:
        """Report progress with the next beat."""
        with self._lock:
            self._said = [*self._said, to_wire(message)][-MOST_SAID:]
            self._told += 1

    def demand(self, *, patience_s: float | None = None) -> None:
        """Return if the task is this process's own; waits for a database that is away.

        Raises:
            LeaseLost: it is not.
        """
        if self.lost is not None:
            raise self.lost
        patiently(self._check, patience_s=patience_s)

    def finish(self, answer: list[str]) -> None:
        """Answer.

        Raises:
            LeaseLost: somebody else has the task.
        """
        self.demand()
        said, told = self._said, self._told
        patiently(lambda: self._board.finish(self._entry, answer, said=said, told=told))

    def hand_back(self, *, patience_s: float = 10.0) -> None:
        """Let another worker go on at once.

        Raises:
            LeaseLost: somebody else has the task already.
        """
        patiently(self._check, patience_s=patience_s)
        patiently(lambda: self._board.reopen(self._entry, died=False), patience_s=patience_s)

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Give signs of life from a thread of its own, for an epoch can take hours."""
        patiently(self._live)
        heart = threading.Thread(target=self._keep_beating, daemon=True)
        heart.start()
        try:
            yield
        finally:
            self._over.set()
            heart.join()

    def _keep_beating(self) -> None:
        while not self._over.wait(self._pace.beat_s):
            try:
                patiently(self._live, sleep=self._over.wait, say=self._say)
            except ENDING as error:
                self.lost = error
                return

    def _live(self) -> None:
        self._check()
        with self._lock:
            said, told = self._said, self._told
        try:
            self._board.live(self._entry, self._beat, worker=self._worker, said=said, told=told)
        except optuna.exceptions.UpdateFinishedTrialError as error:
            raise LeaseLost from error
        self._beat += 1

    def _check(self) -> None:
        found = self._board.entry(self._entry.id)
        if found.state != TrialState.RUNNING or found.generation != self._entry.generation:
            raise LeaseLost


def take_chair(board: Board, *, place: str, pace: Pace, sleep: Callable[[float], object] = time.sleep) -> Lease:
    """Become the one who coordinates.

    Args:
        place: the run folder and its machine. Who asks holds the folder's lock, so that a holder from there is dead.

    Raises:
        StoreError: somebody else coordinates, and is alive.
    """
    seen, silent_s = patiently(board.chair), 0.0
    while True:
        chair = patiently(board.chair)
        if chair.state == TrialState.WAITING and patiently(lambda chair=chair: board.claim(chair)):  # type: ignore[misc]
            return Lease(board, chair, worker=place, pace=pace)
        if (chair.generation, chair.beat) != (seen.generation, seen.beat):
            raise StoreError(
                f"another autodistill coordinates this study already ({chair.worker or 'just started'})",
                "wait for it to end; to add machines start `autodistill worker`, not a second search",
            )
        if chair.worker == place or silent_s > pace.lease_s:
            patiently(lambda chair=chair: board.reopen(chair, died=False))  # type: ignore[misc]
            seen, silent_s = patiently(board.chair), 0.0
            continue
        sleep(pace.look_s)
        silent_s += pace.look_s

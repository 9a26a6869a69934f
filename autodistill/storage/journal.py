"""A journal file: Optuna's, whose failures are those of a database, and whose torn lines are mended."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, cast

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock


class NotOptunas(Exception):
    """A table or file has the name of one of Optuna's, but not its contents."""


def open_journal(path: str) -> JournalStorage:
    """Open a journal file, or create it.

    Raises:
        NotOptunas: the file holds something else.
    """
    file = JournalFileBackend(path, lock_obj=cast(Any, MendingLock(path)))
    try:
        return JournalStorage(cast(Any, Journal(file)))
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:  # of replaying its lines
        raise NotOptunas("is no journal of Optuna's") from error


class Journal:
    """A journal file that raises the errors of a database that is away where the disk is full or absent."""

    def __init__(self, file: JournalFileBackend) -> None:
        self._file = file

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        with _as_away():
            yield from self._file.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with _as_away():
            self._file.append_logs(logs)


@contextlib.contextmanager
def _as_away() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise optuna.exceptions.StorageInternalError("the journal file") from error


class MendingLock:
    """The journal's lock, whose holder first cuts off a line that a killed process left unfinished.

    The next line would be joined to it, and nobody could read either.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        # Windows lets only privileged users make symbolic links.
        self._lock: Any = JournalFileOpenLock(path) if os.name == "nt" else JournalFileSymlinkLock(path)

    def acquire(self) -> bool:
        taken = bool(self._lock.acquire())
        _cut_torn_line(self._path)
        return taken

    def release(self) -> None:
        self._lock.release()


def _cut_torn_line(path: str) -> None:
    with open(path, "r+b") as file:
        end = whole = file.seek(0, os.SEEK_END)
        while whole:
            start = max(0, whole - 4096)
            file.seek(start)
            last = file.read(whole - start).rfind(b"\n")
            whole = start + last + 1 if last >= 0 else start
            if last >= 0:
                break
        if whole != end:
            file.truncate(whole)

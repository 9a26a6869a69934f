"""A journal file: Optuna's, whose failures are those of a database, and whose torn lines are mended."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock


class Journal:
    """A journal file that says of a full or absent disk what a database says that is away."""

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
        self._lock: Any = JournalFileSymlinkLock(path)

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

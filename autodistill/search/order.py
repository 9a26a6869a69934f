"""The order in which trials were asked for and runs ended, in a file: what a study decides as it goes rests on it."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from autodistill.errors import StoreError
from autodistill.store import write_text


class Step(NamedTuple):
    asked: int | None = None
    """Number of the trial that was about to be asked for."""
    ended: str = ""
    """The run that had ended, and whose result was about to be used."""


class Order:
    """Steps, one JSON object a line. A step is on disk before it is done: whoever repeats them misses none.

    Args:
        path: the file; None: nothing is kept.

    Raises:
        StoreError: the file cannot be read or mended.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.kept = tuple(self._read()) if path is not None and path.exists() else ()
        """Steps of earlier processes."""

    def add(self, step: Step) -> None:
        """Keep a step.

        Raises:
            StoreError: the folder is read-only or the disk is full.
        """
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(step))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(
                f"{self._path}: cannot be written ({error.strerror or error})",
                "free space; the same command goes on from here",
            ) from error

    def _read(self) -> Iterator[Step]:
        """The steps; a line that a killed process left unfinished was of a step that was not done: it is cut off."""
        assert self._path is not None
        steps = []
        text = self._path.read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            with contextlib.suppress(ValueError, TypeError):
                steps.append(Step(**json.loads(line)))
                continue
            break
        whole = "".join(_line(step) for step in steps)
        if whole != text:
            write_text(self._path, whole)
        return iter(steps)


def _line(step: Step) -> str:
    return json.dumps(step._asdict()) + "\n"

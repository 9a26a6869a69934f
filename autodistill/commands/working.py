"""`worker`: joins a study from anywhere."""

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

from autodistill import console
from autodistill.commands.requests import device_for
from autodistill.errors import ConfigError, StoreError
from autodistill.queue.messages import Setup
from autodistill.queue.serving import Tools, serve
from autodistill.store import RunFolder
from autodistill.workers import Workplace
from autodistill.workers.crew import leave_on_signals


def work(studies: Sequence[str], *, storage: str, device: str, runs: Path | None, wait_s: float) -> None:
    """Work for studies, one after another, until each is complete or a signal says to leave.

    Raises:
        ConfigError: no database is named.
        StoreError: the database or the run folder cannot be reached.
        StudyError: a study did not begin in time.
    """
    tools = worker_tools(storage, device=device, runs=runs, wait_s=wait_s)
    leave_on_signals(tools.stop)
    _leave_on_interrupt(tools.stop)
    for study in studies:
        console.show_note(serve(storage, study, tools))
        if tools.stop.is_set():
            return


def worker_tools(storage: str, *, device: str, runs: Path | None, wait_s: float) -> Tools:
    if not storage:
        raise ConfigError(
            "autodistill worker: which database? --storage is missing",
            "give the address that the search was given, or set AUTODISTILL_STORAGE",
        )
    found = device_for(device)
    return Tools(
        furnish=Workplace,
        adapt=lambda setup: adapted(setup, device=found, runs=runs),
        say=console.show_note,
        stop=threading.Event(),
        wait_s=wait_s,
    )


def adapted(setup: Setup, *, device: str, runs: Path | None) -> Setup:
    """A study's setup as it is on this machine.

    Raises:
        StoreError: the study's run folder is not here.
    """
    folder = Path(setup.runs)
    if runs is not None:
        folder = (runs / folder.name).absolute()
    if not RunFolder(folder).identity.exists():
        raise StoreError(
            f"{folder}: the study's run folder is not on this machine",
            "mount it here under the same path, or say with --runs where its `runs` folder lies",
        )
    cache = os.environ.get("AUTODISTILL_CACHE") or setup.cache
    return setup.model_copy(update={"device": device, "runs": str(folder), "cache": cache})


def _leave_on_interrupt(stop: threading.Event) -> None:
    """The first Ctrl-C leaves at the next epoch's end, the second at once."""

    def leave(number: int, frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, leave)

"""`worker`: joins a study from anywhere."""

import signal
import threading
from collections.abc import Sequence
from pathlib import Path

from autodistill import console
from autodistill.commands.requests import device_for
from autodistill.errors import ConfigError
from autodistill.queue.serving import Tools, serve
from autodistill.workers.carrying import place_for
from autodistill.workers.joining import adapted, leave_on_signals
from autodistill.workers.memory import keep_freed_memory


def work(
    studies: Sequence[str], *, storage: str, device: str, runs: Path | None, wait_s: float, per_gpu: int = 1
) -> None:
    """Work for studies, one after another, until each is complete or a signal says to leave.

    Raises:
        ConfigError: no database is named.
        StoreError: the database or the run folder cannot be reached.
        StudyError: a study did not begin in time.
    """
    tools = worker_tools(storage, device=device, runs=runs, wait_s=wait_s, per_gpu=per_gpu)
    keep_freed_memory()
    leave_on_signals(tools.stop)
    _leave_on_interrupt(tools.stop)
    for study in studies:
        console.show_note(serve(storage, study, tools))
        if tools.stop.is_set():
            return


def worker_tools(storage: str, *, device: str, runs: Path | None, wait_s: float, per_gpu: int) -> Tools:
    if not storage:
        raise ConfigError(
            "autodistill worker: which database? --storage is missing",
            "give the address that the search was given, or set AUTODISTILL_STORAGE",
        )
    found = device_for(device)
    return Tools(
        furnish=place_for,
        adapt=lambda setup: adapted(setup, device=found, runs=runs, per_gpu=per_gpu),
        say=console.show_note,
        stop=threading.Event(),
        wait_s=wait_s,
    )


def _leave_on_interrupt(stop: threading.Event) -> None:
    """The first Ctrl-C leaves at the next epoch's end, the second at once."""

    def leave(number: int, frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, leave)

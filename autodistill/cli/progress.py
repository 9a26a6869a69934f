"""Show the progress of a command on stderr: a live display on a terminal, else plain lines with time stamps."""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType

from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from autodistill import data as datasets
from autodistill.cli.console import described, err, percent, show_note
from autodistill.config import DataSpec
from autodistill.data import Data
from autodistill.formatting import about
from autodistill.records import (
    EpochEvent,
    Event,
    Note,
    PhaseStarted,
    RunEnded,
    RunResult,
    TaskProgress,
    TimeLeft,
    TrialEnded,
    TrialRecord,
)

PLAIN_LINE_EVERY_S = 30.0
"""Seconds between two lines about running tasks, without a terminal."""
SHOWN_AFTER_S = 1.0
"""Decoding is shown after this time: a shorter message could not be read."""


class Decoding:
    """Shows how many images are decoded, if decoding takes longer than `SHOWN_AFTER_S`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet, self._console = quiet, err()
        self._live: Progress | None = None
        self._next: float | None = None

    def __enter__(self) -> "Decoding":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def progress(self, done: int, total: int) -> None:
        """Show that `done` of `total` images are decoded."""
        now = time.monotonic()
        if self._next is None:  # the time starts with the first image, not with the imports before it
            self._next = now + SHOWN_AFTER_S
        if self._quiet or now < self._next:
            return
        if not self._console.is_terminal:
            show_note(f"{time.strftime('%H:%M:%S')} decoding images: {done:,} of {total:,}")
            self._next = now + PLAIN_LINE_EVERY_S
            return
        if self._live is None:
            columns = (TextColumn("decoding images"), BarColumn(bar_width=24), MofNCompleteColumn())
            self._live = Progress(*columns, TimeElapsedColumn(), console=self._console, transient=True)
            self._bar = self._live.add_task("", total=total)
            self._live.start()
        self._live.update(self._bar, completed=done, total=total)

    def say(self, text: str) -> None:
        """Show a warning about the image cache."""
        if not self._quiet:
            show_note(f"warning: {text}")


@contextlib.contextmanager
def shown_loading(*, quiet: bool = False) -> Iterator[Callable[[DataSpec], Data]]:
    """Yield `datasets.load` with a progress display, which ends with the context."""
    with Decoding(quiet=quiet) as display:
        yield partial(datasets.load, progress=display.progress, say=display.say)


class StudyProgress(Progress):
    """Progress bars below a line with the best score of each teacher so far."""

    best = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the line, once there is a score, and the bars."""
        if self.best:
            yield Text(self.best)
        yield from super().get_renderables()


class Display:
    """Shows the events of a study. Leaving the context ends the live display."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = err()
        self._live: StudyProgress | None = None
        self._bars: dict[str, TaskID] = {}
        self._phase: TaskID | None = None
        self._best_of: dict[str, float] = {}
        """Best validation accuracy of full runs, by teacher."""
        self._last_line = time.monotonic()
        self._left = ""

    def __enter__(self) -> "Display":
        if self._console.is_terminal and not self._quiet:
            self._live = StudyProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=self._console,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, event: Event) -> None:
        """Show one event."""
        if self._quiet:
            return
        if isinstance(event, PhaseStarted):
            self._start_phase(event)
        elif isinstance(event, EpochEvent):
            score = event.record.val_top1
            note = f"val {percent(score)} %" if score is not None else None
            self._advance(event.run, event.record.epoch, event.epochs, note)
        elif isinstance(event, TaskProgress):
            self._advance(event.task, event.done, event.total, event.text or None)
        elif isinstance(event, TimeLeft):
            self._left = f", about {about(event.wall_s)} left"
            if self._live is not None and self._phase is not None:
                self._live.update(self._phase, note=self._left.removeprefix(", "))
        elif isinstance(event, RunEnded):
            self._end_run(event)
        elif isinstance(event, TrialEnded):
            self._line(_trial_line(event.record))
            self._show_best()
        elif isinstance(event, Note):
            self._line(f"warning: {event.text}" if event.warning else event.text)

    def _start_phase(self, event: PhaseStarted) -> None:
        if event.runs:
            self._line(f"{event.phase}: {event.runs} runs, {event.epochs} epochs{self._left}")
        if self._live is not None:
            if self._phase is not None:
                self._live.remove_task(self._phase)
            note = self._left.removeprefix(", ")
            self._phase = self._live.add_task(f"{event.phase} (epochs)", total=event.epochs, note=note)

    def _advance(self, name: str, done: int, total: int, note: str | None) -> None:
        if self._live is not None:
            if name not in self._bars:
                self._bars[name] = self._live.add_task(f"  {name}", total=total, note="")
            fields = {} if note is None else {"note": note}
            self._live.update(self._bars[name], completed=done, **fields)  # type: ignore[arg-type]
            if self._phase is not None:
                self._live.advance(self._phase)
            if done == total:
                self._live.remove_task(self._bars.pop(name))
        elif time.monotonic() - self._last_line > PLAIN_LINE_EVERY_S:
            self._line(f"{name}: epoch {done} of {total}" + (f", {note}" if note else "") + self._left)

    def _end_run(self, event: RunEnded) -> None:
        run = event.record
        if run.run in self._bars and self._live is not None:
            self._live.remove_task(self._bars.pop(run.run))
        if event.reused and self._live is not None and self._phase is not None:
            self._live.advance(self._phase, run.spent_epochs)
        if run.val_top1 is not None and run.until is None:
            name = run.params.teacher or "no teacher"
            self._best_of[name] = max(run.val_top1, self._best_of.get(name, 0.0))
        if not run.run.startswith("trials/") or run.state == "failed":
            self._line(_run_line(run, event))

    def _show_best(self) -> None:
        """Show the best accuracy so far by teacher, on a terminal; plain lines name each accuracy."""
        if self._live is None or not self._best_of:
            return
        ranked = sorted(self._best_of.items(), key=lambda item: -item[1])
        text = "best so far (val %): " + ", ".join(f"{name} {percent(score)}" for name, score in ranked)
        self._live.best = text

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        if self._live is not None:
            self._live.console.print(Text(text))
        else:
            self._console.print(Text(f"{time.strftime('%H:%M:%S')} {text}"))


def _run_line(run: RunResult, event: RunEnded) -> str:
    if run.state == "failed":
        return f"{run.run}: failed: {run.error}"
    duration = "found" if event.reused else f"{event.wall_s:.1f} s"
    return f"{run.run}: {run.last_epoch} epochs, val {percent(run.val_top1)} %, {duration}"


def _trial_line(trial: TrialRecord) -> str:
    score = f" {percent(trial.full.val_top1)} %" if trial.state == "complete" and trial.full else ""
    state = f"{trial.state}: {trial.reason}" if trial.reason else f"{trial.state}{score}"
    return f"#{trial.number} {described(trial.params)}  {state}"

"""Print results to stdout, and notes, errors and progress to stderr.

Progress is a live display on a terminal and in a notebook, else plain lines with time stamps.
"""

import importlib.util
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, TypeVar

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from autodistill.errors import AutodistillError
from autodistill.formatting import about, plural, recipe, run_words
from autodistill.records import (
    EpochEvent,
    Event,
    Note,
    Phase,
    PhaseStarted,
    RunEnded,
    RunResult,
    TaskProgress,
    TimeLeft,
    TrialEnded,
    TrialParams,
    TrialRecord,
)

T = TypeVar("T")

WIDE = 1000
"""Columns of output that is no terminal: lines are not wrapped."""
PHASES: dict[Phase, str] = {
    "teachers": "training the teachers",
    "profiles": "comparing the teachers",
    "tuning": "settings of each method and teacher",
    "reruns": "reruns of the leaders",
    "confirm": "confirm runs",
    "audit": "audit of pruned trials",
}
"""What a study does in a phase, for the live display, where the phase's name does not say it."""
REDRAWN_EVERY_S = 0.1
"""Seconds between two drawings of the live display, as Rich has it by default."""
PLAIN_LINE_EVERY_S = 30.0
"""Seconds between two lines about running tasks, without a terminal."""
SHOWN_AFTER_S = 1.0
"""Decoding is shown after this time: a shorter message could not be read."""


def out() -> Console:
    """Return the console for results: stdout."""
    return _console(stderr=False)


def err() -> Console:
    """Return the console for progress and notes: stderr, or the output of a notebook's cell."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_jupyter and not console.file.isatty():
        console.width = WIDE
    return console


def _is_live(console: Console) -> bool:
    """Return whether a display can be redrawn: on a terminal, and in a notebook that has ipywidgets."""
    return console.is_terminal or (console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None)


def show_error(error: AutodistillError) -> None:
    console = err()
    console.print(Text.assemble(("error: ", "bold red"), error.message))
    if error.hint:
        console.print(Text.assemble(("hint: ", "bold"), error.hint))


def show_note(text: str) -> None:
    err().print(Text(text))


def show_json(document: object) -> None:
    print(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False))


def show_text(text: str) -> None:
    """Print a line to stdout. Text of users is not read as Rich markup."""
    out().print(Text(text))


def show_rows(title: str, columns: Mapping[str, Callable[[T], object]], records: Iterable[T]) -> None:
    """Print a table with a row for each record; `columns` compute its cells."""
    show_table(title, list(columns), [[cell(record) for cell in columns.values()] for record in records])


def show_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, to: Console | None = None
) -> None:
    """Print a table to a console, by default stdout; columns whose names start with `>` are right-aligned.

    On a terminal that is too narrow, the last cells of a row are printed below the row with their column names.
    """
    console = to or out()
    names = [Text(column.removeprefix(">")) for column in columns]
    sides: list[Literal["left", "right"]] = ["right" if column.startswith(">") else "left" for column in columns]
    cells = [[Text("-" if cell is None else " ".join(str(cell).split())) for cell in row] for row in rows]
    widths = [max(cell.cell_len for cell in column) for column in zip(names, *cells, strict=True)]
    beside = len(columns)
    if console.is_terminal and any(columns):
        ends = itertools.accumulate(width + 2 for width in widths)
        beside = max(1, sum(end - 2 <= console.width for end in ends))
    console.print(Text(title, style="bold"))
    if beside == len(columns):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(columns))
        for name, side in zip(names, sides, strict=True):
            table.add_column(name, justify=side, overflow="fold")
        for row in cells:
            table.add_row(*row)
        console.print(table)
    else:
        for row in (names, *cells):
            rest = [(name, cell) for name, cell in zip(names[beside:], row[beside:], strict=True) if cell.plain != "-"]
            for cell, side, width in zip(row[:beside], sides, widths, strict=False):
                cell.align(side, width)
            console.print(Text("  ").join(row[:beside]), style="bold")
            if rest and row is not names:
                below = Text("; ".join(f"{name} {cell}" for name, cell in rest))
                console.print(Padding(below, (0, 0, 0, widths[0] + 2)))
    console.print()


def percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f}"


def described(params: TrialParams) -> str:
    """Return a configuration on one line: `resnet8  ISATS (target ratio 1.67), soft weight 0.5`."""
    return recipe(params) if params.teacher is None else f"{params.teacher}  {recipe(params)}"


class Decoding:
    """Shows how many images are decoded, if decoding takes longer than `SHOWN_AFTER_S`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet, self._console = quiet, err()
        columns = (TextColumn("decoding images"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
        self._live = Progress(*columns, console=self._console, transient=True, disable=not _is_live(self._console))
        self._bar: TaskID | None = None
        self._next: float | None = None

    def __enter__(self) -> "Decoding":
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def progress(self, done: int, total: int) -> None:
        """Show that `done` of `total` images are decoded."""
        now = time.monotonic()
        if self._next is None:  # the time starts with the first image, not with the imports before it
            self._next = now + SHOWN_AFTER_S
        if self._quiet or now < self._next:
            return
        if self._live.disable:
            show_note(f"{time.strftime('%H:%M:%S')} decoding images: {done:,} of {total:,}")
            self._next = now + PLAIN_LINE_EVERY_S
            return
        if self._bar is None:
            self._bar = self._live.add_task("", total=total)
            self._live.start()
        self._live.update(self._bar, completed=done, total=total)

    def say(self, text: str) -> None:
        """Show a warning about the image cache."""
        if not self._quiet:
            show_note(f"warning: {text}")


class EpochsDone(ProgressColumn):
    """The number of epochs that are done, where a row counts epochs."""

    def render(self, task: Task) -> Text:
        """Return `3/20 epochs`, or nothing."""
        return Text(f"{int(task.completed)}/{int(task.total)} epochs" if task.total else "")


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
        self._live = StudyProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            EpochsDone(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            transient=True,
            disable=quiet or not _is_live(self._console),
            # Rich's own thread redraws while a line is on its way to the terminal, and then writes over it.
            auto_refresh=False,
        )
        self._drawing, self._ended = threading.RLock(), threading.Event()
        self._clock = threading.Thread(target=self._redraw, daemon=True)
        self._bars: dict[str, TaskID] = {}
        self._phase: TaskID | None = None
        self._best_of: dict[str, float] = {}
        """Best validation accuracy of full runs, by teacher."""
        self._last_line = time.monotonic()
        self._left = ""
        """Estimated time until the end of the study."""

    def __enter__(self) -> "Display":
        if not self._live.disable:
            self._live.start()
            self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._clock.is_alive():
            self._clock.join()
        self._live.stop()

    def _redraw(self) -> None:
        """Redraw the bars and their clocks until the display ends."""
        while not self._ended.wait(REDRAWN_EVERY_S):
            with self._drawing:
                self._live.refresh()

    def show(self, event: Event) -> None:
        """Show one event."""
        if not self._quiet:
            with self._drawing:
                self._show(event)

    def _show(self, event: Event) -> None:
        match event:
            case PhaseStarted():
                self._start_phase(event)
            case EpochEvent(record=epoch):
                note = None if epoch.val_top1 is None else f"val {percent(epoch.val_top1)} %"
                self._advance(event.run, epoch.epoch, event.epochs, note)
            case TaskProgress():
                self._advance(event.task, event.done, event.total, event.text or None)
            case TimeLeft():
                self._left = f"about {about(event.wall_s)} left"
                if self._phase is not None:
                    self._live.update(self._phase, note=self._left)
            case RunEnded():
                self._end_run(event)
            case TrialEnded():
                self._line(_trial_line(event.record))
                self._show_best()
            case Note():
                self._line(f"warning: {event.text}" if event.warning else event.text)

    def _start_phase(self, event: PhaseStarted) -> None:
        if event.runs:
            done = f"{plural(event.runs, 'run')}, {plural(event.epochs, 'epoch')}"
            self._line(f"{event.phase}: {done}{self._and_left}")
        if self._phase is not None:
            self._live.remove_task(self._phase)
        # A bar without a total moves to and fro: something is under way whose length is not known.
        words = PHASES.get(event.phase, event.phase)
        if event.phase == "teachers" and not event.epochs:
            words = "checking the teachers"
        self._phase = self._live.add_task(words, total=event.epochs or None, note=self._left)

    def _advance(self, name: str, done: int, total: int, note: str | None) -> None:
        if self._live.disable:
            if time.monotonic() - self._last_line > PLAIN_LINE_EVERY_S:
                self._line(
                    f"{run_words(name)}: epoch {done} of {total}" + (f", {note}" if note else "") + self._and_left
                )
            return
        if name not in self._bars:
            self._bars[name] = self._live.add_task(f"  {run_words(name)}", total=total, note="")
        if note is not None:
            self._live.update(self._bars[name], note=note)
        self._live.update(self._bars[name], completed=done)
        if self._phase is not None:
            self._live.advance(self._phase)
        if done == total:
            self._live.remove_task(self._bars.pop(name))

    def _end_run(self, event: RunEnded) -> None:
        run = event.record
        if run.run in self._bars:
            self._live.remove_task(self._bars.pop(run.run))
        if event.reused and self._phase is not None:
            self._live.advance(self._phase, run.spent_epochs)
        if run.val_top1 is not None and run.until is None:
            name = run.params.teacher or "no teacher"
            self._best_of[name] = max(run.val_top1, self._best_of.get(name, 0.0))
        if not run.run.startswith("trials/") or run.state == "failed":
            self._line(_run_line(run, event))

    def _show_best(self) -> None:
        ranked = sorted(self._best_of.items(), key=lambda item: -item[1])
        if ranked:
            scores = ", ".join(f"{name} {percent(score)}" for name, score in ranked)
            self._live.best = f"best so far (val %): {scores}"

    @property
    def _and_left(self) -> str:
        return f", {self._left}" if self._left else ""

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        stamp = f"{time.strftime('%H:%M:%S')} " if self._live.disable else ""
        self._console.print(Text(f"{stamp}{text}"))


def _run_line(run: RunResult, event: RunEnded) -> str:
    if run.state == "failed":
        return f"{run_words(run.run)}: failed: {run.error}"
    duration = f"{event.wall_s:.1f} s"
    if event.reused:
        duration = "found" if event.study else "trained earlier"
    return f"{run_words(run.run)}: {plural(run.last_epoch, 'epoch')}, val {percent(run.val_top1)} %, {duration}"


def _trial_line(trial: TrialRecord) -> str:
    score = f" {percent(trial.full.val_top1)} %" if trial.state == "complete" and trial.full else ""
    state = f"{trial.state}: {trial.reason}" if trial.reason else f"{trial.state}{score}"
    return f"#{trial.number} {described(trial.params)}  {state}"

"""The only place that prints. Results go to stdout, everything else to stderr."""

import itertools
import json
import sys
import time
from collections.abc import Generator, Iterable, Sequence
from types import TracebackType
from typing import TypeVar

from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from autodistill.errors import AutodistillError
from autodistill.formatting import about, recipe
from autodistill.records import (
    EpochEvent,
    Event,
    Note,
    PhaseStarted,
    RunEnded,
    RunRecord,
    TaskProgress,
    TimeLeft,
    TrialEnded,
    TrialParams,
)

T = TypeVar("T")

PLAIN_LINE_EVERY_S = 30.0

SHOWN_AFTER_S = 1.0
"""Decoding that takes less time is not shown: a message would be gone before a user could read it."""

WIDE = 1000
"""Columns where nobody looks at a screen: a pipe gets whole lines."""


def out() -> Console:
    """Console of the result."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)


def err() -> Console:
    """Console of progress and notes."""
    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else WIDE)


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
    """Print a line of the result as it is: what came from a user is no markup."""
    out().print(Text(text))


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table to stdout; columns that start with `>` are right-aligned.

    On a terminal that is too narrow for it, a row's last cells stand below the row, with their columns' names.
    """
    console = out()
    names = [Text(column.removeprefix(">")) for column in columns]
    cells = [[Text("-" if cell is None else " ".join(str(cell).split())) for cell in row] for row in rows]
    widths = [max(cell.cell_len for cell in column) for column in zip(names, *cells, strict=True)]
    beside = _fitting(widths, console.width) if console.is_terminal else len(columns)
    console.print(Text(title, style="bold"))
    if beside == len(columns):
        console.print(_table(columns, names, cells))
    else:
        for row in (names, *cells):
            console.print(_table(columns[:beside], row, (), widths=widths))
            rest = [
                (name, cell) for name, cell in zip(names[beside:], row[beside:], strict=True) if cell.plain != "-"
            ]
            if rest and row is not names:
                below = Text("; ".join(f"{name} {cell}" for name, cell in rest))
                console.print(Padding(below, (0, 0, 0, widths[0] + 2)))
    console.print()


def _fitting(widths: Sequence[int], room: int) -> int:
    """How many of the first columns fit beside each other, two spaces between them; at least one."""
    ends = itertools.accumulate(width + 2 for width in widths)
    return max(1, sum(end - 2 <= room for end in ends))


def _table(
    columns: Sequence[str], names: Sequence[Text], rows: Iterable[Sequence[Text]], *, widths: Sequence[int] = ()
) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(columns))
    for column, name, width in itertools.zip_longest(columns, names[: len(columns)], widths[: len(columns)]):
        justify: JustifyMethod = "right" if column.startswith(">") else "left"
        table.add_column(name, justify=justify, overflow="fold", min_width=width)
    for row in rows:
        table.add_row(*row)
    return table


def clear() -> None:
    """Make room for a table that replaces the last one, on a terminal."""
    out().clear()


def percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f}"


def described(params: TrialParams) -> str:
    """A configuration in one line: `resnet8  ISATS (target ratio 1.67), soft weight 0.5`."""
    return recipe(params) if params.teacher is None else f"{params.teacher}  {recipe(params)}"


class Decoding:
    """Shows how many images are decoded, if that takes longer than a second: a bar on a terminal, lines elsewhere."""

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
        if self._next is None:  # what came before the first image, imports among it, is no decoding
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
        """Show a line about images that are kept."""
        if not self._quiet:
            show_note(f"warning: {text}")


class Watch:
    """Shows a study's events: one live display on a terminal, plain lines with time stamps elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = err()
        self._live: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._phase: TaskID | None = None
        self._last_line = time.monotonic()
        self._left = ""

    def __enter__(self) -> "Watch":
        if self._console.is_terminal and not self._quiet:
            self._live = Progress(
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

    def follow(self, events: Generator[Event, None, T]) -> T:
        """Draw events to their end; returns what they return."""
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                found: T = end.value
                return found
            self.show(event)

    def show(self, event: Event) -> None:
        """Draw one event."""
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
            self._tell_left(event)
        elif isinstance(event, RunEnded):
            self._end_run(event)
        elif isinstance(event, TrialEnded | Note):
            self._line(_told(event))

    def _start_phase(self, event: PhaseStarted) -> None:
        if event.runs:
            self._line(f"{event.phase}: {event.runs} runs, {event.epochs} epochs{self._left}")
        if self._live is not None:
            if self._phase is not None:
                self._live.remove_task(self._phase)
            self._phase = self._live.add_task(
                f"{event.phase} (epochs)", total=event.epochs, note=self._left.removeprefix(", ")
            )

    def _tell_left(self, event: TimeLeft) -> None:
        self._left = f", about {about(event.wall_s)} left"
        if self._live is not None and self._phase is not None:
            self._live.update(self._phase, note=self._left.removeprefix(", "))

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
        if not run.run.startswith("trials/") or run.state == "failed":
            self._line(_run_line(run, event))

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        if self._live is not None:
            self._live.console.print(Text(text))
        else:
            self._console.print(Text(f"{time.strftime('%H:%M:%S')} {text}"))


def _run_line(run: RunRecord, event: RunEnded) -> str:
    if run.state == "failed":
        return f"{run.run}: failed: {run.error}"
    kept = "kept" if event.reused else f"{event.wall_s:.1f} s"
    return f"{run.run}: {run.last_epoch} epochs, val {percent(run.val_top1)} %, {kept}"


def _told(event: TrialEnded | Note) -> str:
    if isinstance(event, Note):
        return f"warning: {event.text}" if event.warning else event.text
    trial = event.record
    how = f"{trial.state}: {trial.reason}" if trial.reason else trial.state
    return f"#{trial.number} {described(trial.params)}  {how}"

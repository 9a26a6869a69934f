"""Print results to stdout, and everything else to stderr."""

import itertools
import json
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autodistill.errors import AutodistillError
from autodistill.formatting import recipe
from autodistill.records import TrialParams

WIDE = 1000
"""Columns of output that is no terminal: lines are not wrapped."""


def out() -> Console:
    """Return the console for results: stdout."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)


def err() -> Console:
    """Return the console for progress and notes: stderr."""
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
    """Print a line to stdout. Text of users is not read as Rich markup."""
    out().print(Text(text))


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table to stdout; columns whose names start with `>` are right-aligned.

    On a terminal that is too narrow, the last cells of a row are printed below the row with their column names.
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
            rest = [(name, cell) for name, cell in zip(names[beside:], row[beside:], strict=True) if cell.plain != "-"]
            if rest and row is not names:
                below = Text("; ".join(f"{name} {cell}" for name, cell in rest))
                console.print(Padding(below, (0, 0, 0, widths[0] + 2)))
    console.print()


def _fitting(widths: Sequence[int], room: int) -> int:
    """Return how many of the first columns fit into `room` with two spaces between them; at least 1."""
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
    """Clear the screen, on a terminal."""
    out().clear()


def percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f}"


def described(params: TrialParams) -> str:
    """Return a configuration on one line: `resnet8  ISATS (target ratio 1.67), soft weight 0.5`."""
    return recipe(params) if params.teacher is None else f"{params.teacher}  {recipe(params)}"

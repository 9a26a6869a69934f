"""Building blocks of report sections: tables and figures as plain data, and lookups that sections share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np

from autodistill import stats
from autodistill.formatting import interval, maybe, plural, short
from autodistill.records import InspectionRecord, Recommendation, RunResult, StudyRecord
from autodistill.stats.verdict import recommend

MAX_ROWS = 100

T = TypeVar("T")
Mark = Literal["", "pick", "baseline"]


@dataclass(frozen=True)
class Column:
    label: str
    number: bool = False
    long: bool = False
    """Holds running text, which needs a minimum width."""


@dataclass(frozen=True)
class Cell:
    text: str
    below: str = ""
    """A second, smaller line."""


@dataclass(frozen=True)
class Row:
    """A table row; its first cell is the row's header."""

    cells: tuple[Cell, ...]
    mark: Mark = ""


@dataclass(frozen=True)
class Table:
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A chart with its text."""

    name: str
    """Name of its file in `charts/`."""
    finding: str
    """What the chart shows, in one sentence."""
    alt: str
    """Alternative text for readers who cannot see the chart."""
    table: Table
    """The chart's numbers."""
    draw: Callable[[], bytes] = field(compare=False)
    in_markdown: bool = False
    """Whether markdown shows the numbers too."""


@dataclass(frozen=True)
class Section:
    """The content of a section, in the order in which the templates show it. An empty section is false, and not shown.

    `nav` and `folded` say how the heading is shown.
    """

    heading: str = ""
    text: str = ""
    points: tuple[Any, ...] = ()
    """Items of a list: texts, or pairs of a claim and what was found."""
    terms: tuple[tuple[str, str], ...] = ()
    table: Table | None = None
    figure: Figure | None = None
    tables: tuple[Table, ...] = ()
    """Further tables; those without rows are not shown."""
    code: str = ""
    """Text as it is, which markdown leaves out."""
    note: str = ""
    link: str = ""
    """Path of the page with the full report."""
    parts: tuple["Section", ...] = ()
    nav: str = ""
    """A shorter heading, for the list of sections."""
    folded: bool = False
    """Whether the page shows the heading alone until a reader opens the section."""

    def __bool__(self) -> bool:
        return self != Section()


@dataclass(frozen=True)
class Answer:
    """The head of a report."""

    verdict: str
    headline: str
    sentence: str
    facts: tuple[tuple[str, str, str], ...]
    """Label, value and small line."""


def table(caption: str, columns: Sequence[str | Column], rows: Iterable[Row], note: str = "") -> Table:
    """Return a table; `>` before a column's label marks numbers."""
    found = (one if isinstance(one, Column) else Column(one.removeprefix(">"), one.startswith(">")) for one in columns)
    return Table(caption, tuple(found), tuple(rows), note)


def row(*texts: str | Cell, mark: Mark = "") -> Row:
    return Row(tuple(text if isinstance(text, Cell) else Cell(text) for text in texts), mark)


def cut_note(shown: Sequence[object], total: int, noun: str) -> str:
    """Return the note under a list that was cut; empty if it is whole."""
    return "" if len(shown) == total else f"{len(shown)} of {total:,} {noun} shown; the rest is in study.json."


def spread_out(items: Sequence[T], most: int) -> list[T]:
    """Return at most `most` items, evenly spaced along the sequence, with both ends."""
    if len(items) <= most:
        return list(items)
    return [items[round(step * (len(items) - 1) / (most - 1))] for step in range(most)]


def setting_name(name: str) -> str:
    """Return the name of a setting as it is shown."""
    return short(name.replace("_", " "))


def teacher_names(record: StudyRecord | InspectionRecord) -> tuple[str, ...]:
    """Return the teachers in the study's order, which fixes their colours and markers in all charts."""
    return tuple(teacher.name for teacher in record.teachers)


def verdict_of(record: StudyRecord) -> Recommendation:
    return record.recommendation or recommend(record)


def plain_kd_confirmed(record: StudyRecord) -> bool:
    """Return whether plain KD is its teacher's finalist."""
    kd = record.plain_kd
    return kd is not None and any(one.params == kd.params for one in record.finalists)


def mean_test_top1(runs: Iterable[RunResult]) -> float | None:
    """Return the mean test accuracy of the runs that have one; None without any."""
    return stats.mean(run.test_top1 for run in runs)


def accuracy_cell(accuracy: float | None, low: float | None, high: float | None, seeds: int) -> Cell:
    """Return the cell of a mean test accuracy with its interval and its number of seeds."""
    below = interval(low, high, lambda value: f"{100 * value:.1f}", enough=seeds > 1)
    return Cell(maybe(accuracy), f"{below}, {plural(seeds, 'seed')}")


def sampling_note(record: StudyRecord, accuracy: float) -> str:
    """Return the limit that the size of the test set sets."""
    error = stats.accuracy_error(accuracy, images=record.data.test)
    return (
        f"A test set of {record.data.test:,} images has a sampling error of its own: {100 * error:.1f} points "
        "(standard error of one accuracy). The students largely share it, and no interval includes it."
    )


def rank_correlation(x: Sequence[int | float], y: Sequence[int | float]) -> float | None:
    """Return Spearman's rho with mean ranks for ties; None for fewer than three pairs or a constant side."""
    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    sides = np.array((x, y))
    below = (sides[:, :, None] > sides[:, None]).sum(axis=2)
    up_to = (sides[:, :, None] >= sides[:, None]).sum(axis=2)
    return float(np.corrcoef(below + up_to)[0, 1])

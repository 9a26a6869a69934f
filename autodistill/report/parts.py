"""Building blocks of report sections: tables and figures as plain data, and lookups that sections share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from autodistill.formatting import short
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
    """The text of a chart."""

    finding: str
    """What the chart shows, in one sentence."""
    alt: str
    """Alternative text for readers who cannot see the chart."""
    table: Table
    """The chart's numbers."""


@dataclass(frozen=True)
class Fact:
    """A labelled value beside a recommendation."""

    label: str
    value: str
    below: str = ""


def text_columns(*labels: str) -> tuple[Column, ...]:
    return tuple(Column(label) for label in labels)


def number_columns(*labels: str) -> tuple[Column, ...]:
    return tuple(Column(label, number=True) for label in labels)


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
    return "method" if name == "method" else short(name.replace("_", " "))


def teacher_names(record: StudyRecord | InspectionRecord) -> tuple[str, ...]:
    """Return the teachers in the study's order, which fixes their colours and markers in all charts."""
    return tuple(teacher.name for teacher in record.teachers)


def verdict_of(record: StudyRecord) -> Recommendation:
    return record.recommendation or recommend(record)


def score(run: RunResult | None) -> float:
    """Return the validation accuracy for sorting; a run without one sorts last."""
    return -1.0 if run is None or run.val_top1 is None else run.val_top1


def full_runs(record: StudyRecord) -> Iterator[RunResult]:
    """Yield the full runs with a teacher and a score: those of the trials, then plain KD."""
    runs = (*(trial.full for trial in record.trials), record.plain_kd)
    return (run for run in runs if run is not None and run.val_top1 is not None)


def best_full_runs(record: StudyRecord) -> dict[str | None, RunResult]:
    """Return each teacher's best full run, best first; the earlier run wins a tie."""
    best: dict[str | None, RunResult] = {}
    for run in sorted(full_runs(record), key=score, reverse=True):
        best.setdefault(run.params.teacher, run)
    return best


def plain_kd_confirmed(record: StudyRecord) -> bool:
    """Return whether plain KD is its teacher's finalist."""
    kd = record.plain_kd
    return kd is not None and any(one.trial is None and one.params == kd.params for one in record.finalists)

"""What sections are made of: tables and figures as plain data, ready to be placed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from autodistill.records import InspectionRecord, Recommendation, RunRecord, StudyRecord
from autodistill.stats.recommend import recommend

MOST_ROWS = 100


@dataclass(frozen=True)
class Column:
    label: str
    number: bool = False
    long: bool = False
    """Running text that needs room."""


@dataclass(frozen=True)
class Cell:
    text: str
    below: str = ""
    """A second, quieter line."""


@dataclass(frozen=True)
class Row:
    """The first cell heads the row."""

    cells: tuple[Cell, ...]
    mark: Literal["", "pick", "baseline"] = ""


@dataclass(frozen=True)
class Table:
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A chart's words: what it shows in one sentence, a text for those who cannot see it, its numbers."""

    finding: str
    alt: str
    table: Table


def text_columns(*labels: str) -> tuple[Column, ...]:
    return tuple(Column(label) for label in labels)


def number_columns(*labels: str) -> tuple[Column, ...]:
    return tuple(Column(label, number=True) for label in labels)


def row(*texts: str | Cell, mark: Literal["", "pick", "baseline"] = "") -> Row:
    return Row(tuple(text if isinstance(text, Cell) else Cell(text) for text in texts), mark)


def teacher_names(record: StudyRecord | InspectionRecord) -> tuple[str, ...]:
    return tuple(teacher.name for teacher in record.teachers)


def verdict_of(record: StudyRecord) -> Recommendation:
    return record.recommendation or recommend(record)


def full_runs(record: StudyRecord) -> Iterator[RunRecord]:
    """The full runs with a teacher that ended with a score: the searched trials', then plain KD's."""
    runs = (*(trial.full for trial in record.trials), record.plain_kd)
    return (run for run in runs if run is not None and run.val_top1 is not None)


def best_full_runs(record: StudyRecord) -> dict[str | None, RunRecord]:
    """By teacher, best first; the earlier run wins a tie."""
    best: dict[str | None, RunRecord] = {}
    for run in sorted(full_runs(record), key=score, reverse=True):
        best.setdefault(run.params.teacher, run)
    return best


def plain_kd_confirmed(record: StudyRecord) -> bool:
    """Whether plain KD is its teacher's finalist."""
    kd = record.plain_kd
    return kd is not None and any(one.trial is None and one.params == kd.params for one in record.finalists)


def score(run: RunRecord | None) -> float:
    """Validation accuracy for ordering: below all others where there is none."""
    return -1.0 if run is None or run.val_top1 is None else run.val_top1


def shown_of(shown: Sequence[object], total: int, noun: str) -> str:
    """The note under a list that was cut."""
    return "" if len(shown) == total else f"{len(shown)} of {total:,} {noun} shown; the rest is in study.json."
